"""Data of the pages: runs, their metrics and captures; each file is read again only if it has changed."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.held import Held
from dashboard.markdown import prose
from probe.diagnosis.diagnosed import Diagnosis, diagnose
from probe.diagnosis.fault_record import faults
from probe.diagnosis.run_reading import Reading
from probe.errors import RunError
from probe.plotting.crowds import Course, course, evenly
from probe.plotting.curves import Style, smooth, with_axes
from probe.runs.addresses import RUN_FILE, is_cached
from probe.runs.captured import heads_moved, rollout_table
from probe.runs.captures import Captures, Tensors
from probe.runs.directories import roots, run_directories, shown_name, store_problems, stray_link
from probe.runs.metric_log import MetricLog
from probe.runs.reader import Run
from probe.runs.schema import CAPTURES, INDEX, METRICS, ROLLOUTS, RunWarning
from probe.runs.storage import UNFINISHED
from probe.seeds.grouping import Group, groups
from probe.seeds.looks import style_runs
from probe.untrusted import MB, readable

_WARNINGS = Lock()
_PROBLEMS: ContextVar[dict[str, None] | None] = ContextVar("problems", default=None)
"""Messages of the current page about files that cannot be read."""
Stamp = tuple[int, int]
SHARE = 64 * MB
"""Largest number of bytes of metrics, and of rollouts, that a page reads from one run, so that pages with many runs
stay fast."""
HELD = 128 * MB
"""Largest number of bytes of metrics that the server holds for its next pages; the rest is read again from the runs."""
NAMED_LINES = 3
"""Number of damaged lines of a file that a page lists; the others are only counted."""


@dataclass(frozen=True)
class Store:
    """The runs of all run directories, in their present state."""

    roots: list[Path]
    runs: dict[str, Run] = field(default_factory=dict)
    """Runs by label: the name, with the directory if two directories hold a run of the same name."""
    problems: dict[str, str] = field(default_factory=dict)
    """Reasons by directory that could not be read."""
    archived: list[Run] = field(default_factory=list)
    """Runs that readers have put aside (`probe.runs.run_marks`)."""

    @cached_property
    def groups(self) -> list[Group]:
        """The groups of runs that differ by seed only."""
        return groups(self.runs.values())

    def style(self) -> dict[str, Style]:
        """Return colour and dash of every run, the same on every page; seeds of one training share a colour."""
        return style_runs(self.runs, self.groups)

    def label(self, ref: str | None, near: Run | None = None) -> str | None:
        """Return the label of the run that a reference in run.json names (a name or a path, possibly with @step)."""
        if not ref:
            return None
        text = ref.rpartition("@")[0] if "@" in Path(ref).name else ref
        parts = Path(text).parts
        matches = [label for label, run in self.runs.items() if run.name in parts[-3:]]
        beside = [label for label in matches if near and self.runs[label].path.parent == near.path.parent]
        return next(iter(beside or matches), None)


def stamp(path: Path) -> Stamp:
    """Return modification time and size of a file, or (0, 0) if there is none."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def file_stamps(path: Path) -> tuple[Stamp, ...]:
    """Return the stamps of a file, or of a folder and its run's files, which change during training."""
    return tuple(stamp(path / name) for name in ("", RUN_FILE, METRICS, f"{CAPTURES}/{INDEX}"))


def read_store() -> Store:
    """Read all runs, the oldest first; an unreadable run is listed with its problem and does not hide others."""
    store = Store(roots(), problems=store_problems())
    runs: list[Run] = []
    for root in store.roots:
        if not root.is_dir() and is_cached(root):
            continue  # a store that was never read; its problem is reported
        if not root.is_dir():
            store.problems[str(root)] = "This run directory is not a folder: make it, or name another with --runs."
            continue
        try:
            directories = run_directories(root)
        except RunError as error:
            store.problems[str(root)] = str(error)
            continue
        for path in directories:
            try:
                stray = stray_link(path, store.roots)
                if stray is None:
                    runs.append(Run(path))
                else:
                    store.problems[str(path)] = stray_sentence(stray)
            except RunError as error:
                store.problems[str(path)] = str(error)
    store.archived.extend(run for run in runs if run.marks.archived)
    runs = [run for run in runs if not run.marks.archived]
    names = [run.name for run in runs]
    for run in sorted(runs, key=lambda run: (run.created, run.name)):
        label = run.name if names.count(run.name) == 1 else f"{run.name} ({shown_name(run.path.parent)})"
        store.runs[label] = run
    return store


