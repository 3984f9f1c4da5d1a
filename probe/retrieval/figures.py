"""Figures of the experiment `retrieval`, from tidy tables of any number of models, with 95 % intervals."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import Style, legend_entry
from probe.plotting.intervals import SYMBOLS
from probe.plotting.panels import Panels
from probe.plotting.series import IDEAL, MODEL, RATE, Look, error_bars, exact, hover_texts, models_of, offsets, shaded
from probe.plotting.theme import LIGHT, METHODS, escape, on_hover
from probe.terms import SHARE

GROUPS = {
    "known": "known people",
    "rare": "people seen 1 to 5 times",
    "stranger": "unseen entities",
    "heldout": "held-out unseen entities",
    "questions": "questions",
}
"""Title of each group of questions."""
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
"""Title of each class of searches: whether the document is among the k passages that the model reads."""
LINE, LEAST = 20, 190
"""Height of a line and minimum height of all lines, in pixels."""
DRAWN = ("known", "rare", "stranger", "questions")
"""Groups in the figures; held-out unseen entities are only in the table."""


def outcome_grid(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw accuracy, abstention, hallucination and missing answers by context, grouped under the headings of groups.

    Args:
        table: `group`, `context`, `outcome`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.context_table`).
        look: style of each model.
    """
    rows_shown = table[table["group"].isin(DRAWN) & table["outcome"].isin(OUTCOMES)]
    lines = _lines(rows_shown, DRAWN, "context", CONTEXTS)
    outcomes = [outcome for outcome in OUTCOMES if outcome in set(rows_shown["outcome"])]
    titles = [OUTCOMES[outcome] for outcome in outcomes]
    panels = Panels(titles, shared_y=True)
    for column, outcome in enumerate(outcomes, start=1):
        for rows, at in _apart(rows_shown, rows_shown["outcome"] == outcome, "context", lines):
            panels.add(column, _marks(rows, at, look))
    panels.axis("x", title="share of answers", **RATE, zeroline=False, tickvals=[0, 0.5, 1])
    return _named_lines(panels, lines, CONTEXTS)


