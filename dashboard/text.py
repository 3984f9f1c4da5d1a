"""Text from data on a page: shown letter by letter, never as markup."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from probe.errors import ProbeError

_JOINER = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_LATE = re.compile(r"(?<!\S)([<>~-])(?=[->=]+(?!\S))|(:|@|www)(?=\S)")


def plain(text: object) -> str:
    """`text` such that Streamlit's Markdown shows exactly its letters, on one line.

    Every sign of punctuation is escaped. Links, arrows and `:name:` icons are looked for after escapes are resolved;
    an invisible word joiner keeps those from being found.
    """
    line = " ".join(str(text).split())
    return _PUNCTUATION.sub(r"\\\1", _LATE.sub(rf"\g<0>{_JOINER}", line))


def finding(sentence: str) -> None:
    """The page's answer in one sentence, above everything else."""
    st.subheader(plain(sentence), anchor=False)


def note(text: str) -> None:
    """A small line of explanation."""
    st.caption(plain(text))


@contextmanager
def guard() -> Iterator[None]:
    """A user's mistake inside becomes one sentence on the page instead of a traceback."""
    try:
        yield
    except ProbeError as error:
        st.error(plain(error))
