"""Figures of probes: score by block with control and floor, and effects of interventions on what was decoded."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.hallucination.figures import rows_of
from probe.numbers import format_interval, percent, rate
from probe.plotting.curves import Style, band, legend_entry
from probe.plotting.intervals import whiskers
from probe.plotting.panels import Panels
from probe.plotting.series import RATE, curve, exact, offsets, shaded
from probe.plotting.theme import ANSWERS, CHOSEN, DOTTED, LIGHT, escape, on_hover, row_axis

NULL = ANSWERS[-1]
"""Colour of shuffled labels and of random directions, unlike that of any model."""


def score_by_layer(layers: pd.DataFrame, layer: int, score: str, colour: str) -> go.Figure:
    """Draw the score by place: on held-out people with its interval and the floor, and on seen people with the control.

    Args:
        layers: `probe.probes.decoding.Decoded.layers`.
        layer: chosen place.
        score: name of the score.
        colour: colour of the model.
    """
    panels = Panels([f"{score}, people held out", f"{score}, other texts of the same people"], shared_y=True)
    places = layers["layer"].tolist()
    rows = layers.rename(columns={"score": "value", "score_low": "ci_low", "score_high": "ci_high"})
    hover = [
        f"{place(row.layer)}: {format_interval(row.value, row.ci_low, row.ci_high)}, shuffled labels"
        f" {row.floor:.2f}, at most {row.floor_high:.2f}"
        for row in rows_of(rows)
    ]
    style = Style(colour, "solid")
    panels.add(1, band(places, 2 * layers["floor"] - layers["floor_high"], layers["floor_high"], NULL))
    panels.add(1, exact(places, layers["floor"], "shuffled labels", "dot", NULL))
    panels.add(1, *shaded(places, rows, "probe", style, hover))
    panels.add(1, exact(places, layers["simple"], "difference of means", "dash", LIGHT.muted))
    seen = [f"{place(row.layer)}: {row.seen:.2f}, control {row.control:.2f}" for row in rows_of(layers)]
    line = go.Scatter(x=places, y=layers["seen"], mode="lines+markers", name="probe", legendgroup="probe")
    panels.add(2, line.update(line={"color": colour, "width": 2}, marker={"size": 7}, **on_hover(seen)))
    panels.add(2, exact(places, layers["control"], "control: random label of each person", "longdash", CHOSEN))
    panels.mark(None, {"color": CHOSEN, "width": 1.5, "dash": "dash"}, x=layer)
    every = max(1, -(-len(places) // 6))
    names = ["embed.", *(f"{each}" for each in places[1:])]
    panels.axis("x", title="residual stream after block", tickvals=places[::every], ticktext=names[::every])
    drawn = layers[["score_low", "floor", "simple", "seen", "control"]].to_numpy(dtype=float)
    lowest = float(np.nanmin(drawn)) if np.isfinite(drawn).any() else 0.0
    panels.axis("y", range=[max(min(lowest, 0.4), -0.5) - 0.03, 1.04])
    return panels.figure()


def place(layer: int) -> str:
    """Return a place in words."""
    return "embedding" if layer < 0 else f"after block {layer}"


def effects_by_way(effects: pd.DataFrame, least: float, colour: str) -> go.Figure:
    """Draw the change of the log-odds by each way with its interval, and the range of random directions.

    Args:
        effects: `probe.probes.decoded_use.Used.effects`.
        least: smallest effect that counts, in nats.
        colour: colour of the model.
    """
    panels = Panels(["change of the answer's log-odds towards the counterfactual"])
    heights = list(range(len(effects)))
    for row, height in zip(rows_of(effects), heights, strict=True):
        if row.random_low == row.random_low:
            ends = {"x0": row.random_low, "x1": row.random_high, "y0": height - 0.3, "y1": height + 0.3}
            panels.shape(1, {"type": "rect", "fillcolor": NULL, "opacity": 0.35, "line": {"width": 0}, **ends})
    hover = [
        f"{escape(row.way)}: {format_interval(row.value, row.ci_low, row.ci_high)} nats, {row.share:.0%} of the"
        f" counterfactual, norm {row.norm:.2f}"
        for row in rows_of(effects)
    ]
    dots = go.Scatter(x=effects["value"], y=heights, mode="markers", name="effect, 95 %")
    dots.update(error_x=whiskers(effects["value"], effects["ci_low"], effects["ci_high"]))
    panels.add(1, dots.update(marker={"color": colour, "size": 9}, **on_hover(hover)))
    panels.add(
        1, legend_entry("random directions of equal norm", marker={"color": NULL, "size": 11, "symbol": "square"})
    )
    panels.span(1, -least, least, LIGHT.muted, 0.15)
    panels.mark(1, DOTTED, x=0)
    panels.axis("x", title="nats (grey: too small to count)")
    panels.axis("y", **row_axis([escape(str(way)) for way in effects["way"]]), ticks="")
    return panels.figure()


def token_scores(scores: pd.DataFrame, bins: pd.DataFrame, floor: np.ndarray, colour: str) -> go.Figure:
    """Draw the AUROC of a hallucination probe and of its baselines by test, and the reliability of probabilities.

    Args:
        scores: `probe.probes.token_probe.TokenTruth.scores`.
        bins: `TokenTruth.bins`, with the probe first.
        floor: AUROC of shuffled labels.
        colour: colour of the model.
    """
    tests, signals = (list(dict.fromkeys(scores[name])) for name in ("test", "signal"))
    titles = ["AUROC of wrong tokens, with 95 % interval", f"share wrong, {tests[0]}"]
    panels = Panels(titles, widths=(3, 2), spacing=0.12)
    panels.span(1, float(floor.min()), float(floor.max()), NULL, 0.25)
    panels.add(1, legend_entry("shuffled labels", marker={"color": NULL, "size": 11, "symbol": "square"}))
    panels.mark(1, DOTTED, x=0.5)
    for test, shift, symbol in zip(tests, offsets(len(tests), 0.5), ("circle", "circle-open"), strict=False):
        own = scores[scores["test"] == test]
        hover = [
            f"{escape(row.signal)}, {test}: {format_interval(row.AUROC, row.AUROC_low, row.AUROC_high)}, errs at"
            f" {percent(row.error, row.error_low, row.error_high)}"
            for row in rows_of(own)
        ]
        heights = [signals.index(signal) + shift for signal in own["signal"]]
        dots = go.Scatter(x=own["AUROC"], y=heights, mode="markers", name=test)
        dots.update(error_x=whiskers(own["AUROC"], own["AUROC_low"], own["AUROC_high"]))
        panels.add(1, dots.update(marker={"color": colour, "size": 9, "symbol": symbol}, **on_hover(hover)))
    panels.add(2, exact([0, 1], [0, 1], "calibrated", "dash", LIGHT.muted))
    for (name, own), (line, dash) in zip(
        bins.groupby("signal", sort=False), ((colour, "solid"), (CHOSEN, "dot")), strict=False
    ):
        hover = [
            f"{escape(str(name))} says {rate(r.predicted)}: {rate(r.target)} of {r.n} are wrong" for r in rows_of(own)
        ]
        panels.add(2, curve(own["predicted"], own["target"], str(name), Style(line, dash), hover))
    low = min(float(np.nanmin(scores["AUROC_low"])), float(floor.min()), 0.45)
    panels.axis("x", 1, title="AUROC", range=[max(low - 0.03, -0.02), 1.03])
    panels.axis("y", 1, **row_axis([escape(signal) for signal in signals]), ticks="")
    panels.axis("x", 2, title="probability that it is wrong", **RATE)
    panels.axis("y", 2, **RATE)
    return panels.figure()
