"""Untrusted files: errors of parsers and other libraries on them become one error of Probe.

Only the call that reads the file stands inside; errors of the project's own code are not hidden here.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from probe.errors import ProbeError, is_failure

_BEYOND = re.compile(r"\\ud|\d{19}", re.IGNORECASE)
"""What may be half a surrogate pair, or a whole number beyond 64 bits."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON or no text in UTF-8, or lists are nested deeper than they can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def readable(value: Any) -> Any:
    """A JSON value with U+FFFD in place of half a surrogate pair, which neither tables, pages nor files can hold."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list) else value


def sendable(value: Any) -> Any:
    """A JSON value as a page can send it: `readable`, and no whole number beyond 64 bits.

    In place of such a number stands a float, or None where it is beyond all floats.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1023 else None
    if isinstance(value, dict):
        return {readable(key): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list) else readable(value)


def parse_figure(text: str | bytes) -> Any:
    """The value of a JSON text as a figure can hold it (`sendable`).

    Raises:
        ValueError: as `parse_json`, or the text is none in UTF-8.
    """
    text = text.decode() if isinstance(text, bytes) else text
    value = parse_json(text)
    return sendable(value) if _BEYOND.search(text) else value


@contextmanager
def foreign(refuse: Callable[[str], ProbeError]) -> Iterator[None]:
    """Inside, another library reads a file; whatever it raises is handed on as the error that `refuse` makes.

    Args:
        refuse: from the reason in a few words to the error.
    """
    try:
        yield
    except ProbeError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise refuse(short(error)) from None


def short(error: object) -> str:
    """The first sentence of a message, on one line."""
    return " ".join(str(error).split()).partition(". ")[0][:240] or type(error).__name__
