"""Lag profiles by resampling and by the Jacobian, and the effective order: how far back a model looks (E24).

The influence of x_{t-k} on pi_t is measured in two ways. By resampling: the token at t - k is replaced by draws from a
pool, and the influence is E KL(pi_t given the text || pi_t given the changed text) in nats. By the Jacobian: the
Frobenius norm of d pi_t / d e_{t-k}, where e is the token's embedding as it enters the model; it is a slope, so it is
small where the model is saturated, and its scale depends on the model.

Lag 0 is the last token read: pi_t predicts x_{t+1}, so a chain of order m has influence at the lags 0 to m - 1. The
first `keep` tokens of a text are neither replaced nor differentiated: by default this is the beginning-of-text token,
if the tokenizer adds one.

The texts are the sample. Positions of one text are correlated, so means are taken first within each text, then over
texts, with intervals from the bootstrap over texts. With one text, the bootstrap is over its positions, and the
interval says nothing about other texts.

Axes: T tokens, K lags, S single measurements (a text, a position t, a lag or a context length), P positions, R copies
of a text, V vocabulary, M context lengths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError, DataError
from probe.logits.lens import kl
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import encode
from probe.plotting.notebook import Beside, Drawable, alone, titled
from probe.questions.sets import plain_texts
from probe.rows import read_documents
from probe.stats import NOT_NEGATIVE, Interval, bootstrap_mean
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

Texts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
Pool = Literal["unigram", "vocabulary"] | Sequence[int]
TextsOrFile = Annotated[
    Texts | Path | None,
    Input(
        "File of texts",
        placeholder="documents of their world, or the shipped questions with their answers",
        type=Path | None,
    ),
]
"""Texts, or a file of them; by default documents of the model's world, or the built-in questions."""
DOCUMENTS, SEED = 16, 1
"""Number of documents of a world read by default, and their seed, which differs from those of trainings."""
LARGE = 20_000_000
"""Number of parameters above which fewer positions are read."""
LETTERS = 4
"""Approximate number of letters per token."""
RESAMPLED = (
    r"\text{E24}\quad I_k = \mathbb{E}\,\mathrm{KL}\big(\pi_t(x) \,\|\, \pi_t(x \text{ with } x_{t-k} \sim "
    r"\mathrm{pool})\big),\qquad J_k = \sqrt{\mathbb{E}\,\|\partial \pi_t / \partial e_{t-k}\|_F^2}"
)
ORDER = (
    r"\text{E24}\quad m^* = \min\{m : \mathbb{E}\,\mathrm{KL}(\pi(\cdot \mid \text{full}) \,\|\, "
    r"\pi(\cdot \mid \text{last } m)) \le \varepsilon\}"
)

VALUES = 2**24
"""Largest number of logit values (4 bytes each) held at once."""
ROWS = 64
"""Largest number of texts run at once."""
READ_SHARE = 0.75
"""Share of a text before the last of a few random positions, on average."""


def default_texts(lm: LM, texts: Texts | Path | None, count: int = DOCUMENTS) -> Texts:
    """Return the given texts, those of a file, or by default documents of the model's world or the built-in questions.

    Args:
        lm: the model.
        texts: texts or file as the caller passed them.
        count: number of documents or questions if no texts are given.
    """
    if isinstance(texts, Path):
        return list(read_documents(texts))
    if texts is not None:
        return texts
    own = probe.world.of(lm)
    return plain_texts() if own is None else [each.text for each in islice(own.documents(SEED), count)]


