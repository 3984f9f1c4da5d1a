"""The hallucination experiment in the world: against `evaluate`, against samples, and with models that show nothing."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy

import probe
from probe import stats
from probe import stats as resampling
from probe.errors import DataError
from probe.experiments.metrics import COLUMNS, COMPARED
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import join, perform
from probe.hallucination.world import (
    KINDS,
    ask,
    asked_table,
    enumerate_prompts,
    exact_columns,
    exposure_table,
    judge_answers,
)
from probe.model.lm import LM
from probe.plotting.intervals import percent
from probe.plotting.theme import DARK, apply
from probe.rewards.answers import AnswerSet
from probe.rewards.evaluation import MEASURES, Measure, evaluate
from probe.world import World, WorldConfig, of
from probe.world.vocabulary import ABSTENTION
from tests.places import SAMPLES

N = 48


@pytest.fixture(scope="module", autouse=True)
def fewer_resamples() -> Iterator[None]:
    """Intervals of the summaries need not be fine here; their coverage is tested where they are made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def result(base: LM) -> Result:
    return probe.run_experiment("hallucination", base, n=N, seed=3, samples=6, shuffles=20)


def test_sampled_shares_are_those_of_evaluate(base: LM, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("accuracy", "accuracy_rare", "abstention", "invention", "abstention_heldout", "invention_heldout")
    kept: dict[str, Measure] = {name: MEASURES[name] for name in names}
    monkeypatch.setattr(import_module("probe.rewards.evaluation"), "MEASURES", kept)
    world = of(base)
    assert world is not None
    expected = evaluate(base, world, n=N, seed=3).set_index("metric")
    for name in names:
        ours = [result.value(name, column) for column in ("value", "ci_low", "ci_high", "n")]
        assert ours == pytest.approx(expected.loc[name, ["value", "ci_low", "ci_high", "n"]].tolist()), name


def test_exact_shares_are_what_samples_converge_to(base: LM, result: Result) -> None:
    world, items = of(base), result.items
    assert world is not None
    for kind in KINDS:
        row = items[items["kind"] == kind].iloc[1]
        texts = base.generate([row["prompt"]], n=1500, max_new_tokens=6, seed=11).text
        kinds = pd.Series([world.verify(row["prompt"], text).kind for text in texts])
        bad = ~kinds.isin(("true", "abstain"))
        for exact, seen in (
            (row["p_truth"], kinds == "true"),
            (row["p_abstain"], kinds == "abstain"),
            (row["hall"], bad),
        ):
            assert abs(seen.mean() - exact) < 4 * np.sqrt(max(exact * (1 - exact), 1e-4) / 1500)


def test_entropy_from_samples_is_what_the_exact_distribution_makes_it(result: Result) -> None:
    items = result.items[result.items["kind"].isin(KINDS)]
    gap = items["semantic_entropy_sampled"] - items["semantic_entropy_expected"]
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    agreement = items["agreement"] - items["agreement_exact"]
    assert abs(agreement.mean()) < 4 * agreement.std() / np.sqrt(len(agreement))
    assert (items["semantic_entropy"] > items["semantic_entropy_expected"]).all()  # the known bias
    rare = items[items["kind"] == "rare"].iloc[0]
    assert entropy([0.25, *[0.75 / 12] * 12]) * 0.8 < rare["semantic_entropy"] < np.log(14)


def test_the_base_invents_below_exposure_five_and_the_bound_holds_in_every_class(result: Result) -> None:
    table = result.tables["exposure"]
    assert list(table["label"][:7]) == ["0", "0", "1", "2", "3", "4", "5"]
    assert (table["value"] >= table["error"] - 1e-12).all()  # whatever is no answer counts as an error
    assert (table["error"] >= table["bound"]).all()
    rare, known = table[table["kind"] == "rare"], table[table["kind"] == "fact"]
    assert (rare["bound"] > 0.4).all()
    assert rare["value"].min() > 0.6 > 0.1 > known["value"].max()
    assert result.value("bound_rare") < result.value("hall_rare")
    assert table["n"].sum() == 4 * N
    assert result.value("singleton_rate") == 40 / 110_000
    assert result.value("singleton_share") == 40 / 520


def test_a_better_model_shows_less_and_is_compared_item_by_item(base: LM) -> None:
    found = probe.run_experiment("hallucination", LM.load(SAMPLES / "sft"), baseline=base, n=30, shuffles=0, samples=2)
    table = found.summary.set_index("metric")
    for metric in ("hall", "hall_rare", "hall_stranger", "hall_heldout"):
        assert table.loc[metric, "difference_high"] < 0, metric
    assert np.isnan(table.loc["ece", "difference_high"])  # two models are not compared by it
    assert "reliability" in table.index
    assert table.loc["score_90", "difference_low"] > 0
    assert table.loc["p_ik_stranger", "value"] < 0.05 < table.loc["p_ik_stranger", "baseline"]
    values = [table.loc[metric] for metric in ("hall_stranger", "hall_known")]
    sft, its = ([percent(*row[list(names)]) for row in values] for names in (COLUMNS[1:4], COMPARED[:3]))
    assert found.finding == (
        f"sft hallucinates in {sft[0]} of answers about unseen entities and {sft[1]} of those about known people,"
        f" base in {its[0]} and {its[1]} (exact)."
    )
    assert len(found.finding) < 220


def test_a_model_without_knowledge_shows_nothing() -> None:
    """Random weights: no better than chance at anything, and no different from itself."""
    world = World()
    lm = LM.create("tiny", world.tokenizer(), seed=0)
    lm.world = world  # type: ignore[attr-defined]
    found = probe.run_experiment("hallucination", lm, baseline=lm, n=N, samples=2, shuffles=39)
    table = found.summary.set_index("metric")
    assert (table["difference"].dropna() == 0).all()
    assert table.loc["hall", "value"] > 0.99
    assert table.loc["answer_mass", "value"] < 0.1
    asked = found.items[found.items["kind"].isin(KINDS)]
    assert (asked["main"] == "(no answer)").all()  # its likeliest completion is none of the answers
    assert (asked["hallucinates"] == 1).all()
    for metric in ("auroc", "auroc_p_ik", "known_auroc", "known_auroc_heldout"):
        assert table.loc[metric, "ci_low"] <= 0.5 <= table.loc[metric, "ci_high"], metric
    known = found.items[found.items["kind"].isin(("fact", "rare"))].query("model == 'model'")
    low, high = stats.wilson(int(known["right"].sum()), len(known))[1:]
    assert low <= 1 / 12 <= high
    assert found.meta["models"][0]["facts"]["direction_p"] > 0.05


def test_one_who_always_abstains_never_hallucinates_and_one_who_never_does_always_invents(base: LM) -> None:
    world = of(base)
    assert world is not None
    asked = ask(world, 12, seed=1)
    real, codes = enumerate_prompts(base, world, asked)
    width = real.logprobs.shape[1]
    abstains = np.array([[answer.strip() == ABSTENTION for answer in group] for group in real.answers])
    for chances in (abstains.astype(float), (~abstains) / (width - 1)):
        with np.errstate(divide="ignore"):
            answers = AnswerSet(real.prompts, real.answers, real.prompt_ids, real.answer_ids, np.log(chances))
        columns = exact_columns(answers, codes, asked, samples=4)
        items = pd.concat([asked_table(asked), columns], axis=1)
        table = exposure_table(items, judge_answers(world, answers, codes, asked))
        assert (table["error"] >= table["bound"] - 1e-12).all()
        stranger = items["kind"].str.startswith("stranger")
        if chances is not abstains and chances[0, -1] == 0:
            assert items.loc[stranger, "hall"].to_numpy() == pytest.approx(1)
            assert items.loc[~stranger, "hall"].to_numpy() == pytest.approx(11 / 12)
            assert columns["semantic_entropy"].to_numpy() == pytest.approx(np.log(12))
            assert columns["own_50"][stranger].to_numpy() == pytest.approx(-1)
        else:
            assert (columns["hall"] == 0).all()
            assert (columns["semantic_entropy"] == 0).all()
            assert (columns["hallucinates"] == 0).all()
            assert (columns[["own_50", "own_75", "own_90"]] == 0).all(axis=None)


def test_the_interval_of_hall_covers_the_world(base: LM) -> None:
    """Questions are drawn from the world's facts; the mean over all of them is what the interval must cover."""
    world = of(base)
    assert world is not None
    asked = ask(world, 500, seed=8)
    answers, codes = enumerate_prompts(base, world, asked)
    hall = exact_columns(answers, codes, asked, samples=2)["hall"].to_numpy().reshape(4, 500)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1500):
        drawn = np.concatenate([group[rng.integers(0, 500, 40)] for group in hall[[1, 2]]])
        _, low, high = stats.bootstrap_mean(drawn, resamples=250)
        covered += low <= hall[[1, 2]].mean() <= high
    assert 0.93 <= covered / 1500 <= 0.97


