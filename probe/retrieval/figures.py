"""Figures of the experiment `retrieval`: tidy tables of any number of models, with 95 % intervals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probe.numbers import in_unit
from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, band
from probe.plotting.panels import IDEAL, MODEL, RATE, Look, models_of, offsets, panels
from probe.plotting.theme import LIGHT, METHODS, escape
from probe.terms import SHARE

GROUPS = {
    "known": "known people",
    "rare": "people seen 1 to 5 times",
    "stranger": "unseen entities",
    "heldout": "held-out unseen entities",
    "questions": "questions",
}
"""Groups of questions, as figures call them."""
CONTEXTS = {
    "none": "no context",
    "gold": "gold passage",
    "distractor": "distractors",
    "unrelated": "unrelated",
    "contradicting": "contradicting",
    "retrieved": "retrieved",
}
OUTCOMES = {
    "accuracy": "true",
    "abstention": "\u201ci do not know\u201d",
    "invention": "hallucinated",
    "no_answer": "no answer at all",
}
FOUND = {"all": "all questions", "hit": "document found", "miss": "not found"}
"""Searches by whether the document was among the k that the model read."""
LINE, LEAST = 20, 190
"""Pixels of a line, and of all lines at least."""
DRAWN = ("known", "rare", "stranger", "questions")
"""Groups of the main figure; held-out unseen entities are in the table."""


def outcome_grid(table: pd.DataFrame, look: Look, groups: Sequence[str] = DRAWN) -> go.Figure:
    """Accuracy, abstention, invention and no answer by context, one line a context under the heading of its group.

    Args:
        table: `group`, `context`, `outcome`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.context_table`).
        look: style of each model.
        groups: those that are drawn.
    """
    rows_shown = table[table["group"].isin(groups) & table["outcome"].isin(OUTCOMES)]
    lines = _lines(rows_shown, groups, "context", CONTEXTS)
    outcomes = [outcome for outcome in OUTCOMES if outcome in set(rows_shown["outcome"])]
    figure = panels([OUTCOMES[outcome] for outcome in outcomes], shared=True, gap=0.06)
    for column, outcome in enumerate(outcomes, start=1):
        for rows, at in _apart(rows_shown, rows_shown["outcome"] == outcome, "context", lines):
            figure.add_trace(_marks(rows, at, look, column == 1), row=1, col=column)
    _name_lines(figure, lines, CONTEXTS)
    figure.update_xaxes(title_text="share of answers", **RATE, zeroline=False)
    figure.update_xaxes(tickvals=[0, 0.5, 1])
    return figure


def conflict_curves(table: pd.DataFrame, look: Look) -> go.Figure:
    """Answers that follow a contradicting passage, and the memorisation ratio, by exposure.

    Args:
        table: `label`, `low`, `quantity`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.conflict_curve`).
        look: style of each model.
    """
    figure = panels(("answers that follow the passage", "memorisation ratio"), gap=0.12)
    order = table.drop_duplicates("label").sort_values("low")
    places = {label: x for x, label in enumerate(order["label"])}
    for column, quantity in enumerate(("follows", "memorisation"), start=1):
        for model, own in models_of(table, look, "low"):
            rows = own[own["quantity"] == quantity]
            x = [places[label] for label in rows["label"]]
            figure.add_trace(band(x, rows["ci_low"], rows["ci_high"], look[model].colour), row=1, col=column)
            figure.add_trace(_curve(x, rows, look[model], column == 1), row=1, col=column)
            if quantity == "follows":
                prior = own[own["quantity"] == "knows"]
                figure.add_trace(_faint([places[label] for label in prior["label"]], prior, look[model]), row=1, col=1)
    key = {"color": LIGHT.muted, "dash": "dot", "width": 1.6}
    figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name="knows the fact without a passage", line=key))
    ticks = {"tickvals": list(places.values()), "ticktext": list(places), "tickangle": -90}
    figure.update_xaxes(title_text="documents per epoch", showgrid=False, zeroline=False, **ticks)
    figure.update_yaxes(title_text="share of answers", **RATE, row=1, col=1)
    figure.update_yaxes(
        title_text="p<sub>o</sub> / (p<sub>o</sub> + p<sub>s</sub>)", rangemode="tozero", tickformat=".0%", row=1, col=2
    )
    figure.update_yaxes(zeroline=False)
    return figure


def search_effect(table: pd.DataFrame, look: Look, recall: pd.DataFrame | None = None) -> go.Figure:
    """Hall without a passage (open) and with the retrieved ones (filled), hits and misses apart; and recall@k.

    Args:
        table: `group`, `found`, `quantity`, `way`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.search_table`).
        look: style of each model.
        recall: `k`, `value`, `ci_low`, `ci_high`, `n`, `model`; the search is the same for every model.
    """
    hall_rows = table[table["group"].isin(DRAWN) & (table["quantity"] == "hall")]
    lines = _lines(hall_rows, DRAWN, "found", FOUND)
    titles = ["answers that hallucinate"]
    figure = panels(
        titles if recall is None else [*titles, "recall@k"], None if recall is None else (0.64, 0.36), gap=0.2
    )
    for (before, at), (after, _) in zip(
        _apart(hall_rows, hall_rows["way"] == "without", "found", lines),
        _apart(hall_rows, hall_rows["way"] == "with", "found", lines),
        strict=True,
    ):
        style = look[str(after["model"].iloc[0])]
        ends = [value for pair in zip(before["value"], after["value"], strict=True) for value in (*pair, None)]
        both = [value for place in at for value in (place, place, None)]
        line = {"color": style.colour, "width": 1.2}
        move = go.Scatter(x=ends, y=both, mode="lines", line=line, opacity=0.5, showlegend=False, hoverinfo="skip")
        figure.add_trace(move, row=1, col=1)
        bare = _marks(before, at, look, False, ends=False)
        bare.marker.symbol = f"{SYMBOLS[style.dash]}-open"
        figure.add_trace(bare, row=1, col=1)
        figure.add_trace(_marks(after, at, look, True), row=1, col=1)
    for name, symbol in (("without", "circle-open"), ("with retrieval", "circle")):
        mark = {"color": LIGHT.muted, "symbol": symbol, "size": 8}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=mark))
    _name_lines(figure, lines, FOUND)
    figure.update_xaxes(title_text="share of answers", **RATE, zeroline=False, row=1, col=1)
    if recall is not None:
        first = recall[recall["model"] == recall["model"].iloc[0]]
        colour = METHODS["pretrain"]
        figure.add_trace(band(first["k"], first["ci_low"], first["ci_high"], colour), row=1, col=2)
        figure.add_trace(_curve(first["k"], first, Style(colour), False), row=1, col=2)
        figure.update_xaxes(title_text="passages k", dtick=3, tick0=1, zeroline=False, row=1, col=2)
        figure.update_yaxes(**RATE, showgrid=True, row=1, col=2)
        figure.update_yaxes(title_text="documents found", row=1, col=2)
    return figure


def persuasion_marks(table: pd.DataFrame, look: Look) -> go.Figure:
    """How far each context moves the answers, in nats; a context without effect is at 0.

    Args:
        table: `group`, `context`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.persuasion_table`).
        look: style of each model.
    """
    group_rows = table[table["group"].isin(DRAWN)]
    lines = _lines(group_rows, DRAWN, "context", CONTEXTS)
    figure = panels(("persuasion KL(p(\u00b7 | c, q) \u2016 p(\u00b7 | q))",))
    for rows, at in _apart(group_rows, group_rows["value"].notna(), "context", lines):
        figure.add_trace(_marks(rows, at, look, True, unit="nats"), row=1, col=1)
    _name_lines(figure, lines, CONTEXTS)
    figure.add_vline(x=0, line=IDEAL)
    most = float(group_rows[["value", "ci_high"]].max().max())
    figure.update_xaxes(title_text="nats", zeroline=False, range=[-0.03 * most, 1.05 * most])
    return figure


def _lines(
    table: pd.DataFrame, groups: Sequence[str], column: str, names: Mapping[str, str]
) -> dict[tuple[str, str], int]:
    """Map each group's heading (with an empty name) and each value of a column below it to its line."""
    lines: dict[tuple[str, str], int] = {}
    for group in groups:
        names_in_group = set(table.loc[table["group"] == group, column])
        if names_in_group:
            lines[group, ""] = len(lines)
            lines |= {(group, name): len(lines) + i for i, name in enumerate(n for n in names if n in names_in_group)}
    return lines


