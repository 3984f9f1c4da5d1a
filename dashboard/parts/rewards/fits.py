"""The Rewards page: overoptimisation on the way of runs, and best of N against its bound."""

from typing import Literal

import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.figure import figure
from dashboard.parts.rewards.scene import Placed, Scene
from dashboard.parts.rewards.words import fit_table, fit_words
from dashboard.text import note
from probe.rewards.figures import best_of_n, overoptimisation
from probe.rewards.frontiers import FORMS, Fit, fit, logged
from probe.runs.reader import Run

TITLES = {"proxy": "proxy: what was optimised", "gold": "gold: what was wanted"}
FEWEST = 4
"""Logged evaluations that a run needs to be fitted, the first one included."""
BEST = "best of N"


def choose_points(scene: Scene, placed: Placed) -> tuple[dict[str, pd.DataFrame], Literal["bon", "rl"]]:
    """Points by series, columns d, kl, proxy and gold, and the form that the runs are fitted with."""
    store = scene.shared.store
    known = {name: _logged(str(run.path), data.stamp(run.path / data.METRICS)) for name, run in store.runs.items()}
    known = {name: table for name, table in known.items() if len(table) >= FEWEST and table["d"].max() > 0}
    rewarded = {name: store.label(store.runs[name].reward_model, store.runs[name]) for name in known}
    same = [name for name in known if scene.reward_name and rewarded[name] == scene.reward_name]
    if "rew_runs" not in st.session_state and "rew_runs" not in st.query_params:
        st.session_state["rew_runs"] = same or [name for name in known if name == scene.shared.aligned]
    left, right = st.columns([4, 3], vertical_alignment="bottom", gap="medium")
    with left:
        names = st.multiselect("Runs on their way", list(known), key="rew_runs", bind="query-params")
    with right:
        form = st.segmented_control(
            "Fitted with",
            list(FORMS),
            format_func=lambda name: FORMS[name],
            default="rl",
            key="rew_form",
            bind="query-params",
            required=True,
        )
    points = {name: known[name].rename(columns={"reward": "proxy"}) for name in names}
    if scene.reward:
        points[BEST] = placed.ground.best["proxy"]
    return points, form


@st.cache_data(show_spinner=False, max_entries=64)
def _logged(path: str, changed: data.Stamp) -> pd.DataFrame:
    return logged(data.metrics(Run(path)))


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


def overoptimised(scene: Scene, placed: Placed) -> dict[str, pd.DataFrame]:
    """Reward against d with the fits of Gao et al.; gives the tables to download."""
    st.subheader("Overoptimisation", anchor=False)
    points, form = choose_points(scene, placed)
    if not points:
        note(
            "No run is chosen that logged where it stood while it was trained; methods with a reference do in a world."
        )
        return {}
    fits = fits_of(points, form)
    table = pd.concat([part.assign(series=name) for name, part in points.items()], ignore_index=True)
    table = table[[name for name in ("series", "step", "n", "d", "kl", "proxy", "gold") if name in table]]
    chart = overoptimisation(points, fits, placed.look, TITLES)
    figure(
        chart.update_layout(height=380),
        table,
        "overoptimisation",
        title="Reward against d, and the fits",
        source=scene.source,
    )
    note(fit_words(fits))
    st.dataframe(fit_table(fits), hide_index=True, key="rew-fits")
    rows = [{"series": name, "reward": reward, **found.row()} for (name, reward), found in fits.items()]
    return {"points": table, "fits": pd.DataFrame(rows)}


def bound(scene: Scene, placed: Placed) -> None:
    """The exact best of N against its bound."""
    st.subheader("Best of N", anchor=False)
    table = placed.ground.best[placed.by]
    chart = best_of_n(table, placed.ground.curves[placed.by], reward=placed.by, label=f"{placed.by} reward")
    figure(
        chart.update_layout(height=340), table, "best-of-n", title="Best of N against its bound", source=scene.source
    )
    last = table.iloc[-1]
    note(
        f"At N = {last['n']:.0f} the bound log N \u2212 (N\u22121)/N says {last['bound']:.2f} nats and the exact KL is"
        f" {last['kl']:.2f}: draws repeat, and equal answers tie. Placed by the bound (dashed), best of N looks worse"
        f" than it is: exactly it stays within {table['excess'].max():.2f} nats of the frontier."
    )
