"""Theme of all figures: colours, fonts, axes and labels for a light page, a dark page and paper.

Each training method has one colour, the base model grey, and a second colour for another run of the method; all differ
under the common colour vision deficiencies (a test simulates them). Weights and probabilities use one sequential
hue, signed values a diverging scale centred on zero. Text from data (tokens, run names) goes through `escape`, because
Plotly labels parse a subset of HTML.
"""

import colorsys
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from probe.texts import visible, visible_parts

METHODS = {
    "pretrain": "#868B94",
    "sft": "#B8860B",
    "reward-model": "#2AA5C0",
    "dpo": "#3F78C6",
    "rlhf": "#E8555F",
    "rsft": "#1B8A3D",
    "rlvr": "#9C3587",
    "continual": "#A83400",
    "watch": "#643CDC",
}
"""Colour of a run, by its method."""

OTHER = "#643CDC"
SECOND = {
    METHODS["pretrain"]: "#996AFF",
    METHODS["sft"]: "#AB5E1E",
    METHODS["reward-model"]: "#106667",
    METHODS["dpo"]: "#72B5E7",
    METHODS["rlhf"]: "#962F3D",
    METHODS["rsft"]: "#71BD80",
    METHODS["rlvr"]: "#FF2B93",
    METHODS["continual"]: "#FF8066",
    METHODS["watch"]: "#8897FF",
}
"""Colour of the second run of a method in one figure, by the colour of the first: close in hue except for grey, which
has no free neighbour; found by search for the largest distance between all colours, also in colour-blind vision."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
ANSWERS = ("#0E7C7B", "#D1495B", "#8D6A9F", "#8A8F98", "#C77D1E")
"""Colours of answers followed in one figure, visible on light and dark pages and different from those of methods."""
CHOSEN = "#E8555F"
"""Colour of the selection's frame and line."""
MASKED = "rgba(128,132,140,0.28)"
"""Colour of cells that the causal mask hides, grey on any page."""

MOST_TICKS = 40
"""Maximum number of tokens that an axis labels one by one."""

FONT = "Source Sans Pro, Source Sans, Helvetica Neue, Arial, sans-serif"


Kind = Literal["sequential", "diverging", "lines"]
"""Kind of a colour scale."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours that differ between a light page, a dark page and paper."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]
    lines: tuple[str, ...]
    """Scale for the colour of lines: each of its colours stands out from the page, the highest most."""


LIGHT = Theme(
    name="light",
    paper="#FFFFFF",
    ink="#22262E",
    muted="#5C636E",
    grid="#E4E7EB",
    sequential=("#F7FAFD", "#D3E4F3", "#9CC6E3", "#559FCE", "#2373B2", "#08468B", "#06295A"),
    diverging=("#8C3A04", "#D0702A", "#F2B785", "#F7F7F7", "#A9C8EA", "#4B86C6", "#123F7C"),
    lines=("#EE7F4B", "#D8576B", "#B5308C", "#6C06A6", "#0A0668"),
)
PAPER = replace(LIGHT, name="paper", ink="#000000", muted="#000000", grid="#000000")
"""Theme for print: black text, thin black axes, no grid."""
DARK = Theme(
    name="dark",
    paper="#0E1117",
    ink="#E6E9EE",
    muted="#A2A9B4",
    grid="#2B313B",
    sequential=("#141A24", "#17324F", "#1B5486", "#2F7FBD", "#63A9DD", "#A8D2F2", "#EDF6FD"),
    diverging=("#FFB57A", "#DB7A35", "#7E4520", "#1B1F27", "#264E7C", "#4F8FD3", "#A9CEF5"),
    lines=("#7150C6", "#C4499E", "#E66C5C", "#FCA636", "#F5F06A"),
)


def method_colour(method: str) -> str:
    """Return the colour of a training method; all methods of extensions share one colour."""
    return METHODS.get(method, OTHER)


def aligned_colour(method: str) -> str:
    """Return the colour of a model that is compared with the base.

    The base is grey whatever its method is, so a pretrained model gets the second colour instead.
    """
    colour = method_colour(method)
    return SECOND[colour] if colour == METHODS["pretrain"] else colour


def escape_lines(text: str, width: int) -> str:
    """Return `text` escaped (`escape`), broken into lines of at most `width` characters where its words allow."""
    return "<br>".join(map(escape, textwrap.wrap(text, width, break_long_words=False) or [text]))


def escape(text: str) -> str:
    """Escape `text` so that Plotly shows it literally.

    Tags, entities, formulas, placeholders and line breaks in the data have no effect; control characters are replaced
    (`probe.texts.visible`).
    """
    return visible(
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("$", "&#36;")
        .replace("%{", "&#37;{")
        .replace("\n", "\u23ce")
        .replace("\r", "\u240d"),
        lines=True,
    )


def numbered(tokens: Sequence[str]) -> list[str]:
    """Return each token, escaped, with its position, for hover texts."""
    return [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]


def on_hover(texts: Iterable[object]) -> dict:
    """Return trace settings that show an escaped text on hover over each point."""
    return {"customdata": list(texts), "hovertemplate": "%{customdata}<extra></extra>"}


def row_axis(names: Sequence[str]) -> dict:
    """Return settings of a vertical axis with escaped names at the rows 0, 1, ... from the top."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [len(names) - 0.5, -0.5]}
    return ticks | {"showgrid": False, "zeroline": False}


