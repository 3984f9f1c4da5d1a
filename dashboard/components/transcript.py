"""Transcripts: whole prompts and answers with their scores as plain text, and keys that walk through a list of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from dashboard.markdown import escape_markdown, guard_callback, note
from probe.model.messages import split_messages
from probe.texts import visible

PREVIOUS_KEY, NEXT_KEY = "P", "N"
"""Keys of the keyboard; Streamlit ignores them while a text is typed."""
SIDE_BY_SIDE = 3
"""Largest number of answers side by side."""
TALL, TALL_HEIGHT = 2500, 440
"""Number of characters or fifty times the number of lines above which a text scrolls, and its height in pixels."""
MOST = 200_000
"""Largest number of characters of a text that are sent to the browser."""


@dataclass(frozen=True)
class Reply:
    """An answer with its scores."""

    label: str
    """Name of the model, or of the answer."""
    prompt: str
    """Exact prompt."""
    text: str | None
    """Whole answer; None if none was recorded."""
    scores: Mapping[str, str] = field(default_factory=dict)
    """Scores by title, formatted."""
    is_right: bool | None = None
    """Verdict on the answer; None if it is unknown."""


def walk(names: Sequence[Any], key: str, then: Callable[[int], None] | None = None) -> None:
    """Draw buttons to the previous and to the next of a list, with keys, and the position of the chosen one.

    Without a choice in the list, Next chooses the first.

    Args:
        names: names in the order of the list.
        key: key of the session with the chosen name.
        then: called with the new position after a step.
    """

    @guard_callback
    def step(by: int) -> None:  # reads the choice again: keys can be faster than the page
        now = st.session_state.get(key)
        at = names.index(now) + by if now in names else 0
        if 0 <= at < len(names):
            st.session_state[key] = names[at]
            if then is not None:
                then(at)

    now = st.session_state.get(key)
    at = names.index(now) if now in names else -1
    with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):
        st.button(
            "Previous",
            key=f"{key}-previous",
            shortcut=PREVIOUS_KEY,
            on_click=step,
            args=(-1,),
            disabled=at < 1,
        )
        st.button(
            "Next",
            key=f"{key}-next",
            shortcut=NEXT_KEY,
            on_click=step,
            args=(1,),
            disabled=at + 1 >= len(names),
        )
        elsewhere = "not among these" if now is not None else "none chosen of"
        note(f"{at + 1:,} of {len(names):,}" if at >= 0 else f"{elsewhere} {len(names):,}")


def show_transcript(replies: Sequence[Reply], remark: str = "") -> None:
    """Show answers side by side below their prompt, which is shown once if it is the same for all.

    Args:
        replies: answers, at least one.
        remark: sentence about the prompt, such as the right answer.
    """
    is_shared = len({reply.prompt for reply in replies}) == 1
    if is_shared and replies[0].prompt.strip():
        with st.container(border=True):
            st.markdown("**Prompt**")
            _text(replies[0].prompt)
            if remark:
                note(remark)
    elif remark:
        note(remark)
    for start in range(0, len(replies), SIDE_BY_SIDE):
        row = replies[start : start + SIDE_BY_SIDE]
        for column, reply in zip(st.columns(len(row), gap="small"), row, strict=True):
            with column, st.container(border=True, height="stretch"):
                _reply(reply, not is_shared)


def _reply(reply: Reply, with_prompt: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{escape_markdown(reply.label)}**", width="content")
        if reply.is_right is not None:
            if reply.is_right:
                st.badge("right", icon=":material/check:", color="green")
            else:
                st.badge("wrong", icon=":material/close:", color="red")
    if with_prompt:
        _text(reply.prompt)
    if reply.text is None:
        note("No answer was recorded.")
    elif not reply.text.strip():
        note("The answer is empty.")
    else:
        _text(reply.text)
    if reply.scores:
        note("; ".join(f"{name}: {value}" for name, value in reply.scores.items()))


def _text(text: str) -> None:
    """Show a text as messages with their roles; a long one scrolls."""
    shown = text[:MOST]
    is_tall = max(len(shown), 50 * shown.count("\n")) > TALL
    with st.container(height=TALL_HEIGHT if is_tall else "content", border=False, gap="xxsmall"):
        for message in split_messages(shown):
            if message.role:
                note(message.role)
            st.text(visible(message.text, lines=True), width="stretch")
    if len(text) > MOST:
        note(f"The first {MOST:,} of {len(text):,} characters.")
