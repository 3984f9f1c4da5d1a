"""How a reward moved, in words: a verb and a size with its interval, unmoved unless it moved by what counts."""

from collections.abc import Mapping
from typing import Any

from probe import stats
from probe.numbers import format_interval
from probe.terms import smallest_effect


def direction(value: float) -> str:
    """Return whether something rises or falls."""
    return "raises" if value > 0 else "lowers"


def describe_move(row: Mapping[str, Any], name: str, what: str, unit: str) -> tuple[str, str]:
    """Return a verb, and what by how much; unmoved unless by more than the smallest effect that counts.

    Args:
        row: has the value, and its interval behind `_low` and `_high`.
        name: of the value.
        what: moved, in words.
        unit: "nats" or "score".
    """
    value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
    words = " nats" if unit == "nats" else ""
    if not stats.beyond(low, high, smallest_effect(unit)):
        return "hardly moves", f"{what} ({format_interval(value, low, high)}{words})"
    size = format_interval(value, low, high) if value > 0 else format_interval(-value, -high, -low)
    return direction(value), f"{what} by {size}{words}"


def join_moves(moves: list[tuple[str, str]]) -> str:
    """Return what moved, one after the other; a verb that is that of the one before is not said again."""
    verbs = [verb if not index or verb != moves[index - 1][0] else "" for index, (verb, _) in enumerate(moves)]
    return " and ".join(f"{verb} {what}".strip() for verb, (_, what) in zip(verbs, moves, strict=True))
