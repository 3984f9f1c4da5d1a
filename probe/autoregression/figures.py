"""The model as a nonlinear autoregression: lag profiles, KL by context length, snowballs, and Jacobians (E23).

Every function takes one entry for each model, drawn from the first to the last; intervals are 95 %.

Axes: K lags, M context lengths, L steps, D blocks, H heads, d width.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.numbers import in_unit
from probe.plotting.notebook import Look
from probe.plotting.theme import LIGHT, colour_axis, escape, log_axis, new_figure, shorten, template
from probe.terms import SHARE

FLOOR = 1e-7
"""Influences below are drawn here on the logarithmic axis: they are rounding in single precision."""
TOP = {"margin": {"t": 30}, "legend": {"yref": "container", "y": 1, "yanchor": "top"}, "showlegend": True}
SYMBOLS = ("circle", "diamond", "square")


def lag_curves(
    tables: Sequence[pd.DataFrame], models: Sequence[Look], *, orders: Sequence[int | None] = ()
) -> go.Figure:
    """Draw the influence of x_{t-k} on pi_t by lag, on a logarithmic axis.

    Args:
        tables: of each model (`LagProfile.table`), all of one measure.
        models: their names and colours.
        orders: the effective order of each model, marked by a line after its last lag; None where it is not reached.
    """
    figure = new_figure(hovermode="closest", **TOP)
    for index, (table, model) in enumerate(zip(tables, models, strict=True)):
        figure.add_trace(interval_line(table, "lag", "influence", model, index, len(tables), "lag %{x}"))
    for order, model in zip(orders, models, strict=False):
        if order is not None:
            figure.add_vline(x=order - 0.5, line={"color": model.colour, "width": 1.5, "dash": "dot"})
    count = len(tables[0])
    title = "lag k: how many tokens before the last one read"
    figure.update_xaxes(title_text=title, dtick=_step(count), range=[-0.7, count - 0.3])
    units = [str(table["unit"].iloc[0]).partition(" per ") for table in tables]
    unit = " or ".join(dict.fromkeys(what for what, _, _ in units)) + "".join(units[0][1:])
    figure.update_yaxes(title_text=f"influence ({unit})", **_log_axis(tables, "influence"))
    return figure


def context_curves(
    tables: Sequence[pd.DataFrame], models: Sequence[Look], *, orders: Sequence[int | None], epsilon: float
) -> go.Figure:
    """KL(full context || last m tokens) by m, with the line epsilon and a ring at the effective order.

    Args:
        tables: of each model (`EffectiveOrder.table`).
        models: their names and colours.
        orders: the effective order of each model; None where it is not reached.
        epsilon: nats.
    """
    figure = new_figure(hovermode="closest", **TOP)
    figure.add_hline(y=epsilon, line={"color": LIGHT.muted, "width": 1, "dash": "dash"})
    figure.add_annotation(
        x=0, xref="paper", y=np.log10(epsilon), text=f"\u03b5 = {epsilon:g}", xanchor="left", yanchor="bottom"
    )
    for index, (table, model) in enumerate(zip(tables, models, strict=True)):
        figure.add_trace(interval_line(table, "m", "kl", model, index, len(tables), "last %{x} tokens"))
    for table, model, order in zip(tables, models, orders, strict=True):
        if order is not None:
            ring = {"color": model.colour, "symbol": "circle-open", "size": 17, "line": {"width": 2}}
            y = [max(FLOOR, float(table.loc[table["m"] == order, "kl"].iloc[0]))]
            hover = f"{escape(model.name)}: effective order {order}<extra></extra>"
            figure.add_trace(
                go.Scatter(x=[order], y=y, mode="markers", marker=ring, showlegend=False, hovertemplate=hover)
            )
    count = len(tables[0])
    title = "m: how many of the last tokens are read"
    figure.update_xaxes(title_text=title, dtick=_step(count), range=[0.3, count + 0.7])
    figure.update_yaxes(title_text="KL(full \u2225 last m), nats", **_log_axis(tables, "kl", epsilon))
    return figure


def linear_curves(tables: Sequence[pd.DataFrame], models: Sequence[Look]) -> go.Figure:
    """R^2 of the next embedding by the number of tokens m that are read: the model, and the best linear autoregression.

    Args:
        tables: of each model (`LinearAutoregression.table`).
        models: their names and colours.
    """
    figure = new_figure(hovermode="closest", **TOP)
    for index, (table, model) in enumerate(zip(tables, models, strict=True)):
        of = "" if len(models) == 1 else f", {model.name}"
        drawn = {
            "linear": Look(f"best linear autoregression{of}", LIGHT.muted if not index else LIGHT.ink, model.dash),
            "window": Look(f"{model.name}, the same m tokens", model.colour, "dot"),
            "full": Look(f"{model.name}, the whole text before", model.colour, model.dash),
        }
        for place, (name, look) in enumerate(drawn.items()):
            rows = table.rename(columns={name: "value", f"{name}_low": "low", f"{name}_high": "high"})
            texts = [
                f"{escape(look.name)}<br>last {m} tokens: {in_unit('', value, low, high)}, {n} positions"
                for m, value, low, high, n in zip(*(rows[c] for c in ("m", "value", "low", "high", "n")), strict=True)
            ]
            figure.add_trace(
                go.Scatter(
                    x=np.arange(len(rows)) + _shift(3 * index + place, 3 * len(models)) / 3,
                    y=rows["value"],
                    mode="lines+markers",
                    name=escape(shorten(look.name, 60)),
                    line={"color": look.colour, "width": 2, "dash": look.dash},
                    marker={"symbol": SYMBOLS[place], "size": 7},
                    error_y=_bars(rows, "value"),
                    hovertext=texts,
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )
    figure.add_hline(y=0, line={"color": LIGHT.muted, "width": 1, "dash": "dash"})
    names = [str(m) for m in tables[0]["m"]]
    figure.update_xaxes(title_text="m: how many of the last tokens are read", tickvals=list(range(len(names))))
    figure.update_xaxes(ticktext=names, range=[-0.4, len(names) - 0.6])
    figure.update_yaxes(title_text="R\u00b2 of the next token's embedding")
    return figure


def snowball_curves(summaries: Sequence[pd.DataFrame], models: Sequence[Look], *, truth: bool) -> go.Figure:
    """After one wrong token, by step: KL of the two branches, and the share of tokens that are wrong or differ.

    Args:
        summaries: of each model (`Snowball.summary`).
        models: their names and colours.
        truth: show the share of wrong tokens (a world knows them); else that of tokens in which the branches differ.
    """
    right = "share of wrong tokens" if truth else "share of tokens that differ"
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    lines = [("forced_kl", "same text after it", "solid", 1), ("free_kl", "each goes on alone", "dot", 1)]
    shares = [("wrong_error", "after the wrong token", "dot", 2), ("clean_error", "after the true one", "solid", 2)]
    lines += shares if truth else [("differs", "each goes on alone", "dot", 2)]
    for index, (summary, model) in enumerate(zip(summaries, models, strict=True)):
        for quantity, words, dash, column in lines:
            rows = summary[(summary["quantity"] == quantity) & (summary["n"] > 0)]
            if rows.empty:
                continue
            figure.add_trace(
                go.Scatter(
                    x=rows["step"] + _shift(index, len(models)) * 0.6,
                    y=rows["value"],
                    mode="lines+markers",
                    name=escape(f"{shorten(model.name, 24)}: {words}"),
                    line={"color": model.colour, "dash": dash, "width": 2},
                    marker={"symbol": SYMBOLS[index % len(SYMBOLS)] + ("-open" if dash == "dot" else ""), "size": 6},
                    error_y=_bars(rows, "value"),
                    customdata=[
                        [step, in_unit("nats" if column == 1 else SHARE, value, low, high), n]
                        for step, value, low, high, n in rows[["step", "value", "low", "high", "n"]].to_numpy().tolist()
                    ],
                    hovertemplate="step %{customdata[0]:.0f}: %{customdata[1]}, %{customdata[2]:.0f} prompts",
                    legend="legend" if column == 1 else "legend2",
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="tokens after the wrong one", dtick=1)
    figure.update_yaxes(title_text="KL(clean \u2225 wrong), nats", rangemode="tozero", col=1)
    figure.update_yaxes(title_text=right, range=[-0.03, 1.03], tickformat=".0%", col=2)
    legend = {"orientation": "v", "yref": "container", "y": 1, "yanchor": "top", "bgcolor": "rgba(0,0,0,0)"}
    figure.update_layout(
        template=template(LIGHT), showlegend=True, margin={"t": 24 + 20 * 2 * len(models)}, hovermode="closest"
    )
    figure.update_layout(legend=legend | {"x": 0}, legend2=legend | {"x": 0.56})
    return figure


def interval_line(table: pd.DataFrame, x: str, y: str, model: Look, index: int, count: int, place: str) -> go.Scatter:
    """Draw a line with marks and intervals (columns `low`, `high`, `n_readings`), shifted against other models' lines.

    Args:
        table: its rows; those without a value are left out.
        x: the column of positions.
        y: the column of values.
        model: name, colour and dash.
        index: which of the models it is.
        count: how many there are.
        place: what a position is called on hover, with `%{x}` for its number.
    """
    rows = table[table[y].notna()]
    heights = rows[y].clip(lower=FLOOR)
    name = escape(shorten(model.name, 24))
    labels = [place.replace("%{x}", str(value)) for value in rows[x]]
    hover = [
        [low, high, n, name, at]
        for low, high, n, at in zip(rows["low"], rows["high"], rows["n_readings"], labels, strict=True)
    ]
    return go.Scatter(
        x=rows[x] + _shift(index, count),
        y=heights,
        mode="lines+markers",
        name=name,
        line={"color": model.colour, "width": 2, "dash": model.dash},
        marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7 if len(rows) <= 30 else 4},
        error_y=_bars(rows.assign(**{y: heights, "low": rows["low"].clip(lower=FLOOR)}), y),
        customdata=hover,
        hovertemplate="%{customdata[3]}<br>%{customdata[4]}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}], "
        "%{customdata[2]} readings<extra></extra>",
    )


def _log_axis(tables: Sequence[pd.DataFrame], y: str, *more: float) -> dict:
    """Return a logarithmic axis around the values, which cuts off an interval that reaches down to 0."""
    values = np.concatenate([np.array(more), *(table[y].dropna().to_numpy() for table in tables)]).clip(min=FLOOR)
    tops = np.concatenate([values, *(table["high"].dropna().to_numpy() for table in tables)])
    low, high = float(np.log10(values.min())) - 0.5, float(np.log10(tops.max())) + 0.15
    return log_axis([10**low, 10**high]) | {"range": [low, high]}


def _bars(rows: pd.DataFrame, y: str) -> dict:
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows["high"] - rows[y]).clip(lower=0),
        "arrayminus": (rows[y] - rows["low"]).clip(lower=0),
        "thickness": 1.2,
        "width": 0,
    }


def _shift(index: int, count: int) -> float:
    return 0.16 * (index - (count - 1) / 2)


def _step(count: int) -> int:
    return max(1, -(-count // 20))


MOST_TICKS = 20
"""Layers or heads that an axis names one by one."""


def path_shares(shares: Sequence[np.ndarray], models: Sequence[Look]) -> go.Figure:
    """Draw the bilinear-softmax path's share of each head's Jacobian (E23).

    Two models of one size also get a panel with their difference.

    Args:
        shares: [D H] of each model, 0 to 1.
        models: their names.
    """
    titles = [escape(shorten(model.name, 24)) for model in models]
    comparable = len(shares) == 2 and shares[0].shape == shares[1].shape
    panels = [*shares, shares[1] - shares[0]] if comparable else list(shares)
    titles += [escape(shorten(f"{models[1].name} \u2212 {models[0].name}", 34))] if comparable else []
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.07)
    for column, values in enumerate(panels, start=1):
        difference = comparable and column == 3
        layer, head = (axis.ravel() for axis in np.indices(values.shape))
        figure.add_trace(
            go.Heatmap(
                z=values,
                coloraxis="coloraxis2" if difference else "coloraxis",
                customdata=np.array(
                    [f"L{row}H{place}" for row, place in zip(layer, head, strict=True)], dtype=object
                ).reshape(values.shape),
                hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
                xgap=2,
                ygap=2,
                texttemplate="%{z:.2f}" if values.shape[1] * len(panels) <= 24 and len(values) <= 8 else None,
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="head", tickvals=ticks(values.shape[1]), showgrid=False, row=1, col=column)
        figure.update_yaxes(tickvals=ticks(len(values)), autorange="reversed", showgrid=False, row=1, col=column)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    largest = float(np.nanmax(np.abs(panels[2]), initial=1e-3)) if comparable else 1.0
    figure.update_layout(
        template=template(LIGHT),
        margin={"t": 32},
        coloraxis=colour_axis("share", low=0, high=1, x=1.0, xanchor="left", len=1.0),
        coloraxis2=colour_axis("difference", low=-largest, high=largest, diverging=True, x=1.09, xanchor="left"),
    )
    figure.update_annotations(font_size=13)
    return figure


def singular_values(values: Sequence[np.ndarray], models: Sequence[Look]) -> go.Figure:
    """Singular values of d h_D / d h_l by layer l: their median, the middle 80 % as a band, and the line of 1.

    Args:
        values: [D d] of each model (`NeutralJacobian.to_end`), NaN where a value is not resolved.
        models: their names and colours.
    """
    figure = new_figure(hovermode="closest", **TOP)
    figure.add_hline(y=1, line={"color": LIGHT.muted, "width": 1, "dash": "dash"})
    for index, (spectrum, model) in enumerate(zip(values, models, strict=True)):
        low, middle, high = np.nanquantile(spectrum, [0.1, 0.5, 0.9], axis=-1)
        table = pd.DataFrame({"layer": np.arange(len(spectrum)), "value": middle, "low": low, "high": high})
        table["n_readings"] = (~np.isnan(spectrum)).sum(-1)
        line = interval_line(table, "layer", "value", model, index, len(values), "from layer %{x}")
        line.hovertemplate = (
            "%{customdata[3]}<br>%{customdata[4]}: median %{y:.3g}, middle 80 % %{customdata[0]:.3g} to "
            "%{customdata[1]:.3g}<extra></extra>"
        )
        figure.add_trace(line)
    names = ["embedding", *(f"block {block}" for block in range(max(map(len, values)) - 1))]
    figure.update_xaxes(title_text="from the residual after", tickvals=ticks(len(names)))
    figure.update_xaxes(ticktext=[names[tick] for tick in ticks(len(names))])
    figure.update_yaxes(title_text="singular values", **log_axis(np.concatenate([each.ravel() for each in values])))
    return figure


def ticks(count: int) -> list[int]:
    """Numbers of layers or heads for an axis; every second (third, ...) where there are many."""
    return list(range(0, count, max(1, -(-count // MOST_TICKS))))
