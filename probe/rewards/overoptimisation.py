"""Analysis of overoptimisation: proxy and true reward along training trajectories, with the fits of Gao et al."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.plotting.curves import Style
from probe.plotting.intervals import format_interval
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.plotting.series import (
    IDEAL,
)
from probe.rewards.causes import trainings_of
from probe.rewards.frontiers import FORMS, CurveFit, Form, fit, read_evaluations
from probe.rewards.ground import (
    Among,
    Judge,
    Kinds,
    every_run,
    list_answers,
    listing_seconds,
    run_named,
    usual_kinds,
)
from probe.runs.ancestry import RunIndex
from probe.runs.reader import Run
from probe.runs.schema import METRICS
from probe.seeds.grouping import groups
from probe.seeds.looks import style_runs

if TYPE_CHECKING:
    import plotly.graph_objects as go

FITS = r"d = \sqrt{\mathrm{KL}}, \qquad R_{bon} = d\,(a - b\,d), \qquad R_{rl} = d\,(a - b \log d)"
TITLES = {"proxy": "proxy reward (exact): what was optimised", "gold": "true reward (exact): what was wanted"}
FEWEST = 4
"""Minimum number of logged evaluations of a run for a fit, including the first one."""
BEST = "best of N"
CLEAR = 0.01
"""Minimum height of a peak above the base's reward that the sentence mentions."""
HEIGHT = 380
"""Height of the figure in pixels."""


def logged_runs(*lms: LM, among: Collection[Path] | None = None) -> list[str]:
    """Return the names of the runs with enough logged evaluations."""
    paths = every_run() if among is None else among
    return [path.name for path in paths if len(table := _read(path)) >= FEWEST and table["d"].max() > 0]


def usual_runs(
    *lms: LM, among: Collection[Path] | None = None, reward: str | Path | None = None, policy: Path | None = None
) -> tuple[str, ...]:
    """Return the runs that were trained by the reward model, else the chosen one; without both, those of the base."""
    paths = every_run() if among is None else among
    known, judge = logged_runs(*lms, among=paths), None if reward is None else run_named(reward)
    runs = [Run(path) for path in paths if path.name in known]
    index = RunIndex([judge] if judge else [])
    same = tuple(run.name for run in runs if run.reward_model and index.find(run.reward_model, run) is not None)
    wanted = {policy} if policy else {*trainings_of(lms[0], [*map(Run, paths)])} if judge is None else set()
    return same or tuple(name for name in known if name in {path.name for path in wanted})


def _read(path: Path) -> pd.DataFrame:
    try:
        status = (path / METRICS).stat()
    except OSError:
        return read_evaluations(pd.DataFrame())
    return _evaluations(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=256)
def _evaluations(path: Path, version: tuple[int, int]) -> pd.DataFrame:
    return read_evaluations(Run(path))


@dataclass(frozen=True)
class Overoptimised(Drawable):
    """Rewards against d = sqrt(KL) along trajectories and of best of N, with the fits."""

    points: Mapping[str, pd.DataFrame]
    """Points by series: columns d, kl, proxy and gold."""
    fits: Mapping[tuple[str, str], CurveFit]
    """Fits by series and reward."""
    styles: Mapping[str, Style]
    """Style of each series."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the base."""

    def sentence(self) -> str:
        """Report the peak of the true reward, series by series."""
        if not self.points:
            return (
                "No run is chosen that logged its reward and KL during training; methods with a reference log them in a"
                " world."
            )
        parts = []
        for (series, reward), own in self.fits.items():
            if reward != "gold":
                continue
            if own.peak_is_seen and own.top.value > CLEAR:
                parts.append(f"{series}: the true reward peaks at d = {format_interval(*own.peak)}")
            else:
                end = float(own.predict(own.d.max())) - own.origin
                way = "rises" if end > 0 else "falls"
                parts.append(f"{series}: the true reward {way} by {abs(end):.2f} to d = {own.d.max():.2f}")
        return f"{'; '.join(parts)}."

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain how the curves were fitted."""
        if not self.points:
            return ()
        return (
            "Least squares from the base's reward; a star marks a peak within the points. Points of one training are"
            " not independent of each other, so the intervals of a and b are too narrow.",
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the points and the fitted numbers."""
        parts = [part.assign(series=name) for name, part in self.points.items()]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        columns = [name for name in ("series", "step", "n", "d", "kl", "proxy", "gold") if name in table]
        rows = [{"series": name, "reward": reward, **each.row()} for (name, reward), each in self.fits.items()]
        return {"points": table[columns], "fits": pd.DataFrame(rows)}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the fitted numbers with their intervals."""
        rows: list[dict[str, Any]] = []
        for (series, reward), own in self.fits.items():
            numbers = {"a": format_interval(*own.a), "b": format_interval(*own.b), "peak at d": _peak(own)}
            rows.append({"series": series, "reward": reward, "form": FORMS[own.form], **numbers, "rmse": own.rmse})
        return {"Fits": pd.DataFrame(rows)} if rows else {}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw both rewards against d."""
        from probe.rewards.figures import overoptimisation

        if not self.points:
            return {}
        chart = overoptimisation(self.points, self.fits, self.styles, TITLES)
        return {"overoptimisation": titled(chart, "Reward against d, and the fits", HEIGHT)}