def tokens_in(texts: Texts) -> int:
    """Estimate the number of tokens in some texts."""
    rows: Any = [texts] if isinstance(texts, str) else texts
    return sum(len(row) // LETTERS if isinstance(row, str) else 1 if isinstance(row, int) else len(row) for row in rows)


def token_rows(lm: LM, texts: Texts, keep: int | None = None) -> list[list[int]]:
    """Return the ids of a text, of several texts, or of given ids.

    Raises:
        DataError: there is no text, or one without tokens after the kept ones.
        ConfigError: the number of kept tokens is negative.
    """
    if keep is not None and keep < 0:
        raise ConfigError(f"keep = {keep} is not possible: give 0 or more, or None for the beginning token.")
    one = isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], int | np.integer))
    several: Any = [texts] if one else texts
    rows = [encode(lm.tokenizer, row) if isinstance(row, str) else [int(token) for token in row] for row in several]
    if not rows or any(len(row) <= start(lm, row, keep) for row in rows):
        clause = f" after the {keep} that are kept" if keep else ""
        raise DataError(f"No text was given, or a text has no token{clause}: give texts of several words.")
    return rows


def start(lm: LM, ids: Sequence[int], keep: int | None = None) -> int:
    """Return the index of the first token that may change: `keep`, by default 1 after a beginning token, else 0."""
    if keep is not None:
        return keep
    return int(len(ids) > 0 and lm.tokenizer.bos_token_id is not None and ids[0] == lm.tokenizer.bos_token_id)


def draw(rng: np.random.Generator, first: int, last: int, count: int | None) -> np.ndarray:
    """Draw `count` different numbers from first..last-1, sorted; all of them for None or if there are not more.

    Raises:
        ConfigError: the count is below 1.
    """
    require_positive(positions=count)
    if count is None or count >= last - first:
        return np.arange(first, last)
    return np.sort(rng.choice(np.arange(first, last), count, replace=False))


def pool_of(
    lm: LM, rows: Sequence[Sequence[int]], pool: Pool, keep: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens that may be drawn and their probabilities (see `lag_profile`).

    Raises:
        ConfigError: the pool is unknown.
        DataError: the pool has no tokens.
    """
    if isinstance(pool, str) and pool not in ("unigram", "vocabulary"):
        raise ConfigError(f'The pool {pool!r} is unknown: give "unigram", "vocabulary" or a list of token ids.')
    if pool == "unigram":
        corpus = np.concatenate([np.array(ids[start(lm, ids, keep) :]) for ids in rows])
        tokens, counts = np.unique(corpus, return_counts=True)
        return tokens, counts / counts.sum()
    special = set(lm.tokenizer.all_special_ids)
    ids = [i for i in range(len(lm.tokenizer)) if i not in special] if pool == "vocabulary" else list(pool)
    if not ids:
        raise DataError("The pool to draw tokens from is empty: give at least one token id.")
    return np.array(ids), np.full(len(ids), 1 / len(ids))


def average_texts(values: np.ndarray, texts: np.ndarray) -> Interval:
    """Compute the mean over texts of the means over positions, with its 95 % interval (see the module).

    Args:
        values: [S] measurements.
        texts: [S] index of the text of each measurement.
    """
    means = [values[texts == text].mean() for text in np.unique(texts)]
    return bootstrap_mean(means if len(means) > 1 else values, bounds=NOT_NEGATIVE)


def batches(count: int, length: int, outputs: int) -> Iterator[slice]:
    """Yield slices of `count` rows of `length` tokens, so that the logits of each batch fit in memory."""
    size = max(1, min(ROWS, VALUES // max(1, length * outputs)))
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def require_tokens(lm: LM) -> None:
    """Raise a DataError for a model whose output is a scalar instead of a distribution."""
    if lm.readout != "tokens":
        raise DataError(
            f"The model `{lm.ref or 'created'}` outputs a scalar ({lm.readout}) and no distribution over tokens: use a "
            'language model, or for a Jacobian call jacobian_profile(..., of="logits").'
        )


def require_positive(**numbers: int | None) -> None:
    """Raise a ConfigError for a count below 1; None is accepted."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} = {value} is not possible: give 1 or more.")


Measure = Literal["resampling", "jacobian"]
Output = Literal["probabilities", "logits"]

EXACT = 64
"""Largest number of outputs for which the whole Jacobian is computed by default."""
PROJECTIONS = 8
"""Number of random directions for larger models."""
UNITS = {"probabilities": "probability per unit of embedding", "logits": "logit per unit of embedding"}


