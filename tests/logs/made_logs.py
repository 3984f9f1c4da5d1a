"""Logs for the tests: made by Inspect in a process of its own, and files of the other formats."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPT = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, accuracy, includes, match, mean, scorer
from inspect_ai.solver import generate, system_message

@scorer(metrics={"digits": [mean()], "unscored": [mean()]})
def parts():
    async def score(state, target):
        missing = float("nan") if state.sample_id == "q3" else 1
        return Score(value={"digits": len(state.output.completion), "unscored": missing})
    return score

data = [
    Sample(id=f"q{i}", input=f"What is {i} + 1? {'Think. ' * 40}", target=str(i + 1), metadata={"topic": "ab"[i % 2]})
    for i in range(12)
]

def outputs(answer):
    made = []
    for at in range(24):
        output = ModelOutput.from_content("m", answer(at % 12))
        output.usage = ModelUsage()  # else a tokenizer is fetched
        made.append(output)
    return made

def task(words):
    return Task(
        dataset=MemoryDataset(data), solver=[system_message(words), generate()], scorer=[match(), includes(), parts()],
        name="sums",
    )

for name, words, answer, form in (
    ("base", "Be brief.", lambda i: str(i % 5 + 1), "eval"),
    ("tuned", "Be <b>kind</b>.", lambda i: str(i + 1) if i < 11 else "<script>alert(1)</script>", "json"),
):
    model = get_model(f"mockllm/{name}", custom_outputs=outputs(answer))
    (log,) = eval(
        task(words), model=model, log_dir=sys.argv[1], epochs=2, display="none", log_format=form, max_connections=1,
        max_samples=1,
    )
    assert log.status == "success", log.error
    print(log.location)
"""
"""Two mock models, asked the same twelve sums twice each under different system messages."""


def run_inspect(script: str, *words: str) -> list[str]:
    """Run a script that uses Inspect, and return the lines that it prints."""
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def harness_lines(
    right: Sequence[float], metric: str = "acc", more: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Samples of multiple choice as lm-evaluation-harness 0.4.9 writes them: two choices, the first of them right."""
    lines = []
    for at, value in enumerate(right):
        scores = [["-1.5", "False"], ["-3.0", "False"]]
        choices = {f"gen_args_{i}": {"arg_0": f"Q: {at}\nA:", "arg_1": f" {word}"} for i, word in enumerate("ab")}
        line = {"doc_id": at, "doc": {"question": str(at), "passage": f"p{at // 4}"}, "target": "0"}
        line |= {"arguments": choices, "resps": [[each] for each in scores]}
        line |= {"filtered_resps": scores if value else scores[::-1], "filter": "none", "metrics": [metric, "f1"]}
        line |= {"doc_hash": f"d{at}", "prompt_hash": f"p{at}", "target_hash": "t", metric: value, "f1": [0, 1]}
        lines.append(line | dict(more or {}))
    return lines


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


HEAD: dict[str, Any] = {"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}}


def sample(at: int = 0, **more: object) -> dict[str, Any]:
    """A sample of Inspect with a score."""
    said = {"role": "assistant", "content": "5"}
    return {
        "id": at,
        "epoch": 1,
        "input": "2 + 3?",
        "target": "5",
        "messages": [{"role": "user", "content": "2 + 3?"}, said],
        "output": {"choices": [{"message": said}]},
        "scores": {"match": {"value": "C"}},
        "metadata": {},
        **more,
    }


def archive(path: Path, members: dict[str, Any], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An `.eval` file; members that are bytes are written as they are."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, value in members.items():
            file.writestr(name, value if isinstance(value, bytes) else json.dumps(value))
    return path


def log(path: Path, *samples: Any, head: Any = HEAD) -> Path:
    """An `.eval` file with a header and samples."""
    return archive(
        path, {"header.json": head, **{f"samples/{at}_epoch_1.json": each for at, each in enumerate(samples)}}
    )
