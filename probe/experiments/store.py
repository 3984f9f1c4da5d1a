"""Where results lie, and how one that exists is found again: in the run's `results`, named by what it depends on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import DataError
from probe.experiments.result import RESULT_FILE, Result, read_index
from probe.experiments.run import Call, call, finished, join, labels, perform, renamed
from probe.runs.schema import RESULTS
from probe.ticks import Tick, part

if TYPE_CHECKING:
    from probe.experiments.registry import Experiment
    from probe.lm import LM


def home(lm: "LM") -> Path:
    """The folder of a model's results: that of its run, or one beside the working directory's runs."""
    if lm.run_dir is not None:
        return Path(lm.run_dir) / RESULTS
    return Path("runs") / RESULTS / labels([lm])[0]


def place(asked: Call) -> Path:
    """Where the result of a call lies, or would."""
    return home(asked.models[0]) / f"{asked.experiment.name}-{asked.key}"


def stored(asked: Call) -> Result | None:
    """The result of a call, if it was stored; one that is damaged counts as none."""
    directory = place(asked)
    if not (directory / RESULT_FILE).is_file():
        return None
    try:
        return Result.load(directory)
    except DataError:
        return None


def keep(asked: Call, result: Result) -> Path | None:
    """Store a result; None where the folder may not be written to."""
    directory = place(asked)
    parent = next(folder for folder in directory.parents if folder.exists())
    if not os.access(parent, os.W_OK):
        return None
    return result.save(directory)


def obtain(
    experiment: "Experiment",
    lm: "LM",
    baseline: "LM | None" = None,
    *,
    again: bool = False,
    tick: Tick | None = None,
    **options: Any,
) -> Result:
    """The result of a model, beside a baseline if one is given; what is stored is not run again.

    Each model is run and stored by itself, so that any two of them can be laid side by side later.

    Args:
        experiment: what to run.
        lm: the model.
        baseline: a second model that answers the same items.
        again: run it even so.
        tick: called with the share that is done.
        options: n, seed, data, and the experiment's own.
    """
    found = []
    models = [lm] if baseline is None else [lm, baseline]
    for index, model in enumerate(models):
        asked = call(experiment, model, **options)
        result = None if again else _as_it_is_called(experiment, stored(asked), model)
        if result is None:
            result = perform(experiment, model, tick=part(tick, index, len(models)), **options)
            keep(asked, result)
        found.append(result)
        if tick is not None:
            tick((index + 1) / len(models))
    return join(experiment, found) if len(found) > 1 else found[0]


def _as_it_is_called(experiment: "Experiment", result: Result | None, lm: "LM") -> Result | None:
    """A stored result under the model's present name, which another one had when it was stored (a run was renamed)."""
    (label,) = labels([lm])
    if result is None or result.models == [label]:
        return result
    return finished(experiment, renamed(result, label)) if len(result.models) == 1 else None


def results(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folders with results of experiments below a run's (or any other) folder, with their indices, newest first."""
    found = []
    for file in directory.glob(f"*/{RESULT_FILE}"):
        try:
            found.append((file.parent, read_index(file.parent)))
        except DataError:
            continue
    yield from sorted(found, key=lambda pair: str(pair[1]["meta"].get("created")), reverse=True)
