"""Comparison of a model with the best linear autoregression on the same embeddings and the same window.

A language model is a nonlinear autoregression of order m on the state z_t = (e_t, ..., e_{t-m+1}), the embeddings of
the last m tokens: a vector of m d numbers. The linear autoregression predicts e_{t+1} = A z_t + b, by least squares
with a ridge. Both predict the embedding of the next token, the model by its mean under pi_t:

    R^2 = 1 - sum ||e_{t+1} - prediction||^2 / sum ||e_{t+1} - mean||^2

on texts that the linear autoregression was not fitted to. Where a text has fewer than m tokens before a position, the
state is padded with zeros. A model that reads only m tokens may treat them as the beginning of a text, so its R^2 with
the full text before the position is reported too.

Axes: N positions, m lags, d width, p = m d, V vocabulary, S texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.autoregression.lags import (
    LARGE,
    Texts,
    TextsOrFile,
    batches,
    default_texts,
    draw,
    require_positive,
    require_tokens,
    start,
    token_rows,
    tokens_in,
)
from probe.errors import ConfigError, DataError
from probe.model.adapted import layer_weight
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.placement import aligned
from probe.numbers import in_unit
from probe.plotting.notebook import Beside, Drawable, alone, titled
from probe.stats import bootstrap
from probe.terms import DIFFERENCE, SHARE
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

RIDGES = np.geomspace(1e-6, 1e2, 17)
"""Ridge penalties to try, as multiples of N times the mean variance of a coordinate of the state."""
LARGEST = 2500
"""Largest dimension of the state in a linear fit, which takes some p^3 operations."""
READERS = ("linear", "window", "full")
"""Predictors that are compared: the linear autoregression, the model with m tokens, and the model with all."""
FITTED = 400
"""Number of documents of a world used by default."""
VARIANCE = (
    r"R^2 = 1 - \sum_t \|e_{t+1} - \hat e_{t+1}\|^2 \,/\, \sum_t \|e_{t+1} - \bar e\|^2,\quad "
    r"\hat e_{t+1} = A z_t + b \ \text{ or } \ \sum_v \pi_t(v)\, e_v"
)
CHUNK = 4096
"""Number of positions whose states are in memory in double precision at once."""


@dataclass(frozen=True)
class LinearAutoregression(Drawable):
    """Accuracy of the model and of the best linear autoregression, by the number of tokens m that both read."""

    orders: pd.DataFrame
    """Table with one row per m; see `table`."""
    errors: pd.DataFrame
    """Table with one row per m and held-out text: m, text, n (positions), total, linear, window, full (sums of
    squares), and how often the next token was the likeliest one, or that with the nearest embedding (`linear_right`,
    ...).
    """

    def table(self) -> pd.DataFrame:
        """Return a table with one row per m.

        `dimension` is p = m d, `effective_dimension` the participation ratio of the state's covariance (Gao et al.
        2017, bioRxiv 214262), `cache` the numbers that the model keeps of m tokens (E16). `linear`, `window` (the model
        with m tokens) and `full` (the model with all) are R^2 with the bounds of 95 % intervals by the bootstrap over
        texts, `gain` is full - linear, and `linear_right`, `window_right` and `full_right` are the shares of next
        tokens predicted correctly. `ridge` is the chosen penalty, `n_fitted` and `n` count positions.
        """
        return self.orders

    def sentence(self) -> str:
        """Summarise the result at the longest window."""
        row = max(self.orders.to_dict("records"), key=lambda each: each["linear"])
        tokens = "the last token" if row["m"] == 1 else f"the last {row['m']} tokens"
        gain = in_unit(DIFFERENCE, row["gain"], row["gain_low"], row["gain_high"], sign=True)
        shares = {name: in_unit(SHARE, row[name], nan, nan) for name in READERS}
        return (
            f"The best linear autoregression explains {shares['linear']} of the variance of the next embedding"
            f" from {tokens}. The model explains {shares['window']} from the same tokens, and {shares['full']} from"
            f" the whole text before it ({gain} over the linear one). The state of {tokens} has"
            f" {row['dimension']:,} dimensions; its effective dimension is {row['effective_dimension']:.0f}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per m (`table`), and one with one row per m and text (`errors`)."""
        return {"linear": self.orders, "linear-texts": self.errors}

    def figure(self) -> "go.Figure":
        """Draw R^2 of all predictors by the number of tokens read."""
        return LinearBeside((self,), alone()).figure()


