"""Line between two models: interpolated weights, and an experiment measured along it.

    theta(alpha) = (1 - alpha) theta_base + alpha theta_aligned

alpha 0 is the base and 1 the aligned model; values between are interpolation, values outside extrapolation. If one
model was trained from the other, models on the straight line between them often perform well (linear mode connectivity,
Frankle et al. 2020; WiSE-FT, Wortsman et al. 2022), and alpha can scale the effect of training (task arithmetic,
Ilharco et al. 2023).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.compare.side_by_side import require_writers
from probe.compare.weights import model_names, require_one_architecture
from probe.errors import ConfigError, DataError
from probe.experiments.cost import stored_seconds
from probe.experiments.definition import form
from probe.experiments.forms import count_again
from probe.experiments.metrics import ITEM, Mean
from probe.experiments.registry import experiments, find_experiment
from probe.experiments.result import RESULT_FILE, Result, sendable_result
from probe.experiments.run import call, is_added, metrics_of, perform
from probe.experiments.store import homes
from probe.logits.lens import require_same_tokens
from probe.model.lm import LM
from probe.model.loading import merged, twin
from probe.model.placement import require_weights
from probe.numbers import in_unit
from probe.plotting.notebook import Drawable, titled
from probe.stats import MEANS_RESAMPLES, TAILS, Interval, percentile, resample
from probe.terms import DIFFERENCE, RATES, Term, after_numbers
from probe.texts import visible
from probe.ticks import Tick, ignore, part
from probe.world import of

if TYPE_CHECKING:
    import plotly.graph_objects as go

ENDS = (-0.5, 1.5)
"""First and last alpha."""
SPACINGS = (0.5, 0.25, 0.125)
"""Distances between alphas."""
FIRST = "sycophancy"
"""Default experiment."""
TRAINS = ("continual",)
"""Experiments that train models instead of measuring one."""
QUICK = {"n": 40, "interventions": 0, "turns": 1, "samples": 4, "shuffles": 20}
"""Default options of experiments along the line, which measures many models."""
REAL = QUICK | {"n": 24, "samples": 1}
"""Default options for models without a world, which take longer."""
SHOWN = 6
"""Default number of metrics to draw."""
LINE = r"\theta(\alpha) = (1 - \alpha)\, \theta_{\mathrm{base}} + \alpha\, \theta_{\mathrm{aligned}}"
DEPARTURE = (
    r"\mathrm{departure}(\alpha) = m(\theta(\alpha)) - \big((1 - \alpha)\, m(\theta(0)) + \alpha\, m(\theta(1))\big)"
)


def titles(*lms: LM) -> dict[str, str]:
    """Return the experiments that can be run along a line with their titles, the default one first."""
    known = experiments()
    return {name: visible(known[name].title) for name in dict.fromkeys((FIRST, *known)) if name not in TRAINS}


def usual(experiment: str, base: LM) -> dict[str, int]:
    """Return the default options of an experiment on a line from a base."""
    known = find_experiment(experiment)
    return {name: value for name, value in (QUICK if of(base) else REAL).items() if known.takes(name)}


def options_of(experiment: str) -> dict[str, Parameter]:
    """Return the options of an experiment as inputs, folded on a page and named `line.EXPERIMENT.OPTION` in its URL."""
    kind, inputs = form(find_experiment(experiment)), {}
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        name, hint, text = each.name, hints[each.name], each.metadata["help"]
        default = Parameter.empty if each.default is MISSING else each.default
        about = Input(key=f"line.{experiment}.{name}", folded="Options", added=is_added(experiment, name), help=text)
        if names := each.metadata["suggestions"]:
            about = replace(about, suggestions=lambda *lms, names=names: names)
        if name in QUICK:
            other = f", {REAL[name]} without a world" * (REAL[name] != QUICK[name])
            text = f"{text.partition(' (default')[0].rstrip('.')}; at first {QUICK[name]}{other}."
            about = replace(about, help=text, first=lambda base, *_, name=name: usual(experiment, base)[name])
            default, hint = None, int | None
        inputs[name] = Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, about])
    return inputs


Metrics = Annotated[
    Sequence[str],
    Input(
        "Metrics",
        choices=lambda path: {name: visible(about.label) for name, about in path.terms().items()},
        placeholder="those that differ most",
        type=tuple[str, ...],
    ),
]
"""Metrics that were measured in both models."""


@dataclass(frozen=True)
class WeightPath(Drawable):
    """Results of an experiment at several points of the straight line through two models."""

    experiment: str
    """Name of the experiment."""
    names: tuple[str, str]
    """Names of the base and of the aligned model."""
    alphas: tuple[float, ...]
    """Interpolation weights in ascending order; they include 0 and 1."""
    results: tuple[Result, ...]
    """Results of the experiment, one for each alpha."""
    folder: Path | None = None
    """Folder of the stored results."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on the bands, and on where results are stored."""
        kept = f" What was measured is kept in `{self.folder}`." if self.folder else ""
        return (f"Bands are 95 % intervals.{kept}",)

    def sentence(self, metrics: Metrics = ()) -> str:
        """Describe a metric along the line, and count how many of all metrics depart from the straight line.

        Args:
            metrics: metrics that are drawn; the first is described.
        """
        table, lines, terms = self.table(), self._lines, self.terms()
        if not terms:
            return (
                f"{find_experiment(self.experiment).title} has no metric that was measured in both"
                f" {' and '.join(self.names)}."
            )
        metric = (*metrics, *self.most_moved())[0]
        about, rows = terms[metric], table[table["metric"] == metric].set_index("alpha")["value"]
        way = ", ".join(f"{in_unit(about.unit, rows[at], None, None)} at {at:g}" for at in self.alphas if at in rows)
        row = lines.set_index("metric").loc[metric].to_dict()
        known = lines[lines["departure_low"].notna() & lines["metric"].isin(list(terms))]
        off = int(((known["departure_low"] > 0) | (known["departure_high"] < 0)).sum())
        beyond = " and beyond" if self.alphas[0] < 0 or self.alphas[-1] > 1 else ""
        return (
            f"{about.title} from {self.names[0]} (alpha 0) to {self.names[1]} (alpha 1){beyond}: {way}; its largest "
            f"departure from the straight line is {_departure(row, about)} at alpha {row['alpha']:g}. Of {len(known)} "
            f"metrics with an interval, {off} depart from the line by more than their interval."
        ).replace(" -", " \u2212")

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per alpha and metric (`line`), and one per metric (`linearity`)."""
        return {"line": self.table(), "linearity": self._lines}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per metric, formatted for reading."""
        table, terms = self.table(), self.terms()
        ends = [table[table["alpha"] == alpha].set_index("metric") for alpha in (0, 1)]
        lines = []
        for row in self._lines[self._lines["metric"].isin(list(terms))].to_dict("records"):
            about = terms[row["metric"]]
            values = [in_unit(about.unit, *end.loc[row["metric"], ["value", "ci_low", "ci_high"]]) for end in ends]
            lines.append(
                {
                    "metric": about.label,
                    **dict(zip(self.names, values, strict=True)),
                    "largest departure": _departure(row, about),
                    "at alpha": f"{row['alpha']:g}",
                    "R\u00b2": "\u2014" if row["r2"] != row["r2"] else f"{row['r2']:.2f}",
                    **after_numbers(row["metric"], about),
                }
            )
        return {"Metrics": pd.DataFrame(lines)}

    def figures(self, metrics: Metrics = ()) -> "dict[str, go.Figure]":
        """Draw metrics against alpha.

        Args:
            metrics: metric names; by default those that differ most between the models.
        """
        title = f"{find_experiment(self.experiment).title} on the line from {self.names[0]} to {self.names[1]}"
        return {"line": titled(self.figure(metrics), title)} if self.terms() else {}

    def data(self, figure: str, metrics: Metrics = ()) -> pd.DataFrame:
        """Return the rows of the metrics that a figure shows."""
        table = self.table()
        return table[table["metric"].isin(metrics or self.most_moved())]

    def terms(self) -> dict[str, Term]:
        """Return the metrics that were measured in both models, with their titles."""
        table, known = self.table(), find_experiment(self.experiment)
        return {name: known.term(name) for name in table.loc[table["chord"].notna(), "metric"].unique().tolist()}

    @cached_property
    def _lines(self) -> pd.DataFrame:
        return self.linearity()

    def table(self) -> pd.DataFrame:
        """Return one row per alpha and metric: alpha, metric, value, ci_low, ci_high, n, chord, departure.

        chord is (1 - alpha) of the base's value plus alpha of the aligned one's, departure the value minus it.
        """
        pairs = zip(self.alphas, self.results, strict=True)
        rows = pd.concat([result.summary.assign(alpha=alpha) for alpha, result in pairs], ignore_index=True)
        base, aligned = (rows[rows["alpha"] == end].set_index("metric")["value"] for end in (0, 1))
        chord = (1 - rows["alpha"]) * rows["metric"].map(base) + rows["alpha"] * rows["metric"].map(aligned)
        columns = ["alpha", "metric", "value", "ci_low", "ci_high", "n"]
        return rows[columns].assign(chord=chord, departure=rows["value"] - chord)

    def linearity(self) -> pd.DataFrame:
        """Return one row per metric for alpha from 0 to 1: metric, r2, departure, their bounds, alpha, items.

        r2 is that of the least-squares line through the values, NaN if they are all equal or fewer than three.
        departure is the largest one from the chord, at alpha. Intervals come from items drawn together for all alphas
        (paired bootstrap, 2,000 resamples) if the metric is a mean over the same items at each; otherwise they are NaN.
        That of the departure is simultaneous for all alphas (Bonferroni), since the largest is taken.
        """
        inside = [index for index, alpha in enumerate(self.alphas) if 0 <= alpha <= 1]
        at = np.array([self.alphas[index] for index in inside])
        results = [self.results[index] for index in inside]
        values = pd.concat([result.summary.set_index("metric")["value"] for result in results], axis=1)
        metrics = {metric.name: metric for metric in metrics_of(find_experiment(self.experiment), results[0].items)}
        rows = []
        for name, row in values.iterrows():
            items = _paired_items(metrics.get(str(name)), results)
            rows.append({"metric": name, **_linearity(at, row.to_numpy(dtype=float), items)})
        return pd.DataFrame(rows)

    def figure(self, metrics: Sequence[str] = ()) -> "go.Figure":
        """Draw each metric against alpha with its interval, the chord, and the two models marked.

        Args:
            metrics: metric names; by default the six whose difference between the models is the largest relative to
                their intervals.

        Raises:
            ConfigError: the experiment did not measure one of them.
        """
        from probe.compare.figures import path_curves

        known = self.terms()
        lacking = [name for name in metrics if name not in known]
        if lacking:
            raise ConfigError(f"`{lacking[0]}` was not measured in both models: give some of {', '.join(known)}.")
        return path_curves(self.table(), {name: known[name] for name in metrics or self.most_moved()}, self.names)

    def most_moved(self) -> list[str]:
        """Return at most six metrics, by the models' difference in units of the mean width of their intervals."""
        table = self.table()
        ends = [table[table["alpha"] == end].set_index("metric").loc[list(self.terms())] for end in (0, 1)]
        gap = (ends[1]["value"] - ends[0]["value"]).abs()
        widths = [end["ci_high"] - end["ci_low"] for end in ends]
        width = (widths[0] + widths[1]) / 2
        order = (gap / width.where(width > 0)).fillna(0).sort_values(ascending=False, kind="stable")
        return [str(name) for name in order.index[:SHOWN]]


