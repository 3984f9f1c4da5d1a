"""Comparison of two logs of one task: paired differences of every score, with verdicts.

Items are paired by identifier and repetition, if their questions are equal. Differences, intervals, tests and verdicts
are those of an audit (`probe.audit.verdict`). Items with one value in the field that the reader names are one cluster,
as are the repetitions of one question: whole clusters are resampled and swapped.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from probe.audit.change import BLOCKS, CORPUS, Audit
from probe.audit.config import MARGIN, check_share
from probe.audit.inspection import compare_part
from probe.audit.plan import Part
from probe.audit.verdict import CHANGED, EQUIVALENT, UNDECIDED, UNKNOWN, add_verdicts
from probe.errors import ConfigError, DataError, suggest
from probe.experiments.comparison import ModelComparison, compare_results
from probe.experiments.definition import Experiment
from probe.experiments.metrics import EXPECTED, INTERVALS, ITEM, PROMPT, ROW, Mean, Metric, Share, pair_items, summarise
from probe.experiments.result import MODEL, Result
from probe.experiments.slices import ANSWER, KIND, RIGHT
from probe.logs.log import Log, LogItem
from probe.numbers import in_percent
from probe.plotting.notebook import Drawable
from probe.rows import list_names
from probe.runs.directories import WORK
from probe.terms import SHARE, SMALLEST

LOGS = "logs"
"""Name of the comparison as an experiment, and of the folder of its results."""
TITLE = "Scores of two logs"
SLICE, SCORE = "slice", "score"
"""Columns of the table of differences: the value of the field that defines the slice, empty for all items; the score.
"""
OF_AUDITS = ("metric", "part", "questions", "measure", "title", "better")
"""Columns of an audit's rows that say nothing about logs."""
ALL = ""
"""Slice of all items."""
NAMED = 4
"""Largest number of slices that the sentence names."""
MOST_SLICES = 40
"""Largest number of slices, those with most items."""
LONGEST = 200
"""Largest number of characters of a field's value."""
RESERVED = frozenset(
    (ITEM, MODEL, ROW, KIND, PROMPT, ANSWER, EXPECTED, *RIGHT, "unit", "person", "sequence", "question")
)
"""Columns of items with a meaning of their own, which no score may have."""
WHOLE = f"{LOGS}.whole"
"""Fingerprint prefix of a model that is known only by its log."""


class Pairing(NamedTuple):
    """Items of two logs that are the same questions."""

    pairs: Sequence[tuple[LogItem, LogItem]]
    """Paired items, of the base and of the other model."""
    notes: tuple[str, ...]
    """One sentence on each kind of item that is not paired."""


