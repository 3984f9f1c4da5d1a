"""The card: for each method and truth the mean over bases with its interval, beside floor, ceiling and baseline."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.numbers import format_interval
from probe.scorecard.catalogue_of_methods import families, titles_of
from probe.scorecard.family_record import ORACLE, RANDOM, Family
from probe.scorecard.method_scoring import Row
from probe.scorecard.plan_of_card import Plan, read_plan
from probe.scorecard.stored_rows import shipped_rows
from probe.seeds.t_intervals import mean_over_trainings, paired_by_seed
from probe.untrusted import parse_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLUMNS = (
    "family", "method", "title", "truth", "words", "measure", "score", "low", "high", "floor", "floor_low",
    "floor_high", "chance", "ceiling", "baseline", "gain", "gain_low", "gain_high", "verdict", "best_in", "seeds",
    "seconds",
)  # fmt: skip
CHECKS = (RANDOM, ORACLE)
VERDICTS = {
    "better": "finds it, better than the baseline",
    "finds": "finds it, not shown to be better than the baseline",
    "floor": "not shown to find it",
    "alone": "one model: nothing is known of others",
    "baseline": "naive baseline",
}
"""Verdicts: whether the interval lies above that of random answers, and the gain over the baseline above 0 and the
margin of the plan."""
RATED = ("better", "finds", "floor")
"""Verdicts of methods that are compared with a baseline."""


@dataclass(frozen=True)
class Card:
    """Rows of methods, truths and seeds, and what they say."""

    rows: tuple[Row, ...]
    plan: Plan

    def only(self, family: str | None = None, names: Iterable[str] | None = None) -> "Card":
        """Return the card of a family, and of some methods with the references that they are compared with."""
        kept = [row for row in self.rows if family in (None, row.family)]
        if names is not None:
            wanted = set(names)
            inside = {row.family for row in kept if row.method in wanted}
            beside = {(each, name) for each in inside for name in (*CHECKS, families()[each].baseline)}
            kept = [row for row in kept if row.method in wanted or (row.family, row.method) in beside]
        return replace(self, rows=tuple(kept))

    def table(self) -> pd.DataFrame:
        """Return one row per family, truth and method: `COLUMNS`.

        `score` is the mean over seeds with `low` and `high` (t interval, equal to the score where all seeds agree,
        missing for one seed). `floor` is the score of random answers with its interval, `chance` their expected score
        (mean over seeds), `ceiling` that of the oracle, `baseline` that of the naive one, and `gain` the score less
        the baseline, paired by seed. `best_in` lists the seeds in which no other method scores higher. `seconds` is the
        cost on one base in processor time.
        """
        found = []
        for name, family in families().items():
            for truth in family.truths:
                own = [row for row in self.rows if (row.family, row.truth) == (name, truth.name)]
                found += self._rows(family, truth.name, own)
        return pd.DataFrame(found, columns=list(COLUMNS))

    def _rows(self, family: Family, truth: str, rows: list[Row]) -> list[dict[str, Any]]:
        titles = titles_of(family)
        by_method: dict[str, dict[int, Row]] = {}
        for row in rows:
            by_method.setdefault(row.method, {})[row.seed] = row
        floor, ceiling, naive = (by_method.get(each, {}) for each in (RANDOM, ORACLE, family.baseline))
        best = winners(rows)
        told = []
        for name in sorted(by_method, key=lambda each: (each in CHECKS, each in family.references)):
            own = by_method[name]
            value, low, high = self.over_seeds([row.score for row in own.values()])
            least, least_low, least_high = self.over_seeds([row.score for row in floor.values()])
            both = sorted(own.keys() & naive.keys())
            gain = paired_by_seed([own[at].score for at in both], [naive[at].score for at in both], self.plan.level)
            beats = gain.low > 0 and gain.value >= self.plan.margin
            verdict = (
                "baseline"
                if name == family.baseline
                else "alone"
                if len({row.base for row in own.values()}) < 2
                else "floor"
                if not low > least_high
                else "better"
                if beats
                else "finds"
            )
            record = family.truth(truth)
            values = (
                family.name, name, titles.get(name, name), truth, record.words, record.score, value, low, high, least,
                least_low, least_high, _mean(own, "chance"), _mean(ceiling), _mean(naive), *gain[:3],
                "" if name in CHECKS else verdict, " ".join(str(seed) for seed, names in best.items() if name in names),
                len(own), _mean(own, "seconds"),
            )  # fmt: skip
            told.append(dict(zip(COLUMNS, values, strict=True)))
        return told

    def over_seeds(self, values: list[float]) -> tuple[float, float, float]:
        """Return mean and ends of the t interval over seeds; the mean itself where all seeds agree."""
        found = mean_over_trainings(values, self.plan.level)
        if found.trainings > 1 and math.isnan(found.low):
            return found.value, found.value, found.value
        return found.value, found.low, found.high

    def evidence(self, family: str, truth: str, method: str) -> pd.DataFrame:
        """Return one row per seed of a method: scores of it and of the references, cost, and further numbers."""
        own = {(row.method, row.seed): row for row in self.rows if (row.family, row.truth) == (family, truth)}
        best, titles = winners(list(own.values())), titles_of(families()[family])
        rows = []
        for name, seed in sorted(own, key=lambda key: key[1]):
            if name != method:
                continue
            row = own[name, seed]
            beside = {
                title: own[other, seed].score if (other, seed) in own else math.nan
                for title, other in (("random", RANDOM), ("baseline", families()[family].baseline), ("oracle", ORACLE))
            }
            first = ", ".join(titles.get(each, each) for each in best.get(seed, ()))
            numbers = {"seed": seed, "score": row.score, **beside, "best": first}
            rows.append(numbers | {"texts": row.n, "seconds": row.seconds, **parse_json(row.also), "base": row.base})
        return pd.DataFrame(rows)

    def winners_agree(self) -> tuple[int, int]:
        """Return in how many of the truths one method is best in every seed, and the number of truths."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.family, row.truth), []).append(row)
        several = [winners(rows) for rows in groups.values() if len({row.seed for row in rows}) > 1]
        return sum(bool(set.intersection(*map(set, each.values()))) for each in several if each), len(several)

    def sentence(self) -> str:
        """Say how many rows are above the floor and above the baseline, and whether seeds agree on the best method."""
        table = self.table()
        rated = table[table["verdict"].isin((*RATED, "alone"))]
        if rated.empty:
            return "No row of the scorecard is stored yet."
        seeds = sorted({row.seed for row in self.rows})
        counts = rated["verdict"].value_counts()
        if len({row.base for row in self.rows}) == 1:
            return f"{len(rated)} rows (methods and truths) are scored on one model: nothing is known of others."
        same, truths = self.winners_agree()
        better, finds, floor = (counts.get(each, 0) for each in RATED)
        text = (
            f"Of {len(rated)} rows (methods and truths, {len(seeds)} bases) {better} find the truth better than the"
            f" naive baseline, {finds} find it and are not shown to be better, and {floor} are not shown to find it"
        )
        return f"{text}. One method is best on every base for {same} of {truths} truths." if truths else f"{text}."

    def figure(self, family: str) -> "go.Figure":
        """Draw the methods of a family: means with intervals over bases, each base, floor, ceiling and baseline."""
        from probe.scorecard.figures import card_figure

        return card_figure(self.only(family).table(), self.rows, families()[family])

    def to_dict(self) -> dict[str, Any]:
        """Return version, plan and rows as plain data."""
        rows = [{str(key): value for key, value in row.items()} for row in self.table().to_dict("records")]
        return {"version": self.plan.version, "seeds": sorted({row.seed for row in self.rows}), "rows": rows}


