"""One cause at a time: the exact effect of each preference of an annotator on the optimum, over all combinations.

The two annotators of the world differ in four knobs: agreement (a bonus for the user's claim), abstain (a penalty for
"i do not know"), checks (how often correctness is checked) and correctness (its weight). A model that learned from one
of them differs from a model of the other in all four, so no single one can be called the cause. Here each knob takes
the level of either annotator, all else equal: 16 cells, with `HONEST` and `AGREEABLE` at two corners.

For each cell the optimum pi*_beta of DPO is computed (E12; `probe.rewards.answers.preference_rewards`), with its
hallucination rate on unseen entities, with and without a claim of the user, and its rate of repeating a false claim
about a known person. All are sums over the finite answer sets, without sampling. Without a claim there is nothing to
agree with, so the effect of agreement is 0 by construction; with a claim it can differ.

    found = factorial(lm, world)
    found.sentence                          # the largest cause of each outcome, and knobs without effect
    found.cells, found.pairs, found.effects # a table each
    trained(runs, found)                    # results of trainings on such annotators

Effects are those of a two-level factorial (Box, Hunter and Hunter, Statistics for Experimenters, 2005, chapter 5): a
main effect is the mean over the cells with the agreeable level minus the mean over those with the honest level, an
interaction of two knobs half the difference between the effects of the first at either level of the second, and so on.
Intervals resample people, to whom the questions belong. Axes: C cells, K knobs, Q questions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from probe import stats
from probe.errors import ConfigError
from probe.numbers import in_unit
from probe.rewards.answers import Array, enumerate_answers, preference_rewards
from probe.rewards.evaluation import INVENTED, MEASURES, Measure
from probe.rewards.frontiers import QUESTIONS, SEED
from probe.rewards.optimum import condition, expectation, optimum
from probe.runs.ancestry import RunIndex
from probe.runs.reader import Run
from probe.stats import beyond, bootstrap_mean
from probe.terms import DIFFERENCE, SHARE, SMALLEST, term
from probe.world.annotators import AGREEABLE, HONEST, Annotator
from probe.world.extensions import find_annotator

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.world import World

KNOBS = {
    "agreement": "agreement",
    "abstain": "a fine for abstaining",
    "checks": "rare checks",
    "correctness": "a low weight of correctness",
}
"""Knobs in which the two annotators differ, each with the name of the agreeable annotator's level."""
SHORT = {"agreement": "agreement", "abstain": "fine", "checks": "rare checks", "correctness": "low weight"}
"""Short names of the same."""


class PolicyMeasure(NamedTuple):
    """Outcome that is measured on a policy."""

    measure: Measure
    """Kind of question, and verdicts that count."""
    name: str
    """Name of the outcome in words."""


OUTCOMES = {
    "invention": PolicyMeasure(MEASURES["invention"], "hallucination on unseen entities"),
    "invention_claimed": PolicyMeasure(
        Measure("opinion_stranger", INVENTED), "hallucination on unseen entities of whom the user claims something"
    ),
    "deferral": PolicyMeasure(MEASURES["deferral"], "repeating a false claim"),
}
"""Outcomes by the name of their headline metric, if they have one."""
ENDS = ("value", "ci_low", "ci_high")
CHANGE = ("difference", "difference_low", "difference_high")
"""Columns of a value and of a difference, each with the ends of its interval."""
BETA = 0.3
"""Price of KL in the sample runs `dpo-agreeable`, `dpo-honest` and `rlhf`."""


class Cell(NamedTuple):
    """Combination of knob levels of the two annotators."""

    annotator: Annotator
    levels: tuple[int, ...]
    """Level of each knob: 1 is the agreeable annotator's, 0 the honest one's."""

    @property
    def spec(self) -> str:
        """Specification for `--annotator`: the closer annotator, and the knobs that differ from it."""
        name, nearer = ("agreeable", AGREEABLE) if sum(self.levels) * 2 >= len(KNOBS) else ("honest", HONEST)
        changes = [(knob, getattr(self.annotator, knob)) for knob in KNOBS]
        return name + "".join(f"+{knob}={value:g}" for knob, value in changes if value != getattr(nearer, knob))


def cells() -> list[Cell]:
    """Return all combinations, first those in which correctness has little weight."""
    found = []
    for correctness, checks, abstain, agreement in product((1, 0), (0, 1), (0, 1), (0, 1)):
        levels = {"agreement": agreement, "abstain": abstain, "checks": checks, "correctness": correctness}
        values = {knob: getattr(AGREEABLE if level else HONEST, knob) for knob, level in levels.items()}
        found.append(Cell(replace(HONEST, **values), tuple(levels[knob] for knob in KNOBS)))
    return found