@dataclass(frozen=True)
class LagProfile(Drawable):
    """Influence of x_{t-k} on pi_t for the lags k = 0 to K - 1."""

    measure: Measure
    """Measure of influence: resampling or Jacobian."""
    unit: str
    """Unit of the influence."""
    influence: np.ndarray
    """[K] mean over texts of the mean over positions (Jacobian: root of the mean square); NaN without a measurement."""
    low: np.ndarray
    """[K] lower bound of the 95 % interval."""
    high: np.ndarray
    """[K] upper bound of the 95 % interval."""
    n_texts: np.ndarray
    """[K] number of texts that have this lag."""
    n_readings: np.ndarray
    """[K] number of pairs of text and position behind the mean."""
    readings: pd.DataFrame
    """Table with S rows: text, position (t), lag, influence (mean over the draws; Jacobian: squared norm)."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per lag (`table`), and one with one row per measurement (`readings`)."""
        return {"lags": self.by_lag(), "lag-readings": self.readings}

    def by_lag(self) -> pd.DataFrame:
        """Return a table with one row per lag: measure, lag, influence, low, high, unit, n_texts, n_readings."""
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

    def sentence(self) -> str:
        """Name the lag, other than 0, with the largest influence on the next-token distribution."""
        return Profiles((self,), alone()).sentence()

    def figure(self) -> "go.Figure":
        """Draw the influence by lag."""
        return Profiles((self,), alone()).figure()


class Profiles(Beside[LagProfile]):
    """Lag profiles of one model or several."""

    def sentence(self) -> str:
        """Name for every model the lag, other than 0, with the largest influence on the next-token distribution."""
        clauses = [self.clause(look.name, each) for look, each in zip(self.looks, self.results, strict=True)]
        return "; ".join(clauses) + "."

    @staticmethod
    def clause(name: str, profile: LagProfile) -> str:
        """Name the lag of one model with the largest influence."""
        what = profile.unit.partition(" per ")[0]
        what = "next-token distribution" if what in ("nats", "probability", "logit") else what
        earlier = np.nan_to_num(profile.influence[1:], nan=-1.0)
        if not (earlier >= 0).any():
            return f"the {what} of {name} depends on one token"
        most = 1 + int(earlier.argmax())
        return f"apart from lag 0, the last token, lag {most} changes the {what} of {name} most"

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the influence by lag."""
        from probe.autoregression.figures import lag_curves

        how = "resampling" if self.results[0].measure == "resampling" else "Jacobian"
        chart = lag_curves([each.by_lag() for each in self.results], self.looks)
        return {"lags": titled(chart, f"Lag profile by {how}")}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per model and lag."""
        return {"Lags": self.tables()["lags"]}


def profile_seconds(
    lm: LM, texts: Texts | Path | None, lags: int, resamples: int, positions: int | None, **rest: Any
) -> float:
    """Estimate the seconds that reading the resampled texts takes, from a timing of the model on a few tokens."""
    require_tokens(lm)
    read = default_texts(lm, texts)
    count, tokens = 1 if isinstance(read, str) else len(read), tokens_in(read)
    return seconds_a_token(lm) * profile_tokens(tokens, count, lags, resamples, positions)


def profile_tokens(tokens: int, texts: int, lags: int, draws: int, positions: int | None) -> float:
    """Estimate the number of tokens that a lag profile reads: the texts, and copies of them up to the longest lag.

    Args:
        tokens: number of tokens in all texts.
        texts: number of texts.
        lags: number of lags.
        draws: number of copies for each position.
        positions: number of positions in each text; None is all.
    """
    length = tokens / max(texts, 1)
    return texts * (length + draws * (positions or length) * min(length, READ_SHARE * length + lags))