@torch.no_grad()
def interpolate(base: LM, aligned: LM, alpha: float) -> LM:
    """Build a new model with the weights (1 - alpha) base + alpha aligned; neither input model is changed.

    The weights are interpolated and stored in single precision or wider, since half precision would round small steps
    to zero. At 0 and 1 they are exactly those of the two models. Tied weights stay tied, and buffers are interpolated
    like weights. Configuration, tokenizer (the same object) and run, which determines its world, are those of
    `aligned`.

    Args:
        base: model at alpha 0.
        aligned: model at alpha 1, with the same architecture, sizes and tokens.
        alpha: interpolation weight, any finite number.

    Raises:
        ConfigError: alpha is not finite.
        DataError: a model has a scalar output, or the tokenizers differ.
        ModelError: architectures or sizes differ, or weights are quantised or offloaded.
    """
    if not math.isfinite(alpha):
        raise ConfigError(f"alpha={alpha} was given: give a finite number, 0 for the base and 1 for the aligned model.")
    require_line(base, aligned)
    for lm in (base, aligned):
        require_weights(lm.model, lm.ref)
    dtype = torch.promote_types(torch.promote_types(base.dtype, aligned.dtype), torch.float32)
    models = [merged(lm.model) for lm in (base, aligned)]
    before, after = (dict(each.named_parameters()) | dict(each.named_buffers()) for each in models)
    mixed = {}
    for name, end in after.items():
        start = before[name].to(end.device)
        value = _mix(start, end, alpha, dtype if isinstance(end, nn.Parameter) else end.dtype)
        mixed[name] = nn.Parameter(value, end.requires_grad) if isinstance(end, nn.Parameter) else value
    model = twin(models[1], mixed).eval()
    model.config.dtype = dtype
    names = model_names(base, aligned)
    return LM(model, aligned.tokenizer, f"{names[0]} to {names[1]} at {alpha:g}", run_dir=aligned.run_dir)


