"""Whether the order of methods on the bases is their order on another model.

For each truth that both cards have, Kendall's tau-b compares the methods' mean scores (references are left out: their
scores are the texts', not the model's). Three controls stand beside its mean over truths:

    one draw    tau of the order of each draw of texts on the model, with a t interval over draws
    one base    tau of the order of each base and that of the other bases: what there is to reach
    relabelled  share of all exchanges of a family's methods that give as large a mean: methods at random

A pair of methods counts only if its order is certain on the bases, which is if the difference, paired by base, has an
interval without 0. Its order is then kept or reversed on the model if the interval of the difference over draws of
texts has no 0 either, and else undecided.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd

from probe.scorecard.card import CHECKS, Card
from probe.scorecard.catalogue_of_methods import families, titles_of
from probe.seeds.t_intervals import OverTrainings, mean_over_trainings, paired_by_seed

VERDICTS = {
    "kept": "same order",
    "reversed": "reversed",
    "undecided": "undecided on the model",
    "uncertain": "not certain on the bases",
}
"""Verdicts on a pair of methods."""
CHANCE = 0.05
"""Largest share of exchanges of methods that may give as large a tau."""
TRUTHS = ("family", "truth", "words", "bases", "model", "tau", *VERDICTS)
"""Columns of the table of truths."""
Scores = dict[tuple[str, str], pd.DataFrame]
"""Scores by family and truth: a row for each method, a column for each seed."""


@dataclass(frozen=True)
class CarriedOrder:
    """Orders of methods on the bases and on another model."""

    name: str
    """Name of the model."""
    truths: pd.DataFrame
    """One row per truth: `family`, `truth`, `words`, `bases` and `model` (methods with their means, the best first),
    `tau`, and the number of pairs by verdict."""
    pairs: pd.DataFrame
    """One row per pair of methods: `family`, `truth`, `first`, `second`, differences on the `bases` and on the `model`
    with `_low` and `_high`, and `verdict`. On the bases the first has the higher mean."""
    draws: OverTrainings
    """Mean tau over truths of one draw of texts."""
    bases: OverTrainings
    """Mean tau over truths of one base and the other bases."""
    relabelled: float
    """Share of the exchanges of methods with at least the mean tau."""

    @property
    def tau(self) -> float:
        """Mean tau over truths."""
        return float(self.truths["tau"].mean()) if len(self.truths) else float("nan")

    def sentence(self) -> str:
        """Say how many pairs keep their order, and what tau is beside its controls."""
        if self.pairs.empty:
            return f"No order of methods is known both on the bases and on {self.name}."
        count = self.pairs["verdict"].value_counts()
        kept, turned, unknown = (int(count.get(each, 0)) for each in ("kept", "reversed", "undecided"))
        shown = self.draws.low > 0 and self.relabelled <= CHANCE
        head = f"{'The order' if shown else 'It is not shown that the order'} of methods carries over to {self.name}"
        return (
            f"{head}: Kendall's tau is {self.tau:.2f} in the mean over {len(self.truths)} truths (one draw of texts"
            f" {self.draws.format()}; one base and the others {self.bases.format()}), and"
            f" {100 * self.relabelled:.1f} % of exchanges of the methods' names give as much. Of"
            f" {kept + turned + unknown} pairs of methods whose order is certain on the bases, {kept} have the same"
            f" order on {self.name}, {turned} the reverse, and {unknown} are undecided there."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return truths, pairs and the mean tau with its controls as plain data."""
        tau = {"value": self.tau, "draw": self.draws[:3], "base": self.bases[:3], "relabelled": self.relabelled}
        return {
            "model": self.name,
            "tau": tau,
            "truths": self.truths.to_dict("records"),
            "pairs": self.pairs.to_dict("records"),
        }


def orders(found: CarriedOrder) -> pd.DataFrame:
    """Return one row per truth as it is shown: orders on bases and model, tau, and numbers of pairs by verdict."""
    names = {"words": "truth", "bases": "order on the bases", "model": f"order on {found.name}", **VERDICTS}
    return found.truths.drop(columns="truth").rename(columns=names)


def kendall(first: np.ndarray, second: np.ndarray) -> float:
    """Return Kendall's tau-b of two lists of scores (Kendall 1945); 0 if one of them has no order."""
    one, two = (np.sign(each[:, None] - each[None]) for each in (first, second))
    size = np.sqrt((one**2).sum() * (two**2).sum())
    return float((one * two).sum() / size) if size else 0.0


def scores_of(card: Card) -> Scores:
    """Return the scores of a card's methods, references and seeds without all methods left out."""
    found = {}
    for name, family in families().items():
        for truth in family.truths:
            own = [row for row in card.rows if (row.family, row.truth) == (name, truth.name)]
            rows = [row for row in own if row.method not in (*CHECKS, *family.references)]
            if rows:
                cells = pd.DataFrame([(row.method, row.seed, row.score) for row in rows], columns=["m", "s", "score"])
                found[name, truth.name] = cells.pivot(index="m", columns="s", values="score").dropna(axis=1)
    return found


