"""References that may be opened without asking: the run directories, and what the person of this session named.

A link can contain any path or hub id, which is looked up only after the person's consent.
"""

from collections.abc import Iterable
from contextlib import suppress

import streamlit as st
from streamlit.errors import StreamlitDuplicateElementKey

from dashboard import access
from dashboard.markdown import escape_markdown, guard_callback, note
from probe.errors import ModelError, brief
from probe.model.references import place, split_readout
from probe.runs.directories import stray_link

NAMED = "_named"


def name_all(references: Iterable[str]) -> None:
    """Record what the person typed, chose or agreed to; read-only readers cannot name anything."""
    if access.may_write():
        st.session_state.setdefault(NAMED, set()).update(references)


@guard_callback
def name_choice(key: str) -> None:
    """Record a choice in a widget; as its `on_change` this is never called for values from a link."""
    if st.session_state[key]:
        name_all([str(st.session_state[key]).strip()])


def may_look_up(ref: str) -> bool:
    """Return whether a model, or files separated by commas, may be looked up: in the run directories, or named."""
    if ref in st.session_state.get(NAMED, ()):
        return True
    if "," in ref and not all(may_look_up(part.strip()) for part in ref.split(",")):
        return False
    base = ref
    with suppress(ModelError):
        base, _ = split_readout(ref)
    return stray_link(place(base)) is None


def may_open(ref: str) -> bool:
    """Return whether a model may be looked up; if not, draw a sentence and a button that lets the person open it.

    The sentence does not reveal whether anything exists there.
    """
    if may_look_up(ref):
        return True
    sentence = (
        f"`{brief(ref)}` comes from a link and is in none of the run directories: it is looked up, as a local"
        " folder or a model of the Hugging Face hub, only if you open it."
    )
    if offer(sentence, f"Open {brief(ref, 60)}", f"open-{ref}", writes=True):
        name_all([ref])
        st.rerun()
    return False


def offer(sentence: str, action: str, key: str, *, writes: bool = False) -> bool:
    """Draw a sentence and a button below it, and return whether the button was pressed.

    An offer that is made twice on a page is shown once.

    Args:
        sentence: sentence above the button.
        action: label of the button.
        key: key of the button.
        writes: whether the button is disabled for read-only readers.
    """
    slot = st.container()
    try:
        click = st.button(escape_markdown(action), key=key, **(access.button() if writes else {}))
    except StreamlitDuplicateElementKey:
        return False
    with slot:
        note(sentence)
    return click
