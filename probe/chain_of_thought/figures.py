"""Figures of the experiment `chain_of_thought`, from its tidy tables, for any number of models."""

import pandas as pd
import plotly.graph_objects as go

from probe.plotting.panels import Panels
from probe.plotting.series import (
    RATE,
    Look,
    categories,
    curve_with_band,
    hover_texts,
    level,
    models_of,
    offsets,
    points,
)
from probe.plotting.theme import log_axis
from probe.terms import DIFFERENCE, SHARE

CONDITIONS = {"steps": "with written steps", "direct": "at once", "filler": "filler for steps"}
OUTCOMES = {"following": "answer follows the edited step", "ignoring": "answer ignores the edit"}
BIAS = {
    "bias_direct": "at once",
    "bias_steps": "with steps",
    "bias_drop_direct": "at once",
    "bias_drop_steps": "with steps",
}
CHANCE = 0.1


def accuracy_by_terms(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the accuracy with steps, without steps and with filler by number of terms, or in one panel without terms.

    Args:
        table: model, condition, terms, value, ci_low, ci_high, n.
        look: style of each model.
    """
    terms = sorted(int(count) for count in table["terms"].unique())
    if len(terms) == 1:
        return _side_by_side(table, look)
    panels = Panels(list(CONDITIONS.values()), spacing=0.035, shared_y=True)
    for column, condition in enumerate(CONDITIONS, start=1):
        level(panels, column, (terms[0] - 0.25, terms[-1] + 0.25), (CHANCE, CHANCE), "guessing")
        _add_curves(panels, column, table[table["condition"] == condition], "terms", look)
    panels.axis("x", tickvals=terms, range=[terms[0] - 0.25, terms[-1] + 0.25], title="terms of the sum")
    panels.axis("y", **RATE)
    panels.axis("y", 1, title="share of right answers")
    return _finish(panels)


def agreement(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how often the answer stays the same, by the share of the steps that is kept or precedes an added mistake.

    Args:
        table: model, test, share, value, ci_low, ci_high, n.
        look: style of each model.
    """
    tests = list(dict.fromkeys(table["test"]))
    panels = Panels(tests, spacing=0.05, shared_y=True)
    labels = {"early answering": "share of the steps given", "added mistakes": "share of the steps before the mistake"}
    for column, test in enumerate(tests, start=1):
        level(panels, column, (0, 1), (1, 1), "post hoc: the steps do not matter")
        _add_curves(panels, column, table[table["test"] == test], "share", look)
        panels.axis("x", column, title=labels.get(test, "share of the steps"), **RATE)
    panels.axis("y", range=(-0.03, 1.06), tickformat=".0%")
    panels.axis("y", 1, title="P(same answer as with all steps)")
    return _finish(panels)


def following(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the outcomes of an edited step by the number of steps that remain after it.

    Args:
        table: model, outcome, steps_left, value, ci_low, ci_high, n.
        look: style of each model.
    """
    rest = sorted(int(count) for count in table["steps_left"].unique())
    panels = Panels(list(OUTCOMES.values()), spacing=0.05, shared_y=True)
    for column, outcome in enumerate(OUTCOMES, start=1):
        level(panels, column, (rest[0] - 0.2, rest[-1] + 0.2), (CHANCE, CHANCE), "guessing")
        _add_curves(panels, column, table[table["outcome"] == outcome], "steps_left", look)
    panels.axis("x", tickvals=rest, range=[rest[0] - 0.2, rest[-1] + 0.2], title="steps left after the edit")
    panels.axis("y", **RATE)
    panels.axis("y", 1, title="exact probability")
    return _finish(panels)


def pass_curves(table: pd.DataFrame, look: Look, guess: float | None = None) -> go.Figure:
    """Draw pass@k against k on a logarithmic axis.

    Args:
        table: model, k, value, ci_low, ci_high, n.
        look: style of each model.
        guess: probability that a guess is right, for the curve of guessing.
    """
    ks = sorted(int(k) for k in table["k"].unique())
    panels = Panels()
    if guess is not None:
        level(panels, 1, ks, [1 - (1 - guess) ** k for k in ks], "guessing")
    _add_curves(panels, 1, table, "k", look)
    panels.axis("x", **log_axis(), tickvals=ks, title="samples k")
    panels.axis("y", **RATE, title="pass@k")
    return _finish(panels)


def bias(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the effect of a bias in the prompt without and with steps: pull of the biased answer, and loss of accuracy.

    Args:
        table: model, metric, value, ci_low, ci_high, n.
        look: style of each model.
    """
    sides = (("bias_direct", "bias_steps"), ("bias_drop_direct", "bias_drop_steps"))
    panels = Panels(["pull of the biased answer", "loss of accuracy"], spacing=0.08, shared_y=True)
    rows_by_model = models_of(table, look)
    for column, metrics in enumerate(sides, start=1):
        level(panels, column, (-0.5, 1.5), (0, 0), "no effect")
        for shift, (label, rows) in zip(offsets(len(rows_by_model)), rows_by_model, strict=True):
            rows = rows.set_index("metric").reindex(metrics)
            hover = hover_texts(rows, label, unit=DIFFERENCE)
            panels.add(column, points([shift, 1 + shift], rows, label, look[label], hover))
        panels.axis("x", column, **categories([BIAS[metric] for metric in metrics]))
    top = max(0.05, 1.15 * float(table[["ci_low", "ci_high"]].abs().max().max()))
    panels.axis("y", range=[-top, top], tickformat=".0%", zeroline=False)
    panels.axis("y", 1, title="difference of shares")
    return _finish(panels)


def _add_curves(panels: Panels, panel: int, table: pd.DataFrame, x: str, look: Look) -> None:
    for label, rows in reversed(models_of(table, look, x)):
        panels.add(panel, *curve_with_band(rows, x, label, look[label]))


def _side_by_side(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the three conditions in one panel, for problems without a number of terms."""
    panels = Panels()
    rows_by_model = models_of(table, look)
    for shift, (label, rows) in zip(offsets(len(rows_by_model)), rows_by_model, strict=True):
        rows = rows.set_index("condition").reindex(list(CONDITIONS))
        places = [place + shift for place in range(len(CONDITIONS))]
        panels.add(1, points(places, rows, label, look[label], hover_texts(rows, label, unit=SHARE)))
    panels.axis("x", **categories(list(CONDITIONS.values())))
    panels.axis("y", **RATE, title="share of right answers")
    return _finish(panels)


def _finish(panels: Panels) -> go.Figure:
    return panels.figure(legend={"traceorder": "reversed"}, showlegend=True)
