"""Models of different worlds side by side: each keeps its items, and what was not asked alike is never paired."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import probe
import probe.world
from probe import stats
from probe.errors import DataError
from probe.experiments.metrics import (
    COMPARED,
    PAIRS,
    Given,
    Mean,
    Share,
    Statistic,
    differences,
    pair_items,
    summarise,
    unpaired_difference,
)
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import beside, join
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.runs import RunWriter
from probe.stats import Interval
from probe.world import World

pytestmark = pytest.mark.usefixtures("registry")

GAP = list(COMPARED[3:])


def items(n: int, prompts: str, start: int = 0, **columns: Any) -> pd.DataFrame:
    names = [f"q-{i}" for i in range(start, start + n)]
    return pd.DataFrame({"item": names, "prompt": [f"{prompts} {name}" for name in names], **columns})


def compare(metrics: list, ours: pd.DataFrame, theirs: pd.DataFrame, **more: Any) -> pd.DataFrame:
    found = differences(metrics, summarise(metrics, ours), summarise(metrics, theirs), ours, theirs, **more)
    return found.set_index("metric")


def test_independent_shares_have_newcombes_interval():
    """The example of Newcombe 1998, Statistics in Medicine 17:873, table II (a), method 10."""
    found = unpaired_difference(stats.wilson(56, 70), stats.wilson(48, 80))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert unpaired_difference(stats.wilson(0, 10), stats.wilson(0, 10)).low == pytest.approx(-stats.wilson(0, 10).high)


def test_independent_normal_means_have_the_interval_of_the_sum_of_variances():
    gap = unpaired_difference(Interval(1.0, 1.0 - 3.0, 1.0 + 3.0), Interval(0.5, 0.5 - 4.0, 0.5 + 4.0))
    assert gap == pytest.approx((0.5, 0.5 - 5.0, 0.5 + 5.0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["share", "mean", "units"])
def test_unpaired_intervals_cover(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Two models on different items of different numbers: nominal 95 %, over 1,500 pairs of data sets."""
    monkeypatch.setattr(stats, "bootstrap_mean", partial(stats.bootstrap_mean, resamples=400))
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(1500):
        ends, truth = [], 0.0
        for sign, n, level in ((1, 120, 0.3), (-1, 80, 0.55)):
            if kind == "share":
                ends.append(stats.wilson(int(rng.binomial(n, level)), n))
                truth += sign * level
            elif kind == "mean":
                ends.append(stats.bootstrap_mean(rng.gamma(2.0, level, n), resamples=400))
                truth += sign * 2.0 * level
            else:
                prompts = np.repeat(np.arange(n), 2)
                table = pd.DataFrame(
                    {"prompt": prompts, "x": rng.normal(level, 1, n)[prompts] + rng.normal(size=2 * n)}
                )
                ends.append(Mean("x", unit="prompt").estimate(table, 0))
                truth += sign * level
        low, high = unpaired_difference(*ends)[1:]
        held += low <= truth <= high
    assert 0.93 <= held / 1500 <= 0.97


def test_what_was_asked_alike_is_paired_as_ever():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    ours = items(80, "w", x=x, right=rng.integers(0, 2, 80))
    theirs = items(80, "w", x=x + rng.normal(1, 0.01, 80), right=rng.integers(0, 2, 80)).sample(frac=1, random_state=0)
    known = [Mean("x"), Share("right")]
    found = compare(known, ours, theirs, by_prompt=True)
    pd.testing.assert_frame_equal(found.drop(columns=PAIRS), compare(known, ours, theirs))
    assert found[PAIRS].tolist() == [80, 80]
    assert found.loc["x", "difference_high"] - found.loc["x", "difference_low"] < 0.02


def test_other_prompts_under_equal_names_are_never_paired():
    """Values that agree item by item would make a paired difference certain, which nothing warrants here."""
    rng = np.random.default_rng(1)
    x, right = rng.normal(size=80), rng.integers(0, 2, 80)
    ours, theirs = items(80, "a", x=x, right=right), items(80, "b", x=x + 1e-9 * rng.normal(size=80), right=right)
    known = [Mean("x"), Share("right"), Statistic("most", lambda c: float(np.median(c["x"])), ("x",))]
    assert (compare(known, ours, theirs).loc[["x"], GAP].abs() < 1e-8).all(axis=None)  # what must not be said
    found = compare(known, ours, theirs, by_prompt=True)
    assert (found[PAIRS] == 0).all()
    for name, row in found.iterrows():
        own = Interval(*(float(row[column]) for column in ("value", "ci_low", "ci_high")))
        base = Interval(*(float(row[column]) for column in COMPARED[:3]))
        assert tuple(row[GAP]) == pytest.approx(tuple(unpaired_difference(own, base))), name
        assert row["difference_high"] - row["difference_low"] > 1.3 * (own.high - own.low)


