"""Sections of the Logits page beyond one token: how far apart two models are, what they write, their training."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.figure import figure
from dashboard.parts.logits import results
from dashboard.parts.logits.views import Question
from dashboard.state import Shared, keep
from dashboard.text import note
from probe.analyses.trajectories_trained import (
    MEASURES,
    attribution_over_training,
    over_training,
    promoted_over_training,
)
from probe.captured import most_moved
from probe.errors import DataError
from probe.plots.lens import layer_names
from probe.plots.pairs import kl_bars
from probe.plots.theme import method_colour
from probe.plots.trajectories import Side, curves, kl_map, training_lines, training_map, training_parts

if TYPE_CHECKING:
    from probe.analyses.trajectories import PairTrajectory
    from probe.runs.reader import Run

COSTLY = 2e7
"""Parameters above which a model writes only when asked to."""
SECONDS = 1e-9
"""Seconds that one parameter takes for one token, roughly, on one core."""


def distance(asked: Question, both: "PairTrajectory") -> None:
    """KL of the two models along the text, and by layer around the chosen token."""
    left, right = st.columns(2, gap="medium")
    table = pd.DataFrame({"position": range(len(both.tokens)), "token": both.tokens, "kl": both.token_kl})
    with left:
        chart = kl_bars(both.token_kl, both.tokens, chosen=asked.target.position, colour=asked.sides[1].colour)
        title = "How far apart they are after each token"
        figure(chart, table, "log-kl", title=title, height=300, source=asked.source, on_select=_take_position)
    with right:
        if both.kl is None:
            note("The models have different depths, so their layers have no counterparts.")
            return
        start, stop = asked.window
        chart = kl_map(both.kl, asked.tokens[start:stop], width=440)
        frame = both.table()
        kept = frame[frame["measure"] == "kl"].drop(columns=["measure", "answer"])
        figure(chart, kept, "log-kl-layers", title="The same after each layer", height=300, source=asked.source)


def writing(asked: Question) -> None:
    """What the models held likely before every token that they write."""
    left, right = st.columns([3, 9], vertical_alignment="bottom", gap="medium")
    with left:
        n = int(st.slider("Tokens to write", 1, 32, 8, key="log_new", bind="query-params"))
    waiting = [side for side in asked.sides if side.lm.n_parameters > COSTLY and not results.is_written(side, asked, n)]
    if waiting:
        seconds = sum(SECONDS * side.lm.n_parameters * n for side in waiting)
        with right:
            pressed = st.button(f"Write {n} tokens (about {max(1, round(seconds))} s)", key="log-write")
        if not pressed:
            return
    told = [results.written(side, asked, n) for side in asked.sides]
    with right:
        for side, each in zip(asked.sides, told, strict=True):
            blanks = any(token.startswith("\u00b7") for token in each.tokens)
            note(f"{side.name}: {('' if blanks else ' ').join(each.tokens)}")
    sides = [
        Side(side.name, side.colour, each.entropy, each.margin, each.logprobs, each.ranks, each.tokens)
        for side, each in zip(asked.sides, told, strict=True)
    ]
    longest = max(told, key=lambda each: len(each.tokens))
    ticks = told[0].tokens if len(told) == 1 else [str(step) for step in range(len(longest.tokens))]
    axis = "written token"
    chart = curves(sides, told[-1].answers, axis=axis, ticks=ticks, columns=4, height=290)
    frames = [each.table().assign(model=side.name) for side, each in zip(asked.sides, told, strict=True)]
    title = "Before every token that is written"
    figure(chart, pd.concat(frames, ignore_index=True), "log-written", title=title, source=asked.source)


def training(shared: Shared) -> tuple[str, int, dict[str, pd.DataFrame]] | None:
    """The same measures over the captured steps of a run, without its model; gives run, prompt and tables."""
    order = [shared.label(shared.aligned), shared.label(shared.base), *shared.store.runs]
    names = [name for name in dict.fromkeys(order) if name in shared.store.runs]
    watched = [name for name in names if name and len(data.captures(shared.store.runs[name]))]
    if not watched:
        note("No run here has captures; `probe train` makes them every --capture-every steps.")
        return None
    keep("log_run", watched, watched[0])
    columns = st.columns([3, 5, 4], gap="medium")
    with columns[0]:
        label = st.selectbox("Run", watched, key="log_run", bind="query-params")
    run = shared.store.runs[label]
    found = data.captures(run)
    prompts = {prompt.text: index for index, prompt in enumerate(found.prompts)}
    ends = data.capture(run, found.steps[0]), data.capture(run, found.steps[-1])
    moved = list(prompts)[min(most_moved(*ends, found.prompts), len(prompts) - 1)]
    keep("log_captured", prompts, shared.prompt if shared.prompt in prompts else moved)
    with columns[1]:
        text = st.selectbox("Captured prompt", list(prompts), key="log_captured", bind="query-params")
    prompt = found.prompts[prompts[text]]
    table = _trained(str(run.path), prompts[text], tuple(found.steps), run)
    wanted = {f"log p({answer.strip()})": ("logprob", answer) for answer in prompt.answers}
    wanted |= {f"rank of {answer.strip()}": ("rank", answer) for answer in prompt.answers}
    by_layer = table.groupby("measure")["layer"].nunique()
    whole = by_layer.get("entropy", 0) > 1
    wanted |= {"entropy": ("entropy", "")} if whole else {}
    wanted |= {"margin": ("margin", ""), "residual norm": ("residual_norm", "")}
    keep("log_measure", wanted, next(iter(wanted)))
    with columns[2]:
        name = st.selectbox("Colour", list(wanted), key="log_measure", bind="query-params")
    _training_figures(run, label, found.steps, table, name, wanted[name], prompt.answers)
    tables = {"training": table}
    parts = _parts(str(run.path), prompts[text], tuple(found.steps), run) if prompt.answers else None
    if parts is not None:
        tables["training-parts"] = parts
        _parts_figure(run, label, parts, [answer.strip() for answer in prompt.answers[:2]], prompts[text])
        named = _promoted(str(run.path), prompts[text], tuple(found.steps), run)
        if named is not None:
            tables["training-promoted"] = named
            _promoted_table(label, parts, named)
    if not whole:
        note(
            f"{label} was captured before this version of Probe: its captures lack the entropy of inner layers, ranks "
            "behind the five favourites, and what each head and MLP adds. A new run has them."
        )
    elif parts is None and prompt.answers:
        note(f"The heads and MLPs of {label} do not sum to its logits, so its captures do not say what each part adds.")
    elif parts is None:
        note("This prompt has no answers, so there is no logit to split into heads and MLPs.")
    return str(run.path), prompts[text], tables


def _parts_figure(run: "Run", label: str, table: pd.DataFrame, answers: list[str], prompt: int) -> None:
    """The strongest heads and MLPs over the training steps."""
    shown = table[table["layer"] >= 0]
    grid = shown.assign(name=_part_names(shown)).pivot(index="name", columns="step", values="value")
    word, steps = " \u2212 ".join(answers), [int(step) for step in grid.columns]
    chart = training_parts(grid.to_numpy(dtype=float), steps, grid.index.tolist(), label=word)
    title = f"{label}: what the strongest parts add to {word} over training"
    rows = min(12, len(grid))
    source: dict[str, object] = {"run": str(run.path), "prompt": prompt}
    figure(chart, table, "log-training-parts", title=title, height=120 + 22 * rows, source=source)
    note(
        f"Each row is what a head or MLP adds directly to the logit of {word}, after the last token; the highest "
        "row added or took most at some step. The CSV holds all parts and the rest, which together are the logit."
    )


def _promoted_table(label: str, parts: pd.DataFrame, named: pd.DataFrame) -> None:
    """What one part promoted and suppressed at each captured step; first the one that moved the logit most."""
    names = list(dict.fromkeys(_part_names(named)))
    strongest = parts[parts["layer"] >= 0]
    first = str(_part_names(strongest).iloc[int(strongest["value"].abs().argmax())])
    keep("log_trained_part", names, first)
    chosen = st.selectbox("Part", names, key="log_trained_part", bind="query-params")
    rows = named[_part_names(named) == chosen]
    table = rows.pivot_table(index="step", columns="kind", values="token", aggfunc="  ".join, sort=True)
    st.dataframe(table.reset_index(), hide_index=True, key="log-training-promoted")
    note(f"The tokens whose logits {chosen} of {label} raised and lowered most after the last token, strongest first.")


def _part_names(table: pd.DataFrame) -> pd.Series:
    return "L" + table["layer"].astype(str) + table["part"].where(table["part"] != "MLP", " MLP")


def _training_figures(
    run: "Run",
    label: str,
    steps: list[int],
    table: pd.DataFrame,
    name: str,
    wanted: tuple[str, str],
    answers: list[str],
) -> None:
    measure, answer = wanted
    rows = table[(table["measure"] == measure) & (table["answer"] == answer)]
    grid = rows.pivot(index="layer", columns="step", values="value").reindex(columns=steps)
    ranks = measure == "rank"
    values = grid.to_numpy(dtype=float) + ranks  # counted from 1, as everywhere on the page
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if np.isfinite(values).any() else (0.0, 1.0)
    ends = {"logprob": (max(-20.0, low), 0.0), "rank": (1.0, max(high, 5.0))}
    low, high = ends.get(measure, (0.0, max(high, 1e-6)))
    source: dict[str, object] = {"run": str(run.path), "prompt": int(rows["position"].iloc[0])}
    left, right = st.columns([4, 5], gap="medium")
    with left:
        unit = "1 = likeliest" if ranks else MEASURES[measure].partition("(")[2].rstrip(")")
        label_text = f"{name}\n{unit}" if unit else name
        names = layer_names(len(grid))
        chart = training_map(values, steps, names, label=label_text, low=low, high=high, logarithmic=ranks)
        title = f"{label}: {name} by layer"
        figure(chart, rows, "log-training-layers", title=title, height=300, source=source)
    with right:
        last = table[table["layer"] == table["layer"].max()]
        panels = {"log-probability (nats)": {each.strip(): _line(last, "logprob", each, steps) for each in answers}}
        panels |= {f"{each} (nats)": {each: _line(last, each, "", steps)} for each in ("entropy", "margin")}
        panels = {title: lines for title, lines in panels.items() if lines}
        chart = training_lines(panels, steps, colour=method_colour(run.method))
        figure(chart, last, "log-training", title="The output over training", height=300, source=source)


def _line(table: pd.DataFrame, measure: str, answer: str, steps: list[int]) -> np.ndarray:
    rows = table[(table["measure"] == measure) & (table["answer"] == answer)].set_index("step")["value"]
    return rows.reindex(steps).to_numpy(dtype=float)


@st.cache_data(show_spinner="Reading the captures", max_entries=64)
def _trained(path: str, prompt: int, steps: tuple[int, ...], _run: "Run") -> pd.DataFrame:
    with data.quiet():
        return over_training(_run, prompt)


@st.cache_data(show_spinner="Reading the captures", max_entries=64)
def _parts(path: str, prompt: int, steps: tuple[int, ...], _run: "Run") -> pd.DataFrame | None:
    """What each part added at each captured step; None where that was not captured."""
    with data.quiet():
        try:
            return attribution_over_training(_run, prompt)
        except DataError:
            return None


@st.cache_data(show_spinner="Reading the captures", max_entries=64)
def _promoted(path: str, prompt: int, steps: tuple[int, ...], _run: "Run") -> pd.DataFrame | None:
    """What each part promoted at each captured step; None where that was not captured."""
    with data.quiet():
        try:
            return promoted_over_training(_run, prompt)
        except DataError:
            return None


def _take_position(points: list[dict]) -> None:
    if isinstance(points[0].get("x"), int | float):
        st.session_state["log_position"] = int(points[0]["x"])
