"""What an experiment found: numbers with intervals, the items behind them, tables, figures, and where it comes from.

A result holds one model, or several that answered the same items: tables and items say which by their column `model`.
On disk it is a folder of JSON Lines, CSV and Plotly JSON that pandas reads alone.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import DataError
from probe.experiments.metrics import COLUMNS, ITEM, Given
from probe.runs.schema import dumps
from probe.runs.storage import disk, replace_folder, sync_tree

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.plots.curves import Style

FORMAT = 1
RESULT_FILE = "result.json"
MODEL = "model"
"""Column of items and tables that names the model of a row."""


@dataclass(frozen=True)
class Evidence:
    """What one model showed: all that an experiment's function has to give."""

    items: pd.DataFrame
    """One row an item; `item` names it (else rows are numbered), other columns are the experiment's own."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Further tidy tables by name, such as curves."""
    given: Sequence[Given] = ()
    """Numbers of the summary that are no function of the items."""
    figures: Mapping[str, "go.Figure"] = field(default_factory=dict)
    """Figures of this model alone; built-in experiments draw from items and tables instead."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else should be known, as JSON values; goes into the provenance."""


@dataclass(frozen=True)
class Result:
    """What an experiment found."""

    name: str
    """Of the experiment."""
    summary: pd.DataFrame
    """One row a metric: metric, value, ci_low, ci_high, n (`metrics.COLUMNS`); with a baseline also its value and the
    difference (`metrics.COMPARED`)."""
    items: pd.DataFrame
    """One row an item and model: item, model, and the experiment's own columns."""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Tidy tables with a column `model`."""
    figures: dict[str, "go.Figure"] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    """Provenance: title, finding, models (label, ref, fingerprint, method), n, seed, options, data, versions, key."""

    @property
    def title(self) -> str:
        """Of the experiment, for people."""
        return str(self.meta.get("title") or self.name)

    @property
    def finding(self) -> str:
        """One sentence, computed from the numbers; empty if the experiment says none."""
        return str(self.meta.get("finding") or "")

    @property
    def models(self) -> list[str]:
        """Labels of the models; the baseline comes last."""
        return [str(model["label"]) for model in self.meta.get("models", [])]

    @property
    def styles(self) -> "dict[str, Style]":
        """Colour and dash of each model, by its method."""
        from probe.plots.curves import styles

        return styles({str(model["label"]): str(model.get("method")) for model in self.meta.get("models", [])})

    def value(self, metric: str, column: str = "value") -> float:
        """A number of the summary.

        Raises:
            DataError: there is no such metric.
        """
        rows = self.summary[self.summary["metric"] == metric]
        if not len(rows) or column not in rows:
            known = ", ".join(self.summary["metric"])
            raise DataError(f"`{self.name}` has no `{column}` of a metric `{metric}`: its metrics are {known}.")
        return float(rows[column].iloc[0])

    def save(self, directory: str | Path) -> Path:
        """Write the folder; it appears whole, in place of an older one.

        Raises:
            RunError: the disk refuses.
        """
        target = Path(directory)
        scratch = target.with_name(f".{target.name}.tmp")
        with disk(target):
            scratch.mkdir(parents=True, exist_ok=True)
            index = {"format": FORMAT, "name": self.name, "meta": self.meta, "summary": _records(self.summary)}
            index |= {"columns": {"items": list(map(str, self.items)), "summary": list(self.summary)}}
            index |= {"tables": {name: list(map(str, table)) for name, table in self.tables.items()}}
            index |= {"figures": list(self.figures)}
            (scratch / RESULT_FILE).write_text(dumps(index, indent=2) + "\n")
            self.summary.to_csv(scratch / "summary.csv", index=False)
            _write_lines(scratch / "items.jsonl", self.items)
            for name, table in self.tables.items():
                _write_lines(scratch / "tables" / f"{_stem(name)}.jsonl", table)
            for name, chart in self.figures.items():
                path = scratch / "figures" / f"{_stem(name)}.json"
                path.parent.mkdir(exist_ok=True)
                path.write_text(chart.to_json())
            sync_tree(scratch)
            replace_folder(scratch, target)
        return target

    @classmethod
    def load(cls, directory: str | Path) -> "Result":
        """Read a folder that `save` wrote.

        Raises:
            DataError: it is none, is damaged, or was written by a newer version.
        """
        place = Path(directory)
        index = read_index(place)
        try:
            summary = pd.DataFrame(index["summary"], columns=index["columns"]["summary"])
            numbers = [column for column in summary if column not in ("metric", "n")]
            summary = summary.astype(dict.fromkeys(numbers, float))
            items = _read_lines(place / "items.jsonl", index["columns"]["items"])
            tables = {
                name: _read_lines(place / "tables" / f"{_stem(name)}.jsonl", columns)
                for name, columns in index["tables"].items()
            }
            figures = {name: _figure(place / "figures" / f"{_stem(name)}.json") for name in index["figures"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"The result in `{place}` is damaged ({error}): delete the folder and run the experiment again."
            ) from None
        return cls(index["name"], summary, items, tables, figures, index["meta"])

    def __repr__(self) -> str:
        return f"Result({self.name!r}, models={self.models}, metrics={len(self.summary)}, items={len(self.items)})"

    def _repr_html_(self) -> str:
        head = f"<b>{html.escape(self.title)}</b><p>{html.escape(self.finding)}</p>"
        return head + self.summary.to_html(index=False, border=0, escape=True, float_format="{:.3g}".format)


def read_index(directory: Path) -> dict[str, Any]:
    """The contents of result.json, known to be of this format.

    Raises:
        DataError: there is none, or it is damaged or newer.
    """
    try:
        index = json.loads((directory / RESULT_FILE).read_bytes())
    except OSError:
        raise DataError(
            f"`{directory}` holds no {RESULT_FILE}: give a folder that an experiment was saved to."
        ) from None
    except ValueError:
        raise DataError(f"`{directory / RESULT_FILE}` is cut short: run the experiment again.") from None
    if not isinstance(index, dict) or type(index.get("format")) is not int or not isinstance(index.get("meta"), dict):
        raise DataError(f"`{directory / RESULT_FILE}` is not the record of an experiment: give a folder of one.")
    if index["format"] > FORMAT:
        raise DataError(
            f"The result in `{directory}` has format {index['format']} and this version of Probe reads up to {FORMAT}:"
            " read it with the version that wrote it or a newer one."
        )
    return index


def labelled(evidence: Evidence, label: str) -> Evidence:
    """The same with the column `model` everywhere, and items that have a name each.

    Raises:
        DataError: two items have one name.
    """
    items = evidence.items.reset_index(drop=True)
    if ITEM not in items:
        items = items.assign(**{ITEM: [str(i) for i in range(len(items))]})
    items[ITEM] = items[ITEM].astype(str)
    twice = items[ITEM][items[ITEM].duplicated()]
    if len(twice):
        raise DataError(f"Two items are called `{twice.iloc[0]}`: name each once, so that models can be paired.")
    first = [ITEM, MODEL]
    items = items.assign(**{MODEL: label})
    items = items[[*first, *(column for column in items if column not in first)]]
    tables = {name: table.assign(**{MODEL: label}) for name, table in evidence.tables.items()}
    return Evidence(items, tables, evidence.given, evidence.figures, evidence.facts)


def stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of several models as one; an empty one brings no columns."""
    full = [part for part in parts if len(part)]
    return pd.concat(full, ignore_index=True) if full else parts[0]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values; a number that is not finite becomes null."""
    rows = table.astype(object).to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_lines(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(dumps(row) + "\n" for row in _records(table)), encoding="utf-8")


def _read_lines(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return pd.DataFrame(rows, columns=list(columns))


def _figure(path: Path) -> "go.Figure":
    import plotly.io

    return plotly.io.from_json(path.read_text(), skip_invalid=True)


def _stem(name: str) -> str:
    from probe.export import file_name

    return file_name(name)


__all__ = ["COLUMNS", "Evidence", "Given", "Result", "labelled", "read_index", "stack"]
