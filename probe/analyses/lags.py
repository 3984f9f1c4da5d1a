"""The lag profile of a model as a nonlinear autoregression: how much x_{t-k} moves pi_t (E24).

Two measures. By resampling: the token at t - k is replaced by draws from a pool, and the influence is
E KL(pi_t given the text || pi_t given the changed text) in nats. By the Jacobian: the Frobenius norm of
d pi_t / d e_{t-k}, where e is the token's embedding as it enters the model; a slope, so it is small where the model is
saturated, and its unit is the model's own.

Lag 0 is the token just read: pi_t predicts x_{t+1}, so a chain of order m has influence at the lags 0 to m - 1. The
first `keep` tokens of a text are neither replaced nor differentiated: by default the beginning token that a tokenizer
puts first, if it does.

Axes: T tokens, K lags, S single readings (a text, a position t, a lag), P positions, R copies of a text, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.lens import kl
from probe.analyses.readings import (
    Pool,
    Texts,
    averaged,
    batches,
    draw,
    pool_of,
    require_positive,
    require_tokens,
    start,
    token_rows,
)
from probe.errors import ConfigError
from probe.model.lm import LM
from probe.ticks import Tick, ignore

Measure = Literal["resampling", "jacobian"]
Output = Literal["probabilities", "logits"]

EXACT = 64
"""Up to this many outputs the Jacobian is taken whole by default."""
PROJECTIONS = 8
"""Random directions for larger ones."""
UNITS = {"probabilities": "probability per unit of embedding", "logits": "logit per unit of embedding"}


@dataclass(frozen=True)
class LagProfile:
    """The influence of x_{t-k} on pi_t for the lags k = 0 to K - 1."""

    measure: Measure
    """How the influence was measured."""
    unit: str
    """Of the influence."""
    influence: np.ndarray
    """[K] mean over texts of the mean over positions (Jacobian: the root of the mean square); NaN without a reading."""
    low: np.ndarray
    """[K] lower end of its 95 % interval (see `probe.analyses.readings`)."""
    high: np.ndarray
    """[K] upper end."""
    n_texts: np.ndarray
    """[K] texts that have this lag."""
    n_readings: np.ndarray
    """[K] pairs of a text and a position behind the mean."""
    readings: pd.DataFrame
    """S rows: text, position (t), lag, influence (a mean over the draws; Jacobian: the squared norm)."""

    def table(self) -> pd.DataFrame:
        """One row a lag: measure, lag, influence, low, high, unit, n_texts, n_readings."""
        return pd.DataFrame(
            {
                "measure": self.measure,
                "lag": np.arange(len(self.influence)),
                "influence": self.influence,
                "low": self.low,
                "high": self.high,
                "unit": self.unit,
                "n_texts": self.n_texts,
                "n_readings": self.n_readings,
            }
        )


@torch.no_grad()
def lag_profile(
    lm: LM,
    texts: Texts,
    *,
    lags: int = 16,
    resamples: int = 4,
    pool: Pool = "unigram",
    positions: int | None = None,
    keep: int | None = None,
    seed: int = 0,
    tick: Tick = ignore,
) -> LagProfile:
    """The lag profile by resampling: E KL(pi_t || pi_t with x_{t-k} drawn anew) in nats.

    A draw may give the token that stands there, as the expectation over the pool asks for. Two models with one
    tokenizer see the same draws.

    Args:
        lm: the model; inside `lm.hooks` the hooked one.
        texts: a text, several, or their ids.
        lags: K, how many lags, from 0.
        resamples: draws for each replaced token.
        pool: "unigram" draws from the tokens of the texts as often as they occur, "vocabulary" uniformly from all
            tokens that are not special, and a list of ids uniformly from it.
        positions: how many tokens of each text are replaced, one at a time, drawn by the seed; None: all of them.
        keep: how many tokens at the start stay as they are; None: the beginning token.
        seed: of the positions and the draws.
        tick: told the share that is done.

    Raises:
        DataError: no text, one without tokens or too long, an empty pool, or a model without a vocabulary.
        ConfigError: an option that is not possible.
    """
    require_tokens(lm)
    require_positive(lags=lags, resamples=resamples)
    rows = token_rows(lm, texts, keep)
    tokens, weights = pool_of(lm, rows, pool, keep)
    rng = np.random.default_rng(seed)
    found = []
    for text, ids in enumerate(rows):
        sources = draw(rng, start(lm, ids, keep), len(ids), positions)
        drawn = rng.choice(tokens, (len(sources), resamples), p=weights)
        clean = lm.logits([ids])[0].float().log_softmax(-1)
        values = np.zeros((len(sources), lags))
        for part in batches(drawn.size, len(ids), clean.shape[-1]):
            owner = np.arange(drawn.size)[part] // resamples  # which source each copy belongs to
            at, length = sources[owner], min(len(ids), int(sources[owner[-1]]) + lags)
            copies = np.tile(ids[:length], (len(owner), 1))
            copies[np.arange(len(owner)), at] = drawn.ravel()[part]
            changed = lm.logits(torch.from_numpy(copies)).float().log_softmax(-1)
            moved = kl(clean[None, :length], changed).cpu().numpy()
            for k in range(lags):
                inside = at + k < length
                np.add.at(values[:, k], owner[inside], moved[inside, at[inside] + k] / resamples)
        found.append(_readings(text, sources[:, None] + np.arange(lags), values, start(lm, ids, keep), len(ids)))
        tick((text + 1) / len(rows))
    return _profile("resampling", "nats", found, lags)


def jacobian_profile(
    lm: LM,
    texts: Texts,
    *,
    lags: int = 16,
    of: Output = "probabilities",
    projections: int | None = None,
    positions: int | None = None,
    keep: int | None = None,
    seed: int = 0,
    tick: Tick = ignore,
) -> LagProfile:
    """The lag profile by the Jacobian: the Frobenius norm of d pi_t / d e_{t-k} by automatic differentiation.

    Several positions are joined by the root of the mean square, which random directions estimate without bias:
    E |J^T v|^2 = |J|^2 for v of independent signs (Hutchinson 1989).

    Args:
        lm: the model; inside `lm.hooks` the hooked one. A scalar model has only "logits".
        texts: a text, several, or their ids.
        lags: K, how many lags, from 0.
        of: what is differentiated: "probabilities" (pi_t, bounded) or "logits".
        projections: random directions for each position; None: the whole Jacobian of up to `EXACT` outputs, else
            `PROJECTIONS` directions.
        positions: how many t of each text, drawn by the seed; None: all of them.
        keep: how many tokens at the start are left out; None: the beginning token.
        seed: of the positions and the directions.
        tick: told the share that is done.

    Raises:
        DataError: no text, one without tokens or too long, or the probabilities of a model without a vocabulary.
        ConfigError: an option that is not possible.
        ModelError: the architecture cannot be hooked.
    """
    if of not in UNITS:
        raise ConfigError(f'The Jacobian of {of!r} was asked for: give "probabilities" or "logits".')
    if of == "probabilities":
        require_tokens(lm)
    require_positive(lags=lags, projections=projections)
    rows = token_rows(lm, texts, keep)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        outputs = lm.logits([rows[0][:1]]).shape[-1]
    exact = projections is None and outputs <= EXACT
    count = outputs if exact else projections or PROJECTIONS
    found = []
    for text, ids in enumerate(rows):
        ends = draw(rng, start(lm, ids, keep), len(ids), positions)
        probes = np.eye(outputs) if exact else rng.choice([-1.0, 1.0], (len(ends), count, outputs)) / count**0.5
        directions = np.tile(probes, (len(ends), 1)) if exact else probes.reshape(-1, outputs)
        squares = np.zeros((len(ends), len(ids)))
        for part in batches(len(directions), len(ids), outputs):
            owner = np.arange(len(directions))[part] // count
            length = int(ends[owner[-1]]) + 1
            pulled = _pulled_back(lm, ids[:length], ends[owner], directions[part], of)
            np.add.at(squares[:, :length], owner, pulled)
        sources = ends[:, None] - np.arange(lags)
        values = np.take_along_axis(squares, sources.clip(0), axis=1)
        found.append(_readings(text, sources, values, start(lm, ids, keep), len(ids), ends=ends))
        tick((text + 1) / len(rows))
    unit = UNITS[of] if lm.readout == "tokens" else f"{lm.readout} per unit of embedding"
    return _profile("jacobian", unit, found, lags)


def _pulled_back(
    lm: LM, ids: Sequence[int], ends: np.ndarray, directions: np.ndarray, of: Output
) -> Float[np.ndarray, "R T"]:
    """|J_{t,s}^T v|^2 for copies of a text, each with its own t and direction v, in one pass forth and back."""
    leaves: list[Tensor] = []

    def cut(embedding: Tensor, hook: Any) -> Tensor:
        leaves.append(embedding.detach().requires_grad_())
        return leaves[-1]

    with torch.enable_grad(), lm.hooks([("hook_embed", cut)]):
        logits = lm.logits(torch.tensor(ids).repeat(len(ends), 1))
        row = logits[torch.arange(len(ends)), torch.from_numpy(ends)].float()
        output = row.softmax(-1) if of == "probabilities" else row
        (gradient,) = torch.autograd.grad((output * torch.from_numpy(directions).to(output)).sum(), leaves[-1])
    return gradient.double().pow(2).sum(-1).cpu().numpy()


def _readings(
    text: int, other: np.ndarray, values: np.ndarray, first: int, last: int, ends: np.ndarray | None = None
) -> pd.DataFrame:
    """Values [P K] of one text as rows, those whose other token [P K] lies in first..last-1."""
    row, lag = np.nonzero((other >= first) & (other < last))
    position = other[row, lag] if ends is None else ends[row]
    return pd.DataFrame({"text": text, "position": position, "lag": lag, "influence": values[row, lag]})


def _profile(measure: Measure, unit: str, found: Sequence[pd.DataFrame], lags: int) -> LagProfile:
    readings = pd.concat(found, ignore_index=True)
    by_lag = [readings[readings["lag"] == lag] for lag in range(lags)]
    ends = np.array([averaged(rows["influence"].to_numpy(), rows["text"].to_numpy()) for rows in by_lag])
    if measure == "jacobian":
        ends = np.sqrt(ends)
    return LagProfile(
        measure=measure,
        unit=unit,
        influence=ends[:, 0],
        low=ends[:, 1],
        high=ends[:, 2],
        n_texts=np.array([rows["text"].nunique() for rows in by_lag]),
        n_readings=np.array([len(rows) for rows in by_lag]),
        readings=readings,
    )
