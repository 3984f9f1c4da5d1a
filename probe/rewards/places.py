"""Analysis of policies under the exact frontier of their base: rewards and KL of each.

Axes: P prompts, A answers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ProbeError
from probe.model.in_memory import stamp_of
from probe.model.lm import LM
from probe.model.references import resolve
from probe.numbers import format_interval, rate
from probe.plotting.curves import Style
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.plotting.series import (
    IDEAL,
)
from probe.plotting.theme import method_colour
from probe.rewards.causes import run_of
from probe.rewards.figures import FrontierView, records, reward_frontier, reward_gains
from probe.rewards.frontiers import place, read_evaluations
from probe.rewards.ground import (
    LISTED,
    Among,
    By,
    Judge,
    Kinds,
    answers_of,
    every_run,
    has_answers,
    list_answers,
    listing_seconds,
    reading_seconds,
    run_named,
    usual_kinds,
    usual_reward,
)
from probe.rewards.moves import describe_move, join_moves
from probe.runs.ancestry import RunIndex
from probe.runs.reader import Run, list_runs
from probe.seeds.grouping import groups
from probe.seeds.looks import style_runs
from probe.seeds.t_intervals import UNKNOWN
from probe.terms import term
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

OPTIMUM = (
    r"\pi^*_\beta(y \mid x) = \pi_{ref}(y \mid x)\, e^{R(x,y)/\beta} / Z(x), \qquad"
    r"\mathrm{KL}(\pi \,\|\, \pi^*_\beta) = \mathrm{KL}(\pi \,\|\, \pi_{ref}) - \mathbb{E}_\pi[R]/\beta + \log Z"
)
AXES = {"\u221aKL": "d", "KL": "kl"}
SURE = 0.9
"""Probability of the listed answers below which a policy's position is uncertain."""
SMALL = 4e6
"""Bytes of weights per million parameters in single precision."""
SIZE, HEIGHT = (430, 330), 375
"""Size in pixels of the main figure, for its labels; and height of both figures."""

Axis = Annotated[Literal["\u221aKL", "KL"], Input("Axis", key="rew_axis")]
"""Quantity on the x axis of the frontier."""