class LinearBeside(Beside[LinearAutoregression]):
    """Comparison of one model or several with their best linear autoregressions."""

    def sentence(self) -> str:
        """Summarise the result at the longest window, in one sentence per model."""
        named = zip(self.looks, self.results, strict=True)
        return " ".join(f"{look.name}: {each.sentence()}" for look, each in named)

    def figures(self) -> "dict[str, go.Figure]":
        """Draw R^2 of all predictors by the number of tokens read."""
        from probe.autoregression.figures import linear_curves

        chart = linear_curves([each.table() for each in self.results], self.looks)
        return {"linear": titled(chart, "Prediction of the next token's embedding", 360)}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the sizes of the predictors and how often they are right, by the number of tokens read."""
        rows = self.tables()["linear"]
        columns = {"model": "model", "m": "last tokens", "dimension": "dimensions", "effective_dimension": "effective"}
        columns |= {"cache": "numbers kept", "linear_right": "linear: right", "window_right": "same tokens: right"}
        columns |= {"full_right": "whole text: right"}
        shown = rows[list(columns)].rename(columns=columns)
        for name in (name for name in columns.values() if name.endswith(": right")):
            shown[name] = [in_unit(SHARE, value, None, None) for value in shown[name]]
        return {"Sizes": shown.assign(effective=shown["effective"].round().astype(int))}


def linear_seconds(
    lm: LM, texts: Texts | Path | None, orders: Sequence[int], test: float, positions: int, **rest: object
) -> float:
    """Estimate the seconds that fits and readings take, from a timing of the model on a few tokens."""
    read = default_texts(lm, texts, FITTED)
    width = lm.model.get_input_embeddings().weight.shape[1]
    fits = sum(2e-9 * (m * width) ** 3 for m in orders if m * width <= LARGEST)
    return fits + seconds_a_token(lm) * test * (tokens_in(read) + len(read) * positions * sum(orders))


class Regression(NamedTuple):
    """Fitted linear autoregression."""

    weights: Float[np.ndarray, "p d"]
    """Transpose of the matrix A."""
    intercept: Float[np.ndarray, " d"]
    """Intercept b."""
    ridge: float
    """Ridge penalty as a multiple (see `RIDGES`)."""
    effective_dimension: float
    """Participation ratio of the covariance of the state."""


def fit(states: Float[np.ndarray, "N p"], targets: Float[np.ndarray, "N d"]) -> Regression:
    """Fit by least squares with the ridge that generalised cross-validation chooses (Golub, Heath and Wahba 1979).

    Args:
        states: [N p] states z_t.
        targets: [N d] next embeddings e_{t+1}.
    """
    n, p = states.shape
    middle, mean = states.mean(0, dtype=float), targets.mean(0, dtype=float)
    gram, shared, square = np.zeros((p, p)), np.zeros((p, targets.shape[1])), 0.0
    for first in range(0, n, CHUNK):
        x, y = states[first : first + CHUNK] - middle, targets[first : first + CHUNK] - mean
        gram, shared, square = gram + x.T @ x, shared + x.T @ y, square + float((y**2).sum())
    values, vectors = np.linalg.eigh(gram)
    values = values.clip(0)
    cross = vectors.T @ shared
    power = (cross**2).sum(1)
    scale = values.sum() / p

    def score(share: float) -> float:
        shrunk = 1 / (values + share * scale)
        rest = square - 2 * float(power @ shrunk) + float((values * shrunk**2) @ power)
        freedom = n - 1 - float((values * shrunk).sum())
        return rest / freedom**2 if freedom > 0 else np.inf

    ridge = min(RIDGES, key=score)
    weights = vectors @ (cross / (values + ridge * scale)[:, None])
    effective = float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0
    return Regression(weights, mean - middle @ weights, float(ridge), effective)


@analysis(
    "autoregression",
    title="Linear autoregression",
    equations=(VARIANCE,),
    seconds=linear_seconds,
    key="lag_linear",
    beside=LinearBeside,
)
@torch.no_grad()
def linear_autoregression(
    lm: LM,
    texts: TextsOrFile = None,
    *,
    orders: Annotated[Sequence[int], Input(advanced=True, type=tuple[int, ...])] = (1, 2, 4, 8),
    test: Annotated[float, Input(advanced=True)] = 0.3,
    positions: Annotated[
        int | None, Input(advanced=True, first=lambda lm, *others: 2 if lm.n_parameters > LARGE else 8)
    ] = None,
    keep: Annotated[int | None, Input(advanced=True)] = None,
    seed: Annotated[int, Input(advanced=True)] = 0,
    tick: Tick = ignore,
) -> LinearAutoregression:
    """Compare the model's predictions with the best linear autoregression on the same window.

    The last *m* tokens are a state of *m d* numbers, the concatenated embeddings of the tokens. The **best linear
    autoregression** predicts the embedding of the next token from it by least squares, with the ridge that generalised
    cross-validation chooses. The **model** predicts it by its mean under its own distribution, reading the same *m*
    tokens, or the whole text before. Both are evaluated on texts that the linear autoregression was not fitted to;
    always predicting the mean has R² = 0. A model that reads only a few tokens treats them as the beginning of a text
    and can have R² < 0. Intervals are 95 % bootstrap over texts. *Effective* dimensions are the participation ratio of
    the state's covariance.

    Args:
        lm: the model; inside `lm.hooks`, with its hooks.
        texts: several texts, their ids, or a file; by default documents of the model's world, or the built-in
            questions. The linear autoregression learns from these texts alone; it needs more positions than the state
            has dimensions.
        orders: values of m to try; those whose state has more than `LARGEST` dimensions are left out.
        test: share of texts held out for the comparison, drawn with the seed.
        positions: number of positions in each text, drawn with the seed; in Python, None takes all.
        keep: number of tokens at the start of each text that precede the model's m tokens and enter no state; by
            default the beginning-of-text token.
        seed: seed of the draws.
        tick: function called with the share of the work done.

    Raises:
        DataError: there are fewer than 4 texts of 2 tokens or more, one is too long for the model, or the model has no
            vocabulary.
        ConfigError: an option is not valid.
    """
    require_tokens(lm)
    texts = default_texts(lm, texts, FITTED)
    require_positive(positions=positions, **{f"orders: {m}": m for m in orders})
    if not 0 < test < 1 or not orders:
        raise ConfigError(
            f"test={test} and orders={tuple(orders)}: give a share between 0 and 1, and one order or more."
        )
    embedding = lm.model.get_input_embeddings()
    with aligned(embedding):
        table: Tensor = layer_weight(embedding).detach()
    width = table.shape[1]
    orders = sorted({m for m in orders if m * width <= LARGEST})
    if not orders:
        raise ConfigError(
            f"A state of one token has {width:,} dimensions, and a fit allows {LARGEST:,} at most: use a model"
            " with a smaller width."
        )
    rows = [row for row in token_rows(lm, texts, keep) if len(row) - start(lm, row, keep) > 1]
    if len(rows) < 4:
        raise DataError(f"{len(rows)} texts have 2 tokens or more: give at least 4, some to fit and some to test.")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    count = min(max(2, round(test * len(rows))), len(rows) - 2)
    compared, fitted = [rows[i] for i in order[:count]], [rows[i] for i in order[count:]]
    learned = _windows(lm, fitted, orders[-1], keep, None, rng)
    asked = _windows(lm, compared, orders[-1], keep, positions, rng)
    embeddings = np.concatenate([table.float().cpu().numpy(), np.zeros((1, width), np.float32)])  # the last: no token
    truth, words = embeddings[asked.next], embeddings[:-1]
    full = _model_predictions(lm, compared, asked, None, keep, table)
    found, errors = [], []
    for index, m in enumerate(orders):
        best = fit(_states(embeddings, learned, m), embeddings[learned.next])
        total = ((truth - embeddings[learned.next].mean(0)) ** 2).sum(1)
        sums = pd.DataFrame({"m": m, "text": asked.text, "n": 1, "total": total})
        guess = _states(embeddings, asked, m) @ best.weights + best.intercept
        own = _model_predictions(lm, compared, asked, m, keep, table)
        for name, means, named in (("linear", guess, _nearest(guess, words)), ("window", *own), ("full", *full)):
            sums[name] = ((truth - means) ** 2).sum(1)
            sums[f"{name}_right"] = named == asked.next
        by_text = sums.groupby(["m", "text"], as_index=False).sum()
        errors.append(by_text)
        numbers = {"m": m, "dimension": m * width, "effective_dimension": best.effective_dimension}
        numbers |= {"cache": m * cache_size(lm), "ridge": best.ridge, "n_fitted": len(learned.next)}
        found.append(numbers | _compare(by_text, seed))
        tick((index + 1) / len(orders))
    return LinearAutoregression(pd.DataFrame(found), pd.concat(errors, ignore_index=True))


def cache_size(lm: LM) -> int:
    """Return how many numbers a model caches per generated token: keys and values in all blocks (E16)."""
    config = lm.model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width)


class _Windows(NamedTuple):
    """Positions with their preceding tokens."""

    text: np.ndarray
    """[N] index of the text."""
    at: np.ndarray
    """[N] position t."""
    tokens: np.ndarray
    """[N m] tokens x_t, x_{t-1}, ... up to the longest order; -1 before the start of the text."""
    next: np.ndarray
    """[N] next token x_{t+1}."""


def _windows(
    lm: LM,
    rows: Sequence[Sequence[int]],
    longest: int,
    keep: int | None,
    positions: int | None,
    rng: np.random.Generator,
) -> _Windows:
    parts = []
    for number, row in enumerate(rows):
        first, ids = start(lm, row, keep), np.array(row)
        at = draw(rng, first, len(row) - 1, positions)
        places = at[:, None] - np.arange(longest)
        parts.append((np.full(len(at), number), at, np.where(places < first, -1, ids[places.clip(0)]), ids[at + 1]))
    return _Windows(*map(np.concatenate, zip(*parts, strict=True)))


def _states(embeddings: np.ndarray, windows: _Windows, m: int) -> Float[np.ndarray, "N p"]:
    """Return z_t of each position."""
    return embeddings[windows.tokens[:, :m]].reshape(len(windows.tokens), -1)


def _model_predictions(
    lm: LM, rows: Sequence[Sequence[int]], asked: _Windows, m: int | None, keep: int | None, table: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return [N d] means of the next embedding under pi_t given the last m tokens, and [N] likeliest tokens."""
    means, likeliest, contexts = [], [], []
    for text, at in zip(asked.text, asked.at, strict=True):
        row = list(rows[text][: at + 1])
        first = start(lm, row, keep)
        contexts.append(row if m is None else row[:first] + row[first:][-m:])
    for part in batches(len(contexts), max(map(len, contexts)), len(table)):
        logits = lm.logits(contexts[part])
        last = torch.tensor([len(row) - 1 for row in contexts[part]])
        final = logits[torch.arange(len(last)), last].float()[:, : len(table)]
        means.append((final.softmax(-1) @ table[: final.shape[1]].float()).cpu().numpy())
        likeliest.append(final.argmax(-1).cpu().numpy())
    return np.concatenate(means), np.concatenate(likeliest)


