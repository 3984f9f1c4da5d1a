"""Trainings of the experiment `continual`: each strategy, relearning after it, and the scores of their items.

The first phase is learned plainly from the model (`first`). Then each strategy trains on all phases, and from its final
model the first phase is learned again, plainly and on the same examples. `probe train continual` is called as a user
would call it, in a temporary folder and in a separate process (`probe.continual.worker`). In the world the models after
each phase are asked the questions of every task, and a score is the exact probability of the true answer. With files,
the scores of the held-out items are read from the training's last checkpoint. The contribution of each item to ACC,
BWT, FWT and forgetting is a column, so that models and strategies can be compared item by item.
"""

import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.numpy import load_file

from probe import stats
from probe.continual.measures import Savings, savings
from probe.errors import ConfigError, DataError, RunError
from probe.experiments.result import read_packed
from probe.model.lm import LM
from probe.rows import SUFFIXES, Rows, read_demonstrations, read_documents
from probe.runs.addresses import is_run
from probe.runs.reader import Run
from probe.runs.schema import RESULTS
from probe.ticks import Tick, part
from probe.untrusted import WEIGHTS, parse_json, read_json, regular, short
from probe.world.language import subject_of

if TYPE_CHECKING:
    from probe.world.questions import Item
    from probe.world.world import World

Array = NDArray[np.float64]
PAUSE_S = 0.2
LOG = "trainer.log"
CHUNK = 64


