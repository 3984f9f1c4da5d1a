"""Seconds of `--help` of every command, compared with a process that imports torch."""

import subprocess
import sys

from benchmarks.harness import Row, median_seconds
from probe.cli import commands
from probe.experiments.registry import BUILT_IN
from trainers.commands import METHODS

WORDS = [
    *([name] for name in commands()),
    *(["train", method] for method in METHODS),
    *(["experiment", name] for name in BUILT_IN),
]
"""Words of the commands, each method of `train`, and each built-in experiment."""


def run() -> tuple[list[Row], list[str]]:
    """Measure a table of medians, without ratios, since seconds matter here."""
    probe, torch = [sys.executable, "-m", "probe.cli"], [sys.executable, "-c", "import torch"]
    lines = [
        "Seconds until `--help` is printed, median of 5; wanted: about 1.",
        "",
        "| command | seconds |",
        "| --- | --- |",
    ]
    lines += [f"| `probe {' '.join(words)}` | {_seconds([*probe, *words, '--help']):.2f} |" for words in WORDS]
    return [], ["\n".join([*lines, f"| for comparison: `import torch` | {_seconds(torch):.2f} |"])]


def _seconds(argv: list[str]) -> float:
    return median_seconds(lambda: subprocess.run(argv, capture_output=True, check=True), repeats=5, warmup=1)
