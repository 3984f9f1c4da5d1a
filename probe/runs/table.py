"""From lines to tables: the newest value wins for each key and step, and a resume takes later steps back."""

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.runs.schema import RunWarning
from probe.untrusted import readable

Row = dict[str, Any]
HUGE = 2**1023


def _sound(row: Row) -> bool:
    step = row.get("step")
    return type(step) is int and 0 <= step < 2**63


def _warn_of(odd: int, path: Path) -> None:
    if odd:
        warnings.warn(f"{odd} lines of `{path}` have no step and are left out.", RunWarning, stacklevel=4)


def newest(before: Mapping[int, Row], rows: Iterable[Row], path: Path) -> dict[int, Row]:
    """Rows by step, those of equal step merged; `before` is what earlier lines gave (it is not changed)."""
    kept, odd = dict(before), 0
    for row in rows:
        if not _sound(row):
            odd += 1
        elif row.get("event") == "resume":
            kept = {step: old for step, old in kept.items() if step <= row["step"]}
        elif row["step"] in kept:
            kept[row["step"]] = {**kept[row["step"]], **row}
        else:
            kept[row["step"]] = row
    _warn_of(odd, path)
    return kept


def all_rows(before: list[Row], rows: Iterable[Row], path: Path) -> list[Row]:
    """All rows in the order of the file without those that a resume takes back; `before` is not changed."""
    kept, odd = list(before), 0
    for row in rows:
        if not _sound(row):
            odd += 1
        elif row.get("event") == "resume":
            kept = [old for old in kept if old["step"] <= row["step"]]
        else:
            kept.append(row)
    _warn_of(odd, path)
    return kept


def metrics_frame(rows: Mapping[int, Row]) -> pd.DataFrame:
    """One line a step in order: `step`, `time` (seconds of training), then the metrics as they first appeared."""
    steps = sorted(rows)
    names = dict.fromkeys(["step", "time"])
    for step in steps:
        names.update(dict.fromkeys(rows[step]))
    names.pop("event", None)
    ordered = [rows[step] for step in steps]
    frame = pd.DataFrame({readable(name): numbers([row.get(name) for row in ordered]) for name in names})
    return frame.astype({"step": "int64"})


def numbers(values: list[Any]) -> pd.Series:
    """Values of any kind as numbers, NaN for what is none or is not finite."""
    try:
        found = pd.to_numeric(pd.Series(readable(values), dtype=None if values else float), errors="coerce")
    except OverflowError:  # a whole number beyond all floats
        small = [value if isinstance(value, int | float) and abs(value) < 1e300 else None for value in values]
        found = pd.Series(small, dtype=float)
    return found.where(np.isfinite(found)) if found.dtype.kind == "f" else found


def rollouts_frame(rows: list[Row]) -> pd.DataFrame:
    """One line a completion; null inside a list of numbers becomes NaN."""
    clean = [{readable(key): _with_nan(value) for key, value in row.items()} for row in rows]
    try:
        frame = pd.DataFrame(clean)
    except UnicodeEncodeError:  # half a surrogate pair, which text columns of pandas cannot hold
        frame = pd.DataFrame(clean, dtype=object)
        numbers = [name for name in frame if not any(isinstance(value, str) for value in frame[name])]
        frame = frame.astype({name: frame[name].infer_objects().dtype for name in numbers})
    return frame if len(frame.columns) else pd.DataFrame(columns=["step", "prompt", "completion"])


def _with_nan(value: Any) -> Any:
    """`value` with NaN in place of null in lists and of numbers that are not finite or beyond all floats."""
    if isinstance(value, list):
        return [math.nan if item is None else _with_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else math.nan
    return math.nan if isinstance(value, int) and not abs(value) < HUGE else value