def shared_scores(bases: Card, model: Card) -> tuple[Scores, Scores]:
    """Return the scores of both cards for the truths of both, with the methods that a family has in all of them."""
    both = scores_of(bases), scores_of(model)
    keys = [key for key in both[0] if key in both[1]]
    for name in {family for family, _ in keys}:
        own = [key for key in keys if key[0] == name]
        kept = [set(part[key].index) for part in both for key in own]
        rows = sorted(set.intersection(*kept))
        for part in both:
            part |= {key: part[key].loc[rows] for key in own}
    keys = [key for key in keys if len(both[0][key]) > 1]
    return {key: both[0][key] for key in keys}, {key: both[1][key] for key in keys}


def carried_order(bases: Card, model: Card, name: str = "SmolLM2") -> CarriedOrder:
    """Compare the order of methods on the bases with that on a model, of which the seeds are draws of texts."""
    ours, theirs = shared_scores(bases, model)
    truths, pairs = list[dict[str, Any]](), list[dict[str, Any]]()
    for family, truth in ours:
        place, both = {"family": family, "truth": truth}, (ours[family, truth], theirs[family, truth])
        means = [each.mean(axis=1).sort_values(ascending=False, kind="stable") for each in both]
        own = [
            place | _pair(both, first, second, bases.plan.level) for first, second in combinations(means[0].index, 2)
        ]
        counts = {verdict: sum(each["verdict"] == verdict for each in own) for verdict in VERDICTS}
        tau = kendall(means[0].to_numpy(), means[1][means[0].index].to_numpy())
        words, titles = families()[family].truth(truth).words, titles_of(families()[family])
        truths.append(
            place
            | {"words": words, "bases": _listed(means[0], titles), "model": _listed(means[1], titles), "tau": tau}
            | counts
        )
        pairs += own
    return CarriedOrder(
        name,
        pd.DataFrame(truths, columns=list(TRUTHS)),
        pd.DataFrame(pairs),
        mean_over_trainings(_each(theirs, lambda key, seed: ours[key]), bases.plan.level),
        mean_over_trainings(_each(ours, lambda key, seed: ours[key].drop(columns=seed)), bases.plan.level),
        relabelled(ours, theirs),
    )


def _listed(means: pd.Series, titles: dict[str, str]) -> str:
    return ", ".join(f"{titles.get(str(name), str(name))} {value:.2f}" for name, value in means.items())


def _pair(both: tuple[pd.DataFrame, pd.DataFrame], first: str, second: str, level: float) -> dict[str, Any]:
    """Return the differences of two methods with their intervals, and the verdict."""
    on_bases, on_model = (paired_by_seed(each.loc[first], each.loc[second], level) for each in both)
    verdict = (
        "uncertain"
        if not on_bases.low > 0
        else "kept"
        if on_model.low > 0
        else "reversed"
        if on_model.high < 0
        else "undecided"
    )
    numbers = {
        f"{side}{end}": number
        for side, found in (("bases", on_bases), ("model", on_model))
        for end, number in zip(("", "_low", "_high"), found[:3], strict=True)
    }
    return {"first": first, "second": second, **numbers, "verdict": verdict}


def _each(scores: Scores, other: Callable[[tuple[str, str], int], pd.DataFrame]) -> list[float]:
    """Return for each seed the mean over truths of tau between its scores and the means of others."""
    found = []
    for seed in sorted({int(seed) for each in scores.values() for seed in each.columns}):
        inside = {key: own[seed].to_numpy() for key, own in scores.items() if seed in own.columns}
        taus = [kendall(own, other(key, seed).mean(axis=1).to_numpy()) for key, own in inside.items()]
        found.append(float(np.mean(taus)))
    return found


def relabelled(ours: Scores, theirs: Scores) -> float:
    """Return the share of all exchanges of the methods of each family that give at least the mean tau.

    The same exchange holds for all truths of a family, since truths with the same methods are no independent evidence.
    """
    sums = np.zeros(1)
    for family in dict.fromkeys(name for name, _ in ours):
        keys = [key for key in ours if key[0] == family]
        means = [(ours[key].mean(axis=1).to_numpy(), theirs[key].mean(axis=1).to_numpy()) for key in keys]
        orders = [list(each) for each in permutations(range(len(means[0][0])))]
        own = [sum(kendall(one, two[order]) for one, two in means) for order in orders]
        sums = (sums[:, None] + np.array(own)).ravel()
    actual = sums[0]  # the first exchange of each family is none
    return float((sums >= actual - 1e-9).mean())
