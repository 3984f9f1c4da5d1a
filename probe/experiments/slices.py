"""Slices: named filters on the items of an experiment, and the file in which a user keeps them.

A slice selects items by name, for all models alike, so that it holds the same questions for each of them:

    Slice("football", text="football")                               # by the question
    Slice("base fails", show="answered wrong", model="base")         # by the outcome

They are kept in `results/slices/EXPERIMENT.json` of the working directory, one object per slice. An entry that cannot
be read is ignored, and stays in the file. `probe.experiments.slice_comparison` computes the metrics of slices.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import ConfigError, DataError, suggest
from probe.experiments.metrics import EXPECTED, ITEM, PROMPT, Metric
from probe.experiments.result import MODEL
from probe.plotting.names import file_name
from probe.runs.directories import WORK
from probe.runs.storage import disk, write_atomic
from probe.untrusted import MB, read_json, refuse_newer, short

ALL, ONES, ZEROS, DIFFER = "all", "counted (1)", "not counted (0)", "differ"
"""Items that are shown: all, those that a metric counts as one or as zero, and those on which models differ."""
VERDICTS = {"answered right": True, "answered wrong": False}
"""Items that are shown by the verdict on their answers."""
SHOWS = (ALL, ONES, ZEROS, DIFFER, *VERDICTS)
RIGHT = ("right", "correct")
"""Columns with whether an answer is right."""
KIND, ANSWER = "kind", "answer"
"""Columns with the kind of an item, and with the model's answer."""
MOST, LONGEST, LONGEST_TEXT = 100, 60, 500
"""Largest number of slices of an experiment, of characters of a name, and of characters of a text."""
FORMAT = 1


