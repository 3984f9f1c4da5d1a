"""Text from data as a person sees it, and the one way to print it: letter by letter, it never steers a terminal."""

import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

REPLACED = "\ufffd"
"""Replacement of a character that is not shown."""

JOINERS = "\u200b\u200c\u200d\u2060\ufeff"
"""Invisible characters that only join or part letters; scripts and emoji need them."""


_FORMAT = warnings.formatwarning


def visible(text: object, *, lines: bool = False) -> str:
    """`text` with every character that would act instead of being seen replaced by U+FFFD.

    These are control characters (escape sequences, carriage returns, bells), characters that turn the direction of
    writing or set lines apart, and halves of surrogate pairs, which no output can encode.

    Args:
        text: what is to be shown.
        lines: keep line ends and tabs.
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(letter if _is_shown(letter) or (lines and letter in "\n\t") else REPLACED for letter in whole)


def say(text: object, *, error: bool = False) -> None:
    """Print lines of text, to standard error where it is no answer of the command."""
    print(visible(text, lines=True), file=sys.stderr if error else sys.stdout, flush=True)


def console(*, error: bool = False) -> "Console":
    """A console of rich for tables and bars that prints text as `say` does."""
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        def render(self, renderable: Any, options: Any = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(visible(segment.text, lines=True), segment.style)

    return Safe(stderr=error, emoji=False, highlight=False)


def print_safely() -> None:
    """Let Python's own warnings and tracebacks be printed as `say` prints, in this process from now on."""
    sys.excepthook = lambda _kind, error, _trace: say("".join(traceback.format_exception(error)).rstrip(), error=True)
    warnings.formatwarning = lambda *given, **named: visible(_FORMAT(*given, **named), lines=True)


def _is_shown(letter: str) -> bool:
    return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) in ("Zs", "Co", "Cn")
