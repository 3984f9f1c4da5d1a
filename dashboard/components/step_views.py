"""Captures of a run at one step of its training: the mosaic of attention heads or the logit lens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import streamlit as st

from dashboard import data, sentences
from dashboard.components.figure import figure
from dashboard.data import Store
from dashboard.markdown import note
from dashboard.state import keep
from probe.analyses.catalogue import find_analysis
from probe.attention.figures import attention_head, attention_mosaic, layer_groups
from probe.logits.figures import lens_grid
from probe.logits.trained import answer_names
from probe.plotting.curves import answer_curves
from probe.plotting.notebook import title_of
from probe.runs.captured import (
    answers_table,
    attention,
    attention_table,
    favourites,
    has_attention,
    has_lens,
    lens_table,
    most_moved,
    whole_head,
    why_without_answers,
)
from probe.runs.captures import Tensors
from probe.runs.reader import Run
from probe.runs.schema import ProbePrompt
from probe.texts import visible

HEAD, LAYER, TAB = "head", "layer", "training_tab"
"""Keys of the enlarged head, of the shown layer of a deep model, and of the tabs: a click on a head opens its tab."""
ENLARGED = "Head and answers"
MOVEMENT = "rank_movement"
"""Analysis of the heads and layers that changed most between two captures."""
"""Title of the tab of the enlarged head."""


@dataclass(frozen=True)
class Moment:
    """A captured prompt of a run at one step."""

    run: Run
    label: str
    step: int
    index: int
    prompt: ProbePrompt
    tensors: Tensors
    kind: str
    """Kind of the main figure: Attention or Lens."""

    @cached_property
    def weights(self) -> np.ndarray:
        """[D H R T] attention in the last R rows of the prompt; heads that were not captured are NaN."""
        return attention(self.tensors, self.index, self.prompt)

    @property
    def heads(self) -> list[str]:
        """Captured heads, from `L0H0` on."""
        captured = np.argwhere(~np.isnan(self.weights[:, :, 0, 0]))
        return [f"L{layer}H{head}" for layer, head in captured]

    @property
    def rows(self) -> str:
        """Sentence on rows that were not captured; empty if all were."""
        count, length = self.weights.shape[2:]
        return "" if count == length else f"Of {length:,} tokens the last {count:,} were captured as queries."

    @property
    def head(self) -> tuple[int, int]:
        """The enlarged head as (layer, head)."""
        choice = st.session_state.get(HEAD, st.query_params.get(HEAD))
        layer, _, head = (choice if choice in self.heads else data.moved_head(self.run))[1:].partition("H")
        return int(layer), int(head)

    @property
    def source(self) -> dict[str, object]:
        """Provenance of the figures."""
        return {"run": str(self.run.path), "step": self.step, "prompt": self.prompt.text}


def choose_moment(
    store: Store, names: Sequence[str], *, prefix: str = "", kinds: Sequence[str] = ("Attention", "Lens")
) -> Moment | None:
    """Let the reader choose run, prompt and step; None if no run has captures.

    Args:
        store: all runs.
        names: runs to choose from.
        prefix: prefix of the widgets' keys, so that other pages keep separate choices.
        kinds: kinds to choose from; there is a widget only for several kinds.
    """
    labels = [name for name in names if len(data.captures(store.runs[name]))]
    if not labels:
        note(
            "None of the chosen runs has captures: `probe train` makes them every --capture-every steps, probe.watch "
            "and ProbeCallback every `every` steps."
        )
        return None
    left, middle, right = st.columns([4, 4, 6])
    with left:
        key = keep(f"{prefix}watched", labels, labels[-1])
        label = st.selectbox("Captures of", labels, key=key, bind="query-params", format_func=visible)
    run = store.runs[label]
    captures = data.captures(run)
    prompts = {
        f"{prompt.kind}: {prompt.text}" if prompt.kind else prompt.text: i for i, prompt in enumerate(captures.prompts)
    }
    ends = (data.capture(run, captures.steps[0]), data.capture(run, captures.steps[-1]))
    held = {"Attention": has_attention(ends[1]), "Lens": has_lens(ends[1])}
    kinds = [kind for kind in kinds if held[kind]]
    if not kinds:
        note(
            f"The captures of {label} hold no {' and no '.join(kind.lower() for kind in held if not held[kind])}."
            f" {captures.holds or 'Not every block of its model has heads.'}"
        )
        return None
    with middle:
        key = keep(f"{prefix}captured", prompts, list(prompts)[most_moved(*ends, captures.prompts)])
        choice = st.selectbox("On the prompt", list(prompts), key=key, bind="query-params", format_func=visible)
    kind: str | None = kinds[0]
    if len(kinds) > 1:
        with right:
            kind = st.segmented_control(
                "Show", list(kinds), default=kinds[0], key=f"{prefix}show", bind="query-params", required=True
            )
        step = choose_step(captures.steps, prefix=prefix)
    else:
        with right:
            step = choose_step(captures.steps, prefix=prefix)
    said = [captures.left_out, *[f"{captures.holds} Taken so far: {captures.cost}."] * bool(captures.holds)]
    if any(said):
        note(" ".join(said).strip())
    index = prompts[choice]
    return Moment(run, label, step, index, captures.prompts[index], data.capture(run, step), kind or kinds[0])


def choose_step(steps: Sequence[int], *, prefix: str = "") -> int:
    """Draw the step slider, which follows a running training until the reader moves it."""
    key, memory = f"{prefix}step", f"_{prefix}last_step"
    last, previous = steps[-1], st.session_state.get(memory)
    if previous is not None and st.session_state.get(key) == previous:
        st.session_state[key] = last
    keep(key, steps, last)
    st.session_state[memory] = last
    if len(steps) == 1:
        note(f"Captured at step {last} only.")
        return last
    return st.select_slider("Step of the captures", steps, key=key, bind="query-params")


def main_figure(moment: Moment) -> None:
    """Draw the mosaic of heads or the lens at the chosen step."""
    tokens = moment.prompt.tokens
    if moment.kind == "Lens":
        lens = favourites(moment.run, moment.tensors, moment.index, moment.prompt)
        title = f"Logit lens of {moment.label} at step {moment.step:,}"
        figure(
            lens_grid(lens, tokens, width=440, height=410),
            lens_table(lens, tokens),
            "lens",
            title=title,
            source=moment.source,
        )
        return
    weights, first = moment.weights, len(tokens) - moment.weights.shape[2]
    layers = choose_layers(weights, moment.head[0])
    table = attention_table(weights[layers], tokens, layers)
    shown = weights[layers][..., first:]
    height = min(410, 90 + 480 * len(layers) // weights.shape[1])  # square heads fill the width
    chart = attention_mosaic(shown, tokens[first:], layers=layers, chosen=moment.head, height=height)
    title = f"Attention of {moment.label} at step {moment.step:,} (click a head)"
    figure(chart, table, "heads", title=title, source=moment.source, on_select=_take_head)
    if moment.rows:
        note(f"{moment.rows} The map shows them among each other; the enlarged head shows all keys.")


def choose_layers(weights: np.ndarray, first: int) -> list[int]:
    """Return all layers, or if there are too many, those around one that the reader chooses, by default `first`."""
    depth, heads, rows = weights.shape[:3]
    groups, layers = list(layer_groups(depth, heads, rows).values()), list(range(depth))
    if len(groups) == 1:
        return layers
    chosen = st.select_slider("Layers around", layers, key=keep(LAYER, layers, first), bind="query-params")
    return next(group for group in groups if chosen in group)


def detail_figures(moment: Moment) -> None:
    """Draw the chosen head enlarged, and the chosen answers over all steps."""
    left, right = st.columns(2, gap="medium")
    with left:
        if has_attention(moment.tensors):
            head_figure(moment)
        else:
            note("These captures hold no attention: the model has blocks without heads, or it was not chosen.")
    with right:
        if not has_lens(moment.tensors):
            note("These captures hold no lens, so the answers were not followed.")
            return
        if not moment.prompt.answers:
            note(why_without_answers(moment.run, moment.prompt))
            return
        steps, logprobs = data.answer_logprobs(moment.run, moment.index)
        answers = answer_names(moment.run, moment.prompt.answers)
        note(f"{sentences.answers(steps, logprobs, answers)} {moment.prompt.note}")
        chart = answer_curves(steps, logprobs, answers, marker=moment.step)
        table = answers_table(steps, logprobs, moment.prompt.answers)
        figure(chart, table, "answers", title="Chosen answers after the prompt", height=420, source=moment.source)
        st.text(visible(moment.prompt.text, lines=True))


def movement_figures(moment: Moment) -> None:
    """Draw which heads and layers changed most while the run was trained; a click on a head enlarges it."""
    with data.quiet():
        found = find_analysis(MOVEMENT).function(run=moment.run.path)
    name = "L{}H{}".format(*moment.head)
    note(found.sentence(name))
    charts = found.figures(name)
    for row in (list(charts)[:2], list(charts)[2:]):
        for column, each in zip(st.columns(len(row), gap="medium"), row, strict=True):
            act = _take_head if each == next(iter(charts)) else None
            with column:
                title = title_of(charts[each], each) + " (click a head)" * (act is not None)
                figure(charts[each], found.data(each), each, title=title, source=moment.source, on_select=act)
    for remark in found.notes:
        note(remark)


def head_figure(moment: Moment) -> None:
    """Draw the chosen head enlarged."""
    layer, head = moment.head
    key = keep(HEAD, moment.heads, f"L{layer}H{head}")
    st.selectbox("Head", moment.heads, key=key, bind="query-params", format_func=visible)
    whole = whole_head(moment.tensors, moment.index, (layer, head))
    weights = moment.weights[layer, head] if whole is None else whole
    table = attention_table(weights[None, None], moment.prompt.tokens, [layer]).assign(head=head)
    chart = attention_head(weights, moment.prompt.tokens)
    title = f"L{layer}H{head} at step {moment.step:,}"
    figure(chart, table, "head", title=title, height=420, source=moment.source)


def _take_head(points: list[dict]) -> None:
    custom = points[0].get("customdata")
    if custom:
        st.session_state[HEAD] = custom[0]
        st.session_state[LAYER] = int(custom[0][1:].partition("H")[0])
        st.session_state[TAB] = ENLARGED
