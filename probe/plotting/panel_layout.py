"""Layout of a figure's legend, titles and panels for a given width, such as that of a column in a paper.

Panels that would be too narrow move to further rows, titles and legends are broken into lines, and the height adapts.
Only Plotly knows the exact width of a text, so every character counts as `LETTER` times the font size.
"""

import base64
import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Node = dict[str, Any]
SWAP = str.maketrans("xy", "yx")
LETTER = 0.55
"""Assumed width of a character, in multiples of the font size."""
LINE = 1.3
"""Height of a line, in multiples of the font size."""
PANEL, LOWEST = 13.5, 9.0
"""Minimum width and height of a panel, in multiples of the font size."""
SAMPLE = 42
"""Width of a legend entry without its text, in pixels."""
SCREEN, SCREEN_HEIGHT = 800, 420
"""Default width and height of a figure in a browser window, in pixels."""
AROUND = 110
"""Part of that height that legend, titles and axes take, in pixels."""


@dataclass
class Panel:
    """Panel of a grid: its two axes, position, size and title."""

    x: str
    y: str
    column: int
    row: int
    share: tuple[float, float]
    """Share of the figure's width and of its height that the panel takes."""
    title: Node | None


def lay_out(
    traces: Sequence[Node], layout: Node, em: float, width: float, high: float | None = None, title: str | None = None
) -> None:
    """Lay out legend, titles and panels for a width; set the width, height and margins of the figure.

    Args:
        traces: traces of the figure, as Plotly's JSON.
        layout: layout of the figure, which is changed in place.
        em: font size in pixels.
        width: width of the figure in pixels.
        high: height of the figure in pixels; by default as large as needed.
        title: title for a figure without one; None hides the figure's own title too.
    """
    if len(traces) == 1 and traces[0].get("type") == "parcoords":
        fit_coordinates(traces[0], layout, em, width, high, title)
        return
    if len(traces) == 1:
        turn_map(traces[0], layout, width, em)
    grid = find_panels(layout)
    before = len({panel.column for panel in grid})
    flows = before > max(1, round(width / (PANEL * em)))
    if flows:
        rows = -(-len(grid) // max(1, round(width / (PANEL * em))))
        columns = -(-len(grid) // rows)
        _flow(grid, layout, columns)
    columns = 1 + max((panel.column for panel in grid), default=0)
    rows = 1 + max((panel.row for panel in grid), default=0)

    for panel in grid:
        _wrap_side(layout[panel.y], LOWEST * em, em)
    left = max((_side(layout[panel.y], em) for panel in grid if not panel.column), default=4 * em)
    right = 6 * em if any(name.startswith("coloraxis") for name in layout) else em
    gap = max((_side(layout[panel.y], em) for panel in grid if panel.column), default=0.0)
    across = width - left - right
    room = (across - gap * (columns - 1)) / columns
    titles = [
        max((_break(panel.title, room * columns * panel.share[0] / _total(grid, 0), em) for panel in line), default=0)
        for line in ([panel for panel in grid if panel.row == row] for row in range(rows))
    ]
    foot = max((_foot(layout[panel.x], room, em, panel.row < rows - 1) for panel in grid), default=2.5 * em)
    bottom = max((_foot(layout[panel.x], room, em) for panel in grid if panel.row == rows - 1), default=foot)
    heading = _set_title(layout, title, width, 1.1 * em)
    legend = _set_legend(traces, layout, across, em)
    top = heading + legend + titles[0] * LINE * em + 0.6 * em
    between = foot + max(titles[1:], default=0) * LINE * em + 0.8 * em
    plot = plot_height(traces, layout, grid, (room, before, rows, flows), em)
    total = high or top + bottom + rows * plot + (rows - 1) * between
    area = max(total - top - bottom, 4 * em)
    _place(layout, grid, gap / across, between / area)
    tall = (area - between * (rows - 1)) / rows
    lines = max([_wrap_side(layout[panel.y], tall, em) for panel in grid if not panel.column], default=1)
    layout["legend"] = {**layout.get("legend", {}), "y": 1 - heading / total}
    layout |= {"width": round(width), "height": round(total), "autosize": False}
    layout["margin"] = {"l": (0.6 + 0.8 * (lines - 1)) * em, "r": 0.8 * em, "t": top, "b": 0.5 * em, "pad": 0}


def _flow(grid: Sequence[Panel], layout: Node, columns: int) -> None:
    """Distribute the panels of a row over several rows; repeat shared axis settings in each of them."""
    first = layout[grid[0].y]
    said = {name: first[name] for name in ("tickmode", "tickvals", "ticktext", "title", "range") if name in first}
    below = [layout[panel.x]["title"] for panel in grid if _named(layout[panel.x])]
    last = len(grid) - columns
    for index, panel in enumerate(grid):
        panel.row, panel.column = divmod(index, columns)
        panel.share = (1.0, 1.0)
        if panel.column == 0 and layout[panel.y].pop("showticklabels", None) is False:
            layout[panel.y] |= {name: value for name, value in said.items() if name not in layout[panel.y]}
        if len(below) == 1:
            layout[panel.x].pop("title", None)
            if index >= last:
                layout[panel.x]["title"] = dict(below[0])


def fit_coordinates(trace: Node, layout: Node, em: float, width: float, high: float | None, title: str | None) -> None:
    """Lay out parallel coordinates: their axes have no room of their own for labels, unlike those of panels."""
    axes = trace.get("dimensions") or []
    heading = _set_title(layout, title, width, 1.1 * em)
    left = LETTER * em * max((letters(str(text)) for text in (axes[0].get("ticktext") or ())), default=5) + 1.5 * em
    room = (width - left - 10 * em) / max(len(axes) - 1, 1)
    for axis in axes:
        axis["label"] = wrap(str(axis.get("label", "")), room, em)
    lines = max((1 + axis["label"].count("<br>") for axis in axes), default=1)
    foot = LINE * em * lines + 2.5 * em
    margin = {"l": left, "r": 2 * em, "t": heading + 2.5 * em, "b": foot, "pad": 0}
    total = high or min(0.5 * width, 30 * em) + heading + foot
    layout |= {"width": round(width), "height": round(total), "autosize": False, "margin": margin}


def turn_map(trace: Node, layout: Node, width: float, em: float) -> None:
    """Turn a heat map by 90 degrees if its cells are too narrow for their text; hide the text if that is not enough."""
    if trace.get("type") != "heatmap" or not trace.get("texttemplate"):
        return
    values = read_array(trace["z"])
    rows, columns = values.shape
    widest = max((letters(str(text)) for line in trace["text"] for text in line), default=0)
    room = width - 14 * em
    trace["textfont"] = {"size": 0.875 * em}
    if room / columns >= LETTER * em * widest or columns <= rows:
        return
    if room / rows < LETTER * em * widest:
        trace["texttemplate"] = ""
        return
    trace["z"], trace["text"] = values.T, [list(line) for line in zip(*trace["text"], strict=True)]
    trace.pop("customdata", None)
    across, up = layout.get("xaxis", {}), layout.get("yaxis", {})
    places = ("anchor", "domain", "tickangle")
    layout["xaxis"] = {name: value for name, value in up.items() if name not in places}
    layout["yaxis"] = {name: value for name, value in across.items() if name not in places} | {"autorange": "reversed"}
    for shape in layout.get("shapes") or ():
        swapped = {f"{b}{end}": shape.get(f"{a}{end}") for a, b in ("xy", "yx") for end in ("0", "1", "ref")}
        shape |= swapped | {name: str(swapped[name]).translate(SWAP) for name in ("xref", "yref")}


def read_array(values: Any) -> np.ndarray:
    """Return the values of an array in Plotly's JSON, which may be packed as base64."""
    if isinstance(values, dict) and "bdata" in values:
        flat = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
        return flat.reshape([int(part) for part in str(values.get("shape", flat.size)).split(",")])
    return np.asarray(values)


def find_panels(layout: Node) -> list[Panel]:
    """Return the panels of a grid row by row; empty if axes are shared or overlaid."""
    names = [name for name in layout if re.fullmatch(r"xaxis\d*", name)] or ["xaxis"]
    if any(isinstance(axis, dict) and "overlaying" in axis for axis in layout.values()):
        return []
    pairs = [(name, _axis(layout.get(name, {}).get("anchor") or "y")) for name in names]
    if any(_axis(layout.get(y, {}).get("anchor") or "x") != x for x, y in pairs):
        return []
    places = {}
    for x, y in pairs:
        spans = [layout.setdefault(name, {}).get("domain") or (0.0, 1.0) for name in (x, y)]
        places[x, y] = [tuple(map(float, span)) for span in spans]
    starts = sorted({round(across[0], 2) for across, _ in places.values()})
    ends = sorted({round(up[1], 2) for _, up in places.values()}, reverse=True)
    grid = [
        Panel(
            *pair,
            starts.index(round(across[0], 2)),
            ends.index(round(up[1], 2)),
            (across[1] - across[0], up[1] - up[0]),
            _title_of(layout, across, up),
        )
        for pair, (across, up) in places.items()
    ]
    alone = len({(panel.row, panel.column) for panel in grid}) == len(grid)
    return sorted(grid, key=lambda panel: (panel.row, panel.column)) if alone else []


def _axis(short: str) -> str:
    return f"{short[0]}axis{short[1:]}"


def _title_of(layout: Node, across: tuple[float, ...], up: tuple[float, ...]) -> Node | None:
    """Return the annotation that is the title of a panel, or None."""
    for note in layout.get("annotations") or ():
        on_page = note.get("xref") == note.get("yref") == "paper" and note.get("yanchor") == "bottom"
        above = abs(note.get("y", 0) - up[1]) < 0.03 and across[0] - 0.01 <= note.get("x", 0) <= across[1] + 0.01
        if on_page and above:
            return note if note.get("text") else None
    return None


def _total(grid: Sequence[Panel], way: int) -> float:
    """Return the sum of the width shares of the first row, or of the height shares of the first column."""
    return sum(panel.share[way] for panel in grid if (panel.column if way else panel.row) == 0) or 1.0


def _place(layout: Node, grid: Sequence[Panel], gap: float, space: float) -> None:
    """Set the domains of the axes and the positions of the titles; `gap` and `space` are shares between panels."""
    columns = 1 + max((panel.column for panel in grid), default=0)
    rows = 1 + max((panel.row for panel in grid), default=0)
    wide = {panel.column: panel.share[0] for panel in reversed(grid)}
    tall = {panel.row: panel.share[1] for panel in reversed(grid)}
    gap, space = min(gap, 0.5 / columns), min(space, 0.7 / rows)
    across = (1 - gap * (columns - 1)) / sum(wide.values() or [1])
    up = (1 - space * (rows - 1)) / sum(tall.values() or [1])
    for panel in grid:
        start = sum(wide[column] * across + gap for column in range(panel.column))
        top = 1 - sum(tall[row] * up + space for row in range(panel.row))
        end, low = min(start + wide[panel.column] * across, 1.0), max(top - tall[panel.row] * up, 0.0)
        layout[panel.x]["domain"], layout[panel.y]["domain"] = [start, end], [low, top]
        if panel.title is not None:
            panel.title |= {"x": (start + end) / 2, "y": top, "xanchor": "center", "yshift": 2}


def letters(text: str) -> int:
    """Return the number of characters in the longest line of a text as Plotly shows it."""
    return max(len(html.unescape(re.sub(r"<[^>]*>", "", line))) for line in re.split(r"<br ?/?>", text))


def wrap(text: str, room: float, em: float) -> str:
    """Break a text into lines of at most `room` pixels; a text with markup other than line breaks is left unchanged."""
    plain = re.sub(r"<br ?/?>\s*", " ", text)
    if "<" in plain:
        return text
    return "<br>".join(textwrap.wrap(plain, max(int(room / (LETTER * em)), 6), break_long_words=False)) or text


def _break(title: Node | None, room: float, em: float) -> int:
    """Break the title of a panel into lines; return their number."""
    if title is None:
        return 0
    title["text"] = wrap(str(title["text"]), room + em, em)
    return 1 + str(title["text"]).count("<br>")


def _named(axis: Node) -> str:
    """Return the title of an axis."""
    title = axis.get("title")
    return str((title.get("text") if isinstance(title, dict) else title) or "")


def _ticks(axis: Node, usual: int) -> int:
    """Return the number of characters of the longest tick label."""
    if axis.get("showticklabels") is False:
        return 0
    return max((letters(str(text)) for text in axis.get("ticktext") or ()), default=usual)


def _side(axis: Node, em: float) -> float:
    """Return the width that axis title and tick labels take to the left of a panel, in pixels."""
    name = _named(axis)
    lines = LINE * (1 + name.count("<br>")) + 0.4 if name else 0.0
    return (LETTER * _ticks(axis, 4) + lines + 0.9) * em


def _wrap_side(axis: Node, room: float, em: float) -> int:
    """Break the title of a vertical axis into lines that fit the height of the panel; return their number."""
    if name := _named(axis):
        axis["title"] = {**(axis["title"] if isinstance(axis["title"], dict) else {}), "text": wrap(name, room, em)}
    return 1 + _named(axis).count("<br>")


def _foot(axis: Node, room: float, em: float, inner: bool = True) -> float:
    """Break the title of a horizontal axis into lines; return the height that it and the labels take, in pixels."""
    name = _named(axis)
    if name:
        axis["title"] = {**(axis["title"] if isinstance(axis["title"], dict) else {}), "text": wrap(name, room, em)}
    if texts := axis.get("ticktext"):
        every = -(-len(texts) * 1.2 * em // room)
        axis["ticktext"], axis["tickvals"] = texts[:: int(every)], list(read_array(axis["tickvals"]))[:: int(every)]
    label = _ticks(axis, 3)
    many = len(axis.get("ticktext") or ()) * (label + 1) * LETTER * em > room
    ticks = 0.75 * LETTER * em * label + em if many else LINE * em * bool(label)
    return ticks + (LINE * em * (1 + _named(axis).count("<br>")) + 0.3 * em if name else 0) + 0.5 * em


def _set_title(layout: Node, title: str | None, width: float, size: float) -> float:
    """Set or remove the title; return its height in pixels."""
    own = layout.pop("title", None)
    text = str((own.get("text") if isinstance(own, dict) else own) or title or "")
    if title is None or not text:
        return 0.0
    text = wrap(text, width - size, size)
    place = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    layout["title"] = {"text": text, "font": {"size": size}, "pad": {"l": 0.5 * size, "t": 0.3 * size}, **place}
    return (LINE * (1 + text.count("<br>")) + 0.5) * size


def _set_legend(traces: Sequence[Node], layout: Node, room: float, em: float) -> float:
    """Put one legend above all panels, its entries broken into lines; return its height in pixels."""
    for name in [name for name in layout if re.fullmatch(r"legend\d+", name)]:
        del layout[name]
    for trace in traces:
        trace.pop("legend", None)
    entries = [trace for trace in traces if trace.get("showlegend") is not False and trace.get("name")]
    if (
        layout.get("showlegend") is False
        or not entries
        or not (len(entries) > 1 or layout.get("showlegend") or entries[0].get("showlegend"))
    ):
        return 0.0
    for entry in entries:
        entry["name"] = wrap(str(entry["name"]), room - SAMPLE, em)
    widths = [SAMPLE + LETTER * em * letters(entry["name"]) for entry in entries]
    lines = max(1 + entry["name"].count("<br>") for entry in entries)
    each = 1 if sum(widths) > room else len(entries)
    each = max(each, int(room / max(widths)))
    place = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left", "yref": "container", "yanchor": "top"}
    layout["legend"] = {**layout.get("legend", {}), **place, "traceorder": "normal", "itemwidth": 30}
    layout["legend"].pop("font", None)
    return -(-len(entries) // each) * (max(LINE * lines * em, 16) + 3) + 0.3 * em


def plot_height(
    traces: Sequence[Node], layout: Node, grid: Sequence[Panel], shape: tuple[float, int, int, bool], em: float
) -> float:
    """Return the height of a panel in pixels: at least what its labels need; maps keep their aspect ratio."""
    room, before, rows, flows = shape
    named = max((len(layout[panel.y].get("ticktext") or ()) for panel in grid), default=0)
    words = {value for trace in traces for value in _list(trace.get("y")) if isinstance(value, str)}
    least = 1.45 * em * max(named, len(words))
    if any(trace.get("type") in ("heatmap", "image") for trace in traces):
        if any(axis.get("scaleanchor") for axis in layout.values() if isinstance(axis, dict)):
            return max(least, min(max(_shape(trace) for trace in traces) * room, 30 * em))
        high = ((layout.get("height") or SCREEN_HEIGHT) - AROUND) / (1 if flows else rows)
        return max(least, 0.7 * LOWEST * em, room * high / ((SCREEN - 80) / max(before, 1)))
    return max(least, min(max(0.64 * room, LOWEST * em), 22 * em))


def _shape(trace: Node) -> float:
    """Return the ratio of rows to columns of a heat map; 0 if the trace has no matrix."""
    shape = read_array(trace.get("z", ())).shape
    return shape[0] / max(shape[1], 1) if len(shape) == 2 else 0.0


def _list(values: Any) -> Sequence[Any]:
    texts = isinstance(values, np.ndarray) and values.dtype.kind in "OU"
    return list(values) if isinstance(values, list | tuple) or texts else []