@dataclass(frozen=True)
class Placed(Drawable):
    """Policies under the exact frontier of a reward."""

    places: pd.DataFrame
    """One row per policy, the base first: run, and the columns of `Place.row`."""
    curve: pd.DataFrame
    """Frontier of the reward."""
    best: pd.DataFrame
    """Best of N by the same reward."""
    by: str
    """Reward of the frontier: proxy or gold."""
    judge: str
    """Name of the reward model; empty without one."""
    chosen: str
    """Policy to emphasise; empty for none."""
    styles: Mapping[str, Style]
    """Style of each policy."""
    questions: int
    problems: Mapping[str, str] = field(default_factory=dict)
    """Reasons why policies are missing, by name."""
    way: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Trajectory of the chosen run, if it logged the same reward on these questions."""
    several: bool = False
    """Whether a policy has several trainings."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the base."""

    @property
    def _table(self) -> pd.DataFrame:
        """Return the places with the name of the base."""
        return self.places.assign(run=[self.looks[0].name, *self.places["run"].iloc[1:]])

    @property
    def _styles(self) -> dict[str, Style]:
        own = {self.looks[0].name: Style(self.looks[0].colour), "best of N": Style(str(IDEAL["color"]), "longdash")}
        return {**self.styles, **own}

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain which places are uncertain, which policies are missing, and what the figures show."""
        rows = self._table[self._table["mass"] < SURE]
        unsure = [
            f"Only {rate(mass)} of the answers of {name} are listed, so its position is not comparable."
            for name, mass in zip(rows["run"], rows["mass"], strict=True)
        ]
        missing = [f"{name} is not shown: {why}" for name, why in self.problems.items()]
        lead = (
            f"Left: rewards and KL are exact sums over the answers to {self.questions} questions; the line is the"
            " largest reward of any policy at a KL. Dotted: KL in excess of the optimum with the same reward,"
            " which is exactly KL(policy \u2225 pi*_beta), in nats after each name. Dashed: best of N. Rings: a"
            " training trajectory, where the run logged the same. Right: differences from the base with 95 %"
            " intervals over questions." + ("" if self.several else f" {UNKNOWN}")
        )
        return (*unsure, *missing, lead)

    def sentence(self) -> str:
        """Report what the chosen policy earned and its KL; without one, name the policy closest to the optimum."""
        return describe_places(self._table, self.chosen, self.by, self.judge)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the places and the frontier."""
        return {"standings": self._table, "frontier": self.curve}

    def data(self, figure: str) -> pd.DataFrame:
        """Return the places, which both figures show."""
        return self._table

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the places, the base first."""
        names = ["run", "kl", "excess", *self._gains, *(name for name in ("proxy", "gold") if name in self.places)]
        return {"Policies": self._table[[*names, "beta", "mass"]]}

    @property
    def _gains(self) -> list[str]:
        return [name for name in ("gain_proxy", "gain_gold") if name in self.places]

    def figures(self, axis: Axis = "\u221aKL") -> "dict[str, go.Figure]":
        """Draw every policy under the frontier, and each one's gain and excess KL.

        Args:
            axis: KL or its square root.
        """
        proxy = f"proxy reward ({self.judge}, exact), nats"
        label = proxy if self.by == "proxy" else "true reward (exact)"
        view = FrontierView(reward=self.by, label=label, axis=AXES[axis], chosen=self.chosen or None, size=SIZE)
        frontier = reward_frontier(self.curve, self._table, self._styles, view, best_of_n=self.best, paths=self.way)
        titles = {name: term(name, "rewards").label for name in (*self._gains, "excess")}
        gains = reward_gains(self._table, self._styles, titles, self.chosen or None)
        return {
            "frontier": titled(frontier, f"{len(self.places)} policies under the exact frontier", HEIGHT),
            "gains": titled(gains, "Gained over the base, KL in excess", HEIGHT),
        }


def describe_places(places: pd.DataFrame, chosen: str, by: str, judge: str) -> str:
    """Report what a policy earned and its KL; without one, name the policy closest to the optimum.

    Args:
        places: places of `Placed`.
        chosen: the policy.
        by: reward of the frontier.
        judge: name of the reward model; empty without one.
    """
    rows, kind = places.set_index("run", drop=False), "true" if by == "gold" else by
    if chosen not in rows.index:
        others = rows.iloc[1:]
        if not len(others):
            return "No run came from this base model; train one, or choose the model that your runs started from."
        gaining = others[others[f"gain_{by}"] > 0]
        if not len(gaining):
            return f"No run has more {kind} reward than the base model."
        nearest = str(gaining["excess"].idxmin())
        off = _nats(records(gaining.loc[[nearest]])[0], "excess")
        of = f"Of the runs that gain {kind} reward, " * (len(gaining) < len(others))
        return (
            f"{of}{nearest} is nearest to the exact frontier of the {kind} reward: it spends {off} more KL than needed."
        )
    row = records(rows.loc[[chosen]])[0]
    moves = [describe_move(row, "gain_proxy", f"the proxy ({judge})", "nats")] if judge else []
    moves.append(describe_move(row, "gain_gold", "the true reward", "score"))
    summary = f"{chosen} {join_moves(moves)}"
    if row[f"gain_{by}"] <= 0:
        return f"{summary}; it spends {_nats(row, 'kl')} of KL and gains no {kind} reward."
    return f"{summary}; it spends {_nats(row, 'excess')} more KL than the optimum of the {kind} reward."


def _nats(row: Mapping[str, float], name: str) -> str:
    return f"{format_interval(row[name], row[f'{name}_low'], row[f'{name}_high'])} nats"


def policies_of(lm: LM, there: Collection[Run] | None = None) -> tuple[Path, ...]:
    """Return the runs that were trained from a base or refer to it, in its world, oldest first.

    Args:
        lm: the base.
        there: candidate runs; by default those in the folders of runs.
    """
    runs = [*(list_runs() if there is None else there)]
    own, index = run_of(lm), RunIndex(runs)
    world = next((_world(run) for run in runs if run.path.resolve() == own), None)
    found = []
    for run in runs:
        if run.method == "reward-model" or run.path.resolve() == own or _world(run) != world:
            continue
        origins = [index.find(ref, run) for ref in (run.reference, run.parent) if ref]
        if own in [each.path.resolve() for each in origins if each is not None] and run.checkpoints():
            found.append(run.path)
    return tuple(found)


def _world(run: Run) -> object:
    return (run.world or {}).get("hash")


def placing_seconds(lm: LM, kinds: tuple[str, ...], policy: str | Path) -> float:
    """Estimate the seconds for one policy; 0 if its answers are in memory."""
    try:
        size = 0 if has_answers(lm, kinds, policy) else stamp_of(resolve(policy).directory)[1]
    except ProbeError:  # the analysis itself reports why it cannot be used
        return 0.0
    return reading_seconds(LISTED, lm) * size / (SMALL * lm.n_parameters / 1e6)


def places_seconds(
    lm: LM, *, kinds: tuple[str, ...], reward: str | Path | None, policies: tuple[Path, ...], **rest: object
) -> float:
    """Estimate the seconds for listing the answers and for all policies."""
    return listing_seconds(lm, kinds, reward) + sum(placing_seconds(lm, kinds, each) for each in policies)


@analysis(
    "rewards",
    title="Policies under the frontier",
    equations=(OPTIMUM,),
    seconds=places_seconds,
    key="rew",
    widths=((5, 4),),
)
def place_policies(
    lm: LM,
    *,
    kinds: Kinds = None,
    reward: Judge = None,
    policy: Annotated[Path | None, Input("Chosen policy", advanced=True)] = None,
    policies: Annotated[tuple[Path, ...] | None, Input("Policies", first=policies_of, advanced=True)] = None,
    among: Among = None,
    by: By = None,
    tick: Tick = ignore,
) -> Placed:
    """Measure the rewards and the KL of policies against the exact optimum of their base.

    All policies answer the same 64 questions. KL and expected rewards are exact sums over the listed answers,
    conditioned on giving one of them. The proxy is the reward model's scalar at the end of the text, in nats of
    Bradley-Terry log-odds; the true reward (gold) is the world's verifier: +1 true, 0 abstains, -1 otherwise. The
    frontier is the largest reward that any policy can have at a KL (E12). Excess is the distance to the nearest optimum
    over all beta; for a policy with less reward than the base there is no such optimum, so all of its KL is excess.

    Args:
        lm: the base; it must have a world.
        kinds: kinds of questions; by default known facts, true and false claims, and unseen entities.
        reward: a reward model, the proxy.
        policy: policy that the sentence is about.
        policies: folders of runs or models; by default the runs that were trained from the base.
        among: folders of all known runs; by default those in the folders of runs.
        by: reward of the frontier: the proxy, if there is a reward model, or gold, the world's verifier.
        tick: called with the progress.

    Raises:
        DataError: the base has no world, or there is no such reward.
    """
    kinds = usual_kinds(lm) if kinds is None else tuple(kinds)
    name = by or usual_reward(lm, reward=reward, policy=policy)
    ground = list_answers(lm, kinds, reward)
    ground.field.reward(name)  # raises an error that lists the rewards
    paths = [*(policies_of(lm) if policies is None else policies)]
    paths += [policy] if policy is not None and policy.name not in {path.name for path in paths} else []
    rows, problems = [{"run": "base", **place(ground.field.answers.logprobs, ground.field, name).row()}], {}
    for index, path in enumerate(paths):
        tick((1 + index) / (1 + len(paths)))
        try:
            rows.append({"run": path.name, **place(answers_of(lm, kinds, path), ground.field, name).row()})
        except ProbeError as error:
            problems[path.name] = str(error)
    runs = [Run(path) for path in (every_run() if among is None else among)]
    apart = groups(runs)
    placed = {path.name for path in paths}
    return Placed(
        places=pd.DataFrame(rows),
        curve=ground.curves[name],
        best=ground.best[name],
        by=name,
        judge="" if reward is None else Path(reward).name,
        chosen="" if policy is None else policy.name,
        styles=_styles(paths, style_runs({run.name: run for run in runs}, apart)),
        questions=len(ground.field.kinds),
        problems=problems,
        way=_way(policy, kinds, reward) if name == "proxy" else {},
        several=any(group.count > 1 and placed & {run.name for run in group.runs} for group in apart),
    )


def _styles(paths: Collection[Path], known: Mapping[str, Style]) -> dict[str, Style]:
    """Return the style of each policy: an earlier step of a run in its run's colour, other models in separate ones."""
    found = {}
    for path in paths:
        run = path.name.rpartition("@")[0]
        earlier = Style(known[run].colour, "dot") if run in known else Style(method_colour("other"))
        found[path.name] = known.get(path.name, earlier)
    return found


def _way(chosen: Path | None, kinds: tuple[str, ...], reward: str | Path | None) -> dict[str, pd.DataFrame]:
    """Return the trajectory of the chosen run, if it logged itself on these questions with this reward model."""
    if chosen is None or reward is None:
        return {}
    run, judge = run_named(chosen), run_named(reward)
    if run is None or judge is None:
        return {}
    same = tuple((run.meta.get("data") or {}).get("kinds") or ()) == kinds
    if not same or not run.reward_model or RunIndex([judge]).find(run.reward_model, run) is None:
        return {}
    table = read_evaluations(run)
    return {chosen.name: table} if len(table) > 1 else {}
