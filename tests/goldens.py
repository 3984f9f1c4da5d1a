"""Write what the shipped results and ten steps of every method give, to compare two commits on one machine.

    python -m tests.goldens OLD        in a checkout of the first commit
    python -m tests.goldens NEW        in a checkout of the second
    diff -r OLD NEW                    nothing, where only names and places changed

Of each shipped result: its figures as JSON, its sentence, and the key under which it is found. Of each method: the
metrics of ten steps, without times. Processors round differently: nothing of this is committed.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from probe import Result
from probe.cli import main
from probe.experiments.registry import find_experiment
from probe.experiments.run import call
from tests.places import SAMPLES

TIMED = ("step_time", "tokens_per_second", "time")
SHORT = ["--steps", "10", "--log-every", "1", "--eval-every", "5", "--capture-every", "5", "--evaluate", "20"]
PREFERENCES = ["--annotator", "agreeable", "--pairs", "200", "--batch-size", "8"]
SAMPLED = ["--prompts", "64", "--batch-size", "8"]
SCORED = [*SAMPLED, "--reward", str(SAMPLES / "reward-agreeable")]
METHODS: dict[str, tuple[bool, list[str]]] = {
    "pretrain": (False, ["--preset", "tiny", "--batch-size", "8"]),
    "sft": (True, ["--batch-size", "8"]),
    "reward-model": (True, PREFERENCES),
    "dpo": (True, PREFERENCES),
    "rlhf": (True, SCORED),
    "rsft": (True, SCORED),
    "rlvr": (True, SAMPLED),
    "continual": (True, ["--batch-size", "8"]),
}
"""Name of the command, whether it starts from a model, and further options."""


def write_results(out: Path) -> None:
    """Figures, sentence and key of every shipped result."""
    for file in sorted(SAMPLES.glob("*/results/*-*/result.json")):
        result = Result.load(file.parent)
        experiment = find_experiment(result.name)
        meta = result.meta
        lm, *others = [model["ref"] for model in meta["models"]]
        options = {"n": meta["n"], "seed": meta["seed"], **meta["options"]}
        known = {name: value for name, value in options.items() if experiment.takes(name)}
        place = out / "results" / lm.replace("/", "-") / file.parent.name
        place.mkdir(parents=True)
        asked = call(experiment, lm, baseline=others[0] if others else None, **known)
        (place / "key.txt").write_text(f"{asked.key}\n")
        (place / "sentence.txt").write_text(f"{experiment.say(result) if experiment.say else ''}\n")
        for name, figure in (experiment.draw(result) if experiment.draw else {}).items():
            (place / f"{name}.json").write_text(json.dumps(json.loads(figure.to_json()), indent=1, sort_keys=True))


def write_trainings(out: Path) -> None:
    """The metrics of ten steps of every method, by the command."""
    with TemporaryDirectory() as folder:
        for method, (starts, options) in METHODS.items():
            run = Path(folder) / method
            base = ["--base", str(SAMPLES / "base")] if starts else []
            status = main(["train", method, "--out", str(run), *SHORT, *base, *options])
            assert status == 0, method
            rows = list(_untimed(run / "metrics.jsonl"))
            (out / f"{method}.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def _untimed(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines():
        yield {name: value for name, value in json.loads(line).items() if not name.endswith(TIMED)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    write_results(folder)
    write_trainings(folder)
