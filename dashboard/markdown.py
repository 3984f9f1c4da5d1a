"""Text from data on a page: shown literally, never as markup."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.errors import FragmentHandledException
from streamlit.runtime.scriptrunner import add_script_run_ctx

from dashboard.error_report import report, sentence, tell
from probe.errors import ProbeError, is_failure
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

DELAY_S = 0.5
"""Seconds that the previous sentence stays while the next one is computed."""

_PLACE: ContextVar["DeltaGenerator | None"] = ContextVar("place", default=None)
"""Container of the sentence of this thread's page, until the sentence is drawn."""

_SAID: ContextVar[str] = ContextVar("said", default="")
"""The last sentence that was drawn on this thread's page."""

_JOINER = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_CODE = re.compile(r"`([^`]+)`")
_LATE = re.compile(r"(?<!\S)([<>~-])(?=[->=]+(?!\S))|(:|@|www)(?=\S)")


def escape_markdown(text: object) -> str:
    """Escape `text` so that Streamlit's Markdown shows exactly its characters, on one line.

    All punctuation is escaped. Streamlit searches for links, arrows and `:name:` icons after escapes are resolved; an
    invisible word joiner prevents matches.
    """
    return _escape_line(visible(" ".join(str(text).split())))


def prose(text: object) -> str:
    """Convert a generated sentence to Markdown: text in backticks becomes code, all else is escaped.

    Code is shown literally too, so data in such a sentence are never interpreted.
    """
    parts = _CODE.split(visible(" ".join(str(text).split())))
    return "".join(f"`{part}`" if index % 2 else _escape_line(part) for index, part in enumerate(parts))


def _escape_line(line: str) -> str:
    return _PUNCTUATION.sub(r"\\\1", _LATE.sub(rf"\g<0>{_JOINER}", line))


HEADLINE = 200
"""Largest number of characters of a heading, two lines of a page; the rest is shown below it in normal size."""
_ENDS = re.compile(r"[.;] ")
_PAIRS = (("(", ")"), ("[", "]"), ("\u201c", "\u201d"))


def finding(sentence: str) -> None:
    """Show the page's answer in one sentence above everything else.

    Of a long sentence only the first clauses are shown there, the rest below them.
    """
    _PLACE.set(None)
    _SAID.set(sentence)
    head, rest = split_finding(" ".join(sentence.split()))
    st.subheader(prose(head), anchor=False)
    if rest:
        st.markdown(prose(rest))


def say(sentence: str) -> None:
    """Draw the sentence of a tab."""
    _SAID.set(sentence)
    st.markdown(prose(sentence))


def last_sentence() -> str:
    """Return the last sentence that the page has drawn, as readers of the screen hear it with a figure; else ''."""
    return " ".join(_SAID.get().replace("`", "").split())


def split_finding(sentence: str) -> tuple[str, str]:
    """Split a long sentence into the clauses that fit into `HEADLINE`, at least the first one, and the others.

    A clause ends with a semicolon or a full stop outside brackets, quotations and code.
    """
    if len(sentence) <= HEADLINE:
        return sentence, ""
    ends = [match.start() for match in _ENDS.finditer(sentence) if _is_whole(sentence[: match.start()])]
    fitting = [end for end in ends if end < HEADLINE]
    if not ends:
        return sentence, ""
    end = fitting[-1] if fitting else ends[0]
    return f"{sentence[:end]}.", "Also: " * (sentence[end] == ";") + sentence[end + 2 :]


def _is_whole(text: str) -> bool:
    """Return whether all brackets, quotations and code of a text are closed."""
    return text.count("`") % 2 == 0 and all(text.count(first) <= text.count(last) for first, last in _PAIRS)


def sentence_place() -> "DeltaGenerator":
    """Reserve a place at the top of a page for its sentence, which is known only after later parts are computed."""
    place = st.empty()
    _PLACE.set(place)
    return place.container()


def pending_place() -> "DeltaGenerator":
    """Return a container in the place of the page's sentence, if it is not drawn yet, else at the end of the page."""
    place = _PLACE.get()
    return (place or st).container()


def forget_sentence_place() -> None:
    """Stop changing the sentence of the page, which is drawn completely."""
    _PLACE.set(None)
    _SAID.set("")


@contextmanager
def spin(say: str) -> Iterator[None]:
    """Show a spinner with a message here and in the place of a pending sentence.

    It replaces the sentence of another tab or of other choices, which Streamlit would leave there in grey.

    Args:
        say: message, as Markdown.
    """
    place, lock, over, replaced = _PLACE.get(), Lock(), False, False

    def replace() -> None:
        nonlocal replaced
        with lock:
            if place is not None and not over:
                place.caption(say)
                replaced = True

    timer = Timer(DELAY_S, replace)
    add_script_run_ctx(timer)
    timer.start()
    try:
        with st.spinner(say, show_time=True):
            yield
    finally:
        timer.cancel()
        with lock:
            over = True
        if place is not None and replaced:
            place.container()


def note(text: str) -> None:
    """Show a small line of explanation."""
    st.caption(prose(text))


@contextmanager
def guard() -> Iterator[None]:
    """Turn an error in this context, a user's mistake or an unexpected error, into one sentence on the page.

    An unexpected error comes with a report to copy, and its traceback is printed in the terminal. Exceptions with which
    Streamlit ends or repeats a run pass.
    """
    try:
        yield
    except ProbeError as error:
        st.error(prose(error))
    except FragmentHandledException:  # an error in an extension's fragment, already reported by Streamlit
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        report_failure(error)


def report_failure(error: BaseException) -> bool:
    """Show that something failed, with a report to copy; the traceback is printed in the terminal.

    Returns:
        True: nothing else needs to be shown, as `on_script_error` of `streamlit.App` requires.
    """
    tell(error)
    st.error(prose(sentence(error)))
    st.code(report(error), language=None)
    return True


def guard_callback(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a callback or a fragment in `guard`, since Streamlit runs these outside the page's script."""

    @wraps(function)
    def inside(*given: Any, **named: Any) -> Any:
        with guard():
            return function(*given, **named)

    return inside
