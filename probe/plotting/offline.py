"""Figures from outside Probe, as JSON, reduced to the parts that need no network.

A figure can refer to images and maps on any host, which the page or the exported file would fetch. So only listed kinds
of traces, tags in texts and embedded images are kept. Templates and maps are left out, and so are menus and sliders,
because a click on them could bring removed parts back.
"""

import re
from collections.abc import Mapping
from typing import Any

TRACES = frozenset(
    {"bar", "barpolar", "box", "candlestick", "carpet", "cone", "contour", "contourcarpet", "funnel", "funnelarea"}
    | {"heatmap", "histogram", "histogram2d", "histogram2dcontour", "icicle", "image", "indicator", "isosurface"}
    | {
        "mesh3d",
        "ohlc",
        "parcats",
        "parcoords",
        "pie",
        "quiver",
        "sankey",
        "scatter",
        "scatter3d",
        "scattercarpet",
        "scattergl",
    }
    | {"scatterpolar", "scatterpolargl", "scattersmith", "scatterternary", "splom", "streamtube", "sunburst"}
    | {"surface", "table", "treemap", "violin", "volume", "waterfall"}
)
"""Kinds of traces that need nothing but their own numbers; kinds that are drawn on maps are not listed."""

LEFT_OUT = re.compile(r"(map|mapbox|geo)\d*|template|updatemenus|sliders")
"""Pattern of the layout entries that fetch something or can cause it."""

PICTURE = re.compile(r"data:image/(png|jpe?g|gif|webp);base64,[A-Za-z0-9+/=\s]*")
"""Pattern of an image that is embedded in the figure."""

_COLOUR = r"(?:rgba?|hsla?)\([\d\s.,%/]*\)"
_STYLE = rf"(?:[A-Za-z0-9 #%.,:;-]|(?<=[:\s]){_COLOUR})*"
_TAG = rf"/?(?:b|i|em|strong|s|u|sub|sup|br|span|extra) */?>|span +style=(?:\"{_STYLE}\"|'{_STYLE}')>"
_ELSE = re.compile(rf"<(?!{_TAG})", re.IGNORECASE)


def offline(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data and layout of a figure's JSON without anything that needs the network; links become plain text.

    Args:
        figure: parsed output of `plotly.io.to_json`.
    """
    data, layout = figure.get("data"), figure.get("layout")
    traces = [trace for trace in data if isinstance(trace, dict)] if isinstance(data, list) else []
    inside = [_plain(trace) for trace in traces if trace.get("type", "scatter") in TRACES and _is_inside(trace)]
    entries = layout if isinstance(layout, dict) else {}
    whole = {key: value for key, value in entries.items() if not LEFT_OUT.fullmatch(str(key))}
    pictures = whole.get("images")
    whole["images"] = (
        [each for each in pictures if isinstance(each, dict) and _is_picture(each.get("source"))]
        if (isinstance(pictures, list))
        else []
    )
    return {"data": inside, "layout": _plain(whole)}


def _is_inside(trace: Mapping[str, Any]) -> bool:
    """Whether a trace is no image or embeds its image."""
    return trace.get("type") != "image" or trace.get("source") is None or _is_picture(trace["source"])


def _is_picture(source: object) -> bool:
    return isinstance(source, str) and PICTURE.fullmatch(source) is not None


def _plain(value: Any) -> Any:
    """Return a value whose texts show their tags literally, except for tags that only format text."""
    if isinstance(value, str):
        return _ELSE.sub("&lt;", value) if "<" in value else value
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
