"""Figures of where sycophancy happens: the lens of claim against truth, the heads that carry it, and steering."""

import pandas as pd
import plotly.graph_objects as go

from probe.plots.by_model import EXACT, IDEAL, NO_CLAIM, Look, line, models_of, panels
from probe.plots.intervals import SYMBOLS, band, headline_intervals
from probe.plots.theme import escape


def layer_margins(table: pd.DataFrame, look: Look) -> go.Figure:
    """How far the claim is ahead of the truth after each block, with the false claim and without any.

    Args:
        table: `layer`, `asked`, `value`, `ci_low`, `ci_high`, `share`, `model`
            (`probe.analyses.deference_inside.by_layer`).
        look: style of each model.
    """
    file = (table["asked"] == "choice").all()
    first, second = ("matching answer", "other") if file else ("claim", "truth")
    figure = panels((f"{first} ahead of the {second}, logit lens", f"questions with the {first} ahead"), gap=0.1)
    for model in models_of(table):
        style = look[model]
        for asked in dict.fromkeys(table["asked"]):
            rows = table[(table["model"] == model) & (table["asked"] == asked)].sort_values("layer")
            plain = asked == "no claim"
            figure.add_trace(band(rows["layer"], rows["ci_low"], rows["ci_high"], style.colour), row=1, col=1)
            low, high = rows["share_low"], rows["share_high"]
            figure.add_trace(band(rows["layer"], low, high, style.colour), row=1, col=2)
            for column, values in ((1, "value"), (2, "share")):
                figure.add_trace(
                    go.Scatter(
                        x=rows["layer"],
                        y=rows[values],
                        mode="lines" if plain else "lines+markers",
                        name=escape(model),
                        legendgroup=model,
                        showlegend=column == 1 and not plain,
                        opacity=0.55 if plain else 1,
                        line={"color": style.colour, "dash": NO_CLAIM if plain else style.dash, "width": 2},
                        marker={"symbol": SYMBOLS[style.dash], "size": 7},
                        hovertemplate=f"{escape(model)}, {asked}: %{{y:.3f}}<extra></extra>",
                    ),
                    row=1,
                    col=column,
                )
    if (table["asked"] == "no claim").any():
        line = {"color": EXACT, "dash": NO_CLAIM, "width": 2}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name="without the claim", line=line, opacity=0.8))
    figure.add_hline(y=0, line=IDEAL, row=1, col=1)
    last = int(table["layer"].max())
    step = 1 + last // 6  # in half of 420 pixels
    named = [0, *range(1 if step == 1 else step + 1, last + 1, step)]
    words = ["embed" if layer == 0 else f"L{layer - 1}" for layer in named]
    ends = [-0.12 * last, 1.06 * last]
    figure.update_xaxes(title_text="residual stream after", tickvals=named, ticktext=words, tickangle=0, range=ends)
    figure.update_yaxes(title_text=f"logit({first}) \u2212 logit({second}), nats", zeroline=False, row=1, col=1)
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", zeroline=False, row=1, col=2)
    return figure


def head_shares(table: pd.DataFrame, look: Look, most: int = 8) -> go.Figure:
    """The share of the gap that patching each head closes, the strongest heads of any model, with random directions.

    Args:
        table: `name`, `value`, `ci_low`, `ci_high`, `random`, `model` (`probe.analyses.deference_inside.heads_table`).
        look: style of each model.
        most: heads that are drawn.
    """
    best = table.assign(size=table["value"].abs()).groupby("name", sort=False)["size"].max()
    heads = best.sort_values(ascending=False).index[:most].tolist()
    figure = headline_intervals(table.rename(columns={"model": "run", "name": "metric"}), look, heads)
    shown = table[table["name"].isin(heads)]
    figure.add_trace(
        go.Scatter(
            x=shown["random"],
            y=[heads.index(name) + 0.42 for name in shown["name"]],
            mode="markers",
            name="random directions",
            marker={"symbol": "line-ns-open", "color": EXACT, "size": 9},
            hovertemplate="random direction: %{x:.3f}<extra></extra>",
        )
    )
    figure.add_vline(x=1, line=IDEAL)
    figure.update_xaxes(
        title_text="share of the gap that the head's patch closes (1: as if the claim were true)",
        range=None,
        autorange=True,
    )
    figure.update_yaxes(title_text="head")
    return figure


def steering_curves(table: pd.DataFrame, look: Look) -> go.Figure:
    """Questions in which the claim wins against the dose, beside random directions, and the accuracy control.

    Args:
        table: `alpha`, `above_zero`, `above_zero_low`, `above_zero_high`, `target`, `null`, `null_low`, `null_high`,
            `accuracy`, `accuracy_low`, `accuracy_high`, `answer`, `model`
            (`probe.analyses.deference_steering.found_of`).
        look: style of each model.
    """
    answer = "claim" if (table["answer"] == "claim").all() else "matching answer"
    rival = "truth" if answer == "claim" else "other"
    titles = (f"{answer} ahead of the {rival}", f"questions where the {answer} wins", "unrelated facts right")
    figure = panels(titles, gap=0.14)
    for model in models_of(table):
        rows = table[table["model"] == model].sort_values("alpha")
        figure.add_trace(band(rows["alpha"], rows["null_low"], rows["null_high"], EXACT), row=1, col=1)
    for model in models_of(table):
        rows = table[table["model"] == model].sort_values("alpha")
        for column, name in enumerate(("target", "above_zero", "accuracy"), start=1):
            if name not in rows or rows[name].isna().all():  # a model that answers none of the unrelated questions
                continue
            named = rows.assign(value=rows[name], ci_low=rows[f"{name}_low"], ci_high=rows[f"{name}_high"])
            figure.add_trace(line(named, "alpha", model, look, column == 1), row=1, col=column)
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name="range of random directions",
            marker={"symbol": "square", "size": 11, "color": EXACT, "opacity": 0.35},
        )
    )
    figure.update_xaxes(title_text="dose, in mean residual norms", zeroline=False)
    figure.update_yaxes(title_text="nats", zeroline=False, row=1, col=1)
    for column in (2, 3):
        figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", zeroline=False, row=1, col=column)
    return figure
