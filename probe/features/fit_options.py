"""Options of `probe features fit`, on the command line and on the page Features; without any heavy import."""

from dataclasses import dataclass
from pathlib import Path

from probe.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Texts, block and settings of a fit."""

    data: Path | None = None
    """Texts to read: rows with `text`, `messages`, or `prompt` (and `completion` or `chosen`); or a text file. By
    default documents of the world that the models belong to, or the built-in question sets.
    """
    block: int | None = None
    """Block after which the residual stream is read (default: at half depth)."""
    features: int | None = None
    """Number of features (default: eight times the width of the residual stream)."""
    k: float = 16.0
    """Mean number of features that are active at a token."""
    steps: int = 2000
    """Number of steps."""
    batch_size: int = 512
    """Number of tokens of a step."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    n: int | None = None
    """Number of rows to draw from the file (default: all); without a file, of documents or questions of a set."""
    limit: int | None = None
    """Number of first rows of the file from which n are drawn (default: all)."""
    seed: int = 0
    """Seed of all random draws."""
    strict: bool = False
    """Refuse a file with an invalid row; otherwise such rows are skipped and counted."""

    def __post_init__(self) -> None:
        for name in ("n", "limit", "features", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; expected 1 or more.")
        if self.data is None and (self.limit is not None or self.strict):
            raise ConfigError(
                "--limit and --strict are about the rows of a file: give one with --data, or leave them out."
            )