def shorten(text: str, length: int = 14) -> str:
    """Return `text` cut to at most `length` characters; a cut is marked by an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def token_axis(tokens: Sequence[str], length: int = 14, most: int = MOST_TICKS) -> dict:
    """Return axis settings with a tick at each position and its token as label, so that repeated tokens stay apart.

    If there are more tokens than `most`, only every second (third, ...) is labelled.
    """
    indices = range(0, len(tokens), 1 + len(tokens) // (most + 1))
    return {
        "tickmode": "array",
        "tickvals": list(indices),
        "ticktext": [escape(shorten(tokens[index], length)) for index in indices],
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
    }


def log_axis(values: ArrayLike = ()) -> dict:
    """Return a logarithmic axis: powers of ten if the values span more than two decades, otherwise full numbers.

    Plotly's default shows the ticks between two powers of ten as a single digit (5, 2, 1, 5).

    Args:
        values: values to be drawn, if known; values that are not positive are ignored.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known) & (known > 0)]
    if not known.size:
        return {"type": "log", "tickformat": "~g"}
    low, high = float(known.min()), float(known.max())
    if high > 100 * low:
        return {"type": "log", "exponentformat": "power", "dtick": 1}
    first = 10.0 ** math.floor(math.log10(low))
    labels = [each * first for each in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= each * first <= high]
    return {"type": "log", "tickformat": "~g"} | ({"dtick": "D2"} if len(labels) > 1 else {})


def scale(colours: Iterable[str]) -> list[list]:
    """Return a Plotly colour scale of evenly spaced colours."""
    colours = list(colours)
    return [[index / (len(colours) - 1), colour] for index, colour in enumerate(colours)]


def colour_axis(
    label: str,
    *,
    low: float,
    high: float,
    kind: Kind = "sequential",
    **position: float | str,
) -> dict:
    """Return settings of a colour axis with a labelled colour bar; `position` sets the bar's x, y, len, ..."""
    bar = {
        "title": {"text": f"{label}<br>\u2009", "side": "top"},
        "thickness": 10,
        "outlinewidth": 0,
        "ticks": "outside",
    }
    return {
        "colorscale": scale(getattr(LIGHT, kind)),
        "cmin": low,
        "cmax": high,
        "colorbar": bar | {"ticklen": 3} | position,
    }


def signed_axis(label: str, bound: float, **position: float | str) -> dict:
    """Return a colour axis for values of both signs, centred on zero."""
    return colour_axis(label, low=-bound, high=bound, kind="diverging", **position)


def two_bars(share: float) -> tuple[dict, dict]:
    """Return the positions of two colour bars, one above the other; the upper one takes `share` of the height."""
    return {"len": share, "y": 1, "yanchor": "top"}, {"len": 1 - share, "y": 0, "yanchor": "bottom"}


THIN = {"color": LIGHT.muted, "width": 1}
DOTTED = THIN | {"dash": "dot"}
"""Style of reference lines, such as at 0 or at the start of a continuation."""


@lru_cache
def template(theme: Theme) -> go.layout.Template:
    """Return the Plotly template of a theme.

    The template also sets a visible colour for parts that Plotly draws in #444 or black by default. It does not set
    error bars of points, which Plotly draws in the colour of the points.
    """
    ends = {"color": theme.ink}
    black = {"gridcolor": LIGHT.grid, "showgrid": False, "showline": True, "ticks": "outside", "zeroline": False}
    ink = black if theme.name == "paper" else {}
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "tickcolor": theme.grid,
        "automargin": True,
        **ink,
        "title": {"standoff": 8, "font": {"size": 12, "color": theme.muted}},
        "tickfont": {"size": 11, "color": theme.muted},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 12, "color": theme.ink},
            "paper_bgcolor": theme.paper,
            "plot_bgcolor": theme.paper,
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 28, "b": 44},
            "hoverlabel": {"bgcolor": theme.paper, "bordercolor": theme.grid, "font": {"color": theme.ink, "size": 12}},
            "legend": {
                "orientation": "h",
                "yanchor": "bottom",
                "y": 1.02,
                "x": 0,
                "font": {"size": 12},
                "bgcolor": "rgba(0,0,0,0)",
            },
            "annotationdefaults": {
                "font": {"size": 12, "color": theme.muted},
                "showarrow": False,
                "arrowcolor": theme.muted,
            },
            "shapedefaults": {"line": {"color": theme.muted}},
            "coloraxis": {
                "colorbar": {
                    "tickcolor": theme.muted,
                    "tickfont": {"size": 11, "color": theme.muted},
                    "title": {"font": {"size": 11, "color": theme.muted}},
                }
            },
        },
        data={"bar": [{"error_x": ends, "error_y": ends}]},
    )


