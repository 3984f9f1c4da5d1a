"""The best linear autoregression: numpy's least squares, the exact conditional mean of a chain, the model by tokens."""

import numpy as np
import pytest
import torch

from probe.autoregression.linear import cache_size, fit, linear_autoregression
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from tests.models import byte_tokenizer, random_lm, random_reward_model

RNG = np.random.default_rng(0)
VOCABULARY = 12


@pytest.fixture(scope="module")
def lm() -> LM:
    return random_lm("llama", byte_tokenizer())


@pytest.fixture(scope="module")
def chain() -> tuple[np.ndarray, list[list[int]]]:
    """A Markov chain over 12 tokens, and 60 texts of 50 tokens of it."""
    steps = RNG.dirichlet(np.full(VOCABULARY, 0.2), VOCABULARY)
    texts = []
    for _ in range(60):
        row = [int(RNG.integers(VOCABULARY))]
        while len(row) < 50:
            row.append(int(RNG.choice(VOCABULARY, p=steps[row[-1]])))
        texts.append(row)
    return steps, texts


def test_with_many_positions_it_is_least_squares() -> None:
    states = RNG.normal(size=(5000, 6)).astype(np.float32)
    targets = states[:, :3] @ RNG.normal(size=(3, 2)) + 2 + 0.1 * RNG.normal(size=(5000, 2))
    found = fit(states, targets)
    whole, *_ = np.linalg.lstsq(np.column_stack([states, np.ones(len(states))]), targets)
    np.testing.assert_allclose(found.weights, whole[:-1], atol=2e-3)
    np.testing.assert_allclose(found.intercept, whole[-1], atol=2e-3)
    assert found.effective_dimension == pytest.approx(6, rel=0.01)


def test_with_few_positions_the_ridge_keeps_noise_out() -> None:
    states, noise = RNG.normal(size=(40, 30)).astype(np.float32), RNG.normal(size=(40, 1))
    assert fit(states, noise).ridge >= 1
    asked = RNG.normal(size=(500, 30))
    assert np.abs(asked @ fit(states, noise).weights).mean() < 0.5


def test_of_a_chain_one_token_gives_the_conditional_mean(
    lm: LM, chain: tuple[np.ndarray, list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many dimensions as tokens: the linear one is exact there, and equals a model that knows the chain."""
    steps, texts = chain
    logits = torch.full((VOCABULARY, lm.model.config.vocab_size), -torch.inf)
    logits[:, :VOCABULARY] = torch.from_numpy(np.log(steps + 1e-12))
    monkeypatch.setattr(LM, "logits", lambda self, rows, **_: logits[torch.as_tensor(_even(rows))])
    found = linear_autoregression(lm, texts, orders=(1, 3), test=0.3, keep=0)
    embeddings = lm.model.get_input_embeddings().weight.detach().double().numpy()[:VOCABULARY]
    means, stay = steps @ embeddings, np.full(VOCABULARY, 1 / VOCABULARY)
    for _ in range(2000):
        stay = stay @ steps
    spread = stay @ (embeddings**2).sum(1) - ((stay @ embeddings) ** 2).sum()
    left = stay @ (steps @ (embeddings**2).sum(1) - (means**2).sum(1))
    exact = 1 - left / spread
    table = found.table().set_index("m")
    assert table.loc[1, "full"] == pytest.approx(exact, abs=0.05)
    np.testing.assert_allclose(table[["window", "full"]], table.loc[1, "full"], rtol=1e-6)
    assert table.loc[1, "linear"] == pytest.approx(table.loc[1, "full"], abs=0.02)
    assert table.loc[1, "gain_low"] < 0.01
    assert table.loc[3, "linear"] <= table.loc[1, "linear"] + 0.01, "further tokens tell nothing of a chain"
    assert list(table["dimension"]) == [embeddings.shape[1], 3 * embeddings.shape[1]]


def _even(rows: object) -> list[list[int]]:
    lists = [list(row) for row in rows]  # type: ignore[attr-defined]
    longest = max(map(len, lists))
    return [row + [0] * (longest - len(row)) for row in lists]


def test_the_model_is_asked_with_m_tokens_and_with_all(lm: LM) -> None:
    texts = [RNG.integers(5, 60, 9).tolist() for _ in range(6)]
    found = linear_autoregression(lm, texts, orders=(2,), test=0.34, keep=0, seed=3)
    compared = [texts[i] for i in np.random.default_rng(3).permutation(6)[:2]]
    table = lm.model.get_input_embeddings().weight.detach()
    fitted = [texts[i] for i in np.random.default_rng(3).permutation(6)[2:]]
    mean = np.concatenate([table[row[1:]].numpy() for row in fitted]).mean(0)
    for name, cut in (("window", 2), ("full", 99)):
        rest = total = 0.0
        for row in compared:
            for t in range(len(row) - 1):
                pi = lm.logits([row[: t + 1][-cut:]])[0, -1].detach().softmax(-1)
                rest += float(((table[row[t + 1]] - pi @ table) ** 2).sum())
                total += float(((table[row[t + 1]].numpy() - mean) ** 2).sum())
        assert found.table()[name].item() == pytest.approx(1 - rest / total, abs=1e-6)
    assert found.errors["n"].sum() == found.table()["n"].item() == 2 * 8


def test_the_cache_is_what_the_model_keeps(lm: LM) -> None:
    kept = lm.model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    assert cache_size(lm) * 3 == sum(layer.keys.numel() + layer.values.numel() for layer in kept.layers)


def test_what_cannot_be_fitted_is_refused(lm: LM) -> None:
    with pytest.raises(DataError, match="3 texts have 2 tokens or more: give at least 4"):
        linear_autoregression(lm, ["ab"] * 3)
    with pytest.raises(ConfigError, match="test=1"):
        linear_autoregression(lm, ["ab"] * 5, test=1)
    with pytest.raises(ConfigError, match="give 1 or more"):
        linear_autoregression(lm, ["ab"] * 5, orders=(0,))
    with pytest.raises(DataError, match="no distribution over tokens"):
        linear_autoregression(reward_lm(random_reward_model()), ["ab"] * 5)