def conflict_curves(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the share of answers that follow a contradicting passage, and the memorisation ratio, by exposure.

    The dotted curve is the share of facts that the model knows without a passage.

    Args:
        table: `label`, `low`, `quantity`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.conflict_curve`).
        look: style of each model.
    """
    panels = Panels(("answers that follow the passage", "memorisation ratio"), spacing=0.12)
    order = table.drop_duplicates("label").sort_values("low")
    places = {label: x for x, label in enumerate(order["label"])}
    for column, quantity in enumerate(("follows", "memorisation"), start=1):
        for model, own in models_of(table, look, "low"):
            rows, style = own[own["quantity"] == quantity], look[model]
            x = [places[label] for label in rows["label"]]
            panels.add(column, *shaded(x, rows, model, style, hover_texts(rows, model, unit=SHARE)))
            if quantity == "follows":
                prior = own[own["quantity"] == "knows"]
                x = [places[label] for label in prior["label"]]
                panels.add(1, exact(x, prior["value"], "", "dot", style.colour))
    key = {"color": LIGHT.muted, "dash": "dot", "width": 1.6}
    panels.add(1, legend_entry("knows the fact without a passage", line=key))
    ticks = {"tickvals": list(places.values()), "ticktext": list(places), "tickangle": -90}
    panels.axis("x", title="documents per epoch", showgrid=False, zeroline=False, **ticks)
    panels.axis("y", 1, title="share of answers", **RATE)
    panels.axis("y", 2, title="p<sub>o</sub> / (p<sub>o</sub> + p<sub>s</sub>)", rangemode="tozero", tickformat=".0%")
    panels.axis("y", zeroline=False)
    return panels.crowded()


def search_effect(table: pd.DataFrame, look: Look, recall: pd.DataFrame | None = None) -> go.Figure:
    """Draw Hall without a passage (open) and with retrieved ones (filled), for hits and misses, and recall@k.

    Args:
        table: `group`, `found`, `quantity`, `way`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.search_table`).
        look: style of each model.
        recall: `k`, `value`, `ci_low`, `ci_high`, `n`, `model`; the search is the same for every model.
    """
    hall_rows = table[table["group"].isin(DRAWN) & (table["quantity"] == "hall")]
    lines = _lines(hall_rows, DRAWN, "found", FOUND)
    many = recall is not None
    titles = ["answers that hallucinate", "recall@k"][: 1 + many]
    panels = Panels(titles, widths=(0.64, 0.36)[: 1 + many], spacing=0.2)
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
        bare = _marks(before, at, look).update(showlegend=False, error_x=None)
        bare.marker.symbol = f"{SYMBOLS[style.dash]}-open"
        panels.add(1, move, bare, _marks(after, at, look))
    for name, symbol in (("without", "circle-open"), ("with retrieval", "circle")):
        panels.add(1, legend_entry(name, marker={"color": LIGHT.muted, "symbol": symbol, "size": 8}))
    panels.axis("x", 1, title="share of answers", **RATE, zeroline=False)
    if recall is not None:
        name = str(recall["model"].iloc[0])
        first = recall[recall["model"] == name]
        style, hover = Style(METHODS["pretrain"]), hover_texts(first, name, unit=SHARE)
        panels.add(2, *shaded(first["k"], first, name, style, hover, showlegend=False))
        panels.axis("x", 2, title="passages k", dtick=3, tick0=1, zeroline=False)
        panels.axis("y", 2, **RATE, title="documents found")
    return _named_lines(panels, lines, FOUND, 1)


def persuasion_marks(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how far each context moves the answers in nats; a context without effect is at 0.

    Args:
        table: `group`, `context`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.retrieval.world.persuasion_table`).
        look: style of each model.
    """
    group_rows = table[table["group"].isin(DRAWN)]
    lines = _lines(group_rows, DRAWN, "context", CONTEXTS)
    panels = Panels(("persuasion KL(p(\u00b7 | c, q) \u2016 p(\u00b7 | q))",))
    for rows, at in _apart(group_rows, group_rows["value"].notna(), "context", lines):
        panels.add(1, _marks(rows, at, look, "nats"))
    panels.mark(1, IDEAL, x=0)
    most = float(group_rows[["value", "ci_high"]].max().max())
    panels.axis("x", title="nats", zeroline=False, range=[-0.03 * most, 1.05 * most])
    return _named_lines(panels, lines, CONTEXTS)


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


def _named_lines(
    panels: Panels, lines: Mapping[tuple[str, str], int], names: Mapping[str, str], panel: int | None = None
) -> go.Figure:
    """Return the figure with labelled lines, headings in bold, and a rule above each heading but the first."""
    words = [names[name] if name else f"<b>{GROUPS[group]}</b>" for group, name in lines]
    for (_, name), line in lines.items():
        if line and not name:
            panels.mark(panel, {"color": LIGHT.muted, "width": 0.6}, y=line - 0.5, opacity=0.5)
    panels.axis("y", 1, tickvals=list(lines.values()), ticktext=words, range=[len(lines) - 0.4, -0.6])
    panels.axis("y", panel, showgrid=False)
    panels.axis("y", zeroline=False)
    room = max(LINE * len(lines), LEAST)
    return panels.crowded(height=130 + room, legend={"y": 1 + 36 / room})


def _apart(
    table: pd.DataFrame, selection: pd.Series, column: str, lines: Mapping[tuple[str, str], int]
) -> Iterator[tuple[pd.DataFrame, list[float]]]:
    """Yield the rows of each model and their positions; the models of one line are side by side."""
    models = list(dict.fromkeys(table[MODEL]))
    for offset, model in zip(offsets(len(models), 0.7), models, strict=True):
        rows = table[selection & (table[MODEL] == model)]
        if len(rows):
            yield rows, [lines[group, name] + offset for group, name in zip(rows["group"], rows[column], strict=True)]


def _marks(rows: pd.DataFrame, at: Sequence[float], look: Look, unit: str = SHARE) -> go.Scatter:
    """Return the marks of one model at the given positions, with their intervals."""
    model = str(rows["model"].iloc[0])
    return go.Scatter(
        x=rows["value"],
        y=at,
        mode="markers",
        name=escape(model),
        legendgroup=model,
        marker={"color": look[model].colour, "symbol": SYMBOLS[look[model].dash], "size": 7},
        error_x=error_bars(rows),
        **on_hover(hover_texts(rows, model, unit=unit)),
    )