@dataclass(frozen=True)
class LogComparison(Drawable):
    """Differences of two models' scores in the logs of one task."""

    both: ModelComparison
    """Results of both models in the ordinary form, the base first."""
    audit: Audit
    """Differences with verdicts: one row per score over all paired items."""
    rows: pd.DataFrame
    """Differences of each score over all items and in each slice, with verdicts (`probe.audit.verdict`)."""
    notes: tuple[str, ...] = ()
    """Sentences on what is not paired or left out."""

    @property
    def names(self) -> tuple[str, str]:
        """Labels of both models, the base first."""
        return self.audit.names

    @cached_property
    def result(self) -> Result:
        """Result in the ordinary form, with the table `differences` and the finding."""
        joint = self.both.result
        rows = self.rows.assign(**{MODEL: self.names[1]})
        meta = {**joint.meta, "finding": self.sentence(), "notes": list(self.notes)}
        return replace(joint, tables={"differences": rows}, meta=meta)

    @property
    def differing(self) -> list[str]:
        """Names of the items whose scores differ, those with the largest difference first."""
        base, aligned = (self.both.result.items[self.both.result.items[MODEL] == name] for name in self.names)
        names = [metric.columns[0] for metric in self.both.metrics.values()]
        first, second = pair_items(base, aligned)
        gaps = (first[names].astype(float) - second[names].astype(float)).abs().max(axis=1)
        return [str(name) for name in gaps[gaps > 0].sort_values(ascending=False, kind="stable").index]

    def sentence(self) -> str:
        """Return what changed, what is equivalent and what is undecided, over all paired items and by slice."""
        slices = self.rows[self.rows[SLICE] != ALL]
        if not len(slices):
            return self.audit.sentence
        verdicts = (CHANGED, EQUIVALENT, UNDECIDED, UNKNOWN)
        counts = {name: int((slices["verdict"] == name).sum()) for name in verdicts}
        changed = slices[slices["verdict"] == CHANGED]
        named = ", ".join(f"{row[SCORE]} in {row[SLICE]}" for row in changed.head(NAMED).to_dict("records"))
        unknown = f", {counts[UNKNOWN]} without an interval" if counts[UNKNOWN] else ""
        return (
            f"{self.audit.sentence} Of {len(slices)} differences in slices {counts[CHANGED]} changed"
            f"{f' ({named})' if named else ''}, {counts[EQUIVALENT]} are equivalent, {counts[UNDECIDED]} undecided"
            f"{unknown}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the differences with verdicts, and the items of both models."""
        return {"differences": self.rows, "items": self.result.items}


def compare_logs(
    base: Log,
    aligned: Log,
    *,
    scores: Sequence[str] = (),
    cluster: str = "",
    by: str = "",
    seed: int = 0,
    smallest_effect: float = SMALLEST,
    margin: float = MARGIN,
) -> LogComparison:
    """Compare two models item by item.

    Args:
        base: log of the model to compare against.
        aligned: log of the other model.
        scores: scores to compare; by default all that both logs have.
        cluster: metadata field whose values are clusters of items; by default each question is one.
        by: metadata field whose values are slices, each compared separately.
        seed: seed of resampling.
        smallest_effect: smallest change of a rate that counts.
        margin: margin of a rate within which models are equivalent.

    Raises:
        ConfigError: a score or a field does not exist, or a share is not valid.
        DataError: no items can be paired.
    """
    start = time.perf_counter()
    check_share("smallest effect", smallest_effect, SMALLEST)
    check_share("margin", margin, MARGIN, least=1e-9)
    names = choose_scores(base, aligned, scores)
    for option, name in (("cluster", cluster), ("by", by)):
        _check_field(option, name, base, aligned)
    pairing = pair_logs(base, aligned)
    labels = label_logs(base, aligned)
    columns = {name: f"{name} score" if name in RESERVED else name for name in names}
    tables = [
        _items(pairing.pairs, side, columns, cluster, by).assign(**{MODEL: label}) for side, label in enumerate(labels)
    ]
    metrics = score_metrics(pd.concat(tables), list(columns.values()))
    facts = {"scores": list(columns.values()), "cluster": cluster, "by": by, "smallest": smallest_effect}
    key = _key(tables, facts | {"margin": margin, "seed": seed})
    results = [_result(table, metrics, label, log, facts, key, seed) for table, label, log in
               zip(tables, labels, (base, aligned), strict=True)]  # fmt: skip
    both = compare_results(log_experiment(metrics), results)
    whole = _differences(metrics, tables, seed).assign(**{SLICE: ALL})
    parts = [whole]
    found, left = slices_of(tables[0], metrics)
    if found:
        parts.append(_differences(found, tables, seed))
    rows = add_verdicts(_described(pd.concat(parts, ignore_index=True), metrics, found), smallest_effect, margin)
    about = {
        "models": [each.meta["models"][0] | {"fingerprint": f"{WHOLE}-{key}"} for each in results],
        "seed": seed,
        "smallest_effect": smallest_effect,
        "margin": margin,
        "n": len(pairing.pairs),
        "created": results[0].meta["created"],
        "seconds": round(time.perf_counter() - start, 2),
        "key": key,
    }
    notes = (*base.notes, *aligned.notes, *pairing.notes, *_notes(pairing, base, aligned, cluster, left))
    own = rows[rows[SLICE] == ALL].drop(columns=[SLICE, SCORE])
    empty = pd.DataFrame(columns=["kind", *CORPUS], dtype=float)
    audit = Audit(own, empty, pd.DataFrame(columns=list(BLOCKS), dtype=float), notes, about)
    shown = [SCORE, SLICE, *(name for name in rows if name not in (SCORE, SLICE, *OF_AUDITS))]
    return LogComparison(both, audit, rows[shown], notes)


def log_experiment(metrics: Sequence[Metric]) -> Experiment:
    """Return the experiment that describes results made from logs; it cannot be run."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConfigError("Results of logs are read from files: use `probe logs BASE ALIGNED`.")

    return Experiment(LOGS, TITLE, refuse, refuse, tuple(metrics), origin=LOGS)


def stored_comparison(result: Result) -> ModelComparison:
    """Return the comparison of a stored result of two logs.

    Raises:
        DataError: the result is not one of two logs.
    """
    names = result.meta.get("scores")
    if result.name != LOGS or not isinstance(names, list) or not {*map(str, names), ITEM, MODEL} <= {*result.items}:
        raise DataError("The result is not a comparison of logs: give a folder that `probe logs` wrote.")
    metrics = score_metrics(result.items, [str(name) for name in names])
    parts = []
    for label in reversed(result.models):
        items = result.items[result.items[MODEL] == label].reset_index(drop=True)
        models = [each for each in result.meta["models"] if each["label"] == label]
        meta = result.meta | {"models": models, "baseline": None}
        summary = summarise(metrics, items, (), int(result.meta.get("seed") or 0))
        parts.append(Result(LOGS, summary, items, {}, {}, meta))
    return compare_results(log_experiment(metrics), parts)


def choose_scores(base: Log, aligned: Log, asked: Sequence[str] = ()) -> list[str]:
    """Return the names of the scores to compare.

    Raises:
        ConfigError: a score that was asked for is missing, or the logs have none in common.
    """
    common = [name for name in base.scores if name in aligned.scores]
    for name in asked:
        if name not in common:
            hint = suggest(name, common, f"both have {list_names(common) or 'none in common'}.")
            raise ConfigError(f"The score `{name}` is not in both logs: {hint}")
    if not common:
        ours, theirs = (list_names(log.scores[:9]) for log in (base, aligned))
        raise ConfigError(f"The logs have no score in common ({ours}; {theirs}): give two logs of one task.")
    return list(dict.fromkeys(asked)) or common


def _check_field(option: str, name: str, base: Log, aligned: Log) -> None:
    known = list(dict.fromkeys([*base.fields, *aligned.fields]))
    if name and name not in known:
        hint = suggest(name, known, f"its fields are {list_names(known[:20])}." if known else "leave it out.")
        raise ConfigError(f"--{option} names the field `{name}`, which no item of the logs has: {hint}")


def label_logs(base: Log, aligned: Log) -> tuple[str, str]:
    """Return a label for each log: its model, and if these are equal its folder, its file, or a number."""
    first, second = (log.model[: LONGEST // 2] for log in (base, aligned))
    if first and second and first != second:
        return first, second
    paths = [log.path.absolute() for log in (base, aligned)]
    for names in ([path.parent.name for path in paths], [path.stem for path in paths]):
        if names[0] != names[1]:
            ours, theirs = (name[: LONGEST // 2] for name in names)
            return (f"{first} ({ours})", f"{second} ({theirs})") if first and second else (ours, theirs)
    name = first or paths[0].stem or "model"
    return name, f"{name} (2)"


def pair_logs(base: Log, aligned: Log) -> Pairing:
    """Pair the items of two logs with equal identifier, repetition and question.

    Raises:
        DataError: there is no such pair.
    """
    ours, theirs = ({(item.id, item.epoch): item for item in log.items} for log in (base, aligned))
    shared = [(ours[key], theirs[key]) for key in ours if key in theirs]
    pairs = [pair for pair in shared if _same_question(*pair)]
    if not pairs:
        reason = f"the {len(shared):,} items with equal identifiers ask other questions" if shared else (
            f"their identifiers differ, such as {next(iter(ours))[0]!r:.60} and {next(iter(theirs))[0]!r:.60}"
        )  # fmt: skip
        raise DataError(
            f"No item of `{base.path}` can be paired with one of `{aligned.path}` ({reason}): give two logs of one"
            " task."
        )
    other = len(shared) - len(pairs)
    notes = [f"{other:,} items have equal identifiers and other questions, and are not paired."] if other else []
    for log, of, others in ((base, ours, theirs), (aligned, theirs, ours)):
        alone = [key for key in of if key not in others]
        if alone:
            notes.append(f"{len(alone):,} of {len(of):,} items of `{log.path}` are not in the other log.")
    return Pairing(pairs, tuple(notes))


def _same_question(first: LogItem, second: LogItem) -> bool:
    return not first.question or not second.question or first.question == second.question


def _notes(pairing: Pairing, base: Log, aligned: Log, cluster: str, left: int) -> list[str]:
    """Return sentences on the pairs: other prompts, other tasks, items without a cluster, slices left out."""
    count, notes = len(pairing.pairs), [f"{len(pairing.pairs):,} items are paired."]
    unequal = sum(first.prompt != second.prompt for first, second in pairing.pairs)
    if unequal:
        notes.append(
            f"The models read different prompts for {unequal:,} of {count:,} paired items, so a difference may come"
            " from the prompts."
        )
    unknown = sum(not first.question or not second.question for first, second in pairing.pairs)
    if unknown:
        notes.append(f"The questions of {unknown:,} paired items are not in both logs: only their identifiers agree.")
    if base.task and aligned.task and base.task != aligned.task:
        notes.append(f"The logs name different tasks: {base.task} and {aligned.task}.")
    if cluster:
        alone = sum(field_of(pair, cluster) is None for pair in pairing.pairs)
        notes += [f"{alone:,} items have no `{cluster}` and count alone."] if alone else []
    if left:
        notes.append(f"{left:,} further slices have fewer items and are left out.")
    return notes


def field_of(pair: tuple[LogItem, LogItem], name: str) -> str | None:
    """Return a metadata field of a pair as a text, from the base's log if it has it; None if neither does."""
    for item in pair:
        value = item.fields.get(name)
        if value is not None and value == value and value != "":
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
            return text.strip()[:LONGEST]
    return None


def _items(
    pairs: Sequence[tuple[LogItem, LogItem]], side: int, columns: Mapping[str, str], cluster: str, by: str
) -> pd.DataFrame:
    """Return the paired items of one log as a table, in the form of an experiment's items."""
    repeated = any(item.epoch > 1 for pair in pairs for item in pair)
    rows = []
    for pair in pairs:
        item = pair[side]
        drawn = field_of(pair, cluster) if cluster else None
        row: dict[str, Any] = {
            ITEM: f"{item.id} (epoch {item.epoch})" if repeated else item.id,
            ROW: f"question {item.id}" if drawn is None else drawn,
            **({KIND: field_of(pair, by) or "(none)"} if by else {}),
            PROMPT: item.prompt,
            ANSWER: item.answer,
            EXPECTED: item.expected,
        }
        rows.append(row | {column: item.scores.get(name) for name, column in columns.items()})
    table = pd.DataFrame(rows).astype(dict.fromkeys(columns.values(), float))
    table = table.dropna(axis=1, how="all")
    first = next(iter(columns.values()))
    if first in table and table[first].dropna().isin((0, 1)).all():  # else no answer is right or wrong
        table = table.assign(**{RIGHT[0]: table[first].map({0.0: False, 1.0: True}).astype(object)})
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *columns.values()])))


