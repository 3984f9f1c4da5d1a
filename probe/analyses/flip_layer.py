"""The layer of the flip: from which block on the logit lens prefers one answer to another, to the end.

For a text that ends where the answer is due, the residual stream after each block goes through the final norm and the
unembedding (`probe.analyses.lens`). The margin is log p(answer) - log p(rival) there; each answer is one token, so it
is the difference of their logits. The flip is the first row from which the margin stays above zero up to the output
(METRICS, sycophancy).

Axes: N texts, D blocks (D + 1 rows: 0 is the embedding, D the output).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from probe import stats
from probe.analyses.lens import residual_names, unembed
from probe.errors import DataError, ModelError
from probe.lm import LM
from probe.ticks import Tick, ignore

TOKENS = 4096
"""Tokens of texts that are run at once, at most."""


@torch.no_grad()
def margins(
    lm: LM,
    texts: Sequence[Sequence[int]],
    answers: Sequence[int],
    rivals: Sequence[int],
    tick: Tick = ignore,
) -> np.ndarray:
    """[N D+1] log p(answer) - log p(rival) after each block at the last token, in nats.

    Args:
        lm: the model.
        texts: ids of N texts.
        answers: [N] a token each.
        rivals: [N] another token each.
        tick: progress.

    Raises:
        DataError: lists of different lengths, or a scalar model.
        ModelError: the architecture cannot be hooked, or its output is more than norm and unembedding.
    """
    if not len(texts) == len(answers) == len(rivals):
        raise DataError(f"{len(texts)} texts have {len(answers)} answers and {len(rivals)} rivals: give one to each.")
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model gives one number and no tokens: take a language model.")
    names = residual_names(lm)
    rows = np.empty((len(texts), len(names)))
    size = max(1, TOKENS // max((len(text) for text in texts), default=1))
    for start in range(0, len(texts), size):
        part = texts[start : start + size]
        ends = torch.tensor([len(text) - 1 for text in part])
        at = torch.arange(len(part))
        logits, cache = lm.run_with_cache([list(text) for text in part], names)
        own = logits[at, ends].float()
        states = [cache[name][at, ends] for name in names]
        again = unembed(lm, states[-1])
        if float((again.softmax(-1) - own.softmax(-1)).abs().max()) > 0.05:
            raise ModelError(
                f"The logit lens does not know how {type(lm.model).__name__} makes logits from its residual stream: "
                "use a model of another architecture."
            )
        for row, scores in enumerate([*(unembed(lm, state) for state in states[:-1]), own]):
            first = torch.tensor(answers[start : start + size], device=scores.device)
            second = torch.tensor(rivals[start : start + size], device=scores.device)
            gap = scores[at, first] - scores[at, second]
            rows[start : start + size, row] = gap.double().cpu().numpy()
        tick(min(1.0, (start + size) / len(texts)))
    return rows


def flip_rows(margin: np.ndarray) -> np.ndarray:
    """[N] the first row from which a margin [N D+1] stays above zero to the end; NaN where it does not end above."""
    below = margin[:, ::-1] <= 0
    first = np.where(below.any(axis=1), below.argmax(axis=1), margin.shape[1])  # rows above zero, counted from the end
    return np.where(first > 0, margin.shape[1] - first, np.nan).astype(float)


def layer_table(margin: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Margins [N D+1] by row.

    Returns:
        `layer` (0 is the embedding), `value` (mean margin, nats), `ci_low`, `ci_high` (bootstrap), `share` (of texts
        with a margin above zero), `share_low`, `share_high` (Wilson), `n`.
    """
    rows = []
    for layer, values in enumerate(margin.T):
        mean, share = stats.bootstrap_mean(values, seed=seed), stats.wilson(int((values > 0).sum()), len(values))
        row = {"layer": layer, "value": mean.value, "ci_low": mean.low, "ci_high": mean.high, "n": len(values)}
        rows.append(row | {"share": share.value, "share_low": share.low, "share_high": share.high})
    return pd.DataFrame(rows)
