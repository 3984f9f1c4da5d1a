"""Figures of rewards: policies under the exact frontier, fits of overoptimisation, best of N, and reward shift.

Each method has one colour (`probe.plotting.theme.METHODS`); the reference is grey. Tables come from
`probe.rewards.frontiers` and `probe.rewards.shift`, effects of single tokens from `probe.rewards.token_effects`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, band, format_interval, whiskers
from probe.plotting.marks import cells
from probe.plotting.panels import Panels
from probe.plotting.series import (
    IDEAL,
)
from probe.plotting.theme import (
    DOTTED,
    LIGHT,
    METHODS,
    escape,
    escape_lines,
    label_places,
    log_axis,
    row_axis,
    shorten,
    signed_axis,
    token_axis,
)
from probe.rewards.frontiers import CurveFit
from probe.terms import term

BEYOND = "rgba(128,132,140,0.10)"
"""Fill colour of the region that no policy can reach."""
LEGIBLE = 24
"""Maximum number of tokens side by side whose cells have room for text."""
KL = {"d": "(%{x:.3f})\u00b2 nats", "kl": "%{x:.3f} nats"}
"""Hover template of the KL, by x axis."""
AXES = {"d": "d = \u221aKL(policy \u2225 reference), \u221anats", "kl": "KL(policy \u2225 reference), nats per answer"}


@dataclass(frozen=True, kw_only=True)
class FrontierView:
    """Reward, axes and selection of a figure of the frontier."""

    reward: str
    """Name of the reward on the y axis."""
    label: str
    """Title of the y axis."""
    axis: str = "d"
    """Quantity on the x axis: `d` or `kl`."""
    chosen: str | None = None
    """Run to emphasise."""
    size: tuple[int, int] = (640, 400)
    """Width and height in pixels for which the labels are placed."""

    def across(self, kl: Any) -> Any:
        """Return the x coordinate of a KL in nats."""
        return np.clip(kl, 0, None) ** (0.5 if self.axis == "d" else 1)


def reward_frontier(
    curve: pd.DataFrame,
    places: pd.DataFrame,
    look: Mapping[str, Style],
    view: FrontierView,
    *,
    best_of_n: pd.DataFrame | None = None,
    paths: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> go.Figure:
    """Draw every policy under the frontier of pi*_beta; dotted lines are the KL in excess of the optimum.

    Args:
        curve: columns kl, d, reward, beta (`Field.frontier`).
        places: columns run, kl, excess, beta, mass, and the reward, with _low and _high (`Place.row`).
        look: style of each run.
        view: reward (a column of `places` and `best_of_n`), axes, and chosen run.
        best_of_n: exact path of best of N (`Field.best_of_n`).
        paths: training trajectory of each run: columns d, kl, reward, step.
    """
    x, y = view.across(curve["kl"].to_numpy()), curve["reward"].to_numpy()
    right = 1.12 * max(float(view.across(places["kl"]).max()), float(x.max()) if view.axis == "d" else 0.0, 1e-3)
    top = y.max() + 0.2 * (np.ptp(y) or 1.0)
    low = min(float(places[view.reward].min()), float(y.min()))
    low -= 0.12 * (top - low)
    panels = Panels()
    panels.add(1, *_frontier(curve, x, right, top, view))
    labels = places.assign(text=[f"{shorten(str(row['run']), 22)} {excess_words(row)}" for row in records(places)])
    fine, ways = np.linspace(0, right, 80), [(x, y)]
    if best_of_n is not None:
        ways.append((view.across(best_of_n["kl"].to_numpy()), best_of_n[view.reward].to_numpy()))
        labels = pd.concat([labels, best_of_n.tail(1).assign(run="", text="best of N")], ignore_index=True)
        hover = "best of %{customdata}<br>reward %{y:.3f}<extra></extra>"
        panels.add(1, _way(*ways[1], best_of_n["n"], hover, IDEAL | {"width": 1}, color=IDEAL["color"]))
    lines = [(fine, np.interp(fine, *way)) for way in ways]
    for name, path in paths.items():
        lines.append((view.across(path["kl"].to_numpy()), path["reward"].to_numpy()))
        hover = escape(name) + " at step %{customdata}<br>reward %{y:.3f}<extra></extra>"
        line = {"color": look[name].colour, "width": 1}
        panels.add(1, _way(*lines[-1], path["step"], hover, line, symbol="circle-open").update(opacity=0.6))
    for row in records(places):
        panels.add(1, *_policy(row, look[row["run"]], view))
        if np.isfinite(row["beta"]):
            start, end = (float(view.across(kl)) for kl in (row["kl"] - row["excess"], row["kl"]))
            lines.append((np.linspace(start, end, 40), np.full(40, row[view.reward])))
    avoid = np.concatenate([np.stack(line, axis=1) for line in lines])
    for note in _labels(labels, avoid, look, view, (1.05 * right, low, top)):
        panels.note(1, **note)
    corner = {"x": 0.01, "y": 0.995, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top"}
    panels.note(1, "no policy can be here", **corner)
    panels.axis("x", title=AXES[view.axis], range=[-0.03 * right, 1.05 * right], zeroline=False)
    panels.axis("y", title=escape(view.label), range=[low, top], zeroline=False)
    return panels.figure(showlegend=False)


def _frontier(
    curve: pd.DataFrame, x: np.ndarray, right: float, top: float, view: FrontierView
) -> tuple[go.Scatter, go.Scatter]:
    """Return the region that no policy can reach, and the frontier, which continues to the right edge."""
    y, end = curve["reward"].to_numpy(), 1.1 * right
    beyond = {"x": [*x, end, end, 0.0], "y": [*y, y[-1], top, top], "fill": "toself", "fillcolor": BEYOND}
    return go.Scatter(**beyond, line={"width": 0}, mode="lines", hoverinfo="skip"), go.Scatter(
        x=[*x, end],
        y=[*y, y[-1]],
        mode="lines",
        line={"color": LIGHT.muted, "width": 2.5},
        customdata=[*(f"{beta:.3g}" for beta in curve["beta"]), "0"],
        hovertemplate=f"optimum at beta = %{{customdata}}<br>reward %{{y:.3f}}, KL {KL[view.axis]}<extra></extra>",
    )


def _way(x: np.ndarray, y: np.ndarray, numbers: pd.Series, hover: str, line: dict, **marker: str) -> go.Scatter:
    """Return a thin line with small marks; a mark's number is available to the hover template."""
    look = {"mode": "lines+markers", "line": line, "marker": {"size": 4, **marker}}
    return go.Scatter(x=x, y=y, customdata=numbers, hovertemplate=hover, **look)


