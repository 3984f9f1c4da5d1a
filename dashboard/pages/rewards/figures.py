"""The Rewards page: overoptimisation along training trajectories."""

from typing import Literal

import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.pages.rewards.choices import FORM, RUNS, Detail, Placement, Scene
from dashboard.pages.rewards.words import fit_table, fit_words
from dashboard.state import begin
from probe.rewards.figures import overoptimisation
from probe.rewards.frontiers import FORMS, Fit, fit, read_evaluations
from probe.runs.reader import Run
from probe.texts import visible

TITLES = {"proxy": "proxy reward (exact): what was optimised", "gold": "true reward (exact): what was wanted"}
FEWEST = 4
"""Logged evaluations that a run needs to be fitted, the first one included."""
BEST = "best of N"


def choose_points(scene: Scene, placement: Placement) -> tuple[dict[str, pd.DataFrame], Literal["bon", "rl"]]:
    """Points by series, columns d, kl, proxy and gold, and the form that the runs are fitted with."""
    store = scene.shared.store
    logs = {name: _read_log(str(run.path), data.stamp(run.path / data.METRICS)) for name, run in store.runs.items()}
    logs = {name: table for name, table in logs.items() if len(table) >= FEWEST and table["d"].max() > 0}
    judges = {name: store.label(store.runs[name].reward_model, store.runs[name]) for name in logs}
    same = [name for name in logs if scene.reward_name and judges[name] == scene.reward_name]
    key = begin(RUNS, same or [name for name in logs if name == scene.shared.aligned])
    left, right = st.columns([4, 3], vertical_alignment="bottom", gap="medium")
    with left:
        names = st.multiselect("Training trajectories", list(logs), key=key, bind="query-params", format_func=visible)
    with right:
        form = st.segmented_control(
            "Fitted with",
            list(FORMS),
            format_func=lambda name: FORMS[name],
            default="rl",
            key=FORM,
            bind="query-params",
            required=True,
        )
    points = {name: logs[name].rename(columns={"reward": "proxy"}) for name in names}
    if scene.reward:
        points[BEST] = placement.ground.best["proxy"]
    return points, form


@st.cache_data(show_spinner=False, max_entries=64)
def _read_log(path: str, version: data.Stamp) -> pd.DataFrame:
    return read_evaluations(data.metrics(Run(path)))


def fits_of(points: dict[str, pd.DataFrame], form: Literal["bon", "rl"]) -> dict[tuple[str, str], Fit]:
    """Fits by series and reward, from the first row's reward; best of N always in its own form."""
    fits = {}
    for name, table in points.items():
        for reward in TITLES:
            later = table[["d", reward]].iloc[1:].dropna()
            if len(later) >= FEWEST - 1 and later["d"].nunique() > 1:
                shape: Literal["bon", "rl"] = "bon" if name == BEST else form
                points_of = tuple(later["d"]), tuple(later[reward])
                fits[name, reward] = _fit(*points_of, shape, float(table[reward].iloc[0]))
    return fits


@st.cache_data(show_spinner=False, max_entries=256)
def _fit(d: tuple[float, ...], reward: tuple[float, ...], form: Literal["bon", "rl"], origin: float) -> Fit:
    return fit(d, reward, form, origin)


def draw_overoptimisation(scene: Scene, placement: Placement) -> Detail:
    """Reward against d with the fits of Gao et al."""
    points, form = choose_points(scene, placement)
    if not points:
        note(
            "No run is chosen that logged where it stood while it was trained; methods with a reference do in a world."
        )
        return Detail()
    fits = fits_of(points, form)
    table = pd.concat([part.assign(series=name) for name, part in points.items()], ignore_index=True)
    table = table[[name for name in ("series", "step", "n", "d", "kl", "proxy", "gold") if name in table]]
    chart = overoptimisation(points, fits, placement.styles, TITLES)
    figure(
        chart.update_layout(height=380),
        table,
        "overoptimisation",
        title="Reward against d, and the fits",
        source=scene.source,
    )
    note(fit_words(fits))
    show_table(fit_table(fits), hide_index=True, key="rew-fits")
    rows = [{"series": name, "reward": reward, **each.row()} for (name, reward), each in fits.items()]
    return Detail({"points": table, "fits": pd.DataFrame(rows)})