@dataclass(frozen=True)
class Slice:
    """Filter on items; fields that have no effect are emptied, so that equal filters are equal."""

    name: str = ""
    """Name; empty for a filter that is not kept."""
    kinds: tuple[str, ...] = ()
    """Kinds of items; empty for all."""
    text: str = ""
    """Part of a prompt or of an answer, ignoring case."""
    show: str = ALL
    """Outcome of the items, one of `SHOWS`."""
    metric: str = ""
    """Metric of `ONES` and `ZEROS`; for `DIFFER` the metric whose values differ, or empty if the answers differ."""
    model: str = ""
    """Label of the model of the outcome; empty if one of all models is enough."""

    def __post_init__(self) -> None:
        """Empty the fields that have no effect.

        Raises:
            ConfigError: `show` is unknown, or lacks its metric.
        """
        if self.show not in SHOWS:
            raise ConfigError(f"A slice cannot show {self.show!r}: give one of {', '.join(SHOWS)}.")
        if self.show in (ONES, ZEROS) and not self.metric:
            raise ConfigError(f"A slice of items that are {self.show} needs a metric: name the one that counts them.")
        object.__setattr__(self, "kinds", tuple(sorted(set(self.kinds))))
        if self.show in (ALL, *VERDICTS):
            object.__setattr__(self, "metric", "")
        if self.show in (ALL, DIFFER):
            object.__setattr__(self, "model", "")

    @property
    def is_all(self) -> bool:
        """Whether every item passes."""
        return not self.kinds and not self.text and self.show == ALL

    def select(self, items: pd.DataFrame, metrics: Mapping[str, Metric]) -> list[str]:
        """Return the names of the items that pass, in their order in the table.

        Args:
            items: items of all models, with the columns `item` and `model`.
            metrics: metrics of the experiment by name.

        Raises:
            DataError: a model, a metric or a kind of the slice is missing.
        """
        self.check(items, metrics)
        first = items.drop_duplicates(ITEM)
        names = first[ITEM]
        passing = pd.Series(True, index=first.index)
        if self.kinds:
            passing &= first[KIND].astype(str).isin(self.kinds)
        if self.text:
            passing &= names.isin(self._with_text(items, PROMPT) | self._with_text(items, ANSWER))
        if self.show != ALL:
            passing &= names.isin(self._with_outcome(items, metrics))
        return [str(name) for name in names[passing]]

    def found_in_answers(self, items: pd.DataFrame) -> set[str]:
        """Return the items that have the text only in an answer, and are thus selected by the outcome."""
        return self._with_text(items, ANSWER) - self._with_text(items, PROMPT) if self.text else set()

    def describe(self, title: Callable[[str], str] = str) -> str:
        """Describe the filter in words.

        Args:
            title: function from the name of a metric to its title.
        """
        parts = [f"kind {', '.join(self.kinds)}"] if self.kinds else []
        parts += [f"text \u201c{self.text}\u201d"] if self.text else []
        if self.show == DIFFER:
            parts.append(f"models differ in {title(self.metric) if self.metric else 'their answers'}")
        elif self.show != ALL:
            of = f" in \u201c{title(self.metric)}\u201d" if self.metric else ""
            parts.append(f"{self.show}{of} by {self.model or 'any model'}")
        return "; ".join(parts) or "all items"

    def check(self, items: pd.DataFrame, metrics: Mapping[str, Metric]) -> None:
        """Refuse items to which the slice does not apply.

        Raises:
            DataError: a model, a metric or a kind of the slice is missing.
        """
        labels = [str(label) for label in items[MODEL].unique()]
        kinds = {str(kind) for kind in items[KIND].dropna()} if KIND in items else set()
        if self.model and self.model not in labels:
            raise DataError(
                f"The slice `{self.name}` asks for answers of `{self.model}`: choose this model besides"
                f" {', '.join(labels)}."
            )
        if self.metric and self.metric not in metrics:
            hint = suggest(self.metric, metrics, "it applies to results with this metric.")
            raise DataError(f"The slice `{self.name}` is about the metric `{self.metric}`, not in this result: {hint}")
        if self.kinds and not kinds & set(self.kinds):
            raise DataError(f"The slice `{self.name}` is about the kind {', '.join(self.kinds)}: no item is of it.")

    def _with_text(self, items: pd.DataFrame, column: str) -> set[str]:
        if column not in items:
            return set()
        texts = items[column].where(items[column].notna(), "").astype(str)
        return set(items[ITEM][texts.str.lower().str.contains(self.text.lower(), regex=False)])

    def _with_outcome(self, items: pd.DataFrame, metrics: Mapping[str, Metric]) -> set[str]:
        rows = items[items[MODEL] == self.model] if self.model else items
        if self.show in VERDICTS:
            return set(rows[ITEM][verdicts(rows) == VERDICTS[self.show]])
        if not self.metric:
            if ANSWER not in rows:
                return set()
            several = rows[ANSWER].astype(str).groupby(rows[ITEM]).nunique() > 1
            return set(several.index[several])
        counted = metrics[self.metric].select(rows)
        values = counted[metrics[self.metric].columns[0]].astype(float)
        if self.show == DIFFER:
            by_item = values.groupby(counted[ITEM])
            apart = by_item.max() > by_item.min()
            return set(apart.index[apart])
        return set(counted[ITEM][values == float(self.show == ONES)])


def verdict(row: Mapping[Any, Any]) -> bool | None:
    """Return whether an answer is right, or None if the item does not record it."""
    for column in RIGHT:
        if row.get(column) is not None and row[column] == row[column]:
            return bool(row[column])
    expected, answer = row.get(EXPECTED), row.get(ANSWER)
    if not isinstance(expected, str) or not isinstance(answer, str) or not expected.strip():
        return None
    return " ".join(answer.lower().split()).removesuffix(" .") == " ".join(expected.lower().split()).removesuffix(" .")


def verdicts(items: pd.DataFrame) -> pd.Series:
    """Return the verdict on the answer of each row."""
    columns = [name for name in (*RIGHT, EXPECTED, ANSWER) if name in items]
    return pd.Series([verdict(row) for row in items[columns].to_dict("records")], index=items.index, dtype=object)


def slices_file(experiment: str) -> Path:
    """Return the file of the slices of an experiment, whether it exists or not."""
    return WORK / "slices" / f"{file_name(experiment)}.json"


def read_slices(experiment: str) -> list[Slice]:
    """Return the slices that are kept for an experiment, by its name.

    Raises:
        DataError: the file is no list of slices, or was written by a newer version.
    """
    found: dict[str, Slice] = {}
    for entry in _read_entries(slices_file(experiment))[:MOST]:
        each = _parse(entry)
        if each is not None:
            found.setdefault(each.name, each)
    return list(found.values())


