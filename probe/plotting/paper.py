"""Figures for print: width in inches, font size in points, and a theme for paper.

Plotly counts in pixels, of which SVG and PDF have 96 to the inch, so a point is 4/3 of a pixel. The figures of Probe
are made for a browser window. For paper their text is scaled to the requested size, and all that depends on text
(legends, titles of panels, margins, axis labels) is laid out again for the width.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from probe.errors import ConfigError

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTHS = {"single": 3.3, "double": 6.8, "slide": 13.333}
"""Width of a column, of both columns of a page, and of a slide, in inches."""
SLIDE_HEIGHT, SLIDE_FONT = 7.5, 18.0
PIXELS = 96
"""Number of Plotly's pixels per inch."""
SCREEN_FONT = 12
"""Font size of figures on a page of the dashboard, in Plotly's pixels."""
FAMILIES = {
    "sans": "Helvetica, Arial, Liberation Sans, sans-serif",
    "serif": "Times New Roman, Times, Liberation Serif, serif",
    "mono": "Courier New, Courier, Liberation Mono, monospace",
}
DPI = (36, 1200)
TICKS = 0.875
"""Font size of tick labels relative to that of the text."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Size, fonts and theme of an exported figure."""

    width: Literal["single", "double", "slide"] | float = "double"
    """Width: single (column, 3.3 in), double (both columns, 6.8 in), slide (13.33 x 7.5 in), or inches."""
    height: float | None = None
    """Height in inches; by default it follows from the figure and its width, and is 7.5 for a slide."""
    font_size: float | None = None
    """Font size in points; 8 on paper and 18 on a slide by default."""
    font: str = "sans"
    """Font family: sans (Helvetica), serif (Times), mono, or the name of an installed one."""
    dpi: int = 300
    """Resolution of a PNG in pixels per inch, also written into the file."""
    show_title: bool = False
    """Whether the image shows its title; in a paper the caption has it."""
    theme: Literal["paper", "light"] = "paper"
    """Theme: paper (thin black axes, colours that differ in greyscale) or light (as on a light page)."""

    def __post_init__(self) -> None:
        if isinstance(self.width, str) and self.width not in WIDTHS:
            raise ConfigError(f"The width is {self.width}; expected {', '.join(WIDTHS)} or inches from 1 to 40.")
        for name, value, low, high in (
            ("width", self.inches, 1, 40),
            ("height", self.height, 0.5, 40),
            ("font size", self.font_size, 3, 72),
            ("dpi", self.dpi, *DPI),
        ):
            if value is not None and not low <= value <= high:
                raise ConfigError(f"The {name} is {value:g}; expected a number from {low} to {high}.")
        if not re.fullmatch(r"[\w ,-]{1,100}", self.font):
            raise ConfigError(f"The font is {self.font!r}; expected {', '.join(FAMILIES)} or the name of a family.")
        if self.theme not in ("paper", "light"):
            raise ConfigError(f"The theme is {self.theme}; expected paper or light.")

    @property
    def inches(self) -> float:
        """Width in inches."""
        return WIDTHS[self.width] if isinstance(self.width, str) else float(self.width)

    @property
    def points(self) -> float:
        """Font size in points."""
        return self.font_size or (SLIDE_FONT if self.width == "slide" else 8.0)

    @property
    def text(self) -> float:
        """Font size in Plotly's pixels."""
        return self.points * PIXELS / 72

    @property
    def family(self) -> str:
        """Font families in order of preference."""
        return FAMILIES.get(self.font, f"{self.font}, sans-serif")

    @property
    def high(self) -> float | None:
        """Height in Plotly's pixels, if it is fixed."""
        height = self.height or (SLIDE_HEIGHT if self.width == "slide" else None)
        return height and height * PIXELS

    @property
    def pixels(self) -> float:
        """Width in Plotly's pixels."""
        return self.inches * PIXELS