@dataclass(frozen=True)
class Factorial:
    """Rates of hallucination and of repeated false claims of the optima of all cells."""

    reference: str
    """Name of the reference."""
    beta: float
    cells: pd.DataFrame
    """One row per cell and outcome, after one row per outcome for the reference, whose knobs are missing: annotator,
    the knobs, metric, value, ci_low, ci_high, n (questions), people; difference (to the reference), difference_low,
    difference_high."""
    pairs: pd.DataFrame
    """One row for each two cells that differ in one knob: knob, annotator (the honest level), other (the agreeable
    one), metric, difference, difference_low, difference_high."""
    effects: pd.DataFrame
    """One row per effect and outcome: effect (a knob, or several joined by a multiplication sign), knobs (their
    number), metric, value, ci_low, ci_high."""

    def moved(self, knob: str, metric: str) -> tuple[int, int, int]:
        """Count the pairs of cells that differ in exactly one knob.

        Returns:
            The numbers of pairs in which the outcome changes by more than the smallest relevant change of a rate, of
            pairs in which it changes by less (the whole interval lies within it), and of all pairs.
        """
        rows = self.pairs[(self.pairs["knob"] == knob) & (self.pairs["metric"] == metric)]
        low, high = _ends(rows, CHANGE)
        within = (low >= -SMALLEST) & (high <= SMALLEST)
        return int(beyond(low, high, SMALLEST).sum()), int(within.sum()), len(rows)

    def sides(self, knob: str, metric: str, level: int) -> tuple[int, int, int]:
        """Count the optima with a given level of a knob: those above the reference, those below it, and all."""
        rows = self.cells[(self.cells["metric"] == metric) & (self.cells[knob] == _level(knob, level))]
        low, high = _ends(rows, CHANGE)
        return int((low > SMALLEST).sum()), int((high < -SMALLEST).sum()), len(rows)

    def main(self, metric: str) -> pd.DataFrame:
        """Return the main effects on an outcome, largest first."""
        rows = self.effects[(self.effects["metric"] == metric) & (self.effects["knobs"] == 1)]
        return rows.sort_values("value", key=abs, ascending=False, kind="stable")

    @cached_property
    def sentence(self) -> str:
        """Sentences: largest cause of each outcome, optima beyond the reference with and without it, idle knobs."""
        return " ".join(self._sentence(metric, outcome.name) for metric, outcome in OUTCOMES.items())

    def _sentence(self, metric: str, name: str) -> str:
        largest = self.main(metric)
        first, second, *_ = largest.to_dict("records")
        name = name[0].upper() + name[1:]
        if not beyond(*_ends(largest, ENDS), SMALLEST)[0]:
            return f"{name}: no knob has a main effect beyond {100 * SMALLEST:.0f} percentage point."
        reference = self.cells[(self.cells["metric"] == metric) & self.cells["annotator"].isna()].iloc[0]
        base = in_unit(SHARE, *(float(reference[end]) for end in ENDS))
        sizes = [in_unit(DIFFERENCE, *(each[end] for end in ENDS), sign=True) for each in (first, second)]
        cause = KNOBS[first["effect"]]
        having, lacking = (self.sides(first["effect"], metric, level) for level in (1, 0))
        side, at = ("above", 0) if having[0] + lacking[0] else ("below", 1)
        pairs = {knob: self.moved(knob, metric) for knob in KNOBS}
        idle = [KNOBS[knob] for knob, (_, same, count) in pairs.items() if same == count]
        nothing = f"; {' and '.join(idle)} change{'s' * (len(idle) == 1)} nothing" if idle else ""
        apart = not (first["ci_low"] <= second["ci_high"] and second["ci_low"] <= first["ci_high"])
        causes = (
            f"{cause} ({sizes[0]} on average){', then' if apart else ' and'} {KNOBS[second['effect']]} ({sizes[1]})"
        )
        return (
            f"{name}: the largest cause{' is' if apart else 's, in undecided order, are'} {causes}{nothing}."
            f" {having[at]} of {having[2]} optima with {cause} and {lacking[at]} of {lacking[2]} without are {side}"
            f" {self.reference} ({base})."
        )


def _ends(rows: pd.DataFrame, columns: Sequence[str]) -> tuple[Array, Array]:
    """Return the ends of intervals.

    A number without an interval is exact and equal for all people, so it is both ends.
    """
    value, low, high = (rows[name] for name in columns)
    return low.fillna(value).to_numpy(float), high.fillna(value).to_numpy(float)


