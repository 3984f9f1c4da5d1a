"""BM25 search over a collection of texts with the library `bm25s`, and its evaluation.

The variant is Lucene's (Robertson and Zaragoza 2009, as compared by Kamphuis et al. 2020): a query q scores a text d by

    sum over words w of q of  log(1 + (N - df_w + 1/2) / (df_w + 1/2)) * tf_wd / (tf_wd + k1 (1 - b + b |d| / avg|d|)),

with df_w of the N texts containing the word and tf_wd its count in the text; a word counts as often as it occurs in the
query. Words are runs of letters and digits in lower case, without stemming or stop words. Texts of equal score keep the
order of the collection, and a text without any word of the query is not found.

A ranking is evaluated by recall@k and by the mean reciprocal rank (Voorhees 1999, TREC-8 QA):

    recall@k = relevant among the first k / relevant,     MRR = mean over queries of 1 / rank of the first relevant,

with 0 for a query without a relevant text in its ranking.
"""

import re
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.errors import ConfigError, DataError
from probe.stats import wilson

K1, B = 1.5, 0.75
"""Saturation of repeated words, and strength of the penalty for long texts."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Hits:
    """Texts that a query found, best first."""

    index: NDArray[np.intp]
    """[F] indices in the collection."""
    scores: NDArray[np.float64]
    """[F] scores above 0, in descending order."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; see the module."""
    return WORD.findall(text.lower())


class Retriever:
    """An index over N texts."""

    def __init__(self, texts: Sequence[str], k1: float = K1, b: float = B) -> None:
        """Index the texts.

        Raises:
            ConfigError: k1 is negative or b is not between 0 and 1.
            DataError: no text has a word.
        """
        import bm25s

        if not (k1 >= 0 and 0 <= b <= 1):
            raise ConfigError(f"BM25 has k1={k1} and b={b}; expected k1 from 0 on and b between 0 and 1.")
        tokens = [words(text) for text in texts]
        if not any(tokens):
            raise DataError(f"None of the {len(tokens)} documents has a word to search for: give texts with words.")
        self.size = len(tokens)
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
        self._index.index(tokens, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float64]:
        """Return the score [N] of every text; 0 if no word of the query occurs in it."""
        ids = self._index.get_tokens_ids(words(query))
        if not ids:
            return np.zeros(self.size)
        return np.asarray(self._index.get_scores_from_ids(ids), dtype=float)

    def find(self, query: str, k: int | None = None) -> Hits:
        """Find the best k texts that contain a word of the query, or all such texts."""
        scores = self.scores(query)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0][:k]
        return Hits(order, scores[order])


DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def rank_of(found: Sequence[Hashable], relevant: Collection[Hashable]) -> int | None:
    """Return the rank of the first relevant text, from 1; None if there is none."""
    return next((rank for rank, each in enumerate(found, start=1) if each in relevant), None)


def reciprocal_rank(rank: int | float | None) -> float:
    """Return 1 / rank, and 0 without a rank (None or NaN)."""
    return 0.0 if rank is None or rank != rank else 1.0 / rank


def recall_curve(ranks: Sequence[float], depths: Sequence[int] = DEPTHS) -> pd.DataFrame:
    """Return recall@k of queries with one relevant document each: k, value, ci_low, ci_high (Wilson), n.

    Args:
        ranks: [Q] rank of the relevant document, NaN if it was not found.
        depths: values of k.
    """
    values = np.asarray(ranks, dtype=float)
    rows = []
    for k in depths:
        share = wilson(int((values <= k).sum()), len(values))  # NaN is no rank
        rows.append({"k": k, **share.row(len(values))})
    return pd.DataFrame(rows)
