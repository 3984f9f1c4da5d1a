"""Comparison of one experiment's results of several models: every number, and its difference to the first model's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import DataError, ProbeError
from probe.experiments.definition import Experiment
from probe.experiments.forms import FORMS, form_notes
from probe.experiments.metrics import BARE, PAIRS, Metric, Share, differences, has_bare
from probe.experiments.result import MODEL, Result
from probe.experiments.run import columns_as_metrics, finish, join
from probe.numbers import in_unit
from probe.plotting.notebook import Drawable, titled
from probe.terms import DIFFERENCE, RATES, SHARE, Term, after_numbers
from probe.untrusted import foreign

if TYPE_CHECKING:
    import plotly.graph_objects as go

VALUE, GAP = ("value", "ci_low", "ci_high"), ("difference", "difference_low", "difference_high")
"""Columns of a number, and of a difference, with the bounds of their intervals."""
UNPAIRED = "\u2020"
"""Mark of a difference that is not paired."""
OTHER = {"chat": "plain", "plain": "chat"}
NUMBERS, IN_FORMS = "Numbers", "Form of the prompts"
"""Titles of the tables for reading."""


def cell(row: Mapping[Any, Any], unit: str, names: Sequence[str] = VALUE) -> str:
    """Format a number of a row with its interval.

    Rates are in percent, differences of rates in percentage points; a difference of unpaired values is marked.

    Args:
        row: row of a summary; a dash is returned if the number is missing.
        unit: unit of the metric.
        names: columns of the number and of the bounds of its interval; `GAP` for a difference.
    """
    value, low, high = (float(row.get(name, math.nan)) for name in names)
    unit = DIFFERENCE if names is GAP and unit in RATES else unit
    mark = f" {UNPAIRED}" if names is GAP and row.get(PAIRS) == 0 and not math.isnan(value) else ""
    return in_unit(unit, value, low, high, sign=names is GAP) + mark


def metrics_of(experiment: Experiment, items: pd.DataFrame) -> dict[str, Metric]:
    """Return the metrics that are functions of these items, by name."""
    metrics = experiment.metrics or columns_as_metrics(items)
    return {metric.name: metric for metric in metrics if metric.applies(items)}


def term_of(experiment: Experiment, metrics: Mapping[str, Metric], name: str) -> Term:
    """Return the term that describes a metric; a `Share` of unknown unit gets that of shares."""
    known = experiment.term(name)
    return replace(known, unit=SHARE) if not known.unit and isinstance(metrics.get(name), Share) else known


@dataclass(frozen=True)
class ModelComparison(Drawable):
    """Results of one experiment for several models, the baseline first."""

    experiment: Experiment
    result: Result
    """Joined result of all models."""
    summaries: Mapping[str, pd.DataFrame]
    """Summary of each model by label; all but the first have the columns of `probe.experiments.metrics.COMPARED`."""
    problem: str = ""
    """Explanation of why figures and finding are missing, if they could not be made."""

    @property
    def metrics(self) -> dict[str, Metric]:
        """Metrics that are functions of items, by name."""
        return metrics_of(self.experiment, self.result.items)

    @property
    def names(self) -> list[str]:
        """Names of all numbers, in the order of the summaries."""
        return list(dict.fromkeys(name for table in self.summaries.values() for name in table["metric"]))

    def term(self, name: str) -> Term:
        """Return the term that describes a metric."""
        return term_of(self.experiment, self.metrics, name)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on the questions and the form of the prompts."""
        return (*self.result.meta.get("notes", ()), *form_notes(self.result, self.experiment))

    def sentence(self) -> str:
        """Return the finding, or for an experiment without one, the first number of every model."""
        if self.result.finding:
            return self.result.finding
        name = self.names[0]
        about, parts = self.term(name), []
        for label, summary in self.summaries.items():
            rows = summary[summary["metric"] == name].to_dict("records")
            parts += [f"{cell(rows[0], about.unit)} for {label}"] if rows else []
        return f"{self.experiment.title}: {about.title.replace('_', ' ')} is {', '.join(parts)}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the numbers of all models with the column `model`, the items, and the experiment's own tables."""
        parts = [table.assign(**{MODEL: label}) for label, table in self.summaries.items()]
        return {"summary": pd.concat(parts, ignore_index=True), "items": self.result.items, **self.result.tables}

    def data(self, figure: str) -> pd.DataFrame:
        """Return the table behind a figure: that with its name, one with a similar name, or the summary."""
        tables = self.result.tables
        near = [name for name in tables if figure.startswith(name) or name.startswith(figure)]
        return tables[figure] if figure in tables else tables[near[0]] if near else self.tables()["summary"]

    def figures(self) -> "dict[str, go.Figure]":
        """Return the experiment's figures, or if it has none, every number as a point with its interval."""
        return self.result.figures or {"numbers": self._points()}

    def _points(self) -> "go.Figure":
        from probe.plotting.intervals import headline_intervals

        long = self.tables()["summary"].rename(columns={MODEL: "run"})
        within = [name for name, rows in long.groupby("metric", sort=False) if rows["value"].between(-1, 1).all()]
        rows = long[long["metric"].isin(within)] if within else long
        chart = headline_intervals(rows, self.result.styles, words=self.experiment.term)
        chart.update_xaxes(title_text="value, with 95 % interval")
        return titled(chart, "Every number with its 95 % interval", max(220, 100 + 45 * rows["metric"].nunique()))

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the numbers formatted for reading, and the effect of the form of the prompts, if known."""
        forms = {IN_FORMS: self._forms()} if FORMS in self.result.tables else {}
        return {NUMBERS: self._numbers(), **forms}

    def _numbers(self) -> pd.DataFrame:
        """Return title, values with intervals, differences to the first model, n and meaning, one row per metric."""
        summaries = self.summaries.items()
        rows = {label: {row["metric"]: row for row in table.to_dict("records")} for label, table in summaries}
        base, *others = self.summaries
        lines, metrics = [], self.metrics
        for name in self.names:
            about = term_of(self.experiment, metrics, name)
            line: dict[str, Any] = {"metric": about.label}
            line |= {label: cell(rows[label].get(name, {}), about.unit) for label in self.summaries}
            line |= {f"{label} \u2212 {base}": cell(rows[label].get(name, {}), about.unit, GAP) for label in others}
            line["n"] = max((own[name]["n"] for own in rows.values() if name in own), default=0) or None
            lines.append(line | (after_numbers(name, about) if about.definition else {}))
        return pd.DataFrame(lines)

    def _forms(self) -> pd.DataFrame:
        """Return each number of every model with both forms of its prompts, and the difference."""
        models = self.result.meta["models"]
        sent = {model["label"]: model["facts"]["form"] for model in models if "form" in model["facts"]}
        lines, metrics = [], self.metrics
        for row in self.result.tables[FORMS].to_dict("records"):
            about, own = term_of(self.experiment, metrics, row["metric"]), sent[row[MODEL]]
            sides = {own: VALUE, OTHER[own]: ("other", "other_low", "other_high")}
            line: dict[str, Any] = {"metric": about.label, "model": row[MODEL], "sent": own}
            line |= {form: cell(row, about.unit, sides[form]) for form in ("plain", "chat")}
            line |= {"other \u2212 sent": cell(row, about.unit, GAP), "n": int(row["n"])}
            lines.append(line | (after_numbers(row["metric"], about) if about.definition else {}))
        return pd.DataFrame(lines)

    about_forms = (
        "Chat: each prompt as a user's message in the template of the model's tokenizer. Plain: without it. Some"
        " of the questions were also asked in the other form: the values are for these questions, and the"
        " differences are paired."
    )
    """Explanation of the table of prompt forms."""

    @property
    def intervals(self) -> str:
        """Explanation of the intervals, and of which differences are paired."""
        apart = any((summary[PAIRS] == 0).any() for summary in self.summaries.values() if PAIRS in summary)
        return (
            "Values with 95 % intervals over answers"
            + ("; differences are paired, item by item (pp: percentage points)" if len(self.summaries) > 1 else "")
            + (f", but not those with {UNPAIRED}, where the models were asked different questions" if apart else "")
            + (f"; {BARE}" if any(map(has_bare, self.summaries.values())) else "")
            + "."
        )


def compare_summaries(experiment: Experiment, result: Result, base: Result) -> pd.DataFrame:
    """Return the summary of one model with the columns of a baseline (`probe.experiments.metrics.COMPARED`).

    Args:
        experiment: experiment of both results.
        result: result of the model.
        base: result of the baseline.
    """
    seed = int(base.meta.get("seed") or 0)
    metrics = experiment.metrics or columns_as_metrics(pd.concat([result.items, base.items]))
    both = result.items, base.items
    return differences(metrics, result.summary, base.summary, *both, seed, experiment.across_worlds)


def draw_together(
    experiment: Experiment, results: Sequence[Result], summary: pd.DataFrame | None = None
) -> tuple[Result, str]:
    """Join results of one model each and draw the joined result.

    Args:
        experiment: experiment of all results.
        results: results to join, the baseline last.
        summary: summary of the first model against the baseline; by default with the difference of the first metric
            only.

    Returns:
        The joined result, and an explanation if figures and finding could not be made.

    Raises:
        DataError: the results have different questions.
    """

    def refuse(reason: str) -> DataError:
        return DataError(f"The results of `{experiment.name}` cannot be drawn together ({reason}).")

    bare = replace(experiment, metrics=experiment.metrics[:1], draw=None, say=None)
    with foreign(refuse):
        joint = join(bare, results) if len(results) > 1 else results[0]
    joint = joint if summary is None else replace(joint, summary=summary)
    try:
        with foreign(refuse):
            return finish(experiment, joint), ""
    except ProbeError as error:  # figures of one model would be mistaken for those of all
        return finish(bare, replace(joint, figures={})), str(error)


def compare_results(
    experiment: Experiment,
    results: Sequence[Result],
    compare: Callable[[Experiment, Result, Result], pd.DataFrame] = compare_summaries,
) -> ModelComparison:
    """Compare results of one model each.

    Args:
        experiment: experiment of all results.
        results: results to compare, the baseline first.
        compare: function that returns the summary of a model with the columns of the baseline.

    Raises:
        DataError: the results have different questions.
    """
    base, *others = results
    summaries = {base.models[0]: base.summary}
    summaries |= {each.models[0]: compare(experiment, each, base) for each in others}
    first = others[0] if others else base
    joint, problem = draw_together(experiment, [*others, base], summaries[first.models[0]])
    return ModelComparison(experiment, joint, summaries, problem)
