"""Questions of an audit that occur in the models' training data, and the changes over the others.

A run records the sentences of its data (`probe.runs.trained_on`). Nothing is known about a run without a record: no
question counts as unseen because of it. Models of a world are exempt, since the world itself distinguishes known from
unseen people.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from probe.audit.change import SEEN, change, unseen_change
from probe.audit.plan import WORLD, Part
from probe.errors import RunError
from probe.experiments.metrics import ROW, UNKNOWN, pair_items, paired
from probe.model.lm import LM
from probe.questions.sets import asked_texts
from probe.rows import list_few
from probe.runs.ancestry import descent
from probe.runs.reader import Run
from probe.runs.trained_on import TrainedOn

FEWEST = 8
"""Smallest number of unseen questions for which a change is computed."""


@dataclass(frozen=True)
class Ancestor:
    """Run that one of the models is or descends from."""

    name: str
    """Name of the run."""
    record: TrainedOn
    """Sentences of its data."""
    of_base: bool
    """Whether the base descends from it, and not only the aligned model."""

    def rows(self, questions: str) -> frozenset[str]:
        """Return the rows of a question set that its data contain."""
        return frozenset(row for row, text in asked_texts(questions).items() if self.record.holds(text))


@dataclass(frozen=True)
class Past:
    """Recorded training data of two models."""

    ancestors: tuple[Ancestor, ...] = ()
    """Runs with a record of their data."""
    notes: tuple[str, ...] = ()
    """Sentences, one for each run that read data and has no record."""

    def facts(self, parts: Iterable[Part]) -> list[Any]:
        """Return the seen rows of each part that has some; they enter the audit's cache key."""
        found = [(part.name, sorted(self.rows(part.questions))) for part in parts]
        return [[name, rows] for name, rows in found if rows]

    def rows(self, questions: str) -> frozenset[str]:
        """Return the rows of a question set that the data of any run contain."""
        found = frozenset[str]()
        return found.union(*(ancestor.rows(questions) for ancestor in self.ancestors)) if questions != WORLD else found


def past_of(base: LM, aligned: LM, parts: Sequence[Part]) -> Past:
    """Return the recorded training data of two models; empty if no part uses a question set.

    Args:
        base: model to compare against.
        aligned: the other model.
        parts: parts of the audit.
    """
    if all(part.questions == WORLD for part in parts):
        return Past()
    ancestors, notes, known = list[Ancestor](), list[str](), set[Any]()
    for of_base, lm in ((True, base), (False, aligned)):
        for run in _line(lm):
            if (place := run.path.resolve()) in known:
                continue
            known.add(place)
            record = run.trained_on()
            if record is not None:
                ancestors.append(Ancestor(run.name, record, of_base))
            elif run.config.get("data", WORLD) not in (WORLD, None):
                notes.append(
                    f"The training data of `{run.name}` are not recorded or cannot be read: it is unknown which"
                    " questions it has seen."
                )
    return Past(tuple(ancestors), tuple(notes))


def _line(lm: LM) -> list[Run]:
    """Return a model's run and its ancestors; empty if there is no run or one cannot be read."""
    try:
        return [] if lm.run_dir is None else descent(Run(lm.run_dir))
    except RunError:
        return []


def without_seen(
    part: Part, past: Past, base: pd.DataFrame, aligned: pd.DataFrame, table: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, str]:
    """Return a part's table with the columns `SEEN`, and the sentence on questions seen in training.

    Args:
        part: part that the items belong to.
        past: recorded training data of the models.
        base: items of the base.
        aligned: items of the aligned model.
        table: table from `compare_part`.
        seed: seed of the bootstrap.

    Returns:
        The table and the sentence. `seen` counts the questions in the data of any run; `unseen`, with its 95 %
        interval, is the difference over the others, NaN if all are unseen or fewer than `FEWEST` are. Without a record,
        and in a world, the table is unchanged; the sentence is empty if no question was seen.
    """
    if part.questions == WORLD or not past.ancestors:
        return table, ""
    own, others = pair_items(part.derive(aligned), part.derive(base))
    asked = set(own[ROW].dropna())
    seen = asked & past.rows(part.questions)
    left = len(asked) - len(seen)
    found = [UNKNOWN] * len(table)
    if seen and left >= FEWEST:
        keep = ~own[ROW].isin(seen).to_numpy()
        by_name = {metric.name: metric for metric in part.metrics()}
        found = [paired(by_name[name], own[keep], others[keep], seed) for name in table["metric"]]
    values = [[float(len(seen))] * len(table), *zip(*found, strict=True)] if len(table) else [[]] * len(SEEN)
    table = table.assign(**dict(zip(SEEN, map(list, values), strict=True)))
    return table, _sentence(part, past, seen, len(asked), table) if seen else ""


def _sentence(part: Part, past: Past, seen: set[str], asked: int, table: pd.DataFrame) -> str:
    """Say how many questions were seen, by which model, and what changed over the others."""
    ancestors = [ancestor for ancestor in past.ancestors if seen & ancestor.rows(part.questions)]
    names = list_few(list(dict.fromkeys(f"`{ancestor.name}`" for ancestor in ancestors)))
    least = "" if all(ancestor.record.whole for ancestor in past.ancestors) else "at least "
    may = "a right answer there" if any(ancestor.of_base for ancestor in ancestors) else "a gain there"
    first = (
        f"{part.name}: {least}{len(seen)} of its {asked} questions were in the training data of {names}: {may} may be"
        " memory, not skill."
    )
    left = asked - len(seen)
    if left < FEWEST:
        return f"{first} The other {left} questions are too few to measure a change."
    each = [
        f"{unseen_change(row) or 'not known'} in “{row['title']}” (over all {change(row)})"
        for row in table[table["measure"]].to_dict("records")
    ]
    return f"{first} Over the other {left} the change is {'; '.join(each)}."
