"""One family of errors for everything a user can get wrong.

Every message is one sentence that says what was given, what was expected, and the remedy. The command line prints
it and exits with 2; the dashboard shows it in place; Python callers can catch `ProbeError` or a subclass.
"""


def one_line(text: object) -> str:
    """`text` so that it can be printed and shown anywhere: ends of lines become blanks, and what is not printable
    (control characters, half a surrogate pair) becomes the escape that Python has for it.
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
    """Whether something went wrong, and nobody asked this process to end (Ctrl-C, `sys.exit`)."""
    return isinstance(error, Exception) or type(error).__name__ == RUST


def brief(text: str, most: int = 120) -> str:
    """What was given, as a sentence quotes it: cut where it is longer than any name that a person would read."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
