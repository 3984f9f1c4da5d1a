"""The logit lens of a model that reads out one number: its head's reading after each layer, at every token.

Axes: D blocks, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import Asked, Chat
from probe.analyses.catalogue import analysis
from probe.errors import DataError, ModelError
from probe.logits.lens import COLUMNS, HEIGHT, window
from probe.logits.readout import residual_names, unembed
from probe.logits.targets import Position, target_of
from probe.model.asked import asked_ids, asked_seconds
from probe.model.lm import LM
from probe.model.text import pieces
from probe.numbers import signed
from probe.plotting.notebook import Beside, Drawable, alone, clickable, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

ALIKE = 0.005
"""Difference of two numbers below which they are called equal."""


@dataclass(frozen=True)
class ScalarLens(Drawable):
    """Number of a reward or value model, read after each layer at each token."""

    tokens: list[str]
    """[T] readable tokens of the text."""
    ids: tuple[int, ...]
    """[T] token ids of the text."""
    values: np.ndarray
    """[D+1 T] head on the normed residual stream; row D is the model's output."""
    position: int
    """Token that the sentence is about."""
    unit: str
    """Name of the number: `reward`, `value`."""

    def table(self) -> pd.DataFrame:
        """Return one row for each layer and position: layer, name, position, token, value."""
        layer, position = (axis.ravel() for axis in np.indices(self.values.shape))
        names = ["embedding", *(f"block {block}" for block in range(len(self.values) - 1))]
        return pd.DataFrame(
            {
                "layer": layer,
                "name": [names[row] for row in layer],
                "position": position,
                "token": [self.tokens[column] for column in position],
                "value": self.values.ravel(),
            }
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the number by layer and token."""
        return {"lens": self.table()}

    def sentence(self) -> str:
        """Say which number the model reads after the chosen token."""
        return ScalarLenses((self,), alone()).sentence()

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the number after each layer at each token."""
        return ScalarLenses((self,), alone()).figures()

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the number after each token."""
        return ScalarLenses((self,), alone()).lists()


class ScalarLenses(Beside[ScalarLens]):
    """Lens readings of one model or several on one text."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the text, if all models read the same ones."""
        return self.results[-1].ids if len({each.ids for each in self.results}) == 1 else ()

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Explanation of a cell."""
        unit = self.results[-1].unit
        return (
            f"Output of the {unit} head, read at every token after every layer; the top row is the {unit} of the"
            " model. It is one number, so there are no tokens, entropies or ranks.",
        )

    def sentence(self) -> str:
        """Say which number every model reads after the chosen token."""
        last = self.results[-1]
        own = [float(each.values[-1, each.position]) for each in self.results]
        readings = " and ".join(
            f"{look.name} reads {signed(number)}" for look, number in zip(self.looks, own, strict=True)
        )
        same = len(own) == 2 and abs(own[1] - own[0]) < ALIKE
        end = f", the same {last.unit} to {ALIKE}" if same else f" as its {last.unit}" if len(own) == 1 else ""
        return f"After \u201c{last.tokens[last.position]}\u201d, {readings}{end}."

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the number after each layer around the chosen token, and the difference of two models."""
        from probe.logits.figures import LensPanel, lens_map

        charts, alike = {}, len({tuple(each.tokens) for each in self.results}) == 1
        pairs = list(zip(self.looks, self.results, strict=True))
        for index, group in enumerate([pairs] if alike else [[each] for each in pairs]):
            last = group[-1][1]
            start, stop = window(last.position, len(last.tokens), COLUMNS)
            chart = lens_map(
                [LensPanel(look.name, each.values[:, start:stop]) for look, each in group],
                last.tokens[start:stop],
                start=start,
                chosen=last.position,
                label=last.unit,
                unit=last.unit,
                width=850,
                height=HEIGHT,
            )
            apart = f": {group[0][0].name}" * (not alike)
            title = f"The {last.unit} read after each token, layer by layer{apart}"
            name = "lens" if not index else f"lens-{index}"
            charts[name] = titled(clickable(chart, position="customdata"), title)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the number after each token."""
        rows = self.tables()["lens"]
        last = rows[rows["layer"] == rows.groupby("model")["layer"].transform("max")]
        return {"After each token": last[["model", "position", "token", "value"]].reset_index(drop=True)}


@analysis(
    "logits",
    title="Logit lens",
    equations=(r"\mathrm{lens}_l(t) = \langle w, \mathrm{norm}(h_t^l)\rangle + b",),
    seconds=asked_seconds,
    key="log_lens",
    beside=ScalarLenses,
    stored=False,
)
@torch.no_grad()
def scalar_lens(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    position: Position = None,
) -> ScalarLens:
    """Read the number of a reward or value model after each layer, at every token.

    The head reads the residual stream after the embedding and after each block through the final norm. The last row is
    the model's output.

    Args:
        lm: a model that reads out one number.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        position: token that the sentence is about, from 0; by default the last.

    Raises:
        DataError: a model of tokens, a text without tokens, or a position outside it.
        ModelError: norm and head of the last residual do not give the model's output.
    """
    if lm.readout == "tokens":
        raise DataError("This model predicts tokens and no scalar: use `logit_lens`.")
    ids = asked_ids(lm, prompt, chat)
    at = target_of(lm, ids, None, None, position).position
    logits, cache = lm.run_with_cache([ids], residual_names(lm))
    rows = torch.stack([unembed(lm, cache[name])[0, :, 0] for name in residual_names(lm)])
    own = logits[0, :, 0].float()
    if float((rows[-1] - own).abs().max()) > 0.02 * float(own.abs().max()) + 1e-4:
        raise ModelError(
            f"The lens does not know how {type(lm.model).__name__} makes its scalar from the residual stream: use a "
            "model of another architecture."
        )
    values = torch.cat([rows[:-1], own[None]]).cpu().numpy()
    return ScalarLens(pieces(lm.tokenizer, ids), tuple(ids), values, at, lm.readout)