@dataclass
class Trainer:
    """Runner of trainings that differ in few options, one after the other in a separate process.

    with Trainer(folder, options) as trainer:
        run = trainer.train("plain", tick, strategy="plain")
    """

    scratch: Path
    """Folder for the runs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options common to all trainings: option (with underscores) to value; None and False omit the option."""
    method: str = "continual"
    """Training method, as in `probe train METHOD`."""
    _worker: "subprocess.Popen[str] | None" = field(default=None, init=False, repr=False)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def train(self, name: str, tick: Tick, **options: Any) -> Run:
        """Train and wait; an exception in `tick` ends the training.

        Args:
            name: name of the run.
            tick: function called several times a second with the share of the work done.
            options: options of this run, which override the common ones.

        Raises:
            RunError: it was refused or failed; the message is that of the training.
        """
        all_options = self.options | options
        out, log, done = (self.scratch / each for each in (name, f"{name}.log", f"{name}.done"))
        argv = ["train", self.method, "--out", str(out), *words(all_options)]
        done.unlink(missing_ok=True)
        worker = self._send({"argv": argv, "log": str(log), "done": str(done)})
        try:
            while not done.is_file() and worker.poll() is None:
                tick(_share(out, int(all_options["steps"])))
                time.sleep(PAUSE_S)
        except BaseException:
            self.close()
            raise
        if not done.is_file() or done.read_text(encoding="utf-8") != "0":
            last_line = next(filter(None, map(_last_line, (log, self.scratch / LOG))), "no reason given")
            raise RunError(f"The training `{name}` ended early: {last_line.removeprefix('probe: error: ')}")
        tick(1.0)
        return Run(out)

    def close(self) -> None:
        """End the process at once; results of an unfinished training are not used."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def _send(self, job: dict[str, Any]) -> "subprocess.Popen[str]":
        """Send a job to the process, and start the process first if there is none."""
        if self._worker is None or self._worker.poll() is not None:
            self.close()
            argv = [sys.executable, "-P", "-m", "probe.continual.worker"]
            with (self.scratch / LOG).open("wb") as file:
                self._worker = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=file, stderr=file, text=True, encoding="utf-8"
                )
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps(job) + "\n")
        self._worker.stdin.flush()
        return self._worker


def _last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def words(options: dict[str, Any]) -> list[str]:
    """Format options as command-line arguments; a list is an option of several words."""
    arguments = list[str]()
    for name, value in options.items():
        if value is not None and value is not False:
            several = value if isinstance(value, list) else [value]
            arguments += [f"--{name.replace('_', '-')}", *map(str, several)]
    return arguments


def base_of(lm: LM, scratch: Path) -> str:
    """Return a reference to the model for another process: its folder, or a copy if it has none."""
    if lm.directory is not None:
        return str(lm.directory)
    return str(lm.save(scratch / "base"))


def files_of(data: str | Path) -> list[Path]:
    """List the files of the phases: those in a folder, sorted by name, or a list separated by commas.

    Raises:
        DataError: a file does not exist, or there is none.
    """
    forms = "a folder, or a list such as a.jsonl,b.jsonl: text, or JSON Lines with `text` or with questions"
    place = Path(data).expanduser()
    if place.is_dir():
        paths = sorted(path for path in place.iterdir() if path.suffix in (*SUFFIXES, ".txt", ".md"))
    else:
        paths = [Path(part.strip()).expanduser() for part in str(data).split(",") if part.strip()]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        what = f"`{missing[0]}` is no file" if missing else f"`{data}` holds no files"
        raise DataError(f"The phases cannot be read, since {what}: give {forms}.")
    return paths


def read_phases(paths: Sequence[Path], objective: str, strict: bool = False) -> list[Rows[Any]]:
    """Read the rows of the files as the training reads them: documents to `pretrain` on, or demonstrations.

    Raises:
        DataError: a file is not valid; see `probe.rows`.
    """
    if objective == "pretrain":
        return [read_documents(path, strict) for path in paths]
    return [read_demonstrations(path, strict) for path in paths]


@torch.no_grad()
def truth(lm: LM, items: "Sequence[Item]") -> Float[np.ndarray, " N"]:
    """Return the exact probability of the true answer to each question, including its end token."""
    end = lm.tokenizer.eos_token or ""
    probabilities = []
    for start in range(0, len(items), CHUNK):
        part = items[start : start + CHUNK]
        logprobs = lm.logprobs([item.prompt for item in part], [f"{item.answers[0]} {end}".rstrip() for item in part])
        probabilities.append(logprobs.values.double().sum(1).exp().cpu().numpy())
    return np.concatenate(probabilities) if probabilities else np.zeros(0)


def saved_scores(run: Run) -> tuple[list[str], list[Float[np.ndarray, "rows N"]]]:
    """Return the names of the tasks, the base's knowledge last, and the scores of their items after each phase.

    Raises:
        RunError: the run has no scores.
    """
    try:
        about = read_json(run.path / RESULTS / "continual" / "result.json")
        names = [*about["tasks"], *about["old"]]
        arrays = load_file(regular(run.checkpoints()[-1].path / "method.safetensors", WEIGHTS))
        return names, [arrays[f"scores/{j}"].astype(float) for j in range(len(names))]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunError(f"The run `{run.name}` has no scores of its items ({error}): train it again.") from None


def saved_texts(run: Run, tasks: Sequence[str]) -> list[list[tuple[str, str]]] | None:
    """Return for each task the prompts and right answers of its items; None for a run of an older version."""
    file = run.path / RESULTS / "continual" / "items.jsonl.gz"
    if not file.is_file():
        return None
    try:
        items = [parse_json(line) for line in read_packed(file).split("\n") if line]
        return [[(str(i["prompt"]), str(i["expected"])) for i in items if i["kind"] == task] for task in tasks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"The run `{run.name}` has no items that can be read ({short(error)}): train it again."
        ) from None


def learning_curve(run: Run, task: str) -> tuple[list[int], list[float]]:
    """Return the steps and accuracies of a task in a training's log, starting before its first step."""
    metrics = run.metrics()
    rows = metrics[metrics[f"accuracy/{task}"].notna()]
    return [int(step) for step in rows["step"]], [float(value) for value in rows[f"accuracy/{task}"]]


