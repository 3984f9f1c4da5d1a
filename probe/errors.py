"""Errors for users' mistakes.

Every message is one sentence that says what was given, what was expected, and the remedy. The command line prints
it and exits with 2; the dashboard shows it in place; Python callers can catch `ProbeError` or a subclass.
"""

from collections.abc import Iterable


def one_line(text: object) -> str:
    """Return `text` as one printable line.

    Line breaks become blanks, and characters that cannot be printed (control characters, half a surrogate pair) become
    Python's escapes.
    """
    line = " ".join(part.strip() for part in str(text).splitlines())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


class ProbeError(Exception):
    """A mistake that the user can fix; the message says how.

    It may quote the content of a file, so it is converted to one printable line (`one_line`).
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


class ModelError(ProbeError):
    """A model reference that cannot be found, trusted or understood."""


class MissingBaseError(ModelError):
    """The base of the real sample runs, which is not on this machine; the message names the command that fetches it."""


class DataError(ProbeError):
    """A data file, prompt or tokenizer that does not have the expected form."""


class RunError(ProbeError):
    """A run directory that is missing, truncated, in use or from a newer schema."""


class DiskError(RunError):
    """A disk that is full, or a file or folder that may not be written."""


class AmbiguousNameError(ModelError, RunError):
    """A bare name that can mean several folders; the message says how to type each."""


class ConfigError(ProbeError):
    """An invalid option or combination of options."""


class MissingToolError(ProbeError):
    """A required program or optional package that is not installed."""


class TrainingStopped(ProbeError):
    """Training that ended early (a loss that is not finite, a full disk), with the last good checkpoint named."""


RUST = "PanicException"
"""Name of the exception of Rust libraries on unexpected input; it is not a subclass of `Exception`."""


def is_failure(error: BaseException) -> bool:
    """Return whether an exception is a failure, not a request to end the process (Ctrl-C, `sys.exit`)."""
    return isinstance(error, Exception) or type(error).__name__ == RUST


def brief(text: str, most: int = 120) -> str:
    """Return a text for quotation in a message, shortened if it is longer than any readable name."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


ALIKE = 0.6
"""Smallest similarity of a wrong name and a suggested one (difflib's ratio of their characters, 0 to 1)."""


def near_names(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names with the most similar spelling to `name`, the nearest first.

    Case, leading dashes, and the difference between `-` and `_` are ignored.

    Args:
        name: the given name.
        known: known names.
        most: largest number of names.
    """
    from difflib import get_close_matches

    by_spelling: dict[str, str] = {}
    for each in known:
        by_spelling.setdefault(_spelling(each), each)
    return [by_spelling[each] for each in get_close_matches(_spelling(brief(name)), by_spelling, most, ALIKE)]


def suggest(name: str, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """Return the end of a sentence about an unknown name: `did you mean `train`?`, or another remedy.

    Args:
        name: the given name.
        known: known names.
        otherwise: remedy if no name is similar, with a full stop.
        most: largest number of names.
    """
    near = near_names(name, known, most)
    return f"did you mean {' or '.join(f'`{each}`' for each in near)}?" if near else otherwise


def _spelling(name: str) -> str:
    return name.casefold().replace("_", "-").strip("-")
