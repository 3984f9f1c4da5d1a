"""Results of experiments as files of other harnesses: a log of Inspect, or samples of lm-evaluation-harness.

Each model has a file of its own. Every metric that is a mean over items is a score of the items that it counts;
numbers that are not (a calibration error, a number from captures) have no value for an item and are named in the log's
metadata. Everything else that an item records is its metadata (Inspect) or its `doc` (lm-evaluation-harness), so that
the clusters of the intervals, such as `row` and `person`, can be named when the files are compared.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pandas as pd

from probe.errors import DataError
from probe.experiments.metrics import EXPECTED, ITEM, PROMPT, Mean, Metric
from probe.experiments.registry import experiments
from probe.experiments.result import MODEL, Result, records, stems
from probe.experiments.run import columns_as_metrics
from probe.experiments.slices import ANSWER
from probe.model.messages import split_messages
from probe.plotting.names import file_name
from probe.runs.storage import write_file
from probe.untrusted import sendable

FORMATS = ("inspect", "lm-eval")
"""Names of the formats."""
VERSION = 2
"""Version of Inspect's format."""
ASSISTANT = ("assistant", "bot", "model")
"""Roles of the assistant in templates."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of the members of a zip file, so that equal results give equal files."""


@dataclass(frozen=True)
class ScoredItems:
    """Items of one model with their scores."""

    result: Result
    """Result of the experiment."""
    label: str
    """Label of the model."""
    rows: Sequence[Mapping[str, Any]]
    """Items as JSON values."""
    scores: Sequence[Mapping[str, float]]
    """Scores of each item by metric."""
    columns: frozenset[str]
    """Columns that scores are read from."""
    left_out: Sequence[str]
    """Metrics that have no value for an item."""

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return list(dict.fromkeys(name for each in self.scores for name in each))

    @property
    def created(self) -> str:
        """Time of the measurement in UTC."""
        text = str(self.result.meta.get("created") or "")
        return text if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", text) else "1970-01-01T00:00:00+00:00"

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata of an item."""
        known = {ITEM, MODEL, PROMPT, ANSWER, EXPECTED}
        return {name: value for name, value in row.items() if name not in known and value is not None}


def scored_items(result: Result, label: str) -> ScoredItems:
    """Return the items of one model of a result with their scores."""
    items = result.items[result.items[MODEL] == label].reset_index(drop=True)
    known = experiments().get(result.name)
    every: Sequence[Metric] = (known.metrics if known else ()) or columns_as_metrics(items)
    metrics = [metric for metric in every if metric.applies(items)]
    means = [metric for metric in metrics if isinstance(metric, Mean)]
    scores: list[dict[str, float]] = [{} for _ in range(len(items))]
    for metric in means:
        values = metric.select(items)[metric.columns[0]].astype(float)
        for at, value in values.items():
            scores[int(str(at))][metric.name] = float(value)
    used = frozenset(metric.columns[0] for metric in means)
    counted = {name for each in scores for name in each}
    left_out = [str(name) for name in result.summary["metric"] if name not in counted]
    return ScoredItems(result, label, sendable(records(items)), scores, used, left_out)


def write_logs(result: Result, out: Path, form: str) -> list[Path]:
    """Write one file for each model of a result, and return the files.

    Args:
        result: result of an experiment.
        out: folder to write to.
        form: one of `FORMATS`.

    Raises:
        DataError: no metric of the result has values for single items.
        RunError: a file cannot be written.
    """
    write = {"inspect": write_inspect, "lm-eval": write_harness}[form]
    return [write(result, label, out) for label in result.models]


def write_inspect(result: Result, label: str, out: Path) -> Path:
    """Write the items of one model as a log of Inspect: `EXPERIMENT_MODEL_KEY.eval`.

    Raises:
        DataError: no metric of the result has values for single items.
        RunError: the file cannot be written.
    """
    items = _checked(scored_items(result, label))
    samples = [_sample(items, row, scores) for row, scores in zip(items.rows, items.scores, strict=True)]
    head = _header(items, samples)
    start = {"version": VERSION, "eval": head["eval"], "plan": head["plan"]}
    members: dict[str, Any] = {"_journal/start.json": start}
    members |= {f"samples/{stem}_epoch_1.json": each for stem, each in zip(_stems(samples), samples, strict=True)}
    members |= {"summaries.json": [_summary(each) for each in samples], "header.json": head}
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, value in members.items():
            about = ZipInfo(name, EPOCH)
            about.compress_type = ZIP_DEFLATED
            archive.writestr(about, json.dumps(value))
    path = out / f"{file_name(result.name)}_{file_name(label)}_{_key(result)[:6]}.eval"
    write_file(path, buffer.getvalue())
    return path


def write_harness(result: Result, label: str, out: Path) -> Path:
    """Write the items of one model as samples of lm-evaluation-harness: `MODEL/samples_EXPERIMENT_DATE.jsonl`.

    Raises:
        DataError: no metric of the result has values for single items.
        RunError: the file cannot be written.
    """
    items, lines = _checked(scored_items(result, label)), []
    for index, (row, scores) in enumerate(zip(items.rows, items.scores, strict=True)):
        prompt, answer, target = (_text(row.get(name)) for name in (PROMPT, ANSWER, EXPECTED))
        doc = {ITEM: row[ITEM], **{name: each for name, each in items.fields(row).items() if name not in items.columns}}
        question = {ITEM: row[ITEM], PROMPT: opening(prompt), EXPECTED: target}
        line = {"doc_id": index, "doc": doc, "target": target}
        line |= {"arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": ""}}, "resps": [[answer]]}
        line |= {"filtered_resps": [answer], "filter": "none", "metrics": list(scores), "doc_hash": _hash(question)}
        line |= {"prompt_hash": _hash(prompt), "target_hash": _hash(target)}
        lines.append(json.dumps(line | {name: value for name, value in scores.items() if name not in line}))
    stamp = items.created.removesuffix("+00:00").replace(":", "-")
    path = out / file_name(label) / f"samples_{file_name(result.name)}_{stamp}.jsonl"
    write_file(path, ("\n".join(lines) + "\n").encode())
    return path


def opening(prompt: str) -> str:
    """Return a prompt up to the first answer of the assistant in it: the question, without what the model answered."""
    at = 0
    for message in split_messages(prompt):
        place = prompt.find(message.text, at)
        if place < 0:
            break
        if message.role.lower() in ASSISTANT:
            return prompt[:place].rstrip()
        at = place + len(message.text)
    return prompt


def _checked(items: ScoredItems) -> ScoredItems:
    if not items.names:
        raise DataError(
            f"The result of `{items.result.name}` has no number that is a mean over its items, and a log holds scores"
            " of items: export it as csv."
        )
    return items


def _stems(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a name for the file of each sample."""
    return list(stems([each["id"] for each in samples]).values())


