"""How everything that a model can capture grows with the text, learnt from the model itself.

Four runs on texts of two to four tokens give the bytes of every hook point as a polynomial in the number of tokens. It
is exact for any length, since a shape is a product of sizes that are fixed, that number, or the number of texts.
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from probe.forward import positions
from probe.lm import LM

LOGITS = "logits"
"""What the logits are called beside the hook names."""

PATTERNS = 4
"""Tensors of the size of a layer's pattern that live at once while its attention is computed, rounded up from what six
architectures need (2.2 to 3.5; docs/log.md)."""


@dataclass(frozen=True)
class Growth:
    """Bytes of one piece of memory in texts of different lengths."""

    sizes: tuple[int, int, int]
    """Bytes of one text of 2, 3 and 4 tokens."""
    twice: int
    """Bytes of two texts of 4 tokens."""

    @property
    def kind(self) -> str:
        """Constant, linear or quadratic in the number of tokens."""
        two, three, four = self.sizes
        return "quadratic" if four - 2 * three + two else "linear" if three - two else "constant"

    def bytes(self, batch: int, length: int) -> int:
        """Bytes of `batch` texts of `length` tokens."""
        two, three, four = self.sizes
        step, bend, beyond = three - two, four - 2 * three + two, length - 2
        alone = two + step * beyond + bend * beyond * (beyond - 1) // 2
        return alone + (batch - 1) * alone * (self.twice - four) // max(four, 1)


@dataclass(frozen=True)
class Law:
    """How everything that one model can capture grows."""

    pieces: tuple[Growth, ...]
    """Each piece of memory."""
    holds: dict[str, int]
    """For each hook name, and for the logits, the piece that holds it."""

    def size(self, names: Iterable[str], batch: int, length: int) -> int:
        """Bytes of activations, each piece counted once; names that do not fire hold nothing."""
        return sum(self.pieces[at].bytes(batch, length) for at in {self.holds[n] for n in names if n in self.holds})

    def kind(self, name: str) -> str:
        """How a name grows."""
        return self.pieces[self.holds[name]].kind if name in self.holds else "constant"

    def working(self, batch: int, length: int, itemsize: int) -> int:
        """Bytes that come and go while one layer is computed: an upper bound (see PATTERNS)."""
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


_laws: WeakKeyDictionary[nn.Module, tuple[Any, Law]] = WeakKeyDictionary()
_lock = threading.RLock()


def growth_law(lm: LM) -> Law:
    """How the model's activations grow, learnt once for each bridge and each setting of its optional hook points."""
    with lm._bridge_lock, _lock:
        bridge = lm.bridge
        flags = [(name, value) for name, value in sorted(vars(bridge.cfg).items()) if name.startswith("use_")]
        if bridge not in _laws or _laws[bridge][0] != flags:
            _laws[bridge] = flags, _learn(lm)
        return _laws[bridge][1]


@torch.no_grad()
def _learn(lm: LM) -> Law:
    """Four small runs."""
    from probe.bridge import build_bridge

    # Hooks that are attached now would fire on texts they do not know: a bridge of its own then.
    bridge = build_bridge(lm.model, lm.tokenizer) if lm._hooked else lm.bridge
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
    """The block that a hook name belongs to."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return int(found[1]) if found else None
