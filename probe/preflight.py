"""How large a capture will be before it is made, and what to take instead where memory does not suffice.

The activations' sizes come from `probe.growth` and are exact; names that share their memory count once. What comes and
goes while a layer is computed is bounded from above.

    preflight(lm, 4096)                              # .total, .fits, .offer; .table() by hook name
    lm.run_with_cache(text, names)                   # asks it, and says a sentence before memory ends
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import pandas as pd
from torch import Tensor

from probe.errors import ConfigError, DataError
from probe.growth import LOGITS, Law, block_of, growth_law
from probe.lm import LM
from probe.memory import free_bytes, readable
from probe.scoring import check_lengths

KEEP = 0.9
"""Share of the free memory that a capture may take by default: the allocator adds a little, and others need some."""


@dataclass(frozen=True)
class Capture:
    """A smaller capture that fits."""

    what: str
    """What to do, as words."""
    names: tuple[str, ...]
    """Its hook names."""
    batch: int
    """Texts at a time."""
    length: int
    """Tokens of a text."""
    total: int
    """Bytes it needs in all."""


@dataclass(frozen=True)
class Preflight:
    """What a capture will need."""

    names: tuple[str, ...]
    """Hook names that are kept."""
    batch: int
    """Number of texts."""
    length: int
    """Tokens of the longest."""
    bytes: dict[str, int]
    """Bytes by hook name; names that share memory each show it."""
    growth: dict[str, str]
    """How each grows with the length: constant, linear or quadratic."""
    cache: int
    """Bytes of all activations that are kept, shared memory counted once."""
    logits: int
    """Bytes of the logits, where no kept activation is them."""
    working: int
    """Bytes that come and go while one layer is computed: an upper bound."""
    free: int | None
    """Bytes that are free now; None where the system does not say."""
    budget: int | None
    """Bytes that the capture may take; None is no limit."""
    offers: tuple[Capture, ...]
    """Smaller captures that fit, the largest first; empty where the capture itself fits."""
    instead: str = ""
    """What else can be done, as words."""

    @property
    def total(self) -> int:
        """Bytes that are needed at the peak."""
        return self.cache + self.logits + self.working

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.budget is None or self.total <= self.budget

    @property
    def offer(self) -> str:
        """What to take instead, in one sentence; empty where the capture fits."""
        if self.fits:
            return ""
        ways = [f"{offer.what} ({readable(offer.total)})" for offer in self.offers]
        ways += [self.instead] if self.instead else []
        ways = ways or ["use a smaller model or a machine with more memory"]
        return f"{', '.join(ways[:-1])}{', or ' if len(ways) > 1 else ''}{ways[-1]}"

    @property
    def sentence(self) -> str:
        """What is needed, what there is, and what to take instead."""
        several = f"{self.batch} texts of " if self.batch > 1 else ""
        need = f"A capture of {several}{self.length:,} tokens needs {readable(self.total)}"
        if self.budget is None:
            return f"{need}."
        if self.fits:
            return f"{need} of the {readable(self.budget)} that it may take."
        return f"{need} and may take {readable(self.budget)}: {self.offer}."

    def table(self) -> pd.DataFrame:
        """One row a hook name: name, layer (-1 outside of blocks), growth, bytes."""
        return pd.DataFrame(
            {
                "name": self.names,
                "layer": [-1 if (block := block_of(name)) is None else block for name in self.names],
                "growth": [self.growth[name] for name in self.names],
                "bytes": [self.bytes[name] for name in self.names],
            }
        )


def preflight(
    lm: LM,
    text: str | int | Sequence[Any] | Tensor,
    names: Sequence[str] | str | None = None,
    *,
    batch: int = 1,
    budget: int | None = None,
) -> Preflight:
    """Predict the memory of `lm.run_with_cache(text, names)`.

    Args:
        lm: the model; the first time it is run on a few tokens.
        text: as in `LM.run_with_cache`, or a number of tokens.
        names: hook names, old or canonical; None is every one.
        batch: number of texts where `text` is a number of tokens.
        budget: bytes that may be taken; default: nine tenths of what is free on the model's device.

    Raises:
        ConfigError: an unknown name, or a number that is not positive.
        DataError: no text, or one longer than the model's context.
        ModelError: the architecture cannot be hooked.
    """
    from probe.bridge import check_names

    batch, length = (batch, int(text)) if isinstance(text, Integral) else lm._batch(text)[0].shape
    check_lengths(lm.model, [], [length])
    if min(length, batch, 1 if budget is None else budget) < 1:
        raise ConfigError(
            f"batch={batch}, length={length} and budget={budget} were given for a capture: give positive numbers."
        )
    law = growth_law(lm)
    kept = tuple(law.holds) if names is None else (names,) if isinstance(names, str) else tuple(names)
    kept = tuple(name for name in kept if name != LOGITS)
    check_names(lm.bridge, kept)
    free = free_bytes(lm.device)
    room = int(KEEP * free) if budget is None and free is not None else budget
    parts = _parts(law, kept, batch, length, lm.dtype.itemsize)
    short = room is not None and sum(parts) > room
    streams = lm.model._can_set_attn_implementation() and any(law.kind(name) == "quadratic" for name in kept)
    return Preflight(
        names=kept,
        batch=batch,
        length=length,
        bytes={name: law.size([name], batch, length) for name in kept},
        growth={name: law.kind(name) for name in kept},
        cache=parts[0],
        logits=parts[1],
        working=parts[2],
        free=free,
        budget=room,
        offers=_offers(law, kept, batch, length, lm.dtype.itemsize, room) if short and room is not None else (),
        instead="read the attention with `attention_statistics`, which keeps no pattern" if short and streams else "",
    )


def require_room(
    lm: LM, text: str | Sequence[Any] | Tensor, names: Sequence[str] | str | None = None, *, budget: int | None = None
) -> None:
    """Raise a DataError unless there is room for `lm.run_with_cache(text, names)`; it says what fits instead.

    Raises:
        DataError: see above.
        ConfigError, ModelError: as in `preflight`.
    """
    plan = preflight(lm, text, names, budget=budget)
    if not plan.fits:
        raise DataError(plan.sentence)


def _parts(law: Law, names: Sequence[str], batch: int, length: int, itemsize: int) -> tuple[int, int, int]:
    """Bytes of the activations, of the logits beside them, and of what comes and goes."""
    cache = law.size(names, batch, length)
    return cache, law.size([*names, LOGITS], batch, length) - cache, law.working(batch, length, itemsize)


def _offers(law: Law, names: tuple[str, ...], batch: int, length: int, itemsize: int, room: int) -> tuple[Capture, ...]:
    """Smaller captures that fit: without quadratic names, of fewer texts, of fewer layers, of a shorter text."""

    def capture(what: str, kept: Sequence[str], texts: int, tokens: int) -> Capture | None:
        total = sum(_parts(law, kept, texts, tokens, itemsize))
        return Capture(what, tuple(kept), texts, tokens, total) if total <= room else None

    def layers(count: int) -> list[str]:
        return [name for name in names if (block := block_of(name)) is None or block in depth[:count]]

    depth = sorted({block for name in names if (block := block_of(name)) is not None})
    linear = [name for name in names if law.kind(name) != "quadratic"]
    texts = _largest(batch - 1, lambda count: capture("", names, count, length) is not None)
    deep = _largest(len(depth) - 1, lambda count: capture("", layers(count), batch, length) is not None)
    tokens = _largest(length - 1, lambda count: capture("", names, batch, count) is not None)
    without = "leave out attention scores and patterns, which grow with the square of the text"
    found = [
        capture(without, linear, batch, length) if 0 < len(linear) < len(names) else None,
        capture(f"capture {texts} of the {batch} texts at a time", names, texts, length) if texts else None,
        capture(f"capture {deep} of the {len(depth)} layers at a time", layers(deep), batch, length) if deep else None,
        capture(f"shorten the text to {tokens:,} tokens", names, batch, tokens) if tokens else None,
    ]
    return tuple(sorted(filter(None, found), key=lambda offer: -offer.total))


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to `most` that fits, 0 where none does; what fits stays so for smaller counts."""
    low, high = 0, most
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
