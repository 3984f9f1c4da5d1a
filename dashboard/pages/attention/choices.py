"""What a reader of the Attention page chooses: a head, by its name or by a click, and the layers that are shown."""

import streamlit as st

from dashboard.components.step_views import MOST_HEADS
from dashboard.markdown import guarded
from dashboard.pages.attention.compute import Head, Reading
from dashboard.state import keep

MOST_CELLS = 270_000
"""Weights that one mosaic draws: more take long to send and show no more on a screen."""


def pages(depth: int, heads: int, length: int) -> list[list[int]]:
    """Layers that one mosaic shows together: as many as keep it to `MOST_HEADS` heads and `MOST_CELLS` weights."""
    most = min(MOST_HEADS, MOST_CELLS // length**2)
    each = depth if depth * heads <= most else max(1, most // heads)
    return [list(range(first, min(first + each, depth))) for first in range(0, depth, each)]


def page_name(layers: list[int]) -> str:
    """How a page of layers is called."""
    return f"L{layers[0]}" if len(layers) == 1 else f"L{layers[0]}\u2013L{layers[-1]}"


def parse(name: str) -> Head:
    """(layer, head) of a name such as L2H1."""
    layer, _, head = name[1:].partition("H")
    return int(layer), int(head)


def take_head(points: list[dict]) -> None:
    """Choose the head that a click names."""
    custom = points[0].get("customdata")
    if custom and len(custom) >= 2:
        st.session_state["att_head"] = f"L{int(custom[0])}H{int(custom[1])}"
        follow_head()


@guarded
def follow_head() -> None:
    """Turn to the page of layers that holds the chosen head."""
    shown = st.session_state.get("_att_pages")
    layer = parse(st.session_state["att_head"])[0]
    if shown and len(shown) > 1:
        st.session_state["att_layers"] = next((page_name(p) for p in shown if layer in p), page_name(shown[0]))


def choose_head(reading: Reading, default: str) -> Head:
    """The head that the figures enlarge: the one that the finding names until the reader takes another."""
    before = st.session_state.get("_att_default")
    if before is not None and before != default and st.session_state.get("att_head") == before:
        st.session_state["att_head"] = default
        follow_head()
    st.session_state["_att_default"] = default
    keep("att_head", reading.heads, default)
    name = st.selectbox("Head", reading.heads, key="att_head", bind="query-params", on_change=follow_head)
    return parse(name)


def choose_layers(reading: Reading, head: Head) -> list[int]:
    """The layers that the mosaic shows."""
    depth = max(side.read.pattern.shape[0] for side in reading.sides)
    heads = max(side.read.pattern.shape[1] for side in reading.sides)
    every = pages(depth, heads, max(len(side.read.tokens) for side in reading.sides))
    st.session_state["_att_pages"] = every
    if len(every) == 1:
        return every[0]
    names = [page_name(page) for page in every]
    keep("att_layers", names, next(name for name, page in zip(names, every, strict=True) if head[0] in page))
    return every[names.index(st.select_slider("Layers", names, key="att_layers", bind="query-params"))]
