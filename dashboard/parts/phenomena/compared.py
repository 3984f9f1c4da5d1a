"""Paired differences of stored results: seconds where metrics are many, so made once and kept with them."""

import hashlib
import os
from pathlib import Path

import pandas as pd

from dashboard import access
from probe.experiments.metrics import COLUMNS, COMPARED, PAIRS, differences
from probe.experiments.registry import Experiment
from probe.experiments.result import Result
from probe.experiments.run import columns_as_metrics
from probe.experiments.store import writable

FOLDER = "compared"
"""Inside the folder of a result, and gone when the result is stored anew; may be deleted at any time."""


def compared(experiment: Experiment, result: Result, base: Result, place: Path | None) -> pd.DataFrame:
    """The summary of one model with the columns of a baseline (`probe.experiments.metrics.COMPARED`).

    Args:
        experiment: of both.
        result: of the model.
        base: of the baseline.
        place: the folder of the model's stored result, in which the table is kept; None keeps nothing.
    """
    facts = [(each.meta.get("key"), each.meta.get("created"), each.meta.get("seconds")) for each in (result, base)]
    name = f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.csv"
    files = [] if place is None else [folder / FOLDER / name for folder in (place, writable(place))]
    tables = (_read(file, experiment.across_worlds) for file in files)
    found = next((table for table in tables if table is not None), None)
    if found is None or list(found["metric"]) != list(result.summary["metric"]):
        seed = int(base.meta.get("seed") or 0)
        metrics = experiment.metrics or columns_as_metrics(pd.concat([result.items, base.items]))
        both = result.items, base.items
        found = differences(metrics, result.summary, base.summary, *both, seed, experiment.across_worlds)
        if files:
            _write(files[-1], found)
    return found


def _read(file: Path, across_worlds: bool) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    try:
        text = pd.read_csv(file, dtype=str, keep_default_na=False)
        columns = (*COLUMNS[1:], *COMPARED, *((PAIRS,) if across_worlds else ()))
        numbers = {name: [float(value or "nan") for value in text[name]] for name in columns}
        return pd.DataFrame({"metric": list(text["metric"]), **numbers}).astype({"n": int})
    except (OSError, ValueError, KeyError):
        return None


def _write(file: Path, table: pd.DataFrame) -> None:
    if not access.allowed() or not os.access(
        next(place for place in file.absolute().parents if place.exists()), os.W_OK
    ):
        return
    scratch = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(table.to_csv(index=False), encoding="utf-8")
        scratch.replace(file)
    except OSError:  # what is not kept is made again
        scratch.unlink(missing_ok=True)
