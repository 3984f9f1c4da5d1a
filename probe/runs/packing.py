"""Attention of a capture without what is zero anyway: above the diagonal, and beyond a prompt's tokens.

A run that is shipped keeps `attention` [P D H T T] as `attention_packed` [D H N], N = sum of n (n + 1) / 2 over the
prompts' lengths n: the rows of each lower triangle one after the other, prompt after prompt. Nothing is lost.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray[Any, Any]]
PLAIN, PACKED = "attention", "attention_packed"


def pack(tensors: Tensors, lengths: Sequence[int]) -> Tensors:
    """The tensors with attention packed; as they are where there is none, or where weights stand elsewhere.

    Args:
        tensors: of one capture.
        lengths: tokens of each prompt.
    """
    attention = tensors.get(PLAIN)
    if attention is None or not lengths or attention.shape[0] != len(lengths) or attention.shape[-1] != max(lengths):
        return tensors
    prompt, query, key = _places(lengths)
    packed = {PACKED: np.ascontiguousarray(np.moveaxis(attention[prompt, :, :, query, key], 0, -1))}
    left = {name: tensor for name, tensor in tensors.items() if name != PLAIN}
    return packed | left if np.array_equal(unpack(packed, lengths)[PLAIN], attention) else tensors


def unpack(tensors: Tensors, lengths: Sequence[int]) -> Tensors:
    """The tensors with `attention` as it was; as they are where nothing is packed.

    Raises:
        ValueError: the prompts are others than those that were packed.
    """
    packed = tensors.get(PACKED)
    if packed is None:
        return tensors
    prompt, query, key = _places(lengths)
    if packed.ndim != 3:
        raise ValueError(f"packed attention has {packed.ndim} axes where there should be three")
    depth, heads, count = packed.shape
    if count != len(prompt):
        raise ValueError(f"{count} weights were packed for other prompts than these, which have {len(prompt)}")
    width = max(lengths, default=0)
    attention = np.zeros((len(lengths), depth, heads, width, width), dtype=packed.dtype)
    attention[prompt, :, :, query, key] = np.moveaxis(packed, -1, 0)
    return {PLAIN: attention} | {name: tensor for name, tensor in tensors.items() if name != PACKED}


def _places(lengths: Sequence[int]) -> tuple[np.ndarray[Any, Any], ...]:
    """[N] prompt, query and key of every weight that the causal mask leaves."""
    rows, columns = zip(*(np.tril_indices(length) for length in lengths), strict=True) if lengths else ((), ())
    prompt = np.repeat(np.arange(len(lengths)), [len(row) for row in rows])
    return (prompt, *(np.concatenate(each) if each else np.zeros(0, dtype=int) for each in (rows, columns)))
