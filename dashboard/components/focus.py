"""Focus for popovers opened by keyboard: Streamlit puts them at the end of the page, many Tabs from their buttons."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st


@st.cache_resource(show_spinner=False)
def _component() -> Callable:
    script = Path(__file__).with_name("focus.js").read_text(encoding="utf-8")
    return st.components.v2.component("probe_focus", html="<span></span>", js=script)


def take_focus(key: str) -> None:
    """Move the focus into a popover opened by keyboard; to be called inside it, after its content.

    Args:
        key: key of this component on its page.
    """
    _component()(key=f"focus-{key}")