def _name_lines(figure: go.Figure, lines: Mapping[tuple[str, str], int], names: Mapping[str, str]) -> None:
    """Name the lines at the first panel, headings in bold, a rule above each but the first."""
    words = [names[name] if name else f"<b>{GROUPS[group]}</b>" for group, name in lines]
    for (_, name), line in lines.items():
        if line and not name:
            figure.add_hline(y=line - 0.5, line={"color": LIGHT.muted, "width": 0.6}, opacity=0.5, row=1, col="all")
    figure.update_yaxes(
        range=[len(lines) - 0.4, -0.6],
        tickvals=list(lines.values()),
        ticktext=words,
        selector={"anchor": "x"},
    )
    figure.update_yaxes(showgrid=False, zeroline=False)
    room = max(LINE * len(lines), LEAST)
    figure.update_layout(height=130 + room, legend={"y": 1 + 36 / room})


def _apart(
    table: pd.DataFrame, selection: pd.Series, column: str, lines: Mapping[tuple[str, str], int]
) -> Iterator[tuple[pd.DataFrame, list[float]]]:
    """Yield the rows of each model and their places, models of one line side by side."""
    models = list(dict.fromkeys(table[MODEL]))
    for offset, model in zip(offsets(len(models), 0.7), models, strict=True):
        rows = table[selection & (table[MODEL] == model)]
        if len(rows):
            yield rows, [lines[group, name] + offset for group, name in zip(rows["group"], rows[column], strict=True)]


