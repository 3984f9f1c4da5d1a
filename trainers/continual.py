r"""Continual learning: consecutive phases of pretraining or SFT, and the forgetting that each causes (E22).

The losses are those of pretraining (E7) and SFT (E8); a strategy changes the training:

    plain    no change
    replay    the share --replay of each batch comes from earlier tasks and from the base's knowledge
    ewc       + (lambda / 2) sum_i F_i (theta_i - theta*_i)^2, see trainers/ewc.py

After each phase, and before the first, the accuracy on every phase's task and on what the base knew is measured: the
matrix R[i, j] in results/continual, and ACC, BWT, FWT and forgetting in the headline (probe/continual/measures.py).
The optimiser keeps its moments from phase to phase. One run uses one strategy.

    probe train continual --out runs/plain --base base                              # the phases of the world
    probe train continual --out runs/ewc --base base --strategy ewc
    probe train continual --out runs/law --base HuggingFaceTB/SmolLM2-135M --objective sft \
        --data contracts.jsonl,rulings.jsonl --old chats.jsonl --strategy replay --lora 16

Logged in addition to the common metrics: `phase` (from 0), `accuracy/TASK` at each evaluation, and `ewc_penalty` (in
`loss`).
"""

import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import probe.world
from probe import LM, Run
from probe.cli import main
from probe.continual.measures import cells, summary
from probe.continual.training import TrainingResults, items_of, read_phases
from probe.errors import ConfigError
from probe.experiments.result import records
from probe.plotting.csv_text import to_csv
from probe.recording.recorder import leave_undisturbed
from probe.rows import Rows
from probe.runs.schema import RESULTS, dumps
from probe.runs.storage import disk, write_atomic
from trainers.config import ContinualConfig
from trainers.curriculum import Curriculum, file_curriculum, world_curriculum
from trainers.loop import Loss, Method, fit
from trainers.record import Origin, data_texts
from trainers.reference import ReferenceEvaluation
from trainers.session import Session
from trainers.starting import load_trainee
from trainers.strategies import STRATEGIES
from trainers.trainee import Trainee