def require_line(base: LM, aligned: LM) -> None:
    """Raise an error if the weights of two models cannot be interpolated; see `interpolate`."""
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    require_one_architecture(base, aligned)


def _mix(start: Tensor, end: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    """Return the interpolation of two tensors, a new one; integers (positions, masks) are those of the nearer model."""
    if alpha in (0, 1) or not end.is_floating_point():
        return (end if alpha >= 0.5 else start).detach().to(dtype, copy=True)
    wide = torch.promote_types(dtype, torch.float32)
    return ((1 - alpha) * start.detach().to(wide) + alpha * end.detach().to(wide)).to(dtype)


def place_alphas(spacing: float, alphas: Sequence[float] | None = None) -> tuple[float, ...]:
    """Return the alphas in ascending order: the given ones, or a regular grid with this spacing.

    Raises:
        ConfigError: alphas repeat, or 0 or 1 is missing.
    """
    steps = range(round((ENDS[1] - ENDS[0]) / spacing) + 1)
    places = tuple(sorted(map(float, alphas))) if alphas is not None else tuple(ENDS[0] + spacing * k for k in steps)
    if not {0.0, 1.0} <= set(places) or len(set(places)) < len(places):
        given = ", ".join(f"{alpha:g}" for alpha in places)
        raise ConfigError(f"The alphas are {given or '(none)'}; expected different numbers, with 0 and 1 among them.")
    return places


def line_seconds(
    base: LM,
    aligned: LM,
    *,
    experiment: str,
    spacing: float,
    alphas: Sequence[float] | None,
    folder: Path | None,
    keep: bool,
    **options: Any,
) -> float | None:
    """Estimate the seconds for the alphas without a stored result; None if no similar model was measured."""
    require_line(base, aligned)
    request, places = call(find_experiment(experiment), aligned, **options), place_alphas(spacing, alphas)
    kept = [] if folder is None else [place_at(base, aligned, at, experiment, folder, **options) for at in places]
    new = len(places) - sum((place / RESULT_FILE).is_file() for place in kept)
    again, n = count_again(aligned, request.arguments), int(request.arguments.get("n") or 1)
    each = stored_seconds(request, [*homes(base), *([folder] if folder and not again else [])])
    if each is not None and again:  # stored results have both forms of prompts
        each *= n / (n + again)
    return 0.0 if not new else None if each is None else each * new


@analysis("compare", title="The line between them", equations=(LINE, DEPARTURE), seconds=line_seconds, key="line")
def follow_line(
    base: LM,
    aligned: LM,
    *,
    experiment: Annotated[str, Input("Experiment", choices=titles, brings=options_of)] = FIRST,
    spacing: Annotated[float, Input("Distance of the alphas", choices=lambda *lms: SPACINGS)] = SPACINGS[0],
    alphas: Annotated[Sequence[float] | None, Input(advanced=True, type=tuple[float, ...] | None)] = None,
    folder: Annotated[Path | None, Input(advanced=True, aside=True)] = None,
    keep: Annotated[bool, Input(advanced=True, aside=True)] = True,
    tick: Tick = ignore,
    **options: Any,
) -> WeightPath:
    """Run an experiment on the straight line between the weights of two models, and beyond both.

    At alpha 0 the weights are those of the base, at 1 those of the aligned model; values between are interpolation,
    values outside extrapolation. The same questions are asked at each alpha, those of a file with the same prompt
    format. The dashed line is straight through the values of the two models. *R²* is that of the least-squares line
    through the values for alpha from 0 to 1; an S-shaped curve has a high R² too, so compare the *departure*, the
    largest distance from the dashed line for alpha from 0 to 1. Its interval is a bootstrap over items, drawn together
    for all alphas, and is simultaneous (Bonferroni); it exists for means over the same items. Rates are limited to 0 to
    100 %, so beyond the two models they leave the dashed line.

    Args:
        base: model at alpha 0.
        aligned: model at alpha 1.
        experiment: name of the experiment; its options follow: n, seed, data, ... By default it asks fewer questions
            than for one model, and makes no interventions.
        spacing: distance between the alphas from -0.5 to 1.5: 0.5, 0.25 or 0.125.
        alphas: other alphas instead, which include 0 and 1.
        folder: folder where the result at each alpha is stored and reused; without one, nothing is stored.
        keep: store new results; otherwise the folder is only read.
        tick: function called with the share of the work done.
        options: options of the experiment.

    Raises:
        ConfigError: alphas repeat, 0 or 1 is missing, or the experiment has no such option.
        RunError: a result cannot be written.
        ProbeError: see `interpolate`; or the experiment cannot use the models.
    """
    places, first = place_alphas(spacing, alphas), usual(experiment, base)
    if options.get("baseline") is not None:
        raise ConfigError(
            "A baseline was given, and on the line between two models alpha 0 is the baseline: leave it out."
        )
    options = first | {name: value for name, value in options.items() if value is not None or name not in first}
    results = []
    for index, alpha in enumerate(places):
        own = part(tick, index, len(places))
        results.append(measure_at(base, aligned, alpha, experiment, folder, keep, own, **options))
        own(1.0)
    return WeightPath(experiment, model_names(base, aligned), places, tuple(results), folder if keep else None)


def measure_at(
    base: LM,
    aligned: LM,
    alpha: float,
    experiment: str,
    folder: Path | None = None,
    keep: bool = True,
    tick: Tick = ignore,
    **options: Any,
) -> Result:
    """Run the experiment at one alpha, or load its result from the folder; see `follow_line`."""
    place = None if folder is None else place_at(base, aligned, alpha, experiment, folder, **options)
    if place is not None and (place / RESULT_FILE).is_file():
        with suppress(DataError):  # a damaged result is measured again
            return sendable_result(Result.load(place))
    lm = interpolate(base, aligned, alpha)
    result = perform(find_experiment(experiment), lm, tick=tick, both_forms=False, **options)
    if place is not None and keep:
        result.save(place)
    return sendable_result(result)


def place_at(base: LM, aligned: LM, alpha: float, experiment: str, folder: Path, **options: Any) -> Path:
    """Return the location of the result at an alpha; its name is a hash of everything that the numbers depend on."""
    keys = [call(find_experiment(experiment), lm, **options).key for lm in (base, aligned)]
    digest = hashlib.sha256(json.dumps([*keys, float(alpha)]).encode()).hexdigest()
    return folder / f"{experiment}-{digest[:12]}"


def _departure(row: Mapping[Any, Any], about: Term) -> str:
    """Format the largest departure of a metric from the straight line, with its interval."""
    unit = DIFFERENCE if about.unit in RATES else about.unit
    return in_unit(unit, row["departure"], row["departure_low"], row["departure_high"], sign=True)


def _paired_items(metric: object, results: Sequence[Result]) -> Float[np.ndarray, "n k"] | None:
    """Return [n k] values of n items at k alphas; None unless the metric is a mean over the same items at each."""
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
    at: Float[np.ndarray, " k"], values: Float[np.ndarray, " k"], items: Float[np.ndarray, "n k"] | None
) -> dict[str, Any]:
    """Return the columns of `WeightPath.linearity` for one metric.

    Args:
        at: alphas from 0 to 1.
        values: values of the metric at these alphas.
        items: values of the items, if intervals can be computed.
    """
    r2, gaps = r_squared(at, values), departures(at, values)
    largest = int(np.argmax(np.where(np.isnan(gaps), -1, np.abs(gaps))))
    ends = Interval(r2, math.nan, math.nan), Interval(float(gaps[largest]), math.nan, math.nan)
    if items is not None and len(items) > 1:
        drawn = resample(lambda indices: items[indices].mean(axis=1), len(items), MEANS_RESAMPLES, 0)  # [R k]
        tail = TAILS[0] / max(len(at) - 2, 1)
        ends = (
            percentile(r2, r_squared(at, drawn), len(items)),
            percentile(ends[1].value, departures(at, drawn)[:, largest], len(items), tails=(tail, 1 - tail)),
        )
    place = {"alpha": float(at[largest]), "items": 0 if items is None else len(items)}
    return ends[0].row(name="r2") | ends[1].row(name="departure") | place


def r_squared(at: Float[np.ndarray, " k"], values: Float[np.ndarray, "... k"]) -> Any:
    """Compute [...] R^2 of the least-squares line through values; NaN for fewer than three or equal values."""
    x, y = at - at.mean(), values - values.mean(-1, keepdims=True)
    total = (y**2).sum(-1)
    varied = (total > 1e-24) & (len(at) > 2)
    return np.where(varied, (y @ x) ** 2 / ((x @ x) * np.where(varied, total, 1.0)), np.nan)[()]


def departures(at: Float[np.ndarray, " k"], values: Float[np.ndarray, "... k"]) -> Float[np.ndarray, "... k"]:
    """Compute the values minus the straight line between the first and last one."""
    return values - (1 - at) * values[..., :1] - at * values[..., -1:]
