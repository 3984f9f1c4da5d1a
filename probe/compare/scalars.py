"""Comparison of two models with scalar outputs (rewards, values) on one text, token by token.

Only differences between texts with one prompt are meaningful for a reward model, and each model has its own zero. So
the comparison is of the changes at each token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

import probe.world
from probe.analyses.analysis_record import Asked, Input
from probe.analyses.catalogue import analysis
from probe.compare.both_lenses import WINDOW
from probe.logits.lens import require_same_tokens
from probe.logits.scalar import scalar_lens
from probe.model.asked import asked_seconds
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
CLICK = (
    "A click on a bar chooses its token. Units are those of each model's head; none of the numbers is a probability."
)
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
    """Outputs of two scalar models at every token of a text; T tokens, D blocks."""

    ids: list[int]
    """[T] token ids of the text."""
    tokens: list[str]
    """[T] readable pieces of the text."""
    readouts: tuple[str, str]
    """Outputs of base and aligned model: reward or value."""
    layers: tuple[np.ndarray, np.ndarray]
    """[D+1 T] of base and aligned: the head applied to the residual stream after each layer; the last row is the
    output.
    """

    start: int = 0
    """Index of the first token after the prompt; 0 if unknown."""
    names: tuple[str, str] = ("base", "aligned")
    """Names of base and aligned model."""
    looks: tuple[Look, ...] = ()
    """Names and colours of the models; by default the colours of pretraining and DPO."""
    notes = (CLICK,)

    @property
    def hooked(self) -> list[int]:
        """Token ids of the text."""
        return self.ids

    @property
    def base(self) -> np.ndarray:
        """[T] output of the base model after each token, in the unit of its head."""
        return self.layers[0][-1]

    @property
    def aligned(self) -> np.ndarray:
        """[T] output of the aligned model after each token, in the unit of its head."""
        return self.layers[1][-1]

    @property
    def difference(self) -> np.ndarray:
        """[T] change at each token in the aligned model minus that in the base model; NaN at token 0."""
        return np.diff(self.aligned - self.base, prepend=np.nan)

    @property
    def most(self) -> int:
        """Index of the token with the largest difference between the two changes; 0 for a text of one token."""
        return int(np.nanargmax(np.abs(self.difference))) if len(self.tokens) > 1 else 0

    def table(self) -> pd.DataFrame:
        """Return a table with one row per token: position, id, token, outputs, changes, and their difference."""
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
        """State both outputs after the text, and the token with the largest difference between the changes."""
        readings = " and ".join(
            f"{name} gives a {kind} of {signed(values[-1])}"
            for name, kind, values in zip(self.names, self.readouts, (self.base, self.aligned), strict=True)
        )
        opening = f"After the last token, {readings}"
        if len(self.tokens) < 2 or float(np.nanmax(np.abs(self.difference))) < ALIKE:
            return f"{opening}; every token changes both alike."
        j = self.most
        theirs, ours = (
            f"{signed(values[j] - values[j - 1])} with {name}"
            for name, values in zip(self.names, (self.base, self.aligned), strict=True)
        )
        return (
            f"{opening}; \u201c{self.tokens[j].strip()}\u201d, token {j}, changes them most differently ({theirs},"
            f" {ours})."
        )

    def figures(self, position: Position = None) -> "dict[str, go.Figure]":
        """Draw both outputs with the change at each token, and the output after each layer around a token.

        Args:
            position: token to emphasise; by default the one with the largest difference between the changes.
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
        """Draw both outputs after each token, and the difference of the changes at each token."""
        return self.figures()["rewards"]

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the outputs at each token, and those after each layer: `layer`, `position`, `model`, the number."""
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
        """Return nothing: the figures show everything."""
        return {}

    def _sides(self) -> tuple[tuple[str, np.ndarray], ...]:
        return ("base", self.base), ("aligned", self.aligned)


def scalars_seconds(base: LM, aligned: LM, text: str | Sequence[int], completion: str | None) -> float:
    """Estimate the seconds in which both models read a text and its completion."""
    whole = f"{text} {completion}" if isinstance(text, str) and completion else text
    return asked_seconds(base, aligned, prompt=whole)


@analysis("compare", title="One prompt", equations=EQUATIONS, seconds=scalars_seconds, stored=False)
def compare_scalars(
    base: LM,
    aligned: LM,
    text: Asked,
    completion: Annotated[
        str | None, Input("Completion", key="completion", placeholder="the true answer of a world's question")
    ] = None,
) -> ScalarComparison:
    """Compare two reward models or value heads on a text, token by token.

    A reward model is trained on whole completions, a value head on every prefix. The output in the middle of a text is
    the head applied to the state there. Each model has its own zero, so the lower bars compare what a token *changes*:
    the output after it minus the output before it, aligned model minus base model. The lens is the head applied to the
    normed residual stream after each layer; its highest row is the output itself.

    Args:
        base: model to compare against (`probe.model.rewards.analysable`).
        aligned: the other model; its tokenizer must be the same.
        text: text to read, or its ids; with a completion, the prompt.
        completion: text after the prompt and a space; by default the true answer if the prompt is a question of the
            base's world, otherwise nothing.

    Raises:
        DataError: a model predicts tokens, the tokenizers differ, or the text is empty or too long.
        ModelError: the lens does not support the architecture.
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
    """Return the true answer to a question of a model's world; empty for any other prompt."""
    world = probe.world.of(lm)
    answers = truth_and_claim(world, prompt) if world else None
    return answers[0] if answers else ""
