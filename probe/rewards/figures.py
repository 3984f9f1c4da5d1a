"""Rewards as figures: policies under the exact frontier, fits of overoptimisation, best of N, and the reward shift.

One colour a method (`probe.plotting.theme.METHODS`), the reference grey. Tables come from
`probe.rewards.frontiers` and `probe.rewards.shift`, what single tokens do from `probe.rewards.token_effects`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, band, format_interval
from probe.plotting.panels import Panels
from probe.plotting.series import (
    IDEAL,
)
from probe.plotting.theme import (
    LIGHT,
    METHODS,
    colour_axis,
    escape,
    escape_lines,
    label_places,
    log_axis,
    shorten,
    template,
    token_axis,
)
from probe.rewards.frontiers import Fit
from probe.terms import term

BEYOND = "rgba(128,132,140,0.10)"
"""What no policy reaches."""
LEGIBLE = 24
"""Tokens side by side whose cells have room for text."""
AXES = {"d": "d = \u221aKL(policy \u2225 reference), \u221anats", "kl": "KL(policy \u2225 reference), nats per answer"}


def reward_frontier(
    curve: pd.DataFrame,
    places: pd.DataFrame,
    look: Mapping[str, Style],
    *,
    reward: str,
    label: str,
    axis: str = "d",
    best_of_n: pd.DataFrame | None = None,
    paths: Mapping[str, pd.DataFrame] | None = None,
    chosen: str | None = None,
    size: tuple[int, int] = (640, 400),
) -> go.Figure:
    """Every policy under the frontier of pi*_beta; a dotted line is the KL that it spends in excess of the optimum.

    Args:
        curve: columns kl, d, reward, beta (`Field.frontier`).
        places: columns run, kl, excess, and `reward` by its name, with their _low and _high (`Place.row`).
        look: style of each run.
        reward: name of the reward on the y axis, a column of `places` and `best_of_n`.
        label: of the y axis.
        axis: "d" or "kl".
        best_of_n: exact path of best of N (`Field.best_of_n`).
        paths: way of a run while it was trained: columns d, kl, reward, step.
        chosen: run to emphasise.
        size: pixels that the labels are laid out for.
    """
    traces: list[go.Scatter] = []
    notes: list[dict[str, Any]] = []

    def across(table: pd.DataFrame) -> pd.Series:
        return table["kl"].clip(lower=0) ** (0.5 if axis == "d" else 1)

    x, y = across(curve).to_numpy(), curve["reward"].to_numpy()
    right = 1.12 * max(float(across(places).max()), float(x.max()) if axis == "d" else 0.0, 1e-3)
    top = y.max() + 0.2 * (np.ptp(y) or 1.0)
    traces.append(
        go.Scatter(
            x=[*x, 1.1 * right, 1.1 * right, 0.0],
            y=[*y, y[-1], top, top],
            fill="toself",
            fillcolor=BEYOND,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    )
    traces.append(
        go.Scatter(
            x=[*x, right * 1.1],
            y=[*y, y[-1]],
            mode="lines",
            line={"color": LIGHT.muted, "width": 2.5},
            customdata=[*(f"{beta:.3g}" for beta in curve["beta"]), "0"],
            hovertemplate="optimum at beta = %{customdata}<br>reward %{y:.3f}, KL " + _kl(axis) + "<extra></extra>",
        )
    )
    if best_of_n is not None:
        traces.append(
            go.Scatter(
                x=across(best_of_n),
                y=best_of_n[reward],
                mode="lines+markers",
                line=IDEAL | {"width": 1},
                marker={"size": 4, "color": IDEAL["color"]},
                customdata=best_of_n["n"],
                hovertemplate="best of %{customdata}<br>reward %{y:.3f}<extra></extra>",
            )
        )
    for name, path in (paths or {}).items():
        traces.append(
            go.Scatter(
                x=across(path),
                y=path["reward"],
                mode="lines+markers",
                line={"color": look[name].colour, "width": 1},
                marker={"size": 4, "symbol": "circle-open"},
                opacity=0.6,
                customdata=path["step"],
                hovertemplate=escape(name) + " at step %{customdata}<br>reward %{y:.3f}<extra></extra>",
            )
        )
    for row in records(places):
        _policy(traces, row, look[row["run"]], reward, axis, row["run"] == chosen)
    low = min(float(places[reward].min()), float(y.min()))
    low -= 0.12 * (top - low)
    labels = places.assign(text=[f"{shorten(str(row['run']), 22)} {excess_words(row)}" for row in records(places)])
    if best_of_n is not None:
        last = best_of_n.tail(1).assign(run="", text="best of N")
        labels = pd.concat([labels, last], ignore_index=True)

    def pixels(along: np.ndarray, up: np.ndarray) -> np.ndarray:
        return np.stack([along / (1.05 * right) * size[0], (up - low) / (top - low) * size[1]], axis=1)

    ways = [(x, y)] if best_of_n is None else [(x, y), (across(best_of_n).to_numpy(), best_of_n[reward].to_numpy())]
    fine = np.linspace(0, right, 80)
    avoid = [pixels(fine, np.interp(fine, *way)) for way in ways]
    avoid.append(np.stack([np.linspace(0, 130, 20), np.full(20, size[1] - 10.0)], axis=1))  # the note in the corner
    avoid += [pixels(across(path).to_numpy(), path["reward"].to_numpy()) for path in (paths or {}).values()]
    for row in records(places):
        if np.isfinite(row["beta"]):
            ends = pd.DataFrame({"kl": [max(row["kl"] - row["excess"], 0.0), row["kl"]]})
            avoid.append(pixels(np.linspace(across(ends)[0], across(ends)[1], 40), np.full(40, row[reward])))
    points = pixels(across(labels).to_numpy(), labels[reward].to_numpy())
    shifts = label_places(points, list(labels["text"]), size, np.concatenate(avoid))
    for row, place, shift in zip(records(labels), across(labels), shifts, strict=True):
        text = escape(row["text"].strip())
        note = {
            "x": place,
            "y": row[reward],
            "text": f"<b>{text}</b>" if chosen and row["run"] == chosen else text,
            "xshift": shift[0],
            "yshift": shift[1],
            "font": {"color": look[row["run"]].colour if row["run"] else IDEAL["color"], "size": 12},
        }
        notes.append(note)
    corner = {"x": 0.01, "y": 0.995, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top"}
    notes.append({**corner, "text": "no policy gets here"})
    layout = {
        "template": template(LIGHT),
        "hovermode": "closest",
        "showlegend": False,
        "margin": {"t": 12},
        "annotations": notes,
        "xaxis": {"title": {"text": AXES[axis]}, "range": [-0.03 * right, 1.05 * right], "zeroline": False},
        "yaxis": {"title": {"text": escape(label)}, "range": [low, top], "zeroline": False},
    }
    return go.Figure({"data": traces, "layout": layout})


def _policy(traces: list[go.Scatter], row: dict, style: Style, reward: str, axis: str, strong: bool) -> None:
    """One policy with its intervals, and a line to the point of the frontier with the same reward."""
    x = float(np.sqrt(max(row["kl"], 0.0))) if axis == "d" else float(row["kl"])
    frontier_kl = max(row["kl"] - row["excess"], 0.0)
    if np.isfinite(row["beta"]) and row["excess"] > 1e-6:
        traces.append(
            go.Scatter(
                x=[float(np.sqrt(frontier_kl)) if axis == "d" else frontier_kl, x],
                y=[row[reward]] * 2,
                mode="lines",
                line={"color": style.colour, "width": 1.5, "dash": "dot"},
                hoverinfo="skip",
            )
        )
    details = [
        f"reward {format_interval(row[reward], row[f'{reward}_low'], row[f'{reward}_high'])}",
        f"KL {format_interval(row['kl'], row['kl_low'], row['kl_high'])} nats",
        f"beyond the optimum {format_interval(row['excess'], row['excess_low'], row['excess_high'])} nats",
        f"gives an answer {100 * row['mass']:.0f} % of the time",
    ]
    traces.append(
        go.Scatter(
            x=[x],
            y=[row[reward]],
            mode="markers",
            name=escape(str(row["run"])),
            marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 13 if strong else 9},
            hovertemplate=f"<b>{escape(str(row['run']))}</b><br>" + "<br>".join(details) + "<extra></extra>",
        )
    )


def excess_words(row: Mapping) -> str:
    """Return the label behind a policy's name: what it spends beyond the optimum, nothing for the reference."""
    if row["kl"] < 1e-6:
        return ""
    return f"+{row['excess']:.2f}" if np.isfinite(row["beta"]) else f"+{row['excess']:.2f}, nothing gained"


