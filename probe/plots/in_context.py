"""Figures of the experiment `in_context`: examples, labels, chains and pools of any number of models, with bands.

What Bayes' rule says is drawn dashed in its own colour, and named.
"""

import pandas as pd
import plotly.graph_objects as go

from probe.plots.curves import Style
from probe.plots.in_context_parts import (
    BAYES,
    KINDS,
    MODEL,
    MODES,
    PREDICTORS,
    Styles,
    categories,
    exact,
    ideals,
    line,
    models,
    offsets,
    panels,
    points,
    told,
)
from probe.plots.intervals import band
from probe.plots.theme import escape, new_figure

ACCURACY = ("accuracy", "ci_low", "ci_high")


def example_curves(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """Accuracy by number of examples (loss by states seen, of chains), with the exact Bayes predictors dashed.

    Args:
        table: model, kind, examples, accuracy, ci_low, ci_high, loss, loss_low, loss_high, and the Bayes columns.
        styles: of each model.
    """
    kinds = [kind for kind in KINDS if (table["kind"] == kind).any()]
    others = table[table["kind"] != "markov"]
    if set(table[MODEL]) == set(others[MODEL]):  # of chains beside them `distances` says more
        kinds = [kind for kind in kinds if kind != "markov"]
    figure = panels([KINDS[kind] for kind in kinds])
    named: set[str] = set()
    for column, kind in enumerate(kinds, start=1):
        here = table[table["kind"] == kind]
        chain = kind == "markov"
        value, low, high = ("loss", "loss_low", "loss_high") if chain else ("accuracy", "ci_low", "ci_high")
        for label, rows in models(here, styles):
            hover = told(rows, label, "examples", " states" if chain else " examples", (value, low, high))
            figure.add_trace(band(rows["examples"], rows[low], rows[high], styles[label].colour), row=1, col=column)
            trace = line(rows["examples"], rows[value], label, styles[label], hover, marks=not chain)
            trace.update(showlegend=label not in named, legendgroup=label)
            named.add(label)
            figure.add_trace(trace, row=1, col=column)
        way = "loss" if chain else "accuracy"
        lines = {"Bayes": f"bayes_{way}", f"counting {'states' if chain else 'labels'}": f"counting_{way}"}
        if kind.startswith("function"):
            lines = {"Bayes": "bayes_accuracy", "Bayes over all functions": "all_accuracy"}
        lines = {name: source for name, source in lines.items() if source in here}
        for colour, ideal in ideals(here, styles, "examples", list(lines.values())):
            for name, source in lines.items():
                dash = "dash" if name == "Bayes" else "dashdot" if source.startswith("all") else "dot"
                trace = exact(ideal["examples"], ideal[source], name, dash, colour)
                trace.update(showlegend=name not in named, legendgroup=name)
                named.add(name)
                figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="states seen" if chain else "examples before the question", row=1, col=column)
        figure.update_yaxes(title_text="loss (nats)" if chain else "P(true answer)", row=1, col=column)
        if not chain:
            figure.update_yaxes(range=[-0.03, 1.03], zeroline=False, row=1, col=column)
    return figure


