"""The Rewards page: rewards of samples before and after alignment, and while it was trained."""

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard.components.figure import figure
from dashboard.models import computed, ready
from dashboard.state import keep
from dashboard.text import note
from probe.plots.intervals import written
from probe.plots.reward_samples import reward_distributions, shift_curves

if TYPE_CHECKING:
    from probe.lm import LM
    from probe.runs.reader import Run

PATIENCE_S = 3.0
"""What is computed without being asked for; beyond that a button says what it costs."""
PER_PASS_S = 4e-10
"""Seconds for each parameter and short text, measured on one core."""
QUESTIONS = 64
TITLES = {"proxy": "proxy reward", "gold": "gold reward (verifier)", "implicit": "implicit reward (nats)"}


def cost_s(passes: int, *lms: "LM") -> float:
    """Roughly what `passes` short texts through each model take."""
    return PER_PASS_S * passes * sum(lm.n_parameters for lm in lms)


def agreed(what: str, seconds: float, key: str) -> bool:
    """Whether something may be computed: it is cheap, or the reader pressed the button that says what it costs."""
    if seconds <= PATIENCE_S:
        return True
    return st.button(f"{what} (about {seconds:.0f} s)", key=key, icon=":material/play_arrow:")


def draw_samples(base: "LM", aligned: "LM", reward: "LM | None", **options: Any) -> pd.DataFrame | None:
    """The samples of both models, once they are cheap, asked for or known.

    Args:
        base: the reference.
        aligned: the other model.
        reward: a scalar LM.
        options: kinds of the world's questions (a tuple; empty: the prompt), prompt, n, beta.
    """
    lms = [base, aligned, *([reward] if reward else [])]
    count = options["n"] * (QUESTIONS if options["kinds"] else 1)
    if ready(_samples, *lms, **options) is None and not agreed("Draw the samples", cost_s(count, *lms), "rew-draw"):
        return None
    return computed(_samples, *lms, say="Both models answer, every answer is judged", steps=True, **options)


def _samples(base: "LM", aligned: "LM", *reward: "LM", tick: Any, **options: Any) -> pd.DataFrame:
    from probe.analyses.reward_frontier import ask, model_reward
    from probe.analyses.reward_shift import samples
    from probe.world import of

    world = of(base)
    asked = ask(world, options["kinds"]) if world and options["kinds"] else []
    return samples(
        base,
        aligned,
        [item.prompt for item in asked] or [options["prompt"]],
        model_reward(reward[0]) if reward else None,
        world,
        n=options["n"],
        beta=options["beta"],
        kinds=[item.kind for item in asked],
        tick=tick,
    )


@st.cache_data(show_spinner=False, max_entries=32)
def summarised(table: pd.DataFrame) -> pd.DataFrame:
    """`reward_shift.summary` as it is shown: one line a measure, numbers with their intervals in words."""
    from probe.analyses.reward_shift import summary

    rows = []
    for row in summary(table).to_dict("records"):
        words = {name: written(*(row[name + end] for end in ("", "_low", "_high"))) for name in ("base", "aligned")}
        change = written(*(row["difference" + end] for end in ("", "_low", "_high")))
        wins = f"{100 * row['win']:.0f} %"
        rows.append({"measure": row["measure"], **words, "aligned \u2212 base": change, "aligned higher": wins})
    return pd.DataFrame(rows)


def distributions(table: pd.DataFrame, names: tuple[str, str], colours: tuple[str, str], source: dict) -> None:
    """Figure and table of rewards before and after, of all questions or those of one kind."""
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind]
    if len(kinds) > 1:
        keep("rew_kind", ["all", *kinds], "all")
        kind = st.segmented_control("Kind", ["all", *kinds], key="rew_kind", bind="query-params", required=True)
        table = table if kind == "all" else table[table["kind"] == kind]
    known = [measure for measure in TITLES if measure in table and table[measure].notna().any()]
    chart = reward_distributions(table, names, colours, known)
    title = f"Rewards of {len(table):,} answers to {table['prompt'].nunique()} prompts"
    figure(chart, table, "distributions", title=title, height=300, source=source)
    shown = summarised(table).rename(columns={"base": names[0], "aligned": names[1]})
    st.dataframe(shown, hide_index=True, key="rew-summary")


def over_training(run: "Run", colour: str) -> None:
    """The rewards of the samples that a run captured, step by step; without the model."""
    table = _curve(str(run.path), run.steps, run.status)
    if table is None:
        note(f"{run.name} captured no reward shift: train with --capture-every by a method that has a reference.")
        return
    measures = [name for name in ("proxy", "gold", "kl", "implicit") if name in set(table["measure"])]
    chart = shift_curves(table, colour, measures)
    title = f"Samples that {run.name} captured while it was trained"
    figure(chart, table, "shift-curve", title=title, height=270, source={"run": str(run.path)})


@st.cache_data(show_spinner="Reading the captures", max_entries=16)
def _curve(path: str, steps: int, status: str) -> pd.DataFrame | None:
    from probe.analyses.rewards import shift_curve, shift_steps
    from probe.runs.reader import Run

    run = Run(path)
    return shift_curve(run) if shift_steps(run) else None
