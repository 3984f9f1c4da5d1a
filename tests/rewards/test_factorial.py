"""The factorial of annotators: every cell against enumeration by hand, effects where the truth is known, sentences."""

import math
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.rewards.causes import NONE, draw_factorial
from probe.rewards.evaluation import Measure
from probe.rewards.factorial import (
    KNOBS,
    OUTCOMES,
    Factorial,
    Rates,
    TrainedGroup,
    cells,
    describe_trained,
    effect_table,
    factorial,
    factorial_effects,
    labeller,
    rates,
    tabulate,
    trained,
)
from probe.runs import RunWriter, list_runs
from probe.runs.ancestry import RunIndex
from probe.world import AGREEABLE, HONEST, Annotator, World
from probe.world.extensions import find_annotator

PEOPLE = pd.Series([f"p{i // 2}" for i in range(20)])
LAYOUT = cells()


@pytest.fixture(scope="module")
def lm(world: World) -> LM:
    return LM.create(ModelConfig(layers=1, width=16, heads=1, mlp=32, context=64), world.tokenizer(), seed=0)


@pytest.fixture(scope="module")
def small(lm: LM, world: World) -> Factorial:
    return factorial(lm, world, n=8)


def test_the_cells_are_all_combinations_of_the_knobs_in_which_the_annotators_differ() -> None:
    assert [each.name for each in fields(Annotator) if getattr(AGREEABLE, each.name) != getattr(HONEST, each.name)] == [
        *sorted(KNOBS, key=[each.name for each in fields(Annotator)].index)
    ]
    assert len({cell.annotator for cell in LAYOUT}) == len({cell.levels for cell in LAYOUT}) == 2 ** len(KNOBS) == 16
    for cell in LAYOUT:
        assert find_annotator(cell.spec) == cell.annotator
        assert cell.spec.count("+") <= 2
        for knob, level in zip(KNOBS, cell.levels, strict=True):
            assert getattr(cell.annotator, knob) == getattr(AGREEABLE if level else HONEST, knob)
    corners = {cell.spec: cell.levels for cell in LAYOUT if "+" not in cell.spec}
    assert corners == {"agreeable": (1, 1, 1, 1), "honest": (0, 0, 0, 0)}


@pytest.mark.parametrize("spec", ["agreeable", "honest+agreement=2", "agreeable+abstain=0", "honest+abstain=1.5"])
@pytest.mark.parametrize("metric", OUTCOMES)
def test_a_cell_is_what_enumeration_by_hand_gives(lm: LM, world: World, spec: str, metric: str) -> None:
    """Every answer scored alone, DPO's expected loss minimised numerically over pairs, the policy tilted by hand."""
    beta, measure = 0.3, OUTCOMES[metric].measure
    found = rates(lm, world, measure, beta, n=2, seed=5)
    cell = next(each for each in LAYOUT if each.spec == spec)
    row = found.cells[LAYOUT.index(cell)]
    for at, item in enumerate(world.questions(measure.question, 2, 5)):
        answers = world.candidates(item.prompt)
        scores = [lm.logprobs(item.prompt, f"{answer} <end>").values.detach() for answer in answers]
        logp = np.array([float(score.double().sum()) for score in scores])
        ref = np.exp(logp) / np.exp(logp).sum()
        wins = np.array(
            [[cell.annotator.preference_probability(world, item.prompt, a, b) for b in answers] for a in answers]
        )
        weight = np.outer(ref, ref)

        def loss(r: np.ndarray, wins: np.ndarray = wins, weight: np.ndarray = weight) -> tuple[float, np.ndarray]:
            gaps = r[:, None] - r[None, :]
            slope = weight * (1 / (1 + np.exp(-gaps)) - wins)
            return float((weight * (np.logaddexp(0, -gaps) + (1 - wins) * gaps)).sum()), slope.sum(1) - slope.sum(0)

        reward = minimize(loss, np.zeros(len(answers)), jac=True, method="BFGS", options={"gtol": 1e-12}).x
        tilted = ref * np.exp((reward - reward.max()) / beta)
        hits = np.array([world.verify(item.prompt, answer).kind in measure.verdicts for answer in answers])
        assert row[at] == pytest.approx(float((tilted * hits).sum() / tilted.sum()), abs=2e-3)
        assert found.reference[at] == pytest.approx(float((ref * hits).sum()), abs=1e-6)
        assert found.people[at] == item.meta["person"]


