"""Result of an experiment: numbers with intervals, items, tables, figures, and provenance.

A result holds one model, or several that answered the same items; the column `model` of tables and items identifies
them. On disk it is a folder of JSON, CSV and Plotly JSON that pandas can read directly; tables and figures keep their
types.
"""

import gzip
import html
import io
import json
import math
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import DataError, suggest
from probe.experiments.metrics import ITEM, Given
from probe.plotting.csv_text import to_csv
from probe.plotting.names import file_name, file_stem
from probe.runs.captures import numbers
from probe.runs.schema import dumps
from probe.runs.storage import check_folder, disk, replace_folder, sync_tree, write_file
from probe.untrusted import DOCUMENT, parse_figure, parse_json, read_file, read_json, refuse_newer, sendable, short

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.plotting.curves import Style

LEAST, RATIO = 2**26, 40
"""Largest unpacked size of a packed file: these bytes at least, and this multiple of its own size (items shrink to a
tenth).
"""

NAME = 100
"""Largest length of a name in the JSON of a figure."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""Exceptions that reading can raise if a result is not as `Result.save` writes it."""


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Convert rows to JSON values; a number that is not finite becomes null, a date its text."""
    rows = table.astype(object).to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def stems(names: Iterable[str]) -> dict[str, str]:
    """Return a file name for each name, numbered if they would be equal on some operating system."""
    files: dict[str, str] = {}
    for name in names:
        stem = file_name(str(name))
        candidates = (stem, *(f"{stem}-{count}" for count in range(2, len(files) + 3)))
        lower = {each.lower() for each in files.values()}
        files[name] = next(way for way in candidates if way.lower() not in lower)
    return files


def words_of(name: str) -> str:
    """Return the name of a figure or a table in words for people."""
    words = " ".join(name.replace("_", " ").replace("-", " ").split())
    return words[:1].upper() + words[1:]


def _plain(value: Any) -> Any:
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp | pd.Timedelta | date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def column_names(table: pd.DataFrame) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        DataError: two names are equal.
    """
    names = [str(column) for column in table.columns]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise DataError(f"A table has two columns `{twice}`: give each a name of its own.")
    return names


def write_lines(path: Path, table: pd.DataFrame) -> None:
    """Write a table as JSON Lines."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(dumps(row) + "\n" for row in records(table)), encoding="utf-8")


def read_lines(path: Path, columns: Sequence[str], kinds: Sequence[str] | None) -> pd.DataFrame:
    """Read what `write_lines` wrote, even if it was packed afterwards; see `to_table`.

    Raises:
        OSError: the file is missing or packed wrongly.
        ValueError: the file is truncated.
    """
    return to_table([parse_json(line) for line in read_packed(path).split("\n") if line], columns, kinds)


def write_columns(path: Path, table: pd.DataFrame) -> None:
    """Write a table as one packed JSON object: one line with name and values per column.

    A table without columns is written as one without rows.
    """
    cells = table.astype(object)
    names = [json.dumps(str(name)) for name in cells.columns]
    values = [dumps([_plain(value) for value in cells.iloc[:, index]]) for index in range(len(names))]
    lines = ",\n".join(f"{name}: {each}" for name, each in zip(names, values, strict=True))
    path.write_bytes(gzip.compress(f"{{{lines}}}\n".encode(), mtime=0))


def read_columns(path: Path, columns: Sequence[str], kinds: Sequence[str] | None) -> pd.DataFrame:
    """Read what `write_columns` wrote, with the original types as far as JSON holds them.

    Raises:
        OSError: the file is missing or packed wrongly.
        ValueError: the file is truncated, or columns are missing or of different lengths.
    """
    data = parse_json(read_packed(path))
    if not isinstance(data, dict) or set(data) != set(columns) or len({len(each) for each in data.values()}) > 1:
        raise ValueError(f"{path.name} does not hold the columns {', '.join(columns)}, each as long as the others")
    kinds = kinds or [""] * len(columns)
    return pd.DataFrame({name: to_column(data[name], kind) for name, kind in zip(columns, kinds, strict=True)})


def read_packed(path: Path) -> str:
    """Read the text of a file, unpacked if its name ends in .gz, up to a limit.

    Raises:
        OSError: the file is missing, packed wrongly or too large.
        ValueError: the file is truncated, or unpacks to more than the limit.
    """
    if path.suffix != ".gz":
        return read_file(path, DOCUMENT).decode()
    data = read_file(path, DOCUMENT)
    most = max(LEAST, RATIO * len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(most + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path.name}: {error}") from None
    if len(content) > most:
        raise ValueError(f"{path.name} unpacks to more than {most / 1e6:,.0f} MB")
    return content.decode()


def to_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kinds: Sequence[str] | None) -> pd.DataFrame:
    """Convert rows to a table whose columns have their original types, as far as JSON holds them."""
    dicts = [dict(row) for row in rows]
    kinds = kinds or [""] * len(columns)
    series = {
        name: to_column([row.get(name) for row in dicts], kind) for name, kind in zip(columns, kinds, strict=True)
    }
    return pd.DataFrame(series, columns=list(columns), index=range(len(dicts)))


def to_column(values: list[Any], kind: str | None) -> pd.Series:
    """Convert values to a column of a type if the type exists and can hold them."""
    if kind and kind.lower().startswith("float"):
        return numbers(values).astype(float)
    if kind in ("object", "boolean", "Int64", "bool", "int64"):
        try:
            return pd.Series(values, dtype=kind)
        except OverflowError:  # a number out of range for the type
            return numbers(values).astype(float)
    try:
        return pd.Series(values, dtype=None if values else "str" if kind == "str" else object)
    except UnicodeEncodeError:  # a lone surrogate, which Arrow cannot store
        return pd.Series(values, dtype=object)


def figure_text(chart: "go.Figure") -> str:
    """Return a figure as JSON by Python's own encoder, since orjson refuses lone surrogates."""
    import plotly.io

    return plotly.io.to_json(chart, engine="json", validate=False)


