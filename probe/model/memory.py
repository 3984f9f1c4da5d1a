"""Memory that a capture will take, the free memory, and smaller captures that fit.

    preflight(lm, 4096)                              # .total, .fits, .offer; .table() by hook name
    lm.run_with_cache(text, names)                   # checks it, and raises an error before memory runs out

The activations' sizes are measured on the model and exact: four runs on texts of two to four tokens give the bytes of
every hook point as a polynomial in the number of tokens. It holds for any length, because a shape is a product of fixed
sizes, the number of tokens and the number of texts. Names that share their memory count once. Temporary tensors of a
layer get an upper bound.
"""

import math
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ConfigError, DataError
from probe.model.hooks import build_bridge, check_names
from probe.model.scoring import check_lengths
from probe.model.text import positions
from probe.numbers import file_size

LOGITS = "logits"
"""Name of the logits among the hook names."""

PATTERNS = 4
"""Maximum number of tensors of the size of a layer's pattern that exist at once while its attention is computed,
rounded up from measurements on six architectures (2.2 to 3.5; docs/log.md)."""


@dataclass(frozen=True)
class Growth:
    """Bytes of one piece of memory as a function of the text's length."""

    sizes: tuple[int, int, int]
    """Bytes for one text of 2, 3 and 4 tokens."""
    twice: int
    """Bytes for two texts of 4 tokens."""

    @property
    def kind(self) -> str:
        """Growth with the number of tokens: constant, linear or quadratic."""
        two, three, four = self.sizes
        return "quadratic" if four - 2 * three + two else "linear" if three - two else "constant"

    def bytes(self, batch: int, length: int) -> int:
        """Return the bytes of `batch` texts of `length` tokens."""
        two, three, four = self.sizes
        step, bend, beyond = three - two, four - 2 * three + two, length - 2
        alone = two + step * beyond + bend * beyond * (beyond - 1) // 2
        return alone + (batch - 1) * alone * (self.twice - four) // max(four, 1)


