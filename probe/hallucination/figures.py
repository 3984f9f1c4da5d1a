"""Figures of the experiment `hallucination`: exposure, calibration, uncertainty about meanings, and one wrong token.

All take tidy tables of any number of models; one colour a model, with 95 % bands.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.numbers import format_interval, in_unit, percent
from probe.plotting.curves import Style
from probe.plotting.intervals import band, headline_intervals
from probe.plotting.panels import MODEL, RATE, Look, curve, error_bars, exact, hover_texts, legend_entry, models_of
from probe.plotting.theme import LIGHT, escape, new_figure, template
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
    """Hall against the exposure of the fact, in evenly spaced classes; each model's bound dashed in its colour.

    Args:
        table: model, kind, label, low, value, ci_low, ci_high, abstention, bound, n.
        styles: of each model.
    """
    figure = new_figure(hovermode="closest")
    order = table.drop_duplicates(["kind", "label"])[["kind", "label", "low"]]
    order = order.assign(asked=order["kind"] != "stranger_heldout").sort_values(["low", "asked"])
    places = {(row.kind, row.label): x for x, row in enumerate(rows_of(order))}
    for label, rows in models_of(table, styles):
        x = [places[row.kind, row.label] for row in rows_of(rows)]
        colour = styles[label].colour
        figure.add_trace(band(x, rows["ci_low"], rows["ci_high"], colour))
        hover = [
            f"{escape(label)}, exposure {row.label}: {percent(row.value, row.ci_low, row.ci_high)}<br>abstains"
            f" {100 * row.abstention:.0f} %, bound {100 * row.bound:.0f} %, n = {row.n:.0f}"
            for row in rows_of(rows)
        ]
        figure.add_trace(curve(x, rows["value"], label, styles[label], hover))
        figure.add_trace(
            go.Scatter(
                x=x,
                y=rows["bound"].where(rows["bound"] > 0),
                mode="lines+markers",
                line={"color": colour, "dash": "dot", "width": 1.6},
                marker={"size": 4},
                showlegend=False,
                hoverinfo="skip",
            )
        )
    line = {"color": LIGHT.muted, "dash": "dot", "width": 1.6}
    figure.add_trace(legend_entry("lower bound (Kalai et al.), where above 0", line=line))
    strangers = sum(kind in NEVER for kind, _ in places)
    if 0 < strangers < len(places):
        figure.add_vline(x=strangers - 0.5, line={"color": LIGHT.muted, "width": 0.8, "dash": "dash"}, opacity=0.6)
    ticks = [NEVER.get(kind, label) for kind, label in places]
    figure.update_xaxes(
        title_text="training documents per epoch that state the fact",
        tickvals=list(places.values()),
        ticktext=ticks,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title_text="share of answers that hallucinate", **RATE, zeroline=False)
    return figure


def target_curves(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Score and errors against the confidence target: without a target solid, answering only above it dashed."""
    figure = panels(["points a question", "share of wrong answers"])
    for label, rows in models_of(table, styles):
        for rule, dash in (("own", "solid"), ("target", "dash")):
            for column, (outcome, unit) in enumerate((("score", "points"), ("error", SHARE)), start=1):
                part = rows[(rows["way"] == rule) & (rows["outcome"] == outcome)]
                hover = [
                    f"{escape(label)}, t = {100 * r.target:.0f} %: {in_unit(unit, r.value, r.ci_low, r.ci_high)}"
                    for r in rows_of(part)
                ]
                figure.add_trace(
                    band(part["target"], part["ci_low"], part["ci_high"], styles[label].colour), row=1, col=column
                )
                trace = curve(part["target"], part["value"], label, Style(styles[label].colour, dash), hover)
                trace.update(mode="lines", showlegend=rule == "own" and column == 1)
                figure.add_trace(trace, row=1, col=column)
    key(figure, {"without a target": "solid", "abstains below t": "dash"})
    figure.add_hline(y=0, line={"color": LIGHT.muted, "width": 0.8}, row=1, col=1)
    lowest = float(table.loc[table["outcome"] == "score", "value"].min())
    figure.update_yaxes(range=[max(lowest, -2.05) - 0.05, 1.05], row=1, col=1)
    figure.update_yaxes(**RATE, row=1, col=2)
    figure.update_xaxes(title_text="target t; errors cost t / (1 \u2212 t)", tickformat=".0%")
    return figure


