"""Options of captures, and the plan of what one capture holds so that it fits a budget of bytes.

    CaptureOptions(budget="200MB", layers=(0, 11))
    plan_capture(options, Shape(lengths=(1024,), depth=32, heads=32, width=4096, answers=2)).sentence

The plan depends only on shapes, so it is known before the first step, and all captures of a run hold the same. If
everything fits, nothing is left out. Otherwise, in this order: attention weights are stored in 8 bits; then only the
rows of the last tokens, with the heads that moved most kept whole; then lens and norms only at the last tokens.

Axes: P prompts, D blocks, H heads, T tokens, A answers.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from probe.errors import ConfigError
from probe.numbers import file_size
from probe.runs.schema import CAPTURE_AXES, CAPTURE_DTYPES, NEURONS, TOP_K

Part = Literal["attention", "lens", "attribution", "norms", "rewards"]
PARTS: tuple[Part, ...] = get_args(Part)
"""Parts of a capture; rewards stand for what a trainer measures in addition: rewards, KL and samples."""
BUDGET = "32MB"
"""Default largest size of one capture."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SHARE = 0.5
"""Share of the budget for attention that goes to the rows of the last tokens of all heads; the rest goes to heads that
are kept whole."""
Heads = tuple[tuple[int, int], ...]
"""Heads as (layer, head)."""
HEAD = re.compile(r"L(\d+)H(\d+)")


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """Choice of what captures hold."""

    parts: tuple[Part, ...] = PARTS
    """Parts to capture."""
    layers: tuple[int, ...] = ()
    """Blocks whose attention is captured; empty stands for all."""
    heads: tuple[str, ...] = ()
    """Heads whose attention is captured, such as `L3H1`; empty stands for all."""
    tokens: int = 0
    """Number of last tokens of each prompt to capture; 0 stands for all."""
    budget: str | int = BUDGET
    """Largest size of one capture, in bytes or as a text such as `200MB`; 0 stands for no limit."""

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(
                f"Captures of {', '.join(map(repr, unknown)) or 'nothing'} were requested: choose among"
                f" {', '.join(PARTS)}."
            )
        if self.tokens < 0 or min(self.layers, default=0) < 0:
            raise ConfigError(
                f"Captures of {self.tokens} tokens and of the layers {self.layers} were requested: give numbers from 0"
                " on."
            )
        odd = [head for head in self.heads if not HEAD.fullmatch(head)]
        if odd:
            raise ConfigError(f"The head {odd[0]!r} to capture was not understood: name heads like L3H1.")
        if self.layers and self.heads:
            raise ConfigError("Layers and heads to capture were both given: name the heads alone, or the layers.")
        _ = self.bytes

    @cached_property
    def bytes(self) -> int:
        """Budget in bytes; 0 stands for no limit.

        Raises:
            ConfigError: the budget is not a size.
        """
        if isinstance(self.budget, int) and not isinstance(self.budget, bool) and self.budget >= 0:
            return self.budget
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(self.budget).strip())
        if match is None or match[2].upper() not in UNITS:
            raise ConfigError(
                f"The capture budget {self.budget!r} was not understood: give a size such as 200MB, or 0."
            )
        return int(float(match[1]) * UNITS[match[2].upper()])


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes on which the size of a capture depends."""

    lengths: tuple[int, ...]
    """[P] number of tokens of each prompt."""
    depth: int
    """Number of blocks."""
    heads: int
    """Number of heads of a block; 0 if not every block has heads."""
    width: int
    """Width of the residual stream."""
    answers: int = 0
    """Largest number of answers of a prompt."""
    attributed: bool = True
    """Whether the parts of the model sum to its logits."""


@dataclass(frozen=True, kw_only=True)
class CapturePlan:
    """Plan of what every capture of a run holds."""

    parts: tuple[Part, ...]
    """Parts."""
    shape: Shape
    """Sizes of model and prompts."""
    heads: Heads
    """(layer, head) of the heads whose attention is captured."""
    rows: int
    """Number of last tokens of each prompt whose attention is captured; at most the longest prompt's length."""
    columns: int
    """Number of last tokens of each prompt at which lens and norms are captured."""
    bits: Literal[8, 16] = 16
    """Bits of an attention weight."""
    whole: int = 0
    """Number of heads of each prompt that are kept whole."""

    @property
    def everything(self) -> bool:
        """Whether attention is captured of all heads and tokens in 16 bits, as one square map for each head."""
        longest = max(self.shape.lengths)
        return self.bits == 16 and self.rows >= longest and len(self.heads) == self.shape.depth * self.shape.heads

    @property
    def attention(self) -> int:
        """Bytes of the attention weights of one capture."""
        if "attention" not in self.parts or not self.heads:
            return 0
        if self.everything:
            return 2 * len(self.shape.lengths) * len(self.heads) * max(self.shape.lengths) ** 2
        prompts, count = len(self.shape.lengths), len(self.heads)
        cells = count * tail_cells(self.shape.lengths, self.rows) + self.whole * tail_cells(self.shape.lengths)
        return self.bits // 8 * cells + 4 * (2 * count + prompts * count + 2 * prompts * self.whole + 2)

    @property
    def others(self) -> int:
        """Bytes of lens, norms and attribution of one capture."""
        return _other_bytes(self.shape, self.parts, self.columns)

    @property
    def bytes(self) -> int:
        """Bytes of one capture, without what a trainer measures in addition."""
        return self.attention + self.others

    @property
    def sentence(self) -> str:
        """Description of what a capture holds."""
        longest, clauses = max(self.shape.lengths), list[str]()
        if self.attention:
            all_heads = len(self.heads) == self.shape.depth * self.shape.heads
            count = self.shape.depth * self.shape.heads
            whose = f"all {count:,} heads" if all_heads else f"{len(self.heads):,} of {count:,} heads"
            rows = "" if self.rows >= longest else f" from {_last(self.rows)}"
            kept = f", and of the {self.whole} that moved most from all tokens" if self.whole else ""
            clauses.append(f"{'8-bit ' * (self.bits == 8)}attention of {whose}{rows}{kept}")
        read = [part for part in ("lens", "norms") if part in self.parts]
        if read:
            where = "" if self.columns >= longest else f" at {_last(self.columns)}"
            clauses.append(f"{' and '.join(read)}{where}")
        clauses += [part for part in ("attribution", "rewards") if part in self.parts]
        return f"A capture holds {'; '.join(clauses)}."