@dataclass(frozen=True)
class Law:
    """Memory of everything that one model can capture, as a function of texts and lengths."""

    pieces: tuple[Growth, ...]
    """All pieces of memory."""
    holds: dict[str, int]
    """Name of a hook point, or of the logits, to the index of its piece."""

    def size(self, names: Iterable[str], batch: int, length: int) -> int:
        """Return the bytes of activations, counting each piece once; names of inactive hook points take none."""
        return sum(self.pieces[at].bytes(batch, length) for at in {self.holds[n] for n in names if n in self.holds})

    def kind(self, name: str) -> str:
        """Return the growth of a name: constant, linear or quadratic in the number of tokens."""
        return self.pieces[self.holds[name]].kind if name in self.holds else "constant"

    def working(self, batch: int, length: int, itemsize: int) -> int:
        """Return an upper bound of the bytes of temporary tensors while one layer is computed (see PATTERNS)."""
        blocks: dict[int | None, list[str]] = {}
        for name in self.holds:
            blocks.setdefault(block_of(name), []).append(name)
        inside = [names for block, names in blocks.items() if block is not None]
        linear = max(
            (self.size([n for n in names if self.kind(n) == "linear"], batch, length) for names in inside), default=0
        )
        patterns = (
            self.pieces[at].bytes(batch, length) for at in self.holds.values() if self.pieces[at].kind == "quadratic"
        )
        wide = max(1, 4 // itemsize)  # the softmax runs in single precision
        mask = 3 * 4 * batch * length**2
        return linear + mask + PATTERNS * wide * max(patterns, default=0)


class Hookable(Protocol):
    """Interface that a capture needs from a model; `probe.LM` has it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    _bridge_lock: threading.RLock

    @property
    def bridge(self) -> TransformerBridge:
        """Bridge whose activations are captured."""

    @property
    def device(self) -> torch.device:
        """Device whose memory the capture takes."""

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the activations."""

    @property
    def _hook_depth(self) -> int: ...
    def _batch(self, text: Any) -> tuple[Tensor, Tensor]: ...


_laws: WeakKeyDictionary[nn.Module, tuple[Any, Law]] = WeakKeyDictionary()
_lock = threading.RLock()


def growth_law(lm: Hookable) -> Law:
    """Return how the model's activations grow.

    It is measured once for each bridge and each setting of its optional hook points.
    """
    with lm._bridge_lock, _lock:
        bridge = lm.bridge
        flags = [(name, value) for name, value in sorted(vars(bridge.cfg).items()) if name.startswith("use_")]
        if bridge not in _laws or _laws[bridge][0] != flags:
            _laws[bridge] = flags, _learn(lm)
        return _laws[bridge][1]


@torch.no_grad()
def _learn(lm: Hookable) -> Law:
    """Measure how the model's activations grow, in four small runs."""
    # Hooks attached at present must not fire on the texts of the measurement, so they get a separate bridge.
    bridge = build_bridge(lm.model, lm.tokenizer) if lm._hook_depth else lm.bridge
    runs = []
    for batch, length in ((1, 2), (1, 3), (1, 4), (2, 4)):
        ids = torch.zeros(batch, length, dtype=torch.long, device=lm.device)
        mask = torch.ones_like(ids)
        inputs = {"attention_mask": mask, "position_ids": positions(mask.bool()), "output_attentions": False}
        logits, cache = bridge.run_with_cache(ids, **inputs)
        tensors = {name: value for name, value in cache.items() if isinstance(value, Tensor)} | {LOGITS: logits}
        runs.append({name: value.untyped_storage() for name, value in tensors.items()})
    holds: dict[str, int] = {}
    first: dict[int, int] = {}
    pieces: list[Growth] = []
    for name, storage in runs[-1].items():
        if storage.data_ptr() not in first:
            first[storage.data_ptr()] = len(pieces)
            two, three, four, twice = (run[name].nbytes() for run in runs)
            pieces.append(Growth((two, three, four), twice))
        holds[name] = first[storage.data_ptr()]
    return Law(tuple(pieces), holds)


def block_of(name: str) -> int | None:
    """Return the block of a hook name; None outside the blocks."""
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else None


GROUPS = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return the bytes that new tensors on a device can take now; None if the system does not say.

    On a GPU, memory that torch has reserved and does not use counts as free. On the CPU, it is the kernel's available
    memory, or the rest of a container's limit.
    """
    place = torch.device(device)
    if place.type == "cuda":
        idle = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return torch.cuda.mem_get_info(place)[0] + idle
    if place.type != "cpu":
        return None
    sizes = [size for size in (_available(Path("/proc/meminfo")), _memory_left(GROUPS)) if size is not None]
    return min(sizes, default=None)


def _available(file: Path) -> int | None:
    """Return the bytes that the kernel can give without swapping; None if the file does not say."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _memory_left(folder: Path) -> int | None:
    """Return the bytes that a control group's limit leaves; None without a limit.

    File pages that can be dropped count as free.
    """
    for limit, current, stat, droppable in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            bound, usage = (folder / limit).read_text().strip(), int((folder / current).read_text())
            rows = dict(line.split() for line in (folder / stat).read_text().splitlines())
        except (OSError, ValueError):
            continue
        if bound.isdigit():
            return max(0, int(bound) - usage + int(rows.get(droppable, 0)))
    return None


KEEP = 0.9
"""Default share of the free memory that a capture may take: the allocator needs a little, and other programs need
some."""


@dataclass(frozen=True)
class Capture:
    """A smaller capture that fits."""

    what: str
    """Description of the remedy."""
    names: tuple[str, ...]
    """Hook names to capture."""
    batch: int
    """Number of texts at a time."""
    length: int
    """Number of tokens of a text."""
    total: int
    """Bytes needed in total."""


@dataclass(frozen=True)
class Preflight:
    """Memory that a capture will need."""

    names: tuple[str, ...]
    """Hook names to capture."""
    batch: int
    """Number of texts."""
    length: int
    """Number of tokens of the longest text."""
    bytes: dict[str, int]
    """Bytes by hook name; names that share memory each show all of it."""
    growth: dict[str, str]
    """Growth of each with the length: constant, linear or quadratic."""
    cache: int
    """Bytes of all kept activations; shared memory counts once."""
    logits: int
    """Bytes of the logits, unless a kept activation holds them."""
    working: int
    """Bytes of temporary tensors while one layer is computed: an upper bound."""
    free: int | None
    """Bytes that are free now; None if the system does not say."""
    budget: int | None
    """Bytes that the capture may take; None is no limit."""
    offers: tuple[Capture, ...]
    """Smaller captures that fit, the largest first; empty if the capture itself fits."""
    instead: str = ""
    """Description of another remedy."""

    @property
    def total(self) -> int:
        """Bytes needed at the peak."""
        return self.cache + self.logits + self.working

    @property
    def fits(self) -> bool:
        """Whether the capture fits."""
        return self.budget is None or self.total <= self.budget

    @property
    def offer(self) -> str:
        """Smaller capture to make, in one sentence; empty if the capture fits."""
        if self.fits:
            return ""
        ways = [f"{offer.what} ({file_size(offer.total)})" for offer in self.offers]
        ways += [self.instead] if self.instead else []
        ways = ways or ["use a smaller model or a machine with more memory"]
        return f"{', '.join(ways[:-1])}{', or ' if len(ways) > 1 else ''}{ways[-1]}"

    @property
    def sentence(self) -> str:
        """Sentence with the needed and the free memory, and a smaller capture."""
        several = f"{self.batch} texts of " if self.batch > 1 else ""
        need = f"A capture of {several}{self.length:,} tokens needs {file_size(self.total)}"
        if self.budget is None:
            return f"{need}."
        if self.fits:
            return f"{need}; {file_size(self.budget)} are allowed."
        return f"{need}, and {file_size(self.budget)} are allowed: {self.offer}."

    def table(self) -> pd.DataFrame:
        """Return a table with one row per hook name: name, layer (-1 outside the blocks), growth, bytes."""
        return pd.DataFrame(
            {
                "name": self.names,
                "layer": [-1 if (block := block_of(name)) is None else block for name in self.names],
                "growth": [self.growth[name] for name in self.names],
                "bytes": [self.bytes[name] for name in self.names],
            }
        )


def preflight(
    lm: Hookable,
    text: str | int | Sequence[Any] | Tensor,
    names: Sequence[str] | str | None = None,
    *,
    batch: int = 1,
    budget: int | None = None,
) -> Preflight:
    """Predict the memory of `lm.run_with_cache(text, names)`.

    Args:
        lm: the model; the first time it is run on a few tokens.
        text: text or token ids, as in `LM.run_with_cache`, or a number of tokens.
        names: hook names, old or canonical; None is every one.
        batch: number of texts if `text` is a number of tokens.
        budget: maximum number of bytes; default: nine tenths of the free memory on the model's device.

    Raises:
        ConfigError: a name is unknown, or a number is not positive.
        DataError: there is no text, or one exceeds the model's context.
        ModelError: the architecture cannot be hooked.
    """
    batch, length = (batch, int(text)) if isinstance(text, Integral) else lm._batch(text)[0].shape
    check_lengths(lm.model, [], [length])
    if min(length, batch, 1 if budget is None else budget) < 1:
        raise ConfigError(
            f"batch={batch}, length={length} and budget={budget} were given for a capture: give positive numbers."
        )
    law = growth_law(lm)
    hook_names = tuple(law.holds) if names is None else (names,) if isinstance(names, str) else tuple(names)
    hook_names = tuple(name for name in hook_names if name != LOGITS)
    check_names(lm.bridge, hook_names)
    free = free_bytes(lm.device)
    room = int(KEEP * free) if budget is None and free is not None else budget
    parts = _parts(law, hook_names, batch, length, lm.dtype.itemsize)
    short = room is not None and sum(parts) > room
    streams = lm.model._can_set_attn_implementation() and any(law.kind(name) == "quadratic" for name in hook_names)
    return Preflight(
        names=hook_names,
        batch=batch,
        length=length,
        bytes={name: law.size([name], batch, length) for name in hook_names},
        growth={name: law.kind(name) for name in hook_names},
        cache=parts[0],
        logits=parts[1],
        working=parts[2],
        free=free,
        budget=room,
        offers=_offers(law, hook_names, batch, length, lm.dtype.itemsize, room) if short and room is not None else (),
        instead="read the attention with `attention_statistics`, which keeps no pattern" if short and streams else "",
    )


def require_room(
    lm: Hookable,
    text: str | Sequence[Any] | Tensor,
    names: Sequence[str] | str | None = None,
    *,
    budget: int | None = None,
) -> None:
    """Raise a DataError unless `lm.run_with_cache(text, names)` fits into memory; the message names what fits.

    Raises:
        DataError: the capture does not fit.
        ConfigError, ModelError: as in `preflight`.
    """
    plan = preflight(lm, text, names, budget=budget)
    if not plan.fits:
        raise DataError(plan.sentence)


def _parts(law: Law, names: Sequence[str], batch: int, length: int, itemsize: int) -> tuple[int, int, int]:
    """Return the bytes of the activations, of logits that are not among them, and of temporary tensors."""
    cache = law.size(names, batch, length)
    return cache, law.size([*names, LOGITS], batch, length) - cache, law.working(batch, length, itemsize)


def _offers(law: Law, names: tuple[str, ...], batch: int, length: int, itemsize: int, room: int) -> tuple[Capture, ...]:
    """Return smaller captures that fit: without quadratic names, or with fewer texts, layers or tokens."""

    def capture(advice: str, hook_names: Sequence[str], texts: int, tokens: int) -> Capture | None:
        total = sum(_parts(law, hook_names, texts, tokens, itemsize))
        return Capture(advice, tuple(hook_names), texts, tokens, total) if total <= room else None

    def layers(count: int) -> list[str]:
        return [name for name in names if (block := block_of(name)) is None or block in depth[:count]]

    depth = sorted({block for name in names if (block := block_of(name)) is not None})
    linear = [name for name in names if law.kind(name) != "quadratic"]
    texts = _largest(batch - 1, lambda count: capture("", names, count, length) is not None)
    size = _largest(len(depth) - 1, lambda count: capture("", layers(count), batch, length) is not None)
    tokens = _largest(length - 1, lambda count: capture("", names, batch, count) is not None)
    without = "leave out attention scores and patterns, which grow with the square of the text"
    offers = [
        capture(without, linear, batch, length) if 0 < len(linear) < len(names) else None,
        capture(f"capture {texts} of the {batch} texts at a time", names, texts, length) if texts else None,
        capture(f"capture {size} of the {len(depth)} layers at a time", layers(size), batch, length) if size else None,
        capture(f"shorten the text to {tokens:,} tokens", names, batch, tokens) if tokens else None,
    ]
    return tuple(sorted(filter(None, offers), key=lambda offer: -offer.total))


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest count up to `most` that fits, or 0.

    If a count fits, all smaller counts must fit, too.
    """
    low, high = 0, most
    while low < high:
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