def test_figures_of_several_models_and_what_is_stored(base: LM, result: Result, tmp_path: Path) -> None:
    made = find_experiment("hallucination")
    other = perform(made, LM.load(SAMPLES / "dpo-agreeable"), n=N, seed=3, samples=6, shuffles=20)
    several = join(made, [result, other, result])
    assert list(several.figures) == [
        "exposure",
        "confidence_targets",
        "calibration",
        "semantic_entropy",
        "known_direction",
        "snowball",
    ]
    names = {trace.name for trace in several.figures["exposure"].data if trace.showlegend is not False}
    assert {"base", "base (2)", "dpo-agreeable", "lower bound (Kalai et al.), where above 0"} <= names
    for chart in several.figures.values():
        assert apply(chart, DARK).layout.template.layout.paper_bgcolor == DARK.paper
    again = Result.load(result.save(tmp_path / "r"))
    assert again.summary.equals(result.summary)
    assert again.finding == result.finding


def test_the_snowball_keeps_rolling_after_a_wrong_step_only(result: Result) -> None:
    rows = result.items[result.items["kind"] == "snowball"]
    assert len(rows) == N
    assert result.value("snowball_hall_clean") == rows["snowball_clean"].mean() < 0.1
    assert result.value("snowball_hall_wrong") > 0.9
    steps = result.tables["snowball"]
    assert set(steps[steps["token"] == "so"]["quantity"]) >= {"forced_kl", "clean_error", "wrong_error"}


def test_a_world_without_facts_is_refused() -> None:
    world = World(WorldConfig(mixture={"markov": 1.0}))
    lm = LM.create("tiny", world.tokenizer())
    lm.world = world  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="states no facts"):
        probe.run_experiment("hallucination", lm)