def _last(count: int) -> str:
    return "the last token" if count == 1 else f"the last {count:,} tokens"


def tail_cells(lengths: tuple[int, ...], rows: int | None = None) -> int:
    """Return the number of causal weights of a head in the last `rows` rows of each prompt; None is all rows."""
    kept = (min(length, length if rows is None else rows) for length in lengths)
    return sum(size * (2 * length - size + 1) // 2 for length, size in zip(lengths, kept, strict=True))


def plan_capture(options: CaptureOptions, shape: Shape) -> CapturePlan:
    """Plan what captures hold.

    Raises:
        ConfigError: a layer or head does not exist, or the smallest capture exceeds the budget.
    """
    longest = max(shape.lengths)
    every = _chosen_heads(options, shape) if "attention" in options.parts else ()
    tokens, budget = min(options.tokens or longest, longest), options.bytes

    def plan(
        columns: int = tokens, rows: int = tokens, bits: Literal[8, 16] = 16, whole: int = 0, heads: Heads = every
    ) -> CapturePlan:
        return CapturePlan(
            parts=options.parts, shape=shape, heads=heads, rows=rows, columns=columns, bits=bits, whole=whole
        )

    for complete in (plan(), plan(bits=8)):
        if not budget or complete.bytes <= budget:
            return complete
    for_others = budget * SHARE if every else budget
    columns = bisect_right(range(1, tokens + 1), for_others, key=lambda count: plan(count).others)
    if columns and not every:
        return plan(columns)
    for stride in range(1, shape.depth + 1 if columns else 0):  # fewer layers only if not even one row of all fits
        heads = tuple(pair for pair in every if pair[0] % stride == 0)
        fitted = _fit_rows(plan(columns, 1, 8, 0, heads), budget, tokens)
        if heads and fitted is not None:
            return fitted
    raise ConfigError(
        f"The smallest capture of {len(shape.lengths)} prompts of up to {longest:,} tokens takes"
        f" {file_size(plan(1, 1, 8).bytes)}, more than the budget of {file_size(budget)}: give a larger budget, fewer"
        " prompts, or fewer parts."
    )


def _fit_rows(plan: CapturePlan, budget: int, tokens: int) -> CapturePlan | None:
    """Return a plan of one row with as many rows and whole heads as fit; None if not even one row fits."""
    room, rows = budget - plan.others, 0
    for limit in (room * SHARE, room):
        rows = rows or bisect_right(range(1, tokens + 1), limit, key=lambda count: replace(plan, rows=count).attention)
    if not rows:
        return None
    plan = replace(plan, rows=rows)
    if rows == tokens:  # the rest is for the lens
        columns = bisect_right(range(1, tokens + 1), budget, key=lambda count: replace(plan, columns=count).bytes)
        return replace(plan, columns=columns)
    one = tail_cells(plan.shape.lengths) + 8 * len(plan.shape.lengths)
    return replace(plan, whole=min(len(plan.heads), (budget - plan.bytes) // one))


def _chosen_heads(options: CaptureOptions, shape: Shape) -> Heads:
    """Return (layer, head) of the heads to capture.

    Raises:
        ConfigError: one does not exist.
    """
    every = [(layer, head) for layer in range(shape.depth) for head in range(shape.heads)]
    named = [(int(match[1]), int(match[2])) for head in options.heads if (match := HEAD.fullmatch(head))]
    missing = [f"L{layer}H{head}" for layer, head in named if (layer, head) not in every]
    missing += [f"L{layer}" for layer in options.layers if layer >= shape.depth]
    if missing and every:
        raise ConfigError(
            f"{missing[0]} cannot be captured: the model has {shape.depth} layers of {shape.heads} heads, counted from"
            " 0."
        )
    wanted = {*named} if named else {pair for pair in every if not options.layers or pair[0] in options.layers}
    return tuple(pair for pair in every if pair in wanted)


PART_OF: dict[str, Part] = {
    "attribution": "attribution",
    "promoted": "attribution",
    "neuron": "attribution",
    "residual": "norms",
    "lens": "lens",
    "entropy": "lens",
    "margin": "lens",
}
"""First word of a tensor's name to the part of a capture that it belongs to."""


def part_of(tensor: str) -> Part:
    """Return the part of a capture to which one of the recorder's tensors belongs."""
    return PART_OF[tensor.partition("_")[0]]


def _other_bytes(shape: Shape, parts: Collection[Part], columns: int) -> int:
    """Return the bytes of all tensors of a capture but attention, and of the number of columns."""
    sizes = {"P": len(shape.lengths), "D": shape.depth, "H": shape.heads, "T": min(columns, max(shape.lengths))}
    sizes |= {"A": shape.answers, "k": TOP_K, "n": NEURONS, "d": shape.width}
    total = 4
    for name, axes in CAPTURE_AXES.items():
        if name.partition("_")[0] not in PART_OF or part_of(name) not in parts:
            continue
        if part_of(name) == "attribution" and not (shape.attributed and shape.heads):
            continue
        counts = (int(axis) if axis.isdigit() else sizes[axis[0]] + axis.endswith("+1") for axis in axes.split())
        total += int(CAPTURE_DTYPES[name].removeprefix("float").removeprefix("int")) // 8 * math.prod(counts)
    return total