def _mean(rows: dict[int, Row], name: str = "score") -> float:
    return float(np.mean([getattr(row, name) for row in rows.values()])) if rows else math.nan


def winners(rows: list[Row]) -> dict[int, tuple[str, ...]]:
    """Return by seed the methods of which no other scores higher, references left out; rows of one truth."""
    found = {}
    for seed in sorted({row.seed for row in rows}):
        references = families()[rows[0].family].references
        own = {row.method: row.score for row in rows if row.seed == seed and row.method not in references}
        top = max((each for each in own.values() if each == each), default=math.nan)
        found[seed] = tuple(name for name, score in own.items() if score == top)
    return {seed: names for seed, names in found.items() if names}


def read_card(rows: Iterable[Row] | None = None, plan: Plan | None = None) -> Card:
    """Return the card of rows; by default of those that come with Probe and fit the plan.

    Args:
        rows: rows of a run of one's own.
        plan: plan that rows must fit, by default that of the bases.
    """
    plan = plan or read_plan()
    given = shipped_rows() if rows is None else tuple(rows)
    return Card(tuple(row for row in given if row.plan == plan.hash(row.family)), plan)


def told(row: Any) -> str:
    """Return the score of a row of the table with its interval, in words; no score is above 1."""
    value, low, high = (float(row[name]) for name in ("score", "low", "high"))
    return f"{value:.2f}" if math.isnan(low) or low == high else format_interval(value, low, min(high, 1.0))
