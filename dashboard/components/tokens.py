"""Texts as rows of token chips, coloured by strength, with details on hover; a click chooses a token."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import streamlit as st

from probe.plotting.chips import TokenRow
from probe.texts import visible_parts

HERE = Path(__file__).parent


@st.cache_resource(show_spinner=False)
def _component() -> Callable:
    """Register the browser's component once per server; texts are passed as data and inserted as `textContent`."""
    return st.components.v2.component(
        "probe_tokens",
        html="<div id='box'>\n<div id='tokens'></div><div id='tip' role='tooltip' hidden></div>\n</div>",
        css=(HERE / "tokens.css").read_text(encoding="utf-8"),
        js=(HERE / "tokens.js").read_text(encoding="utf-8"),
    )


def token_rows(
    rows: Sequence[TokenRow], *, chosen: tuple[int, int], key: str, on_pick: Callable[[int, int], None]
) -> None:
    """Show rows of chips.

    Args:
        rows: rows of chips, from the top.
        chosen: (row, token) of the marked chip.
        key: key of the component on its page.
        on_pick: called with (row, token) when a chip is clicked, before the page runs again.
    """

    def picked() -> None:
        choice = st.session_state[key].picked
        if isinstance(choice, list) and len(choice) == 2 and all(isinstance(value, int | float) for value in choice):
            on_pick(int(choice[0]), int(choice[1]))

    shown = [asdict(replace(row, tokens=[replace(chip, inputs={}) for chip in row.tokens])) for row in rows]
    data = {"rows": visible_parts(shown), "chosen": list(chosen)}
    _component()(data={**data, "made": _first_shown_at(key, data)}, key=key, on_picked_change=picked)


def _first_shown_at(key: str, data: dict) -> int:
    """Return the time at which a session first showed these data, in microseconds; later data get a larger number.

    The browser calls the component's script through `import()`, and two calls with pending imports may arrive in either
    order: with this number the script recognises data older than those drawn.
    """
    memory = f"_{key}_made"
    last, stamp = st.session_state.get(memory, (None, 0))
    if last != data:
        stamp = max(stamp + 1, time.time_ns() // 1000)
        st.session_state[memory] = data, stamp
    return stamp
