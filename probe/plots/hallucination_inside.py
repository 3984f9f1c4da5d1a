"""Figures of the experiment `hallucination` about uncertainty: meanings, the residual stream, and one wrong token."""

import pandas as pd
import plotly.graph_objects as go

from probe.plots.curves import Style
from probe.plots.hallucination import MODEL, SHARE, Styles, bars, curve, key, models_of, panels, reference, rows_of
from probe.plots.intervals import band, written
from probe.plots.theme import LIGHT, escape, new_figure

KINDS = {
    "fact": "known",
    "rare": "seen 1 to 5 times",
    "stranger": "strangers",
    "stranger_heldout": "held-out strangers",
}

HELD_OUT = {"people": "people held out", "choice": "multiple choice", "free": "free answers"}
"""What heads and directions are tested on; they were fitted on other people and questions."""


def entropies(table: pd.DataFrame, styles: Styles) -> go.Figure:
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
            told = [f"{escape(label)}, {source}: {written(r.value, r.ci_low, r.ci_high)} nats" for r in rows_of(rows)]
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=rows["value"],
                    mode="markers",
                    name=escape(label),
                    showlegend=source == "exact",
                    marker={"color": colour, "symbol": symbol, "size": 9, "line": line},
                    error_y=None if symbol == "x-thin" else bars(rows["value"], rows["ci_low"], rows["ci_high"]),
                    customdata=told,
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
    for name, symbol in marks.items():
        marker = {"color": LIGHT.muted, "symbol": symbol, "size": 8, "line": {"color": LIGHT.muted, "width": 1.6}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker))
    ticks = [KINDS.get(kind, kind) for kind in kinds]
    figure.update_xaxes(tickvals=list(range(len(kinds))), ticktext=ticks, showgrid=False, zeroline=False)
    figure.update_xaxes(range=[-0.5, len(kinds) - 0.5], title_text="questions about")
    figure.update_yaxes(
        title_text="semantic entropy (nats)", range=[-0.08, 1.05 * float(table["ci_high"].max()) + 0.05]
    )
    return figure


def direction_by_layer(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """AUROC of the known-against-stranger direction after each block; grey is what shuffled labels give."""
    return _by_layer(table.assign(kind="people"), styles)


def p_ik_by_layer(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """AUROC of P(IK) by heads on the residual after each block, a panel for each way to answer; grey as above."""
    return _by_layer(table, styles)


def _by_layer(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """A panel for each kind of what was held out."""
    kinds = list(dict.fromkeys(table["kind"]))
    figure = panels([f"AUROC, {HELD_OUT[kind]}" for kind in kinds])
    for column, kind in enumerate(kinds, start=1):
        part = table[table["kind"] == kind]
        wide = part.groupby("layer", as_index=False).agg({"null_low": "min", "null_high": "max"})
        last, at = int(wide["layer"].max()), {"row": 1, "col": column}
        chance = reference([0, last], [0.5, 0.5], "chance; grey: shuffled labels", legend=column == 1)
        figure.add_trace(band(wide["layer"], wide["null_low"], wide["null_high"], LIGHT.muted), **at)
        figure.add_trace(chance, **at)
        for label, rows in models_of(part, styles):
            figure.add_trace(band(rows["layer"], rows["ci_low"], rows["ci_high"], styles[label].colour), **at)
            told = [f"{escape(label)}: {written(r.value, r.ci_low, r.ci_high)}" for r in rows_of(rows)]
            trace = curve(rows["layer"], rows["value"], label, styles[label], told)
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


def snowball_steps(table: pd.DataFrame, styles: Styles) -> go.Figure:
    """What one forced wrong token does to later ones: KL, and the share of later tokens that are wrong."""
    judged = table["quantity"].isin(("clean_error", "wrong_error")).any()
    figure = panels(["KL(clean ‖ wrong), nats", "share of wrong tokens" if judged else "share of other tokens"])
    shown = [("forced_kl", 1, "solid"), ("free_kl", 1, "dash")]
    shown += [("wrong_error", 2, "dash"), ("clean_error", 2, "dot")] if judged else [("differs", 2, "dash")]
    named: set[str] = set()
    for quantity, column, dash in shown:
        for label, rows in models_of(table[table["quantity"] == quantity], styles):
            figure.add_trace(
                band(rows["step"], rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=column
            )
            told = [f"{escape(label)}, {r.step} later: {written(r.value, r.ci_low, r.ci_high)}" for r in rows_of(rows)]
            trace = curve(rows["step"], rows["value"], label, Style(styles[label].colour, dash), told)
            trace.update(mode="lines", showlegend=label not in named)
            named.add(label)
            figure.add_trace(trace, row=1, col=column)
    keys = {"same later text": "solid", "own later text": "dash"} | ({"after the true token": "dot"} if judged else {})
    key(figure, keys)
    figure.update_xaxes(title_text="tokens after the exchanged one" + (" (n: a number)" if judged else ""))
    words = table.drop_duplicates("step")
    if words["token"].notna().all():
        ticks = [escape(str(word)) for word in words["token"]]
        figure.update_xaxes(tickvals=list(words["step"]), ticktext=ticks, tickangle=0, showgrid=False)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_yaxes(range=SHARE, row=1, col=2)
    return figure
