"""Lineage of runs: the edges of the overview's graph."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from probe.errors import RunError
from probe.runs.directories import roots, run_directories
from probe.runs.reader import Run
from probe.runs.schema import CHECKPOINTS

Relation = Literal["parent", "reference", "reward_model"]
GENERATIONS = 50
"""Maximum number of runs that are followed in a line of descent."""
RELATIONS: tuple[Relation, ...] = ("parent", "reference", "reward_model")


@dataclass(frozen=True)
class Edge:
    """Edge of the lineage: `source` was used to make `target`."""

    source: str
    """Name of a run, or the given reference if it belongs to none of the runs."""
    target: str
    """Name of a run."""
    relation: Relation
    known: bool
    """Whether `source` is one of the runs."""


def lineage(runs: Iterable[Run]) -> list[Edge]:
    """Return the edges between runs: parent, reference model and reward model, in the order of the runs.

    `RunIndex.find` resolves each reference.
    """
    runs = list(runs)
    index, edges = RunIndex(runs), []
    for run in runs:
        for relation in RELATIONS:
            ref = run.meta.get(relation)
            if isinstance(ref, str) and ref:
                source = index.find(ref, run)
                edges.append(Edge(source.name if source else ref, run.name, relation, known=source is not None))
    return edges


def descent(run: Run, folders: Sequence[Path] | None = None) -> list[Run]:
    """Return a run and the runs from which it descends, nearest first, as far as they are found.

    A parent is searched by name among the runs next to its child and in the folders of runs; no path that a run names
    is opened.

    Args:
        run: the run, which may come from anybody.
        folders: folders of runs (default: `roots()`).
    """
    line, paths = [run], {os.path.realpath(run.path)}
    places, index = list[Path](), RunIndex(())
    while isinstance(ref := line[-1].parent, str) and ref and len(line) < GENERATIONS:
        beside = line[-1].path.absolute().parent
        if beside not in places:
            places = [beside, *(places or (roots() if folders is None else folders))]
            index = RunIndex(readable_runs(places))
        source = index.find(ref, line[-1])
        if source is None or os.path.realpath(source.path) in paths:
            break
        line.append(source)
        paths.add(os.path.realpath(source.path))
    return line


def readable_runs(folders: Iterable[Path]) -> Iterator[Run]:
    """Yield the readable runs in some folders."""
    for folder in folders:
        with suppress(RunError):
            for path in run_directories(folder):
                with suppress(RunError):
                    yield Run(path)


class RunIndex:
    """Runs by the references of other runs, even if their directories have been copied elsewhere."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._paths: dict[str, Run] = {}
        self._names: tuple[dict[str, list[Run]], dict[str, list[Run]]] = {}, {}
        for run in runs:
            self._paths.setdefault(os.path.realpath(run.path), run)
            made_as = PurePath(str(run.config.get("out") or "")).name
            for names, name in zip(self._names, (run.name, made_as), strict=True):
                names.setdefault(name, []).append(run)

    def find(self, ref: str, run: Run) -> Run | None:
        """Return the run of another run's reference; a reference to a checkpoint gives its run.

        An existing path takes precedence, then the name, then the name under which a run was made. Among runs with the
        same name, the one next to `run` is preferred.

        Args:
            ref: reference, such as `base@500` or `runs/base/checkpoints/00000500`.
            run: run that has the reference; the result is never this run.
        """
        pure = PurePath(split_step(ref)[0])
        with suppress(OSError, ValueError):  # a name that no file can have
            by_path = self._paths.get(os.path.realpath(os.path.expanduser(pure)))
            if by_path is not None and by_path is not run:
                return by_path
        for names in self._names:
            others = [each for each in names.get(pure.name, ()) if each is not run]
            if others and pure.name:
                return min(others, key=lambda each: each.path.parent != run.path.parent)
        return None


def split_step(ref: str) -> tuple[str, str]:
    """Return a reference without its checkpoint's step, and that step as text; '' without a step."""
    plain, _, step = ref.rpartition("@")
    pure = PurePath(plain or ref)
    if len(pure.parts) > 2 and pure.parts[-2] == CHECKPOINTS:
        return str(pure.parent.parent), str(int(pure.name)) if pure.name.isdigit() else pure.name
    return (plain, step) if plain else (ref, "")
