"""Over training, on the Logits page: what the captures of a run tell of a prompt, its parts and its KL."""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.details import TAB_DETAILS, details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.sentences import without_answers
from dashboard.state import SharedChoices, keep
from probe.errors import DataError
from probe.logits.attribution import SUM_OF_PARTS
from probe.logits.figures import layer_names
from probe.logits.lens import LENS
from probe.logits.part_figures import training_kl, training_lines, training_map, training_parts
from probe.logits.trained import (
    MEASURES,
    attribution_over_training,
    kl_over_training,
    neurons_over_training,
    over_training,
    promoted_over_training,
)
from probe.plotting.theme import method_colour
from probe.runs.captured import most_moved
from probe.texts import visible

if TYPE_CHECKING:
    from probe.runs.reader import Run

RUN, CAPTURED, MEASURE, TRAINED_PART = "log_run", "log_captured", "log_measure", "log_trained_part"
"""Keys of the run whose captures are shown, their prompt, the measure by layer, and the part whose tokens are named."""
KEYS = (RUN, CAPTURED, MEASURE, TRAINED_PART)
SHOWN = 12
"""Neurons that are drawn."""


def parts_figure(label: str, table: pd.DataFrame, answers: list[str], source: dict[str, object]) -> None:
    """Draw the strongest heads and MLPs over the training steps."""
    rows = table[table["layer"] >= 0]
    grid = rows.assign(name=part_names(rows)).pivot(index="name", columns="step", values="value")
    word, steps = " \u2212 ".join(answers), [int(step) for step in grid.columns]
    chart = training_parts(grid.to_numpy(dtype=float), steps, grid.index.tolist(), label=word)
    title = f"{label}: what the strongest parts add to {word} over training"
    figure(chart, table, "log-training-parts", title=title, height=_height(min(12, len(grid))), source=source)
    note(
        f"Each row is what a head or MLP adds directly to the logit of {word}, after the last token; the highest "
        "row added or took most at some step. The CSV holds all parts and the rest, which together are the logit."
    )


def promoted_table(label: str, parts: pd.DataFrame, named: pd.DataFrame) -> None:
    """Show what one part promoted and suppressed at each captured step; at first the part that moved the logit most."""
    names = list(dict.fromkeys(part_names(named)))
    strongest = parts[parts["layer"] >= 0]
    first = str(part_names(strongest).iloc[int(strongest["value"].abs().argmax())])
    choice = st.selectbox("Part", names, key=keep(TRAINED_PART, names, first), bind="query-params", format_func=visible)
    rows = named[part_names(named) == choice]
    table = rows.pivot_table(index="step", columns="kind", values="token", aggfunc="  ".join, sort=True)
    show_table(table.reset_index(), hide_index=True, key="log-training-promoted")
    note(f"The tokens whose logits {choice} of {label} raised and lowered most after the last token, strongest first.")


def part_names(table: pd.DataFrame) -> pd.Series:
    """`L2H1` or `L2 MLP` of each row's layer and part."""
    return "L" + table["layer"].astype(str) + table["part"].where(table["part"] != "MLP", " MLP")


def neurons_figure(label: str, table: pd.DataFrame, answers: list[str], source: dict[str, object]) -> None:
    """Draw the strongest neurons of all blocks over the training steps."""
    rows = table.assign(name="L" + table["layer"].astype(str) + " neuron " + table["neuron"].astype(str))
    grid = rows.pivot(index="name", columns="step", values="value")
    word, steps = " \u2212 ".join(answers), [int(step) for step in grid.columns]
    chart = training_parts(grid.to_numpy(dtype=float), steps, grid.index.tolist(), label=word, k=SHOWN)
    title = f"{label}: the neurons that add or take most"
    figure(chart, table, "log-training-neurons", title=title, height=_height(min(SHOWN, len(grid))), source=source)
    most = int(table["rank"].max()) + 1
    note(
        f"What single neurons add directly to the logit of {word}, after the last token. A capture names the {most} "
        "strongest of each block: a neuron without a value at some step was not among them."
    )