def score_metrics(items: pd.DataFrame, columns: Sequence[str]) -> list[Metric]:
    """Return a share for each score that is always 0 or 1, and a mean for any other."""
    return [Share(name) if items[name].dropna().isin((0, 1)).all() else Mean(name) for name in columns]


def slices_of(items: pd.DataFrame, metrics: Sequence[Metric]) -> tuple[list[Metric], int]:
    """Return each metric restricted to the items of each kind, and the number of kinds left out."""
    if KIND not in items:
        return [], 0
    counts = Counter(items[KIND]).most_common()
    kinds = [kind for kind, _ in counts[:MOST_SLICES]]
    found = [
        replace(metric, name=f"{metric.name} [{kind}]", column=metric.name, where={KIND: kind})  # type: ignore[call-arg]
        for metric in metrics
        for kind in kinds
    ]
    return found, len(counts) - len(kinds)


def _differences(metrics: Sequence[Metric], tables: Sequence[pd.DataFrame], seed: int) -> pd.DataFrame:
    """Return the differences of some metrics, which form one family for the correction of p-values."""
    part = Part(LOGS, LOGS, LOGS, {}, tuple(metrics), 0, alone=True)
    return compare_part(part, tables[0], tables[1], seed)[0]


def _described(rows: pd.DataFrame, metrics: Sequence[Metric], slices: Sequence[Metric]) -> pd.DataFrame:
    """Return rows with their score, slice, title and unit; all are main measures."""
    by_name = {metric.name: metric for metric in (*metrics, *slices)}
    score = [by_name[name].columns[0] for name in rows["metric"]]
    kind = [str(by_name[name].where.get(KIND, ALL)) for name in rows["metric"]]
    units = [SHARE if isinstance(by_name[name], Share) else "" for name in rows["metric"]]
    about: dict[str, Any] = {SCORE: score, SLICE: kind, "title": rows["metric"], "unit": units}
    return rows.assign(**about, better="", measure=True)


