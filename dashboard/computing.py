"""Long computations: a button that states the cost, then a progress bar and a button that stops the computation."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from dashboard import models
from dashboard.sentences import duration
from probe.errors import ProbeError

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

T = TypeVar("T")


def agreed(place: "DeltaGenerator", button: str, seconds: float | None, key: str) -> bool:
    """Return whether to compute now: the cost is low, or the reader has pressed the button that states it.

    Args:
        place: container of the button.
        button: label of the button, before the cost.
        seconds: expected seconds; None if unknown.
        key: key of the button.
    """
    if seconds is not None and models.is_quick(seconds):
        return True
    cost = "the progress bar shows how long it takes" if seconds is None else f"about {duration(seconds)}"
    return place.button(f"{button} ({cost})", key=key, type="primary", icon=":material/play_arrow:")


def compute_stoppably(
    place: "DeltaGenerator", key: str, fn: Callable[..., T], *lms: "LM", say: str, **options: Any
) -> T:
    """Return the result of `compute_once`; meanwhile there is a button that stops it."""
    result = models.ready(fn, *lms, **options)
    if result is not None:
        return result
    with place.container():
        stop: Any = {"key": f"{key}-cancel", "icon": ":material/close:"}
        st.button("Cancel", help="Stops at the next step of the progress bar.", **stop)
        try:
            result = models.compute_once(fn, *lms, say=say, steps=True, **options)
        except ProbeError:
            place.empty()  # there is nothing left to cancel
            raise
    place.empty()
    return result
