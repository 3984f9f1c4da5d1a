"""Untrusted files: errors of parsers and other libraries on them become one error of Probe.

Only the call that reads the file stands inside; errors of the project's own code are not hidden here.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from probe.errors import ProbeError

RUST = "PanicException"
"""What libraries written in Rust raise where they did not foresee a file; it is no `Exception`."""


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
        if not isinstance(error, Exception) and type(error).__name__ != RUST:
            raise
        raise refuse(short(error)) from None


def short(error: object) -> str:
    """The first sentence of a message, on one line."""
    return " ".join(str(error).split()).partition(". ")[0][:240] or type(error).__name__
