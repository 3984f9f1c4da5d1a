"""Figures of units and features: activations over tokens, promoted tokens, all features, and base against aligned."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from probe.hallucination.figures import rows_of
from probe.logits.part_figures import promoted_bars
from probe.plotting.curves import legend_entry
from probe.plotting.panels import Panels
from probe.plotting.theme import ANSWERS, CHOSEN, LIGHT, escape, log_axis, on_hover

NULL = ANSWERS[-1]
"""Colour of random directions, unlike that of any model."""


def activation_histogram(table: pd.DataFrame, colour: str, limit: float) -> go.Figure:
    """Draw the number of tokens by activation, on a logarithmic axis.

    Args:
        table: `probe.features.activating_texts.TopTexts.activations`.
        colour: colour of the model.
        limit: activation above which the unit counts as active.
    """
    panels = Panels()
    rows = table[table["tokens"] > 0]
    width = float((table["high"] - table["low"]).max())
    hover = [
        f"{row.low:.3g} to {row.high:.3g}: {row.tokens:,} tokens".replace("-", "\u2212")
        if row.high > row.low
        else f"0: {row.tokens:,} tokens"
        for row in rows_of(rows)
    ]
    bars = go.Bar(x=(rows["low"] + rows["high"]) / 2, y=rows["tokens"], width=width, marker={"color": colour})
    panels.add(1, bars.update(marker_line={"width": 0}, **on_hover(hover)))
    panels.mark(1, {"color": CHOSEN, "width": 1.5, "dash": "dash"}, x=limit)
    panels.axis("x", title="activation (right of the dashed line: active)")
    panels.axis("y", title="tokens", **log_axis(rows["tokens"]))
    return panels.figure(showlegend=False)


def promoted_by(table: pd.DataFrame, name: str, colour: str) -> go.Figure:
    """Draw the tokens that a direction promotes and suppresses.

    Args:
        table: `probe.logits.parts.PromotedTokens.table`.
        name: title of the panel.
        colour: colour of the model.
    """
    up, down = (table[table["side"] == side] for side in ("promoted", "suppressed"))
    side = up["token"].tolist(), up["value"].to_numpy(), down["token"].tolist(), down["value"].to_numpy()
    return promoted_bars([(name, colour, *side)])


TICKS = (*(digit * 10.0**power for power in range(-6, 0) for digit in (1, 2, 5)), 1.0)
"""Shares with a label on a logarithmic axis."""
MEASURES = {
    "match": "F1 of the best variable, above a constant",
    "share": "share of top texts with the same token",
}
"""Measures of features, with the title of their axis."""


def features_by_match(
    table: pd.DataFrame, random: pd.Series, measure: str, chosen: str | None, colour: str
) -> go.Figure:
    """Draw each feature by the share of tokens at which it is active and by a measure, with that of random directions.

    Args:
        table: `probe.features.feature_table.FeatureTable.features`.
        random: the measure of random directions.
        measure: name of the measure: `match` or `share`.
        chosen: feature to mark.
        colour: colour of the model.
    """
    panels = Panels()
    rows = table[table["active"] > 0]
    hover = [
        f"{row.feature}: active at {row.active:.2%} of tokens<br>"
        + (f"{escape(row.variable)}: F1 {row.f1:.2f}, constant {row.constant:.2f}<br>" if measure == "match" else "")
        + f"{row.property} {escape(row.token)} in {row.share:.0%} of its top texts<br>promotes {escape(row.promotes)}"
        for row in rows_of(rows)
    ]
    look = {"color": colour, "size": 6, "opacity": 0.7}
    panels.add(1, _features(rows, "active", measure, hover).update(marker=look, name="features"))
    panels.mark(1, {"color": NULL, "width": 1.5}, y=float(random.max()))
    panels.mark(1, {"color": NULL, "width": 1.5, "dash": "dot"}, y=float(random.median()))
    panels.add(1, legend_entry("best of the random directions", line={"color": NULL}))
    panels.add(1, legend_entry("their median", line={"color": NULL, "dash": "dot"}))
    panels.add(1, _ring(rows, "active", measure, chosen))
    axis = log_axis() | {"tickvals": TICKS, "tickformat": "~%"}
    panels.axis("x", title="share of tokens at which it is active", **axis)
    panels.axis("y", title=MEASURES[measure])
    return panels.figure()


KINDS = {
    "shared": LIGHT.muted,
    "changed": ANSWERS[0],
    "new": ANSWERS[1],
    "lost": ANSWERS[2],
    "artefact": ANSWERS[4],
}
"""Colours of the kinds of features of a crosscoder; silent ones are not drawn."""


def features_by_change(table: pd.DataFrame, names: Sequence[str], chosen: str | None) -> go.Figure:
    """Draw each feature of a crosscoder by the relative norm and the cosine of its two decoders.

    Args:
        table: `probe.features.feature_changes.FeatureChanges.features`.
        names: names of the base and the aligned model.
        chosen: feature to mark.
    """
    panels = Panels()
    for kind, colour in KINDS.items():
        rows = table[table["kind"] == kind]
        hover = [
            f"{row.feature}: {kind}, relative norm {row.relative_norm:.2f}, cosine {row.cosine:.2f}<br>"
            f"{row.property} {escape(row.token)} in {row.share:.0%} of its top texts<br>"
            f"{escape(names[0])}: promotes {escape(row.base)}<br>{escape(names[1])}: promotes {escape(row.aligned)}"
            for row in rows_of(rows)
        ]
        look = {"color": colour, "size": 7 if kind != "shared" else 5, "opacity": 0.7}
        dots = _features(rows, "relative_norm", "cosine", hover)
        panels.add(1, dots.update(marker=look, name=f"{kind} ({len(rows)})"))
    panels.add(1, _ring(table, "relative_norm", "cosine", chosen))
    ends = [f"{escape(names[0])} only", "both", f"{escape(names[1])} only"]
    panels.axis("x", title="relative norm of the decoders", range=[-0.03, 1.03], tickvals=[0, 0.5, 1], ticktext=ends)
    panels.axis("y", title="cosine of the decoders", range=[float(table["cosine"].min()) - 0.05, 1.03])
    return panels.figure()


def _features(rows: pd.DataFrame, x: str, y: str, hover: Sequence[str]) -> go.Scatter:
    """Return a dot for each feature, which a click returns by name."""
    dots = go.Scatter(x=rows[x], y=rows[y], mode="markers", customdata=rows["feature"], text=list(hover))
    return dots.update(hovertemplate="%{text}<extra></extra>")


def _ring(rows: pd.DataFrame, x: str, y: str, chosen: str | None) -> go.Scatter:
    """Return a ring around the chosen feature."""
    marked = rows[rows["feature"] == chosen]
    ring = {"color": CHOSEN, "size": 13, "symbol": "circle-open", "line": {"width": 2}}
    return go.Scatter(x=marked[x], y=marked[y], mode="markers", marker=ring, showlegend=False, hoverinfo="skip")