def distances(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """KL(predictor || model) by states seen, one panel a predictor; dashed what the Bayes predictor itself shows."""
    figure = panels([f"KL to {PREDICTORS[name]} (nats)" for name in PREDICTORS])
    for column, name in enumerate(PREDICTORS, start=1):
        here = table[(table["predictor"] == name) & (table["position"] > 0)]
        for label, rows in models(here, styles):
            hover = told(rows, label, "position", " states")
            figure.add_trace(
                band(rows["position"], rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=column
            )
            trace = line(rows["position"], rows["value"], label, styles[label], hover, marks=False)
            figure.add_trace(trace.update(showlegend=column == 1), row=1, col=column)
        for index, (colour, ideal) in enumerate(ideals(here, styles, "position", ["ideal"])):
            trace = exact(ideal["position"], ideal["ideal"], "what Bayes' rule would show", colour=colour)
            figure.add_trace(trace.update(showlegend=column == 1 and index == 0), row=1, col=column)
        top = max(0.05, float(here["value"].max()), float(here["ideal"].max()))
        figure.update_yaxes(range=[-0.02 * top, 1.08 * top], row=1, col=column)
    figure.update_xaxes(title_text="states seen")
    return figure


def labels(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """Accuracy with gold, random and permuted labels of the examples."""
    figure = new_figure(hovermode="closest", showlegend=True)
    modes = [mode for mode in MODES if (table["labels"] == mode).any()]
    for offset, (label, rows) in offsets(table, styles):
        rows = rows.set_index("labels").loc[modes].reset_index()
        hover = told(rows, label, "labels", " labels", ACCURACY)
        x = [modes.index(mode) + offset for mode in rows["labels"]]
        figure.add_trace(points(x, rows["accuracy"], rows["ci_low"], rows["ci_high"], label, styles[label], hover))
    categories(figure, [MODES[mode] for mode in modes], "labels of the examples")
    figure.update_yaxes(title_text="share of right answers", range=[-0.03, 1.03], zeroline=False)
    return figure


def few_shot(curve: pd.DataFrame, ablation: pd.DataFrame | None, styles: Styles) -> go.Figure:
    """Accuracy by number of labelled examples, and beside it with other labels at the largest number."""
    figure = panels(["accuracy by number of examples"] + (["with other labels"] if ablation is not None else []))
    shots = sorted(curve["examples"].unique())
    for label, rows in models(curve, styles):
        hover = told(rows, label, "examples", " examples", ACCURACY)
        x = [shots.index(k) for k in rows["examples"]]
        figure.add_trace(band(x, rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=1)
        figure.add_trace(line(x, rows["accuracy"], label, styles[label], hover), row=1, col=1)
    chance = float(curve["chance"].iloc[0])
    figure.add_trace(exact([0, len(shots) - 1], [chance, chance], "chance", "dot"), row=1, col=1)
    figure.update_xaxes(tickvals=list(range(len(shots))), ticktext=[str(k) for k in shots], row=1, col=1)
    figure.update_xaxes(title_text="labelled examples in the prompt", row=1, col=1)
    if ablation is not None:
        modes = list(MODES)
        for offset, (label, rows) in offsets(ablation, styles):
            hover = told(rows, label, "labels", " labels", ACCURACY)
            at = [modes.index(mode) + offset for mode in rows["labels"]]
            trace = points(at, rows["accuracy"], rows["ci_low"], rows["ci_high"], label, styles[label], hover)
            figure.add_trace(trace.update(showlegend=False), row=1, col=2)
        ticks = {"tickvals": list(range(len(modes))), "ticktext": list(MODES.values()), "range": [-0.5, 2.5]}
        figure.update_xaxes(title_text="labels of the examples", row=1, col=2, showgrid=False, **ticks)
    figure.update_yaxes(range=[-0.03, 1.03], zeroline=False)
    figure.update_yaxes(title_text="share of right answers", row=1, col=1)
    return figure


def pool_sizes(table: pd.DataFrame, styles: Styles | None = None) -> go.Figure:
    """KL to the Bayes predictive over the pool and over all functions, by size of the pool that a model was trained on.

    Models that differ in their pool alone make one curve (`probe.analyses.pool_sizes`).

    Args:
        table: model, pool_size, tasks, kind (function, function_new), predictor (pool, all), value, ci_low, ci_high.
        styles: not needed; colours tell the predictors.
    """
    kinds = [kind for kind in ("function", "function_new") if (table["kind"] == kind).any()]
    figure = panels([KINDS[kind] for kind in kinds])
    sizes = sorted(table["pool_size"].unique())
    looks = {"pool": ("#3F78C6", "circle", "to Bayes over the pool"), "all": (BAYES, "diamond", "to Bayes over all")}
    for column, kind in enumerate(kinds, start=1):
        for predictor, (colour, symbol, words) in looks.items():
            rows = table[(table["kind"] == kind) & (table["predictor"] == predictor)].sort_values("pool_size")
            hover = [
                f"{escape(label)}, {line}"
                for label, line in zip(rows[MODEL], told(rows, f"{words}, pool", "pool_size"), strict=True)
            ]
            x = [sizes.index(size) for size in rows["pool_size"]]
            trace = points(x, rows["value"], rows["ci_low"], rows["ci_high"], words, Style(colour), hover)
            trace.update(mode="lines+markers", marker_symbol=symbol, showlegend=column == 1, legendgroup=predictor)
            figure.add_trace(trace, row=1, col=column)
        tasks = int(table["tasks"].iloc[0])
        figure.update_xaxes(
            title_text=f"functions in the pool (of {tasks})",
            tickvals=list(range(len(sizes))),
            ticktext=[str(size) for size in sizes],
            row=1,
            col=column,
        )
        figure.update_xaxes(range=[-0.4, len(sizes) - 0.6], row=1, col=column)
    figure.update_yaxes(title_text="KL(Bayes || model) (nats)", row=1, col=1)
    figure.update_yaxes(rangemode="tozero")
    return figure
