"""What a function vector of a file of texts does, by the block after which it is added."""

import pandas as pd
import plotly.graph_objects as go

from probe.plots.curves import Style
from probe.plots.in_context_parts import Styles, line, models, panels, told
from probe.plots.intervals import band

VECTORS = {
    "own": ("solid", "vector of its examples"),
    "shuffled": ("dash", "of permuted labels"),
    "plain": ("dot", "no vector"),
}
"""Dash and name of each vector; colours tell the models."""
PANELS = {"p_true": "probability of the true label", "accuracy": "the likeliest label is right"}


def text_vectors(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """Probability of the true label, and accuracy among the labels, without a vector and with each.

    Args:
        table: model, block, vector (plain, own, shuffled), p_true, ci_low, ci_high, accuracy, accuracy_low,
            accuracy_high, n.
        styles: of each model.
    """
    figure = panels(list(PANELS.values()))
    for column, (what, ends) in enumerate(
        zip(PANELS, (("ci_low", "ci_high"), ("accuracy_low", "accuracy_high")), strict=True), 1
    ):
        for label, rows in models(table, styles, by="block"):
            for vector, (dash, words) in VECTORS.items():
                here = rows[rows["vector"] == vector]
                name = f"{label}: {words}"
                if vector == "own":  # the others' bands lie on it
                    shade = band(here["block"], here[ends[0]], here[ends[1]], styles[label].colour)
                    figure.add_trace(shade, row=1, col=column)
                hover = told(here, name, "block", ". block", (what, *ends))
                trace = line(
                    here["block"], here[what], name, Style(styles[label].colour, dash), hover, marks=vector != "plain"
                )
                figure.add_trace(trace.update(showlegend=column == 1, legendgroup=name), row=1, col=column)
    figure.update_xaxes(title_text="block after which it is added")
    figure.update_yaxes(range=[-0.03, 1.03], zeroline=False)
    figure.update_yaxes(title_text="mean over queries", row=1, col=1)
    return figure
