"""SmolLM2 on 4,096 tokens: statistics of attention in under 1 GB above the model, where the patterns need 18."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import probe
from probe.attention.long import attention_statistics
from probe.errors import DataError
from probe.model.memory import preflight, require_room
from tests.places import ROOT
from tests.real.conftest import CHECKPOINT

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("default"),  # other libraries' notes on real checkpoints are not ours to fix
]
PATTERNS = [f"blocks.{layer}.attn.hook_pattern" for layer in range(30)]
CHILD = f"""
import json, probe
from benchmarks.long_inputs import peak
from probe.attention.long import attention_statistics
lm = probe.LM.load({str(CHECKPOINT)!r})
ids = [number % 40_000 + 100 for number in range(0, 4096 * 37, 37)]
attention_statistics(lm, ids[:8])
found = []
size = peak(lambda: found.append(attention_statistics(lm, ids)))
print(json.dumps(size | {{"worst": float(abs(found[0].sums - 1).max())}}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel gives no peak that can be reset")
def test_a_long_text_needs_under_one_gigabyte_above_the_model():
    said = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(said.stdout.splitlines()[-1])
    assert measured["peak"] < 10**9
    assert measured["worst"] < 1e-4


def test_the_patterns_alone_would_need_tens(lm: probe.LM):
    plan = preflight(lm, 4096, PATTERNS, budget=4 * 10**9)
    assert plan.cache == 30 * 9 * 4096**2 * 4
    assert plan.logits == 4096 * 49_152 * 4
    with pytest.raises(DataError, match="`attention_statistics`"):
        require_room(lm, [100] * 4096, PATTERNS, budget=4 * 10**9)


def test_streamed_statistics_are_those_of_the_patterns(lm: probe.LM):
    ids = lm.tokenizer.encode("The capital of France is Paris, and the capital of Italy is Rome. " * 8)
    _, cache = lm.run_with_cache([ids], PATTERNS)
    weights = torch.stack([cache[name][0] for name in PATTERNS]).double()
    seen = attention_statistics(lm, ids, block=50)
    back = torch.arange(len(ids))[:, None] - torch.arange(len(ids))
    np.testing.assert_allclose(seen.entropy, torch.special.entr(weights).sum(-1), atol=1e-4)
    np.testing.assert_allclose(seen.sink, weights[..., 0], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(seen.distance, (weights * back).sum(-1), atol=1e-3)
    np.testing.assert_allclose(seen.previous[..., 1:], weights.diagonal(-1, -2, -1), atol=1e-5, rtol=1e-4)