def kl_figure(label: str, table: pd.DataFrame, reference: str | None, source: dict[str, object]) -> None:
    """KL to the reference after every token over the training steps."""
    grid = table.pivot(index="position", columns="step", values="kl")
    tokens = table.drop_duplicates("position").sort_values("position")["token"].tolist()
    chart = training_kl(grid.to_numpy(dtype=float), [int(step) for step in grid.columns], tokens)
    name = reference or "its reference"
    figure(chart, table, "log-training-kl", title=f"{label}: KL from {name}", height=_height(SHOWN), source=source)
    last, most = table[table["step"] == table["step"].max()], ""
    if last["kl"].max() > 0:
        far = last.loc[last["kl"].idxmax()]
        most = f": at step {far['step']:,} most after \u201c{far['token']}\u201d, {far['kl']:.2f} nats"
    note(
        f"How far the next-token distribution of {label} is from that of {name}, after each token of the prompt{most}."
    )


def _height(rows: int) -> int:
    """Pixels of a map of that many rows."""
    return 120 + 22 * rows


TABLES: dict[str, "Callable[[Run, int], pd.DataFrame]"] = {
    "training": over_training,
    "training-parts": attribution_over_training,
    "training-promoted": promoted_over_training,
    "training-neurons": neurons_over_training,
    "training-kl": kl_over_training,
}
"""What is read from captures, by the name of the table's CSV."""
DEFINITION = """
The lens and the direct attribution from a run's captures: after the last token of a captured prompt, what each head,
each MLP and the strongest neurons of each block add to the first answer minus the second, and after every token
KL(π ‖ π_ref) from the run's reference (a run from fresh weights has none). Captures of older versions know ranks among
five favourites, and the entropy of the output alone.
"""


def training(shared: SharedChoices) -> None:
    """Draw the page's measures over the captured steps of a run, whose model is not loaded."""
    order = [shared.label(shared.aligned), shared.label(shared.base), *shared.store.runs]
    names = [name for name in dict.fromkeys(order) if name in shared.store.runs]
    labels = [name for name in names if name and len(data.captures(shared.store.runs[name]))]
    if not labels:
        note("No run here has captures; `probe train` makes them every --capture-every steps.")
        return
    columns = st.columns([3, 5, 4], gap="medium")
    with columns[0]:
        label = st.selectbox("Run", labels, key=keep(RUN, labels, labels[0]), bind="query-params", format_func=visible)
    run = shared.store.runs[label]
    captures = data.captures(run)
    prompts = {prompt.text: index for index, prompt in enumerate(captures.prompts)}
    ends = data.capture(run, captures.steps[0]), data.capture(run, captures.steps[-1])
    default = list(prompts)[min(most_moved(*ends, captures.prompts), len(prompts) - 1)]
    with columns[1]:
        key = keep(CAPTURED, prompts, shared.prompt if shared.prompt in prompts else default)
        text = st.selectbox("Captured prompt", list(prompts), key=key, bind="query-params", format_func=visible)
    prompt = captures.prompts[prompts[text]]
    read = partial(_read_captures, path=str(run.path), prompt=prompts[text], steps=tuple(captures.steps), _run=run)
    table = read("training")
    assert table is not None
    measures = {f"log p({answer.strip()})": ("logprob", answer) for answer in prompt.answers}
    measures |= {f"rank of {answer.strip()}": ("rank", answer) for answer in prompt.answers}
    by_layer = table.groupby("measure")["layer"].nunique()
    whole = by_layer.get("entropy", 0) > 1
    measures |= {"entropy": ("entropy", "")} if whole else {}
    measures |= {"margin": ("margin", ""), "residual norm": ("residual_norm", "")}
    with columns[2]:
        key = keep(MEASURE, measures, next(iter(measures)))
        name = st.selectbox("Colour", list(measures), key=key, bind="query-params", format_func=visible)
    if prompt.note and prompt.answers:
        note(prompt.note)
    if captures.left_out:
        note(captures.left_out)
    _training_figures(run, label, captures.steps, table, name, measures[name], prompt.answers)
    extra = ["training-parts", "training-promoted", "training-neurons"] if prompt.answers else []
    tables = {kind: each for kind in ["training", *extra, "training-kl"] if (each := read(kind)) is not None}
    answers = [answer.strip() for answer in prompt.answers[:2]]
    source: dict[str, object] = {"run": str(run.path), "prompt": prompts[text]}
    if "training-parts" in tables:
        parts_figure(label, tables["training-parts"], answers, source)
        if "training-promoted" in tables:
            promoted_table(label, tables["training-parts"], tables["training-promoted"])
    reference = shared.store.label(run.reference, run) or run.reference
    kinds = [kind for kind in ("training-neurons", "training-kl") if kind in tables]
    for place, kind in zip(st.columns(len(kinds), gap="medium") if kinds else [], kinds, strict=True):
        with place:
            if kind == "training-neurons":
                neurons_figure(label, tables[kind], answers, source)
            else:
                kl_figure(label, tables[kind], reference, source)
    lacking = "" if prompt.answers else without_answers(run, prompt)
    for sentence in _lacking(label, reference, whole, lacking, tables):
        note(sentence)
    details((SUM_OF_PARTS, LENS), DEFINITION, _code(str(run.path), prompts[text], tables), tables, key=TAB_DETAILS)