def reward_gains(
    places: pd.DataFrame, look: Mapping[str, Style], columns: Mapping[str, str], chosen: str | None = None
) -> go.Figure:
    """Draw what each policy gained over the reference and what it wasted: one line per policy, with 95 % intervals.

    Args:
        places: columns run and, for each of `columns`, its value, _low and _high.
        look: style of each run.
        columns: column to title of its panel.
        chosen: run to emphasise.
    """
    runs = [str(run) for run in places["run"]]
    panels = Panels([escape_lines(title, 18) for title in columns.values()], spacing=0.06, shared_y=True)
    for place, column in enumerate(columns, start=1):
        for at, row in enumerate(records(places)):
            style = look[row["run"]]
            value, low, high = (row[column + end] for end in ("", "_low", "_high"))
            ends = {"array": [high - value], "arrayminus": [value - low], "thickness": 1.6, "width": 0}
            point = {
                "type": "scatter",
                "x": [value],
                "y": [at],
                "mode": "markers",
                "marker": {"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 9},
                "error_x": {"type": "data", "symmetric": False, **ends},
                "hovertemplate": f"{escape(str(row['run']))}: {format_interval(value, low, high)}<extra></extra>",
            }
            panels.add(place, point)
        panels.mark(place, 0, {"color": LIGHT.muted, "width": 1, "dash": "dot"})
    names = [f"<b>{escape(shorten(run, 18))}</b>" if run == chosen else escape(shorten(run, 18)) for run in runs]
    ticks: dict[str, Any] = {"tickvals": list(range(len(runs))), "ticktext": names, "range": [len(runs) - 0.5, -0.5]}
    panels.axis("y", **ticks, showgrid=False, zeroline=False)
    panels.axis("x", zeroline=False, nticks=5)
    return panels.figure(showlegend=False, margin={"t": 40, "b": 30})


def _kl(axis: str) -> str:
    return "%{x:.3f} nats" if axis == "kl" else "(%{x:.3f})\u00b2 nats"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def overoptimisation(
    points: Mapping[str, pd.DataFrame],
    fits: Mapping[tuple[str, str], Fit],
    look: Mapping[str, Style],
    titles: Mapping[str, str],
) -> go.Figure:
    """Rewards against d with the fits of Gao et al.: one panel a reward, one colour a series.

    Args:
        points: columns d and each reward, by series.
        fits: by (series, reward).
        look: style of each series.
        titles: reward to the title of its panel.
    """
    panels = Panels([escape(title) for title in titles.values()], spacing=0.1)
    for column, reward in enumerate(titles, start=1):
        for series, table in points.items():
            style, fit = look[series], fits.get((series, reward))
            rows = table[table[reward].notna()]
            markers = {
                "type": "scatter",
                "x": rows["d"],
                "y": rows[reward],
                "mode": "markers",
                "name": escape(series),
                "legendgroup": series,
                "showlegend": column == 1,
                "marker": {"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 7, "opacity": 0.85},
                "hovertemplate": escape(series) + "<br>d %{x:.3f}, reward %{y:.3f}<extra></extra>",
            }
            panels.add(column, markers)
            if fit is None:
                continue
            silent = {"type": "scatter", "legendgroup": series, "showlegend": False}
            grid, coefficients = (
                np.linspace(0, 1.05 * fit.d.max(), 160),
                f"a = {format_interval(*fit.a)}, b = {format_interval(*fit.b)}",
            )
            curve = {
                "x": grid,
                "y": fit.predict(grid),
                "mode": "lines",
                "line": {"color": style.colour, "dash": style.dash, "width": 2},
                "hovertemplate": f"{escape(series)}: {coefficients}<extra></extra>",
            }
            panels.add(column, silent | curve)
            if fit.peak_is_seen and fit.peak.value > 0:
                peak = {
                    "x": [fit.peak.value],
                    "y": [fit.origin + fit.top.value],
                    "mode": "markers",
                    "marker": {"symbol": "star", "size": 14, "color": style.colour},
                    "hovertemplate": f"{escape(series)} peaks at d = {format_interval(*fit.peak)}<extra></extra>",
                }
                panels.add(column, silent | peak)
    panels.axis("x", title={"text": AXES["d"]}, rangemode="tozero", zeroline=False)
    panels.axis("y", zeroline=False)
    return panels.figure(margin={"t": 64}, legend={"yref": "container", "y": 1, "yanchor": "top"})


def ends_over_trainings(
    table: pd.DataFrame, seeds: pd.DataFrame, look: Mapping[str, Style], titles: Mapping[str, str]
) -> go.Figure:
    """Rewards against the KL where trainings end: means over trainings with intervals both ways, each training faint.

    Args:
        table: columns run, metric, value, ci_low, ci_high.
        seeds: columns run, seed, metric, value.
        look: style of each run.
        titles: of the rewards, a panel each, and of `kl_to_reference`, by metric.
    """
    rewards = [name for name in titles if name != "kl_to_reference"]
    figure = make_subplots(cols=len(rewards), horizontal_spacing=0.12)
    means = {(row["run"], row["metric"]): row for row in table.to_dict("records")}
    single = seeds.pivot_table(index=["run", "seed"], columns="metric", values="value")
    for column, reward in enumerate(rewards, start=1):
        for run, style in look.items():
            x, y = means.get((run, "kl_to_reference")), means.get((run, reward))
            if x is None or y is None:
                continue
            points = single.loc[run]
            marker = {"color": style.colour, "symbol": SYMBOLS[style.dash]}
            quiet = {"mode": "markers", "legendgroup": run, "name": escape(run)}
            faint = go.Scatter(
                x=points["kl_to_reference"],
                y=points[reward],
                marker=marker | {"size": 6, "opacity": 0.35},
                hovertemplate=f"{escape(run)}, one training: %{{y:.3g}} at %{{x:.3g}} nats<extra></extra>",
                showlegend=False,
                **quiet,
            )
            mean = go.Scatter(
                x=[x["value"]],
                y=[y["value"]],
                error_x=_ends(x),
                error_y=_ends(y),
                marker=marker | {"size": 10},
                hovertemplate=f"{escape(run)}, over trainings: {format_interval(*_numbers(y))} at "
                f"{format_interval(*_numbers(x))} nats<extra></extra>",
                showlegend=column == 1,
                **quiet,
            )
            figure.add_traces([faint, mean], rows=[1, 1], cols=[column, column])
        figure.update_yaxes(title_text=escape(titles[reward]), col=column)
    figure.update_xaxes(title_text=escape(titles["kl_to_reference"]))
    figure.update_layout(template=template(LIGHT), showlegend=True, hovermode="closest")
    figure.update_layout(legend={"yref": "container", "y": 1, "yanchor": "top"})
    return figure


def _numbers(row: Mapping) -> tuple[float, float, float]:
    return row["value"], row["ci_low"], row["ci_high"]


def _ends(row: Mapping) -> dict[str, Any]:
    """Return an interval as error bars."""
    value, low, high = _numbers(row)
    return {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low], "width": 0}


def best_of_n(table: pd.DataFrame, curve: pd.DataFrame, *, reward: str, label: str) -> go.Figure:
    """Best of N exactly: its KL against the bound log N - (N-1)/N, and its reward by KL under the frontier.

    Args:
        table: of `Field.best_of_n`.
        curve: the frontier of the same reward.
        reward: column of `table` that N is chosen by.
        label: what the reward is called.
    """
    colour = IDEAL["color"]
    panels = Panels([escape(title) for title in ("KL by N", f"{label} by KL")], spacing=0.12)
    exact = {"color": colour, "width": 2}
    bound = {"color": colour, "width": 1.5, "dash": "dash"}
    for column, (x, names) in enumerate((("n", ("kl", "bound")), (reward, ("kl", "bound"))), start=1):
        for name, line, title in zip(names, (exact, bound), ("exact", "bound log N \u2212 (N\u22121)/N"), strict=True):
            ends = (table[x], table[name]) if column == 1 else (table[name], table[x])
            points = {
                "type": "scatter",
                "x": ends[0],
                "y": ends[1],
                "mode": "lines+markers",
                "name": title,
                "legendgroup": title,
                "showlegend": column == 1,
                "line": line,
                "marker": {"size": 6},
                "customdata": table["n"],
                "hovertemplate": "N = %{customdata}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
            }
            panels.add(column, points)
    visible = curve[curve["kl"] <= 1.05 * table["bound"].max()]
    frontier = {
        "type": "scatter",
        "x": visible["kl"],
        "y": visible["reward"],
        "mode": "lines",
        "name": "frontier",
        "line": {"color": LIGHT.muted, "width": 2.5},
        "hovertemplate": "optimum: reward %{y:.3f} at KL %{x:.3f}<extra></extra>",
    }
    panels.add(2, frontier)
    panels.axis("x", 1, **log_axis(), title={"text": "N"}, tickvals=list(table["n"]))
    panels.axis("x", 2, title={"text": "KL(best of N \u2225 reference), nats"}, rangemode="tozero")
    panels.axis("y", 1, title={"text": "nats per answer"}, rangemode="tozero")
    return panels.figure(margin={"t": 64}, legend={"yref": "container", "y": 1, "yanchor": "top"})


BINS = 28
FEW = 6
"""Values of a reward up to which each has a bar of its own."""


def reward_distributions(
    table: pd.DataFrame, names: tuple[str, str], colours: tuple[str, str], measures: Sequence[str]
) -> go.Figure:
    """Distribution of each reward over the samples of both models, with their means; shares, so that bars compare.

    Args:
        table: of `probe.rewards.shift.samples` or `probe.rewards.shift.captured_samples`.
        names: how the two models are called.
        colours: of their methods.
        measures: columns, one panel each.
    """
    panels = Panels([escape(term(measure, "rewards").label) for measure in measures], spacing=0.06)
    for column, measure in enumerate(measures, start=1):
        values = {side: table.loc[table["model"] == side, measure].dropna() for side in ("base", "aligned")}
        samples = pd.concat(values.values()).to_numpy()
        if not len(samples):
            continue
        centres, edges = _bins(samples)
        for side, name, colour in zip(("base", "aligned"), names, colours, strict=True):
            counts = np.histogram(values[side], edges)[0] / max(len(values[side]), 1)
            bars = {
                "type": "bar",
                "x": centres,
                "y": counts,
                "name": escape(shorten(name, 24)),
                "legendgroup": side,
                "showlegend": column == 1,
                "marker": {"color": colour, "opacity": 0.75},
                "hovertemplate": escape(name) + ": %{y:.1%} near %{x:.3g}<extra></extra>",
            }
            panels.add(column, bars)
            if len(values[side]):
                panels.mark(column, float(values[side].mean()), {"color": colour, "width": 2, "dash": "dot"})
    panels.axis("y", tickformat=".0%", zeroline=False)
    panels.axis("y", 1, title={"text": "share of samples"})
    return panels.figure(
        barmode="group",
        bargap=0.08,
        bargroupgap=0.0,
        margin={"t": 60},
        legend={"yref": "container", "y": 1, "yanchor": "top"},
    )


def _bins(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and edges of bins; where there are few different values, they are the centres."""
    levels = np.unique(values)
    if len(levels) <= FEW:
        steps = np.diff(levels)
        reach = float(steps.min()) / 2 if len(steps) else 0.5
        middle = (levels[:-1] + levels[1:]) / 2
        return levels, np.concatenate([[levels[0] - reach], middle, [levels[-1] + reach]])
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    return (edges[:-1] + edges[1:]) / 2, edges


def shift_curves(table: pd.DataFrame, colour: str, measures: Sequence[str]) -> go.Figure:
    """Rewards and KL of the captured samples over training, with 95 % intervals.

    Args:
        table: of `probe.rewards.shift.shift_curve`: step, measure, value, ci_low, ci_high.
        colour: of the run's method.
        measures: one panel each.
    """
    panels = Panels([escape(term(measure, "rewards").label) for measure in measures], spacing=0.06)
    for column, measure in enumerate(measures, start=1):
        rows = table[table["measure"] == measure].sort_values("step")
        steps = rows["step"].tolist()
        line = {
            "type": "scatter",
            "x": steps,
            "y": rows["value"],
            "mode": "lines+markers",
            "line": {"color": colour, "width": 2},
            "hovertemplate": "step %{x}: %{y:.3f}<extra></extra>",
        }
        around = band(steps, rows["ci_low"], rows["ci_high"], colour).to_plotly_json()
        panels.add(column, around, line)
    panels.axis("x", title={"text": "step"})
    panels.axis("y", zeroline=False)
    return panels.figure(showlegend=False, margin={"t": 40})


def token_effects(
    tokens_by_part: Mapping[str, Sequence[str]],
    occlusion: Mapping[str, np.ndarray],
    gradient: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    chosen: tuple[str, int] | None = None,
) -> go.Figure:
    """Draw what each token does, by leaving it out (bars) and by integrated gradients (diamonds); rewards on one scale.

    The first panel is the prompt and the margin chosen - rejected; the other two are the completions and their scores.

    Args:
        tokens_by_part: of prompt, chosen and rejected completion.
        occlusion: nats that are lost without each of them.
        gradient: their integrated gradients, nats.
        colours: of the parts.
        chosen: (part, token in it) to emphasise.
    """
    counts = [max(len(tokens), 2) for tokens in tokens_by_part.values()]
    panels = Panels(
        ["prompt: effect on the margin", "chosen: on its score", "rejected: on its score"],
        spacing=0.03,
        widths=[count + 1.5 for count in counts],
        shared_y=True,
    )
    for column, (name, tokens) in enumerate(tokens_by_part.items(), start=1):
        at, label = list(range(len(tokens))), [escape(token) for token in tokens]
        strong = [1.0 if chosen is None or chosen == (name, j) else 0.45 for j in at]
        bars = {
            "type": "bar",
            "x": at,
            "y": occlusion[name],
            "name": "left out",
            "legendgroup": "left out",
            "showlegend": column == 1,
            "marker": {"color": colours[name], "opacity": strong},
            "customdata": label,
            "hovertemplate": "%{customdata}<br>%{y:+.3f} nats are lost without it<extra></extra>",
        }
        diamond = {"symbol": "diamond", "size": 8, "color": LIGHT.paper, "line": {"width": 1.5, "color": LIGHT.ink}}
        marks = {
            "type": "scatter",
            "x": at,
            "y": gradient[name],
            "mode": "markers",
            "name": "integrated gradients",
            "legendgroup": "gradient",
            "showlegend": column == 1,
            "marker": diamond,
            "customdata": label,
            "hovertemplate": "%{customdata}<br>%{y:+.3f} nats by integrated gradients<extra></extra>",
        }
        panels.add(column, bars, marks)
        panels.axis("x", column, **token_axis(tokens), tickangle=-45, range=[-0.7, len(tokens) - 0.3])
    panels.axis("y", 1, title={"text": "nats"})
    panels.axis("y", zeroline=True)
    return panels.figure(margin={"t": 60, "b": 52}, legend={"yref": "container", "y": 1, "yanchor": "top"})


def token_weights(table: pd.DataFrame, relative: bool = False) -> go.Figure:
    """Draw the weights of tokens in the gradients of several methods, all on one scale.

    Each method has a panel, and each completion a row.

    Blue tokens become more probable, orange ones less; a completion that a method does not learn from has no row.

    Args:
        table: columns method, source, completion (from 0), reward, position, token and weight, one row a method and
            token.
        relative: colour by the share of the method's own largest weight; what is written in a cell stays the weight.
    """
    parts = [(str(method), rows) for method, rows in table.groupby("method", sort=False)]
    heights = [rows["completion"].nunique() for _, rows in parts]
    height = 34 * sum(heights) + 34 * len(parts)
    first, last = int(table["position"].min()), int(table["position"].max())
    figure = make_subplots(
        rows=len(parts),
        cols=1,
        shared_xaxes=True,
        row_heights=heights,
        vertical_spacing=34 / height,
        subplot_titles=[escape(f"{method}: {rows['source'].iloc[0]}") for method, rows in parts],
    )
    for place, (_, part) in enumerate(parts, start=1):
        rewards = dict(zip(part["completion"], part["reward"], strict=True))
        numbers = sorted(rewards)
        values = np.full((len(numbers), last - first + 1), np.nan)
        unit = float(part["weight"].abs().max()) or 1.0 if relative else 1.0
        written, hover = np.full(values.shape, "", object), np.full(values.shape, "", object)
        for row in records(part):
            cell, token = (numbers.index(row["completion"]), row["position"] - first), str(row["token"])
            values[cell] = row["weight"] / unit
            written[cell] = f"{escape(shorten(token, 8))}<br>" + (f"{row['weight']:+.2g}" if row["weight"] else "0")
            hover[cell] = f"{escape(token)} at position {row['position']}: w = {row['weight']:+.4g}"
        trace = go.Heatmap(
            z=values,
            x=list(range(first, last + 1)),
            coloraxis="coloraxis",
            text=written,
            texttemplate="%{text}" if last - first < LEGIBLE else "",
            textfont={"size": 10},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
        figure.add_trace(trace, row=place, col=1)
        names = [f"{number + 1}, reward {rewards[number]:.3g}" for number in numbers]
        ticks = {"tickvals": list(range(len(names))), "ticktext": names, "range": [len(names) - 0.5, -0.5]}
        figure.update_yaxes(**ticks, row=place, col=1)
    figure.update_xaxes(title_text="position of the token", row=len(parts), col=1)
    figure.update_xaxes(dtick=1 + (last - first) // 30, ticks="", showgrid=False, zeroline=False, showline=False)
    figure.update_yaxes(ticks="", showgrid=False, zeroline=False, showline=False)
    bound = 1.0 if relative else float(table["weight"].abs().max()) or 1.0
    axis = colour_axis("w / max" if relative else "w", low=-bound, high=bound, diverging=True)
    figure.update_layout(template=template(LIGHT), height=height + 80, margin={"t": 30, "b": 50}, coloraxis=axis)
    return figure.update_annotations(font_size=12)


def part_colours(method: str = "reward-model") -> dict[str, str]:
    """Colours of prompt, chosen and rejected."""
    return {"prompt": METHODS["pretrain"], "chosen": METHODS[method], "rejected": METHODS["sft"]}
