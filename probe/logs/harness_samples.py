"""Samples of lm-evaluation-harness (`--log_samples`): `samples_TASK_DATE.jsonl`, one JSON object per document.

    {"doc_id": 0, "doc": {...}, "target": "5", "arguments": {"gen_args_0": {"arg_0": PROMPT, "arg_1": ...}, ...},
     "resps": [["..."]], "filtered_resps": ["..."], "filter": "none", "metrics": ["exact_match"],
     "doc_hash": "...", "prompt_hash": "...", "target_hash": "...", "exact_match": 1.0}

This is what `lm_eval/loggers/evaluation_tracker.py` writes. Older versions have no `filter` and `metrics`, and a list
of arguments. A document with several filters has one line for each; the scores are then called `METRIC,FILTER`, as in
the harness's own results.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import DataError
from probe.logs.log import TEXT, Log, LogItem, flat_scores, make_log, question_hash
from probe.rows import Row, read_rows

NAME = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")
"""Pattern of the files' names."""
OWN = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash")
HASHES = ("prompt_hash", "target_hash")
"""Fields that are no metrics."""
NO_FILTER = "none"
"""Name of the filter that changes nothing."""


def read_harness(path: Path) -> Log:
    """Read the samples of one task that lm-evaluation-harness wrote.

    Raises:
        DataError: the file cannot be read, or no line is a sample with a score.
    """
    rows = read_rows(path, _check, form="the samples that lm-evaluation-harness writes with --log_samples")
    found: dict[str, LogItem] = {}
    for row in rows:
        item = _item(row.values)
        earlier = found.get(item.id)
        found[item.id] = item if earlier is None else _together(earlier, item)
    name = NAME.fullmatch(path.name)
    model = path.absolute().parent.name if name else ""
    return make_log(path, found.values(), model, name["task"] if name else "", rows.notes())


def is_sample(values: Mapping[str, Any]) -> bool:
    """Return whether a row has the fields of a sample."""
    return {"doc_id", "resps"} <= {*values} or {"doc_id", "filtered_resps"} <= {*values}


def _check(row: Row) -> Row:
    if not is_sample(row.values):
        raise DataError(f"{row.where} has no doc_id or no resps: give a file that lm-evaluation-harness wrote.")
    return row


def _item(values: Mapping[str, Any]) -> LogItem:
    metrics = values.get("metrics")
    names = metrics if isinstance(metrics, list) else [name for name in values if name not in (*OWN, *HASHES)]
    way = values.get("filter") or NO_FILTER
    named = {str(name): values.get(name) for name in map(str, names)}
    doc = values.get("doc")
    prompts, choices = _arguments(values.get("arguments"))
    target = values.get("target")
    return LogItem(
        id=str(values["doc_id"]),
        scores=flat_scores((name if way == NO_FILTER else f"{name},{way}", each) for name, each in named.items()),
        question=str(values.get("doc_hash") or "")[:64] or question_hash(doc, target),
        prompt=prompts[0][:TEXT] if prompts else None,
        answer=_answer(values, choices),
        expected=_expected(target, choices),
        fields=doc if isinstance(doc, dict) else {},
    )


def _together(first: LogItem, second: LogItem) -> LogItem:
    """Return one item of two lines of a document with different filters."""
    scores = {**first.scores, **second.scores}
    return LogItem(first.id, scores, 1, first.question, first.prompt, first.answer, first.expected, first.fields)


def _arguments(arguments: Any) -> tuple[list[str], list[str]]:
    """Return the prompts of a document's requests, and the continuations that were scored."""
    requests = list(arguments.values()) if isinstance(arguments, dict) else arguments
    pairs = [list(each.values()) if isinstance(each, dict) else each for each in _listed(requests)]
    prompts = [_text(pair[0]) for pair in pairs if isinstance(pair, list) and pair]
    scored = [pair[1] for pair in pairs if isinstance(pair, list) and len(pair) > 1]
    return prompts, [each for each in scored if isinstance(each, str)]


def _answer(values: Mapping[str, Any], choices: Sequence[str]) -> str | None:
    """Return the generated text, or the likeliest of the choices."""
    answers = _listed(values.get("filtered_resps")) or _listed(values.get("resps"))
    if not answers:
        return None
    scores = [each[0] if isinstance(each, list) and each else each for each in answers]
    if len(choices) == len(scores) > 1:
        numbers = [_number(each) for each in scores]
        return choices[max(range(len(numbers)), key=numbers.__getitem__)].strip()[:TEXT]
    return _text(scores[0])[:TEXT]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return float("-inf")
    return number if number == number else float("-inf")


def _expected(target: Any, choices: Sequence[str]) -> str | None:
    """Return the right answer as a text; the index of a choice as the choice."""
    text = "" if target is None else _text(target)
    if text.isdecimal() and len(text) < 4 and int(text) < len(choices) > 1:
        return choices[int(text)].strip()[:TEXT]
    return text[:TEXT] or None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    while isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else str(value)
