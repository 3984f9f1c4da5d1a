"""Memorisation ratio and persuasion: against plain loops, coverage, and what contexts that say nothing do."""

import math

import numpy as np
import pandas as pd
import pytest

from probe.errors import DataError
from probe.retrieval import world as conflict
from probe.retrieval.world import persuasion


def table(n: int, seed: int = 0) -> pd.DataFrame:
    """Questions under a contradicting passage, as a model might answer them."""
    rng = np.random.default_rng(seed)
    kept = rng.beta(0.4, 2.0, n)
    followed = (1 - kept) * rng.beta(4, 1, n)
    exposure = rng.choice([1, 2, 64, 300], n)
    known = rng.random(n)
    return pd.DataFrame({"p_learned": kept, "p_context": followed, "exposure": exposure, "p_known": known})


def test_memorisation_ratio_is_the_share_of_remembered_among_both() -> None:
    items = table(50)
    top = bottom = 0.0
    for row in items.itertuples():
        top += row.p_learned
        bottom += row.p_learned + row.p_context
    assert conflict.memorisation_ratio(items["p_learned"], items["p_context"]) == pytest.approx(top / bottom)
    columns = {name: items[name].to_numpy() for name in ("p_learned", "p_context")}
    assert conflict.of_columns(columns) == pytest.approx(top / bottom)
    assert conflict.memorisation_ratio([1, 0, 1, 0], [0, 1, 0, 0]) == pytest.approx(2 / 3)  # answers as zeros and ones
    assert math.isnan(conflict.memorisation_ratio([0, 0], [0, 0]))


def test_memorisation_interval_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions drawn from a population whose ratio is known: 93 to 97 % of the intervals hold it."""
    monkeypatch.setattr(conflict, "RESAMPLES", 500)
    everyone = table(320)
    o, s = everyone["p_learned"].to_numpy(), everyone["p_context"].to_numpy()
    truth = conflict.memorisation_ratio(o, s)
    rng = np.random.default_rng(1)
    held, times = 0, 1500
    for time in range(times):
        drawn = rng.integers(0, len(o), 200)
        low, high = conflict.memorisation_interval(o[drawn], s[drawn], seed=time)[1:]
        held += low <= truth <= high
    assert 0.93 <= held / times <= 0.97


def test_one_question_has_no_interval() -> None:
    value, low, high = conflict.memorisation_interval([0.2], [0.6])
    assert value == pytest.approx(0.25)
    assert math.isnan(low)
    assert math.isnan(high)
    with pytest.raises(DataError, match="one of each for each question"):
        conflict.memorisation_ratio([0.1, 0.2], [0.3])


def test_conflict_curve_is_the_mean_of_each_class() -> None:
    items = table(200)
    curve = conflict.conflict_curve(items)
    assert curve.drop_duplicates("label")["label"].tolist() == ["1", "2", "64\u2013255", "256\u20131023"]
    for label, exposure in (("1", 1), ("256\u20131023", 300)):
        part = items[items["exposure"] == exposure]
        rows = curve[curve["label"] == label].set_index("quantity")
        assert rows.loc["follows", "value"] == pytest.approx(part["p_context"].mean())
        assert rows.loc["keeps", "value"] == pytest.approx(part["p_learned"].mean())
        assert rows.loc["knows", "value"] == pytest.approx(part["p_known"].mean())
        ratio = part["p_learned"].sum() / (part["p_learned"].sum() + part["p_context"].sum())
        assert rows.loc["memorisation", "value"] == pytest.approx(ratio)
        assert (rows["n"] == len(part)).all()
    assert ((curve["ci_low"] <= curve["value"]) & (curve["value"] <= curve["ci_high"])).all()
    assert conflict.conflict_curve(items[:0]).empty


def test_persuasion_is_the_kl_of_plain_loops() -> None:
    rng = np.random.default_rng(2)
    after, before = (np.log(rng.dirichlet(np.ones(7), 5) * rng.uniform(0.5, 1, (5, 1))) for _ in range(2))
    found = persuasion(after, before)
    for row in range(5):
        p, q = ([math.exp(v) for v in values[row]] for values in (after, before))
        p, q = ([v / sum(values) for v in values] for values in (p, q))
        assert found[row] == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert persuasion(after, after) == pytest.approx(np.zeros(5), abs=1e-12)
    # the answers' mass does not count, only how it is spread
    assert persuasion(after - 1, after) == pytest.approx(np.zeros(5), abs=1e-12)
    padded = np.concatenate([after, np.full((5, 2), -np.inf)], axis=1)
    assert persuasion(padded, np.concatenate([before, np.full((5, 2), -np.inf)], axis=1)) == pytest.approx(found)
    with pytest.raises(DataError, match="same answers twice"):
        persuasion(after, before[:, :5])