def _marks(
    rows: pd.DataFrame, at: Sequence[float], styles: Look, legend: bool, ends: bool = True, unit: str = SHARE
) -> go.Scatter:
    """Return the marks of one model over lines, with their intervals."""
    model = str(rows["model"].iloc[0])
    style = styles[model]
    above, below = rows["ci_high"] - rows["value"], rows["value"] - rows["ci_low"]
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.4, "width": 0}
    return go.Scatter(
        x=rows["value"],
        y=at,
        mode="markers",
        name=escape(model),
        legendgroup=model,
        showlegend=legend,
        marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 7},
        error_x=error if ends else None,
        customdata=[_describe_row(model, row, unit) for row in rows.itertuples()],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _curve(x: Sequence[float] | pd.Series, rows: pd.DataFrame, style: Style, legend: bool) -> go.Scatter:
    model = str(rows["model"].iloc[0])
    return go.Scatter(
        x=x,
        y=rows["value"],
        mode="lines+markers",
        name=escape(model),
        legendgroup=model,
        showlegend=legend,
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"symbol": SYMBOLS[style.dash], "size": 7},
        customdata=[_describe_row(model, row) for row in rows.itertuples()],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _faint(x: Sequence[float], rows: pd.DataFrame, style: Style) -> go.Scatter:
    """Return a dotted line without marks."""
    line = {"color": style.colour, "dash": "dot", "width": 1.6}
    return go.Scatter(x=x, y=rows["value"], mode="lines", line=line, showlegend=False, hoverinfo="skip")


def _describe_row(model: str, row: Any, unit: str = SHARE) -> str:
    return f"{escape(model)}: {in_unit(unit, row.value, row.ci_low, row.ci_high)}, n = {row.n:.0f}"
