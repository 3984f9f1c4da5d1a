"""Texts as rows of tokens with a colour, a text on hover, and the inputs that a click sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Token of a row."""

    text: str
    """Token in readable form."""
    tip: str
    """Lines shown on hover."""
    strength: float = 0.0
    """Strength of the colour, from -1 to 1; 0 is uncoloured, and values below 0 have the other colour."""
    prompt: bool = False
    """Whether the token belongs to the prompt, not to the model's continuation."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Values that a click sets, by input of the analysis."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One text as a row of tokens."""

    label: str
    colour: str
    """Colour of the mark next to the label."""
    tokens: Sequence[Chip]


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """Several texts as rows of tokens, from top to bottom."""

    rows: Sequence[TokenRow]
    chosen: tuple[int, int] = (0, -1)
    """Indices of the selected row and of the selected token in it; -1 if no token is selected."""
    note: str = ""
    """Sentence that explains the colours and clicks."""
    caption: str = ""
    """Sentences below the rows."""
