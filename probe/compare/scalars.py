"""Two models that read one number (rewards, values) on one text, token by token.

Only differences between texts of one prompt mean something to a reward model, so what is compared is what each token
changes: the zero of each model is its own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

import probe.world
from probe.analyses.analysis_record import Asked, Input
from probe.analyses.catalogue import analysis
from probe.compare.side_by_side import WINDOW
from probe.logits.lens import require_same_tokens
from probe.logits.scalar import scalar_lens
from probe.model.lm import LM
from probe.model.text import encode, text_ids
from probe.numbers import signed
from probe.plotting.notebook import Drawable, Look, clickable, pair, titled
from probe.rewards.token_effects import truth_and_claim

if TYPE_CHECKING:
    import plotly.graph_objects as go

EQUATIONS = (
    r"\Delta_t = \big(R_a(x_{\le t}) - R_a(x_{<t})\big) - \big(R_b(x_{\le t}) - R_b(x_{<t})\big),"
    r"\quad a = \mathrm{aligned},\ b = \mathrm{base}",
    r"\mathrm{lens}_\ell(t) = \langle w, \mathrm{norm}(h_t^\ell)\rangle",
)
ALIKE = 0.005
"""Change of a reward or value at a token below which two models are said to change alike."""
CLICK = "A click on a bar chooses its token. Units are those of each model's head; none of the numbers is a chance."
Position = Annotated[
    int | None,
    Input(
        "Token",
        key="position",
        first=lambda found: found.most,
        within=lambda found: (min(1, len(found.ids) - 1), len(found.ids) - 1),
    ),
]


@dataclass(frozen=True)
class ScalarComparison(Drawable):
    """What two models read at every token of a text; T tokens, D blocks."""

    ids: list[int]
    """[T] the text."""
    tokens: list[str]
    """[T] the same as readable pieces."""
    readouts: tuple[str, str]
    """What base and aligned read: reward or value."""
    layers: tuple[np.ndarray, np.ndarray]
    """[D+1 T] of base and aligned: the head on the residual stream after each layer; the last row is the reading."""

    start: int = 0
    """The first token behind the prompt; 0 where that is not known."""
    names: tuple[str, str] = ("base", "aligned")
    """How base and aligned are called."""
    looks: tuple[Look, ...] = ()
    """How they are drawn; in the colours of pretraining and DPO without."""
    notes = (CLICK,)

    @property
    def hooked(self) -> list[int]:
        """The ids of the text."""
        return self.ids

    @property
    def base(self) -> np.ndarray:
        """[T] what the base model reads after each token, in the units of its head."""
        return self.layers[0][-1]

    @property
    def aligned(self) -> np.ndarray:
        """[T] the same of the aligned model."""
        return self.layers[1][-1]

    @property
    def difference(self) -> np.ndarray:
        """[T] by how much more a token changes the aligned model's reading than the base model's; NaN at token 0."""
        return np.diff(self.aligned - self.base, prepend=np.nan)

    @property
    def most(self) -> int:
        """The token that changes the two readings most differently; 0 for a text of one token."""
        return int(np.nanargmax(np.abs(self.difference))) if len(self.tokens) > 1 else 0

    def table(self) -> pd.DataFrame:
        """One row a token: position, id, token, both readings, the change of each at the token, and the difference."""
        changes = {name: np.diff(values, prepend=np.nan) for name, values in self._sides()}
        return pd.DataFrame(
            {
                "position": range(len(self.ids)),
                "id": self.ids,
                "token": self.tokens,
                **{f"{name}_{kind}": values for kind, (name, values) in zip(self.readouts, self._sides(), strict=True)},
                **{f"{name}_change": values for name, values in changes.items()},
                "difference": self.difference,
            }
        )

    def sentence(self) -> str:
        """Say what both read after the text, and which token changes their readings most differently."""
        readings = " and ".join(
            f"{name} reads a {kind} of {signed(values[-1])}"
            for name, kind, values in zip(self.names, self.readouts, (self.base, self.aligned), strict=True)
        )
        opening = f"After the last token {readings}"
        if len(self.tokens) < 2 or float(np.nanmax(np.abs(self.difference))) < ALIKE:
            return f"{opening}; no token changes the two readings differently."
        j = self.most
        theirs, ours = (
            f"{signed(values[j] - values[j - 1])} with {name}"
            for name, values in zip(self.names, (self.base, self.aligned), strict=True)
        )
        return (
            f"{opening}; \u201c{self.tokens[j].strip()}\u201d, token {j}, changes them most differently "
            f"({theirs}, {ours})."
        )

    def figures(self, position: Position = None) -> "dict[str, go.Figure]":
        """Return both readings with what each token changes, and the reading after each layer around a token.

        Args:
            position: the token that is emphasised; by default the one that changes both most differently.
        """
        from probe.compare.figures import scalar_readings
        from probe.logits.figures import LensPanel, lens_map

        at = self.most if position is None else position
        looks, unit = self.looks or pair(), " or ".join(dict.fromkeys(self.readouts))
        bars = scalar_readings(
            (self.base, self.aligned),
            self.difference,
            self.tokens,
            names=self.names,
            colours=(looks[0].colour, looks[1].colour),
            unit=unit,
            start=self.start,
            chosen=at,
        )
        first = max(0, min(at - WINDOW // 2, len(self.tokens) - WINDOW))
        window = slice(first, first + WINDOW)
        panels = [LensPanel(name, values[:, window]) for name, values in zip(self.names, self.layers, strict=True)]
        grids = lens_map(
            panels, self.tokens[window], start=first, chosen=at, label=unit, unit=unit, width=900, height=420
        )
        title = f"The {unit} after each token, and what each token changes"
        return {
            "rewards": titled(clickable(bars, position="x"), title, 380),
            "lenses": titled(clickable(grids, position="customdata"), f"The {unit} read after each layer"),
        }

    def figure(self) -> "go.Figure":
        """Both readings after each token, and how differently each token changes them."""
        return self.figures()["rewards"]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the readings at each token, and those after each layer: `layer`, `position`, `model`, the number."""
        read = [
            pd.DataFrame(values, columns=range(len(self.tokens)))
            .rename_axis("layer")
            .reset_index()
            .melt("layer", var_name="position", value_name=kind)
            .assign(model=name)
            for name, kind, values in zip(self.names, self.readouts, self.layers, strict=True)
        ]
        return {"rewards": self.table(), "lenses": pd.concat(read, ignore_index=True)}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return nothing more than the figures show."""
        return {}

    def _sides(self) -> tuple[tuple[str, np.ndarray], ...]:
        return ("base", self.base), ("aligned", self.aligned)


@analysis("compare", title="One prompt", equations=EQUATIONS)
def compare_scalars(
    base: LM,
    aligned: LM,
    text: Asked,
    completion: Annotated[
        str | None, Input("Completion", key="completion", placeholder="the true answer of a world's question")
    ] = None,
) -> ScalarComparison:
    """Read a text with two reward models or value heads, token by token.

    A reward model is trained on whole completions, a value head on every prefix. What either reads in the middle of a
    text is its head on the state there. Each model has its own zero, so the lower bars compare what a token *changes*:
    the reading after it minus the reading before it, of the aligned model minus the base model. The lens is the head on
    the normed residual stream after each layer; its highest row is the reading itself.

    Args:
        base: the model compared against (`probe.model.rewards.analysable`).
        aligned: the other one; its tokenizer must be the same.
        text: what is read, or its ids; with a completion, the prompt before it.
        completion: what follows the prompt, after a blank; without one, the true answer where the prompt is a question
            of the world that the base belongs to, and else nothing.

    Raises:
        DataError: a model of tokens, different tokenizers, or a text that is empty or too long.
        ModelError: an architecture whose scalar cannot be read through the layers.
    """
    require_same_tokens(base, aligned)
    start = 0
    if isinstance(text, str):
        start = len(encode(base.tokenizer, text)) if text else 0
        answer = (_true_answer(base, text) if completion is None else completion).strip()
        text += f" {answer}" if answer else ""
    ids = text_ids(base.tokenizer, text)
    lenses = [scalar_lens(lm, ids) for lm in (base, aligned)]
    values = (lenses[0].values, lenses[1].values)
    readouts = (base.readout, aligned.readout)
    return ScalarComparison(ids, lenses[0].tokens, readouts, values, start if start < len(ids) else 0)


def _true_answer(lm: LM, prompt: str) -> str:
    """Return the true answer to a question of a model's world; nothing for any other prompt."""
    world = probe.world.of(lm)
    answers = truth_and_claim(world, prompt) if world else None
    return answers[0] if answers else ""