def calibration(
    bins: pd.DataFrame,
    risk: pd.DataFrame,
    styles: Look,
    errors: Mapping[str, tuple[Interval, Interval]] = MappingProxyType({}),
) -> go.Figure:
    """Draw the reliability diagram and the risk-coverage curve.

    Args:
        bins: see `probe.hallucination.confidence.reliability`, with `ci_low`, `ci_high` and the model.
        risk: see `probe.hallucination.confidence.risk_table`, with the model.
        styles: of the models.
        errors: of each model the calibration error, and that of a perfectly calibrated model with its confidences.
    """
    figure = panels(["share of answers that are right", "share of errors among the surest answers"])
    figure.add_trace(_ideal(risk), row=1, col=2)
    figure.add_trace(reference([0, 1], [0, 1], "ideal", legend=False), row=1, col=1)
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
        figure.add_trace(trace, row=1, col=1)
    for label, rows in models_of(risk, styles):
        figure.add_trace(band(rows["coverage"], rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=2)
        hover = [
            f"{escape(label)}, surest {100 * r.coverage:.0f} %: {percent(r.value, r.ci_low, r.ci_high)}"
            for r in rows_of(rows)
        ]
        trace = curve(rows["coverage"], rows["value"], label, styles[label], hover)
        trace.update(mode="lines", showlegend=False)
        figure.add_trace(trace, row=1, col=2)
    figure.update_xaxes(title_text="probability of the likeliest value", **RATE, row=1, col=1)
    figure.update_xaxes(title_text="share answered (coverage)", **RATE, row=1, col=2)
    figure.update_yaxes(**RATE)
    return figure


def shares(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the headline shares of a file's questions."""
    return headline_intervals(table.rename(columns={MODEL: "run"}), styles, words=_words).update_xaxes(
        title_text="share of questions (MC2, agreement, P(True): mean), with 95 % interval"
    )


def _words(metric: str) -> Term:
    return term(metric, "hallucination")


def reference(x: Sequence[float] | pd.Series, y: Sequence[float], name: str, legend: bool = True) -> go.Scatter:
    """Return the dashed line that an ideal or an ignorant model would show."""
    return exact(x, y, name, "dash", LIGHT.muted).update(showlegend=legend)


def key(figure: go.Figure, dashes: Mapping[str, str]) -> None:
    """Legend entries for the dashes."""
    for name, dash in dashes.items():
        line = {"color": LIGHT.muted, "dash": dash, "width": 1.8}
        figure.add_trace(legend_entry(name, line=line), row=1, col=1)


def rows_of(table: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples."""
    return list(table.itertuples())


def panels(titles: Sequence[str]) -> go.Figure:
    """Empty panels side by side, with their titles at the y axes."""
    figure = make_subplots(rows=1, cols=len(titles), horizontal_spacing=0.17)
    figure.update_layout(template=template(LIGHT), hovermode="closest", margin={"t": 36, "b": 44})
    for column, title in enumerate(titles, start=1):
        figure.update_yaxes(title_text=title, zeroline=False, row=1, col=column)
    figure.update_xaxes(zeroline=False)
    return figure


def _ideal(risk: pd.DataFrame) -> go.Scatter:
    """Return the first model's curve as if it were surer of every right answer than of any wrong one."""
    rows = risk[risk[MODEL] == risk[MODEL].iloc[0]]
    right = 1 - float(rows["value"].iloc[-1])
    return reference(rows["coverage"], [max(0.0, 1 - right / x) for x in rows["coverage"]], "ideal (its ECE)")


HELD_OUT = {"people": "people held out", "choice": "multiple choice", "free": "free answers"}
"""What heads and directions are tested on; they were fitted on other people and questions."""


def entropies(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Semantic entropy by kind of question: exact filled, from samples open, a cross where samples are on average."""
    figure = new_figure(hovermode="closest")
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
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=rows["value"],
                    mode="markers",
                    name=escape(label),
                    showlegend=source == "exact",
                    marker={"color": colour, "symbol": symbol, "size": 9, "line": line},
                    error_y=None if symbol == "x-thin" else error_bars(rows),
                    customdata=hover,
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
    for name, symbol in marks.items():
        marker = {"color": LIGHT.muted, "symbol": symbol, "size": 8, "line": {"color": LIGHT.muted, "width": 1.6}}
        figure.add_trace(legend_entry(name, marker=marker))
    ticks = [KINDS.get(kind, kind).replace(" ", "<br>", 1) for kind in kinds]
    figure.update_xaxes(tickangle=0, tickvals=list(range(len(kinds))), ticktext=ticks, showgrid=False, zeroline=False)
    figure.update_xaxes(range=[-0.5, len(kinds) - 0.5], title_text="questions about")
    figure.update_yaxes(
        title_text="semantic entropy (nats)", range=[-0.08, 1.05 * float(table["ci_high"].max()) + 0.05]
    )
    return figure


def direction_by_layer(table: pd.DataFrame, styles: Look) -> go.Figure:
    """AUROC of the known-against-unseen direction after each block; grey: shuffled labels."""
    return _by_layer(table.assign(kind="people"), styles)


def p_ik_by_layer(table: pd.DataFrame, styles: Look) -> go.Figure:
    """AUROC of P(IK) by heads on the residual after each block, a panel for each way to answer; grey as above."""
    return _by_layer(table, styles)


def _by_layer(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the AUROC by layer, one panel for each kind of held-out unit."""
    kinds = list(dict.fromkeys(table["kind"]))
    figure = panels([f"AUROC, {HELD_OUT[kind]}" for kind in kinds])
    for column, kind in enumerate(kinds, start=1):
        part = table[table["kind"] == kind]
        null_range = part.groupby("layer", as_index=False).agg({"null_low": "min", "null_high": "max"})
        last, at = int(null_range["layer"].max()), {"row": 1, "col": column}
        chance = reference([0, last], [0.5, 0.5], "chance; grey: shuffled labels", legend=column == 1)
        figure.add_trace(band(null_range["layer"], null_range["null_low"], null_range["null_high"], LIGHT.muted), **at)
        figure.add_trace(chance, **at)
        for label, rows in models_of(part, styles):
            figure.add_trace(band(rows["layer"], rows["ci_low"], rows["ci_high"], styles[label].colour), **at)
            trace = curve(rows["layer"], rows["value"], label, styles[label], hover_texts(rows, label))
            first = label not in set(table.loc[table["kind"].isin(kinds[: column - 1]), MODEL])
            figure.add_trace(trace.update(showlegend=first), **at)
        names = ["embedding", *(f"block {layer - 1}" for layer in range(1, last + 1))]
        every = max(1, (last + 1) * len(kinds) // 9)
        figure.update_xaxes(
            tickvals=list(range(0, last + 1, every)), ticktext=names[::every], title_text="residual after", **at
        )
    lowest = float(table[["ci_low", "null_low"]].min().min())
    figure.update_yaxes(range=[min(0.25, lowest - 0.03), 1.03])
    return figure


UNITS = {1: "nats", 2: SHARE}
"""Of the panels of a snowball."""


def snowball_steps(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the effect of one forced wrong token on later ones: KL, and the share of later tokens that are wrong."""
    truth = table["quantity"].isin(("clean_error", "wrong_error")).any()
    figure = panels(["KL(clean ‖ wrong), nats", "share of wrong tokens" if truth else "share of other tokens"])
    quantities = [("forced_kl", 1, "solid"), ("free_kl", 1, "dash")]
    quantities += [("wrong_error", 2, "dash"), ("clean_error", 2, "dot")] if truth else [("differs", 2, "dash")]
    in_legend: set[str] = set()
    for quantity, column, dash in quantities:
        for label, rows in models_of(table[table["quantity"] == quantity], styles):
            figure.add_trace(
                band(rows["step"], rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=column
            )
            hover = [
                f"{escape(label)}, {r.step} later: {in_unit(UNITS[column], r.value, r.ci_low, r.ci_high)}"
                for r in rows_of(rows)
            ]
            trace = curve(rows["step"], rows["value"], label, Style(styles[label].colour, dash), hover)
            trace.update(mode="lines", showlegend=label not in in_legend)
            in_legend.add(label)
            figure.add_trace(trace, row=1, col=column)
    keys = {"same later text": "solid", "own later text": "dash"} | ({"after the true token": "dot"} if truth else {})
    key(figure, keys)
    figure.update_xaxes(title_text="tokens after the exchanged one" + (" (n: a number)" if truth else ""))
    words = table.drop_duplicates("step")
    if words["token"].notna().all():
        ticks = [escape(str(word)) for word in words["token"]]
        figure.update_xaxes(tickvals=list(words["step"]), ticktext=ticks, tickangle=0, showgrid=False)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_yaxes(**RATE, row=1, col=2)
    return figure