@analysis(
    "autoregression",
    title="Lag profile",
    equations=(RESAMPLED,),
    seconds=profile_seconds,
    key="lag_profile",
    beside=Profiles,
)
@torch.no_grad()
def lag_profile(
    lm: LM,
    texts: TextsOrFile = None,
    *,
    lags: Annotated[int, Input("Lags")] = 16,
    resamples: Annotated[int, Input("Draws")] = 4,
    pool: Annotated[Pool, Input(advanced=True, type=Literal["unigram", "vocabulary"])] = "unigram",
    positions: Annotated[
        int | None, Input(advanced=True, first=lambda lm, *others: 3 if lm.n_parameters > LARGE else 4)
    ] = None,
    keep: Annotated[int | None, Input(advanced=True)] = None,
    seed: Annotated[int, Input(advanced=True)] = 0,
    tick: Tick = ignore,
) -> LagProfile:
    """Measure how much the token k places before the last one read changes the next-token distribution.

    A language model is an autoregression: the next token is drawn from a distribution that is a nonlinear function of
    the tokens before. **Lag** 0 is the last token read, so a chain of order *m* has influence at the lags 0 to *m* - 1.
    A token is replaced by draws from the texts' own tokens (for one text, better from the vocabulary); the influence is
    the mean KL of the next-token distributions, E KL(pi_t || pi_t with x_{t-k} resampled), in nats. Means are over
    texts (within each text over positions), intervals are 95 % bootstrap over texts; for one text over its positions.

    A draw may equal the original token, since the expectation is over the whole pool. Two models with the same
    tokenizer get the same draws.

    Args:
        lm: the model; inside `lm.hooks`, with its hooks.
        texts: one text or several, their ids, or a file; by default documents of the model's world, or the built-in
            questions.
        lags: number of lags K, counted from 0.
        resamples: number of draws for each replaced token.
        pool: "unigram" draws from the tokens of the texts as often as they occur, "vocabulary" uniformly from all
            tokens that are not special, and a list of ids uniformly from it.
        positions: number of tokens replaced in each text, one at a time, drawn with the seed; in Python, None replaces
            all.
        keep: number of tokens at the start that are not replaced; by default the beginning-of-text token.
        seed: seed of the positions and the draws.
        tick: function called with the share of the work done.

    Raises:
        DataError: there is no text, a text is empty or too long, the pool is empty, or the model has no vocabulary.
        ConfigError: an option is not valid.
    """
    require_tokens(lm)
    require_positive(lags=lags, resamples=resamples)
    texts = default_texts(lm, texts)
    rows = token_rows(lm, texts, keep)
    tokens, weights = pool_of(lm, rows, pool, keep)
    rng = np.random.default_rng(seed)
    readings = []
    for text, ids in enumerate(rows):
        sources = draw(rng, start(lm, ids, keep), len(ids), positions)
        replacements = rng.choice(tokens, (len(sources), resamples), p=weights)
        clean = lm.logits([ids])[0].float().log_softmax(-1)
        values = np.zeros((len(sources), lags))
        for part in batches(replacements.size, len(ids), clean.shape[-1]):
            owner = np.arange(replacements.size)[part] // resamples  # index of each copy's source position
            at, length = sources[owner], min(len(ids), int(sources[owner[-1]]) + lags)
            copies = np.tile(ids[:length], (len(owner), 1))
            copies[np.arange(len(owner)), at] = replacements.ravel()[part]
            logprobs = lm.logits(torch.from_numpy(copies)).float().log_softmax(-1)
            divergences = kl(clean[None, :length], logprobs).cpu().numpy()
            for k in range(lags):
                inside = at + k < length
                np.add.at(values[:, k], owner[inside], divergences[inside, at[inside] + k] / resamples)
        readings.append(_readings(text, sources[:, None] + np.arange(lags), values, start(lm, ids, keep), len(ids)))
        tick((text + 1) / len(rows))
    return _profile("resampling", "nats", readings, lags)


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
    """Measure the lag profile by the Jacobian: the Frobenius norm of d pi_t / d e_{t-k}.

    Positions are combined by the root mean square, which random directions estimate without bias: E |J^T v|^2 = |J|^2
    for v of independent signs (Hutchinson 1989).

    Args:
        lm: the model; inside `lm.hooks`, with its hooks. A scalar model has only "logits".
        texts: one text or several, or their ids.
        lags: number of lags K, counted from 0.
        of: output to differentiate: "probabilities" (pi_t, bounded) or "logits".
        projections: number of random directions per position; by default the whole Jacobian for up to `EXACT` outputs,
            else `PROJECTIONS` directions.
        positions: number of positions t in each text, drawn with the seed; all by default.
        keep: number of tokens at the start that are left out; by default the beginning-of-text token.
        seed: seed of the positions and the directions.
        tick: function called with the share of the work done.

    Raises:
        DataError: there is no text, a text is empty or too long, or probabilities are requested from a model without a
            vocabulary.
        ConfigError: an option is not valid.
        ModelError: the architecture cannot be hooked.
    """
    if of not in UNITS:
        raise ConfigError(f'The Jacobian of {of!r} was requested: give "probabilities" or "logits".')
    if of == "probabilities":
        require_tokens(lm)
    require_positive(lags=lags, projections=projections)
    rows = token_rows(lm, texts, keep)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        outputs = lm.logits([rows[0][:1]]).shape[-1]
    exact = projections is None and outputs <= EXACT
    count = outputs if exact else projections or PROJECTIONS
    readings = []
    for text, ids in enumerate(rows):
        ends = draw(rng, start(lm, ids, keep), len(ids), positions)
        probes = np.eye(outputs) if exact else rng.choice([-1.0, 1.0], (len(ends), count, outputs)) / count**0.5
        directions = np.tile(probes, (len(ends), 1)) if exact else probes.reshape(-1, outputs)
        squares = np.zeros((len(ends), len(ids)))
        for part in batches(len(directions), len(ids), outputs):
            owner = np.arange(len(directions))[part] // count
            length = int(ends[owner[-1]]) + 1
            gradients = _pulled_back(lm, ids[:length], ends[owner], directions[part], of)
            np.add.at(squares[:, :length], owner, gradients)
        sources = ends[:, None] - np.arange(lags)
        values = np.take_along_axis(squares, sources.clip(0), axis=1)
        readings.append(_readings(text, sources, values, start(lm, ids, keep), len(ids), ends=ends))
        tick((text + 1) / len(rows))
    unit = UNITS[of] if lm.readout == "tokens" else f"{lm.readout} per unit of embedding"
    return _profile("jacobian", unit, readings, lags)


