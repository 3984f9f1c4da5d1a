"""The logit lens of two models on a text that one of them writes.

Axes: D blocks, C tokens that are read, V vocabulary. Column t is the prediction after token t.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.compare.side_by_side import Length, Prompt, Seed, Shown, Temperature, Templated, continue_prompt, read_prompt
from probe.logits.lens import COLUMNS, LENS, Lens, LensReader, kl, lens_logprobs, lens_of, lens_tokens
from probe.logits.readout import residual_names
from probe.model.heads import check_count
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.plotting.notebook import Drawable, Look, pair, titled
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

WINDOW = 16
"""Number of columns of the lens around the chosen token."""
WRITING = 0.2
"""Share of the work that is writing the text."""
Place = Annotated[int | None, Input("Token", key="position", within=lambda found: (1, found.last))]


@dataclass(frozen=True)
class LensPair(Drawable):
    """Logit lens of two models on one text."""

    ids: tuple[int, ...]
    """Token ids of prompt and continuation."""
    start: int
    """Index of the first of the C tokens that are read."""
    prompt_length: int
    """Number of tokens in the prompt."""
    base: Lens
    """Lens of the base model, [D+1, C]."""
    aligned: Lens
    """Lens of the aligned model, [D+1, C]."""
    kl: np.ndarray | None
    """[D+1, C] KL(aligned || base) of the two lenses in nats; None for models of different depth."""
    looks: tuple[Look, ...] = field(default_factory=pair)
    """Names and colours of the models."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the text."""
        return self.ids

    @property
    def last(self) -> int:
        """Index of the last token of the text, at least 1."""
        return max(1, len(self.ids) - 1)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Explanation why there is no difference of the lenses, if there is none."""
        none = "The models have different depths, so their layers have no counterparts."
        return (none,) if self.kl is None else ()

    def sentence(self) -> str:
        """Say from which layer on the lenses show half of the largest difference of the outputs."""
        if self.kl is None:
            return ""
        column = int(self.kl[-1].argmax())
        most = float(self.kl[-1, column])
        row = len(self.kl) - int(np.argmin(np.append(self.kl[::-1, column] >= most / 2, False)))
        names, token = [look.name for look in self.looks], self.base.tokens[column].strip()
        since = f"their lenses differ by at least half of that from {'the embedding' if row == 0 else f'L{row - 1}'} on"
        late = "before the last layer their lenses differ by less than half of that"
        read = f"Of the last {len(self.base.ids)} tokens, the" if self.start else "The"
        return (
            f"{read} outputs of {names[1]} and {names[0]} differ most after \u201c{token}\u201d, token"
            f" {self.start + column} (KL {most:.2g} nats); {since if row < len(self.kl) - 1 else late}."
        )

    def figures(self, position: Place = None) -> "dict[str, go.Figure]":
        """Draw both lenses around a token, coloured by the log-probability of the token that follows, and the change.

        Args:
            position: index of the token; by default the first of the continuation.
        """
        from probe.logits.figures import lens_pair

        at = min(self.prompt_length if position is None else position, self.last)
        first = max(self.start, min(at - WINDOW // 2, self.last - WINDOW))
        columns = slice(first - self.start, min(first + WINDOW, self.last) - self.start)
        sides = self.base, self.aligned
        lenses = [(lens.top_tokens[:, columns].tolist(), lens.top_logprobs[:, columns]) for lens in sides]
        followed = [lens.next_logprobs[:, columns] for lens in sides]
        grids = lens_pair(
            (lenses[0], lenses[1]),
            (followed[0], followed[1]),
            self.base.tokens[columns],
            names=(self.looks[0].name, self.looks[1].name),
            answer="next token",
        )
        return {"lenses": titled(grids, "Both lenses, and their difference")}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the lenses: for equal depths one row per layer and token, otherwise one below the other."""
        return {"lenses": self._each() if self.kl is None else self._both(self.kl)}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return nothing: the figure shows everything."""
        return {}

    def _both(self, values: np.ndarray) -> pd.DataFrame:
        """Return log-probabilities of the token that follows, favourites and KL: one row per layer and token."""
        layer, column = (axis.ravel() for axis in np.indices(self.base.entropy.shape))
        base, aligned = self.base.next_logprobs.ravel(), self.aligned.next_logprobs.ravel()
        return pd.DataFrame(
            {
                "layer": layer,
                "name": [self.base.rows[row] for row in layer],
                "position": self.start + column,
                "token": [self.base.tokens[each] for each in column],
                "base_next_logprob": base,
                "aligned_next_logprob": aligned,
                "difference": aligned - base,
                "base_predicted": self.base.top_tokens[..., 0].ravel(),
                "aligned_predicted": self.aligned.top_tokens[..., 0].ravel(),
                "kl": values.ravel(),
            }
        )

    def _each(self) -> pd.DataFrame:
        sides = zip(self.looks, (self.base, self.aligned), strict=True)
        rows = pd.concat([lens.table().assign(model=look.name) for look, lens in sides], ignore_index=True)
        return rows.assign(position=rows["position"] + self.start)


def lenses_seconds(
    base: LM,
    aligned: LM,
    prompt: str | Sequence[Mapping[str, str]],
    max_new_tokens: int,
    chat: bool,
    columns: int | None,
    **rest: Any,
) -> float:
    """Estimate the seconds that both lenses take; the continuation is known from `compare`."""
    length = len(read_prompt(base, aligned, prompt, chat)[1])
    read = min(length, columns or length) + max_new_tokens
    return sum(seconds_to_read(lm, length + max_new_tokens + lens_tokens(lm, read)) for lm in (base, aligned))


@analysis("compare", title="Logit lens of both", equations=(LENS,), seconds=lenses_seconds, stored=False)
@torch.no_grad()
def compare_lenses(
    base: LM,
    aligned: LM,
    prompt: Prompt,
    author: Shown = "aligned",
    max_new_tokens: Length = 12,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    k: Annotated[int, Input(advanced=True)] = 5,
    chat: Templated = False,
    columns: Annotated[int | None, Input("Columns", first=lambda *lms: COLUMNS, advanced=True)] = None,
    tick: Tick = ignore,
) -> LensPair:
    """Read a prompt and the continuation of one model with both models, layer by layer.

    The text is that of `compare` with the same options. The column of token *t* predicts the token after it; colours
    show the log-probability of the actual next token, on one scale for both models, and their difference, centred on
    zero.

    Args:
        base: model to compare against.
        aligned: the other model; its tokenizer must be the same.
        prompt: text, or in Python messages for the chat template of `aligned`.
        author: model that writes the continuation.
        max_new_tokens: maximum number of tokens in the continuation.
        temperature: sampling temperature; 0 is greedy.
        seed: seed of the sample, if the temperature is above 0.
        k: number of most probable tokens to keep.
        chat: send the prompt as a user's message in the chat template of `aligned`.
        columns: number of tokens of the prompt, the last ones, that are read; by default all. The continuation is
            always read.
        tick: function called with the share of the work done.

    Raises:
        ModelError: an architecture cannot be hooked, or its output is more than norm and unembedding.
        DataError: a model has a scalar output, the tokenizers differ, or the prompt is empty or too long.
        ConfigError: an option is not valid.
    """
    if columns is not None:
        check_count(columns)
    _, ids = read_prompt(base, aligned, prompt, chat)
    written = continue_prompt(base if author == "base" else aligned, ids, max_new_tokens, temperature, seed)
    tick(WRITING)
    start = 0 if columns is None else max(0, len(ids) - columns)
    return read_lenses(base, aligned, [*ids, *written], len(ids), k, start, between(tick, WRITING, 1))


@torch.no_grad()
def read_lenses(
    base: LM, aligned: LM, ids: Sequence[int], prompt_length: int, k: int = 5, start: int = 0, tick: Tick = ignore
) -> LensPair:
    """Read a given prompt and continuation from token `start` on with both models; `tick` is called after each layer.

    Raises:
        ModelError: an architecture cannot be hooked, or its output is more than norm and unembedding.
        DataError: the text is too long.
    """
    lms, text, nothing = (base, aligned), list(ids), torch.zeros(1, 0, dtype=torch.long)
    readers = [LensReader(torch.tensor([text[start:]]), k, nothing) for _ in lms]
    rows = []
    for lm in lms:
        logits, cache = lm.run_with_cache([text], residual_names(lm))
        rows.append(lens_logprobs(lm, {name: state[:, start:] for name, state in cache.items()}, logits[:, start:]))
    distances, depth = list[torch.Tensor | None](), max(len(residual_names(lm)) for lm in lms)
    for done, both in enumerate(zip_longest(*rows)):
        tick(done / depth)
        for reader, row in zip(readers, both, strict=True):
            if row is not None:
                reader.add(row)
        distances.append(None if any(row is None for row in both) else kl(both[1][0], both[0][0]))
    first, second = (lens_of(lm, text[start:], (), each.readings()) for lm, each in zip(lms, readers, strict=True))
    present = [each for each in distances if each is not None]
    whole = torch.stack(present).cpu().numpy() if len(present) == len(distances) else None
    return LensPair(tuple(text), start, prompt_length, first, second, whole)