def _sample(items: ScoredItems, row: Mapping[str, Any], scores: Mapping[str, float]) -> dict[str, Any]:
    """Return an item as `inspect_ai.log.EvalSample`."""
    prompt, target = (_text(row.get(name)) for name in (PROMPT, EXPECTED))
    answer, name = row.get(ANSWER), str(row[ITEM])
    said = None if answer is None else {"role": "assistant", "content": str(answer), "source": "generate"}
    messages = [{"role": "user", "content": prompt, "source": "input"}, *([said] if said else [])]
    choices = [{"message": said, "stop_reason": "stop"}] if said else []
    return {
        "id": name,
        "epoch": 1,
        "input": opening(prompt),
        "target": target,
        "messages": messages,
        "output": {"model": items.label, "choices": choices, "completion": _text(answer)},
        "scores": {each: {"value": value, "answer": _text(answer)} for each, value in scores.items()},
        "metadata": items.fields(row),
        "uuid": _hash([_key(items.result), items.label, name])[:22],
    }


def _summary(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample as `inspect_ai.log.EvalSampleSummary`, from which Inspect's viewer makes its list."""
    kept = {name: sample[name] for name in ("id", "epoch", "target", "scores", "uuid")}
    metadata = {name: each for name, each in sample["metadata"].items() if not isinstance(each, list | dict)}
    more = {"input": sample["input"][:1000], "metadata": metadata, "completed": True}
    return {**kept, **more, "message_count": len(sample["messages"])}


def _header(items: ScoredItems, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the log without its samples, as `inspect_ai.log.EvalLog`."""
    meta, result, created = items.result.meta, items.result, items.created
    key = _hash([_key(result), items.label])
    scores = []
    for name in items.names:
        values = pd.Series([each[name] for each in items.scores if name in each])
        mean = {"name": "mean", "value": float(values.mean()), "params": {}}
        counts = {"scored_samples": len(values), "unscored_samples": len(samples) - len(values)}
        scores.append({"name": name, "scorer": name, **counts, "params": {}, "metrics": {"mean": mean}})
    about = {name: meta.get(name) for name in ("title", "finding", "n", "seed", "options", "versions")}
    evaluation = {
        "eval_id": key[:22],
        "run_id": _key(result),
        "created": created,
        "task": result.name,
        "task_id": _key(result),
        "task_version": int(meta.get("version") or 0),
        "dataset": {"name": _text((meta.get("data") or {}).get("name")) or "world", "samples": len(samples)},
        "model": items.label,
        "config": {"epochs": 1},
        "metadata": sendable({"probe": about, "without_items": list(items.left_out)}),
    }
    return {
        "version": VERSION,
        "status": "success",
        "eval": evaluation,
        "plan": {"name": "plan", "steps": []},
        "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": scores},
        "stats": {"started_at": created, "completed_at": created},
    }


def _key(result: Result) -> str:
    key = str(result.meta.get("key") or "")
    return key if re.fullmatch(r"[0-9a-f]{6,64}", key) else _hash([result.name, result.models])[:12]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
