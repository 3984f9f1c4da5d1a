"""Which run came from which: the edges of the overview's graph."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from probe.runs.reader import Run
from probe.runs.schema import CHECKPOINTS

Relation = Literal["parent", "reference", "reward_model"]
RELATIONS: tuple[Relation, ...] = ("parent", "reference", "reward_model")


@dataclass(frozen=True)
class Edge:
    """`target` was made with the help of `source`."""

    source: str
    """The name of a run, or the reference as it was given if it belongs to none of the runs."""
    target: str
    """The name of a run."""
    relation: Relation
    known: bool
    """Whether `source` is one of the runs."""


def lineage(runs: Iterable[Run]) -> list[Edge]:
    """The edges between runs: parent, reference model and reward model, in the order of the runs.

    A reference to a run's checkpoint (`base@500`, `runs/base/checkpoints/00000500`) leads to that run, wherever the
    directories have been copied to since: the path decides if it exists, else the name.
    """
    runs = list(runs)
    names = {run.name for run in runs}
    paths = {run.path.resolve(): run.name for run in runs}
    edges = []
    for run in runs:
        for relation in RELATIONS:
            ref = run.meta.get(relation)
            if isinstance(ref, str) and ref:
                source = _run_of(ref, names - {run.name}, paths)
                edges.append(Edge(source or ref, run.name, relation, known=source is not None))
    return edges


def _run_of(ref: str, names: set[str], paths: dict[Path, str]) -> str | None:
    plain = ref.rpartition("@")[0] or ref
    pure = PurePath(plain)
    if len(pure.parts) > 2 and pure.parts[-2] == CHECKPOINTS:
        pure = pure.parent.parent
    with suppress(OSError, ValueError):  # a name that no file can have
        by_path = paths.get(Path(os.path.realpath(os.path.expanduser(pure))))
        if by_path in names:
            return by_path
    return pure.name if pure.name in names else None
