"""View of a chosen tab: where its content is below the fold, the page scrolls to it."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st


@st.cache_resource(show_spinner=False)
def _component() -> Callable:
    script = Path(__file__).with_name("view.js").read_text(encoding="utf-8")
    return st.components.v2.component("probe_view", html="<span></span>", js=script)


def bring_into_view(key: str) -> None:
    """Scroll to the tabs that this is called in, and keep them in view while their content is drawn.

    Args:
        key: key of the tabs.
    """
    _component()(key=f"view-{key}")
