"""Where the patterns of the Attention page come from: the chosen models on the prompt, or the captures of a run."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from dashboard import data, models, sides
from dashboard.components.step_views import Moment, choose_moment
from dashboard.markdown import note
from dashboard.state import SharedChoices, keep
from probe.attention.reading import Head, same_text
from probe.plotting.theme import METHODS, aligned_colour
from probe.runs.captured import attention as captured_pattern

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.attention.patterns import Attention
    from probe.model.lm import LM

LONG = 192
"""Tokens up to which patterns are shown cell by cell; beyond it every head gets statistics."""


@dataclass(frozen=True)
class Side:
    """One model, or one step of a run, on a text."""

    name: str
    colour: str
    read: "Attention"
    side: sides.Side | None = None
    """The model; None for captures, which hold patterns only."""

    @property
    def lm(self) -> "LM | None":
        """The model itself."""
        return self.side.lm if self.side else None

    @property
    def ref(self) -> str | None:
        """What loads it."""
        return self.side.ref if self.side else None

    def has(self, head: Head) -> bool:
        """Whether the side has this head."""
        depth, heads = self.read.pattern.shape[:2]
        return head[0] < depth and head[1] < heads


@dataclass(frozen=True)
class Reading:
    """What the page is about: one side, or two to be compared."""

    sides: tuple[Side, ...]
    moment: Moment | None = None
    """The captured prompt and step, where the patterns come from a run."""

    @property
    def alike(self) -> bool:
        """Whether all sides read the same tokens."""
        return all(same_text(side.read, self.last.read) for side in self.sides)

    @property
    def comparable(self) -> bool:
        """Whether there are two sides whose heads and tokens pair up."""
        same = all(side.read.pattern.shape == self.last.read.pattern.shape for side in self.sides)
        return len(self.sides) == 2 and self.alike and same

    @property
    def last(self) -> Side:
        """The side that single figures are about: the aligned model, or the chosen step."""
        return self.sides[-1]

    def sides_with(self, head: Head) -> list[Side]:
        """Return the sides that have the head and can share one figure with one token axis."""
        return [side for side in self.sides if side.has(head) and same_text(side.read, self.last.read)]

    @property
    def tokens(self) -> list[str]:
        """Tokens of the last side."""
        return self.last.read.tokens

    @property
    def boundary(self) -> int | None:
        """The first token that a model wrote itself, if one did."""
        return self.last.read.written

    @property
    def heads(self) -> list[str]:
        """Heads of the last side, `L0H0` first."""
        depth, heads = self.last.read.pattern.shape[:2]
        return [f"L{layer}H{head}" for layer in range(depth) for head in range(heads)]

    @property
    def source(self) -> dict[str, object]:
        """Provenance of figures."""
        if self.moment:
            return self.moment.source
        return {"models": [side.ref for side in self.sides], "tokens": list(self.last.read.ids)}


def live(shared: SharedChoices, view: str) -> list[sides.Side] | None:
    """Load the models that the view shows, each with its colour; None while the page waits for consent."""
    roles: dict[str, list[sides.Role]] = {"base": ["base"], "aligned": ["aligned"], "both": ["base", "aligned"]}
    readers: list[sides.Side] = []
    for role in roles[view]:
        side = sides.load_side(shared, role)
        if side is None:
            return None
        readers.append(side)
    return readers


def read_live(models_read: list[sides.Side], given: tuple[int, ...], prompt: str, chat: bool, new: int) -> Reading:
    """Patterns of one or two models on the prompt and on what the last of them goes on with.

    The other model reads the same ids where both split the prompt alike, else the prompt by its own tokens.

    Args:
        models_read: see `live`.
        given: ids of the prompt for the last model, or the first of them.
        prompt: the whole prompt as text.
        chat: whether it is sent as a user's message.
        new: tokens to go on for.
    """
    writer = models_read[-1].lm
    new = new if writer.readout == "tokens" else 0
    patterns = models.compute_once(_attention, writer, say="Reading attention", text=given, new=new)
    parts = []
    for side in models_read:
        lm, read = side.lm, patterns
        if lm is not writer:
            own = sides.asked_text(lm, prompt, chat and lm.tokenizer.chat_template is not None)[: max(len(given), LONG)]
            text = tuple(patterns.ids) if own[: len(given)] == given and splits_alike(lm, writer, given) else own
            read = models.compute_once(
                _attention, lm, say="Reading attention", text=text, length=min(len(text), len(given))
            )
        parts.append(Side(side.name, side.colour, read, side))
    return Reading(tuple(parts))


def splits_alike(one: "LM", other: "LM", text: tuple[int, ...]) -> bool:
    """Whether two models name the ids of a text alike."""
    from probe.model.text import pieces

    size = one.model.get_input_embeddings().weight.shape[0]
    return max(text) < size and pieces(one.tokenizer, text) == pieces(other.tokenizer, text)


def _attention(lm: "LM", text: tuple[int, ...], new: int = 0, length: int | None = None) -> "Attention":
    from probe.attention.patterns import attention

    read = attention(lm, text, max_new_tokens=new)
    return read if length is None else replace(read, prompt_length=length)


def read_captured(shared: SharedChoices, place: "DeltaGenerator") -> Reading | None:
    """Patterns of a captured prompt at the chosen step, alone or beside the first step; None without captures.

    Args:
        shared: the shared choices.
        place: where the switch for the first step goes.
    """
    pair = [shared.label(shared.aligned), shared.label(shared.base)]
    order = [label for label in pair if label] + list(shared.store.runs)
    names = list(dict.fromkeys(label for label in order if label in shared.store.runs))
    labels = [name for name in names if len(data.captures(shared.store.runs[name]))]
    if labels:
        keep("att_watched", labels, labels[0])
    moment = choose_moment(shared.store, names, prefix="att_", kinds=("Attention",))
    if moment is None:
        return None
    models.warm().wait()
    steps = data.captures(moment.run).steps
    colour = aligned_colour(moment.run.method)
    parts = [_captured_side(moment, moment.step, colour)]
    if moment.step != steps[0]:
        with place:
            beside = st.toggle(f"Beside step {steps[0]:,}", value=True, key="att_since", bind="query-params")
        if beside:
            parts.insert(0, _captured_side(moment, steps[0], METHODS["pretrain"]))
    else:
        note("This is the first captured step; move on to see what training changed.")
    return Reading(tuple(parts), moment)


def _captured_side(moment: Moment, step: int, colour: str) -> Side:
    return Side(f"step {step:,}", colour, captured_read(moment, step))


def captured_read(moment: Moment, step: int) -> "Attention":
    """Return the captured pattern of a step as `Attention`, the type that an analysis returns."""
    from probe.attention.patterns import Attention

    prompt = moment.prompt
    pattern = captured_pattern(data.capture(moment.run, step), moment.index, prompt).astype(np.float32)
    return Attention(list(prompt.tokens), list(prompt.token_ids), prompt.length, pattern)