def _nearest(points: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Return [N] tokens whose embeddings are nearest to each point."""
    squares = (embeddings**2).sum(1)
    parts = (points[first : first + 256] for first in range(0, len(points), 256))
    return np.concatenate([(squares - 2 * part @ embeddings.T).argmin(1) for part in parts])


def _compare(by_text: pd.DataFrame, seed: int) -> dict[str, float]:
    """Compute R^2 and the share of right tokens of all predictors, with intervals over texts."""
    columns = {name: by_text[name].to_numpy(float) for name in by_text}

    def explained(names: tuple[str, ...], picks: np.ndarray) -> np.ndarray:
        parts = [1 - columns[name][picks].sum(-1) / columns["total"][picks].sum(-1) for name in names]
        return parts[0] if len(parts) == 1 else parts[0] - parts[1]

    numbers: dict[str, float] = {"n": int(columns["n"].sum()), "n_texts": len(by_text)}
    for label, names in {**{name: (name,) for name in READERS}, "gain": ("full", "linear")}.items():
        value = float(explained(names, np.arange(len(by_text))))
        interval = bootstrap(value, partial(explained, names), len(by_text), seed)
        numbers |= {label: value, f"{label}_low": interval.low, f"{label}_high": interval.high}
    for label in (f"{name}_right" for name in READERS):
        numbers[label] = float(columns[label].sum() / columns["n"].sum())
    return numbers
