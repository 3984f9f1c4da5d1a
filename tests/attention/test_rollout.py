"""Attention rollout against sums over paths, and its limits."""

from itertools import product

import numpy as np
import pytest

from probe.attention.patterns import attention
from probe.attention.tracing import rollout, rollout_table, value_norms
from probe.errors import ConfigError, DataError
from tests.models import random_lm

TEXT = "mira lives in oslo ."


def test_rollout_is_the_sum_over_all_paths():
    read = attention(random_lm(num_hidden_layers=3), TEXT)
    T = len(read.ids)
    seen = rollout(read, residual=0.3)
    step = [0.3 * np.eye(T) + 0.7 * read.pattern[layer].mean(0) for layer in range(3)]
    for t, s in [(5, 0), (4, 4), (3, 1), (0, 0), (2, 4)]:
        paths = sum(step[2][t, u] * step[1][u, v] * step[0][v, s] for u, v in product(range(T), range(T)))
        assert seen[2, t, s] == pytest.approx(paths, abs=1e-6)
    np.testing.assert_allclose(seen.sum(-1), 1, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(seen, rollout(read.pattern, residual=0.3))


def test_its_limits():
    read = attention(random_lm(), TEXT)
    np.testing.assert_allclose(rollout(read, residual=1.0), np.broadcast_to(np.eye(6), (2, 6, 6)))
    np.testing.assert_allclose(rollout(read, residual=0.0)[0], read.pattern[0].mean(0), atol=1e-6, rtol=1e-4)


def test_weighting_by_values_counts_heads_by_what_they_write():
    lm = random_lm()
    read, norms = attention(lm, TEXT), value_norms(lm, TEXT)
    seen = rollout(read, residual=0.0, value_norms=norms)
    weighted = np.zeros((6, 6))
    for t in range(6):
        lengths = [[read.pattern[0, h, t, s] * norms[0, h, s] for s in range(6)] for h in range(4)]
        weighted[t] = np.sum(lengths, 0) / np.sum(lengths)
    np.testing.assert_allclose(seen[0], weighted, atol=1e-6, rtol=1e-4)
    np.testing.assert_allclose(rollout(read, value_norms=np.full_like(norms, 2.0)), rollout(read), atol=1e-6, rtol=1e-4)
    assert np.abs(rollout(read, value_norms=norms) - rollout(read)).max() > 0.01


def test_its_table_is_tidy():
    read = attention(random_lm(), TEXT)
    seen = rollout(read)
    table = rollout_table(seen, read.tokens)
    assert len(table) == 2 * 21
    row = table[(table["layer"] == 1) & (table["position"] == 4) & (table["source"] == 1)].iloc[0]
    assert (row["token"], row["source_token"], row["share"]) == ("oslo", "mira", seen[1, 4, 1])


def test_bad_requests_are_refused():
    pattern = attention(random_lm(), TEXT).pattern
    with pytest.raises(ConfigError, match="0 to 1"):
        rollout(pattern, residual=1.5)
    with pytest.raises(DataError, match="axes"):
        rollout(pattern[0])
    with pytest.raises(DataError, match="value norms"):
        rollout(pattern, value_norms=np.ones((2, 4, 5)))
