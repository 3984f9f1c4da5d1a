"""Stored answers of a model, with which an interrupted computation continues where it stopped.

    with keep_calls(lm, path):
        ...                                  # lm.logprobs and lm.generate

A repeated computation makes the same calls: a call whose answer is in the file is not computed again; any other is
computed, and its answer is appended. Calls inside `LM.hooks`, with gradients, or that took almost no time are not kept.
The file holds only numbers, one line per call; an unfinished last line is ignored.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import torch

from probe.errors import ProbeError
from probe.runs.storage import append_lines, cut_torn_line
from probe.untrusted import LOG, parse_json, read_file

SLOW_S = 0.02
"""Minimum duration in seconds of a call that is kept."""
TYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "bool": torch.bool}
NAMES = {kind: name for name, kind in TYPES.items()}
Answer = dict[str, Any]
"""Tensors of an answer by name."""


class AnsweringModel(Protocol):
    """Interface of a model whose answers are kept; `probe.LM` has it."""

    @property
    def device(self) -> torch.device:
        """Device of its answers."""

    @property
    def _hook_depth(self) -> int: ...


class Calls:
    """Answers of one model in one file."""

    def __init__(self, lm: AnsweringModel, path: Path) -> None:
        self.lm, self.path, self._writes = lm, path, True
        with suppress(ProbeError):
            cut_torn_line(path)
        self._answers = _read_answers(path)

    def answer(self, question: object, compute: Callable[[], Answer]) -> Answer:
        """Return the answer to a question from the file, or the result of `compute` if the file has none.

        Args:
            question: all that the answer depends on except the model, as JSON values.
            compute: function that returns its tensors.
        """
        text = json.dumps(question, sort_keys=True, default=str)
        call = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if call in self._answers:
            return {name: tensor.to(self.lm.device) for name, tensor in self._answers[call].items()}
        start = time.perf_counter()
        tensors = compute()
        if self._writes and time.perf_counter() - start >= SLOW_S:
            values = {name: [NAMES[tensor.dtype], tensor.tolist()] for name, tensor in tensors.items()}
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                append_lines(self.path, [json.dumps({"call": call, "answer": values})])
            except (ProbeError, OSError):  # a folder that may not be written to: the work goes on without
                self._writes = False
        return tensors


def pick(output: object, names: Sequence[str]) -> Answer:
    """Return some tensors of a model's output by field name."""
    return {name: getattr(output, name) for name in names}


def _read_answers(path: Path) -> dict[str, Answer]:
    """Read the answers of a file; skip a broken line, so that its call is computed again."""
    answers: dict[str, Answer] = {}
    lines: list[bytes] = []
    with suppress(OSError):
        lines = read_file(path, LOG).split(b"\n")
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError):
            row = parse_json(line)
            answers[row["call"]] = {
                name: torch.tensor(v, dtype=TYPES[kind]) for name, (kind, v) in row["answer"].items()
            }
    return answers


_CALLS: ContextVar[Calls | None] = ContextVar("calls", default=None)


def calls_of(lm: AnsweringModel) -> Calls | None:
    """Return the `Calls` that currently keep the answers of this model; None if answers are not kept."""
    calls = _CALLS.get()
    return calls if calls is not None and calls.lm is lm and not lm._hook_depth else None


@contextmanager
def keep_calls(lm: AnsweringModel, path: Path) -> Iterator[None]:
    """Read answers of `lm` from a file, and append new ones to it, inside the context.

    The file is deleted when the work is complete.

    Args:
        lm: the model; its weights must not change in this time.
        path: path of the file; its name must identify everything that the work depends on.
    """
    token = _CALLS.set(Calls(lm, path))
    try:
        yield
        with suppress(OSError):
            path.unlink()
    finally:
        _CALLS.reset(token)