def _policy(row: dict, style: Style, view: FrontierView) -> Iterator[go.Scatter]:
    """Yield the dotted line from the frontier at the same reward, and the policy with hover text."""
    x, y = float(view.across(row["kl"])), row[view.reward]
    if np.isfinite(row["beta"]) and row["excess"] > 1e-6:
        line = {"color": style.colour, "width": 1.5, "dash": "dot"}
        start = float(view.across(row["kl"] - row["excess"]))
        yield go.Scatter(x=[start, x], y=[y, y], mode="lines", line=line, hoverinfo="skip")
    details = [
        f"reward {format_interval(y, row[f'{view.reward}_low'], row[f'{view.reward}_high'])}",
        f"KL {format_interval(row['kl'], row['kl_low'], row['kl_high'])} nats",
        f"excess KL {format_interval(row['excess'], row['excess_low'], row['excess_high'])} nats",
        f"gives a listed answer {100 * row['mass']:.0f} % of the time",
    ]
    size = 13 if row["run"] == view.chosen else 9
    yield go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        name=escape(str(row["run"])),
        marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": size},
        hovertemplate=f"<b>{escape(str(row['run']))}</b><br>" + "<br>".join(details) + "<extra></extra>",
    )


def _labels(
    labels: pd.DataFrame,
    avoid: np.ndarray,
    look: Mapping[str, Style],
    view: FrontierView,
    ends: tuple[float, float, float],
) -> Iterator[dict[str, Any]]:
    """Yield the annotations of the points, placed where they cover the least.

    Args:
        labels: columns run (empty: best of N), kl, text and the reward.
        avoid: [n 2] points of the lines, which labels should not cover.
        look: style of each run.
        view: axes and chosen run.
        ends: ends of the axes: right, low and top.
    """
    right, low, top = ends
    scale = np.array(view.size) / (right, top - low)
    places = np.stack([view.across(labels["kl"].to_numpy()), labels[view.reward].to_numpy()], axis=1)
    corner = np.stack([np.linspace(0, 130, 20), np.full(20, view.size[1] - 10.0)], axis=1)  # of the note
    taken = np.concatenate([(avoid - (0, low)) * scale, corner])
    shifts = label_places((places - (0, low)) * scale, list(labels["text"]), view.size, taken)
    for row, place, shift in zip(records(labels), places, shifts, strict=True):
        text = escape(row["text"].strip())
        yield {
            "x": place[0],
            "y": place[1],
            "text": f"<b>{text}</b>" if view.chosen and row["run"] == view.chosen else text,
            "xshift": shift[0],
            "yshift": shift[1],
            "font": {"color": look[row["run"]].colour if row["run"] else IDEAL["color"], "size": 12},
        }


