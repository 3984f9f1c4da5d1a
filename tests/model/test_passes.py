"""Passes that analyses share: run once, equal to those that are not shared, and never those of another model."""

from collections.abc import Iterator

import pytest
import torch

from probe import LM
from probe.model import passes
from probe.model.hooked_gap import trust
from probe.model.passes import hooked_logits, share_passes
from tests.models import random_lm

TEXT = "mira lives in oslo . tom lives in"
NAMES = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern"]


@pytest.fixture
def lm() -> LM:
    return random_lm()


@pytest.fixture
def runs(lm: LM) -> Iterator[list[str]]:
    """List the passes of the plain and of the hooked model."""
    found, hooked = list[str](), lm.bridge.original_model
    handles = [
        lm.model.register_forward_pre_hook(lambda *given: found.append("plain")),
        hooked.register_forward_pre_hook(lambda *given: found.append("hooked")),
    ]
    yield found
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_a_text_is_read_once_by_the_plain_and_once_by_the_hooked_model(lm: LM, runs: list[str]):
    own, (logits, cache) = lm.logits(TEXT), lm.run_with_cache(TEXT, NAMES)
    runs.clear()
    with share_passes():
        first, again = lm.logits(TEXT), lm.logits(TEXT)
        lm.run_with_cache(TEXT, "blocks.0.attn.hook_z")
        read, found = lm.run_with_cache(TEXT, NAMES)
        checked = trust(lm, TEXT)
    assert runs == ["plain", "hooked"]
    assert torch.equal(first, own)
    assert torch.equal(again, own)
    torch.testing.assert_close(read, logits)
    assert set(found.cache_dict) == set(NAMES)
    for name in NAMES:
        torch.testing.assert_close(found[name], cache[name])
    assert checked == trust(lm, TEXT)


@torch.no_grad()
def test_what_is_handed_out_is_a_copy(lm: LM):
    with share_passes():
        own, (_, cache) = lm.logits(TEXT).clone(), lm.run_with_cache(TEXT, NAMES)
        state = cache[NAMES[0]].clone()
        for _ in range(2):
            lm.logits(TEXT).zero_()
            for tensor in lm.run_with_cache(TEXT, NAMES)[1].cache_dict.values():
                tensor.zero_()
        assert torch.equal(lm.logits(TEXT), own)
        assert torch.equal(lm.run_with_cache(TEXT, NAMES)[1][NAMES[0]], state)


@torch.no_grad()
@pytest.mark.parametrize("through_data", [True, False])
def test_a_changed_model_is_read_again(lm: LM, through_data: bool):
    with share_passes():
        before = lm.logits(TEXT)
        weight = lm.model.get_input_embeddings().weight
        (weight.data if through_data else weight).mul_(2)
        assert not torch.equal(lm.logits(TEXT), before)


def test_passes_with_gradients_under_hooks_and_of_several_texts_are_not_shared(lm: LM, runs: list[str]):
    zero = [("blocks.0.hook_resid_pre", lambda tensor, hook: torch.zeros_like(tensor))]
    with share_passes():
        with torch.no_grad():
            own = lm.logits(TEXT)
            lm.logits([TEXT, TEXT])
            lm.logits([TEXT, TEXT])
            with lm.hooks(zero):
                assert not torch.allclose(lm.logits(TEXT), own)
        lm.logits(TEXT).sum().backward()
    assert runs.count("plain") == 4
    assert hooked_logits(lm, [1, 2]) is None


@torch.no_grad()
def test_the_oldest_texts_make_room(lm: LM, monkeypatch: pytest.MonkeyPatch, runs: list[str]):
    with share_passes():
        size = lm.logits(TEXT).nbytes
        monkeypatch.setattr(passes, "ROOM", size)
        lm.logits(TEXT[: len(TEXT) // 2])
        runs.clear()
        lm.logits(TEXT)
        lm.logits(TEXT)
    assert runs == ["plain"]
