"""Storage of results in the run's `results`, named by a hash of everything that they depend on.

Results of other models (a hub id, a folder, a sample run that comes with Probe, a read-only run) are stored in
`results/MODEL` of the working directory. Results that come with the sample runs are found in these. `python -m
probe.experiments.store FOLDER...` recomputes the summaries of all results below some folders that an earlier version
stored.
"""

import hashlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import DataError, ProbeError
from probe.experiments.comparison import compare_summaries
from probe.experiments.metrics import COLUMNS, COMPARED, PAIRS, ROW, UNIT
from probe.experiments.result import RESULT_FILE, Result, read_index
from probe.experiments.run import (
    Call,
    call,
    finish,
    join,
    labels,
    perform,
    rename_model,
    renew,
)
from probe.experiments.units import is_current
from probe.runs.directories import WORK, is_shipped, may_make, run_homes
from probe.texts import say
from probe.ticks import Tick, part
from probe.untrusted import read_file

if TYPE_CHECKING:
    from probe.experiments.definition import Experiment
    from probe.model.lm import LM


PARTIAL = "partial"
"""Folder of the answers of unfinished experiments."""
COMPARISONS = "compared"
"""Subfolder of a result with its differences to others; it is deleted when the result is stored again, and may be
deleted at any time.
"""


def homes(lm: "LM") -> list[Path]:
    """Return the folders that can hold a model's results; new ones go to the first.

    A run may be untrusted, so nothing is written if its `results` is a link.
    """
    if lm.run_dir is None:
        name = labels([lm])[0]
        return [WORK / (name if name.strip(".") else "model")]
    return run_homes(Path(lm.run_dir))


def place(request: Call, folder: Path | None = None) -> Path:
    """Return the folder of a call's result, whether it exists or not.

    It can be below `WORK` even for a writable run: the run was read-only when the result was made, or another
    installation of Probe took it for one of its sample runs.

    Args:
        request: call to look up.
        folder: folder of results, instead of those of the call's first model.
    """
    lm = request.models[0]
    earlier = [WORK / Path(lm.run_dir).resolve().name] if lm.run_dir is not None else []
    places = [home / _name(request) for home in ([folder] if folder else [*homes(lm), *earlier])]
    return next((path for path in places if (path / RESULT_FILE).is_file()), places[0])


def target(request: Call, folder: Path | None = None) -> Path:
    """Return the folder for a new result of a call; see `place`."""
    return (folder or homes(request.models[0])[0]) / _name(request)


def writable(directory: Path) -> Path:
    """Return the folder for new files of a stored result: its own, or one below `WORK` if it comes with Probe."""
    return WORK / directory.parents[1].name / directory.name if is_shipped(directory) else directory


def _name(request: Call) -> str:
    return f"{request.experiment.name}-{request.key}"


def find_stored(request: Call, folder: Path | None = None) -> Result | None:
    """Return the stored result of a call; a damaged one counts as missing.

    A summary with other units, or of a version with other intervals, is recomputed from the items.
    """
    directory = place(request, folder)
    if not (directory / RESULT_FILE).is_file():
        return None
    try:
        result = Result.load(directory)
    except DataError:
        return None
    if len(result.models) != 1 or is_current(result, request.unit):
        return result
    try:
        return renew(request.experiment, result, request.unit, request.units)
    except DataError:  # items that a metric of this version cannot read
        return None


def keep(request: Call, result: Result, folder: Path | None = None) -> Path | None:
    """Store a result; return None if the folder is not writable."""
    directory = target(request, folder)
    return result.save(directory) if may_make(directory) else None


def partial_file(request: Call) -> Path:
    """Return the file of a call's answers until its result exists."""
    return WORK / PARTIAL / f"{_name(request)}.jsonl"


def carry_out(request: Call, tick: Tick | None = None, both_forms: bool = True) -> Result:
    """Run a call of one model and return its result; an interrupted call resumes where it stopped.

    The model's answers are kept below `WORK` until the result exists (`probe.model.calls`).
    """
    from probe.model.calls import keep_calls  # late: imports torch, not needed for help

    (lm,) = request.models
    with keep_calls(lm, partial_file(request)):
        return perform(request.experiment, lm, tick=tick, both_forms=both_forms, **request.options)


