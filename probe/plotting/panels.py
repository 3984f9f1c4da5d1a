"""Panels side by side, checked in one go: adding to a figure of `plotly.subplots` checks all of it again every time.

What comes out is what `make_subplots`, `add_trace`, `add_vline`, `update_xaxes` and `update_yaxes` give, in a third of
the time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from probe.plotting.theme import LIGHT, template

TITLE_SIZE = 12


class Panels:
    """A row of panels that traces and lines are added to; columns count from 1."""

    def __init__(
        self, titles: Sequence[str], *, spacing: float, widths: Sequence[float] | None = None, shared_y: bool = False
    ) -> None:
        """Lay the panels out.

        Args:
            titles: one a panel, escaped.
            spacing: share of the width between two panels.
            widths: of the panels in any unit; equal by default.
            shared_y: one scale of y for all, with its ticks at the first panel.
        """
        parts = list(widths or [1.0] * len(titles))
        room, start = 1 - spacing * (len(titles) - 1), 0.0
        self._traces: list[dict[str, Any]] = []
        self._shapes: list[dict[str, Any]] = []
        self._axes: dict[str, list[dict[str, Any]]] = {"x": [], "y": []}
        self._titles = []
        for column, (title, part) in enumerate(zip(titles, parts, strict=True), start=1):
            end = min(start + room * part / sum(parts), 1.0)
            self._axes["x"].append({"anchor": _axis("y", column), "domain": [start, end]})
            self._axes["y"].append({"anchor": _axis("x", column), "domain": [0.0, 1.0]})
            if shared_y and column > 1:
                self._axes["y"][-1] |= {"matches": "y", "showticklabels": False}
            place = {"x": (start + end) / 2, "y": 1.0, "xref": "paper", "yref": "paper"}
            look = {"xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": TITLE_SIZE}}
            self._titles.append({"text": title, **place, **look})
            start = end + spacing

    def add(self, column: int, *traces: Mapping[str, Any]) -> None:
        """Draw traces, given as Plotly's own dictionaries with their `type`."""
        axes = {"xaxis": _axis("x", column), "yaxis": _axis("y", column)}
        self._traces += [{**trace, **axes} for trace in traces]

    def mark(self, column: int, x: float, line: Mapping[str, Any]) -> None:
        """A vertical line through a panel."""
        ends = {"x0": x, "x1": x, "xref": _axis("x", column), "y0": 0, "y1": 1}
        self._shapes.append({"type": "line", "line": dict(line), "yref": f"{_axis('y', column)} domain", **ends})

    def axis(self, letter: str, column: int | None = None, **settings: Any) -> None:
        """Set up the x or y axis of a column, or of all."""
        for at in self._axes[letter] if column is None else [self._axes[letter][column - 1]]:
            at |= settings

    def figure(self, **layout: Any) -> go.Figure:
        """The figure in the light theme, with more of its layout."""
        axes = {
            f"{letter}axis{at or ''}": settings
            for letter, found in self._axes.items()
            for at, settings in ((place + 1 if place else 0, each) for place, each in enumerate(found))
        }
        whole = {"template": template(LIGHT), "annotations": self._titles, "shapes": self._shapes or None}
        return go.Figure({"data": self._traces, "layout": whole | axes | layout})


def _axis(letter: str, column: int) -> str:
    return letter if column == 1 else f"{letter}{column}"
