"""Text from data on a page: shown letter by letter, never as markup."""

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

from dashboard.report import report, sentence, tell
from probe.errors import ProbeError, is_failure
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

DELAY_S = 0.5
"""Seconds that the sentence before stays while the next one is computed."""

_PLACE: ContextVar["DeltaGenerator | None"] = ContextVar("place", default=None)
"""Where the sentence of the page goes that runs in this thread, as long as it is yet to come."""

_JOINER = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_CODE = re.compile(r"`([^`]+)`")
_LATE = re.compile(r"(?<!\S)([<>~-])(?=[->=]+(?!\S))|(:|@|www)(?=\S)")


def escape_markdown(text: object) -> str:
    """Escape `text` so that Streamlit's Markdown shows exactly its letters, on one line.

    Every sign of punctuation is escaped. Links, arrows and `:name:` icons are looked for after escapes are resolved;
    an invisible word joiner keeps those from being found.
    """
    return _escape_line(visible(" ".join(str(text).split())))


def prose(text: object) -> str:
    """Return a sentence of ours as Markdown: text in backticks is code, all else is as `escape_markdown` shows it.

    Code is shown letter by letter, too, so data in such a sentence stay data.
    """
    parts = _CODE.split(visible(" ".join(str(text).split())))
    return "".join(f"`{part}`" if index % 2 else _escape_line(part) for index, part in enumerate(parts))


def _escape_line(line: str) -> str:
    return _PUNCTUATION.sub(r"\\\1", _LATE.sub(rf"\g<0>{_JOINER}", line))


HEADLINE = 200
"""Letters of a heading, two lines of a page; what is beyond them stands below it in the size of the text."""
_ENDS = re.compile(r"[.;] ")
_PAIRS = (("(", ")"), ("[", "]"), ("\u201c", "\u201d"))


def finding(sentence: str) -> None:
    """Show the page's answer in one sentence above everything else.

    Of a long sentence the first clauses are shown there, and the rest below them.
    """
    _PLACE.set(None)
    head, rest = split_finding(" ".join(sentence.split()))
    st.subheader(prose(head), anchor=False)
    if rest:
        st.markdown(prose(rest))


def split_finding(sentence: str) -> tuple[str, str]:
    """Split a long sentence into the clauses that fit into `HEADLINE`, the first one in any case, and all others.

    A clause ends with a semicolon or a full stop that no bracket, quotation or code encloses.
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
    """Return whether every bracket, quotation and code of a text has its end."""
    return text.count("`") % 2 == 0 and all(text.count(first) <= text.count(last) for first, last in _PAIRS)


def sentence_place() -> "DeltaGenerator":
    """Keep a place at the top of a page for its sentence, which is known only after what follows there."""
    place = st.empty()
    _PLACE.set(place)
    return place.container()


def forget_sentence_place() -> None:
    """Leave the sentence of the page as it is from here on."""
    _PLACE.set(None)


@contextmanager
def spin(say: str) -> Iterator[None]:
    """Say what happens meanwhile, with a spinner here and in the place of a sentence that is yet to come.

    The sentence of another tab or of other choices, which Streamlit leaves there in grey, is gone then.

    Args:
        say: what happens, as Markdown.
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
    """Turn an error inside into one sentence on the page, be it a user's mistake or an error that nobody foresaw.

    The latter brings a report to copy, and its traceback is printed in the terminal. What Streamlit raises to end or
    repeat a run passes.
    """
    try:
        yield
    except ProbeError as error:
        st.error(prose(error))
    except FragmentHandledException:  # of an extension's own fragment, which Streamlit has told of
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        report_failure(error)


def report_failure(error: BaseException) -> bool:
    """Say that something failed, with a report to copy; the traceback is printed in the terminal.

    Returns:
        True: nothing else is to be shown, as `streamlit.App` asks of its `on_script_error`.
    """
    tell(error)
    st.error(prose(sentence(error)))
    st.code(report(error), language=None)
    return True


def guard_callback(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a callback or a fragment in `guard`: Streamlit runs these outside of the page that draws them."""

    @wraps(function)
    def inside(*given: Any, **named: Any) -> Any:
        with guard():
            return function(*given, **named)

    return inside
