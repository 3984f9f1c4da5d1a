"""Rewards of samples before and after alignment, over training, and along the tokens of two completions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.intervals import band
from probe.plotting.panels import Panels
from probe.plotting.theme import LIGHT, METHODS, escape, shorten, token_axis

if TYPE_CHECKING:
    from probe.analyses.reward_contrast import Contrast

NAMES = {"proxy": "proxy reward", "gold": "gold reward", "implicit": "implicit reward, nats", "kl": "KL, nats"}
BINS = 28
FEW = 6
"""Values of a reward up to which each has a bar of its own."""


def reward_distributions(
    table: pd.DataFrame, names: tuple[str, str], colours: tuple[str, str], measures: Sequence[str]
) -> go.Figure:
    """Distribution of each reward over the samples of both models, with their means; shares, so that bars compare.

    Args:
        table: of `probe.analyses.reward_shift.samples` or `captured`.
        names: how the two models are called.
        colours: of their methods.
        measures: columns, one panel each.
    """
    panels = Panels([NAMES.get(measure, measure) for measure in measures], spacing=0.06)
    for column, measure in enumerate(measures, start=1):
        values = {side: table.loc[table["model"] == side, measure].dropna() for side in ("base", "aligned")}
        together = pd.concat(values.values()).to_numpy()
        if not len(together):
            continue
        centres, edges = _bins(together)
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
    """Centres and edges: the values themselves where they are few."""
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
        table: of `probe.analyses.rewards.shift_curve`: step, measure, value, ci_low, ci_high.
        colour: of the run's method.
        measures: one panel each.
    """
    panels = Panels([NAMES.get(measure, measure) for measure in measures], spacing=0.06)
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


def token_effects(found: "Contrast", colours: Mapping[str, str], chosen: tuple[str, int] | None = None) -> go.Figure:
    """What each token does, by leaving it out (bars) and by integrated gradients (diamonds); rewards on one scale.

    The first panel is the prompt and the margin chosen - rejected; the other two are the completions and their scores.

    Args:
        found: two completions read by a reward model.
        colours: of prompt, chosen and rejected.
        chosen: ("prompt", "chosen" or "rejected", token in that part) to emphasise.
    """
    size = found.chosen.prompt_length
    parts = {
        "prompt": (found.chosen.tokens[:size], found.prompt_effects("occlusion"), found.prompt_effects("gradient")),
        "chosen": _completion(found.chosen.tokens, found.chosen.occlusion, found.chosen.gradient, size),
        "rejected": _completion(found.rejected.tokens, found.rejected.occlusion, found.rejected.gradient, size),
    }
    counts = [max(len(tokens), 2) for tokens, _, _ in parts.values()]
    panels = Panels(
        ["prompt: effect on the margin", "chosen: on its score", "rejected: on its score"],
        spacing=0.03,
        widths=[count + 1.5 for count in counts],
        shared_y=True,
    )
    for column, (name, (tokens, left, slope)) in enumerate(parts.items(), start=1):
        at, label = list(range(len(tokens))), [escape(token) for token in tokens]
        strong = [1.0 if chosen is None or chosen == (name, j) else 0.45 for j in at]
        bars = {
            "type": "bar",
            "x": at,
            "y": left,
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
            "y": slope,
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


def part_colours(method: str = "reward-model") -> dict[str, str]:
    """Colours of prompt, chosen and rejected."""
    return {"prompt": METHODS["pretrain"], "chosen": METHODS[method], "rejected": METHODS["sft"]}


def _completion(
    tokens: Sequence[str], left: np.ndarray, slope: np.ndarray, start: int
) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    return tokens[start:], left[start:], slope[start:]
