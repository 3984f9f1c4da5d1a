"""Untrusted text in a terminal: a run's name or an error is shown literally and has no effect."""

from probe.texts import visible


def safe(value: object) -> str:
    """Return `value` as one line of text for rich, with markup escaped and without control characters."""
    from rich.markup import escape

    return escape(visible(value))
