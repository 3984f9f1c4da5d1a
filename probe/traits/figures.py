"""Figures of traits: separation by block, rows of a data set along a trait, and checkpoints of a training."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.hallucination.figures import rows_of
from probe.numbers import format_interval
from probe.plotting.curves import Style, band
from probe.plotting.intervals import whiskers
from probe.plotting.panels import Panels
from probe.plotting.series import exact, shaded
from probe.plotting.theme import ANSWERS, CHOSEN, DOTTED, LIGHT, escape, on_hover, row_axis, shorten

NULL, SMALL = ANSWERS[-1], {"size": 11}
"""Colour of the null, unlike that of any model, and font of its label."""
MOST_DOTS = 400
"""Largest number of rows that are drawn as dots."""
GAP = "gaps of the trait"
"""Unit of projections: 1 is the difference of the mean answers with and without the trait."""


def separation_by_layer(layers: pd.DataFrame, layer: int, colour: str) -> go.Figure:
    """Draw the AUC of held-out answers by place with its interval, the null, and mark the chosen place.

    Args:
        layers: `probe.traits.direction.TraitDirection.layers`.
        layer: chosen place.
        colour: colour of the model.
    """
    panels = Panels(["AUC on held-out prompts"])
    places = layers["layer"].tolist()
    rows = layers.rename(columns={"auc": "value", "auc_low": "ci_low", "auc_high": "ci_high"})
    hover = [
        f"{'embedding' if row.layer < 0 else f'after block {row.layer}'}:"
        f" {format_interval(row.value, row.ci_low, row.ci_high)},"
        f" null {row.null_low:.2f} to {row.null_high:.2f}"
        for row in rows_of(rows)
    ]
    panels.add(1, band(places, layers["null_low"], layers["null_high"], NULL))
    foot = {"x": places[0], "y": float(layers["null_low"].iloc[0]), "yshift": 9, "xanchor": "left"}
    panels.note(1, "exchanged labels, 95 %", showarrow=False, font=SMALL, **foot)
    panels.add(1, *shaded(places, rows, "AUC", Style(colour, "solid"), hover))
    panels.mark(1, DOTTED, y=0.5)
    panels.mark(1, {"color": CHOSEN, "width": 1.5, "dash": "dash"}, x=layer)
    every = max(1, -(-len(places) // 12))
    names = ["embedding", *(f"block {each}" for each in places[1:])]
    panels.axis("x", title="residual stream after", tickvals=places[::every], ticktext=names[::every])
    lowest = float(np.nanmin(layers[["auc_low", "null_low"]].to_numpy()))
    panels.axis("y", range=[min(0.25, lowest - 0.03), 1.03])
    return panels.figure(showlegend=False)


def rows_along(rows: pd.DataFrame, kinds: pd.DataFrame, colour: str, seed: int = 0) -> go.Figure:
    """Draw the projection difference of rows by kind: every row as a dot, and the mean with its 95 % interval.

    Args:
        rows: `probe.traits.data_projection.ProjectedData.rows`.
        kinds: `kind`, `value`, `ci_low`, `ci_high`, `n`; the kind that pushes most towards the trait first.
        colour: colour of the means.
        seed: seed of the dots that are shown, and of their heights.
    """
    panels = Panels(["row minus the model's own answer, by kind of row"])
    rng = np.random.default_rng(seed)
    few = rows if len(rows) <= MOST_DOTS else rows.iloc[np.sort(rng.permutation(len(rows))[:MOST_DOTS])]
    order = {kind: at for at, kind in enumerate(kinds["kind"])}
    heights = few["kind"].map(order).to_numpy(dtype=float) + rng.uniform(-0.28, 0.28, len(few))
    texts = [
        f"{escape(shorten(row.prompt, 80))} {escape(shorten(row.completion, 40))}: {row.difference:+.2f}"
        for row in rows_of(few)
    ]
    dots = go.Scatter(
        x=few["difference"], y=heights, mode="markers", marker={"color": LIGHT.muted, "size": 4, "opacity": 0.45}
    )
    panels.add(1, dots.update(**on_hover(texts)))
    hover = [
        f"{escape(row.kind)}: {format_interval(row.value, row.ci_low, row.ci_high)} ({row.n} rows)"
        for row in rows_of(kinds)
    ]
    bars = whiskers(kinds["value"], kinds["ci_low"], kinds["ci_high"])
    means = go.Scatter(x=kinds["value"], y=list(range(len(kinds))), mode="markers", error_x=bars)
    panels.add(1, means.update(marker={"color": colour, "size": 9}, **on_hover(hover)))
    panels.mark(1, DOTTED, x=0)
    ends = [float(rows["difference"].min()), float(rows["difference"].max()), 0.0]
    room = 0.05 * max(max(ends) - min(ends), 1e-9)  # a kind of two rows has an interval that would flatten the others
    panels.axis("x", title=f"projection difference ({GAP})", range=[min(ends) - room, max(ends) + room])
    panels.axis("y", **row_axis([escape(shorten(str(kind), 20)) for kind in kinds["kind"]]), ticks="")
    return panels.figure(showlegend=False, height=150 + 30 * max(len(kinds), 3))


def training_along(table: pd.DataFrame, captures: pd.DataFrame, colour: str, words: str) -> go.Figure:
    """Draw the projection of the states before the answer over training, and the exact rate of the behaviour if known.

    Args:
        table: `probe.traits.training_projection.ProjectedTraining.steps`.
        captures: `ProjectedTraining.captures`.
        colour: colour of the run's method.
        words: description of the rate; empty without one.
    """
    titles = [f"shift of the last token of the prompt ({GAP})"] + ([escape(words)] if words else [])
    panels = Panels(titles, spacing=0.08)
    for column, name in enumerate(["shift", "rate"][: len(titles)], start=1):
        rows = table[["step", name, f"{name}_low", f"{name}_high"]].set_axis(
            ["step", "value", "ci_low", "ci_high"], axis=1
        )
        hover = [f"step {row.step}: {format_interval(row.value, row.ci_low, row.ci_high)}" for row in rows_of(rows)]
        panels.add(column, *shaded(rows["step"], rows, name, Style(colour, "solid"), hover))
    if len(captures):
        panels.add(1, exact(captures["step"], captures["shift"], "captured prompts", "dash", LIGHT.muted))
    panels.mark(1, DOTTED, y=0)
    panels.axis("x", title="step")
    if words:
        panels.axis("y", 2, range=[-0.03, 1.03], tickformat=".0%")
    return panels.figure(showlegend=False)