def _share(out: Path, steps: int) -> float:
    """Return the share of a training that is done."""
    if not is_run(out):
        return 0.0
    try:
        metrics = Run(out).metrics()
    except RunError:
        return 0.0
    return float(metrics["step"].max()) / steps if len(metrics) else 0.0


POINTS = 25
"""Largest number of measurements during learning and during relearning."""
FIRST = "first"
TRAINED = 0.8
"""Share of the progress bar for a training; the rest is for the measurements after it."""
T = TypeVar("T")


@dataclass(frozen=True)
class Course:
    """Strategies, phases and options to train."""

    trainer: Trainer
    strategies: Sequence[str]
    steps: int
    """Number of steps in a phase."""
    seed: int
    target: float
    """Accuracy on the first phase up to which the steps of learning and relearning are counted."""
    relearn: bool
    tick: Tick

    @property
    def every(self) -> int:
        """Number of steps between two measurements of a learning curve."""
        return max(1, self.steps // POINTS)

    def part(self, strategy: str, again: bool = False) -> Tick:
        """Return the progress callback of one training: the first learning, a strategy's, or a relearning."""
        if not self.relearn:
            return part(self.tick, self.strategies.index(strategy), len(self.strategies))
        number = 0 if strategy == FIRST else 2 * self.strategies.index(strategy) + 1 + again
        return part(self.tick, number, 2 * len(self.strategies) + 1)


@dataclass
class TrainingResults:
    """Results of the trainings."""

    tasks: list[str]
    """Names of the phases in their order, followed by `old` (earlier knowledge) if it was measured."""
    scores: dict[str, list[Array]]
    """Scores [rows, items] for each strategy and task, before training and after each phase."""
    texts: list[list[tuple[str, str]]]
    """Prompt and true answer of the items, for each task."""
    answers: dict[str, list[list[tuple[str, float]]]] = field(default_factory=dict)
    """Likeliest answers after all phases with their probabilities, for each strategy and task; none with files."""
    learning: list[pd.DataFrame] = field(default_factory=list)
    """Accuracy over the learning of the first phase: learning, step, value, ci_low, ci_high, n."""
    savings: dict[str, Savings] = field(default_factory=dict)
    """Savings in relearning for each strategy; intervals are NaN with files."""


def in_world(course: Course, lm: LM, world: "World", phases: int, n: int) -> TrainingResults:
    """Train on the world's phases, and ask the models after each.

    Raises:
        ConfigError: the world has fewer phases.
        RunError: a training failed.
    """
    if phases > world.config.phases:
        raise ConfigError(f"--phases is {phases} and the world has {world.config.phases}: give that many or fewer.")
    kinds = {**{f"phase_{i}": f"phase_{i}" for i in range(phases)}, "old": "fact"}
    questions = {task: world.questions(kind, n, course.seed) for task, kind in kinds.items()}
    before = {task: truth(lm, items) for task, items in questions.items()}
    texts = [[(item.prompt, item.answers[0]) for item in items] for items in questions.values()]
    results = TrainingResults(list(questions), {}, texts)
    people = [str(subject_of(item.prompt)) for item in questions["phase_0"]]

    def load(path: Path) -> LM:
        return LM.load(path, device=lm.device)

    def learn(name: str, start: Array, tick: Tick, **options: Any) -> tuple[list[int], Array]:
        """Learn the first phase plainly; return the steps, and the scores of its questions at each."""
        options |= {"phases": 1, "steps": course.steps, "save_every": course.every}
        checkpoints = course.trainer.train(name, training(tick), **options).checkpoints()
        scores = [start, *(truth(load(one.path), questions["phase_0"]) for one in measuring(tick, checkpoints))]
        return [0, *(one.step for one in checkpoints)], np.stack(scores)

    at, first = learn(FIRST, before["phase_0"], course.part(FIRST)) if course.relearn else ([], np.zeros((0, n)))
    if course.relearn:
        results.learning.append(_curve(at, first, FIRST, course.seed, people))
    for strategy in course.strategies:
        options = {
            "phases": phases,
            "steps": course.steps * phases,
            "save_every": course.steps,
            "strategy": strategy,
        }
        tick = course.part(strategy)
        checkpoints = course.trainer.train(strategy, training(tick), **options).checkpoints()
        copies = [load(one.path) for one in checkpoints]
        results.scores[strategy], results.answers[strategy] = [], []
        for task in measuring(tick, questions):
            rows = [before[task], *(truth(copy, questions[task]) for copy in copies)]
            results.scores[strategy].append(np.stack(rows))
            results.answers[strategy].append(likeliest(copies[-1], questions[task]))
        if course.relearn:
            start = results.scores[strategy][0][-1]
            _, again = learn(f"again-{strategy}", start, course.part(strategy, True), base=str(checkpoints[-1].path))
            results.learning.append(_curve(at, again, strategy, course.seed, people))
            results.savings[strategy] = savings(at, first, again, course.target, course.seed, people)
    return results


def on_files(course: Course, files: Sequence[Path], old: str | Path | None) -> TrainingResults:
    """Train on files, and read the scores that the trainings saved.

    Raises:
        RunError: a training failed, or a file is not valid; the message is that of the training.
    """
    one = {"data": str(files[0]), "steps": course.steps, "eval_every": course.every, "save_every": 0}
    whole = {"data": ",".join(map(str, files)), "old": None if old is None else str(Path(old).expanduser())}
    results = TrainingResults([], {}, [])

    def learn(name: str, tick: Tick, **options: Any) -> tuple[list[int], list[float]]:
        return learning_curve(course.trainer.train(name, tick, **one, **options), f"1-{files[0].stem}")

    at, first = learn(FIRST, course.part(FIRST)) if course.relearn else ([], [])
    if course.relearn:
        results.learning.append(_curve_of_log(at, first, FIRST))
    for strategy in course.strategies:
        options = {**whole, "steps": course.steps * len(files), "save_every": 0, "strategy": strategy}
        run = course.trainer.train(strategy, course.part(strategy), **options)
        results.tasks, results.scores[strategy] = saved_scores(run)
        if course.relearn:
            last = str(run.checkpoints()[-1].path)
            steps, again = learn(f"again-{strategy}", course.part(strategy, True), base=last)
            results.learning.append(_curve_of_log(steps, again, strategy))
            first_curve, again_curve = (
                np.array(each)[:, None] for each in (first, again)
            )  # a log has no items, only the mean
            results.savings[strategy] = savings(at, first_curve, again_curve, course.target)
    sizes = [task.shape[1] for task in results.scores[course.strategies[0]]]
    results.texts = saved_texts(run, results.tasks) or [
        [(f"held-out example {i} of {name}", "") for i in range(size)]
        for name, size in zip(results.tasks, sizes, strict=True)
    ]
    return results


def training(tick: Tick) -> Tick:
    """Return the progress callback of a training that is followed by measurements."""
    return lambda share: tick(TRAINED * share)


def measuring(tick: Tick, things: Collection[T]) -> Iterator[T]:
    """Yield the items to measure after a training one by one, and report progress after each."""
    for number, thing in enumerate(things, 1):
        yield thing
        tick(TRAINED + (1 - TRAINED) * number / len(things))


def likeliest(lm: LM, items: "Sequence[Item]") -> list[tuple[str, float]]:
    """Return greedy answers with their probabilities, including the end token's."""
    samples = lm.generate([item.prompt for item in items], max_new_tokens=6, temperature=0)
    return list(zip(samples.text, samples.logprobs.double().sum(1).exp().tolist(), strict=True))


def _curve(steps: Sequence[int], scores: Array, source: str, seed: int, people: Sequence[str]) -> pd.DataFrame:
    """Return the curve of one learning, with intervals over the people of its items."""
    rows = []
    for step, row in zip(steps, scores, strict=True):
        mean = stats.bootstrap_mean(row, seed=seed, bounds=stats.SHARE, units=people)
        rows.append({"learning": source, "step": step, **mean.row(len(row))})
    return pd.DataFrame(rows)


def _curve_of_log(steps: Sequence[int], values: Sequence[float], source: str) -> pd.DataFrame:
    """Return the curve of one learning from a log, without intervals."""
    nan = float("nan")
    return pd.DataFrame({"learning": source, "step": steps, "value": values, "ci_low": nan, "ci_high": nan, "n": 0})


OLD = "old"


def contributions(scores: Sequence[Array], old: Array | None = None) -> list[dict[str, Float[np.ndarray, " N"]]]:
    """Compute the contribution of each item to ACC, BWT, FWT and forgetting; their mean over items is the measure.

    The row with a task's best accuracy is taken from the means, so that forgetting is a mean too. Items are weighted so
    that tasks of unequal sizes count equally. Items of a task that a measure does not use have no contribution.

    Args:
        scores: [rows, items] scores of each phase's task (`probe.continual.measures`).
        old: [rows, items] scores on the base's knowledge, for the columns `old_accuracy` and `old_forgetting`.
    """
    T = len(scores)
    sizes = [task.shape[1] for task in scores]

    def weight(j: int, among: range) -> float:
        return sum(sizes[i] for i in among) / (len(among) * sizes[j])

    by_task = []
    for j, task in enumerate(scores):
        columns = {"ACC": weight(j, range(T)) * task[-1]}
        if j < T - 1:
            best = int(task[:-1].mean(1).argmax())
            columns["BWT"] = weight(j, range(T - 1)) * (task[-1] - task[j + 1])
            columns["forgetting"] = weight(j, range(T - 1)) * (task[best] - task[-1])
        if j > 0:
            columns["FWT"] = weight(j, range(1, T)) * (task[j] - task[0])
        by_task.append(columns)
    if old is not None:
        best = int(old[:-1].mean(1).argmax())
        by_task.append({"old_accuracy": old[-1], "old_forgetting": old[best] - old[-1]})
    return by_task


def items_of(measured: TrainingResults) -> pd.DataFrame:
    """Return one row per item and strategy: `after_0`, ..., its contribution to each measure, and its savings.

    `answer` is the likeliest one after all phases and `answer_probability` its probability under that model.
    `forgetting_saved` and `old_forgetting_saved` are the item's forgetting under plain training minus that under the
    row's strategy, if plain training is included.
    """
    rows: list[dict[str, Any]] = []
    has_old = measured.tasks[-1] == OLD
    for strategy, scores in measured.scores.items():
        parts = contributions(scores[:-1], scores[-1]) if has_old else contributions(scores)
        for j, (name, task, columns) in enumerate(zip(measured.tasks, scores, parts, strict=True)):
            nothing = [("", float("nan"))] * task.shape[1]
            answers = measured.answers[strategy][j] if strategy in measured.answers else nothing
            for i, ((prompt, expected), (answer, chance)) in enumerate(zip(measured.texts[j], answers, strict=True)):
                row: dict[str, Any] = {
                    "item": f"{strategy}-{name}-{i}",
                    "kind": name,
                    "strategy": strategy,
                    "prompt": prompt,
                }
                row |= {"answer": answer, "expected": expected, "answer_probability": chance}
                row |= {f"after_{phase}": float(value) for phase, value in enumerate(task[:, i])}
                rows.append(row | {column: float(values[i]) for column, values in columns.items()})
    items = pd.DataFrame(rows)
    plain = items[items["strategy"] == "plain"]
    for strategy in set(measured.scores) - {"plain"} if len(plain) else ():
        here = items["strategy"] == strategy
        for column in {"forgetting", "old_forgetting"} & set(items):
            items.loc[here, f"{column}_saved"] = plain[column].to_numpy() - items.loc[here, column].to_numpy()
    return items
