"""Packing of documents into rows of equal length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from probe.errors import DataError
from probe.world.config import KINDS
from probe.world.corpus import Document
from probe.world.vocabulary import words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WAITING = 64


def pack(
    documents: Iterable[Document],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    kinds: Sequence[str] = KINDS,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pack whole documents, each after `<bos>`, into rows of `length` tokens; yield (ids [length], kinds [length]).

    Every row starts with a document, so the form of evaluated prompts (`<bos>` first, nothing before it) is in
    distribution. The rest of a row is filled with the longest waiting document that fits; less than 1 % of the world's
    tokens are padding; only a document longer than a row is split, its later parts without `<bos>`. The kind of a token
    is the index of its document's kind in `kinds`; padding has -1.

    Raises:
        DataError: a document's kind is not listed.
    """
    encode = _encoder(tokenizer)
    index = {kind: i for i, kind in enumerate(kinds)}
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    stream = _pieces(documents, encode, index, length)
    waiting: list[tuple[list[int], int]] = []
    at_end = False
    while not at_end or waiting:
        while not at_end and len(waiting) < WAITING:
            piece = next(stream, None)
            at_end = piece is None
            if piece is not None:
                waiting.append(piece)
        if not waiting:
            return
        yield _fill(waiting, length, pad)


def _fill(waiting: list[tuple[list[int], int]], length: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill one row with the first waiting documents in order, and its end with the longest that still fits."""
    row: list[int] = []
    kinds: list[int] = []
    while waiting:
        room = length - len(row)
        best = 0
        if len(waiting[0][0]) > room:
            best = max(range(len(waiting)), key=lambda i: len(waiting[i][0]) if len(waiting[i][0]) <= room else -1)
            if len(waiting[best][0]) > room:
                break
        ids, kind = waiting.pop(best)
        row += ids
        kinds += [kind] * len(ids)
    short = length - len(row)
    return np.array(row + [pad] * short), np.array(kinds + [-1] * short)


def _pieces(
    documents: Iterable[Document], encode: Callable[[str], list[int]], index: dict[str, int], length: int
) -> Iterator[tuple[list[int], int]]:
    """Yield the documents as ids with their kind; split those longer than a row into parts of a row."""
    for document in documents:
        if document.kind not in index:
            raise DataError(
                f"A document has the kind {document.kind!r}, known are {', '.join(index)}: list it in `kinds`."
            )
        ids, kind = encode(document.text), index[document.kind]
        for start in range(0, len(ids), length):
            yield ids[start : start + length], kind


def _encoder(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], list[int]]:
    """Return a function from text to ids with the first token in front.

    It uses a table of words if the vocabulary is the world's, else the tokenizer.
    """
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    front = [] if first is None else [first]
    table = tokenizer.get_vocab()
    if set(table) == set(words()):
        unknown = table["<unk>"]
        return lambda text: front + [table.get(word, unknown) for word in text.split()]
    return lambda text: front + tokenizer(text, add_special_tokens=False)["input_ids"]
