"""What is opened without a question: the folders of runs, and what the person of this session named.

A link can bring any path or hub id. Whether there is something behind it is asked only once the person says so.
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
    """Note what the person typed, chose or agreed to; whoever may only read names nothing."""
    if access.may_write():
        st.session_state.setdefault(NAMED, set()).update(references)


@guard_callback
def name_choice(key: str) -> None:
    """Note what the person chose in a widget; as its `on_change` this is never called for values of a link."""
    if st.session_state[key]:
        name_all([str(st.session_state[key]).strip()])


def may_look_up(ref: str) -> bool:
    """Return whether a model, or files separated by commas, may be looked up: in the folders of runs, or named."""
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

    The sentence tells nothing of what is there.
    """
    if may_look_up(ref):
        return True
    sentence = (
        f"`{brief(ref)}` comes from a link and lies in none of the folders of runs: it is looked for, as a folder here "
        "or a model of the Hugging Face hub, only if you open it."
    )
    if offer(sentence, f"Open {brief(ref, 60)}", f"open-{ref}", writes=True):
        name_all([ref])
        st.rerun()
    return False


def offer(sentence: str, action: str, key: str, *, writes: bool = False) -> bool:
    """Draw a sentence and the button below it, and return whether the button was pressed.

    An offer that is made twice on a page is shown once.

    Args:
        sentence: above the button.
        action: on the button.
        key: of the button.
        writes: whoever may only read cannot press it.
    """
    slot = st.container()
    try:
        click = st.button(escape_markdown(action), key=key, **(access.button() if writes else {}))
    except StreamlitDuplicateElementKey:
        return False
    with slot:
        note(sentence)
    return click