def _longest_name(value: Any) -> int:
    """Return the length of the longest name in a JSON value: plotly compares unknown names, slowly if they are long."""
    if isinstance(value, dict):
        return max((max(len(name), _longest_name(item)) for name, item in value.items()), default=0)
    return max(map(_longest_name, value), default=0) if isinstance(value, list) else 0


def read_figure(path: Path) -> "go.Figure":
    """Read a figure that `figure_text` wrote.

    Parts that need the network are left out (`probe.plotting.offline`).

    Raises:
        OSError: the file is missing.
        ValueError: the file holds no figure.
    """
    import plotly.graph_objects as go

    from probe.plotting.offline import offline

    content = parse_figure(read_file(path, DOCUMENT))
    if not isinstance(content, dict) or _longest_name(content) > NAME:
        raise ValueError(f"{path.name} is not a figure")
    return go.Figure(offline(content), skip_invalid=True)


FORMAT = 2
RESULT_FILE = "result.json"
ITEMS_FILE = "items.json.gz"
LINES_FILE = "items.jsonl.gz"
"""File of the items in format 1, one JSON object per line."""
MODEL = "model"
"""Column of items and tables that identifies the model of a row."""


@dataclass(frozen=True)
class Evidence:
    """Evidence of one model: everything that an experiment's function returns."""

    items: pd.DataFrame
    """Table with one row per item; `item` identifies it (by default rows are numbered), other columns are the
    experiment's own.
    """
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Further tidy tables by name, such as curves."""
    given: Sequence[Given] = ()
    """Numbers of the summary that are not functions of the items."""
    figures: Mapping[str, "go.Figure"] = field(default_factory=dict)
    """Figures of this model alone; built-in experiments draw from items and tables instead."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further facts as JSON values; they become part of the provenance."""