def keep_slice(experiment: str, new: Slice) -> None:
    """Keep a slice under its name, in place of an older one of that name.

    Raises:
        ConfigError: the name is empty, too long or not printable, every item passes, or there are too many slices.
        DataError: the file cannot be read.
        RunError: the file cannot be written.
    """
    check_slice(new)

    def change(entries: list[Any]) -> list[Any]:
        others = [entry for entry in entries if _name(entry) != new.name]
        if len(others) >= MOST:
            raise ConfigError(f"An experiment has at most {MOST} slices: remove one that is not needed.")
        place = next((at for at, entry in enumerate(entries) if _name(entry) == new.name), len(others))
        return [*others[:place], _entry(new), *others[place:]]

    _change(experiment, change)


def rename_slice(experiment: str, name: str, new: str) -> None:
    """Give a slice another name.

    Raises:
        ConfigError: the new name is not valid, or is that of another slice.
        DataError: the file cannot be read.
        RunError: the file cannot be written.
    """
    check_name(new)

    def change(entries: list[Any]) -> list[Any]:
        if new != name and any(_name(entry) == new for entry in entries):
            raise ConfigError(f"There is another slice `{new}`: choose a different name.")
        return [{**entry, "name": new} if _name(entry) == name else entry for entry in entries]

    _change(experiment, change)


def remove_slice(experiment: str, name: str) -> None:
    """Remove a slice.

    Raises:
        DataError: the file cannot be read.
        RunError: the file cannot be written.
    """
    _change(experiment, lambda entries: [entry for entry in entries if _name(entry) != name])


def check_slice(each: Slice) -> None:
    """Refuse a slice that cannot be kept.

    Raises:
        ConfigError: see `keep_slice`.
    """
    check_name(each.name)
    if len(each.text) > LONGEST_TEXT:
        raise ConfigError(f"The text of a slice has {len(each.text):,} characters: give at most {LONGEST_TEXT}.")
    if each.is_all:
        raise ConfigError(f"The slice `{each.name}` has all items: filter them first.")


def check_name(name: str) -> None:
    """Refuse a name that a slice cannot have.

    Raises:
        ConfigError: the name is empty, too long or not printable.
    """
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise ConfigError(f"{name!r} is no name for a slice: give some letters, without blanks around them.")
    if len(name) > LONGEST:
        raise ConfigError(f"The name of a slice has {len(name):,} characters: give at most {LONGEST}.")


def _read_entries(file: Path) -> list[Any]:
    if not file.exists():
        return []
    try:
        data = read_json(file, MB)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The slices in `{file}` cannot be read ({short(error)}): correct or delete the file."
        ) from None
    if not isinstance(data, dict) or not isinstance(data.get("slices"), list) or type(data.get("format")) is not int:
        raise DataError(f"`{file}` holds no slices: correct or delete the file.")
    refuse_newer(f"The file `{file}`", "format", data["format"], FORMAT, DataError)
    return data["slices"]


def _change(experiment: str, change: Callable[[list[Any]], list[Any]]) -> None:
    file = slices_file(experiment)
    data = {"format": FORMAT, "slices": change(_read_entries(file))}
    with disk(file):
        write_atomic(file, (json.dumps(data, indent=1) + "\n").encode())


def _name(entry: Any) -> Any:
    return entry.get("name") if isinstance(entry, dict) else None


def _entry(each: Slice) -> dict[str, Any]:
    """Return a slice as a JSON object without fields that have their default."""
    default = asdict(Slice())
    return {name: value for name, value in asdict(each).items() if value != default[name]}


def _parse(entry: Any) -> Slice | None:
    """Return the slice of an entry, or None if it is not valid."""
    if not isinstance(entry, dict):
        return None
    values = {each.name: entry[each.name] for each in fields(Slice) if each.name in entry}
    kinds = values.pop("kinds", [])
    if not _is_texts(kinds) or not _is_texts(list(values.values())):
        return None
    try:
        each = Slice(**values, kinds=tuple(kinds))
        check_slice(each)
    except ConfigError:
        return None
    return each


def _is_texts(values: Any) -> bool:
    """Return whether a JSON value is a list of texts, none of them long."""
    return isinstance(values, Sequence) and all(isinstance(each, str) and len(each) <= LONGEST_TEXT for each in values)
