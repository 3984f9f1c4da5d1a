"""Olsson score: the loss of a late token minus that of an early one; negative is learning in context.

Olsson et al. (2022) take the 500th and the 50th of 512 tokens of the corpus. Two texts are read here: random tokens
that are written twice, where the same token is early the first time and late the second and nothing but a copy helps;
and rows of a corpus, where the late tokens are the last tenth of a row and the early ones lie around its tenth part
(what comes early and late is alike there, so that only the context before it differs).

Axes: N texts, T tokens.
"""

from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from probe.attention.scores import random_repeats
from probe.autoregression.lags import batches
from probe.errors import DataError
from probe.model.text import context_length, encode
from probe.world import tasks
from probe.world.draws import Draws, generator

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

LENGTH = 25
"""Random tokens of a segment, where the context has room for two."""
FILLS = 0.9
"""Share of a row that the mean document takes up where documents fill rows alone."""
SHORTEST = 20
"""Tokens that a row of a corpus needs to have an early and a late part."""


@torch.no_grad()
def token_losses(lm: "LM", rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The loss of every token but the first of every row, [T - 1] nats each; hooked inside `lm.hooks`."""
    found = []
    for part in batches(len(rows), max(map(len, rows)), len(lm.tokenizer)):
        logprobs = lm.logits(rows[part]).float().log_softmax(-1)
        for row, values in zip(rows[part], logprobs, strict=True):
            ids = torch.tensor(row, device=values.device)
            found.append(-values[: len(row) - 1].gather(-1, ids[1:, None])[:, 0].double().cpu().numpy())
    return found


def segment_length(lm: "LM", length: int = LENGTH) -> int:
    """The longest segment of at most `length` tokens that fits twice into the context."""
    context = context_length(lm.model)
    return length if context is None else max(2, min(length, (context - 1) // 2))


class Repeats(NamedTuple):
    """Random tokens that are written twice."""

    rows: list[list[int]]
    """N texts as ids."""
    begin: int
    """Tokens before the first segment."""
    size: int
    """Tokens of the segment, all different."""


def token_repeats(lm: "LM", n: int = 100, length: int = LENGTH, seed: int = 0) -> Repeats:
    """Tokens of the whole vocabulary, special ones aside; the segment is cut to what fits twice into the context."""
    return Repeats(*random_repeats(lm, segment_length(lm, length), n, 2, seed))


def world_repeats(lm: "LM", world: "World", n: int = 100, seed: int = 0) -> Repeats:
    """Segments in the form and of the words that the world's corpus repeats, of its greatest length."""
    draws = Draws(generator("questions", world.seed, seed, *b"repeats"))
    segments = [draws.sample_few(tasks.CONTENT, world.config.segment) for _ in range(n)]
    rows = [encode(lm.tokenizer, f"repeat {' '.join(segment * 2)}") for segment in segments]
    return Repeats(rows, len(encode(lm.tokenizer, "repeat")), world.config.segment)


def repeat_losses(lm: "LM", repeats: Repeats) -> pd.DataFrame:
    """Losses on random tokens that are written twice; the first of a segment, which no copy announces, is left out.

    Args:
        lm: any model of tokens.
        repeats: the texts.

    Returns:
        One row a text and token: text, token (its place in the segment, from 1), early and late (loss the first and the
        second time, nats).
    """
    begin, size = repeats.begin, repeats.size
    frames = []
    for index, losses in enumerate(token_losses(lm, repeats.rows)):
        loss = np.concatenate([[np.nan], losses])[begin:]
        row = {"text": index, "token": np.arange(1, size), "early": loss[1:size], "late": loss[size + 1 :]}
        frames.append(pd.DataFrame(row))
    return pd.concat(frames, ignore_index=True)


def corpus_losses(lm: "LM", rows: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Early and late loss of rows of a corpus.

    Args:
        lm: any model of tokens.
        rows: token ids, each of at least `SHORTEST` tokens.

    Returns:
        One row a row: text, early (mean loss of the tokens from 5 % to 15 % of the row), late (of its last tenth),
        nats.

    Raises:
        DataError: there is no row, or one is too short.
    """
    if not rows or min(map(len, rows)) < SHORTEST:
        raise DataError(f"A row of the corpus has fewer than {SHORTEST} tokens: give longer texts.")
    found = []
    for index, losses in enumerate(token_losses(lm, rows)):
        size = len(losses) + 1
        early, late = losses[size // 20 : (3 * size) // 20], losses[(9 * size) // 10 - 1 :]
        found.append({"text": index, "early": float(early.mean()), "late": float(late.mean())})
    return pd.DataFrame(found)


def world_rows(lm: "LM", world: "World", n: int, length: int = 96, seed: int = 0) -> list[list[int]]:
    """`n` windows of the world's endless corpus, cut anywhere, each behind the beginning token.

    As in a corpus of text a window may begin within a document: cut at beginnings, early and late tokens would be other
    parts of documents, and differ for that alone. Where single documents fill the rows (a world of chains alone), a row
    is a document, as in training.

    Args:
        lm: whose tokenizer writes them.
        world: whose corpus.
        n: windows, one after the other.
        length: tokens of a window, that of training; at most the context.
        seed: of the stream; training counts its own streams from 0.
    """
    size = min(length, context_length(lm.model) or length)
    stream = (encode(lm.tokenizer, document.text) for document in world.documents(10_007 + seed))
    first = list(islice(stream, n))
    if np.mean([len(ids) for ids in first]) >= FILLS * size:
        return [ids[:size] for ids in first]
    begin = encode(lm.tokenizer, "")
    body = size - len(begin)
    offset = int(np.random.default_rng(seed).integers(0, body))
    ids: list[int] = []
    for document in chain(first, stream):
        ids += document
        if len(ids) >= offset + n * body:
            break
    return [[*begin, *ids[at : at + body]] for at in range(offset, offset + n * body, body)]


def text_rows(lm: "LM", texts: Sequence[str], length: int = 512) -> list[list[int]]:
    """The beginnings of texts as rows of at most `length` tokens; texts of fewer than `SHORTEST` are left out."""
    size = min(length, context_length(lm.model) or length)
    rows = [encode(lm.tokenizer, text)[:size] for text in texts]
    return [row for row in rows if len(row) >= SHORTEST]
