"""Runner of all benchmarks: it prints the table and writes it to benchmarks/results/DATE.md.

python -m benchmarks [NAME ...]   with NAME one of throughput, recorder, reading, scoring, sampling, sft, dpo,
reward_model, grpo, pretraining, real_text, choices, memory, captures, adapters, long_inputs, pages, first_chart,
volume, trait_forecast, help
"""

import platform
import sys
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.harness import HEADER
from probe.texts import say

NAMES = ["throughput", "recorder", "reading", "scoring", "sampling", "sft", "dpo", "reward_model", "grpo"]
NAMES += ["pretraining", "real_text", "choices", "memory", "captures", "adapters", "long_inputs", "pages"]
NAMES += ["first_chart", "volume", "trait_forecast", "feature_variables", "help"]


def table(rows: list[list[str]]) -> str:
    """Format rows of cells as a Markdown table."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(names: list[str]) -> None:
    """Run the benchmarks `names`, or all."""
    unknown = set(names) - set(NAMES)
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}.")
    machine = (
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} torch threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {version('transformers')}, "
        f"transformer-lens {version('transformer-lens')}, trl {version('trl')}"
    )
    target = Path(__file__).parent / "results" / f"{date.today()}.md"
    rows, notes = [], []
    for name in names or NAMES:
        say(f"measuring {name} ...", error=True)
        results, remarks = import_module(f"benchmarks.{name}").run()
        rows += [row.cells() for row in results]
        notes += remarks
        text = "\n\n".join([f"# Benchmarks\n\n{machine}", table(rows), *notes]) + "\n"
        if not names:
            target.write_text(text)  # after each, so that a failure loses no results
    say(text)
    if not names:
        say(f"written to {target.relative_to(Path.cwd())}", error=True)


if __name__ == "__main__":
    main(sys.argv[1:])