def excess_words(row: Mapping) -> str:
    """Return the label after a policy's name: the KL in excess of the optimum, empty for the reference."""
    if row["kl"] < 1e-6:
        return ""
    return f"+{row['excess']:.2f}" if np.isfinite(row["beta"]) else f"+{row['excess']:.2f}, no gain"


def reward_gains(
    places: pd.DataFrame, look: Mapping[str, Style], columns: Mapping[str, str], chosen: str | None = None
) -> go.Figure:
    """Draw what each policy gained over the reference and what it wasted, one line per policy, with 95 % intervals.

    Args:
        places: column run, and for each of `columns` the value, _low and _high.
        look: style of each run.
        columns: title of the panel of each column.
        chosen: run to emphasise.
    """
    runs = [str(run) for run in places["run"]]
    panels = Panels([escape_lines(title, 18) for title in columns.values()], spacing=0.06, shared_y=True)
    for place, column in enumerate(columns, start=1):
        for at, row in enumerate(records(places)):
            style = look[row["run"]]
            ends = [row[column + end] for end in ("", "_low", "_high")]
            point = go.Scatter(
                x=ends[:1],
                y=[at],
                mode="markers",
                marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 9},
                error_x=whiskers(*([end] for end in ends)),
                hovertemplate=f"{escape(str(row['run']))}: {format_interval(*ends)}<extra></extra>",
            )
            panels.add(place, point)
    panels.mark(None, DOTTED, x=0)
    names = [f"<b>{escape(shorten(run, 18))}</b>" if run == chosen else escape(shorten(run, 18)) for run in runs]
    panels.axis("y", **row_axis(names))
    panels.axis("x", zeroline=False, nticks=5)
    return panels.figure(showlegend=False)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def overoptimisation(
    points: Mapping[str, pd.DataFrame],
    fits: Mapping[tuple[str, str], CurveFit],
    look: Mapping[str, Style],
    titles: Mapping[str, str],
) -> go.Figure:
    """Draw rewards against d with the fits of Gao et al., one panel per reward and one colour per series.

    Args:
        points: columns d and each reward, by series.
        fits: fit of each (series, reward).
        look: style of each series.
        titles: title of the panel of each reward.
    """
    panels = Panels([escape(title) for title in titles.values()], spacing=0.1)
    for column, reward in enumerate(titles, start=1):
        for series, table in points.items():
            style, fit = look[series], fits.get((series, reward))
            rows, named = (
                table[table[reward].notna()],
                {"name": escape(series), "legendgroup": series},
            )
            marker = {"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 7, "opacity": 0.85}
            hover = escape(series) + "<br>d %{x:.3f}, reward %{y:.3f}<extra></extra>"
            marks = go.Scatter(x=rows["d"], y=rows[reward], mode="markers", marker=marker, hovertemplate=hover)
            panels.add(column, marks.update(named))
            if fit is None:
                continue
            silent = {"legendgroup": series, "showlegend": False}
            grid = np.linspace(0, 1.05 * fit.d.max(), 160)
            line = {"color": style.colour, "dash": style.dash, "width": 2}
            fitted = f"{escape(series)}: a = {format_interval(*fit.a)}, b = {format_interval(*fit.b)}<extra></extra>"
            curve = go.Scatter(x=grid, y=fit.predict(grid), mode="lines", line=line, hovertemplate=fitted)
            panels.add(column, curve.update(silent))
            if fit.peak_is_seen and fit.peak.value > 0:
                star = {"symbol": "star", "size": 14, "color": style.colour}
                seen = f"{escape(series)} peaks at d = {format_interval(*fit.peak)}<extra></extra>"
                peak = go.Scatter(x=[fit.peak.value], y=[fit.origin + fit.top.value], mode="markers", marker=star)
                panels.add(column, peak.update(silent, hovertemplate=seen))
    panels.axis("x", title=AXES["d"], rangemode="tozero", zeroline=False)
    panels.axis("y", zeroline=False)
    return panels.figure()


def ends_over_trainings(
    table: pd.DataFrame, seeds: pd.DataFrame, look: Mapping[str, Style], titles: Mapping[str, str]
) -> go.Figure:
    """Draw rewards against KL at the end of training: means over trainings with both intervals, each training faint.

    Args:
        table: columns run, metric, value, ci_low, ci_high.
        seeds: columns run, seed, metric, value.
        look: style of each run.
        titles: title of each reward, which has a panel, and of `kl_to_reference`, by metric.
    """
    rewards = [name for name in titles if name != "kl_to_reference"]
    panels = Panels([""] * len(rewards), spacing=0.12)
    means = {(row["run"], row["metric"]): row for row in table.to_dict("records")}
    single = seeds.pivot_table(index=["run", "seed"], columns="metric", values="value")
    for column, reward in enumerate(rewards, start=1):
        for run, style in look.items():
            x, y = means.get((run, "kl_to_reference")), means.get((run, reward))
            if x is None or y is None:
                continue
            points, (across, up) = single.loc[run], (_numbers(row) for row in (x, y))
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
                x=across[:1],
                y=up[:1],
                error_x=whiskers(*([end] for end in across)),
                error_y=whiskers(*([end] for end in up)),
                marker=marker | {"size": 10},
                hovertemplate=f"{escape(run)}, over trainings: {format_interval(*up)} at "
                f"{format_interval(*across)} nats<extra></extra>",
                **quiet,
            )
            panels.add(column, faint, mean)
        panels.axis("y", column, title=escape(titles[reward]))
    panels.axis("x", title=escape(titles["kl_to_reference"]))
    return panels.figure(showlegend=True)


