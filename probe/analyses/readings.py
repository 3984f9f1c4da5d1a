"""Single readings at positions of texts, and their means: what the lag profile and the effective order have in common.

The texts are the sample: positions of one text resemble each other, so a mean is first taken within each text, then
over texts, and its interval comes from the bootstrap over texts. With one text it is the bootstrap over its positions,
which knows nothing about other texts.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.stats import Interval, bootstrap_mean

Texts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
Pool = Literal["unigram", "vocabulary"] | Sequence[int]

VALUES = 2**24
"""Logits held at once, as a number of values (of 4 bytes)."""
ROWS = 64
"""Texts run at once at most."""


def token_rows(lm: LM, texts: Texts, keep: int | None = None) -> list[list[int]]:
    """Ids of a text, of several, or of ids as they are.

    Raises:
        DataError: no text, or one without a token after those that are kept.
        ConfigError: a negative number of kept tokens.
    """
    if keep is not None and keep < 0:
        raise ConfigError(f"keep = {keep} is not possible: give 0 or more, or None for the beginning token.")
    one = isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], int | np.integer))
    several: Any = [texts] if one else texts
    rows = [encode(lm.tokenizer, row) if isinstance(row, str) else [int(token) for token in row] for row in several]
    if not rows or any(len(row) <= start(lm, row, keep) for row in rows):
        kept = f" after the {keep} that are kept" if keep else ""
        raise DataError(f"No text was given, or one has no token{kept}: give texts of some words.")
    return rows


def start(lm: LM, ids: Sequence[int], keep: int | None = None) -> int:
    """Index of the first token that may change: `keep`, or by default 1 after a beginning token and 0 without one."""
    if keep is not None:
        return keep
    return int(len(ids) > 0 and lm.tokenizer.bos_token_id is not None and ids[0] == lm.tokenizer.bos_token_id)


def draw(rng: np.random.Generator, first: int, last: int, count: int | None) -> np.ndarray:
    """`count` different numbers of first..last-1 in order; all of them for None or where there are not more.

    Raises:
        ConfigError: a count below 1.
    """
    require_positive(positions=count)
    if count is None or count >= last - first:
        return np.arange(first, last)
    return np.sort(rng.choice(np.arange(first, last), count, replace=False))


def pool_of(
    lm: LM, rows: Sequence[Sequence[int]], pool: Pool, keep: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that may be drawn and their probabilities (see `lags.lag_profile`).

    Raises:
        ConfigError: an unknown pool.
        DataError: one without tokens.
    """
    if isinstance(pool, str) and pool not in ("unigram", "vocabulary"):
        raise ConfigError(f'The pool {pool!r} is unknown: give "unigram", "vocabulary" or a list of token ids.')
    if pool == "unigram":
        seen = np.concatenate([np.array(ids[start(lm, ids, keep) :]) for ids in rows])
        tokens, counts = np.unique(seen, return_counts=True)
        return tokens, counts / counts.sum()
    special = set(lm.tokenizer.all_special_ids)
    ids = [i for i in range(len(lm.tokenizer)) if i not in special] if pool == "vocabulary" else list(pool)
    if not ids:
        raise DataError("The pool to draw tokens from is empty: give at least one token id.")
    return np.array(ids), np.full(len(ids), 1 / len(ids))


def averaged(values: np.ndarray, texts: np.ndarray) -> Interval:
    """Mean over texts of the means over positions, with its 95 % interval (see the module).

    Args:
        values: [S] readings.
        texts: [S] the number of the text of each.
    """
    means = [values[texts == text].mean() for text in np.unique(texts)]
    return bootstrap_mean(means if len(means) > 1 else values)


def batches(count: int, length: int, outputs: int) -> Iterator[slice]:
    """Slices of `count` rows of `length` tokens, so that the logits of each batch fit in memory."""
    size = max(1, min(ROWS, VALUES // max(1, length * outputs)))
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def require_tokens(lm: LM) -> None:
    """Raise a DataError for a model whose output is a scalar instead of a distribution."""
    if lm.readout != "tokens":
        raise DataError(
            f"The model `{lm.ref or 'created'}` gives a scalar ({lm.readout}) and no distribution over tokens: take a "
            'model that writes, or of a Jacobian ask for jacobian_profile(..., of="logits").'
        )


def require_positive(**numbers: int | None) -> None:
    """Raise a ConfigError for a count below 1; None is no count."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value} is not possible: give 1 or more.")