def lightness(colour: str) -> float:
    """Return the lightness L* (CIELAB) of a hex colour, from 0 (black) to 100 (white)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


GREYS = 20.0, 72.0
"""Minimum and maximum L* of a shade; the maximum is still visible on white."""
LEAST = 12.0
"""Minimum difference of L* between two shades; it is smaller if there are too many colours."""


def part_in_grey(colours: Sequence[str]) -> dict[str, str]:
    """Return a lighter or darker shade for each colour, so that the shades differ when printed in grey; hues are kept.

    Args:
        colours: hex colours that appear in one figure.
    """
    (low, high), least = GREYS, LEAST
    order = sorted(dict.fromkeys(colours), key=lightness)
    levels = [min(max(lightness(colour), low), high) for colour in order]
    gap = min(least, (high - low) / max(len(order) - 1, 1))
    for index in range(1, len(levels)):
        levels[index] = max(levels[index], levels[index - 1] + gap)
    for index in reversed(range(len(levels))):
        levels[index] = min(levels[index], high if index + 1 == len(levels) else levels[index + 1] - gap)
    return {colour: _at_lightness(colour, level) for colour, level in zip(order, levels, strict=True)}


def _at_lightness(colour: str, level: float) -> str:
    """Return the colour with the same hue and saturation and the lightness L* `level`."""
    hue, _, saturation = colorsys.rgb_to_hls(*(int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)))
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        parts = colorsys.hls_to_rgb(hue, middle, saturation)
        shade = "#" + "".join(f"{round(255 * part):02X}" for part in parts)
        low, high = (middle, high) if lightness(shade) < level else (low, middle)
    return shade


def new_figure(**layout: object) -> go.Figure:
    """Return an empty figure in the light theme."""
    figure = go.Figure()
    figure.update_layout(template=template(LIGHT), **layout)
    return figure


def apply(figure: go.Figure, theme: Theme) -> go.Figure:
    """Return a copy of `figure` in `theme`, with its template and colour scales.

    Control characters in its texts are replaced (`probe.texts.visible`).
    """
    other = DARK if theme is LIGHT else LIGHT
    copy = go.Figure(visible_parts(figure.to_plotly_json()))
    copy.update_layout(template=template(theme))
    swap = {
        tuple(other.sequential): scale(theme.sequential),
        tuple(other.diverging): scale(theme.diverging),
        tuple(other.lines): scale(theme.lines),
    }
    for name in copy.layout:
        if name.startswith("coloraxis") and copy.layout[name].colorscale:
            colours = tuple(colour for _, colour in copy.layout[name].colorscale)
            copy.layout[name].colorscale = swap.get(colours, copy.layout[name].colorscale)
    return copy


LETTER, LINE = 6.4, 15.0
"""Assumed width and height of a character of a label, in pixels."""
UPS = (0.0, 14.0, -14.0, 28.0, -28.0, 42.0, -42.0, 56.0, -56.0)
"""Vertical shifts of a label in pixels, in order of preference."""


def label_places(
    points: np.ndarray, texts: Sequence[str], size: tuple[int, int], avoid: np.ndarray | None = None
) -> list[tuple[float, float]]:
    """Return shifts (right, up) in pixels that place each label next to its point with the least overlap, in order.

    Args:
        points: [n 2] positions of the points in pixels from the lower left corner.
        texts: [n] labels.
        size: width and height of the figure in pixels.
        avoid: [m 2] further positions that labels should not cover, such as those of a line.
    """
    obstacles = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    obstacles += [(x - 4, y - 3, x + 4, y + 3) for x, y in (() if avoid is None else avoid)]
    shifts: list[tuple[float, float]] = []
    for (x, y), text in zip(points, texts, strict=True):
        half = LETTER * len(text) / 2
        options = [(side * (half + 10.0), up) for up in UPS for side in ((1, -1) if abs(up) < LINE + 5 else (1, -1, 0))]
        boxes = np.array([(x + a - half, y + b - LINE / 2, x + a + half, y + b + LINE / 2) for a, b in options])
        penalties = np.array([0.5 * abs(up) + 5.0 * (right < 0) for right, up in options])
        best = int((_cover(boxes, np.array(obstacles), size) + penalties).argmin())
        shifts.append(options[best])
        obstacles.append(tuple(boxes[best]))
    return shifts


def _cover(boxes: np.ndarray, others: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return how much each box (left, low, right, high) overlaps the others and leaves the figure: [n] penalties."""
    widths = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
    high = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
    outside = (-boxes[:, :2]).clip(min=0).sum(1) + (boxes[:, 2:] - np.array(size)).clip(min=0).sum(1)
    return (widths.clip(min=0) * high.clip(min=0)).sum(1) + 40 * outside