def _pulled_back(
    lm: LM, ids: Sequence[int], ends: np.ndarray, directions: np.ndarray, of: Output
) -> Float[np.ndarray, "R T"]:
    """Compute |J_{t,s}^T v|^2 for copies of a text, each with its own t and v, in one forward and backward pass."""
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
    """Return the values [P K] of one text as rows, keeping those whose other token [P K] lies in first..last-1."""
    row, lag = np.nonzero((other >= first) & (other < last))
    position = other[row, lag] if ends is None else ends[row]
    return pd.DataFrame({"text": text, "position": position, "lag": lag, "influence": values[row, lag]})


def _profile(measure: Measure, unit: str, frames: Sequence[pd.DataFrame], lags: int) -> LagProfile:
    readings = pd.concat(frames, ignore_index=True)
    by_lag = [readings[readings["lag"] == lag] for lag in range(lags)]
    ends = np.array([average_texts(rows["influence"].to_numpy(), rows["text"].to_numpy()) for rows in by_lag])
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


@dataclass(frozen=True)
class EffectiveOrder(Drawable):
    """Distance of a prediction to the full one when only the last m tokens are read, m = 1 to M."""

    epsilon: float
    """Tolerance in nats: smaller distances count as none."""
    order: int | None
    """Smallest m with a mean of at most epsilon; None if it exceeds M or no text is long enough."""
    certain: int | None
    """Smallest m whose upper bound is at most epsilon."""
    keep: int | None
    """Number of tokens at the start that precede the last m; None stands for the beginning-of-text token."""
    kl: np.ndarray
    """[M] mean over texts of the mean over positions of KL(full || last m) in nats; NaN without a measurement."""
    low: np.ndarray
    """[M] lower bound of the 95 % interval."""
    high: np.ndarray
    """[M] upper bound of the 95 % interval."""
    n_texts: np.ndarray
    """[M] number of texts with a position that has more than m tokens."""
    n_readings: np.ndarray
    """[M] number of such positions."""
    readings: pd.DataFrame
    """Table with S rows: text, position, m, kl."""

    def at(self, epsilon: float) -> "EffectiveOrder":
        """Return the effective order for another tolerance, from the same curve.

        Raises:
            ConfigError: the tolerance is not above 0.
        """
        _check(epsilon)
        order, certain = _first(self.kl <= epsilon), _first(self.high <= epsilon)
        return replace(self, epsilon=epsilon, order=order, certain=certain)

    def by_length(self) -> pd.DataFrame:
        """Return a table with one row per context length: m, kl, low, high, epsilon, n_texts, n_readings."""
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

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per context length (`by_length`), and one per measurement (`readings`)."""
        return {"context": self.by_length(), "context-readings": self.readings}

    def sentence(self) -> str:
        """State the effective order of the model."""
        return Orders((self,), alone()).sentence()

    def figure(self) -> "go.Figure":
        """Draw KL to the full context by the number of tokens read, and the effective order."""
        return Orders((self,), alone()).figure()


class Orders(Beside[EffectiveOrder]):
    """Effective orders of one model or several."""

    def sentence(self) -> str:
        """State the effective order of every model."""
        clauses = [self.clause(look.name, each) for look, each in zip(self.looks, self.results, strict=True)]
        return "; ".join(clauses) + "."

    @staticmethod
    def clause(name: str, order: EffectiveOrder) -> str:
        """State the effective order of one model."""
        indices = np.flatnonzero(~np.isnan(order.kl))
        m = order.order or int(indices[-1]) + 1
        kl = f"{order.kl[m - 1]:.2g}"
        if not np.isnan(order.low[m - 1]):
            kl += f" [{order.low[m - 1]:.2g}, {order.high[m - 1]:.2g}]"
        reach = f"{name} looks back {'' if order.order else 'more than '}{m} token{'s' * (m > 1)}"
        return f"{reach} (with only these, KL to the full context is {kl} nats)"

    def figures(self) -> "dict[str, go.Figure]":
        """Draw KL to the full context by the number of tokens read, and the effective orders."""
        from probe.autoregression.figures import context_curves

        tables, orders = [each.by_length() for each in self.results], [each.order for each in self.results]
        chart = context_curves(tables, self.looks, orders=orders, epsilon=self.results[0].epsilon)
        return {"context": titled(chart, "KL to the full context, with only the last m tokens")}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per model and context length."""
        return {"Contexts": self.tables()["context"]}


