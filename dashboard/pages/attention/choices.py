"""What a reader of the Attention page chooses: a head, by its name or by a click, and the layers that are shown."""

import streamlit as st

from dashboard.components.step_views import MOST_HEADS
from dashboard.markdown import guard_callback
from dashboard.pages.attention.compute import Head, Reading
from dashboard.state import keep
from probe.texts import visible

HEAD, LAYERS, QUERY, TAB = "att_head", "att_layers", "att_query", "att_tab"
"""Keys of what is chosen by clicks too, or read elsewhere: the head, the layers shown, the query, the open tab."""
SCORE, WEIGHTED = "att_score", "att_weighted"
"""Keys of the score of heads that is shown, and of whether the rollout weighs heads by what they write."""
OFFERED_PAGES = "_att_pages"
"""Where the session has the pages of layers that the mosaic of this text has."""
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
        st.session_state[HEAD] = f"L{int(custom[0])}H{int(custom[1])}"
        follow_head()


@guard_callback
def follow_head() -> None:
    """Turn to the page of layers that holds the chosen head."""
    every = st.session_state.get(OFFERED_PAGES)
    layer = parse(st.session_state[HEAD])[0]
    if every and len(every) > 1:
        st.session_state[LAYERS] = page_name(next((page for page in every if layer in page), every[0]))


def choose_head(reading: Reading, default: str) -> Head:
    """Let the reader choose the head to enlarge; until then it is the head that the finding names."""
    memory = "_att_default"
    before = st.session_state.get(memory)
    if before is not None and before != default and st.session_state.get(HEAD) == before:
        st.session_state[HEAD] = default
        follow_head()
    st.session_state[memory] = default
    key = keep(HEAD, reading.heads, default)
    name = st.selectbox("Head", reading.heads, key=key, bind="query-params", on_change=follow_head, format_func=visible)
    return parse(name)


def choose_layers(reading: Reading, head: Head) -> list[int]:
    """Return the layers that the mosaic shows; the reader chooses them where not all fit."""
    depth = max(side.read.pattern.shape[0] for side in reading.sides)
    heads = max(side.read.pattern.shape[1] for side in reading.sides)
    every = pages(depth, heads, max(len(side.read.tokens) for side in reading.sides))
    st.session_state[OFFERED_PAGES] = every
    if len(every) == 1:
        return every[0]
    names = [page_name(page) for page in every]
    key = keep(LAYERS, names, next(name for name, page in zip(names, every, strict=True) if head[0] in page))
    return every[names.index(st.select_slider("Layers", names, key=key, bind="query-params"))]
