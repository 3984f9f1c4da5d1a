"""Tabs of which only the open one is computed; the URL keeps which one is open."""

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import streamlit as st

from dashboard.components.view import bring_into_view
from dashboard.state import has_changed, keep, tell_again

T = TypeVar("T")


def open_tab(key: str, parts: Mapping[str, Callable[[], T]], choices: Mapping[str, Collection[str]] | None = None) -> T:
    """Draw parts of a page as tabs, and return the result of the open one; a single part is drawn under its title.

    Args:
        key: key of the tabs, also their name in the URL.
        parts: title -> function that draws the part; at least one.
        choices: title -> keys of the widgets in the part: a link that sets one of them opens its tab, and they keep
            their values while another tab is open.
    """
    if len(parts) == 1:
        ((title, draw),) = parts.items()
        st.markdown(f"#### {title}")
        return draw()
    owned = {title: names for title, names in (choices or {}).items() if title in parts}
    brought = (title for title, names in owned.items() if any(name in st.query_params for name in names))
    keep(key, parts, next(brought, next(iter(parts))))
    panes = zip(parts, st.tabs(list(parts), key=key, bind="query-params"), strict=True)
    title, pane = next((title, pane) for title, pane in panes if pane.open)
    came = has_changed(f"_{key}_open", title)
    for part, names in owned.items():
        if came or part != title:
            for name in names:
                tell_again(name)
    with pane:
        if came:
            bring_into_view(key)
        return parts[title]()
