"""Two models that read one number (rewards, values) on one text, token by token.

Only differences between texts of one prompt mean something to a reward model, so what is compared is what each token
changes: the zero of each model is its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.logits.lens import require_same_tokens
from probe.logits.trajectories import scalar_lens
from probe.model.lm import LM
from probe.model.text import text_ids
from probe.plotting.notebook import Drawable

if TYPE_CHECKING:
    import plotly.graph_objects as go


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

    def figure(self) -> "go.Figure":
        """Both readings after each token, and how differently each token changes them."""
        from probe.compare.figures import scalar_readings
        from probe.plotting.theme import METHODS

        names, colours = ("base", "aligned"), (METHODS["pretrain"], METHODS["dpo"])
        both, unit = (self.base, self.aligned), self.readouts[1]
        return scalar_readings(both, self.difference, self.tokens, names=names, colours=colours, unit=unit)

    def _sides(self) -> tuple[tuple[str, np.ndarray], ...]:
        return ("base", self.base), ("aligned", self.aligned)


def compare_scalars(base: LM, aligned: LM, text: str | Sequence[int]) -> ScalarComparison:
    """Read a text with two reward models or value heads (`probe.model.rewards.analysable`).

    Args:
        base: the model compared against.
        aligned: the other one; its tokenizer must be the same.
        text: prompt and completion, or their ids.

    Raises:
        DataError: a model of tokens, different tokenizers, or a text that is empty or too long.
        ModelError: an architecture whose scalar cannot be read through the layers.
    """
    require_same_tokens(base, aligned)
    ids = text_ids(base.tokenizer, text)
    lenses = [scalar_lens(lm, ids) for lm in (base, aligned)]
    values = (lenses[0].values, lenses[1].values)
    return ScalarComparison(ids, lenses[0].tokens, (base.readout, aligned.readout), values)