def stray_sentence(link: Path) -> str:
    """Explain why a run with a link that leads outside the run directories is left out."""
    return (
        f"`{link}` is a link that leads outside the run directories, so the run is not read: add the folder that"
        " it leads to with --runs, or copy what is there."
    )


@contextmanager
def tell_problems() -> Iterator[None]:
    """Collect problems with reading runs while a page is drawn in this context, and show them above the page."""
    place, found = st.container(), dict[str, None]()
    token = _PROBLEMS.set(found)
    try:
        yield
    finally:
        _PROBLEMS.reset(token)
        for sentence in found:
            place.warning(prose(sentence))


def tell(*sentences: object) -> None:
    """Show above the page that something cannot be read."""
    found = _PROBLEMS.get()
    if found is not None:
        found.update(dict.fromkeys(map(str, sentences)))


@dataclass(frozen=True)
class _Read:
    """The metrics of a run as they were read last."""

    log: MetricLog
    version: Stamp
    frame: pd.DataFrame
    problems: list[str]


_READ: Held[_Read] = Held(HELD)
_OUTLINES: Held[pd.DataFrame] = Held(HELD // 4)
_COURSES: Held[dict[str, Course]] = Held(HELD // 4)
EACH_DIAGNOSIS = 16 * 1024
"""About the largest number of bytes of a diagnosis."""
_DIAGNOSES: Held[Diagnosis] = Held(HELD // 8)


def metrics(run: Run) -> pd.DataFrame:
    """Read the metrics of a run, at most `SHARE` bytes; of a file that has grown only the new lines are read.

    The table is shared and must not be changed.
    """
    path, version = run.path, stamp(run.path / METRICS)
    known = _READ.get(path)
    if known is None or known.version != version:
        log = known.log if known and not known.problems else MetricLog(path)
        with heard() as problems:
            frame = log.read(live=run.status == "running", most=SHARE)
        known = _Read(log, version, frame, problems)
        _READ.put(path, known, _size(frame))
    tell(*known.problems)
    return known.frame


def _size(frame: pd.DataFrame) -> int:
    return int(frame.memory_usage().sum())


def outline(run: Run, steps: Callable[[pd.DataFrame], int]) -> pd.DataFrame:
    """Return the metrics of a run with the columns of all axes, at the steps that bands need (`few_rows`).

    Args:
        run: the run.
        steps: function that returns the number of the run's steps from its metrics.
    """
    key = run.path, stamp(run.path / METRICS), stamp(run.path / RUN_FILE)

    def make() -> pd.DataFrame:
        frame = metrics(run)
        return few_rows(with_axes(frame, steps(frame)))

    return _OUTLINES.get_or(key, make, _size)


def few_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return some rows of a table: of each column the first and the last value, and others at even steps."""
    steps = frame["step"].to_numpy(dtype=float)
    kept = {*evenly(steps).tolist()}
    for name in frame:
        known = frame[name].notna().to_numpy()
        if not known.all():
            rows = np.flatnonzero(known)
            kept.update(rows[evenly(steps[rows])].tolist())
    return frame.iloc[sorted(kept)].copy()


def courses(
    runs: Sequence[Run], metrics: Sequence[str], x: str, weight: float, read: Callable[[], pd.DataFrame]
) -> dict[str, Course]:
    """Return what quantile bands need of the smoothed metrics of a run, or of the mean of some, over an axis.

    Args:
        runs: the runs that it is made of.
        metrics: names of the metrics; those that it lacks are left out.
        x: column of the axis.
        weight: weight of the past in smoothing.
        read: function that returns the table.
    """
    files = tuple((run.path, stamp(run.path / METRICS), stamp(run.path / RUN_FILE)) for run in runs)

    def make() -> dict[str, Course]:
        frame, found = read(), dict[str, Course]()
        for name in (name for name in metrics if name in frame):
            rows = frame[[x, name]].dropna() if x != name else frame[[x]].dropna()
            values = rows[name].to_numpy(dtype=float)
            found[name] = course(rows[x], smooth(values, weight) if weight else values)
        return found

    key = files, tuple(metrics), x, weight
    return _COURSES.get_or(key, make, lambda found: sum(each.nbytes for pair in found.values() for each in pair))


def reading(run: Run) -> Reading:
    """Return a run as the search for faults reads it."""
    found = Reading(metrics(run), run.method, run.config)
    found.run = run
    return found


def known_diagnosis(run: Run) -> Diagnosis | None:
    """Return the diagnosis of a run as it is now, without its metrics, if it is held."""
    return _DIAGNOSES.get(_state(run))


def diagnosis(run: Run) -> Diagnosis:
    """Return the faults that a run shows (`probe.diagnosis.diagnose`), without its metrics."""

    def make() -> Diagnosis:
        found = diagnose(reading(run))
        return replace(found, reading=Reading(found.reading.frame.iloc[:0], run.method, run.config))

    return _DIAGNOSES.get_or(_state(run), make, lambda found: EACH_DIAGNOSIS)


def _state(run: Run) -> tuple[object, ...]:
    files = METRICS, RUN_FILE, ROLLOUTS
    return run.path, *(stamp(run.path / name) for name in files), tuple(faults())


def rollouts(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the sampled completions of a run, and their table (`probe.runs.captured.rollout_table`)."""
    frame, table, problems = _rollouts(str(run.path), stamp(run.path / ROLLOUTS))
    tell(*problems)
    return frame, table


def has_rollouts(run: Run) -> bool:
    """Return whether a run has recorded completions that can be read."""
    version = stamp(run.path / ROLLOUTS)
    found, problems = _has_rollouts(str(run.path), version) if version != (0, 0) else (False, [])
    tell(*problems)
    return found


@st.cache_data(show_spinner="Reading the rollouts", max_entries=4096)
def _has_rollouts(path: str, version: Stamp) -> tuple[bool, list[str]]:
    frame, _, problems = _rollouts(path, version)
    return len(frame) > 0, problems


@st.cache_resource(show_spinner="Reading the rollouts", max_entries=16)
def _rollouts(path: str, version: Stamp) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    with heard() as problems:
        frame = Run(path).rollouts(SHARE).map(readable)
    return frame, rollout_table(frame), problems


def captures(run: Run) -> Captures:
    """Return the list of a run's captures, which is shared and must not be changed."""
    found, problems = _captures(str(run.path), stamp(run.path / CAPTURES / INDEX))
    tell(*problems)
    return found


@st.cache_resource(show_spinner=False, max_entries=1024)
def _captures(path: str, version: Stamp) -> tuple[Captures, list[str]]:
    with heard() as problems:
        return Run(path).captures(), problems


def capture(run: Run, step: int) -> Tensors:
    """Return the tensors captured at a step."""
    return _capture(str(run.path), step, stamp(run.path / CAPTURES / INDEX))


@st.cache_resource(show_spinner=False, max_entries=32)
def _capture(path: str, step: int, version: Stamp) -> Tensors:
    return _captures(path, version)[0].load(step)


def has_pairs(run: Run) -> bool:
    """Return whether a run captured pairs through the layers (`probe.recording.pair_lens`)."""
    steps = captures(run).steps
    return bool(steps) and "pair_lens_logprobs" in capture(run, steps[-1])


def moved_head(run: Run) -> str:
    """Return the head that moved most among tokens other than the first between a run's first and last capture.

    Both hold attention; all prompts count.
    """
    return _moved_head(str(run.path), stamp(run.path / CAPTURES / INDEX))


@st.cache_data(show_spinner=False, max_entries=64)
def _moved_head(path: str, version: Stamp) -> str:
    index, _ = _captures(path, version)
    first, last = (_capture(path, index.steps[at], version) for at in (0, -1))
    _, moved = heads_moved(first, last, index.prompts)
    layer, head = np.unravel_index(int(np.nan_to_num(moved, nan=-1).argmax()), moved.shape)
    return f"L{layer}H{head}"


def answer_logprobs(run: Run, prompt: int) -> tuple[list[int], np.ndarray]:
    """Return steps [S] and log-probabilities [S A] of a prompt's answers at its last token, over all captures."""
    return _answers(str(run.path), prompt, stamp(run.path / CAPTURES / INDEX))


@st.cache_data(show_spinner="Reading the captures", max_entries=256)
def _answers(path: str, prompt: int, version: Stamp) -> tuple[list[int], np.ndarray]:
    index, _ = _captures(path, version)
    entry = index.prompts[prompt]
    rows = [_capture(path, step, version)["lens_answer_logprobs"][prompt, -1, entry.length - 1] for step in index.steps]
    count = len(entry.answers)
    return index.steps, np.array([row[:count] for row in rows], dtype=np.float32).reshape(len(rows), count)


def lineage_table(store: Store) -> pd.DataFrame:
    """Return one row per run: name, method, status, and the labels of the runs that it started from."""
    rows = [
        {
            "name": label,
            "method": run.method,
            "status": run.status,
            "parent": store.label(run.parent, run),
            "reference": store.label(run.reference, run),
            "reward_model": store.label(run.reward_model, run),
        }
        for label, run in store.runs.items()
    ]
    return pd.DataFrame(rows, columns=["name", "method", "status", "parent", "reference", "reward_model"])


AGREEMENT = "deferral"
"""Headline metric that is most affected by training for an agreeable annotator."""


def parents(store: Store) -> list[tuple[str, str]]:
    """Return labels (parent, run), ordered by how much training changed the agreement with false claims.

    A run that forgot the facts says little about agreement, so its loss of accuracy is subtracted. Pairs without these
    metrics come last, in the order of the runs.
    """
    return _parents(
        tuple((label, str(run.path), stamp(run.path / RUN_FILE)) for label, run in store.runs.items()), store
    )


@st.cache_data(show_spinner=False, max_entries=16)
def _parents(version: tuple[tuple[str, str, Stamp], ...], _store: Store) -> list[tuple[str, str]]:
    rates = headlines(_store).pivot_table(index="run", columns="metric", values="value")

    def change(pair: tuple[str, str], metric: str) -> float:
        return float(rates[metric].reindex(pair[::-1]).diff(-1).iloc[0]) if metric in rates else 0.0

    def score(pair: tuple[str, str]) -> float:
        return float(np.nan_to_num(abs(change(pair, AGREEMENT)) + min(change(pair, "accuracy"), 0.0), nan=-1.0))

    origins = {label: _store.label(run.parent, run) for label, run in _store.runs.items() if run.parent}
    pairs = [(parent, label) for label, parent in origins.items() if parent in _store.runs]
    return sorted(pairs, key=score, reverse=True)


def headlines(store: Store) -> pd.DataFrame:
    """Return the headline metrics of all runs: run, metric, value, ci_low, ci_high, n."""
    tables = [table.assign(run=label) for label, run in store.runs.items() if len(table := run.headline)]
    columns = ["run", "metric", "value", "ci_low", "ci_high", "n"]
    return pd.concat(tables)[columns].reset_index(drop=True) if tables else pd.DataFrame(columns=columns)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect warnings while runs are read in this context, except those about an unfinished last line."""
    said: list[str] = []
    with _WARNINGS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    found = [str(each.message) for each in caught if issubclass(each.category, RunWarning)]
    found = [each for each in found if not each.startswith(UNFINISHED)]
    said += found[:NAMED_LINES]
    if found[NAMED_LINES:]:
        said.append(f"{len(found) - NAMED_LINES:,} further lines or files of the same run cannot be read.")


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings while runs are read: an incomplete last line is normal in a run that is being written."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
