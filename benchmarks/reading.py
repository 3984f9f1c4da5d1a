"""Reading the metrics of a run and listing many runs, compared with plain pandas and json on the same files."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from benchmarks.harness import Row, compare
from probe.runs import list_runs, open_run
from probe.runs.writer import RunWriter

STEPS, RUNS = 100_000, 250
NAMES = ("loss", "lr", "grad_norm", "tokens_per_second", "step_time", "num_tokens", "entropy")


def run() -> tuple[list[Row], list[str]]:
    """Measure both; only Probe's reader handles incomplete lines and steps undone by a resume."""
    with TemporaryDirectory() as folder:
        return [metrics(Path(folder) / "long"), listing(Path(folder) / "many")], []


def metrics(path: Path) -> Row:
    """Measure one run of `STEPS` lines."""
    RunWriter.create(path, method="pretrain", config={}).finish("finished")
    file = path / "metrics.jsonl"
    rows = ({"step": step, "time": step * 0.1} | dict.fromkeys(NAMES, step * 0.123456) for step in range(STEPS))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert open_run(path).metrics().shape == pd.read_json(file, lines=True).shape
    ours, theirs = (lambda: open_run(path).metrics()), (lambda: pd.read_json(file, lines=True))
    return compare(f"metrics of {STEPS:,} steps", ("Run.metrics", ours), ("pandas.read_json", theirs), repeats=9)


def listing(root: Path) -> Row:
    """Measure `RUNS` runs in one directory."""
    for number in range(RUNS):
        RunWriter.create(root / f"run-{number:03d}", method="pretrain", config={"lr": 1e-3}).finish("finished")

    def theirs() -> None:
        records = [json.loads(path.read_bytes()) for path in sorted(root.glob("*/run.json"))]
        assert len(records) == RUNS

    assert len(list_runs(root)) == RUNS
    return compare(f"list of {RUNS} runs", ("list_runs", lambda: list_runs(root)), ("json.loads", theirs))
