"""Distance of two models: KL of their next-token distributions, and of the logit lens after every layer.

Axes: D blocks, T tokens of the text, W of them around the chosen one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.logits.lens import (
    COLUMNS,
    LENS,
    kl,
    lens_rows,
    lens_tokens,
    require_same_tokens,
    require_tokens,
    window,
)
from probe.logits.targets import Position, target_of
from probe.model.asked import asked_ids, asked_seconds
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.text import pieces
from probe.plotting.notebook import Drawable, Look, clickable, pair, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 300
"""Height of the figures in pixels."""
READ = 0.5
"""Share of the work until both models have read the text; the lenses follow."""


@dataclass(frozen=True)
class LayerDistance(Drawable):
    """Distance of two models along a text and through their layers."""

    tokens: list[str]
    """[T] readable tokens of the text."""
    ids: tuple[int, ...]
    """[T] token ids of the text."""
    token_kl: np.ndarray
    """[T] KL(aligned || base) of the next-token distributions, nats."""
    kl: np.ndarray | None
    """[D+1 W] KL(aligned || base) after each layer, by the lenses, nats; None for models of different depth."""
    position: int
    """Position of the chosen token."""
    start: int
    """Position of the first of the W tokens."""
    looks: tuple[Look, ...] = field(default_factory=pair)
    """Names and colours of the models."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the text."""
        return self.ids

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Explanation why there is no map of the layers, if there is none."""
        none = "The models have different depths, so their layers have no counterparts."
        return (none,) if self.kl is None else ()

    def sentence(self) -> str:
        """Say after which token the models are furthest apart."""
        base, aligned = self.looks
        most = int(self.token_kl.argmax())
        last = f"after the last token by {self.token_kl[-1]:.2g}"
        return (
            f"The predictions of {aligned.name} and {base.name} differ most after "
            f"\u201c{self.tokens[most].strip(chr(183))}\u201d [{most}], by {self.token_kl[most]:.2g} nats"
            f"{f', {last}' * (most != len(self.tokens) - 1)}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the KL after each token, and after each layer: layer, name, position, token, kl."""
        along = pd.DataFrame({"position": range(len(self.tokens)), "token": self.tokens, "kl": self.token_kl})
        if self.kl is None:
            return {"kl": along}
        row, column = (axis.ravel() for axis in np.indices(self.kl.shape))
        names = np.array(["embedding", *(f"block {block}" for block in range(len(self.kl) - 1))], dtype=object)
        tokens = np.array(self.tokens, dtype=object)[self.start + column]
        about = {"layer": row, "name": names[row], "position": self.start + column, "token": tokens}
        return {"kl": along, "kl-layers": pd.DataFrame({**about, "kl": self.kl.ravel()})}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the KL along the text, and by layer around the chosen token."""
        from probe.logits.figures import kl_bars, kl_map

        bars = kl_bars(self.token_kl, self.tokens, chosen=self.position, colour=self.looks[1].colour)
        charts = {"kl": titled(clickable(bars, position="x"), "KL between the predictions after each token", HEIGHT)}
        if self.kl is not None:
            tokens = self.tokens[self.start : self.start + self.kl.shape[1]]
            charts["kl-layers"] = titled(kl_map(self.kl, tokens, width=440), "The same after each layer", HEIGHT)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the tokens in descending order of the distance after them."""
        rows = self.tables()["kl"].sort_values("kl", ascending=False, kind="stable", ignore_index=True)
        return {"Tokens": rows.rename(columns={"kl": "KL, nats"})}


def distance_seconds(base: LM, aligned: LM, columns: int | None, **asked: Any) -> float:
    """Estimate the seconds that the distance of two models takes after every layer."""
    for lm in (base, aligned):
        require_tokens(lm)
    length = len(asked_ids(aligned, asked["prompt"], asked["chat"]))
    read = min(length, columns or length)
    lenses = sum(seconds_to_read(lm, lens_tokens(lm, read)) for lm in (base, aligned))
    return asked_seconds(base, aligned, **asked) + lenses


@analysis(
    "logits",
    title="Distance between the models",
    equations=(r"\mathrm{KL}\big(\mathrm{lens}^{\text{aligned}}_l(t)\,\|\,\mathrm{lens}^{\text{base}}_l(t)\big)", LENS),
    seconds=distance_seconds,
    key="log_distance",
    widths=((1, 1),),
    stored=False,
)
@torch.no_grad()
def compare_layers(
    base: LM,
    aligned: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    position: Position = None,
    columns: Annotated[int | None, Input("Columns", first=lambda *lms: COLUMNS, advanced=True)] = None,
    tick: Tick = ignore,
) -> LayerDistance:
    """Measure the distance of two models after each token of a text, and after each layer.

    It is KL(aligned \u2016 base) of the next-token distributions in nats; after a layer, of what both models would
    predict if they stopped there (the logit lens).

    Args:
        base: the model compared against.
        aligned: the other one, with the same tokenizer.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        position: token around which layers are read, from 0; by default the last.
        columns: number of tokens around it; by default all.
        tick: called with the completed share.

    Raises:
        DataError: the tokenizers differ, a scalar model, or a text without tokens or too long.
        ModelError: the architecture cannot be hooked, or its output is more than norm and unembedding.
    """
    require_same_tokens(base, aligned)
    for lm in (base, aligned):
        require_tokens(lm)
    ids = asked_ids(aligned, prompt, chat)
    if ids != asked_ids(base, prompt, chat):
        raise DataError("The two models send the prompt in different chat templates: leave `chat` out.")
    at = max(target_of(lm, ids, 0, None, position).position for lm in (base, aligned))
    start, stop = window(at, len(ids), len(ids) if columns is None else columns)
    before, first = lens_rows(base, ids, slice(start, stop))
    tick(READ / 2)
    after, second = lens_rows(aligned, ids, slice(start, stop))
    layers, depth = list[Tensor | None](), max(lm.bridge.cfg.n_layers for lm in (base, aligned)) + 1
    for done, (one, other) in enumerate(zip_longest(first, second)):
        tick(READ + (1 - READ) * done / depth)
        layers.append(None if one is None or other is None else kl(other[0], one[0]))
    present = [row for row in layers if row is not None]
    return LayerDistance(
        tokens=pieces(aligned.tokenizer, ids),
        ids=tuple(ids),
        token_kl=kl(after[0].float().log_softmax(-1), before[0].float().log_softmax(-1)).cpu().numpy(),
        kl=torch.stack(present).cpu().numpy() if len(present) == len(layers) else None,
        position=at,
        start=start,
    )