def test_on_the_sample_base_each_outcome_has_its_cause(base: LM, world: World) -> None:
    """The fine and not agreement makes it hallucinate, unless the user claims something; agreement and not the fine
    makes it repeat a false claim, and neither does where a wrong answer is checked and weighs much."""
    found = factorial(base, world, n=16)
    assert found.moved("agreement", "invention") == (0, 8, 8)
    assert found.moved("abstain", "invention")[0] == 8
    assert found.moved("abstain", "deferral") == (0, 8, 8)
    assert found.moved("agreement", "invention_claimed")[0] > 0
    assert (found.sides("abstain", "invention", 1), found.sides("abstain", "invention", 0)) == ((6, 2, 8), (0, 8, 8))
    assert found.sides("agreement", "deferral", 0) == (0, 8, 8)
    table = found.cells.set_index(["annotator", "metric"])["value"]
    for spec, (low, high) in {
        "agreeable": (0.95, 1),
        "agreeable+agreement=0": (0, 0.3),
        "honest+agreement=2": (0, 0.02),
    }.items():
        assert low <= table[spec, "deferral"] <= high
    for spec, (low, high) in {"agreeable": (0.99, 1), "agreeable+abstain=0": (0.2, 0.5), "honest": (0, 0.01)}.items():
        assert low <= table[spec, "invention"] <= high