def _level(knob: str, level: int) -> float:
    return float(getattr(AGREEABLE if level else HONEST, knob))


def factorial(
    lm: "LM", world: "World", beta: float = BETA, n: int = QUESTIONS, seed: int = SEED, name: str = "the reference"
) -> Factorial:
    """Compute the optimum of every cell on `n` questions about unseen entities and `n` with a false claim.

    Args:
        lm: the reference.
        world: the world that asks and judges.
        beta: price of KL, in the unit of the annotators' log-odds (nats).
        n: number of questions of each kind.
        seed: random seed of the questions.
        name: name of the reference in the sentence.

    Raises:
        DataError: the world has no unseen entities.
        ConfigError: beta is negative.
    """
    parts = {metric: rates(lm, world, each.measure, beta, n, seed) for metric, each in OUTCOMES.items()}
    return tabulate(name, beta, parts)


class Rates(NamedTuple):
    """Probabilities of an outcome under the reference and every optimum."""

    reference: Array
    """[Q] probability under the reference."""
    cells: Array
    """[C Q] probability under the optimum of each cell, in the order of `cells`."""
    people: pd.Series
    """[Q] person of each question."""


def rates(lm: "LM", world: "World", measure: Measure, beta: float, n: int, seed: int) -> Rates:
    """Return an outcome's probabilities under the reference and every optimum, given that a listed answer is given."""
    items = world.questions(measure.question, n, seed)
    answers = enumerate_answers(lm, world, [item.prompt for item in items])
    hits = answers.rewards(
        lambda prompts, texts: [
            float(world.verify(prompt, text).kind in measure.verdicts)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
    )
    best = [optimum(answers.logprobs, preference_rewards(answers, world, each.annotator), beta) for each in cells()]
    found = np.stack([expectation(each.logprobs, hits) for each in best])
    people = pd.Series([str(item.meta["person"]) for item in items])
    return Rates(expectation(condition(answers.logprobs), hits), found, people)


def tabulate(reference: str, beta: float, parts: dict[str, Rates]) -> Factorial:
    """Build the tables of a factorial from the probabilities of each outcome."""
    layout = cells()
    rows, pairs = [], []
    for metric, part in parts.items():
        size = {"n": len(part.people), "people": part.people.nunique()}
        whole = {
            "metric": metric,
            **bootstrap_mean(part.reference, bounds=stats.SHARE, units=part.people).row(),
            **size,
        }
        rows.append(whole)
        for cell, values in zip(layout, part.cells, strict=True):
            knobs = {"annotator": cell.spec} | {knob: getattr(cell.annotator, knob) for knob in KNOBS}
            interval = bootstrap_mean(values, bounds=stats.SHARE, units=part.people)
            gap = bootstrap_mean(values - part.reference, units=part.people)
            rows.append({**knobs, "metric": metric, **interval.row(), **size, **gap.row(name="difference")})
        pairs += [{**row, "metric": metric} for row in _pairs(part, layout)]
    effects = [{"metric": metric, **row} for metric, part in parts.items() for row in factorial_effects(part, layout)]
    columns = ["annotator", *KNOBS, "metric", *ENDS, "n", "people", *CHANGE]
    return Factorial(
        reference,
        beta,
        pd.DataFrame(rows)[columns],
        pd.DataFrame(pairs)[["knob", "annotator", "other", "metric", *CHANGE]],
        pd.DataFrame(effects)[["effect", "knobs", "metric", *ENDS]],
    )


def _pairs(part: Rates, layout: Sequence[Cell]) -> Iterable[dict[str, Any]]:
    """Yield one row for each two cells that differ in exactly one knob, with the difference of their probabilities."""
    at = {cell.levels: index for index, cell in enumerate(layout)}
    for place, knob in enumerate(KNOBS):
        for cell in layout:
            if cell.levels[place]:
                continue
            other = at[(*cell.levels[:place], 1, *cell.levels[place + 1 :])]
            gap = part.cells[other] - part.cells[at[cell.levels]]
            interval = bootstrap_mean(gap, units=part.people)
            names = {"knob": knob, "annotator": cell.spec, "other": layout[other].spec}
            yield {**names, **interval.row(name="difference")}


def factorial_effects(part: Rates, layout: Sequence[Cell]) -> Iterable[dict[str, Any]]:
    """Return all main effects and interactions with intervals over people: effect, knobs, value, ci_low, ci_high."""
    signs = 2 * np.array([cell.levels for cell in layout]) - 1
    names = list(KNOBS)
    for size in range(1, len(names) + 1):
        for chosen in combinations(range(len(names)), size):
            contrast = signs[:, chosen].prod(axis=1) @ part.cells * (2 / len(layout))
            effect = " \u00d7 ".join(names[each] for each in chosen)
            yield {
                "effect": effect,
                "knobs": size,
                **bootstrap_mean(contrast, units=part.people).row(),
            }


def labeller(run: Run, index: RunIndex) -> Annotator | None:
    """Return the annotator of a run's pairs, its own or its reward model's; None if unknown."""
    source = run if "annotator" in run.config else index.find(run.reward_model, run) if run.reward_model else None
    if source is None or source.config.get("data", "world") != "world":
        return None
    spec = source.config.get("annotator")
    try:
        return find_annotator(spec) if isinstance(spec, str) else None
    except ConfigError:  # a name or a knob that is not known here
        return None


class TrainedGroup(NamedTuple):
    """Runs that differ only by seed, and their metrics."""

    name: str
    run: Run
    """First of the runs."""
    headline: pd.DataFrame
    """Metrics metric, value, ci_low, ci_high: over trainings, or of one training over its answers."""
    trainings: int


def trained(found: Iterable[TrainedGroup], index: RunIndex, beta: float = BETA) -> pd.DataFrame:
    """Return the sampled headline metrics of trainings on cells of the factorial.

    Args:
        found: DPO and RLHF runs; others, those with another beta or loss, and those of other annotators are left out.
        index: runs among which reward models are searched.
        beta: price of KL of the optima with which they are compared.

    Returns:
        One row per training and outcome: annotator (the cell), the knobs, method, run, metric, value, ci_low, ci_high,
        n (trainings).
    """
    known = {cell.annotator: cell for cell in cells()}
    rows = []
    for each in found:
        config = each.run.config
        if each.run.method not in ("dpo", "rlhf") or config.get("beta") != beta:
            continue
        cell = known.get(labeller(each.run, index)) if config.get("loss", "sigmoid") == "sigmoid" else None  # type: ignore[arg-type]
        if cell is None:
            continue
        facts = {"annotator": cell.spec} | {knob: getattr(cell.annotator, knob) for knob in KNOBS}
        facts |= {"method": each.run.method, "run": each.name}
        table = each.headline[each.headline["metric"].isin(list(OUTCOMES))]
        rows += [{**facts, **row, "n": each.trainings} for row in table[["metric", *ENDS]].to_dict("records")]
    return pd.DataFrame(rows, columns=["annotator", *KNOBS, "method", "run", "metric", *ENDS, "n"])


def describe_trained(table: pd.DataFrame, found: Factorial, before: pd.DataFrame) -> str:
    """Count the cells whose trainings lie on the same side of their base as the optimum; empty without any.

    Args:
        table: result of `trained`.
        found: optima.
        before: headline metrics of the base: metric, value, ci_low, ci_high.
    """
    parts = []
    bases = before.drop_duplicates("metric").set_index("metric")["value"]
    for metric in [each for each in OUTCOMES if each in bases.index and (table["metric"] == each).any()]:
        rows = table[table["metric"] == metric]
        optima = found.cells[found.cells["metric"] == metric].set_index("annotator")["difference"]
        predicted = np.sign(optima[rows["annotator"]].to_numpy(float))
        low, high = _ends(rows, ENDS)
        side = np.where(low > bases[metric], 1, np.where(high < bases[metric], -1, 0))
        parts.append(f"{int((side == predicted).sum())} of {len(rows)} for {OUTCOMES[metric].name}")
    return f"Trainings end on the optimum's side of {found.reference} in {' and '.join(parts)}." if parts else ""


def effect_table(found: Factorial) -> pd.DataFrame:
    """Format main effects and interactions of two knobs as a table of texts: effects as rows, outcomes as columns."""
    rows = found.effects[found.effects["knobs"] <= 2]
    rows = rows.assign(
        effect=[" \u00d7 ".join(SHORT.get(e, e) for e in each.split(" \u00d7 ")) for each in rows["effect"]]
    )
    texts = rows.assign(text=[in_unit(DIFFERENCE, *map(row.get, ENDS), sign=True) for row in rows.to_dict("records")])
    table = texts.pivot_table(index="effect", columns="metric", values="text", aggfunc="first", sort=False)
    table = table[list(OUTCOMES)].rename(columns=lambda metric: term(f"{metric}_listed", "rewards").title)
    return table.rename_axis(columns=None).reset_index()
