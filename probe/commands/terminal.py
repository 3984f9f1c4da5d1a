"""Untrusted text in a terminal: a run's name or an error is shown as it is, and never acts."""


def printable(value: object) -> str:
    """`value` as text in which no control character is left."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value))


def safe(value: object) -> str:
    """`value` as text for rich: no markup in it is followed, and no control character reaches the terminal."""
    from rich.markup import escape

    return escape(printable(value))
