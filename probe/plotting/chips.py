"""Texts as rows of tokens: each with a colour by a strength, more on hover, and what a click on it chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One token."""

    text: str
    """The readable piece."""
    tip: str
    """Lines shown on hover."""
    strength: float = 0.0
    """Colour from 0 (none) to 1; below 0 in the other colour."""
    prompt: bool = False
    """Part of what was given, not of what a model wrote."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Inputs of the analysis that a click gives these values."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One text."""

    label: str
    colour: str
    """Of the mark beside the label."""
    tokens: Sequence[Chip]


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Texts, from the top."""

    rows: Sequence[TokenRow]
    chosen: tuple[int, int] = (0, -1)
    """Row and token that are marked."""
    note: str = ""
    """What colours and clicks mean, in a sentence."""
