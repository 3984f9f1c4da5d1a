"""The trust badge's numbers: rounding for a sound bridge, and a gap when the hooked model is another one."""

import pytest
import torch

from probe.model.hooked_gap import trust
from tests.models import ARCHITECTURES, random_lm

TEXT = "mira lives in oslo ."


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_sound_bridge_differs_by_rounding(name: str):
    lm = random_lm(name)
    found = trust(lm, TEXT)
    hooked = lm.bridge(torch.tensor([lm.tokenizer.encode(TEXT)]))
    assert found.gap == pytest.approx(float((hooked - lm.logits(TEXT)).abs().max().detach()), abs=1e-5)
    assert found.gap < 1e-4
    assert found.sound
    assert found.agree
    assert (found.dtype, found.kernel, found.hooked_kernel, found.device) == ("float32", "sdpa", "eager", "cpu")
    assert found.table()["sound"].tolist() == [True]


def test_another_model_behind_the_hooks_is_seen():
    """The badge would be worth nothing if it could not tell."""
    lm = random_lm()
    bridge = lm.bridge
    norm = bridge.original_model.model.norm
    norm.weight = torch.nn.Parameter(norm.weight.detach() * torch.linspace(0.5, 1.5, len(norm.weight)))
    found = trust(lm, TEXT)
    assert found.gap > 0.1
    assert not found.sound


def test_half_precision_and_training_mode_are_named():
    lm = random_lm()
    lm.model.to(torch.bfloat16).train()
    found = trust(lm, TEXT)
    assert (found.dtype, found.mode) == ("bfloat16", "training")
    assert found.sound
