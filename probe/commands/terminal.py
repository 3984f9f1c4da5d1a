"""Untrusted text in a terminal: a run's name or an error is shown as it is, and never acts."""

from probe.texts import visible


def safe(value: object) -> str:
    """`value` as text for rich on one line: no markup in it is followed, and no control character is left in it."""
    from rich.markup import escape

    return escape(visible(value))