def _numbers(row: Mapping) -> tuple[float, float, float]:
    return row["value"], row["ci_low"], row["ci_high"]


def best_of_n(table: pd.DataFrame, curve: pd.DataFrame, *, reward: str, label: str) -> go.Figure:
    """Draw best of N exactly: its KL and the bound log N - (N-1)/N by N, and its reward by KL under the frontier.

    Args:
        table: table of `Field.best_of_n`.
        curve: frontier of the same reward.
        reward: column of `table` by which best of N selects.
        label: title of the reward.
    """
    colour = IDEAL["color"]
    panels = Panels([escape(title) for title in ("KL by N", f"{label} by KL")], spacing=0.12)
    bound: dict[str, Any] = {"width": 1.5, "dash": "dash"}
    ways = {"exact": ("kl", {"width": 2}), "bound log N \u2212 (N\u22121)/N": ("bound", bound)}
    for column in (1, 2):
        for title, (name, line) in ways.items():
            x, y = ("n", name) if column == 1 else (name, reward)
            points = go.Scatter(
                x=table[x],
                y=table[y],
                mode="lines+markers",
                name=title,
                legendgroup=title,
                line={"color": colour, **line},
                marker={"size": 6},
                customdata=table["n"],
                hovertemplate="N = %{customdata}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
            )
            panels.add(column, points)
    visible = curve[curve["kl"] <= 1.05 * table["bound"].max()]
    frontier = go.Scatter(x=visible["kl"], y=visible["reward"], mode="lines", name="frontier")
    frontier.update(line={"color": LIGHT.muted, "width": 2.5})
    panels.add(2, frontier.update(hovertemplate="optimum: reward %{y:.3f} at KL %{x:.3f}<extra></extra>"))
    panels.axis("x", 1, **log_axis(), title="N", tickvals=list(table["n"]))
    panels.axis("x", 2, title="KL(best of N \u2225 reference), nats", rangemode="tozero")
    panels.axis("y", 1, title="nats per answer", rangemode="tozero")
    return panels.figure()


