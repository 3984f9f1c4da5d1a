"""Panels side by side and one below the other, the one way to make them.

`Panels` gives what `plotly.subplots` gives, in a third of the time: adding to one of its figures checks all of it again
every time.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from probe.plotting.panel_layout import wrap
from probe.plotting.theme import LIGHT, template

TITLE_SIZE, TITLE_LINE = 12, 15
"""Size of a panel's title and height of each of its lines, in pixels."""
ROW = 690
"""Pixels of a row of panels on a page of 1024 pixels; titles are broken into lines that fit there."""
ABOVE = {"yref": "container", "y": 1, "yanchor": "top"}
"""Place of a legend: at the top of the figure, above the titles."""
LEGEND, EDGE = 34, 14
"""Pixels of a legend and of the edge above the titles."""


class Panels:
    """Panels that traces, lines and shapes are added to; they count from 1, row by row."""

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
        """Lay the panels out.

        Args:
            titles: one a panel, escaped, broken into lines where the panel is too narrow; empty: no title.
            columns: panels side by side; by default all.
            spacing: share of the width between two panels; by default a tenth of it is between all.
            gap: share of the height between two rows.
            widths: of the columns in any unit; equal by default.
            heights: of the rows, likewise.
            shared_x: one scale of x a column, with its ticks below the lowest panel.
            shared_y: one scale of y a row, with its ticks at the first panel.
        """
        count = self._columns = columns or max(len(titles), 1)
        rows = -(-len(titles) // count)
        across = list(_spans(widths or [1.0] * count, 0.1 / max(count - 1, 1) if spacing is None else spacing))
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
        """Draw traces: Plotly's own, or dictionaries with their `type`.

        Of the traces of a group (`legendgroup`) that have the same name the legend names the first.
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
        """Draw a vertical line at `x` or a horizontal one at `y` through a panel, or through all."""
        value, along, across = (x, "x", "y") if y is None else (y, "y", "x")
        for at in self._panels(panel):
            ends = {f"{along}0": value, f"{along}1": value, f"{across}0": 0, f"{across}1": 1}
            refs = {f"{along}ref": _axis(along, at), f"{across}ref": f"{_axis(across, at)} domain"}
            self._shapes.append({"type": "line", "line": dict(line), "opacity": opacity, **ends, **refs})

    def shape(self, panel: int, shape: Mapping[str, Any]) -> None:
        """Draw a shape at values of the axes of a panel."""
        self._shapes.append({**shape, "xref": _axis("x", panel), "yref": _axis("y", panel)})

    def span(self, panel: int, start: float, end: float, colour: str, opacity: float) -> None:
        """Shade a panel from one x to another."""
        look = {"type": "rect", "fillcolor": colour, "opacity": opacity, "line": {"width": 0}}
        refs = {"xref": _axis("x", panel), "yref": f"{_axis('y', panel)} domain"}
        self._shapes.append({**look, **refs, "x0": start, "x1": end, "y0": 0, "y1": 1})

    def note(self, panel: int, text: str, **place: Any) -> None:
        """Write an escaped text at values of the axes of a panel, or where `place` says."""
        self._notes.append({"text": text, "xref": _axis("x", panel), "yref": _axis("y", panel), **place})

    def explain(self, panel: int, text: str) -> None:
        """Show an escaped text under the mouse above the title of a panel."""
        self._titles[panel - 1]["hovertext"] = text

    def axis(self, letter: str, panel: int | None = None, /, **settings: Any) -> None:
        """Set up the x or y axis of a panel, or of all; `title` may be its text alone."""
        for at in self._panels(panel):
            self._axes[letter][at - 1] |= settings

    def lowest(self, **settings: Any) -> None:
        """Set up the x axis of the lowest panel of each column."""
        for panel in range(max(1, len(self._titles) - self._columns + 1), len(self._titles) + 1):
            self.axis("x", panel, **settings)

    def figure(self, **layout: Any) -> go.Figure:
        """Return the figure in the light theme, with further settings of its layout or others than the usual ones.

        Above the panels there is room for the lines of their titles, and for a legend where `showlegend` is not off.
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
        if has_legend and self._lines:  # without titles it grows upwards from the panels
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
    """Break titles into lines that their panels are wide enough for.

    Args:
        titles: one a panel, escaped; lines that they have already stay apart.
        shares: of the width of the row that each panel has.
    """
    return [
        "<br>".join(wrap(line, ROW * share, TITLE_SIZE) for line in title.split("<br>"))
        for title, share in zip(titles, shares, strict=True)
    ]


def _axis(letter: str, panel: int) -> str:
    return letter if panel == 1 else f"{letter}{panel}"


def _spans(parts: Sequence[float], gap: float) -> Iterator[list[float]]:
    """Yield start and end of each part of a length of 1, with gaps between them."""
    room, start = 1 - gap * (len(parts) - 1), 0.0
    for part in parts:
        end = min(start + room * part / sum(parts), 1.0)
        yield [start, end]
        start = end + gap
