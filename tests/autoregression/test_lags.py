"""Lag profile and effective order: models trained on chains show the chain, and every number has a slow twin."""

from itertools import islice

import numpy as np
import pytest
import torch

from probe.autoregression.lags import effective_order, jacobian_profile, lag_profile
from probe.errors import ConfigError, DataError
from probe.logits.lens import kl
from probe.model.lm import LM
from probe.world import of
from probe.world.bayes import markov_predictive
from tests.in_context.markov import Trained, influence, trained
from tests.models import ARCHITECTURES, random_lm
from tests.places import SAMPLES

TEXTS = ["mira lives in oslo . where does mira", "the cat is in the dog"]


@pytest.fixture(scope="session")
def first() -> Trained:
    return trained(order=1, steps=220)


@pytest.fixture(scope="session")
def second() -> Trained:
    return trained(order=2, steps=900)


def test_a_model_of_a_chain_of_order_one_has_order_one(first: Trained):
    found = effective_order(first.lm, first.texts, longest=6, positions=8)
    assert (found.order, found.certain) == (1, 1)
    assert found.kl.max() < 0.005


@pytest.mark.slow
def test_a_model_of_a_chain_of_order_two_needs_both_lags(second: Trained):
    found = effective_order(second.lm, second.texts, longest=6, positions=8)
    assert (found.order, found.certain) == (2, 2)
    assert found.low[0] > 0.2
    assert found.high[1] < 0.01


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_profile_is_that_of_the_chain_and_ends_with_it(request: pytest.FixtureRequest, order: int):
    """Within 10 % of the chain's exact influence at its lags, under 1 % of it beyond."""
    chain: Trained = request.getfixturevalue(("first", "second")[order - 1])
    found = lag_profile(chain.lm, chain.texts, lags=6, resamples=24)
    readings = found.readings[found.readings["position"] >= order]
    measured = readings.groupby("lag")["influence"].mean().to_numpy()
    exact = np.array([influence(chain.transitions, chain.texts, lag) for lag in range(6)])
    assert exact[:order].min() > 0.3
    assert (exact[order:] == 0).all()
    np.testing.assert_allclose(measured[:order], exact[:order], rtol=0.1)
    assert measured[order:].max() < 0.01 * exact[:order].min()
    slope = jacobian_profile(chain.lm, chain.texts, lags=6, positions=4)
    assert slope.influence[order:].max() < 0.5 * slope.influence[:order].min()


@pytest.mark.slow
def test_a_model_of_fresh_chains_remembers_as_long_as_bayes_does():
    """The sample run `icl` reads chains of order 1 whose rows are unknown: the exact predictor counts, far back."""
    lm = LM.load(SAMPLES / "icl")
    documents = list(islice(of(lm).documents(1), 24))
    found = effective_order(lm, [document.text for document in documents], longest=90, positions=10, keep=4)
    readings = found.readings[found.readings["m"].isin([1, 8, 32, 64])]
    exact = []
    for row in readings.itertuples():
        states = documents[row.text].meta["states"][: row.position - 3]  # after "<bos> chain 1 :"
        p, q = (markov_predictive(part, 4, 1)[-1] for part in (states, states[-row.m :]))
        exact.append((p * np.log(p / q)).sum())
    means = readings.assign(exact=exact).groupby("m")[["kl", "exact"]].mean()
    np.testing.assert_allclose(means["kl"], means["exact"], rtol=0.15)
    assert 50 < found.order < 80  # the chain's own order is 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_resampling_is_that_of_a_slow_loop(name: str):
    lm = random_lm(name)
    found = lag_profile(lm, TEXTS, lags=3, resamples=2, pool=[9])
    rows = [lm.tokenizer.encode(text) for text in TEXTS]
    slow = {}
    for text, ids in enumerate(rows):
        for t in range(1, len(ids)):
            for k in range(3):
                if t - k < 1:
                    continue  # the beginning token stays
                changed = ids[: t + 1]
                changed[t - k] = 9
                p, q = (lm.logits([row]).detach()[0, -1].log_softmax(-1) for row in (ids[: t + 1], changed))
                slow[text, t, k] = float((p.exp() * (p - q)).sum())
    rows_found = found.readings.set_index(["text", "position", "lag"])["influence"].to_dict()
    assert rows_found.keys() == slow.keys()
    np.testing.assert_allclose([rows_found[key] for key in slow], list(slow.values()), atol=1e-4)
    by_text = [[value for (b, _, k), value in slow.items() if (b, k) == (text, 1)] for text in (0, 1)]
    assert found.influence[1] == pytest.approx(np.mean([np.mean(values) for values in by_text]), abs=1e-4)
    assert found.n_readings.tolist() == [14, 12, 10]
    assert found.n_texts.tolist() == [2, 2, 2]
    assert np.isnan([found.low, found.high]).all()  # of two texts nothing is known about others
    more = lag_profile(lm, [*TEXTS] * 4, lags=3, resamples=2, pool=[9])
    assert (more.low < more.influence).all()
    assert (more.influence < more.high).all()