@pytest.mark.parametrize("case", ["some", "names", "no prompt", "answers"])
def test_whatever_is_not_wholly_alike_is_compared_unpaired_over_all_items(case: str):
    rng = np.random.default_rng(2)
    ours, theirs = items(50, "a", x=rng.normal(size=50)), items(60, "a", x=rng.normal(size=60))
    if case == "some":
        theirs.loc[7, "prompt"] = "b"
    elif case == "names":
        theirs["item"] += " of another world"
    elif case == "no prompt":
        theirs.loc[7, "prompt"] = ours.loc[7, "prompt"] = None
    else:
        ours["expected"], theirs["expected"] = "1", "2"
    found = compare([Mean("x")], ours, theirs, by_prompt=True).loc["x"]
    assert found[PAIRS] == 0
    assert found["difference"] == pytest.approx(ours["x"].mean() - theirs["x"].mean())
    assert found["difference_low"] < found["difference"] < found["difference_high"]


def test_each_metric_is_paired_or_not_for_itself():
    ours = pd.concat([items(20, "a", kind="map", x=1.0), items(20, "a", 20, kind="rule", x=1.0)])
    theirs = pd.concat([items(20, "a", kind="map", x=1.0), items(20, "b", 20, kind="rule", x=1.0)])
    known = [Mean(kind, "x", where={"kind": kind}) for kind in ("map", "rule")] + [Mean("both", "x")]
    assert compare(known, ours, theirs, by_prompt=True)[PAIRS].tolist() == [20, 0, 0]
    known = [*known, Mean("absent", "y")]
    given = [Given("read", 0.5)]
    one, two = summarise(known, ours.assign(y=1.0), given), summarise(known, theirs, given)
    found = differences(known, one, two, ours.assign(y=1.0), theirs, by_prompt=True).set_index("metric")
    assert np.isnan(found.loc[["read", "absent"], PAIRS]).all()
    assert found.loc["read", "difference"] == 0
    assert np.isnan(found.loc["absent", "difference"])


def test_items_of_one_name_that_ask_different_things_are_told_apart():
    a = items(2, "w", model="a")
    b = items(2, "w", model="b")
    c = items(2, "w", model="c", expected="1")
    c.loc[1, "prompt"] = "other"
    c.loc[0, "expected"] = None
    found = beside([a, b, c], across_worlds=True)
    assert found["item"].tolist() == ["q-0", "q-1 (a)"] * 2 + ["q-0", "q-1 (c)"]
    ours, theirs = (found[found["model"] == label] for label in ("a", "c"))
    assert list(pair_items(ours, theirs)[0]["item"]) == ["q-0"]
    assert beside([a, b, c], across_worlds=False)["item"].tolist() == ["q-0", "q-1"] * 3


def in_world(folder: Path, seed: int) -> LM:
    """A model of random weights in a run of a world of its own."""
    world = World(seed=seed)
    lm = LM.create(ModelConfig(layers=1, width=16, heads=2), world.tokenizer(), seed=seed)
    with RunWriter.create(folder, method="pretrain", config={}, world=world.to_dict()) as run:
        lm.ref, lm.run_dir = str(folder), run.path
    return lm


def test_an_experiment_that_goes_across_worlds(tmp_path: Path):
    @probe.experiment("asks", metrics=[Mean("x"), Mean("same")], across_worlds=True)
    def asks(lm: LM, *, n: int = 12, seed: int = 0) -> pd.DataFrame:
        world = probe.world.of(lm)
        assert world is not None
        own = [item.prompt for item in world.questions("fact", n, seed)]
        rows = [{"item": f"fact-{i}", "prompt": text, "x": float(len(text))} for i, text in enumerate(own)]
        return pd.DataFrame([*rows, {"item": "hello", "prompt": "hello", "same": float(world.seed)}])

    one, two = (in_world(tmp_path / f"w{seed}", seed) for seed in (0, 1))
    result = asks(one, baseline=two)
    joined = join(find_experiment("asks"), [asks(one), asks(two)])
    for found in (result, joined, Result.load(joined.save(tmp_path / "saved"))):
        assert found.models == ["w0", "w1"]
        assert found.value("x", PAIRS) == 0
        assert (found.value("same", PAIRS), found.value("same", "difference")) == (1, -1)
        assert len(found.items) == 26
        assert set(found.items.loc[found.items["item"] == "hello", "model"]) == {"w0", "w1"}
        assert {"fact-0 (w0)", "fact-0 (w1)"} <= set(found.items["item"])
        assert found.meta["world"] is None
        assert len({model["world"] for model in found.meta["models"]} - {None}) == 2
    assert asks(one).meta["world"] == asks(one).meta["models"][0]["world"] == probe.world.of(one).hash
    twice = asks(one, baseline=one)
    assert twice.value("x", PAIRS) == 12
    assert set(twice.items["item"]) == {*(f"fact-{i}" for i in range(12)), "hello"}

    @probe.experiment("at_home")
    def at_home(lm: LM) -> pd.DataFrame:
        return asks(lm).items

    with pytest.raises(DataError, match="different worlds"):
        at_home(one, baseline=two)
