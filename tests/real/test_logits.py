"""Direct attribution and trajectories on SmolLM2: the parts sum to its logits, and single precision is not needed."""

import numpy as np
import pytest
import torch

import probe
from probe.logits.attribution import attribute
from probe.logits.lens import logit_lens
from probe.logits.parts import promoted_tokens, read_parts
from probe.logits.targets import target_of
from tests.real.conftest import CHECKPOINT

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("default"),  # other libraries' notes on real checkpoints are not ours to fix
]
TEXT = "The capital of Norway is Oslo, and the capital of France is"


@torch.no_grad()
def test_the_parts_sum_to_the_logits(lm: probe.LM):
    ids = lm.tokenizer.encode(TEXT)
    own = lm.logits(TEXT)[0]
    for position in (3, len(ids) - 1):
        read = read_parts(lm, ids, position)
        for answer, against in ((" Paris", None), (" Paris", " Oslo")):
            target = target_of(lm, ids, answer, against, position)
            found = attribute(lm, read, target)
            expected = own[position, target.answer] - (own[position, target.against] if against else 0.0)
            assert abs(found.sum - float(expected)) < 1e-3  # of parts that reach 40
            np.testing.assert_allclose(found.sources.sum(-1), found.heads, atol=1e-4)
            np.testing.assert_allclose(found.neurons.sum(-1), found.mlps, atol=1e-3)


@torch.no_grad()
def test_what_is_promoted_is_what_is_attributed(lm: probe.LM):
    ids = lm.tokenizer.encode(TEXT)
    read = read_parts(lm, ids)
    top = promoted_tokens(lm, read, 29, k=3)
    for token, number in zip(top.ids, top.values, strict=True):
        found = attribute(lm, read, target_of(lm, ids, int(token)))
        assert abs(found.mlps[29] - number) < 1e-3


def test_the_answer_appears_late(lm: probe.LM):
    found = logit_lens(lm, TEXT, answer="\u00b7Paris", columns=3)
    assert found.top_tokens[-1, -1, 0] == "\u00b7Paris"
    assert found.answer_ranks[-1, -1, 0] == 0
    assert found.answer_ranks[0, -1, 0] > 100
    assert found.decision_row() > 20


@pytest.mark.filterwarnings("error::probe.model.hooks.HookWarning")
def test_half_precision_adds_up_within_its_rounding(lm: probe.LM):
    half = probe.LM.load(CHECKPOINT, dtype="bfloat16")
    ids = lm.tokenizer.encode(TEXT)
    target = target_of(lm, ids, " Paris", " Oslo")
    exact, rounded = attribute(lm, ids, target), attribute(half, ids, target)
    assert np.corrcoef(exact.heads.ravel(), rounded.heads.ravel())[0, 1] > 0.99
