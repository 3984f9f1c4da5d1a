"""Files that a training leaves, for comparing two runs bit by bit, but for the clock."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLOCK = ("time", "seconds", "tokens_per_second", "step_time")


def contents(run: Path) -> dict[str, Any]:
    """Every file of a run by name, hidden ones too: bytes, or lines without the clock."""
    return {path.relative_to(run).as_posix(): content(path) for path in run.rglob("*") if path.is_file()}


def content(path: Path) -> Any:
    if path.name == "run.json":
        meta = json.loads(path.read_text())
        for name in ("created", "heartbeat", "pid", "host", "attempt"):
            meta.pop(name, None)
        return meta | {"config": {**meta["config"], "out": None, "resume": None}}
    if path.suffix == ".jsonl":
        rows = map(json.loads, path.read_text().splitlines())
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
    return path.read_bytes()


def without_events(run: Path) -> Iterator[tuple[str, Any]]:
    """Its files, with the logs as they are read."""
    for name, value in contents(run).items():
        if name.endswith(".jsonl"):
            rows: list[dict[str, Any]] = []
            for row in value:
                rows = [old for old in rows if old["step"] <= row["step"]] if "event" in row else [*rows, row]
            value = rows
        yield name, value


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert sorted(one) == sorted(other), set(one) ^ set(other)
    differ = [name for name in one if one[name] != other[name]]
    assert differ == [], differ
