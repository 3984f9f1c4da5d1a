"""Strategies against forgetting: none, replay of earlier tasks, or elastic weight consolidation.

A control replays earlier tasks with shuffled answers: what it preserves is not due to the content of the replay. A
strategy chooses the examples of each step, may add a penalty to the loss, and can use a task after its phase.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainers.curriculum import Curriculum, Task
from trainers.ewc import ewc_penalty, fisher_information
from trainers.loop import draw
from trainers.pretrain import PADDING
from trainers.session import Session, derive_seed
from trainers.sft import Demonstration
from trainers.trainee import Trainee


class Plain:
    """Strategy without measures against forgetting: each phase sees only its own task."""

    def __init__(self, session: Session, trainee: Trainee, curriculum: Curriculum) -> None:
        self.session, self.trainee, self.curriculum = session, trainee, curriculum
        self.config: Any = session.config

    def examples(self, step: int, phase: int) -> list[Any]:
        """Return the examples of a step in phase 0, 1, ..."""
        return self._examples_of(self.curriculum.phases[phase], step, self.config.batch_size)

    def before(self, phase: int) -> list[Task]:
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

    def _examples_of(self, task: Task, step: int, n: int) -> list[Any]:
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

    def _replayed(self, task: Task, step: int, n: int) -> list[Any]:
        return self._examples_of(task, step, n)


class Shuffled(Replay):
    """Replay of examples without their meaning: with answers of other questions, or tokens in random order."""

    def _replayed(self, task: Task, step: int, n: int) -> list[Any]:
        rng = np.random.default_rng(derive_seed(self.config.seed, step, *task.name.encode()))
        return [_without_meaning(each, task, rng) for each in self._examples_of(task, step, n)]


def _without_meaning(example: Any, task: Task, rng: np.random.Generator) -> Any:
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

    def _information(self, task: Task, number: int) -> dict[str, Tensor]:
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
