"""Sampling units of items (a person, or a column of the file), and summaries recomputed for other units.

A summary is a function of the items, and so are some tables: they can be recomputed for other units, or with newer
intervals, without running a model again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import DataError, suggest
from probe.experiments.metrics import COLUMNS, INTERVALS, PERSON, PROMPT, ROW, UNIT, Given, Metric, summarise
from probe.experiments.result import MODEL, Result
from probe.rows import Row, Selection, read_rows
from probe.untrusted import foreign
from probe.world.language import subject_of

if TYPE_CHECKING:
    from probe.experiments.definition import Count

LONGEST = 200
"""Largest number of characters of a unit that are kept."""


def read_units(path: Path, column: str, columns: str = "") -> dict[str, str]:
    """Return {row of the file: its value in a column}; rows without a value are left out.

    Args:
        path: the file.
        column: column with the units.
        columns: names of the columns of a file without a header (`probe.rows.Selection.columns`).

    Raises:
        DataError: no row has the column, or a value is a list or an object.
    """
    names: dict[str, None] = {}

    def read(row: Row) -> tuple[str, str]:
        names.update(dict.fromkeys(map(str, row.values)))
        value = row.values.get(column)
        if isinstance(value, list | tuple | dict):
            raise DataError(
                f"{row.where} has a {type(value).__name__} in `{column}`: name a column of words or numbers."
            )
        return row.label, "" if value is None or value != value else str(value).strip()[:LONGEST]

    rows = read_rows(path, read, strict=True, selection=Selection(columns=columns))
    found = {label: value for label, value in rows if value}
    if not found:
        hint = suggest(column, names, f"its columns are {', '.join(list(names)[:20])}.")
        raise DataError(f"No row of `{path}` has a value in the column `{column}` that unit names: {hint}")
    return found


def with_units(items: pd.DataFrame, units: Mapping[str, str]) -> pd.DataFrame:
    """Return the items of a file with the column `UNIT`; without it if no units are named.

    Raises:
        DataError: the items do not name their rows.
    """
    items = items.drop(columns=UNIT, errors="ignore")
    if not units:
        return items
    if ROW not in items:
        raise DataError(f"The items have no column `{ROW}`, so `unit` cannot find them in the file: leave it out.")
    return items.assign(**{UNIT: items[ROW].map(units)})


def with_people(items: pd.DataFrame) -> pd.DataFrame:
    """Return the items of a world with the column `PERSON`, read from their prompts unless already set."""
    if PROMPT not in items:
        return items
    known = items[PERSON] if PERSON in items else pd.Series(None, index=items.index, dtype=object)
    people = known.where(known.notna(), items[PROMPT].map(subject_of))
    return items.assign(**{PERSON: people}) if people.notna().any() else items


def is_current(result: Result, unit: str = "") -> bool:
    """Return whether a result's summary uses a unit and has the intervals of this version."""
    return result.meta.get("intervals") == INTERVALS and result.meta.get("unit", "") == unit


def sum_up(
    result: Result,
    metrics: Sequence[Metric],
    unit: str = "",
    units: Mapping[str, str] | None = None,
    count: "Count | None" = None,
) -> Result:
    """Recompute summary and tables of one model's result from its items; everything else is unchanged.

    Args:
        result: result of one model.
        metrics: metrics of the experiment.
        unit: column of the file, for provenance.
        units: see `read_units`.
        count: function that computes tables from the items (`probe.experiments.registry.Experiment.count`).

    Raises:
        DataError: a metric or `count` cannot read the items.
    """
    items, old = with_units(result.items, units or {}), result.summary
    if result.meta.get("data") is None:
        items = with_people(items)
    names = {metric.name for metric in metrics}
    given = [Given(*row) for row in old.loc[~old["metric"].isin(names), list(COLUMNS)].itertuples(index=False)]
    summary = summarise(metrics, items, given, int(result.meta.get("seed") or 0))
    with foreign(_refuse):
        counted = count(items) if count else {}
    tables = {
        name: counted[name].assign(**{MODEL: table[MODEL].iloc[0]}) if name in counted and len(table) else table
        for name, table in result.tables.items()
    }
    meta = result.meta | {"intervals": INTERVALS, "unit": unit}
    return replace(result, summary=summary, items=items, tables=tables, meta=meta)


def _refuse(reason: str) -> DataError:
    return DataError(f"The tables of the result cannot be counted from its items ({reason}): run the experiment again.")