@pytest.mark.parametrize("pool", ["unigram", "vocabulary"])
def test_draws_come_from_the_pool(pool: str):
    """The mean over many draws is the expectation over the pool, written out."""
    lm = random_lm()
    ids = lm.tokenizer.encode("the cat is the cat")
    found = lag_profile(lm, ids, lags=1, resamples=600, pool=pool, seed=3)
    clean = lm.logits([ids]).detach()[0].log_softmax(-1)
    special = set(lm.tokenizer.all_special_ids)
    drawn = ids[1:] if pool == "unigram" else [i for i in range(len(lm.tokenizer)) if i not in special]
    for reading in found.readings.itertuples():
        values = []
        for token in drawn:
            changed = [*ids]
            changed[reading.position] = token
            row = lm.logits([changed]).detach()[0, reading.position].log_softmax(-1)
            values.append(float(kl(clean[reading.position], row)))
        assert reading.influence == pytest.approx(np.mean(values), abs=4 * np.std(values) / 600**0.5)
        assert np.std(values) > 0.1


@pytest.mark.parametrize("of", ["probabilities", "logits"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_jacobian_is_that_of_finite_differences(name: str, of: str):
    lm = random_lm(name)
    lm.model.double()
    ids = lm.tokenizer.encode("mira lives in oslo")
    found = jacobian_profile(lm, ids, lags=4, of=of)
    embedding = lm.model.get_input_embeddings()(torch.tensor(ids)).detach()
    step = 1e-3  # the norms of Llama and Qwen3 compute in single precision
    squares = {}
    for s in range(1, len(ids)):
        moved = embedding + step * torch.stack([torch.eye(32)[[i] * len(ids)] for i in range(32)]) * (
            torch.arange(len(ids)) == s
        ).view(1, -1, 1)
        back = 2 * embedding - moved
        with torch.no_grad():
            up, down = (lm.model(inputs_embeds=rows).logits for rows in (moved, back))
        if of == "probabilities":
            up, down = up.softmax(-1), down.softmax(-1)
        slope = ((up - down) / (2 * step)).pow(2).sum((0, 2))
        squares |= {(t, t - s): float(slope[t]) for t in range(s, len(ids)) if t - s < 4}
    rows = found.readings.set_index(["position", "lag"])["influence"].to_dict()
    assert rows.keys() == squares.keys()
    np.testing.assert_allclose([rows[key] for key in squares], list(squares.values()), rtol=2e-3)
    mean = np.mean([value for (_, k), value in squares.items() if k == 1])
    assert found.influence[1] == pytest.approx(mean**0.5, rel=2e-3)


def test_random_directions_estimate_the_whole_jacobian():
    lm = random_lm()
    exact = jacobian_profile(lm, TEXTS, lags=3)
    found = jacobian_profile(lm, TEXTS, lags=3, projections=200)
    np.testing.assert_allclose(found.influence, exact.influence, rtol=0.1)
    assert not np.allclose(found.influence, exact.influence, rtol=1e-6)


@pytest.mark.parametrize("keep", [None, 0, 3])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_order_is_that_of_a_slow_loop(name: str, keep: int | None):
    lm = random_lm(name)
    found = effective_order(lm, TEXTS, longest=4, keep=keep, epsilon=0.3)
    rows, first = [lm.tokenizer.encode(text) for text in TEXTS], 1 if keep is None else keep
    for m in range(1, 5):
        means = []
        for ids in rows:
            values = []
            for t in range(m + first, len(ids)):
                cut = [*ids[:first], *ids[t + 1 - m : t + 1]]
                p, q = (lm.logits([row]).detach()[0, -1].log_softmax(-1) for row in (ids[: t + 1], cut))
                values.append(float(kl(p, q)))
            means += [np.mean(values)] if values else []
        assert found.kl[m - 1] == pytest.approx(np.mean(means), abs=1e-4)
        assert found.n_readings[m - 1] == sum(max(0, len(ids) - first - m) for ids in rows)
    for epsilon, judged in ((0.3, found), (1.0, found.at(1.0)), (100.0, found.at(100.0))):
        below = [m for m in range(1, 5) if found.kl[m - 1] <= epsilon]
        assert (judged.epsilon, judged.order) == (epsilon, below[0] if below else None)


def test_without_attention_only_the_last_token_counts():
    """A truth by construction, inside hooks: blocks that cannot look back are of order one."""
    lm = random_lm()
    silent = [(f"blocks.{block}.hook_attn_out", lambda tensor, hook: tensor * 0) for block in range(2)]
    with lm.hooks(silent):
        order = effective_order(lm, TEXTS, longest=3)
        profiles = lag_profile(lm, TEXTS, lags=3), jacobian_profile(lm, TEXTS, lags=3)
    assert order.order == 1
    assert order.kl.max() < 1e-6
    for profile in profiles:
        assert profile.influence[0] > 0.1
        assert profile.influence[1:].max() < 1e-6


def test_batches_and_chosen_positions_change_nothing(monkeypatch: pytest.MonkeyPatch):
    lm = random_lm()
    whole = lag_profile(lm, TEXTS, lags=4), jacobian_profile(lm, TEXTS, lags=4), effective_order(lm, TEXTS, longest=4)
    monkeypatch.setattr("probe.autoregression.lags.ROWS", 3)
    parts = lag_profile(lm, TEXTS, lags=4), jacobian_profile(lm, TEXTS, lags=4), effective_order(lm, TEXTS, longest=4)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a.readings.to_numpy(), b.readings.to_numpy(), rtol=1e-4, atol=1e-6)
    few = jacobian_profile(lm, TEXTS, lags=4, positions=2, seed=5).readings
    assert few.groupby("text")["position"].nunique().tolist() == [2, 2]
    kept = few.merge(whole[1].readings, on=["text", "position", "lag"])
    assert len(kept) == len(few)
    np.testing.assert_allclose(kept["influence_x"], kept["influence_y"], rtol=1e-4)


def test_kept_tokens_are_no_sources():
    lm = random_lm()
    for found in (lag_profile(lm, TEXTS[0], lags=9, keep=4), jacobian_profile(lm, TEXTS[0], lags=9, keep=4)):
        readings = found.readings
        assert (readings["position"] - readings["lag"]).min() == 4
        assert found.n_readings.tolist() == [5, 4, 3, 2, 1, 0, 0, 0, 0]


def test_one_text_is_averaged_over_positions_and_tables_are_tidy():
    lm = random_lm()
    shares: list[float] = []
    profile = lag_profile(lm, TEXTS[0], lags=12, tick=shares.append)
    order = effective_order(lm, TEXTS[0], longest=12)
    table = profile.table()
    assert list(table["lag"]) == list(range(12))
    assert table["n_readings"].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]
    assert table["influence"].isna().tolist() == [False] * 8 + [True] * 4
    assert np.isnan(table["low"][7])  # one reading tells nothing about its spread
    assert shares == [1.0]
    assert order.table()["m"].tolist() == list(range(1, 13))
    assert order.table()["n_readings"].tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm: lag_profile(lm, []), DataError, "No text"),
        (lambda lm: lag_profile(lm, ["tom", ""]), DataError, "no token"),
        (lambda lm: lag_profile(lm, "tom works", keep=3), DataError, "after the 3 that are kept"),
        (lambda lm: lag_profile(lm, "tom works", keep=-1), ConfigError, "keep = -1"),
        (lambda lm: lag_profile(lm, "tom", pool="all"), ConfigError, "vocabulary"),
        (lambda lm: lag_profile(lm, "tom", pool=[]), DataError, "pool"),
        (lambda lm: lag_profile(lm, "tom", resamples=0), ConfigError, "resamples = 0"),
        (lambda lm: lag_profile(lm, "tom", positions=0), ConfigError, "positions = 0"),
        (lambda lm: jacobian_profile(lm, "tom", of="pi"), ConfigError, "logits"),
        (lambda lm: effective_order(lm, "tom", epsilon=0), ConfigError, "epsilon"),
        (lambda lm: effective_order(lm, "tom"), DataError, "longer"),
    ],
)
def test_what_cannot_be_is_refused_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call(random_lm())


def test_a_scalar_model_has_a_jacobian_and_no_distribution():
    lm = random_lm()
    lm.readout = "reward"
    with pytest.raises(DataError, match="scalar"):
        lag_profile(lm, TEXTS)
    with pytest.raises(DataError, match="scalar"):
        effective_order(lm, TEXTS)
    assert jacobian_profile(lm, TEXTS, of="logits").influence[0] > 0