def _result(
    items: pd.DataFrame, metrics: Sequence[Metric], label: str, log: Log, facts: Mapping[str, Any], key: str, seed: int
) -> Result:
    """Return the items of one log as the result of an experiment on one model."""
    model = {"label": label, "ref": "", "fingerprint": "", "method": "other", "world": None}
    meta = {
        "title": TITLE if not log.task else f"{TITLE}: {log.task[:LONGEST]}",
        "models": [model | {"facts": {"log": log.path.name, "model": log.model[:LONGEST]}}],
        "baseline": None,
        "n": len(items),
        "seed": seed,
        "options": {name: facts[name] for name in ("cluster", "by")},
        "data": {"name": log.task[:LONGEST], "files": 0, "sha256": key},
        "scores": facts["scores"],
        "unit": facts["cluster"],
        "intervals": INTERVALS,
        "version": 1,
        "key": key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return Result(LOGS, summarise(metrics, items, (), seed), items, {}, {}, meta)


def _key(tables: Sequence[pd.DataFrame], facts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for table in tables:
        digest.update(table.to_json().encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:12]


def folder_of(found: LogComparison) -> Path:
    """Return the folder where a comparison is saved by default."""
    from probe.plotting.names import file_name

    return WORK / LOGS / f"{'-'.join(file_name(name) for name in found.names)}-{found.audit.meta['key']}"


def words_of_limits(found: LogComparison) -> str:
    """Return the limits behind the verdicts in words."""
    smallest, margin = (in_percent(each, 3).replace("%", "pp") for each in (found.audit.smallest, found.audit.margin))
    return f"changed: beyond {smallest} of a rate; equivalent: within {margin}"