def _peak(own: CurveFit) -> str:
    if not own.peak_is_seen or own.top.value <= CLEAR:
        return "none within the points"
    return own.peak.format()


def fit_series(points: Mapping[str, pd.DataFrame], form: Form) -> dict[tuple[str, str], CurveFit]:
    """Fit each series and reward, from the first row's reward; best of N always with its own form."""
    fits = {}
    for name, table in points.items():
        for reward in TITLES:
            later = table[["d", reward]].iloc[1:].dropna()
            if len(later) >= FEWEST - 1 and later["d"].nunique() > 1:
                shape = "bon" if name == BEST else form
                fits[name, reward] = fit(later["d"], later[reward], shape, float(table[reward].iloc[0]))
    return fits


def fitting_seconds(lm: LM, *, kinds: tuple[str, ...], reward: Any, **rest: Any) -> float:
    """Estimate the seconds that listing the answers takes; 0 without a reward model."""
    return 0.0 if reward is None else listing_seconds(lm, kinds, reward)


@analysis("rewards", title="Overoptimisation", equations=(FITS,), seconds=fitting_seconds, key="rew")
def fit_overoptimisation(
    lm: LM,
    *,
    kinds: Kinds = None,
    reward: Judge = None,
    policy: Annotated[Path | None, Input("Chosen policy", advanced=True)] = None,
    among: Among = None,
    runs: Annotated[
        tuple[str, ...] | None, Input("Training trajectories", key="rew_runs", choices=logged_runs, first=usual_runs)
    ] = None,
    form: Annotated[Form, Input("Fitted with", key="rew_form", labels=cast("Mapping[str, str]", FORMS))] = "rl",
) -> Overoptimised:
    """Measure whether the true reward falls while the proxy still rises, and from which distance on.

    Trainings with a reference log expected proxy and true reward, and KL to the reference, exact on questions of their
    own kinds. Rewards are fitted against d = sqrt(KL) by the forms of Gao, Schulman and Hilton 2022 (arXiv 2210.10760):
    bon for best of N, rl for trainings. If there is a reward model, exact best of N is added.

    Args:
        lm: the base; it must have a world.
        kinds: kinds of questions for best of N; by default known facts, true and false claims, and unseen entities.
        reward: a reward model, the proxy.
        policy: policy whose trajectory is shown if the reward model trained none.
        among: folders of all known runs; by default those in the folders of runs.
        runs: names of the runs to fit; by default those that the reward model trained, or those of the base.
        form: form of the fit to trainings.

    Raises:
        DataError: there is a reward model, and the base has no world.
    """
    kinds = usual_kinds(lm) if kinds is None else tuple(kinds)
    paths = {path.name: path for path in (every_run() if among is None else among)}
    names = usual_runs(lm, among=tuple(paths.values()), reward=reward, policy=policy) if runs is None else runs
    missing = [name for name in names if name not in paths]
    if missing:
        raise DataError(f"There is no run `{missing[0]}` among those that were given: name others.")
    points = {name: _read(paths[name]).rename(columns={"reward": "proxy"}) for name in names}
    if reward is not None:
        points[BEST] = list_answers(lm, kinds, reward).best["proxy"]
    known = {path.name: Run(path) for path in paths.values()}
    look = style_runs(known, groups(known.values())) | {BEST: Style(str(IDEAL["color"]), "longdash")}
    return Overoptimised(points, fit_series(points, form), {name: look[name] for name in points})
