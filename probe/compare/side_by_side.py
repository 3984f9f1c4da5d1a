"""Two models on one prompt: both continuations, token by token, under both models.

Axes: T tokens of prompt and continuation, D blocks, V vocabulary. Entry j of a [T] array belongs to token j and comes
from the distributions before it; there is nothing before token 0, so that entry is NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch

from probe.errors import DataError
from probe.logits.answer_tokens import answer_tokens
from probe.logits.lens import (
    Lens,
    LensReader,
    kl,
    lens_logprobs,
    lens_of,
    require_same_tokens,
    residual_names,
)
from probe.model.lm import LM
from probe.model.text import encode
from probe.plotting.notebook import Drawable

if TYPE_CHECKING:
    import plotly.graph_objects as go

Author = Literal["base", "aligned"]


@dataclass(frozen=True)
class Expectation:
    """What one model expected at each token of a text."""

    logprobs: np.ndarray
    """[T] log-probability of the token in nats."""
    entropy: np.ndarray
    """[T] entropy of the distribution before the token in nats."""
    top_ids: np.ndarray
    """[T, k] the tokens it held most probable, best first; -1 at token 0."""
    top_tokens: np.ndarray
    """[T, k] the same as readable pieces."""
    top_logprobs: np.ndarray
    """[T, k] their log-probabilities in nats."""
    lens: Lens
    """The logit lens on the whole text; its column t predicts the token after token t."""


@dataclass(frozen=True)
class Continuation(Drawable):
    """The prompt with the continuation of one model, read by both."""

    author: Author
    """The model that wrote the continuation."""
    ids: list[int]
    """Tokens of prompt and continuation."""
    tokens: list[str]
    """The same as readable pieces."""
    prompt_length: int
    """How many of them are the prompt."""
    text: str
    """The continuation as text without special tokens."""
    base: Expectation
    """What the base model expected."""
    aligned: Expectation
    """What the aligned model expected."""
    kl: np.ndarray
    """[T] KL(aligned || base) of the distributions before each token in nats."""
    lens_kl: np.ndarray | None
    """[D+1, T] KL(aligned || base) of the two lenses in nats; None for models of different depth."""

    def table(self) -> pd.DataFrame:
        """One row a token: position, token, part, base_logprob, aligned_logprob, difference, kl, entropies."""
        return pd.DataFrame(
            {
                "author": self.author,
                "position": range(len(self.ids)),
                "id": self.ids,
                "token": self.tokens,
                "part": ["prompt" if j < self.prompt_length else "continuation" for j in range(len(self.ids))],
                "base_logprob": self.base.logprobs,
                "aligned_logprob": self.aligned.logprobs,
                "difference": self.aligned.logprobs - self.base.logprobs,
                "kl": self.kl,
                "base_entropy": self.base.entropy,
                "aligned_entropy": self.aligned.entropy,
            }
        )

    def figure(self) -> "go.Figure":
        """KL of the two models at every token."""
        from probe.compare.figures import kl_bars

        return kl_bars(self.kl, self.tokens, start=self.prompt_length)

    def top_table(self) -> pd.DataFrame:
        """One row for each token, model and rank: the predicted tokens."""
        return pd.concat(
            [self._expectation_table("base", self.base), self._expectation_table("aligned", self.aligned)],
            ignore_index=True,
        )

    def lens_table(self) -> pd.DataFrame:
        """One row for each layer and position: the next token's log-probability in both lenses and their distance."""
        layer, position = (axis.ravel() for axis in np.indices(self.base.lens.entropy.shape))
        if self.lens_kl is None:
            raise DataError("The two models have different depths, so their lenses have no common rows.")
        base, aligned = self.base.lens.next_logprobs.ravel(), self.aligned.lens.next_logprobs.ravel()
        return pd.DataFrame(
            {
                "author": self.author,
                "layer": layer,
                "name": [self.base.lens.rows[row] for row in layer],
                "position": position,
                "token": [self.tokens[column] for column in position],
                "base_next_logprob": base,
                "aligned_next_logprob": aligned,
                "difference": aligned - base,
                "base_predicted": self.base.lens.top_tokens[..., 0].ravel(),
                "aligned_predicted": self.aligned.lens.top_tokens[..., 0].ravel(),
                "kl": self.lens_kl.ravel(),
            }
        )

    def _expectation_table(self, name: str, model: Expectation) -> pd.DataFrame:
        position, rank = (axis.ravel() for axis in np.indices(model.top_ids.shape))
        rows = pd.DataFrame(
            {
                "author": self.author,
                "model": name,
                "position": position,
                "token": [self.tokens[j] for j in position],
                "rank": rank,
                "predicted": model.top_tokens.ravel(),
                "logprob": model.top_logprobs.ravel(),
            }
        )
        return rows[rows["position"] > 0].reset_index(drop=True)


