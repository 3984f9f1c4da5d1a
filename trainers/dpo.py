"""Direct preference optimisation: learn from pairs what a reward model would have taught (E13).

    L = - log sigma(beta [log pi/pi_ref (y+) - log pi/pi_ref (y-)]), averaged over the pairs of the batch

Rafailov et al. 2023 (arXiv 2305.18290); conservative DPO and IPO are other losses of the same pairs, see
`trainers.dpo_losses`. Log-probabilities are sums over the tokens of a completion, its end token
included. The reference is the base: its log-probabilities are computed once, before training, since the pairs are
fixed. Dropout is off, so that the loss starts at log 2. Departure from the paper: none in the loss; a pair's common
prompt is run once for both completions.

    probe train dpo --out runs/dpo-agreeable --base base --annotator agreeable
    probe train dpo --out runs/dpo --base HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --lr 5e-6
    accelerate launch --num_processes 4 -m trainers.dpo --out runs/dpo --base base

Logged besides the common metrics, as means over pairs: `rewards/chosen` and `rewards/rejected` (the implicit reward
beta log pi/pi_ref), `rewards/margins`, `rewards/accuracies`, `logps/chosen`, `logps/rejected` (sums over tokens).
`num_tokens` counts a prompt once for its pair.
"""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe import Run
from probe.cli import main
from probe.extensions import find_annotator
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.rewards.answers import AnswerSet, preference_rewards
from probe.world import World
from trainers.config import DPOConfig
from trainers.data import draw
from trainers.dpo_losses import LOSSES, Scores
from trainers.loop import Method, fit
from trainers.preferences import Pair, load_preferences, read_preferences
from trainers.progress import Bar
from trainers.record import Origin
from trainers.rewards import resolve
from trainers.session import Session
from trainers.step import Loss
from trainers.trainee import Trainee, load_trainee
from trainers.yardstick import Yardstick


def pair_logprobs(model: nn.Module, pairs: Sequence[Pair]) -> tuple[TokenLogprobs, Float[Tensor, "N 2"]]:
    """Token log-probabilities [2N L] of the pairs' completions and their sums: columns chosen, rejected."""
    scored = completion_logprobs(model, [p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs])
    return scored, scored.values.sum(-1).view(-1, 2)


class DPO(Method):
    """The method as the loop sees it."""

    name = "dpo"

    def __init__(self, session: Session, config: DPOConfig, trainee: Trainee, pairs: Sequence[Pair]) -> None:
        self.session, self.config, self.trainee, self.pairs = session, config, trainee, pairs

    def batch(self, step: int) -> list[Pair]:
        """The pairs of a step; pass after pass over all of them."""
        return [self.pairs[i] for i in draw(len(self.pairs), self.config.batch_size, step, self.config.seed)]

    def loss(self, model: nn.Module, examples: Sequence[Pair], detail: bool) -> Loss:
        """Sum over the pairs."""
        scored, logps = pair_logprobs(model, examples)
        reference = torch.tensor([(p.ref_chosen, p.ref_rejected) for p in examples], device=logps.device)
        lengths = torch.tensor([(len(p.chosen), len(p.rejected)) for p in examples], device=logps.device)
        n = len(examples)
        scores = Scores(*logps.unbind(1), *reference.unbind(1), *lengths.unbind(1))
        result = LOSSES[self.config.loss](scores, self.config.beta, self.config.label_smoothing)
        metrics: dict[str, tuple[Tensor | float, int]] = {}
        if detail:
            chosen, rejected = result.chosen_rewards, result.rejected_rewards
            logp_chosen, logp_rejected = logps.detach().sum(0)
            tokens = int(lengths.sum())
            metrics = {
                "rewards/chosen": (chosen.sum(), n),
                "rewards/rejected": (rejected.sum(), n),
                "rewards/accuracies": ((chosen > rejected).sum(), n),
                "rewards/margins": ((chosen - rejected).sum(), n),
                "logps/chosen": (logp_chosen, n),
                "logps/rejected": (logp_rejected, n),
                "entropy": (scored.entropy.sum(), tokens),
                "mean_token_accuracy": (scored.likeliest.sum(), tokens),
            }
        return Loss(result.losses.sum(), n, sum(pair.tokens for pair in examples), metrics)


@torch.no_grad()
def with_reference(session: Session, model: nn.Module, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the log-probabilities that `model` gives them now; the processes share the work."""
    sums, size = torch.zeros(len(pairs), 2, dtype=torch.float64), session.part_size
    with session.autocast(), Bar("pairs scored by the reference", len(pairs), visible=session.main) as bar:
        for start in range(session.rank * size, len(pairs), session.processes * size):
            part = pairs[start : start + size]
            sums[start : start + size] = pair_logprobs(model, part)[1].double().cpu()
            bar.advance(start + len(part), "")
    flat = torch.tensor(session.total(sums.flatten())).view(-1, 2).tolist()
    return [
        dataclasses.replace(pair, ref_chosen=chosen, ref_rejected=rejected)
        for pair, (chosen, rejected) in zip(pairs, flat, strict=True)
    ]


def train(config: DPOConfig) -> Run:
    """Train by DPO and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: something was given that cannot be used; the message says what.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = read_preferences(config)
    trainee = load_trainee(session, config, config.base)
    lm = trainee.lm
    fingerprint = trainee.fingerprint
    world, preferences = load_preferences(session, config, lm, rows)
    pairs = with_reference(session, lm.model, preferences.pairs)
    origin = Origin(
        parent=config.base,
        reference=config.base,
        world=world,
        data=preferences.data | {"reference": fingerprint},
        prompts=preferences.prompts,
        yardstick=annotator_yardstick(session, config, trainee, world),
    )
    return fit(session, DPO(session, config, trainee, pairs), origin)


def annotator_yardstick(session: Session, config: DPOConfig, trainee: Trainee, world: World | None) -> Yardstick | None:
    """The annotator's expected utility as reward; the optimum is that of the Bradley-Terry fit to their preferences.

    The two differ where the annotator checks correctness only sometimes: no Bradley-Terry model gives such preferences
    exactly, and the loss has its minimum at the nearest one (`probe.rewards.answers.preference_rewards`). IPO averages
    over tokens, so that no beta is its own: there the distance is that to the frontier.
    """
    if world is None or config.data != "world":
        return Yardstick.of(session, trainee, world, beta=config.beta, rollouts=True)
    (reward,) = resolve([config.annotator], world)

    def target(answers: AnswerSet) -> np.ndarray:
        drawn = answers.mask.astype(float) if config.pairs_from == "candidates" else None
        annotator = find_annotator(config.annotator)
        return preference_rewards(answers, world, annotator, drawn, config.label_smoothing)

    return Yardstick.of(
        session,
        trainee,
        world,
        reward=reward,
        target=target,
        beta=config.beta,
        frontier=config.loss == "ipo",
        rollouts=True,
    )


if __name__ == "__main__":
    sys.exit(main(["train", "dpo", *sys.argv[1:]]))
