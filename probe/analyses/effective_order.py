"""The effective order of a model: how many of the last tokens decide its prediction (E24).

The context of a position is cut to its last m tokens, and the order is the smallest m whose mean
KL(pi(. | full) || pi(. | last m)) is at most epsilon. The cut text is a text of its own, whose positions count from 0.
In front of the last m tokens stay the first `keep` ones: by default the beginning token, where the text has one. (A
heading that tells the model what the text is can be kept too: without it the cut text is of another kind, and the
distance tells more of that than of memory.) For each m only positions count where something is cut.

Axes: M context lengths, S single readings (a text, a position, a context length), V vocabulary.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from probe.analyses.lens import kl
from probe.analyses.readings import (
    Texts,
    averaged,
    batches,
    draw,
    require_positive,
    require_tokens,
    start,
    token_rows,
)
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.ticks import Tick, ignore


@dataclass(frozen=True)
class EffectiveOrder:
    """How far a prediction is from the full one when only the last m tokens are read, m = 1 to M."""

    epsilon: float
    """The distance in nats that counts as none."""
    order: int | None
    """The smallest m with a mean of at most epsilon; None: more than M, or no text is long enough to tell."""
    certain: int | None
    """The smallest m whose upper end is at most epsilon."""
    keep: int | None
    """How many tokens at the start stay before the last m; None: the beginning token."""
    kl: np.ndarray
    """[M] mean over texts of the mean over positions of KL(full || last m) in nats; NaN without a reading."""
    low: np.ndarray
    """[M] lower end of its 95 % interval (see `probe.analyses.readings`)."""
    high: np.ndarray
    """[M] upper end."""
    n_texts: np.ndarray
    """[M] texts with a position that has more than m tokens."""
    n_readings: np.ndarray
    """[M] such positions."""
    readings: pd.DataFrame
    """S rows: text, position, m, kl."""

    def at(self, epsilon: float) -> "EffectiveOrder":
        """The same curve judged by another tolerance.

        Raises:
            ConfigError: a tolerance that is not above 0.
        """
        _check(epsilon)
        order, certain = _first(self.kl <= epsilon), _first(self.high <= epsilon)
        return replace(self, epsilon=epsilon, order=order, certain=certain)

    def table(self) -> pd.DataFrame:
        """One row a context length: m, kl, low, high, epsilon, n_texts, n_readings."""
        return pd.DataFrame(
            {
                "m": np.arange(1, len(self.kl) + 1),
                "kl": self.kl,
                "low": self.low,
                "high": self.high,
                "epsilon": self.epsilon,
                "n_texts": self.n_texts,
                "n_readings": self.n_readings,
            }
        )


@torch.no_grad()
def effective_order(
    lm: LM,
    texts: Texts,
    *,
    epsilon: float = 0.01,
    longest: int = 16,
    positions: int | None = None,
    keep: int | None = None,
    seed: int = 0,
    tick: Tick = ignore,
) -> EffectiveOrder:
    """The smallest m with E KL(pi(. | full) || pi(. | last m)) <= epsilon, and the whole curve.

    Args:
        lm: the model; inside `lm.hooks` the hooked one.
        texts: a text, several, or their ids; one with fewer than 2 tokens after the kept ones has nothing to cut.
        epsilon: in nats, above 0.
        longest: M, the longest context that is tried.
        positions: how many positions of each text, drawn by the seed; None: all that have something to cut.
        keep: how many tokens at the start of each text stay before the last m (0: none); None: the beginning token,
            where the text has one.
        seed: of the positions.
        tick: told the share that is done.

    Raises:
        DataError: no text, one without tokens or too long, none long enough, or a model without a vocabulary.
        ConfigError: an option that is not possible.
    """
    require_tokens(lm)
    require_positive(longest=longest)
    _check(epsilon)
    rows = token_rows(lm, texts, keep)
    rng = np.random.default_rng(seed)
    chosen = [draw(rng, start(lm, ids, keep) + 1, len(ids), positions) for ids in rows]
    outputs = lm.logits([rows[0][:1]]).shape[-1]
    full = []
    for part in batches(len(rows), max(map(len, rows)), outputs):
        logits = lm.logits(rows[part])
        full += [
            row[torch.from_numpy(at)].float().log_softmax(-1) for row, at in zip(logits, chosen[part], strict=True)
        ]
    firsts = [start(lm, ids, keep) for ids in rows]
    places = [
        (text, index, int(at), m)
        for m in range(1, longest + 1)  # short ones first: rows of one batch are near in length
        for text, first in enumerate(firsts)
        for index, at in enumerate(chosen[text])
        if at + 1 - first > m
    ]
    cut = [[*rows[text][: firsts[text]], *rows[text][at + 1 - m : at + 1]] for text, _, at, m in places]
    found = []
    for part in batches(len(places), max(map(len, cut), default=1), outputs):
        last = torch.tensor([len(row) - 1 for row in cut[part]])
        short = lm.logits(cut[part])[torch.arange(len(last)), last].float().log_softmax(-1)
        whole = torch.stack([full[text][index] for text, index, _, _ in places[part]])
        values = kl(whole, short).tolist()
        found += [(text, at, m, value) for (text, _, at, m), value in zip(places[part], values, strict=True)]
        tick(part.stop / len(places))
    if not found:
        raise DataError("No text has 2 tokens or more that may be cut: give longer texts.")
    return _summary(pd.DataFrame(found, columns=["text", "position", "m", "kl"]), epsilon, longest, keep)


def _summary(readings: pd.DataFrame, epsilon: float, longest: int, keep: int | None) -> EffectiveOrder:
    by_m = [readings[readings["m"] == m] for m in range(1, longest + 1)]
    ends = np.array([averaged(rows["kl"].to_numpy(), rows["text"].to_numpy()) for rows in by_m])
    return EffectiveOrder(
        epsilon=epsilon,
        order=_first(ends[:, 0] <= epsilon),
        certain=_first(ends[:, 2] <= epsilon),
        keep=keep,
        kl=ends[:, 0],
        low=ends[:, 1],
        high=ends[:, 2],
        n_texts=np.array([rows["text"].nunique() for rows in by_m]),
        n_readings=np.array([len(rows) for rows in by_m]),
        readings=readings,
    )


def _check(epsilon: float) -> None:
    if not epsilon > 0:
        raise ConfigError(f"epsilon = {epsilon} is not possible: give nats above 0, such as 0.01.")


def _first(below: np.ndarray) -> int | None:
    return int(below.argmax()) + 1 if below.any() else None