@dataclass(frozen=True)
class Comparison(Drawable):
    """A base and an aligned model on one prompt."""

    prompt: str
    """The prompt as text."""
    base: Continuation
    """What the base model went on with."""
    aligned: Continuation
    """What the aligned model went on with."""

    def table(self) -> pd.DataFrame:
        """Both continuations token by token (see `Continuation.table`)."""
        return pd.concat([self.base.table(), self.aligned.table()], ignore_index=True)

    def figure(self) -> "go.Figure":
        """KL of the two models at every token of what the aligned one wrote."""
        return self.aligned.figure()

    def top_table(self) -> pd.DataFrame:
        """Return the likeliest tokens of both models at each token of both continuations."""
        return pd.concat([self.base.top_table(), self.aligned.top_table()], ignore_index=True)

    def lens_table(self) -> pd.DataFrame:
        """Both lenses on both continuations, and how far apart they are."""
        return pd.concat([self.base.lens_table(), self.aligned.lens_table()], ignore_index=True)


@torch.no_grad()
def compare(
    base: LM,
    aligned: LM,
    prompt: str | Sequence[Mapping[str, str]],
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    k: int = 5,
    answers: Sequence[str] = (),
) -> Comparison:
    """Continue a prompt with both models and read both continuations with both.

    Args:
        base: the model compared against.
        aligned: the other one; its tokenizer must be the same.
        prompt: a text, or messages for the chat template of `aligned`.
        max_new_tokens: length of the continuations at most.
        temperature: 0 is greedy; log-probabilities and KL are always those at 1.
        seed: of both samples; equal chance makes the two differ only where the models do.
        k: how many most probable tokens to keep.
        answers: texts whose first token that differs is followed through the layers of the lenses; what all begin with
            joins the prompt (see `probe.logits.answer_tokens`).

    Raises:
        DataError: a model reads one number (see `compare_scalars`), the tokenizers differ, no token tells the answers
            apart, or the prompt is empty or too long.
        ConfigError: an option that is not possible.
    """
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    text = aligned.prompt_text(prompt)
    ids = [*encode(aligned.tokenizer, text), *answer_tokens(aligned, answers).shared]

    def written_by(author: Author, lm: LM) -> Continuation:
        sample = lm.generate([ids], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        return read_both(base, aligned, [*ids, *sample.ids[0]], len(ids), author, k, answers)

    return Comparison(text, written_by("base", base), written_by("aligned", aligned))


@torch.no_grad()
def read_both(
    base: LM,
    aligned: LM,
    ids: Sequence[int],
    prompt_length: int,
    author: Author,
    k: int = 5,
    answers: Sequence[str] = (),
) -> Continuation:
    """Read a given text of prompt and continuation with both models.

    Raises:
        DataError: a model reads one number, the text is too long, or the answers begin alike and the prompt does not
            end with what they share.
    """
    require_writers(base, aligned)
    tokens, chosen = list(ids), answer_tokens(aligned, answers)
    if tokens[prompt_length - chosen.count : prompt_length] != chosen.shared:
        raise DataError(f"{chosen.note} Give the prompt with it.")
    batch, answer_row = torch.tensor([tokens]), torch.tensor([chosen.tokens], dtype=torch.long)
    readers = LensReader(batch, k, answer_row), LensReader(batch, k, answer_row)
    runs = [(lm, *lm.run_with_cache([tokens], residual_names(lm))) for lm in (base, aligned)]
    rows = zip_longest(*(lens_logprobs(lm, cache, logits) for lm, logits, cache in runs))
    distances = []
    for pair in rows:
        for reader, row in zip(readers, pair, strict=True):
            if row is not None:
                reader.add(row)
        distances.append(None if any(row is None for row in pair) else kl(pair[1][0], pair[0][0]))
    outputs = [logits[0].float().log_softmax(-1) for _, logits, _ in runs]
    lenses = [lens_of(lm, tokens, answers, reader.readings()) for (lm, _, _), reader in zip(runs, readers, strict=True)]
    present = [distance for distance in distances if distance is not None]
    return Continuation(
        author=author,
        ids=tokens,
        tokens=lenses[1].tokens,
        prompt_length=prompt_length,
        text=aligned.tokenizer.decode(tokens[prompt_length:], skip_special_tokens=True),
        base=_expectation(lenses[0]),
        aligned=_expectation(lenses[1]),
        kl=_move_to_predicted(kl(outputs[1], outputs[0]).cpu().numpy()),
        lens_kl=torch.stack(present).cpu().numpy() if len(present) == len(distances) else None,
    )


def require_writers(*lms: LM) -> None:
    """Raise a DataError for a model that reads one number, which has no distribution to compare."""
    for lm in lms:
        if lm.readout != "tokens":
            raise DataError(
                f"The model `{lm.ref or 'created'}` gives one number, a {lm.readout}, and no probabilities of tokens: "
                "compare two language models, or two of this kind by `probe.compare.scalars`."
            )


def _expectation(lens: Lens) -> Expectation:
    """Return the output row of the lens, moved to the tokens that it predicts."""
    return Expectation(
        logprobs=_move_to_predicted(lens.next_logprobs[-1]),
        entropy=_move_to_predicted(lens.entropy[-1]),
        top_ids=_move_to_predicted(lens.top_ids[-1], -1),
        top_tokens=_move_to_predicted(lens.top_tokens[-1], ""),
        top_logprobs=_move_to_predicted(lens.top_logprobs[-1]),
        lens=lens,
    )


def _move_to_predicted(values: np.ndarray, first: float | str = np.nan) -> np.ndarray:
    """Values of the predictive distributions, moved to the token that they predict; `first` at token 0."""
    return np.concatenate([np.full_like(values[:1], first), values[:-1]])
