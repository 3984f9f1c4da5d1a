"""Results of an analysis on a page: found where they are stored, computed at once, or by a job."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from dashboard import access, models
from dashboard.data import file_stamps, quiet
from dashboard.inputs import Values
from dashboard.jobs import find_job, launch
from dashboard.markdown import escape_markdown, note
from dashboard.sides import Side
from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import (
    LONG_S,
    SUFFIX,
    StoredResult,
    differing_inputs,
    file_name,
    find_result,
    is_storable,
    keep_result,
    nearest_result,
)
from probe.errors import ProbeError
from probe.jobs.job import LIVE
from probe.jobs.trainings import status_of
from probe.numbers import duration
from probe.options import option, words
from probe.plotting.notebook import Drawable

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM
    from probe.ticks import Tick

JOB_S = 20.0
"""Expected seconds from which a result is computed by a job."""

T = TypeVar("T")


def compute(
    analysis: Analysis, sides: Sequence[Side], values: Values, where: "DeltaGenerator | None" = None
) -> tuple[list[tuple[Sequence[Side], Drawable]] | None, list[str]]:
    """Return the result of the pair, or of each model, and why others have none; None for one that is only offered.

    Args:
        analysis: analysis to compute.
        sides: models.
        values: values of the inputs.
        where: container of the offer; by default the current one.
    """
    files = {field["name"] for field in analysis.fields() if field["file"]}
    named = [Path(each) if name in files and isinstance(each, str) else each for name, each in values.items()]
    options: dict[str, Any] = {
        "name": analysis.name,
        "version": analysis.version,
        "values": tuple(sorted(values.items())),
        "stamps": tuple(map(file_stamps, paths(named))),
    }
    groups = [[*sides]] if analysis.models == PAIR else [[side] for side in sides] or [[]]
    what, key, errors = escape_markdown(analysis.title), f"{analysis.name}-run", dict[int, str]()
    costs, place = list[float | None](), st.empty() if where is None else where.empty()
    missing = list[Sequence[Side]]()
    for index, group in enumerate(groups):
        lms = [side.lm for side in group]
        try:
            if models.ready(_run, *lms, **options) is None and not _found(analysis, values, lms, options):
                costs.append(models.compute_once(_cost, *lms, say=f"{what}: estimating its time", **options))
                missing.append(group)
        except ProbeError as error:
            errors[index] = str(error)
    known = [each for each in costs if each is not None]
    seconds = sum(known) if len(known) == len(costs) else None
    if costs and is_storable(analysis):
        jobs = [find_job("", _job_name(analysis, values, group)) for group in missing]
        if any(job is not None and status_of(job) in LIVE for job in jobs):
            return None, [f"{analysis.title} is being computed as a job: leaving this page does not stop it."]
        for reason in dict.fromkeys(job.error for job in jobs if job is not None and job.error):
            note(reason)
    if costs and not agreed(place, analysis.preview.button if analysis.preview else "Run it", seconds, key):
        return None, []
    told = not any(isinstance(values.get(name), tuple) for name in files)  # a command names a file, not its texts
    if costs and (seconds is None or seconds > JOB_S) and is_storable(analysis) and told and access.may_write():
        launch_job(analysis, values, missing)
    found = list[tuple[Sequence[Side], Drawable]]()
    say = f"{what}: about {duration(seconds)}" if seconds and seconds > 1 else what
    for index, group in enumerate(groups):
        if index in errors:
            continue
        try:
            result = compute_stoppably(place, f"{key}-{index}", _run, *(side.lm for side in group), say=say, **options)
            found.append((group, result))
        except ProbeError as error:
            errors[index] = str(error)
    return found, list(errors.values())


def paths(values: Iterable[Any]) -> list[Path]:
    """Return the paths among the values of inputs, including those in lists."""
    flat = (each for value in values for each in (value if isinstance(value, tuple) else (value,)))
    return [each.expanduser() for each in flat if isinstance(each, Path)]


def _run(
    *lms: "LM", tick: "Tick", name: str, version: str | None, values: tuple[tuple[str, Any], ...], stamps: Any
) -> Drawable:
    analysis, started = find_analysis(name), time.monotonic()
    result = analysis.run(*lms, tick=tick, **dict(values))
    seconds = time.monotonic() - started
    if seconds >= LONG_S and is_storable(analysis) and access.may_write():
        keep_result(analysis, dict(values), result, seconds, *lms)
    return result


def _found(analysis: Analysis, values: Values, lms: "Sequence[LM]", options: Mapping[str, Any]) -> bool:
    """Return whether the result is stored; it is ready then."""
    stored = find_result(analysis, values, *lms) if is_storable(analysis) else None
    if stored is not None:
        models.put_ready(_run, stored.result, *lms, **options)
    return stored is not None


def nearest(
    analysis: Analysis, sides: Sequence[Side], values: Values
) -> tuple[Values, list[tuple[Sequence[Side], Drawable]] | None, str]:
    """Find the stored results of these models whose inputs differ least from the chosen ones.

    Returns:
        The inputs, the results (None if a model has none), and a sentence that names the inputs that differ.
    """
    if not is_storable(analysis):
        return values, None, ""
    groups = [[*sides]] if analysis.models == PAIR else [[side] for side in sides]
    found = [nearest_result(analysis, values, *(side.lm for side in group)) for group in groups]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(groups) or any(each.inputs != known[0].inputs for each in known):
        return values, None, ""
    if analysis.preview is not None and known[0].inputs.get("prompt") != values.get("prompt"):
        return values, None, ""  # an estimate for this prompt is nearer than a result for another one
    whole = analysis.complete(values, *(side.lm for side in groups[0]))
    inputs, remark = stored_inputs(analysis, known[0], whole)
    return {**values, **inputs}, [(group, each.result) for group, each in zip(groups, known, strict=True)], remark


def stored_inputs(analysis: Analysis, stored: StoredResult, wanted: Values) -> tuple[Values, str]:
    """Return the inputs of a stored result except files, and a sentence that names those that differ from the wanted.

    The sentence is empty if none differ.

    Args:
        analysis: analysis of the result.
        stored: the result.
        wanted: wanted values of its inputs.
    """
    files = {field["name"] for field in analysis.fields() if field["file"]}
    inputs = {name: tuple(each) if isinstance(each, list) else each for name, each in stored.inputs.items()}
    other = differing_inputs(stored, wanted)
    told = ", ".join(f"{name.replace('_', ' ')} {inputs[name]}" for name in other if name not in files)
    remark = f"This is the stored result with {told or 'another file'}." if other else ""
    return {name: value for name, value in inputs.items() if name not in files}, remark


def launch_job(analysis: Analysis, values: Values, groups: Sequence[Sequence[Side]]) -> None:
    """Start a job that computes and stores the result of each group of models, and redraw the page.

    Raises:
        ConfigError: the reader may only read.
    """
    for group in groups:
        lms = [side.lm for side in group]
        computed = analysis.complete(values, *lms)
        with quiet():
            told = {name: value for name, value in computed.items() if not analysis.is_usual(name, computed, *lms)}
        flags = {option(analysis.option_of(name)): value for name, value in told.items() if value is not None}
        line = ["show", analysis.name, *(side.ref for side in reversed(group)), *words(flags)]
        link = {**st.query_params.to_dict(), "page": analysis.page}
        launch(line, _job_title(analysis, group), link, _job_name(analysis, values, group))
    st.rerun()


def _job_name(analysis: Analysis, values: Values, group: Sequence[Side]) -> str:
    return file_name(analysis, values, *(side.lm for side in group)).removesuffix(SUFFIX)


def _job_title(analysis: Analysis, group: Sequence[Side]) -> str:
    return f"{analysis.title}: {' and '.join(side.name for side in group)}"


def _cost(*lms: "LM", name: str, version: str | None, values: tuple[tuple[str, Any], ...], stamps: Any) -> float | None:
    return find_analysis(name).cost(*lms, **dict(values))


def settled(analysis: Analysis, lms: "Sequence[LM]", values: Values) -> Values:
    """Return the inputs, with one common value for all models where the models determine it."""
    if analysis.settle is None or analysis.models == PAIR or len(lms) < 2:
        return values
    say = f"{escape_markdown(analysis.title)}: asking all models alike"
    return models.compute_once(_settle, *lms, say=say, name=analysis.name, values=tuple(values.items()))


def _settle(*lms: "LM", name: str, values: tuple[tuple[str, Any], ...]) -> Values:
    return find_analysis(name).settled(dict(values), *lms)


def agreed(place: "DeltaGenerator", button: str, seconds: float | None, key: str) -> bool:
    """Return whether to compute now: the cost is low, or the reader has pressed the button that states it.

    Args:
        place: container of the button.
        button: label of the button, before the cost.
        seconds: expected seconds; None if unknown.
        key: key of the button.
    """
    if seconds is not None and models.is_quick(seconds):
        return True
    cost = "the progress bar shows how long it takes" if seconds is None else f"about {duration(seconds)}"
    return place.button(f"{button} ({cost})", key=key, type="primary", icon=":material/play_arrow:")


def compute_stoppably(
    place: "DeltaGenerator", key: str, fn: Callable[..., T], *lms: "LM", say: str, **options: Any
) -> T:
    """Return the result of `compute_once`; meanwhile there is a button that stops it."""
    result = models.ready(fn, *lms, **options)
    if result is not None:
        return result
    with place.container():
        stop: Any = {"key": f"{key}-cancel", "icon": ":material/close:"}
        st.button("Cancel", help="Stops at the next step of the progress bar.", **stop)
        try:
            result = models.compute_once(fn, *lms, say=say, steps=True, **options)
        except ProbeError:
            place.empty()  # there is nothing left to cancel
            raise
    place.empty()
    return result
