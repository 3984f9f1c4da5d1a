"""Panels in rows and columns, the basis of all figures with several panels.

`Panels` does what `plotly.subplots` does in a third of the time: Plotly validates the whole figure at every addition.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from probe.plotting.panel_layout import wrap
from probe.plotting.theme import LIGHT, template

TITLE_SIZE, TITLE_LINE = 12, 15
"""Font size and line height of a panel's title, in pixels."""
ROW = 690
"""Width of a row of panels on a page of 1024 pixels; titles are broken into lines for that width."""
ABOVE = {"yref": "container", "y": 1, "yanchor": "top"}
"""Position of the legend: at the top of the figure, above the titles."""
LEGEND, EDGE = 34, 14
"""Height of a legend and of the margin above the titles, in pixels."""
LABELS = 0.04
"""Minimum share of the width between two panels of a row that shares its y axis: the last tick label of one panel and
the first of the next, such as 100 % and 0 %, stand in it side by side."""


class Panels:
    """Panels to which traces, lines and shapes are added; they are numbered from 1, row by row."""

    def __init__(
        self,
        titles: Sequence[str] = ("",),
        *,
        columns: int | None = None,
        spacing: float | None = None,
        gap: float = 0.1,
        widths: Sequence[float] | None = None,
        heights: Sequence[float] | None = None,
        shared_x: bool = False,
        shared_y: bool = False,
    ) -> None:
        """Lay out the panels.

        Args:
            titles: title of each panel, escaped and broken into lines if the panel is too narrow; empty for no title.
            columns: number of panels side by side; all by default.
            spacing: share of the width between two panels; by default all gaps together take a tenth. It is at least
                `LABELS` if a row shares its y axis.
            gap: share of the height between two rows.
            widths: relative widths of the columns; equal by default.
            heights: relative heights of the rows; equal by default.
            shared_x: whether a column shares its x axis, with ticks below the lowest panel.
            shared_y: whether a row shares its y axis, with ticks at the first panel.
        """
        count = self._columns = columns or max(len(titles), 1)
        rows = -(-len(titles) // count)
        spacing = 0.1 / max(count - 1, 1) if spacing is None else spacing
        across = list(_spans(widths or [1.0] * count, max(spacing, LABELS) if shared_y else spacing))
        up = list(_spans([*(heights or [1.0] * rows)][::-1], gap))[::-1]
        places = [(across[at % count], up[at // count]) for at in range(len(titles))]
        fitting = fit_titles(titles, [end - start for (start, end), _ in places])
        self._lines = max((1 + title.count("<br>") for title in fitting[:count] if title), default=0)
        self._traces: list[dict[str, Any]] = []
        self._named: set[tuple[Any, Any]] = set()
        self._shapes: list[dict[str, Any]] = []
        self._axes: dict[str, list[dict[str, Any]]] = {"x": [], "y": []}
        self._titles: list[dict[str, Any]] = []
        self._notes: list[dict[str, Any]] = []
        for at, (title, (wide, high)) in enumerate(zip(fitting, places, strict=True)):
            own: dict[str, dict[str, Any]] = {
                "x": {"anchor": _axis("y", at + 1), "domain": wide},
                "y": {"anchor": _axis("x", at + 1), "domain": high},
            }
            lowest = at + (len(titles) - 1 - at) // count * count
            for letter, shared, main in (("x", shared_x, lowest), ("y", shared_y, at - at % count)):
                if shared and main != at:
                    own[letter] |= {"matches": _axis(letter, main + 1), "showticklabels": False}
                self._axes[letter].append(own[letter])
            place = {"x": sum(wide) / 2, "y": high[1], "xref": "paper", "yref": "paper"}
            look = {"xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": TITLE_SIZE}}
            self._titles.append({"text": title, **place, **look})

    def add(self, panel: int, *traces: Any) -> None:
        """Add traces to a panel: objects of Plotly, or dictionaries with their `type`.

        Of traces with the same name and group (`legendgroup`), only the first gets a legend entry.
        """
        axes = {"xaxis": _axis("x", panel), "yaxis": _axis("y", panel)}
        for trace in traces:
            plain = {**(trace if isinstance(trace, Mapping) else trace.to_plotly_json()), **axes}
            entry = plain.get("name"), plain.get("legendgroup")
            if all(entry) and plain.get("showlegend") is not False:
                plain["showlegend"] = entry not in self._named
                self._named.add(entry)
            self._traces.append(plain)

    def mark(
        self,
        panel: int | None,
        line: Mapping[str, Any],
        *,
        x: float | None = None,
        y: float | None = None,
        opacity: float | None = None,
    ) -> None:
        """Draw a vertical line at `x` or a horizontal line at `y` through one panel, or through all."""
        value, along, across = (x, "x", "y") if y is None else (y, "y", "x")
        for at in self._panels(panel):
            ends = {f"{along}0": value, f"{along}1": value, f"{across}0": 0, f"{across}1": 1}
            refs = {f"{along}ref": _axis(along, at), f"{across}ref": f"{_axis(across, at)} domain"}
            self._shapes.append({"type": "line", "line": dict(line), "opacity": opacity, **ends, **refs})

    def shape(self, panel: int, shape: Mapping[str, Any]) -> None:
        """Draw a shape in the axis coordinates of a panel."""
        self._shapes.append({**shape, "xref": _axis("x", panel), "yref": _axis("y", panel)})

    def span(self, panel: int, start: float, end: float, colour: str, opacity: float) -> None:
        """Shade a panel from one x value to another."""
        look = {"type": "rect", "fillcolor": colour, "opacity": opacity, "line": {"width": 0}}
        refs = {"xref": _axis("x", panel), "yref": f"{_axis('y', panel)} domain"}
        self._shapes.append({**look, **refs, "x0": start, "x1": end, "y0": 0, "y1": 1})

    def note(self, panel: int, text: str, **place: Any) -> None:
        """Write an escaped text in the axis coordinates of a panel, or in those that `place` names."""
        self._notes.append({"text": text, "xref": _axis("x", panel), "yref": _axis("y", panel), **place})

    def explain(self, panel: int, text: str) -> None:
        """Set the hover text of a panel's title, escaped."""
        self._titles[panel - 1]["hovertext"] = text

    def axis(self, letter: str, panel: int | None = None, /, **settings: Any) -> None:
        """Set up the x or y axis of one panel, or of all; `title` may be a plain text."""
        for at in self._panels(panel):
            self._axes[letter][at - 1] |= settings

    def lowest(self, **settings: Any) -> None:
        """Set up the x axis of the lowest panel of each column."""
        for panel in range(max(1, len(self._titles) - self._columns + 1), len(self._titles) + 1):
            self.axis("x", panel, **settings)

    def figure(self, **layout: Any) -> go.Figure:
        """Return the figure in the light theme; `layout` adds or replaces settings of its layout.

        The top margin has room for the lines of the titles, and for a legend unless `showlegend` is False.
        """
        axes = {
            f"{letter}axis{at or ''}": settings
            for letter, layouts in self._axes.items()
            for at, settings in ((place + 1 if place else 0, each) for place, each in enumerate(layouts))
        }
        whole: dict[str, Any] = {
            "template": template(LIGHT),
            "annotations": [note for note in (*self._titles, *self._notes) if note["text"]] or None,
            "shapes": self._shapes or None,
            "hovermode": "closest",
        }
        has_legend = layout.get("showlegend") is not False
        if has_legend and self._lines:  # without titles the legend grows upwards from the panels
            layout["legend"] = ABOVE | layout.get("legend", {})
        if self._lines or not has_legend:
            layout["margin"] = {"t": EDGE + TITLE_LINE * self._lines + LEGEND * has_legend, **layout.get("margin", {})}
        return go.Figure({"data": self._traces, "layout": whole | axes | layout})

    def crowded(self, **layout: Any) -> go.Figure:
        """Return the figure with a legend of many entries, which grows upwards from the titles."""
        place = {"yref": "paper", "y": 1.08 + 0.05 * self._lines, "yanchor": "bottom"}
        return self.figure(**layout | {"legend": place | layout.get("legend", {})})

    def _panels(self, panel: int | None) -> Sequence[int]:
        return range(1, len(self._titles) + 1) if panel is None else [panel]


def fit_titles(titles: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Break titles into lines that fit the width of their panels.

    Args:
        titles: title of each panel, escaped; its line breaks are kept.
        shares: share of the row's width that each panel has.
    """
    return [
        "<br>".join(wrap(line, ROW * share, TITLE_SIZE) for line in title.split("<br>"))
        for title, share in zip(titles, shares, strict=True)
    ]


def _axis(letter: str, panel: int) -> str:
    return letter if panel == 1 else f"{letter}{panel}"


def _spans(parts: Sequence[float], gap: float) -> Iterator[list[float]]:
    """Yield start and end of each part of the interval from 0 to 1, with gaps between the parts."""
    room, start = 1 - gap * (len(parts) - 1), 0.0
    for part in parts:
        end = min(start + room * part / sum(parts), 1.0)
        yield [start, end]
        start = end + gap
