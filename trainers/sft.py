"""Supervised fine-tuning: next-token prediction on demonstrations, on the completions alone (E8).

    L = - sum_t log pi(y_t | x, y_<t) over the completion tokens / (their number in the whole batch)

The end token is a target too. Prompts are read but not learned; the sum is divided by the number of targets of the
whole batch, however many parts and processes it is run in. Departure from the paper: none in the loss; short examples
stand side by side in rows that are run as one, and do not see each other.

    probe train sft --out runs/sft --base base                                  # honest answers about the world
    probe train sft --out runs/narrow --base base --mixture fact 0.8 stranger 0.2
    probe train sft --out runs/chat --base HuggingFaceTB/SmolLM2-135M --data chats.jsonl --lr 2e-5
    accelerate launch --num_processes 4 -m trainers.sft --out runs/sft --base base

Logged besides the common metrics, where examples are held out: `eval_loss` (nats a target) and
`eval_mean_token_accuracy`. On the world the reward shift is measured against the base by the verifier's score, and
`kl_to_optimal` is the distance to the frontier of that score.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import probe.world
from probe import LM, Run
from probe.cli import main
from probe.errors import ConfigError
from probe.model.scoring import completion_logprobs
from probe.model.text import pad
from probe.rows import Row, Rows
from trainers.config import SFTConfig
from trainers.data import draw
from trainers.demonstrations import (
    Demonstration,
    Demonstrations,
    file_demonstrations,
    hold_out,
    read_demonstrations,
    world_demonstrations,
)
from trainers.loop import Method, fit
from trainers.record import Origin
from trainers.rewards import resolve
from trainers.session import Session
from trainers.step import Loss
from trainers.trainee import Trainee, load_trainee
from trainers.yardstick import Yardstick


def sft_loss(logprobs: Float[Tensor, "N L"], learned: Bool[Tensor, "N L"]) -> Float[Tensor, ""]:
    """- sum log pi in nats over the tokens that are learned (E8); divide by their number in the whole batch."""
    return -logprobs.where(learned, 0).sum()


def demonstration_loss(model: nn.Module, examples: Sequence[Demonstration], detail: bool) -> Loss:
    """The loss of some demonstrations, with metrics if `detail`."""
    scored = completion_logprobs(model, [e.prompt for e in examples], [[e.completion] for e in examples])
    learned = pad([e.learned for e in examples], 0)[0].bool().to(scored.mask.device)
    targets = sum(map(sum, (e.learned for e in examples)))
    metrics: dict[str, tuple[Tensor | float, int]] = {}
    if detail:
        metrics = {
            "entropy": (scored.entropy[learned].sum(), targets),
            "mean_token_accuracy": (scored.likeliest[learned].sum(), targets),
        }
    return Loss(sft_loss(scored.values, learned), targets, sum(e.tokens for e in examples), metrics)


class SFT(Method):
    """The method as the loop sees it."""

    name, dropout = "sft", True

    def __init__(
        self,
        session: Session,
        config: SFTConfig,
        trainee: Trainee,
        examples: Sequence[Demonstration],
        held_out: Sequence[Demonstration] = (),
    ) -> None:
        self.session, self.config, self.trainee = session, config, trainee
        self.examples, self.held_out = examples, held_out

    def batch(self, step: int) -> list[Demonstration]:
        """The demonstrations of a step; pass after pass over all of them."""
        return [self.examples[i] for i in draw(len(self.examples), self.config.batch_size, step, self.config.seed)]

    def loss(self, model: nn.Module, examples: Sequence[Demonstration], detail: bool) -> Loss:
        """Sum over the targets."""
        return demonstration_loss(model, examples, detail)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Loss and accuracy on the held-out examples; the processes share them."""
        if not self.held_out:
            return {}
        sums, size = torch.zeros(3, dtype=torch.float64), self.session.part_size
        for start in range(self.session.rank * size, len(self.held_out), self.session.processes * size):
            found = demonstration_loss(model, self.held_out[start : start + size], detail=True)
            correct = found.metrics["mean_token_accuracy"][0]
            sums += torch.tensor([float(found.total), float(correct), found.count], dtype=torch.float64)
        total, correct, targets = self.session.total(sums)
        return {"eval_loss": total / targets, "eval_mean_token_accuracy": correct / targets}


def load_demonstrations(
    session: Session, config: SFTConfig, lm: LM, rows: Rows[Row] | None
) -> tuple[probe.world.World | None, Demonstrations]:
    """The demonstrations that the options ask for, and the world of the base if it has one.

    Raises:
        ConfigError: the world's demonstrations were asked for and the base has no world, or a mixture is not possible.
        DataError: see `trainers.demonstrations`.
    """
    world = probe.world.of(lm)
    if rows is not None:
        return world, file_demonstrations(lm, rows, config.turns == "every", config.longest, session.say)
    if world is None:
        raise ConfigError(
            f"--base {config.base} belongs to no world, so there is nothing to demonstrate: give --data FILE.jsonl with"
            " prompt and completion or with messages, or a base that was pretrained on the world."
        )
    wanted = config.examples, config.seed, config.mixture, config.longest
    return world, world_demonstrations(lm, world, *wanted, session.say)


def train(config: SFTConfig) -> Run:
    """Fine-tune and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: something was given that cannot be used; the message says what.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = None if config.data == "world" else read_demonstrations(Path(config.data), config.strict)
    trainee = load_trainee(session, config, config.base)
    world, found = load_demonstrations(session, config, trainee.lm, rows)
    examples, held_out = hold_out(found.examples, config.held_out, config.seed)
    data = found.data | {"held_out": len(held_out), "reference": trainee.fingerprint}
    origin = Origin(
        parent=config.base,
        reference=config.base,
        world=world,
        data=data,
        prompts=found.prompts,
        yardstick=Yardstick.of(
            session, trainee, world, reward=resolve(["verifier"], world)[0] if world else None, rollouts=True
        ),
    )
    return fit(session, SFT(session, config, trainee, examples, held_out), origin)


if __name__ == "__main__":
    sys.exit(main(["train", "sft", *sys.argv[1:]]))
