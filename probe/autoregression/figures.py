"""Figures of the model as a nonlinear autoregression: lag profiles, KL by context length, snowballs, Jacobians (E23).

Every function takes one entry per model and draws the models in this order; intervals are 95 %.

Axes: K lags, M context lengths, L steps, D blocks, H heads, d width.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.numbers import in_unit
from probe.plotting.intervals import whiskers
from probe.plotting.marks import cells
from probe.plotting.notebook import Look
from probe.plotting.panels import ABOVE, Panels
from probe.plotting.series import RATE
from probe.plotting.theme import LIGHT, THIN, colour_axis, escape, log_axis, shorten, signed_axis
from probe.terms import SHARE

FLOOR = 1e-7
"""Lower limit of influences on the logarithmic axis; smaller values are rounding errors of single precision."""
ACROSS = THIN | {"dash": "dash"}
"""Style of a horizontal reference line."""
SYMBOLS = ("circle", "diamond", "square")


def lag_curves(
    tables: Sequence[pd.DataFrame], models: Sequence[Look], *, orders: Sequence[int | None] = ()
) -> go.Figure:
    """Draw the influence of x_{t-k} on pi_t by lag, on a logarithmic axis.

    Args:
        tables: table of each model (`LagProfile.table`), all for the same measure.
        models: name and colour of each model.
        orders: effective order of each model, marked by a line after its last lag; None if it is not reached.
    """
    panels = Panels()
    for index, (table, model) in enumerate(zip(tables, models, strict=True)):
        panels.add(1, interval_line(table, "lag", "influence", model, index, len(tables), "lag %{x}"))
    for order, model in zip(orders, models, strict=False):
        if order is not None:
            panels.mark(1, {"color": model.colour, "width": 1.5, "dash": "dot"}, x=order - 0.5)
    count = len(tables[0])
    title = "lag k: tokens before the last token read"
    panels.axis("x", title=title, dtick=_step(count), range=[-0.7, count - 0.3])
    units = [str(table["unit"].iloc[0]).partition(" per ") for table in tables]
    unit = " or ".join(dict.fromkeys(what for what, _, _ in units)) + "".join(units[0][1:])
    panels.axis("y", title=f"influence ({unit})", **_log_axis(tables, "influence"))
    return panels.figure(showlegend=True)


def context_curves(
    tables: Sequence[pd.DataFrame], models: Sequence[Look], *, orders: Sequence[int | None], epsilon: float
) -> go.Figure:
    """Draw KL(full context || last m tokens) by m, with a line at epsilon and a ring at the effective order.

    Args:
        tables: table of each model (`EffectiveOrder.table`).
        models: name and colour of each model.
        orders: effective order of each model; None if it is not reached.
        epsilon: threshold of the effective order in nats.
    """
    panels = Panels()
    panels.mark(1, ACROSS, y=epsilon)
    place = {"x": 0, "xref": "paper", "y": np.log10(epsilon), "xanchor": "left", "yanchor": "bottom"}
    panels.note(1, f"\u03b5 = {epsilon:g}", **place)
    for index, (table, model) in enumerate(zip(tables, models, strict=True)):
        panels.add(1, interval_line(table, "m", "kl", model, index, len(tables), "last %{x} tokens"))
    for table, model, order in zip(tables, models, orders, strict=True):
        if order is not None:
            ring = {"color": model.colour, "symbol": "circle-open", "size": 17, "line": {"width": 2}}
            y = [max(FLOOR, float(table.loc[table["m"] == order, "kl"].iloc[0]))]
            hover = f"{escape(model.name)}: effective order {order}<extra></extra>"
            mark = go.Scatter(x=[order], y=y, mode="markers", marker=ring, showlegend=False, hovertemplate=hover)
            panels.add(1, mark)
    count = len(tables[0])
    title = "m: number of last tokens read"
    panels.axis("x", title=title, dtick=_step(count), range=[0.3, count + 0.7])
    panels.axis("y", title="KL(full \u2225 last m), nats", **_log_axis(tables, "kl", epsilon))
    return panels.figure(showlegend=True)


def linear_curves(tables: Sequence[pd.DataFrame], models: Sequence[Look]) -> go.Figure:
    """Draw R^2 of the next embedding by the number of last tokens m, for each model and the best linear autoregression.

    Args:
        tables: table of each model (`LinearAutoregression.table`).
        models: name and colour of each model.
    """
    panels = Panels()
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
            line = go.Scatter(
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
            panels.add(1, line)
    panels.mark(1, ACROSS, y=0)
    names = [str(m) for m in tables[0]["m"]]
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.4, len(names) - 0.6]}
    panels.axis("x", title="m: number of last tokens read", **ticks)
    panels.axis("y", title="R\u00b2 of the next token's embedding")
    return panels.figure(showlegend=True)


def snowball_curves(summaries: Sequence[pd.DataFrame], models: Sequence[Look], *, truth: bool) -> go.Figure:
    """Draw KL between the branches, and the share of tokens that are wrong or differ, by step after one wrong token.

    Args:
        summaries: summary of each model (`Snowball.summary`).
        models: name and colour of each model.
        truth: whether the share of wrong tokens is shown, which a world knows; otherwise that of differing tokens.
    """
    right = "share of wrong tokens" if truth else "share of tokens that differ"
    panels = Panels(["", ""], spacing=0.12)
    lines = [("forced_kl", "same text afterwards", "solid", 1), ("free_kl", "each continues alone", "dot", 1)]
    shares = [("wrong_error", "after the wrong token", "dot", 2), ("clean_error", "after the true token", "solid", 2)]
    lines += shares if truth else [("differs", "each continues alone", "dot", 2)]
    for index, (summary, model) in enumerate(zip(summaries, models, strict=True)):
        for quantity, words, dash, column in lines:
            rows = summary[(summary["quantity"] == quantity) & (summary["n"] > 0)]
            if rows.empty:
                continue
            line = go.Scatter(
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
            )
            panels.add(column, line)
    panels.axis("x", title="tokens after the wrong token", dtick=1)
    panels.axis("y", 1, title="KL(clean \u2225 wrong), nats", rangemode="tozero")
    panels.axis("y", 2, title=right, **RATE)
    legend = ABOVE | {"orientation": "v", "bgcolor": "rgba(0,0,0,0)"}
    legends = {"legend": legend | {"x": 0}, "legend2": legend | {"x": 0.56}}
    return panels.figure(showlegend=True, margin={"t": 24 + 20 * 2 * len(models)}, **legends)


def interval_line(table: pd.DataFrame, x: str, y: str, model: Look, index: int, count: int, place: str) -> go.Scatter:
    """Return a line with marks and intervals (columns `low`, `high`, `n_readings`), shifted to separate the models.

    Args:
        table: table of the line; rows without a value are left out.
        x: column of positions.
        y: column of values.
        model: name, colour and dash.
        index: index of the model.
        count: number of models.
        place: hover text of a position, with `%{x}` for its number.
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
    """Return a logarithmic axis around the values; intervals that reach down to 0 are cut off."""
    values = np.concatenate([np.array(more), *(table[y].dropna().to_numpy() for table in tables)]).clip(min=FLOOR)
    tops = np.concatenate([values, *(table["high"].dropna().to_numpy() for table in tables)])
    low, high = float(np.log10(values.min())) - 0.5, float(np.log10(tops.max())) + 0.15
    return log_axis([10**low, 10**high]) | {"range": [low, high]}


