"""Results of several models beside each other: labels, the joined result, its figures and its sentence."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import DataError, ProbeError
from probe.experiments.differences import differences, questions
from probe.experiments.metrics import ITEM, Mean, Metric, Share
from probe.experiments.registry import Experiment
from probe.experiments.result import MODEL, Result, stack
from probe.plugins import BUILT_IN, failure

if TYPE_CHECKING:
    from probe.model.lm import LM


def join(experiment: Experiment, results: Sequence[Result]) -> Result:
    """Results of one experiment with one model each as a result with all of them.

    The summary is the first one's, with the last one as its baseline; items, tables, figures and finding are of all.
    Models of different worlds are joined where the experiment says that they may be.

    Raises:
        DataError: they are of different experiments or were made with different options, or one has several models.
    """
    for each in results:
        if len(each.models) != 1:
            raise DataError(
                f"A result of {' and '.join(each.models) or 'no model'} cannot be joined: give one of each."
            )
    if not results:
        raise DataError("No result was given to join: give at least one.")
    called = _apart([each.models[0] for each in results])
    results = [renamed(each, label) for each, label in zip(results, called, strict=True)]
    first, last = results[0], results[-1]
    for other in results[1:]:
        odd = _differs(first, other, experiment.across_worlds)
        if odd:
            raise DataError(
                f"The results of {first.models[0]} and {other.models[0]} were made with different {odd}: run the"
                " experiment again on one of them."
            )
    metrics = experiment.metrics or columns_as_metrics(stack([each.items for each in results]))
    summary = first.summary
    if len(results) > 1:
        seed = int(first.meta.get("seed") or 0)
        both = first.items, last.items
        summary = differences(metrics, first.summary, last.summary, *both, seed, by_prompt=experiment.across_worlds)
    names = list(dict.fromkeys(name for each in results for name in each.tables))
    models = [{"world": each.meta.get("world")} | model for each in results for model in each.meta["models"]]
    worlds = {model["world"] for model in models}
    meta = first.meta | {"models": models, "world": first.meta.get("world") if len(worlds) == 1 else None}
    meta |= {"baseline": last.models[0] if len(results) > 1 else None}
    tables = {name: stack([each.tables[name] for each in results if name in each.tables]) for name in names}
    items = beside([each.items for each in results], experiment.across_worlds)
    return finished(experiment, Result(first.name, summary, items, tables, dict(first.figures), meta))


def beside(parts: Sequence[pd.DataFrame], across_worlds: bool) -> pd.DataFrame:
    """The items of several models as one table.

    Args:
        parts: of one model each.
        across_worlds: models may have been asked different things under one name; there the name of the first model
            that was asked is put behind the item's, so that equal names are the same item again.
    """
    items = stack(parts)
    if not across_worlds:
        return items
    asked = questions(items)
    several = asked.groupby(items[ITEM]).transform("nunique") > 1
    first = items[MODEL].groupby([items[ITEM], asked]).transform("first")
    return items.assign(**{ITEM: items[ITEM].where(~several, items[ITEM] + " (" + first + ")")})


def finished(experiment: Experiment, result: Result) -> Result:
    """The result with its figures and its finding."""
    figures = result.figures
    if experiment.draw:
        with owned(experiment, "The drawing of the experiment"):
            figures = dict(experiment.draw(result))
    result, said = replace(result, figures=figures), ""
    if experiment.say:
        with owned(experiment, "The sentence of the experiment"):
            said = str(experiment.say(result))
    return replace(result, meta=result.meta | {"finding": said})


def labels(models: "Sequence[LM]") -> list[str]:
    """How the models are called: the last part of their references, told apart where they are equal."""
    return _apart([Path(lm.ref).name or "model" for lm in models])


def _apart(names: Sequence[str]) -> list[str]:
    """Names with a number behind each that is taken already."""
    found: list[str] = []
    for name in names:
        ways = (name, *(f"{name} ({count})" for count in range(2, len(names) + 2)))
        found.append(next(way for way in ways if way not in found))
    return found


def renamed(result: Result, label: str) -> Result:
    """The result of one model under another label."""
    if result.models == [label]:
        return result
    tables = {name: table.assign(**{MODEL: label}) for name, table in result.tables.items()}
    models = [model | {"label": label} for model in result.meta["models"]]
    items, meta = result.items.assign(**{MODEL: label}), result.meta | {"models": models}
    return replace(result, items=items, tables=tables, meta=meta)


def columns_as_metrics(items: pd.DataFrame) -> tuple[Metric, ...]:
    """The mean of every column of numbers; a share where all values are zeros and ones."""
    found: list[Metric] = []
    for column in items.columns:
        known = items[column].dropna()
        kind = pd.api.types.infer_dtype(known, skipna=True)
        if column in (ITEM, MODEL) or kind not in ("boolean", "integer", "floating", "mixed-integer-float"):
            continue
        found.append(Share(str(column)) if known.isin((0, 1)).all() else Mean(str(column)))
    return tuple(found)


@contextmanager
def owned(experiment: Experiment, what: str) -> Iterator[None]:
    """What a function that is not built in does wrong becomes one sentence."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        if experiment.origin == BUILT_IN:
            raise
        raise failure(f"{what} `{experiment.name}`", error, experiment.function) from error


def _differs(first: Result, other: Result, across_worlds: bool) -> str:
    """What two results do not have in common that they must have to be laid side by side."""
    if first.name != other.name:
        return "experiments"
    facts = [
        {
            "options": each.meta.get("options"),
            "n": each.meta.get("n"),
            "seeds": each.meta.get("seed"),
            "data": (each.meta.get("data") or {}).get("sha256"),
            "worlds": None if each.meta.get("data") or across_worlds else each.meta.get("world"),
            "versions": each.meta.get("version"),
        }
        for each in (first, other)
    ]
    return next((name for name, value in facts[0].items() if value != facts[1][name]), "")
