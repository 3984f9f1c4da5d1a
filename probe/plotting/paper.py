"""A figure as a page prints it: width in inches, text in points, a theme for paper.

Plotly counts in pixels, of which SVG and PDF have 96 to the inch, so a point is 4/3 of a pixel. The figures of Probe
are made for a browser window. On paper their text gets the size that is asked for, and what depends on text (legends,
titles of panels, margins, labels of axes) is laid out anew for the width.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from probe.errors import ConfigError

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTHS = {"single": 3.3, "double": 6.8, "slide": 13.333}
"""Inches of a column, of both columns of a page, and of a slide."""
SLIDE_HEIGHT, SLIDE_FONT = 7.5, 18.0
PIXELS = 96
"""Of plotly's to an inch."""
SCREEN_FONT = 12
"""Plotly's pixels of text in figures, as they are made for a page of the dashboard."""
FAMILIES = {
    "sans": "Helvetica, Arial, Liberation Sans, sans-serif",
    "serif": "Times New Roman, Times, Liberation Serif, serif",
    "mono": "Courier New, Courier, Liberation Mono, monospace",
}
DPI = (36, 1200)
TICKS = 0.875
"""Size of the labels of ticks, of that of the text."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """How a figure is printed."""

    width: Literal["single", "double", "slide"] | float = "double"
    """Width: single (column, 3.3 in), double (both columns, 6.8 in), slide (13.33 x 7.5 in), or inches."""
    height: float | None = None
    """Height in inches; by default that of the figure for its width, and that of a slide."""
    font_size: float | None = None
    """Size of the text in points; 8 on paper and 18 on a slide by default."""
    font: str = "sans"
    """Family of the text: sans (Helvetica), serif (Times), mono, or the name of an installed one."""
    dpi: int = 300
    """Pixels of a PNG to the inch; the file says it."""
    show_title: bool = False
    """Put the title into the image; a paper has it in the caption."""
    theme: Literal["paper", "light"] = "paper"
    """Theme: paper (thin black axes, colours that stay apart in grey) or light (as on a light page)."""

    def __post_init__(self) -> None:
        if isinstance(self.width, str) and self.width not in WIDTHS:
            raise ConfigError(f"The width {self.width} was given: give {', '.join(WIDTHS)} or inches from 1 to 40.")
        for name, value, low, high in (
            ("width", self.inches, 1, 40),
            ("height", self.height, 0.5, 40),
            ("font size", self.font_size, 3, 72),
            ("dpi", self.dpi, *DPI),
        ):
            if value is not None and not low <= value <= high:
                raise ConfigError(f"A {name} of {value:g} was given: give one from {low} to {high}.")
        if not re.fullmatch(r"[\w ,-]{1,100}", self.font):
            raise ConfigError(f"The font {self.font!r} was given: give {', '.join(FAMILIES)} or the name of a family.")
        if self.theme not in ("paper", "light"):
            raise ConfigError(f"The theme {self.theme} was given: give paper or light.")

    @property
    def inches(self) -> float:
        """The width in inches."""
        return WIDTHS[self.width] if isinstance(self.width, str) else float(self.width)

    @property
    def points(self) -> float:
        """The size of the text in points."""
        return self.font_size or (SLIDE_FONT if self.width == "slide" else 8.0)

    @property
    def text(self) -> float:
        """The size of the text in plotly's pixels."""
        return self.points * PIXELS / 72

    @property
    def family(self) -> str:
        """The fonts to try, one after the other."""
        return FAMILIES.get(self.font, f"{self.font}, sans-serif")

    @property
    def high(self) -> float | None:
        """The height in plotly's pixels, if it is given."""
        height = self.height or (SLIDE_HEIGHT if self.width == "slide" else None)
        return height and height * PIXELS

    @property
    def pixels(self) -> float:
        """The width in plotly's pixels."""
        return self.inches * PIXELS


def put_on_paper(figure: "go.Figure", paper: Paper, title: str = "") -> "go.Figure":
    """Return a copy of the figure that has the width, height and text sizes of `paper`, in plotly's pixels.

    Args:
        figure: the figure.
        paper: what it is made for.
        title: what it shows, in words, where the figure itself has no title.
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
    """Whether a trace is there only to be clicked on, or to say something on hover."""
    opacity = (trace.get("marker") or {}).get("opacity")
    return isinstance(opacity, int | float) and opacity == 0 and trace.get("mode") == "markers"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a figure, without those of its template."""
    if isinstance(value, dict):
        yield value
        for name, item in value.items():
            if name != "template":
                yield from _nodes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)


def _scale(node: dict[str, Any], ratio: float, text: float) -> None:
    """Sizes of text as asked for, at least as large as that of ticks; lines, marks and bars of colour in proportion."""
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
    """Make the colours of methods in a figure's series lighter or darker, so that they differ when printed in grey."""
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
    """Set the font, the size of text and thin axes in a template."""
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
    """Return the paper that options describe.

    Raises:
        ConfigError: there is no such option, or its value does not fit.
    """
    names = [field.name for field in fields(Paper)]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise ConfigError(f"The option `{unknown[0]}` was given: give some of {', '.join(names)}.")
    return Paper(**options)