class Continual(Method):
    """Continual learning as a method of the loop."""

    name, dropout = "continual", True

    def __init__(self, session: Session, config: ContinualConfig, trainee: Trainee, curriculum: Curriculum) -> None:
        self.session, self.config, self.trainee, self.curriculum = session, config, trainee, curriculum
        self.strategy = STRATEGIES[config.strategy](session, trainee, curriculum)
        self.tasks = [*curriculum.phases, *([curriculum.old] if curriculum.old else [])]
        self.scores: list[list[np.ndarray]] = []
        """Scores of each task's items for each row of R; the base's knowledge is the last task."""
        self._step = 0

    def phase(self, step: int) -> int:
        """Return the phase (counted from 0) to which step 1, 2, ... belongs."""
        return next(i for i, end in enumerate(self.ends) if step <= end)

    @property
    def ends(self) -> list[int]:
        """The last steps of the phases."""
        n = len(self.curriculum.phases)
        return [round(self.config.steps * (i + 1) / n) for i in range(n)]

    def milestone(self, step: int) -> bool:
        """Return whether `step` is 0 (before training) or the last one of a phase."""
        return step in (0, *self.ends)

    def batch(self, step: int) -> list[Any]:
        """Return the strategy's examples for a step, after informing it of the phase."""
        self._step = step
        self.strategy.leave(self.phase(step))
        return self.strategy.examples(step, self.phase(step))

    def loss(self, model: nn.Module, examples: Sequence[Any], detail: bool) -> Loss:
        """Return the loss of the examples plus the strategy's penalty, which counts once per batch."""
        loss = self.curriculum.kind.loss(model, examples, detail)
        penalty = self.strategy.penalty(model)
        if penalty is None:
            return loss
        metrics = {"ewc_penalty": (penalty.detach() * loss.count, loss.count)} if detail else {}
        return Loss(loss.total + penalty * loss.count, loss.count, loss.tokens, loss.metrics | metrics)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Measure the accuracy on every task; before training and after each phase, add a row to R."""
        self.trainee.refresh()
        view = self.trainee.view
        with leave_undisturbed(view.model):
            row = [task.measure(view) for task in self.tasks]
        if self.milestone(self._step):
            self.scores.append(row)
        if self._step == self.config.steps and self.session.main:
            self.write()
        return {f"accuracy/{task.name}": float(scores.mean()) for task, scores in zip(self.tasks, row, strict=True)}

    def metrics(self) -> dict[str, float]:
        """Return the number of the current phase."""
        return {"phase": float(self.phase(self._step))}

    def state(self) -> dict[str, Tensor]:
        """Return the rows of R so far, and the strategy's state."""
        columns = zip(*self.scores, strict=True)
        tensors = {f"scores/{j}": torch.from_numpy(np.stack(rows).astype(np.float64)) for j, rows in enumerate(columns)}
        return tensors | self.strategy.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        columns = [state[f"scores/{j}"].numpy() for j in range(len(self.tasks)) if f"scores/{j}" in state]
        self.scores = [list(row) for row in zip(*columns, strict=True)]
        self.strategy.restore(state)

    def columns(self) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Return the scores [rows, items] of each phase's task, and of the base's knowledge (None without it)."""
        scores = [np.stack(rows) for rows in zip(*self.scores, strict=True)]
        n = len(self.curriculum.phases)
        return scores[:n], scores[n] if self.curriculum.old else None

    def headline(self, lm: LM) -> list[dict[str, Any]]:
        """Compute ACC, BWT, FWT and forgetting."""
        return summary(*self.columns(), self.config.seed)

    def write(self) -> None:
        """Write results/continual: the matrix, the summary, its metadata and the items."""
        phases, old = self.columns()
        names = [task.name for task in self.tasks]
        scores = [task.astype(float) for task in [*phases, *([] if old is None else [old])]]
        rows = cells(names, scores, self.config.seed)
        texts = [list(task.texts) for task in self.tasks]
        items = items_of(TrainingResults(names, {self.config.strategy: scores}, texts))
        items = items.drop(columns=["answer", "answer_probability"])
        meta = {
            "name": "continual",
            "strategy": self.config.strategy,
            "tasks": names[: len(phases)],
            "old": names[len(phases) :],
            "ends": self.ends,
            "matrix": rows,
            "summary": self.headline(self.trainee.view),
        }
        files = {
            "matrix.csv": to_csv(pd.DataFrame(rows)).encode(),
            "summary.csv": to_csv(pd.DataFrame(meta["summary"])).encode(),
            "items.jsonl.gz": gzip.compress("".join(dumps(row) + "\n" for row in records(items)).encode(), mtime=0),
            "result.json": (json.dumps(meta, indent=2) + "\n").encode(),
        }
        folder = self.config.out / RESULTS / "continual"
        with disk(folder):
            for name, content in files.items():
                write_atomic(folder / name, content)


def read_files(config: ContinualConfig) -> list[Rows[Any]]:
    """Read the files of the phases and then --old, before a model is loaded; return no rows for the world.

    Raises:
        DataError: a file cannot be used; see `probe.rows`.
    """
    if config.data == "world":
        return []
    old = [config.old] if config.old else []
    return read_phases([*config.files, *old], config.objective, config.strict)


def load_curriculum(
    session: Session, config: ContinualConfig, lm: LM, files: Sequence[Rows[Any]]
) -> tuple[probe.world.World | None, Curriculum]:
    """Load the world of the base, if it has one, and the phases that the options ask for.

    Raises:
        ConfigError: the data are the world's, and the base has no world or too few phases.
        DataError: a file cannot be used.
    """
    world = probe.world.of(lm)
    sizes: dict[str, Any] = {"objective": config.objective, "length": config.length, "seed": config.seed}
    if config.data != "world":
        old = files[-1] if config.old else None
        return world, file_curriculum(lm, files[: len(config.files)], old, say=session.say, **sizes)
    if world is None:
        raise ConfigError(
            f"--base {config.base} belongs to no world, so there are no phases to teach it: give --data"
            " a.jsonl,b.jsonl, or a base that was pretrained on the world."
        )
    sizes |= {"phases": config.phases, "questions": config.questions}
    return world, world_curriculum(
        lm, world, examples=config.steps * config.batch_size + config.fisher_samples, **sizes
    )


def train(config: ContinualConfig) -> Run:
    """Train phase after phase and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    files = read_files(config)
    trainee = load_trainee(session, config, config.base)
    world, curriculum = load_curriculum(session, config, trainee.lm, files)
    method = Continual(session, config, trainee, curriculum)
    origin = Origin(
        parent=config.base,
        reference=config.base,
        world=world,
        data=curriculum.data | {"reference": trainee.fingerprint},
        texts=data_texts(*files),
        prompts=curriculum.prompts,
        evaluators=[method.headline],
        evaluation=ReferenceEvaluation.of(session, trainee, world, rollouts=True),
    )
    return fit(session, method, origin)


if __name__ == "__main__":
    sys.exit(main(["train", "continual", *sys.argv[1:]]))
