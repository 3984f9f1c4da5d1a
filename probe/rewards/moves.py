"""Changes of rewards in words: a verb, and a size with its interval; a negligible change "hardly moves" the reward."""

from collections.abc import Mapping
from typing import Any

from probe import stats
from probe.numbers import format_interval
from probe.terms import smallest_effect


def direction(value: float) -> str:
    """Return the verb for a change's sign: "raises" or "lowers"."""
    return "raises" if value > 0 else "lowers"


def describe_move(row: Mapping[str, Any], name: str, what: str, unit: str) -> tuple[str, str]:
    """Return a verb, and what changed by how much; the verb is "hardly moves" below the smallest relevant effect.

    Args:
        row: row with the value, and its interval under `_low` and `_high`.
        name: name of the value.
        what: name of what changed, in words.
        unit: "nats" or "score".
    """
    value, low, high = (float(row[name + end]) for end in ("", "_low", "_high"))
    words = " nats" if unit == "nats" else ""
    if not stats.beyond(low, high, smallest_effect(unit)):
        return "hardly moves", f"{what} ({format_interval(value, low, high)}{words})"
    size = format_interval(value, low, high) if value > 0 else format_interval(-value, -high, -low)
    return direction(value), f"{what} by {size}{words}"


def join_moves(moves: list[tuple[str, str]]) -> str:
    """Join changes into a sentence; a verb equal to the previous one is not repeated."""
    verbs = [verb if not index or verb != moves[index - 1][0] else "" for index, (verb, _) in enumerate(moves)]
    return " and ".join(f"{verb} {what}".strip() for verb, (_, what) in zip(verbs, moves, strict=True))
