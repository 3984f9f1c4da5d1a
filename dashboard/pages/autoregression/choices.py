"""What a reader of the Autoregression page chooses: the texts, how influence is measured, and how far back."""

from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard.components.number import number_input
from dashboard.markdown import guard_callback
from dashboard.sides import load_sides
from dashboard.state import SharedChoices, keep, preset
from probe.plotting.notebook import Look
from probe.texts import visible

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

TEXTS = "lag_on"
"""The key of the kind of texts that are read."""
LARGE = 20_000_000
"""Parameters from which on fewer positions are read at first, and the details wait for a word."""
PROMPT = "the prompt"
ALL = "all documents"
HEADING = {"markov": 3}
"""Words at the start of a kind of document that say what it is, such as "chain 1 :"."""
EPSILONS = ("0.001", "0.01", "0.03", "0.1", "0.3")
MEASURES = ("resampling", "Jacobian")
SEED = 1
"""Of the documents: not those that the runs were trained on first."""


@dataclass(frozen=True)
class Side:
    """One of the models."""

    name: str
    lm: "LM"
    ref: str
    style: Look

    @property
    def loading(self) -> str:
        """Python that loads it."""
        return f"probe.model.rewards.analysable({self.ref!r})"


@dataclass(frozen=True)
class Question:
    """What is computed."""

    sides: list[Side]
    texts: tuple[str, ...]
    source: str
    """Python that makes the texts from `lm`."""
    measure: str
    lags: int
    draws: int
    epsilon: float
    keep: int
    prompt: str
    world: "World | None"

    @property
    def large(self) -> bool:
        """Whether a model is so large that its numbers take seconds."""
        return any(side.lm.n_parameters > LARGE for side in self.sides)

    @property
    def scalar(self) -> bool:
        """Whether a model reads out one number, which has a Jacobian and no KL."""
        return any(side.lm.readout != "tokens" for side in self.sides)

    @property
    def writers(self) -> list[Side]:
        """The models that have a distribution over tokens."""
        return [side for side in self.sides if side.lm.readout == "tokens"]

    def world_of(self, side: Side) -> "World | None":
        """Return the world whose answers a model can give; None if the model's tokens are not the world's."""
        owner = self.sides[0].lm.tokenizer
        return self.world if side.lm.tokenizer.get_vocab() == owner.get_vocab() else None

    def profile_options(self) -> dict[str, Any]:
        """Arguments of the lag profile."""
        few = len(self.texts) > 1 or self.large
        options = {"lags": self.lags, "keep": self.keep}
        if self.measure == "Jacobian" or self.scalar:
            positions = (1 if self.large else 2) if few else None
            of = "logits" if self.scalar else "probabilities"
            return options | {"of": of, "projections": self.draws, "positions": positions}
        pool = "unigram" if len(self.texts) > 1 else "vocabulary"  # one text has too few tokens to draw from
        return options | {"resamples": self.draws, "pool": pool, "positions": (3 if self.large else 4) if few else None}

    def order_options(self) -> dict[str, Any]:
        """Arguments of the effective order."""
        few = len(self.texts) > 1 or self.large
        positions = (2 if self.large else 3) if few else None
        return {"longest": self.lags, "keep": self.keep, "positions": positions}


def sides_of(shared: SharedChoices) -> list[Side] | None:
    """Load the chosen models, one or two; None while the page waits."""
    sides = load_sides(shared)
    if sides is None:
        return None
    dashes = ["dash" if side.colour == sides[0].colour and side is not sides[0] else "solid" for side in sides]
    return [
        Side(side.name, side.lm, side.ref, Look(side.name, side.colour, dash))
        for side, dash in zip(sides, dashes, strict=True)
    ]


def choose(shared: SharedChoices, sides: list[Side]) -> Question | None:
    """Draw the widgets that decide what is computed, and return the question; None where there is no text."""
    from probe.model.text import encode
    from probe.world import of

    world, owner = next(((of(side.lm), index) for index, side in enumerate(sides) if of(side.lm)), (None, 0))
    options = [*_kinds(world), *([PROMPT] if shared.prompt.strip() else [])]
    if not options:
        return None
    begins = min(int(encode(side.lm.tokenizer, "")[:1] == [side.lm.tokenizer.bos_token_id]) for side in sides)
    large = any(side.lm.n_parameters > LARGE for side in sides)
    measures = MEASURES if all(side.lm.readout == "tokens" for side in sides) else MEASURES[1:]
    columns = st.columns([11, 10, 7, 6, 6, 6, 7], gap="small", vertical_alignment="bottom")
    with columns[0]:
        key = keep(TEXTS, options, options[0])
        on = st.selectbox(
            "Texts",
            options,
            key=key,
            bind="query-params",
            on_change=guard_callback(partial(_take_heading, begins)),
            format_func=visible,
        )
    with columns[1]:
        key = keep("lag_measure", measures, measures[0])
        measure = st.selectbox("Influence by", measures, key=key, bind="query-params", format_func=visible)
    counts = {
        "texts": ("Documents", 16, 1, 256, "How many; the prompt is one text."),
        "draws": ("Draws", 1 if large else 4, 1, 64, "Tokens put in place of each, or directions of the Jacobian."),
        "longest": ("Lags", 12 if large else 16, 2, 128, "How far back."),
        "keep": ("Kept", begins + HEADING.get(str(on), 0), 0, 32, "Tokens at the start that nothing changes or cuts."),
    }
    number = {}
    for column, (name, (label, default, low, high, hint)) in zip(columns[2:6], counts.items(), strict=True):
        off = name == "texts" and on == PROMPT
        with column:
            key = preset(f"lag_{name}", default)
            number[name] = int(number_input(label, low, high, key=key, help=hint, disabled=off))
    with columns[6]:
        key = keep("lag_epsilon", EPSILONS, EPSILONS[1])
        epsilon = st.selectbox(
            "Tolerance", EPSILONS, key=key, bind="query-params", help="\u03b5, nats.", format_func=visible
        )
    texts, source = _texts(world, str(on), number["texts"], shared.prompt)
    return Question(
        sides=sides[owner:] + sides[:owner],
        texts=texts,
        source=source,
        measure=str(measure),
        lags=number["longest"],
        draws=number["draws"],
        epsilon=float(epsilon),
        keep=number["keep"],
        prompt=shared.prompt,
        world=world,
    )


def _kinds(world: "World | None") -> list[str]:
    """List the choices of documents that a world offers: all, and each kind that it writes."""
    if world is None:
        return []
    kinds = [kind for kind, share in world.config.mixture.items() if share > 0]
    return [ALL, *kinds] if len(kinds) > 1 else kinds


def _take_heading(begins: int) -> None:
    st.session_state["lag_keep"] = begins + HEADING.get(st.session_state[TEXTS], 0)


def _texts(world: "World | None", on: str, count: int, prompt: str) -> tuple[tuple[str, ...], str]:
    if world is None or on == PROMPT:
        return (prompt,), f"[{prompt!r}]"
    stream = (d.text for d in world.documents(SEED) if on in (ALL, d.kind))
    condition = "" if on == ALL else f" if d.kind == {on!r}"
    source = f"list(islice((d.text for d in of(lm).documents({SEED}){condition}), {count}))"
    return tuple(islice(stream, count)), source
