"""The way between two models: their weights mixed, and what an experiment measures along it.

    theta(alpha) = (1 - alpha) theta_base + alpha theta_aligned

alpha 0 is the base and 1 the aligned model, between them is interpolation, outside extrapolation. Where a model was
trained from the other, a straight line between them often stays good (linear mode connectivity, Frankle et al. 2020;
WiSE-FT, Wortsman et al. 2022), and what training taught can be scaled by alpha (task arithmetic, Ilharco et al. 2023).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.compare.side_by_side import require_writers
from probe.compare.weights import model_names, require_one_architecture
from probe.errors import ConfigError, DataError, ModelError
from probe.experiments.metrics import ITEM, Mean
from probe.experiments.registry import find_experiment
from probe.experiments.result import RESULT_FILE, Result
from probe.experiments.run import call, metrics_of, perform
from probe.logits.lens import require_same_tokens
from probe.model.lm import LM
from probe.model.loading import twin
from probe.plotting.notebook import Drawable
from probe.stats import MEANS_RESAMPLES, TAILS, Interval, percentile, resample
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

ALPHAS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHOWN = 6
"""Metrics that are drawn where none are named."""


@dataclass(frozen=True)
class WeightPath(Drawable):
    """An experiment at several points of the straight line through two models."""

    experiment: str
    """Its name."""
    names: tuple[str, str]
    """Of the base and of the aligned model."""
    alphas: tuple[float, ...]
    """In rising order, 0 and 1 among them."""
    results: tuple[Result, ...]
    """Of the experiment, one for each alpha."""

    def table(self) -> pd.DataFrame:
        """One row an alpha and metric: alpha, metric, value, ci_low, ci_high, n, chord, departure.

        chord is (1 - alpha) of the base's value plus alpha of the aligned one's, departure the value minus it.
        """
        pairs = zip(self.alphas, self.results, strict=True)
        rows = pd.concat([result.summary.assign(alpha=alpha) for alpha, result in pairs], ignore_index=True)
        base, aligned = (rows[rows["alpha"] == end].set_index("metric")["value"] for end in (0, 1))
        chord = (1 - rows["alpha"]) * rows["metric"].map(base) + rows["alpha"] * rows["metric"].map(aligned)
        columns = ["alpha", "metric", "value", "ci_low", "ci_high", "n"]
        return rows[columns].assign(chord=chord, departure=rows["value"] - chord)

    def linearity(self, seed: int = 0) -> pd.DataFrame:
        """One row a metric: metric, r2, its ends, departure, its ends, alpha, items; for alpha from 0 to 1.

        r2 is that of the least-squares line through the values, NaN where they are all equal or fewer than three.
        departure is the largest one from the chord, and alpha the place of it. Intervals come from items that are drawn
        together for all alphas (paired bootstrap, 2,000 times), where the metric is a mean over the same items at each;
        else they are NaN. That of the departure holds for all alphas at once (Bonferroni), since the largest is
        taken.

        Args:
            seed: of the bootstrap.
        """
        inside = [index for index, alpha in enumerate(self.alphas) if 0 <= alpha <= 1]
        at = np.array([self.alphas[index] for index in inside])
        results = [self.results[index] for index in inside]
        values = pd.concat([result.summary.set_index("metric")["value"] for result in results], axis=1)
        metrics = {metric.name: metric for metric in metrics_of(find_experiment(self.experiment), results[0].items)}
        rows = []
        for name, row in values.iterrows():
            items = _paired_items(metrics.get(str(name)), results)
            rows.append({"metric": name, **_linearity(at, row.to_numpy(dtype=float), items, seed)})
        return pd.DataFrame(rows)

    def figure(self, metrics: Sequence[str] = ()) -> "go.Figure":
        """Each metric against alpha with its interval, the chord, and the two models marked.

        Args:
            metrics: names of the summary; by default those whose difference between the models is the largest against
                their intervals, at most six.

        Raises:
            ConfigError: the experiment did not measure one of them.
        """
        from probe.compare.figures import path_curves

        table = self.table()
        known = table.loc[table["chord"].notna(), "metric"].unique().tolist()
        lacking = [name for name in metrics if name not in known]
        if lacking:
            raise ConfigError(f"`{lacking[0]}` was not measured in both models: give some of {', '.join(known)}.")
        terms = {name: find_experiment(self.experiment).term(name) for name in metrics or self.most_moved()}
        return path_curves(table, terms, self.names)

    def most_moved(self) -> list[str]:
        """At most six metrics by how far the two models differ, in units of the mean width of their intervals."""
        table = self.table()
        known = table.loc[table["chord"].notna(), "metric"].unique()
        ends = [table[table["alpha"] == end].set_index("metric").loc[list(known)] for end in (0, 1)]
        gap = (ends[1]["value"] - ends[0]["value"]).abs()
        widths = [end["ci_high"] - end["ci_low"] for end in ends]
        width = (widths[0] + widths[1]) / 2
        order = (gap / width.where(width > 0)).fillna(0).sort_values(ascending=False, kind="stable")
        return [str(name) for name in order.index[:SHOWN]]


@torch.no_grad()
def interpolate(base: LM, aligned: LM, alpha: float) -> LM:
    """Build a new model with the weights (1 - alpha) base + alpha aligned; neither of the two is written to.

    The weights are mixed, and stay, in single precision or wider: half precision would round small steps away. At 0 and
    1 they are exactly those of the two models. Tied weights stay tied, and buffers are mixed like weights.
    Configuration, tokenizer (the same object) and run, which says what world it belongs to, are those of `aligned`.

    Args:
        base: the model at 0.
        aligned: the model at 1, of the same architecture, sizes and tokens.
        alpha: any finite number.

    Raises:
        ConfigError: alpha is not finite.
        DataError: a model that reads one number, or different tokenizers.
        ModelError: other architectures or sizes, or weights that are quantised.
    """
    if not math.isfinite(alpha):
        raise ConfigError(f"alpha={alpha} was given: give a finite number, 0 for the base and 1 for the aligned model.")
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    require_one_architecture(base, aligned)
    dtype = torch.promote_types(torch.promote_types(base.dtype, aligned.dtype), torch.float32)
    before, after = (dict(lm.model.named_parameters()) | dict(lm.model.named_buffers()) for lm in (base, aligned))
    mixed = {}
    for name, end in after.items():
        start = before[name].to(end.device)
        if isinstance(end, nn.Parameter) and not end.is_floating_point():
            raise ModelError(f"The weight `{name}` is quantised ({end.dtype}): load both models without quantisation.")
        value = _mix(start, end, alpha, dtype if isinstance(end, nn.Parameter) else end.dtype)
        mixed[name] = nn.Parameter(value, end.requires_grad) if isinstance(end, nn.Parameter) else value
    model = twin(aligned.model, mixed).eval()
    model.config.dtype = dtype
    names = model_names(base, aligned)
    return LM(model, aligned.tokenizer, f"{names[0]} to {names[1]} at {alpha:g}", run_dir=aligned.run_dir)


def _mix(start: Tensor, end: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """Return the mixture of two tensors, a new one; whole numbers (positions, masks) are those of the nearer model."""
    if alpha in (0, 1) or not end.is_floating_point():
        return (end if alpha >= 0.5 else start).detach().to(dtype, copy=True)
    wide = torch.promote_types(dtype, torch.float32)
    return ((1 - alpha) * start.detach().to(wide) + alpha * end.detach().to(wide)).to(dtype)


def along(
    base: LM,
    aligned: LM,
    alphas: Sequence[float] = ALPHAS,
    experiment: str = "sycophancy",
    folder: Path | None = None,
    tick: Tick = ignore,
    **options: Any,
) -> WeightPath:
    """Run an experiment at several points of the line through two models; the same questions are asked at each.

    Questions of a file are asked in one form of prompts alone (`probe.experiments.forms`).

    Args:
        base: the model at alpha 0.
        aligned: the model at alpha 1.
        alphas: where, with 0 and 1 among them.
        experiment: its name.
        folder: where the result at each alpha is kept and found again; without one nothing is kept.
        tick: called with the share that is done.
        options: of the experiment: n, seed, data, ...

    Raises:
        ConfigError: alphas that repeat or lack an end, or an option that the experiment does not have.
        RunError: the disk refuses.
        ProbeError: see `interpolate`, and what the experiment cannot use.
    """
    places = tuple(sorted(float(alpha) for alpha in alphas))
    if not {0.0, 1.0} <= set(places) or len(set(places)) < len(places):
        given = ", ".join(f"{alpha:g}" for alpha in places)
        raise ConfigError(f"The alphas {given or '(none)'} were given: give each once, with 0 and 1 among them.")
    if options.get("baseline") is not None:
        raise ConfigError("A baseline was given, and on the way between two models alpha 0 is the baseline: leave it.")
    results = []
    for index, alpha in enumerate(places):
        own = part(tick, index, len(places))
        results.append(measure_at(base, aligned, alpha, experiment, folder, own, **options))
        own(1.0)
    return WeightPath(experiment, model_names(base, aligned), places, tuple(results))


def measure_at(
    base: LM,
    aligned: LM,
    alpha: float,
    experiment: str,
    folder: Path | None = None,
    tick: Tick = ignore,
    **options: Any,
) -> Result:
    """Run the experiment at one alpha, or load its result from the folder; see `along`."""
    place = None if folder is None else place_at(base, aligned, alpha, experiment, folder, **options)
    if place is not None and (place / RESULT_FILE).is_file():
        with suppress(DataError):  # one that is damaged is measured again
            return Result.load(place)
    lm = interpolate(base, aligned, alpha)
    result = perform(find_experiment(experiment), lm, tick=tick, both_forms=False, **options)
    if place is not None:
        result.save(place)
    return result


def place_at(base: LM, aligned: LM, alpha: float, experiment: str, folder: Path, **options: Any) -> Path:
    """Return where a folder keeps the result at an alpha; the name is a hash of all that the numbers depend on."""
    keys = [call(find_experiment(experiment), lm, **options).key for lm in (base, aligned)]
    digest = hashlib.sha256(json.dumps([*keys, float(alpha)]).encode()).hexdigest()
    return folder / f"{experiment}-{digest[:12]}"


def _paired_items(metric: object, results: Sequence[Result]) -> Float[np.ndarray, "n k"] | None:
    """[n k] the values of n items at k alphas; None unless the metric is a mean over the same items at each."""
    if not isinstance(metric, Mean) or metric.unit != ITEM:
        return None
    columns = []
    for result in results:
        if not metric.applies(result.items):
            return None
        rows = metric.select(result.items)
        columns.append(pd.Series(rows[metric.columns[0]].to_numpy(dtype=float), index=rows[ITEM]))
    first = columns[0].index
    if not len(first) or not all(first.equals(each.index) for each in columns):
        return None
    return np.stack([each.to_numpy() for each in columns], axis=1)


def _linearity(
    at: Float[np.ndarray, " k"], values: Float[np.ndarray, " k"], items: Float[np.ndarray, "n k"] | None, seed: int
) -> dict[str, Any]:
    """Return the columns of `WeightPath.linearity` for one metric.

    Args:
        at: alphas, from 0 to 1.
        values: of the metric there.
        items: those behind the values, if intervals can be had.
        seed: of the bootstrap.
    """
    r2, gaps = r_squared(at, values), departures(at, values)
    largest = int(np.argmax(np.where(np.isnan(gaps), -1, np.abs(gaps))))
    ends = Interval(r2, math.nan, math.nan), Interval(float(gaps[largest]), math.nan, math.nan)
    if items is not None and len(items) > 1:
        drawn = resample(lambda indices: items[indices].mean(axis=1), len(items), MEANS_RESAMPLES, seed)  # [R k]
        tail = TAILS[0] / max(len(at) - 2, 1)
        ends = (
            percentile(r2, r_squared(at, drawn), len(items)),
            percentile(ends[1].value, departures(at, drawn)[:, largest], len(items), tails=(tail, 1 - tail)),
        )
    place = {"alpha": float(at[largest]), "items": 0 if items is None else len(items)}
    return ends[0].row(name="r2") | ends[1].row(name="departure") | place


def r_squared(at: Float[np.ndarray, " k"], values: Float[np.ndarray, "... k"]) -> Any:
    """[...] R^2 of the least-squares line through values at some places; NaN for fewer than three or equal values."""
    x, y = at - at.mean(), values - values.mean(-1, keepdims=True)
    total = (y**2).sum(-1)
    varied = (total > 1e-24) & (len(at) > 2)
    return np.where(varied, (y @ x) ** 2 / ((x @ x) * np.where(varied, total, 1.0)), np.nan)[()]


def departures(at: Float[np.ndarray, " k"], values: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "... k"]:
    """Values less the straight line from that at 0 to that at 1, the first and the last place."""
    return values - (1 - at) * values[..., :1] - at * values[..., -1:]
