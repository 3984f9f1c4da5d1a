"""Text from data on a page: shown letter by letter, never as markup."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import streamlit as st
from streamlit.errors import FragmentHandledException

from dashboard.report import report, sentence, tell
from probe.errors import ProbeError, is_failure
from probe.texts import visible

_JOINER = "\u2060"
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_CODE = re.compile(r"`([^`]+)`")
_LATE = re.compile(r"(?<!\S)([<>~-])(?=[->=]+(?!\S))|(:|@|www)(?=\S)")


def escape_markdown(text: object) -> str:
    """`text` such that Streamlit's Markdown shows exactly its letters, on one line.

    Every sign of punctuation is escaped. Links, arrows and `:name:` icons are looked for after escapes are resolved;
    an invisible word joiner keeps those from being found.
    """
    return _escape_line(visible(" ".join(str(text).split())))


def prose(text: object) -> str:
    """A sentence of ours as Markdown: what stands between backticks is code, all else as `escape_markdown` shows it.

    Code is shown letter by letter, too, so data in such a sentence stay data.
    """
    parts = _CODE.split(visible(" ".join(str(text).split())))
    return "".join(f"`{part}`" if index % 2 else _escape_line(part) for index, part in enumerate(parts))


def _escape_line(line: str) -> str:
    return _PUNCTUATION.sub(r"\\\1", _LATE.sub(rf"\g<0>{_JOINER}", line))


HEADLINE = 200
"""Letters of a heading, two lines of a page; what is beyond them stands below it in the size of the text."""
_ENDS, _PAIRS = re.compile(r"[.;] "), ("()", "[]", "\u201c\u201d")


def finding(sentence: str) -> None:
    """The page's answer in one sentence, above everything else; of a long one the first clauses, and the rest below."""
    head, rest = split_finding(" ".join(sentence.split()))
    st.subheader(prose(head), anchor=False)
    if rest:
        st.markdown(prose(rest))


def split_finding(sentence: str) -> tuple[str, str]:
    """The clauses of a long sentence that `HEADLINE` has room for, the first one in any case, and all others.

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
    """Whether every bracket, quotation and code of a text has its end."""
    return text.count("`") % 2 == 0 and all(text.count(first) <= text.count(last) for first, last in _PAIRS)


def note(text: str) -> None:
    """A small line of explanation."""
    st.caption(prose(text))


@contextmanager
def guard() -> Iterator[None]:
    """What goes wrong inside becomes one sentence on the page: a user's mistake, or what nobody foresaw.

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
    """A callback or a fragment inside of `guard`: Streamlit runs these outside of the page that draws them."""

    @wraps(function)
    def inside(*given: Any, **named: Any) -> Any:
        with guard():
            return function(*given, **named)

    return inside
