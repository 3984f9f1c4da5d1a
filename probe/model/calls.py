"""Answers of a model that are kept in a file, so that a computation that broke off goes on where it stopped.

    with keep_calls(lm, path):
        ...                                  # lm.logprobs and lm.generate

What is computed again in the same way asks the same again: a call whose answer is in the file is not computed, any
other is, and its answer is appended. Calls inside of `LM.hooks`, with gradients, or that took no time are not kept. The
file holds numbers alone: a line a call, and a last line that was never finished counts for nothing.
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
"""Seconds from which on a call is kept."""
TYPES = {"float32": torch.float32, "float64": torch.float64, "int64": torch.int64, "bool": torch.bool}
NAMES = {kind: name for name, kind in TYPES.items()}
Answer = dict[str, Any]
"""The tensors of an answer by name."""


class Asked(Protocol):
    """What is asked of a model whose answers are kept, which `probe.LM` has."""

    @property
    def device(self) -> torch.device:
        """Where its answers lie."""

    @property
    def _hook_depth(self) -> int: ...


class Calls:
    """The answers of one model in one file."""

    def __init__(self, lm: Asked, path: Path) -> None:
        self.lm, self.path, self._writes = lm, path, True
        with suppress(ProbeError):
            cut_torn_line(path)
        self._answers = _read_answers(path)

    def answer(self, question: object, compute: Callable[[], Answer]) -> Answer:
        """Return the answer to a question from the file, or what `compute` gives if the file has none.

        Args:
            question: what the answer depends on beside the model, as JSON values.
            compute: gives its tensors.
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
    """Return some fields of a model's output, which are tensors, by name."""
    return {name: getattr(output, name) for name in names}


def _read_answers(path: Path) -> dict[str, Answer]:
    """Read the answers of a file; skip a line that holds none, so that its call is computed again."""
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


def calls_of(lm: Asked) -> Calls | None:
    """Return the `Calls` that keep the answers of this model now; None where answers are not kept."""
    calls = _CALLS.get()
    return calls if calls is not None and calls.lm is lm and not lm._hook_depth else None


@contextmanager
def keep_calls(lm: Asked, path: Path) -> Iterator[None]:
    """Read answers of `lm` from a file, and append new ones to it, inside the context.

    The file is deleted when the work is complete.

    Args:
        lm: the model; its weights must not change meanwhile.
        path: of the file; its name must say everything that the work depends on.
    """
    token = _CALLS.set(Calls(lm, path))
    try:
        yield
        with suppress(OSError):
            path.unlink()
    finally:
        _CALLS.reset(token)
