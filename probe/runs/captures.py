"""Captured tensors of a run by step, and the conversion of rows of metrics into tables.

Of rows with the same key and step the newest counts, and a resume discards later steps.

A shipped run stores `attention` [P D H T T] as `attention_packed` [D H N], N = sum of n (n + 1) / 2 over the prompts'
lengths n: the rows of each lower triangle in order, prompt after prompt. This is lossless, because attention is zero
above the diagonal and after a prompt's tokens.
"""

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import deserialize

from probe.errors import RunError
from probe.numbers import duration, file_size
from probe.runs.attention_tail import TAIL, check_tail
from probe.runs.directories import present
from probe.runs.schema import CAPTURE_AXES, CAPTURES, INDEX, PROMPTS, SCHEMA, ProbePrompt, RunWarning
from probe.runs.storage import Position, read_log
from probe.untrusted import DOCUMENT, FIELDS, foreign, read_file, read_json, readable, refuse_newer

Arrays = dict[str, np.ndarray[Any, Any]]
PLAIN, PACKED, COLUMNS = "attention", "attention_packed", "captured_columns"
CAPTURE = 2**30
"""Maximum bytes of the tensors of one step."""
CELLS = 32_000_000
"""Maximum number of cells of a table of metrics or rollouts; a larger table keeps only its first columns."""


def pack(tensors: Arrays, lengths: Sequence[int]) -> Arrays:
    """Return the tensors with attention packed; unchanged without attention, or where masked weights are not 0.

    Args:
        tensors: tensors of one capture.
        lengths: number of tokens of each prompt.
    """
    attention = tensors.get(PLAIN)
    if attention is None or not lengths or attention.shape[0] != len(lengths) or attention.shape[-1] != max(lengths):
        return tensors
    prompt, query, key = _places(lengths)
    packed = {PACKED: np.ascontiguousarray(np.moveaxis(attention[prompt, :, :, query, key], 0, -1))}
    rest = {name: tensor for name, tensor in tensors.items() if name != PLAIN}
    return packed | rest if np.array_equal(unpack(packed, lengths)[PLAIN], attention) else tensors


def unpack(tensors: Arrays, lengths: Sequence[int]) -> Arrays:
    """Return the tensors with `attention` restored; unchanged if nothing is packed.

    Raises:
        ValueError: the prompts are not those that were packed.
    """
    packed = tensors.get(PACKED)
    if packed is None:
        return tensors
    prompt, query, key = _places(lengths)
    if packed.ndim != 3:
        raise ValueError(f"packed attention has {packed.ndim} axes where there should be three")
    depth, heads, count = packed.shape
    if count != len(prompt):
        raise ValueError(f"{count} weights are packed, and these prompts have {len(prompt)}")
    width = max(lengths, default=0)
    attention = np.zeros((len(lengths), depth, heads, width, width), dtype=packed.dtype)
    attention[prompt, :, :, query, key] = np.moveaxis(packed, -1, 0)
    return {PLAIN: attention} | {name: tensor for name, tensor in tensors.items() if name != PACKED}


def _places(lengths: Sequence[int]) -> tuple[np.ndarray[Any, Any], ...]:
    """Return [N] prompt, query and key of every weight within the causal mask."""
    rows, columns = zip(*(np.tril_indices(length) for length in lengths), strict=True) if lengths else ((), ())
    prompt = np.repeat(np.arange(len(lengths)), [len(row) for row in rows])
    return (prompt, *(np.concatenate(each) if each else np.zeros(0, dtype=int) for each in (rows, columns)))


Row = dict[str, Any]
HUGE = 2**1023


def is_sound(row: Row) -> bool:
    """Return whether a row has a step."""
    step = row.get("step")
    return type(step) is int and 0 <= step < 2**63


def warn_of_odd(odd: int, path: Path) -> None:
    """Warn of the lines of a file that have no step, if there are any."""
    if odd:
        warnings.warn(f"{odd} lines of `{path}` have no step and are left out.", RunWarning, stacklevel=4)


def newest(before: Mapping[int, Row], rows: Iterable[Row], path: Path) -> dict[int, Row]:
    """Return rows by step, merging rows of equal step; `before` is the result for earlier lines, left unchanged."""
    by_step, odd = dict(before), 0
    highest = [-step for step in by_step]  # each step is discarded at most once, for any number of resumes
    heapify(highest)
    for row in rows:
        if not is_sound(row):
            odd += 1
        elif row.get("event") == "resume":
            while highest and -highest[0] > row["step"]:
                del by_step[-heappop(highest)]
        elif row["step"] in by_step:
            by_step[row["step"]] = {**by_step[row["step"]], **row}
        else:
            by_step[row["step"]] = row
            heappush(highest, -row["step"])
    warn_of_odd(odd, path)
    return by_step