BINS = 28
FEW = 6
"""Maximum number of distinct values of a reward that have a bar each."""


def reward_distributions(
    table: pd.DataFrame, names: tuple[str, str], colours: tuple[str, str], measures: Sequence[str]
) -> go.Figure:
    """Draw the distribution of each reward over the samples of both models as shares, with the means.

    Args:
        table: table of `probe.rewards.shift.samples` or `probe.rewards.shift.captured_samples`.
        names: names of the two models.
        colours: colours of the models' methods.
        measures: columns to draw, one panel each.
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
            bars = go.Bar(
                x=centres,
                y=counts,
                name=escape(shorten(name, 24)),
                legendgroup=side,
                marker={"color": colour, "opacity": 0.75},
                hovertemplate=escape(name) + ": %{y:.1%} near %{x:.3g}<extra></extra>",
            )
            panels.add(column, bars)
            if len(values[side]):
                panels.mark(column, {"color": colour, "width": 2, "dash": "dot"}, x=float(values[side].mean()))
    panels.axis("y", tickformat=".0%", zeroline=False)
    panels.axis("y", 1, title="share of samples")
    return panels.figure(barmode="group", bargap=0.08, bargroupgap=0.0)


def _bins(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres and edges of bins; few distinct values have a bin each, centred on the value."""
    levels = np.unique(values)
    if len(levels) <= FEW:
        steps = np.diff(levels)
        reach = float(steps.min()) / 2 if len(steps) else 0.5
        middle = (levels[:-1] + levels[1:]) / 2
        return levels, np.concatenate([[levels[0] - reach], middle, [levels[-1] + reach]])
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    return (edges[:-1] + edges[1:]) / 2, edges


def shift_curves(table: pd.DataFrame, colour: str, measures: Sequence[str]) -> go.Figure:
    """Draw rewards and KL of the captured samples over training, with 95 % intervals.

    Args:
        table: table of `probe.rewards.shift.shift_curve`: step, measure, value, ci_low, ci_high.
        colour: colour of the run's method.
        measures: measures to draw, one panel each.
    """
    panels = Panels([escape(term(measure, "rewards").label) for measure in measures], spacing=0.06)
    for column, measure in enumerate(measures, start=1):
        rows = table[table["measure"] == measure].sort_values("step")
        steps = rows["step"].tolist()
        line = go.Scatter(x=steps, y=rows["value"], mode="lines+markers", line={"color": colour, "width": 2})
        line.update(hovertemplate="step %{x}: %{y:.3f}<extra></extra>")
        panels.add(column, band(steps, rows["ci_low"], rows["ci_high"], colour), line)
    panels.axis("x", title="step")
    panels.axis("y", zeroline=False)
    return panels.figure(showlegend=False)


