"""Input for an integer that is kept in the URL."""

import math
from typing import Any

import streamlit as st


def number_input(*given: Any, key: str, bind: Any = "query-params", **named: Any) -> Any:
    """Draw `st.number_input` for an integer; an infinite one in a link is dropped from the URL.

    Streamlit converts the text to an int before it checks the bounds, which fails for infinity.
    """
    if bind and _is_infinite(st.query_params.get(key)):
        del st.query_params[key]
        st.rerun()  # the widget uses the URL as of the start of the run
    return st.number_input(*given, key=key, bind=bind, **named)


def _is_infinite(text: str | None) -> bool:
    try:
        return math.isinf(float(text or 0))
    except ValueError:
        return False
