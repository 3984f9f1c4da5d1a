"""Format of attention in captures that hold only some rows and heads: causal weights one after the other.

Axes: P prompts, N captured heads, M causal weights in the captured rows of all prompts, R rows, T tokens.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

TAIL, HEADS, ROWS = "attention_tail", "attention_heads", "attention_rows"
"""Names of the weights [N M], of their layers and heads [N 2], and of the number of rows of each prompt [1]."""
WHOLE, WHOLE_HEADS = "attention_whole", "attention_whole_heads"
"""Names of the weights in all rows of some heads [K W], and of their layers and heads on each prompt [P K 2]."""
MOST = 2**29
"""Maximum number of weights that are unpacked for one prompt."""
Arrays = Mapping[str, np.ndarray]
LEVELS = 255
"""Largest value of a weight in 8 bits; the value stands for the square of its share of this."""


@lru_cache(maxsize=8)
def tail_index(length: int, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return query and key of the causal weights in the last rows of a prompt, row after row."""
    query, key = np.tril_indices(min(rows, length), length - min(rows, length), length)
    return query + length - min(rows, length), key


def tail_rows(weights: np.ndarray, length: int, rows: int) -> np.ndarray:
    """Return the sums of weights [N m] over each of the last rows of a prompt [N R]."""
    counts = np.arange(length - min(rows, length) + 1, length + 1)
    return np.add.reduceat(weights, np.concatenate([[0], np.cumsum(counts)[:-1]]), axis=1)


def encode_weights(weights: np.ndarray) -> np.ndarray:
    """Return weights from 0 to 1 as bytes b, which stand for (b / 255)^2, so that small weights keep their size.

    What is not a number becomes 0.
    """
    return np.rint(LEVELS * np.sqrt(np.clip(np.nan_to_num(weights), 0, 1))).astype(np.uint8)


def decode_weights(stored: np.ndarray) -> np.ndarray:
    """Return stored weights in single precision."""
    if stored.dtype == np.uint8:
        return (np.arange(LEVELS + 1, dtype=np.float32) / LEVELS)[stored] ** 2
    return stored.astype(np.float32)


def tail_bounds(lengths: Sequence[int], rows: int) -> list[int]:
    """Return [P + 1] first cell of each prompt, and the number of cells."""
    sizes = (min(rows, length) * (2 * length - min(rows, length) + 1) // 2 for length in lengths)
    return [0, *np.cumsum([*sizes], dtype=np.int64).tolist()]


def check_tail(tensors: Arrays, lengths: Sequence[int]) -> None:
    """Check that weights, heads and rows fit each other and the prompts.

    Raises:
        ValueError: they do not.
    """
    weights, heads, rows = (tensors.get(name) for name in (TAIL, HEADS, ROWS))
    if heads is None or rows is None or weights is None or rows.shape != (1,) or rows.dtype.kind not in "iu":
        raise ValueError("attention is stored without its heads or rows")
    if weights.dtype not in (np.uint8, np.float16) or heads.dtype != np.int32 or heads.shape != (len(weights), 2):
        raise ValueError("the attention weights have another type, or other heads")
    count, longest = int(rows[0]), max(lengths, default=0)
    if not 0 < count <= max(longest, 1) or weights.shape[1:] != (tail_bounds(lengths, count)[-1],):
        raise ValueError(f"attention has the shape {list(weights.shape)} for {count} rows")
    depth, width = (int(size) + 1 for size in heads.max(0, initial=-1))
    if heads.min(initial=0) < 0 or depth * width * count * longest > MOST:
        raise ValueError("attention has heads that no model has")
    whole, own = tensors.get(WHOLE), tensors.get(WHOLE_HEADS)
    if whole is not None and (
        own is None
        or own.shape != (len(lengths), len(whole), 2)
        or own.dtype.kind not in "iu"
        or whole.dtype != weights.dtype
        or whole.shape[1:] != (tail_bounds(lengths, longest)[-1],)
    ):
        raise ValueError("the heads that are kept whole do not fit the prompts")


def tail_pattern(tensors: Arrays, lengths: Sequence[int], index: int) -> np.ndarray:
    """Return the last rows [D H R T] of a prompt's attention; heads that were not captured are NaN."""
    length, rows = lengths[index], min(int(tensors[ROWS][0]), lengths[index])
    heads, place = tensors[HEADS], slice(*tail_bounds(lengths, int(tensors[ROWS][0]))[index : index + 2])
    depth, count = heads.max(0) + 1
    found = np.full((depth, count, rows, length), np.nan, dtype=np.float32)
    query, key = tail_index(length, rows)
    for (layer, head), cells in zip(heads, tensors[TAIL], strict=True):
        found[layer, head] = 0
        found[layer, head, query - (length - rows), key] = decode_weights(cells[place])
    return found


def whole_pattern(tensors: Arrays, lengths: Sequence[int], index: int, head: tuple[int, int]) -> np.ndarray | None:
    """Return all rows [T T] of a head on a prompt; None if it is not kept whole."""
    if WHOLE not in tensors:
        return None
    slots = np.flatnonzero((tensors[WHOLE_HEADS][index] == head).all(-1))
    if not len(slots):
        return None
    length, place = lengths[index], slice(*tail_bounds(lengths, max(lengths))[index : index + 2])
    found = np.zeros((length, length), dtype=np.float32)
    found[tail_index(length, length)] = decode_weights(tensors[WHOLE][slots[0], place])
    return found
