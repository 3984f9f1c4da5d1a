"""Attention of one capture: all of it, or the rows of the last tokens and the heads that moved most.

Axes: P prompts, D blocks, H heads, T tokens, N captured heads, M causal weights in the captured rows of all prompts
(row after row, prompt after prompt), W in all rows, K heads that are kept whole.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from probe.recording.capture_plan import CapturePlan
from probe.runs.attention_tail import (
    HEADS,
    ROWS,
    TAIL,
    WHOLE,
    WHOLE_HEADS,
    decode_weights,
    encode_weights,
    tail_bounds,
    tail_index,
    tail_rows,
)
from probe.runs.captures import PLAIN
from probe.runs.storage import disk
from probe.untrusted import WEIGHTS, regular

LARGE = 2**26
"""Bytes of an array from which on it lies in a temporary file."""


class AttentionRows:
    """Weights of a capture, filled block by block.

    If all of it is captured, `tensors` returns `attention` [P D H T T]. Otherwise:

    - attention_tail [N M]: weights in the last `attention_rows` [1] rows of each prompt, in half precision, or as
      bytes b that stand for (b / 255)^2, whose largest error is `attention_error` [1], NaN for a diverged model;
    - attention_heads [N 2]: layer and head of its rows;
    - attention_whole [K W] and attention_whole_heads [P K 2]: all rows of the heads that moved most on each prompt
      among tokens other than the first (`probe.runs.captured.head_movement`); at the first capture, of those that
      attend least to the first token;
    - attention_moved [P N]: total variation distance from the first capture, averaged over the captured rows but that
      of the first token; not at the first capture.
    """

    def __init__(self, plan: CapturePlan, first: Path | None = None, scratch: Path | None = None) -> None:
        """Reserve the space.

        Args:
            plan: what to capture.
            first: file of the run's first capture.
            scratch: folder for large arrays.
        """
        self.plan, self.lengths, self.error = plan, plan.shape.lengths, 0.0
        self.heads: dict[int, list[tuple[int, int]]] = {}
        for number, (layer, head) in enumerate(plan.heads):
            self.heads.setdefault(layer, []).append((number, head))
        prompts, count = len(self.lengths), len(plan.heads)
        kind = np.dtype(np.uint8 if plan.bits == 8 else np.float16)
        if plan.everything:
            longest = max(self.lengths)
            shape = (prompts, plan.shape.depth, plan.shape.heads, longest, longest)
            self.square = _array(shape, kind, scratch)
            return
        self.starts, self.ends = (tail_bounds(self.lengths, rows) for rows in (plan.rows, max(self.lengths)))
        self.tail = _array((count, self.starts[-1]), kind, scratch)
        self.whole = _array((plan.whole, self.ends[-1] if plan.whole else 0), kind, scratch)
        self.whole_heads = np.full((prompts, plan.whole, 2), -1, dtype=np.int32)
        self.scores = np.full((prompts, plan.whole), -np.inf)
        self.moved = np.zeros((prompts, count), dtype=np.float32)
        self.first = _open_first(first, (count, self.starts[-1]), kind)

    def take(self, block: int, first: int, pattern: Float[Tensor, "p H T T"], hook: object = None) -> None:
        """Keep the weights of a block on the prompts from number `first` on, as a hook."""
        for index, weights in enumerate(pattern, start=first):
            length = self.lengths[index]
            if self.plan.everything:
                self.square[index, block, :, :length, :length] = _numpy(weights[:, :length, :length])
            elif block in self.heads:
                self._take(block, index, weights[:, :length, :length])

    def _take(self, block: int, index: int, weights: Float[Tensor, "H T T"]) -> None:
        numbers, heads = zip(*self.heads[block], strict=True)
        own, place = slice(numbers[0], numbers[-1] + 1), slice(*self.starts[index : index + 2])
        length, rows = self.lengths[index], min(self.plan.rows, self.lengths[index])
        query, key = tail_index(length, rows)
        exact = _numpy(weights[list(heads), length - rows :])[:, query - (length - rows), key]
        self.tail[own, place] = kept = self._encode(exact)
        if self.first is not None:
            before = decode_weights(self.first[own, place])
            change = np.abs(decode_weights(kept) - before)
            moved, start = tail_rows(change, length, rows) / 2, int(rows == length > 1)
            self.moved[index, own] = moved[:, start:].mean(1)
            scores = np.maximum(moved - change[:, key == 0], 0)[:, start:].mean(1)
        else:
            scores = -exact[:, key == 0].mean(1)
        for head, score in zip(heads, scores, strict=True):
            slot = int(self.scores[index].argmin()) if self.plan.whole else -1
            if slot >= 0 and score > self.scores[index, slot]:
                cells = _numpy(weights[head])[tail_index(length, length)]
                self.whole[slot, slice(*self.ends[index : index + 2])] = self._encode(cells)
                self.scores[index, slot], self.whole_heads[index, slot] = score, (block, head)

    def _encode(self, weights: np.ndarray) -> np.ndarray:
        if self.plan.bits == 16:
            return weights.astype(np.float16)
        found = encode_weights(weights)
        self.error = float(np.maximum(self.error, np.abs(decode_weights(found) - weights).max(initial=0)))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the capture."""
        if self.plan.everything:
            return {PLAIN: torch.from_numpy(self.square)}
        found: dict[str, Any] = {
            TAIL: self.tail,
            HEADS: np.array(self.plan.heads, dtype=np.int32),
            ROWS: np.array([self.plan.rows], dtype=np.int32),
        }
        if self.plan.bits == 8:
            found["attention_error"] = np.array([self.error], dtype=np.float32)
        if self.plan.whole:
            found |= {WHOLE: self.whole, WHOLE_HEADS: self.whole_heads}
        if self.first is not None:
            found["attention_moved"] = self.moved
        return {name: torch.from_numpy(array) for name, array in found.items()}


def _numpy(weights: Tensor) -> np.ndarray:
    return weights.detach().float().cpu().numpy()


def _array(shape: tuple[int, ...], kind: np.dtype[Any], scratch: Path | None) -> np.ndarray:
    """Return an array of zeros; a large one lies in a temporary file without a name.

    Raises:
        RunError: there is no room for it on the disk.
    """
    size = int(np.prod(shape)) * kind.itemsize
    if size <= LARGE:
        return np.zeros(shape, kind)
    with disk(scratch or Path(tempfile.gettempdir())):
        if scratch is not None:
            scratch.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            if hasattr(os, "posix_fallocate"):  # else the kernel ends the process at a later write to a full disk
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=kind, mode="w+", shape=shape)


def _open_first(file: Path | None, shape: tuple[int, ...], kind: np.dtype[Any]) -> Any:
    """Return the rows of the first capture, read as they are needed; None without one that holds the same rows."""
    if file is None:
        return None
    try:
        rows = safe_open(regular(file, WEIGHTS), "numpy").get_slice(TAIL)
    except (OSError, SafetensorError):
        return None
    return rows if tuple(rows.get_shape()) == shape and rows.get_dtype() == {1: "U8", 2: "F16"}[kind.itemsize] else None
