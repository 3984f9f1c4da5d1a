"""What a reader of the Attention page chooses: a head, by its name or by a click, and the layers that are shown."""

import streamlit as st

from dashboard.components.step_views import MOST_HEADS
from dashboard.pages.attention.compute import Head, Reading
from dashboard.state import has_changed, keep
from probe.attention.reading import head_name, parse_head
from probe.texts import visible

HEAD, LAYERS, TAB = "att_head", "att_layers", "att_tab"
"""Keys of what is chosen by clicks too, or read elsewhere: the head, the layers shown, the open tab."""
SCORE, NEW = "att_score", "att_new"
"""Keys of the score of heads that is shown, and of how many tokens the last model goes on for."""
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


def take_head(points: list[dict]) -> None:
    """Choose the head that a click names."""
    custom = points[0].get("customdata")
    if custom and isinstance(custom[0], str):
        st.session_state[HEAD] = custom[0]
    elif custom and len(custom) >= 2:
        st.session_state[HEAD] = head_name((int(custom[0]), int(custom[1])))


def choose_head(reading: Reading, default: str) -> Head:
    """Let the reader choose the head to enlarge; until then it is the head that the finding names."""
    memory = "_att_default"
    before = st.session_state.get(memory)
    if before is not None and before != default and st.session_state.get(HEAD) == before:
        st.session_state[HEAD] = default
    st.session_state[memory] = default
    key = keep(HEAD, reading.heads, default)
    name = st.selectbox("Head", reading.heads, key=key, bind="query-params", format_func=visible)
    return parse_head(name)


def choose_layers(reading: Reading, head: Head) -> list[int]:
    """Return the layers that the mosaic shows; the reader chooses them where not all fit."""
    depth = max(side.read.pattern.shape[0] for side in reading.sides)
    heads = max(side.read.pattern.shape[1] for side in reading.sides)
    every = pages(depth, heads, max(len(side.read.tokens) for side in reading.sides))
    if len(every) == 1:
        return every[0]
    names = [page_name(page) for page in every]
    own = next(name for name, page in zip(names, every, strict=True) if head[0] in page)
    if has_changed("_att_layers_of", head):
        st.session_state[LAYERS] = own
    key = keep(LAYERS, names, own)
    return every[names.index(st.select_slider("Layers", names, key=key, bind="query-params"))]