def all_rows(before: list[Row], rows: Iterable[Row], path: Path) -> list[Row]:
    """Return all rows in the order of the file except those that a resume discards; `before` is not changed."""
    result: list[Row | None] = list(before)
    odd, highest = 0, [(-row["step"], index) for index, row in enumerate(before)]
    heapify(highest)
    for row in rows:
        if not is_sound(row):
            odd += 1
        elif row.get("event") == "resume":
            while highest and -highest[0][0] > row["step"]:
                result[heappop(highest)[1]] = None
        else:
            heappush(highest, (-row["step"], len(result)))
            result.append(row)
    warn_of_odd(odd, path)
    return [row for row in result if row is not None]


def _first_columns(rows: Sequence[Row], names: Iterable[str] = ()) -> list[str]:
    """Return the names of columns in order of first appearance: at most `FIELDS` names, and `CELLS` cells in all rows.

    If some are left out, a `RunWarning` gives the number of columns.
    """
    found = dict.fromkeys(names)
    for row in rows:
        found.update(dict.fromkeys(row))
    most = min(FIELDS, max(CELLS // max(len(rows), 1), 16))
    if len(found) > most:
        warnings.warn(
            f"The rows have {len(found):,} columns, and the first {most:,} are read.", RunWarning, stacklevel=4
        )
    return list(found)[:most]


def metrics_frame(rows: Mapping[int, Row]) -> pd.DataFrame:
    """Return one row per step in order: `step`, `time` (seconds of training), then the metrics by first appearance."""
    lines = [rows[step] for step in sorted(rows)]
    names = [name for name in _first_columns(lines, ("step", "time")) if name != "event"]
    frame = pd.DataFrame({readable(name): numbers([row.get(name) for row in lines]) for name in names})
    return frame.astype({"step": "int64"})


def numbers(values: list[Any]) -> pd.Series:
    """Return values of any kind as numbers, with NaN for other values and for numbers that are not finite."""
    try:
        if values and {float}.issuperset({*map(type, values)} - {type(None)}):
            found = np.array(values, dtype=float)
            return pd.Series(np.where(np.isinf(found), np.nan, found))
        series = pd.to_numeric(pd.Series(readable(values), dtype=None if values else float), errors="coerce")
    except OverflowError:  # a whole number beyond all floats
        small = [value if isinstance(value, int | float) and abs(value) < 1e300 else None for value in values]
        series = pd.Series(small, dtype=float)
    return series.where(np.isfinite(series)) if series.dtype.kind == "f" else series


def rollouts_frame(rows: list[Row]) -> pd.DataFrame:
    """Return one row per completion; null inside a list of numbers becomes NaN."""
    names = frozenset(_first_columns(rows))
    clean = [{readable(key): _with_nan(value) for key, value in row.items() if key in names} for row in rows]
    try:
        frame = pd.DataFrame(clean)
    except UnicodeEncodeError:  # half a surrogate pair, which text columns of pandas cannot hold
        frame = pd.DataFrame(clean, dtype=object)
        numbers = [name for name in frame if not any(isinstance(value, str) for value in frame[name])]
        frame = frame.astype({name: frame[name].infer_objects().dtype for name in numbers})
    return frame if len(frame.columns) else pd.DataFrame(columns=["step", "prompt", "completion"])


def _with_nan(value: Any) -> Any:
    """Return `value` with NaN for null in lists and for numbers that are not finite or exceed all floats."""
    if isinstance(value, list):
        return [math.nan if item is None else _with_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else math.nan
    return math.nan if isinstance(value, int) and not abs(value) < HUGE else value


DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"}
DTYPES |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?"}
"""NumPy's names for the types of safetensors."""


class Tensors(dict[str, "np.ndarray[Any, Any]"]):
    """Tensors of a capture by name; a missing one raises a RunError."""

    def __init__(self, file: Path, held: dict[str, "np.ndarray[Any, Any]"], lengths: Sequence[int] = ()) -> None:
        super().__init__(held)
        self.file = file
        self.lengths = tuple(lengths)
        """[P] number of tokens of each prompt."""

    def __missing__(self, name: str) -> "np.ndarray[Any, Any]":
        raise RunError(
            f"The capture `{self.file}` holds no `{name}`: choose another step or run, or record it with `probe.watch`."
        )


class Captures:
    """Captures of a run over training: the same tensors on the same prompts at many steps.

    This is a snapshot: request it from the run again to see later captures.
    """

    def __init__(self, run: Path, *, live: bool = False) -> None:
        self.path = run / CAPTURES
        rows, _ = read_log(self.path / INDEX, Position(), live=live)
        rows_by_step = newest({}, rows, self.path / INDEX)
        self.files: dict[int, Path] = {}
        """File of each captured step, in order."""
        self.costs: list[tuple[float, float]] = []
        """Bytes of each capture, and the seconds that it took (NaN if they were not recorded)."""
        for step in sorted(rows_by_step):
            row = rows_by_step[step]
            path = self.path / Path(str(row.get("file"))).name
            if os.path.isfile(path):  # the name may exceed the limit for file names
                self.files[step] = path
                self.costs.append((_amount(row.get("bytes")), _amount(row.get("seconds"))))
            else:
                warnings.warn(f"The capture `{path}` is listed and missing; it is left out.", RunWarning, stacklevel=2)

    @property
    def steps(self) -> list[int]:
        """Captured steps in order."""
        return list(self.files)

    @property
    def prompts(self) -> list[ProbePrompt]:
        """Prompts along the first axis of each tensor.

        Raises:
            RunError: the file that holds them is damaged or of a newer schema.
        """
        return self._fixed[0]

    @property
    def holds(self) -> str:
        """Sentence on what a capture holds; empty in older runs.

        Raises:
            RunError: as for `prompts`.
        """
        return self._fixed[2]

    @property
    def cost(self) -> str:
        """Clause on what all captures take, such as `12 captures, 34 MB, 8 s`; empty without captures."""
        if not self.costs:
            return ""
        size, seconds = (math.fsum(each) for each in zip(*self.costs, strict=True))
        took = [file_size(int(size))] if math.isfinite(size) else []
        took += [duration(seconds, 0.01)] if math.isfinite(seconds) else []
        return ", ".join([f"{len(self):,} capture{'s' * (len(self) != 1)}", *took])

    @property
    def left_out(self) -> str:
        """Sentences on prompts that should have been captured and could not be, and why; empty if there are none.

        Raises:
            RunError: as for `prompts`.
        """
        return self._fixed[1]

    @cached_property
    def _fixed(self) -> tuple[list[ProbePrompt], str, str]:
        path = self.path / PROMPTS
        if not path.exists():
            return [], "", ""
        try:
            content = readable(read_json(path, DOCUMENT))
            if type(content["schema"]) is int:
                refuse_newer(f"`{path}`", "schema", content["schema"], SCHEMA, RunError)
            texts = (content.get(name) for name in ("left_out", "holds"))
            left_out, holds = (text if isinstance(text, str) else "" for text in texts)
            prompts = [_prompt(row) for row in content["prompts"]]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"`{path}` is damaged: copy it again from where the run was made.") from error
        return prompts, left_out, holds

    def load(self, step: int) -> Tensors:
        """Load the tensors of a step by name (docs/runs.md lists them with their axes).

        Raises:
            RunError: the step was not captured, or its file is damaged.
        """
        if step not in self.files:
            steps = ", ".join(map(str, self.steps[:12])) + (", ..." if len(self) > 12 else "")
            raise RunError(f"Step {step} of `{self.path.parent}` was not captured: the steps are {steps or 'none'}.")
        file = self.files[step]
        present(file)
        with foreign(
            lambda reason: RunError(
                f"The capture `{file}` is damaged ({reason}): delete it, or copy it again from where it was made."
            )
        ):
            tensors = {name: _array(about) for name, about in deserialize(read_file(file, CAPTURE))}
        try:
            lengths = [prompt.length for prompt in self.prompts]
            tensors = unpack(tensors, lengths) if PACKED in tensors else tensors
            if self.prompts:
                tensors = widen(tensors, lengths) if COLUMNS in tensors else tensors
                _check(tensors, self.prompts)
            if TAIL in tensors:
                check_tail(tensors, lengths)
        except ValueError as error:
            raise RunError(
                f"The capture `{file}` is damaged, or belongs to other prompts than {PROMPTS} lists ({error}):"
                " copy both again from where the run was made."
            ) from None
        return Tensors(file, tensors, lengths)

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"Captures({len(self)} steps, {len(self.prompts)} prompts)"

    def _repr_html_(self) -> str:
        rows = pd.DataFrame([{"id": each.id, "prompt": each.text, "tokens": each.length} for each in self.prompts])
        steps = f"{len(self)} steps, {self.steps[0]:,} to {self.steps[-1]:,}" if len(self) else "no steps"
        return f"<p>{steps}</p>" + str(rows.to_html(index=False, border=0, escape=True))


def widen(tensors: Arrays, lengths: Sequence[int]) -> Arrays:
    """Return the tensors with a column for every token; those that were not captured are NaN, or -1 for integers.

    A capture may hold lens and norms only at the last tokens of each prompt; it then has `captured_columns` [1].

    Raises:
        ValueError: the tensors would become too large.
    """
    longest, found = max(lengths), dict(tensors)
    for name, axes in CAPTURE_AXES.items():
        array, at = tensors.get(name), axes.split().index("T") if "T" in axes.split() else None
        if (
            array is None
            or at is None
            or name == PLAIN
            or array.ndim != len(axes.split())
            or len(array) != len(lengths)
        ):
            continue
        columns = array.shape[at]
        if not 0 < columns < longest or tensors[COLUMNS].tolist() != [columns]:
            continue
        shape = (*array.shape[:at], longest, *array.shape[at + 1 :])
        if math.prod(shape) * array.itemsize > CAPTURE:
            raise ValueError(f"`{name}` of all tokens would exceed the largest capture")
        found[name] = wide = np.full(shape, np.nan if array.dtype.kind == "f" else -1, dtype=array.dtype)
        into, source = np.moveaxis(wide, at, 1), np.moveaxis(array, at, 1)
        for index, length in enumerate(lengths):
            count = min(columns, length)
            into[index, length - count : length] = source[index, :count]
            into[index, length:] = 0
    return found


def _amount(value: Any) -> float:
    """Return a number that is 0 or more; NaN for anything else."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < HUGE
        else math.nan
    )


def _prompt(row: dict[str, Any]) -> ProbePrompt:
    """Parse a prompt from its stored JSON object.

    Raises:
        ValueError, TypeError, AttributeError: it is not a prompt.
    """
    prompt = ProbePrompt(**{item.name: row[item.name] for item in fields(ProbePrompt) if item.name in row})
    lists = [prompt.tokens, prompt.answers, prompt.token_ids, prompt.answer_ids]
    if not all(isinstance(each, list) for each in lists):
        raise ValueError("its tokens or answers are not lists")
    texts = [prompt.id, prompt.text, prompt.kind, prompt.note, *prompt.tokens, *prompt.answers]
    ids = [*prompt.token_ids, *prompt.answer_ids, prompt.shared]
    if not all(isinstance(text, str) for text in texts) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise ValueError("a text is not text, or an id is not a whole number")
    if prompt.shared > prompt.length:
        raise ValueError("its answers share more tokens than it has")
    return prompt


def _array(about: dict[str, Any]) -> "np.ndarray[Any, Any]":
    """Return a tensor of a safetensors file as an array; bfloat16, which NumPy lacks, in single precision."""
    kind, data, shape = about["dtype"], about["data"], about["shape"]
    if kind == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(bytearray(data), DTYPES[kind]).reshape(shape)


def _check(tensors: dict[str, "np.ndarray[Any, Any]"], prompts: Sequence[ProbePrompt]) -> None:
    """Raise a ValueError if a tensor of the recorder's layout does not have the required axes."""
    odd = next((prompt.id for prompt in prompts if len(prompt.tokens) != prompt.length), None)
    if odd is not None:
        raise ValueError(f"the prompt {odd!r} does not have one piece of text for each token")
    sizes = {"P": len(prompts), "2": 2}
    for name in [name for name in CAPTURE_AXES if name in tensors]:
        axes, shape = CAPTURE_AXES[name].split(), tensors[name].shape
        lengths = [size - axis.endswith("+1") for size, axis in zip(shape, axes, strict=False)]
        references = [sizes.setdefault(axis[0], size) for size, axis in zip(lengths, axes, strict=False)]
        if len(shape) != len(axes) or lengths != references:
            raise ValueError(f"`{name}` has the shape {list(shape)} for the axes {' '.join(axes)}")
    least = {"T": max(prompt.length for prompt in prompts), "A": max(len(prompt.answers) for prompt in prompts)}
    for axis, size in least.items():
        if sizes.get(axis, size) < size:
            raise ValueError(f"there are {sizes[axis]} of {size} {'tokens' if axis == 'T' else 'answers'}")