def _bars(rows: pd.DataFrame, y: str) -> dict:
    return whiskers(rows[y], rows["low"].clip(upper=rows[y]), rows["high"].clip(lower=rows[y]), thickness=1.2)


def _shift(index: int, count: int) -> float:
    return 0.16 * (index - (count - 1) / 2)


def _step(count: int) -> int:
    return max(1, -(-count // 20))


MOST_TICKS = 20
"""Maximum number of layers or heads that an axis labels one by one."""


def path_shares(shares: Sequence[np.ndarray], models: Sequence[Look]) -> go.Figure:
    """Draw the share of the bilinear-softmax path in each head's Jacobian (E23).

    For two models of the same size, a further panel shows the difference.

    Args:
        shares: [D H] shares of each model, 0 to 1.
        models: name of each model.
    """
    titles = [escape(shorten(model.name, 24)) for model in models]
    comparable = len(shares) == 2 and shares[0].shape == shares[1].shape
    panels = [*shares, shares[1] - shares[0]] if comparable else list(shares)
    titles += [escape(shorten(f"{models[1].name} \u2212 {models[0].name}", 34))] if comparable else []
    canvas = Panels(titles, spacing=0.07)
    for column, values in enumerate(panels, start=1):
        depth, heads = values.shape
        hover = [[f"L{layer}H{head}" for head in range(heads)] for layer in range(depth)]
        legible = heads * len(panels) <= 24 and depth <= 8
        share = cells(values, hover=hover, axis="coloraxis2" if comparable and column == 3 else "coloraxis")
        share.update(texttemplate="%{z:.2f}" if legible else "", xgap=2, ygap=2)
        canvas.add(column, share.update(hovertemplate="%{customdata}: %{z:.3f}<extra></extra>"))
        canvas.axis("x", column, title="head", tickvals=ticks(heads), showgrid=False)
        canvas.axis("y", column, tickvals=ticks(depth), autorange="reversed", showgrid=False)
    canvas.axis("y", 1, title="layer")
    largest = float(np.nanmax(np.abs(panels[2]), initial=1e-3)) if comparable else 1.0
    layout = {"coloraxis": colour_axis("share", low=0, high=1, x=1.0, xanchor="left", len=1.0)}
    layout["coloraxis2"] = signed_axis("difference", largest, x=1.09, xanchor="left")
    return canvas.figure(showlegend=False, **layout)


def singular_values(values: Sequence[np.ndarray], models: Sequence[Look]) -> go.Figure:
    """Draw the singular values of d h_D / d h_l by layer l: the median, the middle 80 % as a band, and a line at 1.

    Args:
        values: [D d] singular values of each model (`NeutralJacobian.to_end`), NaN if a value is not resolved.
        models: name and colour of each model.
    """
    panels = Panels()
    panels.mark(1, ACROSS, y=1)
    for index, (spectrum, model) in enumerate(zip(values, models, strict=True)):
        low, middle, high = np.nanquantile(spectrum, [0.1, 0.5, 0.9], axis=-1)
        table = pd.DataFrame({"layer": np.arange(len(spectrum)), "value": middle, "low": low, "high": high})
        table["n_readings"] = (~np.isnan(spectrum)).sum(-1)
        line = interval_line(table, "layer", "value", model, index, len(values), "from layer %{x}")
        line.hovertemplate = (
            "%{customdata[3]}<br>%{customdata[4]}: median %{y:.3g}, middle 80 % %{customdata[0]:.3g} to "
            "%{customdata[1]:.3g}<extra></extra>"
        )
        panels.add(1, line)
    names = ["embedding", *(f"block {block}" for block in range(max(map(len, values)) - 1))]
    places = ticks(len(names))
    panels.axis("x", title="from the residual after", tickvals=places, ticktext=[names[place] for place in places])
    panels.axis("y", title="singular values", **log_axis(np.concatenate([each.ravel() for each in values])))
    return panels.figure(showlegend=True)


def ticks(count: int) -> list[int]:
    """Return the labelled layers or heads of an axis; every second (third, ...) if there are many."""
    return list(range(0, count, max(1, -(-count // MOST_TICKS))))
