"""Analysis of final rewards and KL of policies over several trainings, each against its own base and reward model."""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.plotting.curves import Style
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rewards.figures import ends_over_trainings
from probe.rewards.ground import Among, every_run
from probe.rewards.places import policies_of
from probe.runs.reader import Run
from probe.seeds.coverage import cautions
from probe.seeds.group_tables import over_trainings
from probe.seeds.grouping import Group, groups
from probe.seeds.looks import style_runs
from probe.seeds.t_intervals import OverTrainings
from probe.terms import Term, logged, term

if TYPE_CHECKING:
    import plotly.graph_objects as go

MEAN = r"\bar x \pm t_{k-1,\,0.975}\, s / \sqrt{k} \quad \text{over } k \text{ trainings}"
KL = "kl_to_reference"
REWARDS = ("expected_reward", "expected_gold")
LOGGED = (KL, *REWARDS, "kl_to_optimal")
"""Names of a run's logged KL and rewards, which are exact on 64 fixed questions."""
QUESTIONS = 64
SAMPLED = "_reward"
"""Suffixes of the headline metrics of rewards."""
HEIGHT = 380
"""Height of the figure in pixels."""


@dataclass(frozen=True)
class Ends(Drawable):
    """Final rewards and KL of each policy's trainings."""

    means: pd.DataFrame
    """One row per policy and metric: run, metric, value, ci_low, ci_high, n, apart."""
    seeds: pd.DataFrame
    """One row per training and metric: run, seed, metric, value."""
    styles: Mapping[str, Style]
    """Style of each policy."""
    caution: str
    """Caution for readers of the intervals."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the base."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain over what the intervals are taken."""
        return (
            "Means over trainings with 95 % t intervals; faint: each training, against its base and by its reward"
            " model. Exact: the last evaluation that a training logged, on 64 fixed questions; the proxy reward is what"
            " the method itself optimised. Sampled: headline figures. The figures above are of one training."
            f" {self.caution}".rstrip(),
        )

    def sentence(self) -> str:
        """Name the final true reward of each policy."""
        rows = self.means[self.means["metric"] == "expected_gold"].to_dict("records")
        if not rows:
            return "No training logged its reward and KL; methods with a reference log them in a world."
        ends = ", ".join(f"at {_format(row)} for {row['run']}" for row in rows)
        return f"Over trainings the true reward ends {ends}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return means and single trainings."""
        return {"over-trainings": self.means, "over-trainings-seeds": self.seeds}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per policy with its metrics, formatted for reading."""
        lines = []
        for run in self.styles:
            own = self.means[self.means["run"] == run]
            rows = {row["metric"]: row for row in own.to_dict("records")}
            line = {"policy": run, "seeds": self.seeds.loc[self.seeds["run"] == run, "seed"].nunique()}
            for metric in dict.fromkeys((*LOGGED, *self.means["metric"])):
                if metric in rows:
                    line[_words(metric).label] = _format(rows[metric])
            lines.append(line)
        return {"Policies": pd.DataFrame(lines)}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw final rewards against final KL."""
        known = set(self.means["metric"])
        rewards = [name for name in REWARDS if name in known]
        if not rewards or KL not in known:
            return {}
        titles = {name: _words(name).label for name in (*rewards, KL)}
        chart = ends_over_trainings(self.means, self.seeds, self.styles, titles)
        return {"over-trainings": titled(chart, "Where trainings end", HEIGHT)}


def _words(metric: str) -> Term:
    return logged(metric, ("rlhf",)) if metric in LOGGED else term(metric)


def _format(row: Mapping[Hashable, Any]) -> str:
    return OverTrainings.of(row).format(_words(row["metric"]).unit)


def several_of(lm: LM, among: Collection[Path] | None = None) -> list[Group]:
    """Return the groups of seeds of a base's policies that have more than one training."""
    runs = [Run(path) for path in (every_run() if among is None else among)]
    policies = {path.resolve() for path in policies_of(lm, runs)}
    return [each for each in groups(runs) if each.count > 1 and policies & {run.path.resolve() for run in each.runs}]


def summarise_run(run: Run) -> pd.DataFrame:
    """Return the last logged KL and rewards of a run: metric, value, ci_low, ci_high, n."""
    frame = run.metrics()
    rows = frame[frame[KL].notna()] if KL in frame else frame.iloc[:0]
    last = [(name, float(rows[name].iloc[-1])) for name in LOGGED if name in rows and len(rows)]
    exact = pd.DataFrame(last, columns=["metric", "value"])
    exact = exact.assign(ci_low=float("nan"), ci_high=float("nan"), n=QUESTIONS)
    sampled = run.headline[run.headline["metric"].str.endswith(SAMPLED)]
    return pd.concat([exact, sampled], ignore_index=True) if len(sampled) else exact


@analysis("rewards", title="Over trainings", equations=(MEAN,), key="rew")
def compare_trainings(
    lm: LM,
    *,
    among: Among = None,
) -> Ends:
    """Measure final rewards and KL of policies over several trainings, each against its own base and reward model.

    For every policy trained from the base, all runs that differ only by seed are included. The last logged KL and
    rewards of a training are exact, on 64 fixed questions; headline metrics are sampled. Means over trainings have 95 %
    t intervals.

    Args:
        lm: base of one training of each policy.
        among: folders of all known runs; by default those in the folders of runs.

    Raises:
        DataError: no policy of this base was trained with several seeds.
    """
    found = several_of(lm, among)
    if not found:
        raise DataError(
            "No policy of this base was trained with several seeds: train some, each from a base of its own."
        )
    summaries = {each.name: [summarise_run(run) for run in each.runs] for each in found}
    means = [over_trainings(summaries[each.name], each.units).assign(run=each.name) for each in found]
    seeds = [
        table.assign(run=each.name, seed=run.seed)
        for each in found
        for run, table in zip(each.runs, summaries[each.name], strict=True)
    ]
    known = {path.name: Run(path) for path in (every_run() if among is None else among)}
    look = style_runs(known, groups(known.values()))
    return Ends(
        pd.concat(means, ignore_index=True)[["run", "metric", "value", "ci_low", "ci_high", "n", "apart"]],
        pd.concat(seeds, ignore_index=True)[["run", "seed", "metric", "value"]],
        {each.name: look[each.first.name] for each in found},
        cautions({each.name: each for each in found}),
    )
