"""Figures of the experiment `hallucination`: exposure, calibration, semantic uncertainty, and one wrong token.

Every function takes tidy tables of any number of models and draws one colour per model, with 95 % bands.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probe.numbers import format_interval, in_unit, percent
from probe.plotting.curves import Style, legend_entry
from probe.plotting.intervals import band, headline_intervals
from probe.plotting.panels import Panels
from probe.plotting.series import (
    MODEL,
    RATE,
    Look,
    categories,
    curve,
    error_bars,
    exact,
    hover_texts,
    models_of,
    shaded,
)
from probe.plotting.theme import LIGHT, escape, on_hover
from probe.stats import Interval
from probe.terms import SHARE, Term, term

NEVER = {"stranger_heldout": "0<br>held-out<br>unseen", "stranger": "0<br>unseen"}
KINDS = {
    "fact": "known",
    "rare": "seen 1 to 5 times",
    "stranger": "unseen entities",
    "stranger_heldout": "held-out unseen entities",
}


def exposure_curves(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw Hall by class of the fact's exposure, in equal steps; each model's lower bound is dotted in its colour.

    Args:
        table: model, kind, label, low, value, ci_low, ci_high, abstention, bound, n.
        styles: style of each model.
    """
    panels = Panels()
    order = table.drop_duplicates(["kind", "label"])[["kind", "label", "low"]]
    order = order.assign(asked=order["kind"] != "stranger_heldout").sort_values(["low", "asked"])
    places = {(row.kind, row.label): x for x, row in enumerate(rows_of(order))}
    for label, rows in models_of(table, styles):
        x = [places[row.kind, row.label] for row in rows_of(rows)]
        hover = [
            f"{escape(label)}, exposure {row.label}: {percent(row.value, row.ci_low, row.ci_high)}<br>abstains"
            f" {100 * row.abstention:.0f} %, bound {100 * row.bound:.0f} %, n = {row.n:.0f}"
            for row in rows_of(rows)
        ]
        bound = exact(x, rows["bound"].where(rows["bound"] > 0), "", "dot", styles[label].colour)
        panels.add(1, *shaded(x, rows, label, styles[label], hover))
        panels.add(1, bound.update(mode="lines+markers", marker={"size": 4}))
    line = {"color": LIGHT.muted, "dash": "dot", "width": 1.6}
    panels.add(1, legend_entry("lower bound (Kalai et al.), where above 0", line=line))
    strangers = sum(kind in NEVER for kind, _ in places)
    if 0 < strangers < len(places):
        panels.mark(1, {"color": LIGHT.muted, "width": 0.8, "dash": "dash"}, x=strangers - 0.5, opacity=0.6)
    ticks = {"tickvals": list(places.values()), "ticktext": [NEVER.get(kind, label) for kind, label in places]}
    title = "training documents per epoch that state the fact"
    panels.axis("x", title=title, **ticks, showgrid=False, zeroline=False)
    panels.axis("y", title="share of answers that hallucinate", **RATE, zeroline=False)
    return panels.figure()


