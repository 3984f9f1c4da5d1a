"""Claims as points with intervals: one line a claim, each in its own unit, and which side of zero was predicted."""

from collections.abc import Sequence

import plotly.graph_objects as go

from probe.plots.intervals import written
from probe.plots.theme import LIGHT, escape, new_figure

COLOURS = {"holds": "#2A6EBB", "does not hold": "#C8553D"}
"""By verdict; both read on light and dark paper."""
SYMBOLS = {"holds": "circle", "does not hold": "x"}


def effects(names: Sequence[str], rows: Sequence[tuple[float, float, float]], verdicts: Sequence[str]) -> go.Figure:
    """Effects with 95 % intervals.

    Args:
        names: of the claims, from the top.
        rows: value, low and high of each, in its own unit (shares, correlations or nats).
        verdicts: `holds` or `does not hold` of each.
    """
    figure = new_figure(hovermode="closest")
    for verdict, colour in COLOURS.items():
        at = [i for i, each in enumerate(verdicts) if each == verdict]
        figure.add_trace(
            go.Scatter(
                x=[rows[i][0] for i in at],
                y=at,
                mode="markers",
                name=verdict,
                marker={"color": colour, "symbol": SYMBOLS[verdict], "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [rows[i][2] - rows[i][0] for i in at],
                    "arrayminus": [rows[i][0] - rows[i][1] for i in at],
                    "thickness": 1.8,
                    "width": 0,
                    "color": colour,
                },
                customdata=[[escape(names[i]), written(*rows[i])] for i in at],
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"color": LIGHT.muted, "width": 1})
    figure.update_xaxes(title_text="effect with 95 % interval, each in its own unit", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[escape(name.replace("_", " ")) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(showlegend=True, height=110 + 26 * len(names))
    return figure