def token_effects(
    tokens_by_part: Mapping[str, Sequence[str]],
    occlusion: Mapping[str, np.ndarray],
    gradient: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    chosen: tuple[str, int] | None = None,
) -> go.Figure:
    """Draw the effect of each token by occlusion (bars) and by integrated gradients (diamonds), all in nats.

    The first panel shows the prompt's effect on the margin chosen - rejected, the others each completion's effect on
    its score.

    Args:
        tokens_by_part: tokens of prompt, chosen and rejected completion.
        occlusion: nats that are lost without each token.
        gradient: integrated gradients of each token in nats.
        colours: colour of each part.
        chosen: (part, index of the token in it) to emphasise.
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
        bars = go.Bar(
            x=at,
            y=occlusion[name],
            name="left out",
            legendgroup="left out",
            marker={"color": colours[name], "opacity": strong},
            customdata=label,
            hovertemplate="%{customdata}<br>%{y:+.3f} nats are lost without it<extra></extra>",
        )
        marks = go.Scatter(
            x=at,
            y=gradient[name],
            mode="markers",
            name="integrated gradients",
            legendgroup="gradient",
            marker={"symbol": "diamond", "size": 8, "color": LIGHT.paper, "line": {"width": 1.5, "color": LIGHT.ink}},
            customdata=label,
            hovertemplate="%{customdata}<br>%{y:+.3f} nats by integrated gradients<extra></extra>",
        )
        panels.add(column, bars, marks)
        panels.axis("x", column, **token_axis(tokens), tickangle=-45, range=[-0.7, len(tokens) - 0.3])
    panels.axis("y", 1, title="nats")
    panels.axis("y", zeroline=True)
    return panels.figure()


def token_weights(table: pd.DataFrame, relative: bool = False) -> go.Figure:
    """Draw the weights of tokens in the gradients of several methods, all on one scale.

    Each method has a panel, and each completion a row. Blue tokens become more probable, orange ones less probable; a
    completion that a method does not learn from has no row.

    Args:
        table: columns method, source, completion (from 0), reward, position, token and weight, one row a method and
            token.
        relative: whether colours show the weight relative to the method's largest; the cells still contain the weight.
    """
    parts = [(str(method), rows) for method, rows in table.groupby("method", sort=False)]
    heights = [rows["completion"].nunique() for _, rows in parts]
    height = 34 * sum(heights) + 34 * len(parts)
    first, last = int(table["position"].min()), int(table["position"].max())
    titles = [escape(f"{method}: {rows['source'].iloc[0]}") for method, rows in parts]
    panels = Panels(titles, columns=1, gap=34 / height, heights=heights, shared_x=True)
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
        map_ = cells(values, written, hover, legible=last - first < LEGIBLE)
        panels.add(place, map_.update(x=list(range(first, last + 1))))
        panels.axis("y", place, **row_axis([f"{number + 1}, reward {rewards[number]:.3g}" for number in numbers]))
    panels.lowest(title="position of the token")
    panels.axis("x", dtick=1 + (last - first) // 30, ticks="", showgrid=False, zeroline=False, showline=False)
    panels.axis("y", ticks="", showline=False)
    bound = 1.0 if relative else float(table["weight"].abs().max()) or 1.0
    axis = signed_axis("w / max" if relative else "w", bound)
    return panels.figure(showlegend=False, height=height + 80, coloraxis=axis)


PART_COLOURS = {"prompt": METHODS["pretrain"], "chosen": METHODS["reward-model"], "rejected": METHODS["sft"]}
"""Colours of prompt, chosen and rejected completion."""