def target_curves(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw score and errors against the confidence target: solid without a target, dashed with abstention below it."""
    panels = _beside(["points a question", "share of wrong answers"])
    for label, rows in models_of(table, styles):
        for rule, dash in (("own", "solid"), ("target", "dash")):
            for column, (outcome, unit) in enumerate((("score", "points"), ("error", SHARE)), start=1):
                part = rows[(rows["way"] == rule) & (rows["outcome"] == outcome)]
                hover = [
                    f"{escape(label)}, t = {100 * r.target:.0f} %: {in_unit(unit, r.value, r.ci_low, r.ci_high)}"
                    for r in rows_of(part)
                ]
                style, look = Style(styles[label].colour, dash), {"mode": "lines", "showlegend": rule == "own"}
                panels.add(column, *shaded(part["target"], part, label, style, hover, **look))
    key(panels, {"without a target": "solid", "abstains below t": "dash"})
    panels.mark(1, {"color": LIGHT.muted, "width": 0.8}, y=0)
    lowest = float(table.loc[table["outcome"] == "score", "value"].min())
    panels.axis("y", 1, range=[max(lowest, -2.05) - 0.05, 1.05])
    panels.axis("y", 2, **RATE)
    panels.axis("x", title="target t; errors cost t / (1 \u2212 t)", tickformat=".0%")
    return panels.figure()


def calibration(
    bins: pd.DataFrame,
    risk: pd.DataFrame,
    styles: Look,
    errors: Mapping[str, tuple[Interval, Interval]] = MappingProxyType({}),
) -> go.Figure:
    """Draw the reliability diagram and the risk-coverage curve.

    Args:
        bins: table of `probe.hallucination.confidence.reliability` with `ci_low`, `ci_high` and the model.
        risk: table of `probe.hallucination.confidence.risk_table` with the model.
        styles: style of each model.
        errors: calibration error of each model, and that of a perfectly calibrated model with the same confidences.
    """
    panels = _beside(["share of answers that are right", "share of errors among the surest answers"])
    panels.add(2, _ideal(risk))
    panels.add(1, reference([0, 1], [0, 1], "ideal", legend=False))
    for label, rows in models_of(bins, styles):
        name, ece = escape(label), ""
        if label in errors:
            error, chance = errors[label]
            name += f", ECE {100 * error.value:.0f} % ({100 * chance.value:.0f} %)"
            ece = f"<br>ECE {percent(*error)}; perfectly calibrated: {100 * chance.value:.0f} %"
        hover = [
            f"{escape(label)}: says {100 * r.predicted:.0f} %, right {percent(r.target, r.ci_low, r.ci_high)},"
            f" n = {r.n:.0f}" + ece
            for r in rows_of(rows)
        ]
        trace = curve(rows["predicted"], rows["target"], label, styles[label], hover).update(name=name)
        trace.update(error_y=error_bars(rows, ("target", "ci_low", "ci_high")), line_width=1)
        panels.add(1, trace)
    for label, rows in models_of(risk, styles):
        hover = [
            f"{escape(label)}, surest {100 * r.coverage:.0f} %: {percent(r.value, r.ci_low, r.ci_high)}"
            for r in rows_of(rows)
        ]
        look = {"mode": "lines", "showlegend": False}
        panels.add(2, *shaded(rows["coverage"], rows, label, styles[label], hover, **look))
    panels.axis("x", 1, title="probability of the likeliest value", **RATE)
    panels.axis("x", 2, title="share answered (coverage)", **RATE)
    panels.axis("y", **RATE)
    return panels.figure()


def shares(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the headline shares of the questions in a file."""
    return headline_intervals(table.rename(columns={MODEL: "run"}), styles, words=_words).update_xaxes(
        title_text="share of questions (MC2, agreement, P(True): mean), with 95 % interval"
    )


def _words(metric: str) -> Term:
    return term(metric, "hallucination")


def reference(x: Sequence[float] | pd.Series, y: Sequence[float], name: str, legend: bool = True) -> go.Scatter:
    """Return the dashed reference line of an ideal or an ignorant model."""
    return exact(x, y, name, "dash", LIGHT.muted).update(showlegend=legend)


def key(panels: Panels, dashes: Mapping[str, str]) -> None:
    """Add legend entries that explain the dashes."""
    for name, dash in dashes.items():
        line = {"color": LIGHT.muted, "dash": dash, "width": 1.8}
        panels.add(1, legend_entry(name, line=line))


def rows_of(table: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples."""
    return list(table.itertuples())


def _beside(titles: Sequence[str]) -> Panels:
    """Return panels side by side whose titles are those of the y axes."""
    panels = Panels([""] * len(titles), spacing=0.17)
    for column, title in enumerate(titles, start=1):
        panels.axis("y", column, title=title, zeroline=False)
    panels.axis("x", zeroline=False)
    return panels


def _ideal(risk: pd.DataFrame) -> go.Scatter:
    """Return the first model's curve if its confidence in every right answer exceeded that in any wrong one."""
    rows = risk[risk[MODEL] == risk[MODEL].iloc[0]]
    right = 1 - float(rows["value"].iloc[-1])
    return reference(rows["coverage"], [max(0.0, 1 - right / x) for x in rows["coverage"]], "ideal (its ECE)")


HELD_OUT = {"people": "people held out", "choice": "multiple choice", "free": "free answers"}
"""Names of the held-out sets that test heads and directions, which were fitted on other people and questions."""


def entropies(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw semantic entropy by kind of question: exact values filled, estimates open, their expectations as crosses."""
    panels = Panels()
    kinds, labels = list(dict.fromkeys(table["kind"])), [label for label in styles if label in set(table[MODEL])]
    step = 0.7 / max(len(labels), 1)
    marks = {"exact": "circle", "samples": "circle-open", "expected of samples": "x-thin"}
    for place, label in enumerate(labels):
        for shift, (source, symbol) in enumerate(marks.items()):
            rows = table[(table[MODEL] == label) & (table["source"] == source)]
            x = [kinds.index(kind) + (place - (len(labels) - 1) / 2) * step for kind in rows["kind"]]
            x = [each + (0 if shift == 0 else step / 3) for each in x]
            colour = styles[label].colour
            line = {"color": colour, "width": 2 if symbol == "x-thin" else 1.6}
            hover = [
                f"{escape(label)}, {source}: {format_interval(r.value, r.ci_low, r.ci_high)} nats"
                for r in rows_of(rows)
            ]
            places = go.Scatter(
                x=x,
                y=rows["value"],
                mode="markers",
                name=escape(label),
                showlegend=source == "exact",
                marker={"color": colour, "symbol": symbol, "size": 9, "line": line},
                error_y=None if symbol == "x-thin" else error_bars(rows),
                **on_hover(hover),
            )
            panels.add(1, places)
    for name, symbol in marks.items():
        marker = {"color": LIGHT.muted, "symbol": symbol, "size": 8, "line": {"color": LIGHT.muted, "width": 1.6}}
        panels.add(1, legend_entry(name, marker=marker))
    ticks = [KINDS.get(kind, kind).replace(" ", "<br>", 1) for kind in kinds]
    panels.axis("x", title="questions about", tickangle=0, **categories(ticks))
    panels.axis("y", title="semantic entropy (nats)", range=[-0.08, 1.05 * float(table["ci_high"].max()) + 0.05])
    return panels.figure()


def auroc_by_layer(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the AUROC on the residual stream after each block, one panel per kind of held-out unit.

    The table is of the direction from known to unseen people, or of P(IK) heads; shuffled labels are grey.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    panels = _beside([f"AUROC, {HELD_OUT[kind]}" for kind in kinds])
    for column, kind in enumerate(kinds, start=1):
        part = table[table["kind"] == kind]
        null_range = part.groupby("layer", as_index=False).agg({"null_low": "min", "null_high": "max"})
        last = int(null_range["layer"].max())
        chance = reference([0, last], [0.5, 0.5], "chance; grey: shuffled labels")
        panels.add(column, band(null_range["layer"], null_range["null_low"], null_range["null_high"], LIGHT.muted))
        panels.add(column, chance)
        for label, rows in models_of(part, styles):
            panels.add(column, *shaded(rows["layer"], rows, label, styles[label], hover_texts(rows, label)))
        names = ["embedding", *(f"block {layer - 1}" for layer in range(1, last + 1))]
        every = max(1, (last + 1) * len(kinds) // 9)
        ticks = {"tickvals": list(range(0, last + 1, every)), "ticktext": names[::every]}
        panels.axis("x", column, title="residual after", **ticks)
    lowest = float(table[["ci_low", "null_low"]].min().min())
    panels.axis("y", range=[min(0.25, lowest - 0.03), 1.03])
    return panels.figure()


UNITS = {1: "nats", 2: SHARE}
"""Unit of each panel of a snowball figure."""


def snowball_steps(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the effect of one forced wrong token on later tokens: KL, and the share of later tokens that are wrong."""
    truth = table["quantity"].isin(("clean_error", "wrong_error")).any()
    panels = _beside(["KL(clean ‖ wrong), nats", "share of wrong tokens" if truth else "share of different tokens"])
    quantities = [("forced_kl", 1, "solid"), ("free_kl", 1, "dash")]
    quantities += [("wrong_error", 2, "dash"), ("clean_error", 2, "dot")] if truth else [("differs", 2, "dash")]
    for quantity, column, dash in quantities:
        for label, rows in models_of(table[table["quantity"] == quantity], styles):
            hover = [
                f"{escape(label)}, {r.step} later: {in_unit(UNITS[column], r.value, r.ci_low, r.ci_high)}"
                for r in rows_of(rows)
            ]
            style = Style(styles[label].colour, dash)
            panels.add(column, *shaded(rows["step"], rows, label, style, hover, mode="lines"))
    keys = {"same later text": "solid", "own later text": "dash"} | ({"after the true token": "dot"} if truth else {})
    key(panels, keys)
    panels.axis("x", title="tokens after the exchanged token" + (" (n: a number)" if truth else ""))
    words = table.drop_duplicates("step")
    if words["token"].notna().all():
        ticks = [escape(str(word)) for word in words["token"]]
        panels.axis("x", tickvals=list(words["step"]), ticktext=ticks, tickangle=0, showgrid=False)
    panels.axis("y", 1, rangemode="tozero")
    panels.axis("y", 2, **RATE)
    return panels.figure()