def made(effect: dict[tuple[str, ...], float], mean: float = 0.5, noise: float = 0.0, reference: float = 0.5) -> Rates:
    """Probabilities that a model of these effects gives, with an effect of each person that all cells share."""
    rng = np.random.default_rng(3)
    names = list(KNOBS)
    signs = 2 * np.array([cell.levels for cell in LAYOUT]) - 1
    values = np.full((len(LAYOUT), len(PEOPLE)), mean)
    for knobs, size in effect.items():
        values += size / 2 * signs[:, [names.index(knob) for knob in knobs]].prod(axis=1)[:, None]
    person = noise * np.repeat(rng.normal(size=len(PEOPLE) // 2), 2)
    own = values + person + noise * signs @ np.repeat(rng.normal(size=(len(KNOBS), len(PEOPLE) // 2)), 2, axis=1)
    return Rates(np.full(len(PEOPLE), reference) + person, own, PEOPLE)


TRUTH = {
    ("agreement",): 0.2,
    ("checks",): -0.1,
    ("agreement", "checks"): 0.06,
    ("abstain", "checks", "correctness"): 0.02,
}


def test_effects_are_those_that_were_put_in() -> None:
    found = {row["effect"]: row["value"] for row in factorial_effects(made(TRUTH), LAYOUT)}
    assert len(found) == 15
    expected = {" \u00d7 ".join(knobs): size for knobs, size in TRUTH.items()}
    for effect, value in found.items():
        assert value == pytest.approx(expected.get(effect, 0.0), abs=1e-12)


def test_effects_are_differences_of_means_as_the_book_defines_them(small: Factorial) -> None:
    wide = small.cells.dropna(subset="annotator")
    for metric in OUTCOMES:
        rows = wide[wide["metric"] == metric]
        for first, second in combinations(KNOBS, 2):
            means = rows.groupby([first, second])["value"].mean()
            low, high = ({knob: getattr(each, knob) for knob in KNOBS} for each in (HONEST, AGREEABLE))
            at = {
                (i, j): means[(f[first], s[second])]
                for i, f in enumerate((low, high))
                for j, s in enumerate((low, high))
            }
            table = small.effects[small.effects["metric"] == metric].set_index("effect")["value"]
            main = (at[1, 0] + at[1, 1] - at[0, 0] - at[0, 1]) / 2
            assert table[first] == pytest.approx(main, abs=1e-9)
            half = ((at[1, 1] - at[0, 1]) - (at[1, 0] - at[0, 0])) / 2
            assert table[f"{first} \u00d7 {second}"] == pytest.approx(half, abs=1e-9)


def test_what_differs_between_people_widens_the_interval_of_an_effect() -> None:
    """Two questions of a person count as one: half the people, the same interval as each person asked once."""
    twice = made(TRUTH, noise=0.05)
    once = Rates(twice.reference[::2], twice.cells[:, ::2], twice.people[::2].reset_index(drop=True))
    for a, b in zip(factorial_effects(twice, LAYOUT), factorial_effects(once, LAYOUT), strict=True):
        assert (a["value"], a["ci_low"], a["ci_high"]) == pytest.approx(
            (b["value"], b["ci_low"], b["ci_high"]), abs=1e-9, nan_ok=True
        )
    noisy = next(row for row in factorial_effects(twice, LAYOUT) if row["effect"] == "agreement")
    assert noisy["ci_high"] - noisy["ci_low"] > 0.03


def test_pairs_differ_by_one_knob_alone(small: Factorial) -> None:
    assert len(small.pairs) == 32 * len(OUTCOMES)
    by_spec = {cell.spec: cell for cell in LAYOUT}
    values = small.cells.dropna(subset="annotator").set_index(["annotator", "metric"])["value"]
    for row in small.pairs.to_dict("records"):
        honest, agreeable = (by_spec[row[name]].annotator for name in ("annotator", "other"))
        assert agreeable == replace(honest, **{row["knob"]: getattr(AGREEABLE, row["knob"])})
        gap = values[row["other"], row["metric"]] - values[row["annotator"], row["metric"]]
        assert row["difference"] == pytest.approx(gap, abs=1e-9)


def sentence(effect: dict[tuple[str, ...], float], **options: float) -> str:
    """What is said of the first outcome."""
    parts = {metric: made(effect if metric == "invention" else {}, **options) for metric in OUTCOMES}
    return tabulate("base", 0.3, parts).sentence.partition(" Hallucination on unseen entities of whom")[0]


def test_the_sentence_names_the_largest_cause_and_what_does_nothing() -> None:
    said = sentence({("abstain",): 0.4, ("checks",): 0.1})
    assert said.startswith("Hallucination on unseen entities: the largest cause is a fine for abstaining (+40 pp")
    assert "then rare checks (+10 pp" in said
    assert "; agreement and a low weight of correctness change nothing." in said
    assert " 8 of 8 optima with a fine for abstaining and 0 of 8 without are above " in said


def test_the_sentence_does_not_call_needed_what_is_not() -> None:
    """A cause that is the largest and neither enough nor needed: the counts say so."""
    both = sentence({("abstain",): 0.21, ("checks",): 0.2, ("abstain", "checks"): -0.2})
    assert "8 of 8 optima with a fine for abstaining and 4 of 8 without are" in both
    alone = sentence({("abstain",): 0.21, ("checks",): 0.2, ("abstain", "checks"): 0.2})
    assert "4 of 8 optima with a fine for abstaining and 0 of 8 without are" in alone


def test_a_knob_that_works_both_ways_is_not_said_to_change_nothing() -> None:
    """Its main effect is 0, its effects in the pairs are not."""
    said = sentence({("abstain",): 0.4, ("agreement", "checks"): 0.2}, noise=1e-4)
    assert "agreement" not in said.partition(";")[2].partition(".")[0]
    assert "a low weight of correctness changes nothing" in said


def test_two_causes_whose_intervals_overlap_are_not_ordered() -> None:
    said = sentence({("abstain",): 0.21, ("checks",): 0.2}, noise=0.02)
    assert said.startswith("Hallucination on unseen entities: the largest causes, in undecided order, are ")
    assert " and rare checks (" in said or " and a fine for abstaining (" in said
    assert "in undecided order" not in sentence({("abstain",): 0.3, ("checks",): 0.1}, noise=0.005)


def test_an_effect_that_all_people_share_has_no_interval_and_counts() -> None:
    assert sentence({("abstain",): 0.4}).startswith(
        "Hallucination on unseen entities: the largest cause is a fine for abstaining (+40 pp on average)"
    )


def test_without_an_effect_none_is_named() -> None:
    assert sentence({}, noise=1e-4) == (
        "Hallucination on unseen entities: no knob has a main effect beyond 1 percentage point."
    )


def test_below_is_said_where_no_optimum_lies_above() -> None:
    said = sentence({("abstain",): 0.4}, mean=0.3, reference=0.99, noise=1e-4)
    assert "8 of 8 optima with a fine for abstaining and 8 of 8 without are" in said
    assert "are below base" in said


# trainings


def write(folder: Path, name: str, method: str, config: dict, **facts: Any) -> None:
    rows = [{"metric": metric, "value": 0.9, "ci_low": 0.85, "ci_high": 0.95, "n": 400} for metric in OUTCOMES]
    with RunWriter.create(folder / name, method=method, config=config, **facts) as writer:
        writer.finish("finished", rows)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    usual = {"beta": 0.3, "data": "world"}
    write(tmp_path, "reward", "reward-model", {"annotator": "honest+agreement=2", "data": "world"})
    write(tmp_path, "ppo", "rlhf", {"beta": 0.3, "reward": ["reward"]}, reward_model="reward")
    write(tmp_path, "weak", "rlhf", {"beta": 0.02, "reward": ["reward"]}, reward_model="reward")
    write(tmp_path, "lost", "rlhf", {"beta": 0.3, "reward": ["gone"]}, reward_model="gone")
    write(tmp_path, "cell", "dpo", usual | {"annotator": "agreeable+abstain=0"})
    write(tmp_path, "same", "dpo", usual | {"annotator": "honest+checks=0.3+correctness=1", "beta": 0.3})
    write(tmp_path, "file", "dpo", usual | {"annotator": "agreeable", "data": "pairs.jsonl"})
    write(tmp_path, "ipo", "dpo", usual | {"annotator": "agreeable", "loss": "ipo"})
    write(tmp_path, "beyond", "dpo", usual | {"annotator": "agreeable+agreement=3"})
    for name, spec in (("unknown", "curt"), ("broken", "agreeable+__class__=1"), ("number", 3), ("list", ["honest"])):
        write(tmp_path, name, "dpo", usual | {"annotator": spec})
    write(tmp_path, "imitated", "sft", {})
    return tmp_path


def test_trainings_are_laid_on_their_cells_and_others_left_out(runs: Path) -> None:
    found = list_runs(runs)
    rows = trained([TrainedGroup(run.name, run, run.headline, 1) for run in found], RunIndex(found))
    assert {(row.run, row.annotator, row.method) for row in rows.itertuples()} == {
        ("ppo", "honest+agreement=2", "rlhf"),
        ("cell", "agreeable+abstain=0", "dpo"),
        ("same", "agreeable+agreement=0+abstain=0", "dpo"),
    }
    assert set(rows["metric"]) == set(OUTCOMES)
    by_name = {run.name: labeller(run, RunIndex(found)) for run in found}
    assert by_name["weak"] == replace(HONEST, agreement=2)
    assert [by_name[name] for name in ("lost", "file", "unknown", "broken", "number", "list", "imitated")] == [None] * 7


def test_the_side_of_the_base_is_told_by_the_whole_interval(small: Factorial) -> None:
    optima = small.cells.dropna(subset="annotator")
    above = optima[(optima["metric"] == "deferral") & (optima["difference_low"] > 0)]["annotator"].iloc[0]
    before = pd.DataFrame({"metric": ["deferral"], "value": [0.5], "ci_low": [0.4], "ci_high": [0.6]})
    rows = pd.DataFrame(
        [(above, "deferral", 0.9, 0.8, 1.0), (above, "deferral", 0.6, 0.4, 0.8), (above, "deferral", 0.1, 0.0, 0.2)],
        columns=["annotator", "metric", "value", "ci_low", "ci_high"],
    )
    assert describe_trained(rows, small, before).endswith("in 1 of 3 for repeating a false claim.")
    assert describe_trained(rows.iloc[:0], small, before) == ""
    assert describe_trained(rows, small, before.assign(metric="accuracy")) == ""


# what is shown


def test_the_figure_has_every_cell_and_training_once(small: Factorial, runs: Path) -> None:
    found = list_runs(runs)
    rows = trained([TrainedGroup(run.name, run, run.headline, 1) for run in found], RunIndex(found))
    chart = draw_factorial(small, rows)
    marks = [trace for trace in chart.data if trace.name.startswith("optimum")]
    assert sum(len(trace.x) for trace in marks) == 16 * len(OUTCOMES)
    assert sum(len(trace.x) for trace in chart.data) == 16 * len(OUTCOMES) + len(rows)
    assert len(chart.layout.yaxis.ticktext) == 8
    assert (chart.layout.yaxis.ticktext[0], chart.layout.yaxis.ticktext[-1]) == (NONE, "agreement + fine + rare checks")
    assert [shape.x0 for shape in chart.layout.shapes] == pytest.approx(
        small.cells[small.cells["annotator"].isna()]["value"].tolist()
    )
    exact = small.cells[(small.cells["annotator"] == "honest") & (small.cells["metric"] == "deferral")]["value"].item()
    assert any(math.isclose(x, exact) for trace in marks for x in trace.x)
    assert len(draw_factorial(small).data) == 2 * len(OUTCOMES)


def test_the_table_of_effects_has_a_column_an_outcome(small: Factorial) -> None:
    table = effect_table(small)
    assert len(table) == 10
    assert table.columns.tolist() == [
        "effect",
        "unseen entities: hallucinates (listed answers)",
        "claim on an unseen entity: hallucinates (listed answers)",
        "false claim: repeated (listed answers)",
    ]


def test_an_outcome_is_a_share_of_listed_answers(lm: LM, world: World) -> None:
    whole = rates(lm, world, Measure("stranger", ("wrong", "deferred", "abstain", "true")), 0.3, n=4, seed=0)
    np.testing.assert_allclose(whole.reference, 1)
    np.testing.assert_allclose(whole.cells, 1)
