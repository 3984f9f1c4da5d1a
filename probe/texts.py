"""Display of text from data: it is shown literally and can never control a terminal."""

import re
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

REPLACED = "\ufffd"
"""Replacement for a character that is not shown."""

JOINERS = "\u200b\u200c\u200d\u2060\ufeff"
"""Invisible characters that only join or separate letters, which scripts and emoji need."""


_FORMULA = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""First characters that make a spreadsheet treat a cell as a formula, including full-width variants."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_FORMAT = warnings.formatwarning


def visible(text: object, *, lines: bool = False) -> str:
    """Return `text` with every control character replaced by U+FFFD.

    Replaced are control characters (escape sequences, carriage returns, bells), characters that change the direction of
    writing or separate lines, and halves of surrogate pairs, which no output can encode.

    Args:
        text: text to show.
        lines: keep line breaks and tabs.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(letter if _is_shown(letter) or (lines and letter in "\n\t") else REPLACED for letter in whole)


def visible_parts(value: Any) -> Any:
    """Return nested lists, dicts and arrays, such as a figure's, with every text `visible`; keys are unchanged."""
    if isinstance(value, str):
        return visible(value, lines=True)
    if isinstance(value, dict):
        return {name: visible_parts(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [visible_parts(part) for part in value]
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    return visible_parts(value.tolist()) if kind and kind in "OU" else value


def cell(text: str) -> str:
    """Return a text for a cell of CSV or TSV: `visible`, and never a formula in a spreadsheet.

    A text that begins like a formula and is not a number gets an apostrophe in front.
    """
    shown = visible(text, lines=True)
    is_formula = text.lstrip(JOINERS)[:1] in _FORMULA and not _NUMBER.fullmatch(text)
    return f"'{shown}" if is_formula else shown


def say(text: object, *, error: bool = False) -> None:
    """Print lines of text, to standard error if they are not the command's result."""
    print(visible(text, lines=True), file=sys.stderr if error else sys.stdout, flush=True)


def console(*, error: bool = False) -> "Console":
    """Make a console of rich for tables and bars that prints text like `say`."""
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        def render(self, renderable: Any, options: Any = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)

    return Safe(stderr=error, emoji=False, highlight=False)


def print_safely() -> None:
    """Print Python's warnings and tracebacks like `say`, in this process from now on."""
    sys.excepthook = lambda _kind, error, _trace: say("".join(traceback.format_exception(error)).rstrip(), error=True)
    warnings.formatwarning = lambda *given, **named: visible(_FORMAT(*given, **named), lines=True)


def _is_shown(letter: str) -> bool:
    return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) in ("Zs", "Co", "Cn")
