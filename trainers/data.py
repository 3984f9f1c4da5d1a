"""What trainings do with the examples of a file: its hash, the order of the examples, prompts to capture on."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from probe.model.text import encode_all

CAPTURE_TOKENS = 64
"""Longest prompt that data files give to the recorder: its cost grows with the square."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file, by which a resumed run knows its data."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw(n: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which of `n` examples make up step 1, 2, ...: pass after pass over all of them, each in an order of its own."""
    first = (step - 1) * batch_size
    return [int(_order(n, seed, at // n)[at % n]) for at in range(first, first + batch_size)]


def capture_prompts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], count: int = 4) -> list[str]:
    """The first texts that are short enough to capture on; if all are long, the first of them cut to that length.

    Of a text with letters or words that the tokenizer does not know the others are taken.
    """
    fitting: list[str] = []
    long: list[str] = []
    for text in texts:
        (ids,) = encode_all(tokenizer, [text])
        if tokenizer.unk_token_id in ids:
            text = tokenizer.decode(ids, skip_special_tokens=True)
            (ids,) = encode_all(tokenizer, [text])
        if not text.strip():
            continue
        if len(ids) <= CAPTURE_TOKENS:
            fitting.append(text)
        elif not long:
            long.append(tokenizer.decode(ids[:CAPTURE_TOKENS], skip_special_tokens=True))
        if len(fitting) == count:
            break
    return fitting or long


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)
