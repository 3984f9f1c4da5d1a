"""Untrusted text in a terminal: a run's name or an error is shown as it is, and never acts."""

from probe.texts import visible


def safe(value: object) -> str:
    """Return `value` as text for rich on one line, without markup that is followed and without control characters."""
    from rich.markup import escape

    return escape(visible(value))