def _code(path: str, prompt: int, tables: "Collection[str]") -> str:
    """Return the Python lines that read the tables."""
    functions = sorted(TABLES[name].__name__ for name in tables)
    lines = ["import probe", f"from probe.logits.trained import {', '.join(functions)}", ""]
    return "\n".join(lines + [f"{name}(probe.open_run({path!r}), prompt={prompt})" for name in functions])


def _lacking(
    label: str, reference: str | None, whole: bool, without: str, tables: dict[str, pd.DataFrame]
) -> list[str]:
    """Say what the captures of a run do not hold, and why.

    Args:
        label: of the run.
        reference: what its KL refers to.
        whole: whether the captures hold every layer's entropy.
        without: why the prompt has no answers; empty if it has some.
        tables: what was read.
    """
    parts, sentences = "training-parts" in tables, []
    if not whole:
        sentences.append(
            f"{label} was captured before this version of Probe: its captures lack the entropy of inner layers, ranks "
            "behind the five favourites, and what each head, MLP and neuron adds. A new run has them."
        )
    elif without:
        sentences.append(without)
    elif not parts:
        sentences.append(
            f"The heads and MLPs of {label} do not sum to its logits, so its captures do not say what each part adds."
        )
    elif "training-neurons" not in tables:
        sentences.append(
            f"The captures of {label} name no single neurons: they are older than this version of Probe, or its MLPs "
            "are more than W_out of their neurons."
        )
    if "training-kl" not in tables and reference:
        sentences.append(f"The captures of {label} lack its KL to {reference}; a new run has it.")
    elif "training-kl" not in tables:
        sentences.append(
            f"{label} captured no KL to a reference: train by a method that has one, or give probe.watch the"
            " instrument probe.recording.ReferenceKL."
        )
    return sentences


def _training_figures(
    run: "Run",
    label: str,
    steps: list[int],
    table: pd.DataFrame,
    name: str,
    quantity: tuple[str, str],
    answers: list[str],
) -> None:
    measure, answer = quantity
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


@st.cache_data(show_spinner="Reading the captures", max_entries=256)
def _read_captures(kind: str, path: str, prompt: int, steps: tuple[int, ...], _run: "Run") -> pd.DataFrame | None:
    """One of `TABLES`; None where the captures do not hold it."""
    with data.quiet():
        try:
            return TABLES[kind](_run, prompt)
        except DataError:
            return None
