r"""Continual learning: consecutive phases of pretraining or SFT, and the forgetting that each causes (E22).

The losses are those of pretraining (E7) and SFT (E8); a strategy changes the training:

    plain    no change
    replay    the share --replay of each batch comes from earlier tasks and from the base's knowledge
    ewc       + (lambda / 2) sum_i F_i (theta_i - theta*_i)^2, see trainers/ewc.py
    shuffled  a control: as replay, with shuffled answers, so that what it preserves is not due to their content

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
from dataclasses import replace
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
from probe.runs.storage import remove_leftovers, write_inside
from trainers.config import ContinualConfig
from trainers.curriculum import Curriculum, PhaseTask, file_curriculum, world_curriculum
from trainers.ewc import ewc_penalty, fisher_information
from trainers.loop import Loss, Method, draw, fit
from trainers.pretrain import PADDING
from trainers.record import Origin, data_texts
from trainers.reference import ReferenceEvaluation
from trainers.session import Session, derive_seed
from trainers.sft import Demonstration
from trainers.starting import load_trainee
from trainers.trainee import Trainee


class Plain:
    """Strategy without measures against forgetting: each phase sees only its own task.

    A strategy chooses the examples of each step, may add a penalty to the loss, and can use a task after its phase.
    """

    def __init__(self, session: Session, trainee: Trainee, curriculum: Curriculum) -> None:
        self.session, self.trainee, self.curriculum = session, trainee, curriculum
        self.config: Any = session.config

    def examples(self, step: int, phase: int) -> list[Any]:
        """Return the examples of a step in phase 0, 1, ..."""
        return self._examples_of(self.curriculum.phases[phase], step, self.config.batch_size)

    def before(self, phase: int) -> list[PhaseTask]:
        """Return the tasks before a phase, including the base's knowledge."""
        old = [] if self.curriculum.old is None else [self.curriculum.old]
        return [*old, *self.curriculum.phases[:phase]]

    def leave(self, phase: int) -> None:
        """Register that the tasks before `phase` have been learned; called in each step before `examples`."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return the penalty added to the mean loss, in nats, or None."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Return the state that a resume needs."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""

    def _examples_of(self, task: PhaseTask, step: int, n: int) -> list[Any]:
        """Draw `n` examples of a task, in epochs over all of them."""
        seed = derive_seed(self.config.seed, *task.name.encode())
        return [task.examples[i] for i in draw(len(task.examples), n, step, seed)]


class Replay(Plain):
    """Strategy that takes a share of each batch from earlier tasks in equal parts; the size of the batch is unchanged.

    The remainder of the division by the number of tasks goes to a different task in each step.
    """

    def examples(self, step: int, phase: int) -> list[Any]:
        """Return new examples followed by replayed ones."""
        before = self.before(phase)
        replays = round(self.config.replay * self.config.batch_size) if before else 0
        examples = self._examples_of(self.curriculum.phases[phase], step, self.config.batch_size - replays)
        for number, task in enumerate(before):
            share = replays // len(before) + ((number - step) % len(before) < replays % len(before))
            examples += self._replayed(task, step, share)
        return examples

    def _replayed(self, task: PhaseTask, step: int, n: int) -> list[Any]:
        return self._examples_of(task, step, n)


class Shuffled(Replay):
    """Replay of examples without their meaning: with answers of other questions, or tokens in random order."""

    def _replayed(self, task: PhaseTask, step: int, n: int) -> list[Any]:
        rng = np.random.default_rng(derive_seed(self.config.seed, step, *task.name.encode()))
        return [_without_meaning(each, task, rng) for each in self._examples_of(task, step, n)]


def _without_meaning(example: Any, task: PhaseTask, rng: np.random.Generator) -> Any:
    """Return an example without its meaning.

    A demonstration gets the completion of a random demonstration of its task; in a row all tokens but the first are
    shuffled.
    """
    if isinstance(example, Demonstration):
        other = task.examples[int(rng.integers(len(task.examples)))]
        return replace(example, completion=other.completion, learned=other.learned)
    length = int((example != PADDING).sum())
    return np.concatenate([example[:1], rng.permutation(example[1:length]), example[length:]])


class EWC(Plain):
    """Elastic weight consolidation over the trained parameters (E22): see `trainers.ewc`."""

    def __init__(self, session: Session, trainee: Trainee, curriculum: Curriculum) -> None:
        super().__init__(session, trainee, curriculum)
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self._left = 0

    def leave(self, phase: int) -> None:
        """Add the Fisher information of the last completed task, and anchor at the present weights."""
        before = self.before(phase)
        for number in range(self._left, len(before)):
            for name, fisher in self._information(before[number], number).items():
                self.fisher[name] = self.fisher[name] + fisher if name in self.fisher else fisher
        if len(before) > self._left:
            parameters = self.trainee.module.named_parameters()
            self.anchor = {name: parameter.detach().clone() for name, parameter in parameters if name in self.fisher}
            self._left = len(before)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return (lambda / 2) sum_i F_i (theta_i - theta*_i)^2; None before there is an F."""
        return ewc_penalty(model, self.fisher, self.anchor, self.config.ewc) if self.fisher else None

    def state(self) -> dict[str, Tensor]:
        """Return the Fisher information, the anchor, and the number of tasks that they cover."""
        tensors = {f"fisher/{name}": value for name, value in self.fisher.items()}
        return tensors | {f"anchor/{n}": v for n, v in self.anchor.items()} | {"left": torch.tensor(self._left)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        device = next(self.trainee.module.parameters()).device
        for part, values in (("fisher/", self.fisher), ("anchor/", self.anchor)):
            tensors = {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
            values.update({name: value.to(device) for name, value in tensors.items()})
        self._left = int(state.get("left", 0))

    def _information(self, task: PhaseTask, number: int) -> dict[str, Tensor]:
        """Estimate F of a task, the mean over its targets; the processes share its examples."""
        session, config, model = self.session, self.config, self.trainee.module
        seed = derive_seed(config.seed, 2, number)
        picks = draw(len(task.examples), min(config.fisher_samples, len(task.examples)), 1, seed)
        session.say(f"ewc: Fisher information of {task.name} from {len(picks)} examples")
        mine = range(session.rank, len(picks), session.processes)
        texts = [self.curriculum.kind.text(task.examples[picks[i]]) for i in mine]
        seeds = [derive_seed(seed, i) for i in mine] if config.fisher == "sampled" else None
        model.eval()
        sums, count = fisher_information(model, texts, seeds)
        (targets,) = session.total([count])
        if session.processes > 1:
            sums = {name: session.accelerator.reduce(value, reduction="sum") for name, value in sums.items()}
        return {name: value / max(targets, 1) for name, value in sums.items()}


STRATEGIES: dict[str, type[Plain]] = {"plain": Plain, "replay": Replay, "ewc": EWC, "shuffled": Shuffled}


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
        return summary(*self.columns(), self.config.seed, [task.people for task in self.tasks])

    def write(self) -> None:
        """Write results/continual: the matrix, the summary, its metadata and the items."""
        phases, old = self.columns()
        names = [task.name for task in self.tasks]
        scores = [task.astype(float) for task in [*phases, *([] if old is None else [old])]]
        rows = cells(names, scores, self.config.seed, [task.people for task in self.tasks])
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
        remove_leftovers(self.config.out / RESULTS / "continual")
        for name, content in files.items():
            write_inside(self.config.out, f"{RESULTS}/continual/{name}", content)


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
