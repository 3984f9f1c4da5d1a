"""An editor of the prompt as a conversation: turns with roles, which models read in their chat template."""

from typing import Any

import streamlit as st

from dashboard.markdown import guard_callback, note
from probe.model.messages import Message, parse_conversation, split_messages, write_conversation
from probe.texts import visible

ROLES = ("system", "user", "assistant")
"""Roles that the editor offers."""
MOST_TURNS = 24
"""Largest number of turns in the editor."""
TURNS, OF = "_turns", "_turns_of"
"""Keys of the turns in the editor, and of the prompt that they were read from."""


def turns_of(prompt: str) -> list[Message]:
    """Return a prompt as turns: a conversation, a text with the markers of a chat template, or a user's message."""
    messages = parse_conversation(prompt) or split_messages(prompt)
    spoken = [each for each in messages if each.role in ROLES]
    return (spoken if len(spoken) == len(messages) else [])[:MOST_TURNS] or [Message("user", prompt.strip())]


def edit_conversation(key: str) -> None:
    """Draw a button that opens the editor of the prompt with this key of the session."""
    with st.popover("Turns", icon=":material/forum:", help="Give the prompt as a conversation: turns with roles."):
        _editor(key)


@st.fragment
@guard_callback
def _editor(key: str) -> None:
    prompt = str(st.session_state.get(key) or "")
    if st.session_state.get(OF) != prompt:
        st.session_state[OF] = prompt
        _set(turns_of(prompt))
    turns = _read()
    for number, turn in enumerate(turns):
        left, middle, right = st.columns([3, 9, 1], vertical_alignment="bottom", gap="small")
        with left:
            options = list(dict.fromkeys([*ROLES, turn.role]))
            st.selectbox(f"Turn {number + 1}", options, key=_key(number, "role"), format_func=visible)
        with middle:
            st.text_area(f"Text of turn {number + 1}", key=_key(number, "text"), height=68)
        with right:
            alone, hint = len(turns) == 1, f"Remove turn {number + 1}"
            look: Any = {"icon": ":material/close:", "help": hint, "key": _key(number, "remove"), "disabled": alone}
            st.button("", on_click=_remove, args=(number,), **look)
    with st.container(horizontal=True):
        st.button("Add a turn", icon=":material/add:", on_click=_add, disabled=len(turns) >= MOST_TURNS)
        used = st.button("Use as the prompt", type="primary", on_click=_use, args=(key,))
    note(
        "Models read it in the chat template of the aligned model, or of the only one, which opens the answer. The"
        " prompt holds it as JSON."
    )
    if used:
        st.rerun()


def _key(number: int, part: str) -> str:
    return f"{TURNS}-{part}-{number}"


def _read() -> list[Message]:
    """Return the turns as they stand in the widgets."""
    turns: list[Message] = st.session_state[TURNS]
    for number, turn in enumerate(turns):
        for part, value in zip(("role", "text"), turn, strict=True):
            st.session_state.setdefault(_key(number, part), value)
    places = range(len(turns))
    return [Message(*(str(st.session_state[_key(number, part)]) for part in ("role", "text"))) for number in places]


def _set(turns: list[Message]) -> None:
    """Make these the turns in the widgets."""
    for number in range(MOST_TURNS):
        for part in ("role", "text"):
            st.session_state.pop(_key(number, part), None)
    st.session_state[TURNS] = turns


@guard_callback
def _add() -> None:
    turns = _read()
    _set([*turns, Message("assistant" if turns[-1].role == "user" else "user", "")])


@guard_callback
def _remove(number: int) -> None:
    turns = _read()
    _set(turns[:number] + turns[number + 1 :])


@guard_callback
def _use(key: str) -> None:
    turns = _read()
    text = write_conversation([each for each in turns if each.text.strip()])
    if parse_conversation(text):
        st.session_state[key] = st.session_state[OF] = text
        _set(turns)