def put_on_paper(figure: "go.Figure", paper: Paper, title: str = "") -> "go.Figure":
    """Return a copy of the figure with the width, height and font sizes of `paper`, in Plotly's pixels.

    Args:
        figure: the figure.
        paper: target size, fonts and theme.
        title: title for a figure without one, in words.
    """
    from probe.plotting import theme
    from probe.plotting.panel_layout import lay_out

    look = theme.PAPER if paper.theme == "paper" else theme.LIGHT
    copy = theme.apply(figure, look)
    template = theme.template(look).to_plotly_json()
    content = copy.to_plotly_json()
    content["data"] = [trace for trace in content["data"] if not _is_for_clicks(trace)]
    if paper.theme == "paper":
        content = _recolour(content)
    ratio = paper.text / SCREEN_FONT
    for node in _nodes(content):
        _scale(node, ratio, paper.text)
    layout = content["layout"] | {"template": _set_type(template, paper)}
    heading = theme.escape(title) if paper.show_title else None
    lay_out(content["data"], layout, paper.text, paper.pixels, paper.high, heading)
    content["layout"] = layout
    import plotly.graph_objects as go

    return go.Figure(content, skip_invalid=True)


def _is_for_clicks(trace: dict[str, Any]) -> bool:
    """Whether a trace only takes clicks or shows hover texts."""
    opacity = (trace.get("marker") or {}).get("opacity")
    return isinstance(opacity, int | float) and opacity == 0 and trace.get("mode") == "markers"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a figure, except those of its template."""
    if isinstance(value, dict):
        yield value
        for name, item in value.items():
            if name != "template":
                yield from _nodes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)


def _scale(node: dict[str, Any], ratio: float, text: float) -> None:
    """Scale font sizes, at least to that of tick labels, and in proportion lines, markers and colour bars."""
    for name, value in node.items():
        if not isinstance(value, dict):
            continue
        if name.endswith("font") and isinstance(value.get("size"), int | float):
            value["size"] = max(value["size"] * ratio, TICKS * text)
        elif name in ("marker", "line", "error_x", "error_y", "colorbar"):
            for size in ("size", "width", "thickness"):
                if isinstance(value.get(size), int | float):
                    value[size] *= ratio * (0.8 if name == "marker" else 0.9)


def _recolour(content: dict[str, Any]) -> dict[str, Any]:
    """Lighten or darken the method colours of a figure's series, so that they differ when printed in grey."""
    from probe.plotting import theme

    known = {*theme.METHODS.values(), *theme.SECOND.values(), theme.METHODS["pretrain"]}
    used = {colour.upper() for node in _nodes(content["data"]) for colour in node.values() if isinstance(colour, str)}
    shades = theme.part_in_grey(sorted(known & used))
    words = {}
    for colour, shade in shades.items():
        before, after = ([int(each[at : at + 2], 16) for at in (1, 3, 5)] for each in (colour, shade))
        words[colour] = shade
        words["rgba({}, {}, {},".format(*before)] = "rgba({}, {}, {},".format(*after)
        words["rgba({},{},{},".format(*before)] = "rgba({},{},{},".format(*after)
    for node in _nodes(content["data"]):
        for name, value in node.items():
            if isinstance(value, str) and name.endswith("color"):
                head, comma, tail = value.rpartition(",")
                node[name] = words.get(value.upper()) or (words.get(head + comma, head + comma) + tail)
    return content


def _set_type(template: dict[str, Any], paper: Paper) -> dict[str, Any]:
    """Set the font, its size, and thin axes in a template."""
    for node in _nodes(template):
        for name, value in node.items():
            if name.endswith("font") and isinstance(value, dict):
                value |= {"size": paper.text * (TICKS if name == "tickfont" else 1)}
    template["layout"]["font"] |= {"family": paper.family, "size": paper.text}
    thin = {"linewidth": PIXELS / 144, "tickwidth": PIXELS / 144, "ticklen": 0.3 * paper.text}
    for axis in ("xaxis", "yaxis"):
        template["layout"][axis] |= thin
        template["layout"][axis]["title"]["standoff"] = 0.4 * paper.text
    template["layout"]["margin"] = dict.fromkeys("lrtb", 0.5 * paper.text) | {"pad": 0}
    return template


def paper_of(options: Mapping[str, Any]) -> Paper:
    """Return the `Paper` with the given options.

    Raises:
        ConfigError: an option does not exist, or its value is not valid.
    """
    names = [field.name for field in fields(Paper)]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise ConfigError(f"There is no option `{unknown[0]}`: give some of {', '.join(names)}.")
    return Paper(**options)
