"""One family of errors for everything a user can get wrong.

Every message is one sentence that says what was given, what was expected, and the remedy. The command line prints
it and exits with 2; the dashboard shows it in place; Python callers can catch `ProbeError` or a subclass.
"""

from collections.abc import Iterable


def one_line(text: object) -> str:
    """Return `text` in a form that can be printed and shown anywhere.

    Ends of lines become blanks, and what is not printable (control characters, half a surrogate pair) becomes the
    escape that Python has for it.
    """
    line = " ".join(part.strip() for part in str(text).splitlines())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


class ProbeError(Exception):
    """A mistake that the user can fix; the message says how.

    It may quote what stood in a file, so it is one line that can be printed (`one_line`).
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class ModelError(ProbeError):
    """A model reference that cannot be found, trusted or understood."""


class DataError(ProbeError):
    """A data file, prompt or tokenizer that does not have the expected form."""


class RunError(ProbeError):
    """A run directory that is missing, truncated, in use or from a newer schema."""


class AmbiguousNameError(ModelError, RunError):
    """A bare name that means several folders; the message says how each is typed."""


class ConfigError(ProbeError):
    """An option, or a combination of options, that makes no sense."""


class MissingToolError(ProbeError):
    """A program or an optional package that is needed here and is not installed."""


class TrainingStopped(ProbeError):
    """Training that ended early (a loss that is not finite, a full disk), with the last good checkpoint named."""


RUST = "PanicException"
"""What libraries written in Rust raise where they did not foresee what they read; it is no `Exception`."""


def is_failure(error: BaseException) -> bool:
    """Return whether something went wrong, and nobody asked this process to end (Ctrl-C, `sys.exit`)."""
    return isinstance(error, Exception) or type(error).__name__ == RUST


def brief(text: str, most: int = 120) -> str:
    """Return a text as a message quotes it: cut where it is longer than any name that a person would read."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


ALIKE = 0.6
"""How alike a wrong name and the one that was meant are at least (difflib's ratio of their letters, 0 to 1)."""


def near_names(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that are spelled most like `name`, the nearest first.

    Capitals, dashes before an option, and whether words are joined by `-` or `_` make no difference.

    Args:
        name: what was given.
        known: what there is.
        most: how many names at most.
    """
    from difflib import get_close_matches

    by_spelling: dict[str, str] = {}
    for each in known:
        by_spelling.setdefault(_spelling(each), each)
    return [by_spelling[each] for each in get_close_matches(_spelling(brief(name)), by_spelling, most, ALIKE)]


def suggest(name: str, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """Return the end of a sentence about a name that does not exist: `did you mean `train`?`, or what to do otherwise.

    Args:
        name: what was given.
        known: what there is.
        otherwise: the remedy where nothing is spelled alike, with its full stop.
        most: how many names at most.
    """
    near = near_names(name, known, most)
    return f"did you mean {' or '.join(f'`{each}`' for each in near)}?" if near else otherwise


def _spelling(name: str) -> str:
    return name.casefold().replace("_", "-").strip("-")
