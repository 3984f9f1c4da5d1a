"""Figures of the heads behind in-context learning: over training, on repeats, what their ablation costs."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plots.curves import Style
from probe.plots.in_context_parts import (
    MODEL,
    TEXTS,
    Styles,
    categories,
    exact,
    ideals,
    line,
    models,
    offsets,
    panels,
    told,
)
from probe.plots.intervals import SYMBOLS, band
from probe.plots.theme import LIGHT, escape, new_figure

INDUCTION, RANDOM = "without its induction heads", "without random heads"


def phase_change(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """Induction score of the strongest head, and distances to the predictors of chains, over the captured steps.

    Args:
        table: model, step, kind, series, value, head.
        styles: of each model.
    """
    chains = bool((table["series"] == "kl_bayes").any()) and not (table["kind"] == "repeat").any()
    titles = ["induction score of the strongest head"]
    titles += ["distance of predictions on chains (nats)"] if chains else ["held-out loss (nats)"]
    figure = panels(titles)
    kinds = [kind for kind in TEXTS if (table["kind"] == kind).any()]
    several = table[MODEL].nunique() > 1
    for label, rows in models(table, styles):
        for kind, dash in zip(kinds, ("solid", "dash", "dot"), strict=False):
            part = rows[(rows["kind"] == kind) & (rows["series"] == "induction")]
            if not len(part):
                continue
            name = f"{label}: {part['head'].iloc[0]} on {TEXTS[kind]}"
            trace = line(part["step"], part["value"], name, Style(styles[label].colour, dash), _steps(name, part))
            figure.add_trace(trace, row=1, col=1)
        looks = (("kl_unigram", "dot", "to the unigram"), ("kl_bayes", "solid", "to Bayes")) if chains else ()
        for series, dash, words in looks:
            part = rows[(rows["kind"] == "markov") & (rows["series"] == series)]
            name = f"{label} {words}" if several else words
            trace = line(part["step"], part["value"], name, Style(styles[label].colour, dash), _steps(name, part))
            figure.add_trace(trace, row=1, col=2)
        for kind, dash in zip(kinds, ("solid", "dash", "dot"), strict=False):
            part = rows[(rows["kind"] == kind) & (rows["series"] == "loss")]
            if not chains and len(part):
                name = f"{label} on {TEXTS[kind]}"
                trace = line(part["step"], part["value"], name, Style(styles[label].colour, dash), _steps(name, part))
                figure.add_trace(trace.update(showlegend=False), row=1, col=2)
    if chains:
        counted = table[table["series"] == "counting"]
        for index, (colour, ideal) in enumerate(ideals(counted, styles, "step", ["value"])):
            trace = exact(ideal["step"], ideal["value"], "unigram to Bayes", colour=colour)
            figure.add_trace(trace.update(showlegend=index == 0), row=1, col=2)
        level = float(counted["value"].max())
        figure.update_yaxes(range=[-0.02 * level, 2.2 * level], row=1, col=2)
    figure.add_hline(y=0, line={"color": LIGHT.muted, "width": 0.8}, row=1, col=1)
    figure.update_yaxes(
        range=[min(-0.1, float(table.loc[table["series"] == "induction", "value"].min())) - 0.02, 1.03], row=1, col=1
    )
    figure.update_xaxes(title_text="training step")
    return figure


def repeats(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """Loss of random tokens by their place in the segment, the first and the second time they are written."""
    figure = new_figure(hovermode="closest", showlegend=True)
    for label, rows in models(table, styles):
        for when, words, dash in (("early", "first time", "dot"), ("late", "second time", "solid")):
            part = rows[rows["when"] == when]
            name = f"{label}, {words}"
            hover = told(part, name, "token")
            figure.add_trace(band(part["token"], part["ci_low"], part["ci_high"], styles[label].colour))
            figure.add_trace(line(part["token"], part["value"], name, Style(styles[label].colour, dash), hover))
    figure.update_xaxes(title_text="place in the segment of random tokens")
    figure.update_yaxes(title_text="loss (nats)", rangemode="tozero")
    return figure


def ablation(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """In-context loss of each model as it is, without its induction heads (cross), and without as many random ones."""
    figure = new_figure(hovermode="closest", showlegend=True)
    texts = [name for name in TEXTS if (table["texts"] == name).any()]
    looks = {"as it is": ("line-ew-open", 16), RANDOM: ("circle-open", 7), INDUCTION: ("x", 11)}
    for offset, (label, rows) in offsets(table, styles):
        colour = styles[label].colour
        name = {"name": escape(label), "legendgroup": label}
        mark = {"color": colour, "symbol": "square", "size": 9}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=mark, **name))
        places = {name: at + offset for at, name in enumerate(texts)}
        whole = rows.drop_duplicates("texts")
        traces = [("as it is", whole["texts"], whole["before"], ["as it is"] * len(whole))]
        for group, words in (("random", RANDOM), ("induction", INDUCTION)):
            part = rows[rows["group"] == group]
            traces.append((words, part["texts"], part["loss"], list(part["heads"])))
        for words, names, values, heads in traces:
            symbol, size = looks[words]
            hover = [
                f"{escape(label)}, {escape(str(head))}: {value:.3f} nats"
                for head, value in zip(heads, values, strict=True)
            ]
            figure.add_trace(
                go.Scatter(
                    x=[places[name] for name in names],
                    y=values,
                    mode="markers",
                    showlegend=False,
                    marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}},
                    **name,
                    customdata=hover,
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
    for words, (symbol, size) in looks.items():
        mark = {"color": LIGHT.muted, "symbol": symbol, "size": size, "line": {"width": 2, "color": LIGHT.muted}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=words, marker=mark))
    categories(figure, [TEXTS[name] for name in texts], "")
    figure.update_yaxes(title_text="in-context loss (nats)", rangemode="tozero")
    return figure


def heads(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """Induction score of every head against what its ablation costs (its copying score where none was ablated)."""
    figure = new_figure(hovermode="closest", showlegend=True)
    alone = "ablation" in table and table["ablation"].notna().all()
    y = "ablation" if alone else "copying"
    near = 0.16 * np.ptp(table["scaled"]), 0.06 * np.ptp(table[y])
    named: list[tuple[float, float]] = []

    def word(name: str, place: tuple[float, float]) -> str:
        """The name of a head, unless one stands there already."""
        if any(abs(place[0] - x) <= near[0] and abs(place[1] - up) <= near[1] for x, up in named):
            return ""
        named.append(place)
        return f"{name} "

    for label, rows in models(table, styles, by="name"):
        hover = [f"{escape(label)} {r.name}: induction {r.scaled:.2f}" for r in rows.itertuples(index=False)]
        top = rows["scaled"].max()
        figure.add_trace(
            go.Scatter(
                x=rows["scaled"],
                y=rows[y],
                mode="markers+text",
                name=escape(label),
                text=[
                    word(name, (value, cost)) if value == top or cost == rows[y].max() else ""
                    for name, value, cost in zip(rows["name"], rows["scaled"], rows[y], strict=True)
                ],
                textposition="middle left",
                marker={"color": styles[label].colour, "symbol": SYMBOLS[styles[label].dash], "size": 8},
                customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="induction score (0: looks everywhere alike, 1: at nothing else)")
    figure.update_yaxes(
        title_text="loss added without it (nats)" if alone else "copying score on random tokens (-1 to 1)"
    )
    return figure


def _steps(name: str, rows: pd.DataFrame) -> list[str]:
    return [f"{escape(name)}, step {row.step:,}: {row.value:.3f}" for row in rows.itertuples()]