@dataclass(frozen=True)
class Result:
    """Result of an experiment."""

    name: str
    """Name of the experiment."""
    summary: pd.DataFrame
    """Table with one row per metric: metric, value, ci_low, ci_high, n (`metrics.COLUMNS`); with a baseline also its
    value and the difference (`metrics.COMPARED`), and for experiments across worlds the number of pairs behind it
    (`PAIRS`).
    """
    items: pd.DataFrame
    """Table with one row per item and model: item, model, and the experiment's own columns."""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Tidy tables with a column `model`."""
    figures: dict[str, "go.Figure"] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    """Provenance: title, finding, models (label, ref, fingerprint, method, world), n, seed, options, data, the world
    that all belong to, versions, key."""

    @property
    def title(self) -> str:
        """Title of the experiment, for people."""
        return str(self.meta.get("title") or self.name)

    @property
    def finding(self) -> str:
        """One sentence, computed from the numbers; empty if the experiment has none."""
        return str(self.meta.get("finding") or "")

    @property
    def models(self) -> list[str]:
        """Labels of the models, the baseline last."""
        return [str(model["label"]) for model in self.meta.get("models", [])]

    @property
    def styles(self) -> "dict[str, Style]":
        """Colour and dash of each model, by its method; the baseline's are those of the method's first run."""
        from probe.plotting.curves import styles

        methods = {str(model["label"]): str(model.get("method")) for model in self.meta.get("models", [])}
        return styles(methods, self.models[-1] if self.models else None)

    def value(self, metric: str, column: str = "value") -> float:
        """Return a number of the summary.

        Raises:
            DataError: the summary has no such metric.
        """
        rows = self.summary[self.summary["metric"] == metric]
        if not len(rows) or column not in rows:
            names = ", ".join(self.summary["metric"])
            raise DataError(f"`{self.name}` has no `{column}` of a metric `{metric}`: its metrics are {names}.")
        return float(rows[column].iloc[0])

    def save(self, directory: str | Path) -> Path:
        """Write the folder; it appears complete, and replaces an older one.

        Raises:
            DataError: the folder contains something other than a result, or a table has two columns with the same name.
            RunError: the folder cannot be written.
        """
        target = Path(directory).expanduser().absolute()
        check_target(target)
        frames = {"items": self.items, "summary": self.summary} | {f"tables/{n}": t for n, t in self.tables.items()}
        index = {"format": FORMAT, "name": self.name, "meta": self.meta, "summary": records(self.summary)}
        index |= {"columns": {"items": column_names(self.items), "summary": column_names(self.summary)}}
        index |= {"tables": {name: column_names(table) for name, table in self.tables.items()}}
        index |= {"dtypes": {name: [str(kind) for kind in frame.dtypes] for name, frame in frames.items()}}
        index |= {"figures": list(self.figures)}
        scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with disk(target):
            try:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir(parents=True)
                (scratch / RESULT_FILE).write_text(dumps(index, indent=2) + "\n", encoding="utf-8")
                (scratch / "summary.csv").write_text(to_csv(self.summary), encoding="utf-8")
                write_columns(scratch / ITEMS_FILE, self.items)
                for name, stem in stems(self.tables).items():
                    write_lines(scratch / "tables" / f"{stem}.jsonl", self.tables[name])
                for name, stem in stems(self.figures).items():
                    path = scratch / "figures" / f"{stem}.json"
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(figure_text(self.figures[name]), encoding="utf-8")
                sync_tree(scratch)
                replace_folder(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return target

    @classmethod
    def load(cls, directory: str | Path) -> "Result":
        """Read a folder that `save` wrote.

        Raises:
            DataError: the folder is not a result, is damaged, or was written by a newer version.
        """
        place = Path(directory)
        index = read_index(place)
        try:
            if not all(isinstance(name, str) for name in _names(index["columns"], index["tables"])):
                raise ValueError("a column has a name that is not text")
            if any(
                len(set(names)) < len(names) for each in (index["columns"], index["tables"]) for names in each.values()
            ):
                raise ValueError("two columns have one name")
            kinds, summary = index.get("dtypes", {}), read_summary(index)
            read, file = (read_lines, LINES_FILE) if index["format"] < 2 else (read_columns, ITEMS_FILE)
            items = read(place / file, index["columns"]["items"], kinds.get("items"))
            tables = {}
            for name, stem in stems(index["tables"]).items():
                path = place / "tables" / f"{stem}.jsonl"
                tables[name] = read_lines(path, index["tables"][name], kinds.get(f"tables/{name}"))
            figures = {
                name: read_figure(place / "figures" / f"{stem}.json") for name, stem in stems(index["figures"]).items()
            }
        except DAMAGE as error:
            raise DataError(
                f"The result in `{place}` is damaged ({type(error).__name__}: {' '.join(str(error).split())}): delete"
                " the folder and run the experiment again."
            ) from None
        return cls(index["name"], summary, items, tables, figures, index["meta"])

    def export(
        self,
        out: str | Path,
        formats: Sequence[str] = ("svg", "pdf", "html", "csv"),
        figures: Sequence[str] = (),
        command: str = "",
        **options: Any,
    ) -> list[Path]:
        """Write the figures, and with csv or tex the summary, items and tables, each with its provenance.

        Files are named by models, experiment and figure, and the first digits of the key, which depends on all options:
        `dpo-agreeable_sycophancy-layers_4a4da1.pdf`.

        Args:
            out: folder to write to; existing files of the same names are replaced.
            formats: formats from `probe.plotting.export.FORMATS`.
            figures: names of the figures to write; all by default.
            command: command line to record in `provenance.json`.
            options: options of `probe.plotting.Paper`: width, height, font_size, font, dpi, show_title, theme.

        Returns:
            The written files.

        Raises:
            DataError: no figure has a given name.
            ConfigError: an option or a format does not exist.
            RunError: a file cannot be written.
        """
        from probe.plotting.export import TABLES, parse_formats, provenance, render_table, save_all, save_provenance
        from probe.plotting.paper import paper_of

        unknown = [name for name in figures if name not in self.figures]
        if unknown:
            remedy = suggest(unknown[0], self.figures, "name one of these.")
            raise DataError(f"The result has no figure `{unknown[0]}`, only {', '.join(self.figures)}: {remedy}")
        formats, paper = parse_formats(",".join(formats)), paper_of(options)
        facts = {key: value for key, value in self.meta.items() if key not in ("created", "title")}
        out = Path(out)
        source = provenance(
            experiment=self.name, created_by=command or None, measured=self.meta.get("created"), **facts
        )
        files: list[Path] = []
        for name, stem in stems(self.figures).items():
            if figures and name not in figures:
                continue
            pictures = [kind for kind in formats if kind not in TABLES]
            full, title = file_stem(f"{self.name}-{stem}", source), f"{self.title}: {words_of(name)}"
            about = {"figure": name, **source}
            files += save_all(self.figures[name], None, out, full, pictures, about, paper=paper, title=title)
        tables = {"summary": self.summary, "items": self.items}
        tables |= {f"table-{name}": table for name, table in self.tables.items()}
        for name, stem in stems(tables).items():
            for kind in (kind for kind in formats if kind in TABLES):
                files.append(out / f"{file_stem(f'{self.name}-{stem}', source)}.{kind}")
                title = f"{self.title}: {words_of(name.removeprefix('table-'))}"
                write_file(files[-1], render_table(tables[name], kind, title, f"{self.name}-{stem}"))
        save_provenance(out, files, source)
        return files

    def __repr__(self) -> str:
        return f"Result({self.name!r}, models={self.models}, metrics={len(self.summary)}, items={len(self.items)})"

    def _repr_html_(self) -> str:
        head = f"<b>{html.escape(self.title)}</b><p>{html.escape(self.finding)}</p>"
        return head + self.summary.to_html(index=False, border=0, escape=True, float_format="{:.3g}".format)


def read_index(directory: Path) -> dict[str, Any]:
    """Read the contents of result.json, and check that they are of this format.

    Raises:
        DataError: the file does not exist, is damaged, or has a newer format.
    """
    try:
        index = read_json(directory / RESULT_FILE)
    except OSError as error:
        raise DataError(
            f"`{directory}` holds no {RESULT_FILE} that can be read ({error.strerror}): give a folder that an"
            " experiment was saved to."
        ) from None
    except ValueError as error:
        raise DataError(
            f"`{directory / RESULT_FILE}` is cut short or damaged ({short(error)}): run the experiment again."
        ) from None
    if not isinstance(index, dict) or not _is_index(index):
        raise DataError(f"`{directory / RESULT_FILE}` is not the record of an experiment: give a folder of one.")
    refuse_newer(f"The result in `{directory}`", "format", index["format"], FORMAT, DataError)
    return index


def read_summary(index: Mapping[str, Any]) -> pd.DataFrame:
    """Return the summary of an index, with numbers in numeric columns.

    Raises:
        DAMAGE: the summary is missing or damaged.
    """
    kinds = index.get("dtypes", {})
    summary = to_table(index["summary"], index["columns"]["summary"], kinds.get("summary"))
    if not all(isinstance(row.get("n"), int | float | None) for row in index["summary"]):
        raise ValueError("an n is not a number")
    if not all(isinstance(row.get("metric"), str) for row in index["summary"]):
        raise ValueError("a metric has a name that is not text")
    if not all(isinstance(row.get("apart", ""), str) for row in index["summary"]):
        raise ValueError("values of trainings are not text")
    return summary.astype({column: float for column in summary if column not in ("metric", "n", "apart")})


def _is_index(index: dict[str, Any]) -> bool:
    """Return whether all fields are present that are read of every result."""
    meta = index.get("meta")
    models = meta.get("models", []) if isinstance(meta, dict) else None
    return (
        type(index.get("format")) is int
        and isinstance(index.get("name"), str)
        and isinstance(models, list)
        and all(isinstance(model, dict) and isinstance(model.get("label"), str) for model in models)
    )


def _names(*columns: Any) -> list[Any]:
    """Return all column names in objects of lists of names; None if a name is not valid."""
    lists = [names for each in columns for names in (each.values() if isinstance(each, dict) else [None])]
    return [name for names in lists for name in (names if isinstance(names, list) else [None])]


def check_target(target: Path) -> None:
    """Raise an error if saving would replace something other than a result.

    Raises:
        DataError: the folder contains something other than a result, or is a file.
        RunError: the folder cannot be created.
    """
    check_folder(target.parent)
    ours = any((target / name).is_file() for name in (RESULT_FILE, ITEMS_FILE, LINES_FILE, "summary.csv"))
    if target.exists() and not ours and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"`{target}` holds something other than a result: give a new folder, or that of an older result."
        )


def label_items(evidence: Evidence, label: str) -> Evidence:
    """Return the evidence with the column `model` everywhere, and with a name for each item.

    Raises:
        DataError: two items or two columns have the same name.
    """
    items = evidence.items.reset_index(drop=True)
    for table in (items, *evidence.tables.values()):
        column_names(table)
    names = items[ITEM] if ITEM in items else range(len(items))
    items = items.assign(**{ITEM: to_column([str(name) for name in names], None)})
    twice = items[ITEM][items[ITEM].duplicated()]
    if len(twice):
        raise DataError(f"Two items are called `{twice.iloc[0]}`: name each once, so that models can be paired.")
    first = [ITEM, MODEL]
    items = items.assign(**{MODEL: label})
    items = items[[*first, *(column for column in items if column not in first)]]
    tables = {name: table.assign(**{MODEL: label}) for name, table in evidence.tables.items()}
    return Evidence(items, tables, evidence.given, evidence.figures, evidence.facts)


def stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Stack the tables of several models, with the columns of all; empty columns do not determine the type."""
    full = [part for part in parts if len(part)]
    if not full:
        return parts[0]
    columns = list(dict.fromkeys(column for part in full for column in part.columns))
    frames = [part.dropna(axis=1, how="all") for part in full]
    present = {column for part in frames for column in part.columns}
    # without any value, the type of the first part is kept
    frames = [
        part.assign(**{c: full[i][c] for c in full[i].columns if c not in present}) for i, part in enumerate(frames)
    ]
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def sendable_result(result: Result) -> Result:
    """Copy a result with tables and provenance that a page can send (`probe.untrusted.sendable`)."""
    return replace(
        result,
        summary=_sendable(result.summary),
        items=_sendable(result.items),
        tables={sendable(name): _sendable(table) for name, table in result.tables.items()},
        figures={sendable(name): chart for name, chart in result.figures.items()},
        meta=sendable(result.meta),
    )


def _sendable(table: pd.DataFrame) -> pd.DataFrame:
    cells = {
        str(name): pd.Series([sendable(cell) for cell in column], column.index, dtype=object)
        for name, column in table.items()
        if column.dtype == object
    }
    return table.assign(**cells).rename(columns=sendable)
