"""One completion token by token: what reward, advantage, KL and entropy it had at each."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.theme import LIGHT, METHODS, escape, template, token_axis
from probe.rollouts import MEASURES


def token_panels(
    measures: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    *,
    chosen: int | None = None,
    colour: str = METHODS["rlvr"],
) -> go.Figure:
    """A row of bars for each measure over the tokens.

    Args:
        measures: values [L] by name (`probe.rollouts.token_measures`).
        tokens: [L] the completion.
        chosen: token to emphasise.
        colour: of the method.
    """
    count = max(1, len(measures))
    figure = make_subplots(rows=count, cols=1, shared_xaxes=True, vertical_spacing=0.06 if count > 1 else 0.0)
    strong = [1.0 if chosen is None or index == chosen else 0.45 for index in range(len(tokens))]
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    for row, (name, values) in enumerate(measures.items(), start=1):
        bars = go.Bar(
            x=list(range(len(tokens))),
            y=values,
            customdata=names,
            marker={"color": colour, "opacity": strong},
            hovertemplate=f"%{{customdata}}<br>{name} %{{y:.4g}}<extra></extra>",
        )
        figure.add_trace(bars, row=row, col=1)
        unit = MEASURES.get(name, "")
        figure.update_yaxes(title_text=f"{name}<br>({unit})" if unit else name, nticks=4, row=row, col=1)
    figure.update_xaxes(range=[-0.6, max(1, len(tokens)) - 0.4], **token_axis(tokens))
    figure.update_xaxes(tickangle=-45, row=count, col=1)
    figure.update_layout(
        template=template(LIGHT), showlegend=False, bargap=0.15, margin={"t": 10}, clickmode="event+select"
    )
    return figure
