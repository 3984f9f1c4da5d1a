"""Rows of tokens to pretrain on, and held-out rows to measure on: from the world, a text, or documents in JSON lines.

Every token is a target exactly once, apart from those at the start of a row that say where it begins. Rows are
arrays of T ids in which `PADDING` stands for no token, so that padding is never confused with a real token.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from probe.errors import DataError
from probe.model.text import encode
from probe.world import World, pack
from probe.world.config import KINDS
from trainers.data import capture_prompts, draw, file_hash
from trainers.session import derive_seed

PADDING = -1
HELD_OUT = 20
"""One part in this many is held out."""
MEASURED = 50_000
"""Characters of the held-out documents of a file that are measured on: enough, and quick."""
WORLD_HELD_OUT = 1500
"""Documents of the world that are held out."""
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What to train on and what to measure on."""

    batch: Callable[[int], Sequence[np.ndarray]]
    """Step 1, 2, ... to the rows [T] of its batch."""
    held_out: np.ndarray
    """Rows [N T] that are never trained on."""
    held_out_bytes: int
    """Length of their text in bytes of UTF-8."""
    kinds: np.ndarray | None = None
    """For each held-out token the index into `kind_names` [N T]."""
    kind_names: Sequence[str] = ()
    data: dict[str, Any]
    """What run.json says of the data."""
    prompts: Sequence[Any]
    """Prompts to capture on."""


def world_corpus(
    world: World, tokenizer: PreTrainedTokenizerBase, *, length: int, batch_size: int, seed: int
) -> Corpus:
    """The world's endless stream of documents, packed into rows of `length`, and other documents as held-out rows."""
    documents = list(islice(world.documents(derive_seed(seed, 1)), WORLD_HELD_OUT))
    packed = list(pack(documents, tokenizer, length))
    kinds = np.stack([kinds for _, kinds in packed])
    return Corpus(
        batch=_Stream(lambda: _unpadded(pack(world.documents(seed), tokenizer, length)), batch_size),
        held_out=np.where(kinds < 0, PADDING, np.stack([ids for ids, _ in packed])),
        held_out_bytes=sum(len(document.text.encode()) for document in documents),
        kinds=kinds,
        kind_names=KINDS,
        data={"source": "world", "hash": world.hash},
        prompts=world.probe_prompts(),
    )


class _Stream:
    """Batches of an endless stream by their step; after a resume the stream is run up to the step again."""

    def __init__(self, start: Callable[[], Iterator[np.ndarray]], batch_size: int) -> None:
        self._start, self._size = start, batch_size
        self._rows, self._next = start(), 1

    def __call__(self, step: int) -> list[np.ndarray]:
        if step < self._next:
            self._rows, self._next = self._start(), 1
        for _ in islice(self._rows, (step - self._next) * self._size):
            pass
        self._next = step + 1
        return list(islice(self._rows, self._size))


def _unpadded(packed: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    return (np.where(kinds < 0, PADDING, ids) for ids, kinds in packed)


def hold_out(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """Documents to train on and documents to measure on: every 20th, or with few of them the last 20th of each."""
    if len(documents) >= HELD_OUT:
        held = [i % HELD_OUT == HELD_OUT - 1 for i in range(len(documents))]
        return (
            [document for document, out in zip(documents, held, strict=True) if not out],
            [document for document, out in zip(documents, held, strict=True) if out],
        )
    cuts = [_cut(document) for document in documents]
    pairs = list(zip(documents, cuts, strict=True))
    return [document[:cut] for document, cut in pairs], [document[cut:] for document, cut in pairs]


def _cut(document: str) -> int:
    """Where the last 20th begins, at the start of a line if one is near."""
    cut = len(document) - max(len(document) // HELD_OUT, 1)
    line = document.rfind("\n", 0, cut) + 1
    return line if line > 0.9 * cut else cut


def file_corpus(
    path: Path,
    train: Sequence[str],
    held_out: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    batch_size: int,
    seed: int,
) -> Corpus:
    """Rows of `length` tokens cut out of the documents of a file.

    Raises:
        DataError: the text does not fill a single row.
    """
    rows = cut_rows(tokenize(train, tokenizer), encode(tokenizer, ""), length)
    if (rows[0] == PADDING).any():
        tokens = int((rows[0] != PADDING).sum())
        raise DataError(
            f"`{path}` has only {tokens} tokens to train on and a row has {length}: give a longer text or a smaller"
            " --length."
        )
    measured = list(_first(held_out, MEASURED))
    lines = (line.strip() for document in measured for line in document.splitlines() if line.strip())
    return Corpus(
        batch=lambda step: list(rows[draw(len(rows), batch_size, step, seed)]),
        held_out=cut_rows(tokenize(measured, tokenizer), encode(tokenizer, ""), length),
        held_out_bytes=sum(len(document.encode()) for document in measured),
        data={"source": str(path), "hash": file_hash(path), "rows": len(rows), "documents": len(train) + len(held_out)},
        prompts=capture_prompts(tokenizer, (" ".join(line.split()[:12]) for line in lines)),
    )


def _first(documents: Sequence[str], letters: int) -> Iterator[str]:
    """The first documents up to a number of characters; the last of them may be cut."""
    for document in documents:
        if letters > 0:
            yield document[:letters]
        letters -= len(document)


def tokenize(documents: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The ids of all documents in one array, each ended by the end token if there is one."""
    ids: list[np.ndarray] = []
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for document in documents:
        parts = tokenizer(_chunks(document), add_special_tokens=False, verbose=False)["input_ids"]
        ids += [np.array(part, dtype=np.int32) for part in [*parts, end]]
    return np.concatenate(ids)


def cut_rows(ids: np.ndarray, front: Sequence[int], length: int) -> np.ndarray:
    """Rows [N T] in which every id is a target once: each begins with `front`, or else with the last id before it."""
    step, lead = (length - len(front), len(front)) if front else (length - 1, 0)
    starts = np.arange(0, max(len(ids) - (0 if front else 1), 1), step)
    rows = np.full((len(starts), length), PADDING, dtype=np.int32)
    rows[:, :lead] = front
    for row, start in zip(rows, starts, strict=True):
        part = ids[start : start + length - lead]
        row[lead : lead + len(part)] = part
    return rows


def _chunks(document: str) -> list[str]:
    """A document in parts of some 64 k characters, cut after single line ends, where no token reaches across."""
    if len(document) <= _CHUNK:
        return [document]
    cuts = [0]
    for match in re.finditer(r"(?<!\s)\n(?=\S)", document):
        if match.end() - cuts[-1] >= _CHUNK:
            cuts.append(match.end())
    return [document[a:b] for a, b in zip(cuts, [*cuts[1:], len(document)], strict=True)]