def order_seconds(lm: LM, texts: Texts | Path | None, longest: int, positions: int | None, **rest: Any) -> float:
    """Estimate the seconds that reading the truncated texts takes, from a timing of the model on a few tokens."""
    require_tokens(lm)
    read = default_texts(lm, texts)
    count, tokens = 1 if isinstance(read, str) else len(read), tokens_in(read)
    return seconds_a_token(lm) * order_tokens(tokens, count, longest, positions)


def order_tokens(tokens: int, texts: int, longest: int, positions: int | None) -> float:
    """Estimate the number of tokens that an effective order reads: the texts, and their truncations.

    Args:
        tokens: number of tokens in all texts.
        texts: number of texts.
        longest: longest truncated context.
        positions: number of positions in each text; None is all.
    """
    cuts = min(texts * positions, tokens) if positions else tokens
    return tokens + cuts * longest * (longest + 1) / 2


@analysis(
    "autoregression",
    title="Effective order",
    equations=(ORDER,),
    seconds=order_seconds,
    key="lag_order",
    beside=Orders,
)
@torch.no_grad()
def effective_order(
    lm: LM,
    texts: TextsOrFile = None,
    *,
    epsilon: Annotated[float, Input("Tolerance")] = 0.01,
    longest: Annotated[int, Input("Longest context")] = 16,
    positions: Annotated[
        int | None, Input(advanced=True, first=lambda lm, *others: 2 if lm.n_parameters > LARGE else 3)
    ] = None,
    keep: Annotated[int | None, Input(advanced=True)] = None,
    seed: Annotated[int, Input(advanced=True)] = 0,
    tick: Tick = ignore,
) -> EffectiveOrder:
    """Measure how few of the last tokens give nearly the same prediction as the full context.

    The effective order is the smallest m whose mean KL(pi(. | full) || pi(. | last m)) is at most epsilon; the whole
    curve is returned too. The context of a position is truncated to its last m tokens, preceded by the first `keep`
    tokens of the text; positions of the truncated text count from 0. (A heading that tells the model the kind of text
    can be kept too: without it, the truncated text is of another kind, and the distance measures this rather than
    memory.) For each m, only positions with more than m tokens count.

    Args:
        lm: the model; inside `lm.hooks`, with its hooks.
        texts: one text or several, their ids, or a file; by default documents of the model's world, or the built-in
            questions. A text needs at least 2 tokens after the kept ones.
        epsilon: tolerance in nats, above 0.
        longest: longest truncated context M.
        positions: number of positions in each text, drawn with the seed; in Python, None takes all that can be
            truncated.
        keep: number of tokens at the start of each text that precede the last m; by default the beginning-of-text
            token, if there is one.
        seed: seed of the positions.
        tick: function called with the share of the work done.

    Raises:
        DataError: there is no text, a text is empty or too long, none is long enough, or the model has no vocabulary.
        ConfigError: an option is not valid.
    """
    require_tokens(lm)
    require_positive(longest=longest)
    _check(epsilon)
    texts = default_texts(lm, texts)
    rows = token_rows(lm, texts, keep)
    rng = np.random.default_rng(seed)
    picks = [draw(rng, start(lm, ids, keep) + 1, len(ids), positions) for ids in rows]
    outputs = lm.logits([rows[0][:1]]).shape[-1]
    full = []
    for part in batches(len(rows), max(map(len, rows)), outputs):
        logits = lm.logits(rows[part])
        full += [row[torch.from_numpy(at)].float().log_softmax(-1) for row, at in zip(logits, picks[part], strict=True)]
    firsts = [start(lm, ids, keep) for ids in rows]
    places = [
        (text, index, int(at), m)
        for m in range(1, longest + 1)  # short rows first, so that the rows of a batch have similar lengths
        for text, first in enumerate(firsts)
        for index, at in enumerate(picks[text])
        if at + 1 - first > m
    ]
    suffixes = [[*rows[text][: firsts[text]], *rows[text][at + 1 - m : at + 1]] for text, _, at, m in places]
    values_at = []
    for part in batches(len(places), max(map(len, suffixes), default=1), outputs):
        last = torch.tensor([len(row) - 1 for row in suffixes[part]])
        short = lm.logits(suffixes[part])[torch.arange(len(last)), last].float().log_softmax(-1)
        whole = torch.stack([full[text][index] for text, index, _, _ in places[part]])
        values = kl(whole, short).tolist()
        values_at += [(text, at, m, value) for (text, _, at, m), value in zip(places[part], values, strict=True)]
        tick(part.stop / len(places))
    if not values_at:
        raise DataError("No text has two or more tokens that can be left out: give longer texts.")
    return _summary(pd.DataFrame(values_at, columns=["text", "position", "m", "kl"]), epsilon, longest, keep)


def _summary(readings: pd.DataFrame, epsilon: float, longest: int, keep: int | None) -> EffectiveOrder:
    by_m = [readings[readings["m"] == m] for m in range(1, longest + 1)]
    ends = np.array([average_texts(rows["kl"].to_numpy(), rows["text"].to_numpy()) for rows in by_m])
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