def obtain(
    experiment: "Experiment",
    lm: "LM",
    baseline: "LM | None" = None,
    *,
    again: bool = False,
    folder: Path | None = None,
    both_forms: bool = True,
    tick: Tick | None = None,
    **options: Any,
) -> Result:
    """Return the result of a model, and of a baseline if given; a stored result is not computed again.

    A stored result that lacks some of the numbers (`Experiment.is_whole`) is computed again. Each model is run and
    stored separately, so that any two can be compared later.

    Args:
        experiment: experiment to run.
        lm: the model.
        baseline: second model that answers the same items.
        again: whether to run it even if a result is stored.
        folder: folder to read and store results, instead of those of the models.
        both_forms: see `probe.experiments.run.perform`.
        tick: function called with the share of the work done.
        options: `n`, `seed`, `data`, and the experiment's own options.
    """
    outcomes = []
    models = [lm] if baseline is None else [lm, baseline]
    for index, model in enumerate(models):
        request = call(experiment, model, **options)
        result = None if again else _as_it_is_called(experiment, find_stored(request, folder), model)
        if result is None or not experiment.is_whole(result):
            result = carry_out(request, part(tick, index, len(models)), both_forms)
            keep(request, result, folder)
        outcomes.append(result)
        if tick is not None:
            tick((index + 1) / len(models))
    return join(experiment, outcomes) if len(outcomes) > 1 else outcomes[0]


def _as_it_is_called(experiment: "Experiment", result: Result | None, lm: "LM") -> Result | None:
    """Return a stored result under the model's current name, which differs if the run was renamed."""
    (label,) = labels([lm])
    if result is None or result.models == [label]:
        return result
    return finish(experiment, rename_model(result, label)) if len(result.models) == 1 else None


def results(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return the folders with results of experiments below any folder, with their indices, newest first."""
    folders = []
    for file in directory.glob(f"*/{RESULT_FILE}"):
        try:
            folders.append((file.parent, read_index(file.parent)))
        except DataError:
            continue
    yield from sorted(folders, key=lambda pair: str(pair[1]["meta"].get("created")), reverse=True)


def compare_stored(
    experiment: "Experiment", result: Result, base: Result, place: Path | None, keep: bool = True
) -> pd.DataFrame:
    """Return the stored or newly computed result of `probe.experiments.comparison.compare_summaries`.

    Args:
        experiment: experiment of both results.
        result: result of the model.
        base: result of the baseline.
        place: folder of the model's stored result, in which the table is stored; None stores nothing.
        keep: whether to write tables that are not stored yet.
    """
    names = ("key", "created", "seconds", "unit", "intervals")
    facts = [tuple(each.meta.get(name) for name in names) for each in (result, base)]
    name = f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.csv"
    files = [] if place is None else [folder / COMPARISONS / name for folder in (place, writable(place))]
    tables = (_read_comparison(file, experiment.across_worlds) for file in files)
    found = next((table for table in tables if table is not None), None)
    if found is not None and list(found["metric"]) == list(result.summary["metric"]):
        return found
    found = compare_summaries(experiment, result, base)
    if files and keep and may_make(files[-1]):
        _write_comparison(files[-1], found)
    return found


def _read_comparison(file: Path, across_worlds: bool) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    try:
        text = pd.read_csv(io.BytesIO(read_file(file)), dtype=str, keep_default_na=False)
        columns = (*COLUMNS[1:], *COMPARED, *((PAIRS,) if across_worlds else ()))
        numbers = {name: [float(value or "nan") for value in text[name]] for name in columns}
        return pd.DataFrame({"metric": list(text["metric"]), **numbers}).astype({"n": int})
    except (OSError, ValueError, KeyError):
        return None


def _write_comparison(file: Path, table: pd.DataFrame) -> None:
    scratch = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(table.to_csv(index=False), encoding="utf-8")
        scratch.replace(file)
    except OSError:  # comparisons that are not stored are recomputed
        scratch.unlink(missing_ok=True)


def main(folders: Sequence[str]) -> None:
    """Recompute all stored results of earlier versions below some folders."""
    from probe.experiments.registry import find_experiment  # late: slow, and not needed for reading

    for file in sorted(path for folder in folders for path in Path(folder).rglob(RESULT_FILE)):
        try:
            result: Any = Result.load(file.parent)
            if len(result.models) != 1 or is_current(result, result.meta.get("unit", "")):
                continue
            experiment = find_experiment(result.name)
            units = dict(result.items[[ROW, UNIT]].dropna().itertuples(index=False)) if UNIT in result.items else {}
            renew(experiment, result, result.meta.get("unit", ""), units).save(file.parent)
        except ProbeError as error:
            say(f"probe: left out {file.parent}: {error}", error=True)
        else:
            say(str(file.parent))


if __name__ == "__main__":
    main(sys.argv[1:])
