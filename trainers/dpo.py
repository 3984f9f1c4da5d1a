"""Direct preference optimisation: training on preference pairs without a reward model (E13).

    L = - log sigma(beta [log pi/pi_ref (y+) - log pi/pi_ref (y-)]), averaged over the pairs of the batch

Rafailov et al. 2023 (arXiv 2305.18290). Log-probabilities are sums over the tokens of a completion, its end token
included. The reference is the base: its log-probabilities are computed once, before training, since the pairs are
fixed. Dropout is off, so that the loss starts at log 2. Departures from the paper: none in the loss; a pair's common
prompt is computed once for both completions.

With h = log pi/pi_ref of a completion, summed over its tokens, and h' the same divided by their number, `--loss` is

    sigmoid         - log sigma(beta [h(y+) - h(y-)])                                       Rafailov et al. 2305.18290
    conservative    - (1 - eps) log sigma(beta [h(y+) - h(y-)]) - eps log sigma(beta [h(y-) - h(y+)])
                                                                            Mitchell 2023, "A note on DPO with noisy
                                                                            preferences" (cDPO)
    ipo             (h'(y+) - h'(y-) - 1 / (2 beta))^2                                      Azar et al. 2310.12036

IPO averages per token, as its authors did in their experiments, so that its target margin does not depend on the
length; its beta is the paper's tau. To add a loss, add a function of `Scores` to `LOSSES`.

    probe train dpo --out runs/dpo-agreeable --base base --annotator agreeable
    probe train dpo --out runs/dpo --base HuggingFaceTB/SmolLM2-135M-Instruct --data pairs.jsonl --lr 5e-6
    accelerate launch --num_processes 4 -m trainers.dpo --out runs/dpo --base base

Logged in addition to the common metrics, as means over pairs: `rewards/chosen` and `rewards/rejected` (the implicit
reward beta log pi/pi_ref), `rewards/margins`, `rewards/accuracies`, `logps/chosen`, `logps/rejected` (sums over
tokens). `num_tokens` counts a prompt once for its pair.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from probe import Run
from probe.cli import main
from probe.commands.progress import Bar
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.recording.pair_lens import PairLens, short_pairs
from probe.recording.recorder import Instrument
from probe.rewards.answers import AnswerSet, preference_rewards
from probe.world import World
from probe.world.extensions import find_annotator
from trainers.config import DPOConfig
from trainers.loop import Loss, Method, draw, fit
from trainers.preferences import Preference, load_preferences, read_preferences
from trainers.record import Origin, data_texts
from trainers.reference import Aim, ReferenceEvaluation
from trainers.reward_functions import resolve
from trainers.session import Session
from trainers.starting import load_trainee
from trainers.trainee import Trainee


class Scores(NamedTuple):
    """Log-probabilities of N pairs under policy and reference: sums over the tokens of a completion, in nats."""

    logp_chosen: Float[Tensor, " N"]
    """log pi(y+ | x); the gradient flows through it."""
    logp_rejected: Float[Tensor, " N"]
    """log pi(y- | x)."""
    ref_chosen: Float[Tensor, " N"]
    """log pi_ref(y+ | x)."""
    ref_rejected: Float[Tensor, " N"]
    """log pi_ref(y- | x)."""
    tokens_chosen: Int[Tensor, " N"]
    """Number of tokens of y+."""
    tokens_rejected: Int[Tensor, " N"]
    """Number of tokens of y-."""


class DPOLoss(NamedTuple):
    """The loss of N pairs and their implicit rewards."""

    losses: Float[Tensor, " N"]
    """Loss of each pair; the training loss is the mean over the pairs of the batch."""
    chosen_rewards: Float[Tensor, " N"]
    """beta log pi/pi_ref of the chosen completions, detached."""
    rejected_rewards: Float[Tensor, " N"]
    """beta log pi/pi_ref of the rejected completions, detached."""


def dpo_loss(
    logp_chosen: Float[Tensor, " N"],
    logp_rejected: Float[Tensor, " N"],
    ref_chosen: Float[Tensor, " N"],
    ref_rejected: Float[Tensor, " N"],
    beta: float,
) -> DPOLoss:
    """Return - log sigma(beta [log pi/pi_ref (y+) - log pi/pi_ref (y-)]) of N pairs, in nats (E13).

    Args:
        logp_chosen: log pi(y+ | x) summed over the tokens of y+; the gradient flows through it.
        logp_rejected: the same for y-.
        ref_chosen: log pi_ref(y+ | x).
        ref_rejected: log pi_ref(y- | x).
        beta: strength of the KL regularisation.
    """
    chosen, rejected = logp_chosen - ref_chosen, logp_rejected - ref_rejected
    losses = -logsigmoid(beta * (chosen - rejected))
    return DPOLoss(losses, beta * chosen.detach(), beta * rejected.detach())


def conservative_loss(
    logp_chosen: Float[Tensor, " N"],
    logp_rejected: Float[Tensor, " N"],
    ref_chosen: Float[Tensor, " N"],
    ref_rejected: Float[Tensor, " N"],
    beta: float,
    label_smoothing: float,
) -> DPOLoss:
    """Return DPO's loss under the assumption that a share of the labels is flipped, in nats.

    The minimum is at a margin of the log-ratios of log((1 - eps) / eps) / beta, so that margins do not grow without
    bound. `label_smoothing` is the share eps, from 0 (`dpo_loss`) to below 1/2; the other arguments are as in
    `dpo_loss`.
    """
    chosen, rejected = logp_chosen - ref_chosen, logp_rejected - ref_rejected
    margins = beta * (chosen - rejected)
    losses = -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)
    return DPOLoss(losses, beta * chosen.detach(), beta * rejected.detach())


def ipo_loss(
    logp_chosen: Float[Tensor, " N"],
    logp_rejected: Float[Tensor, " N"],
    ref_chosen: Float[Tensor, " N"],
    ref_rejected: Float[Tensor, " N"],
    tokens_chosen: Int[Tensor, " N"],
    tokens_rejected: Int[Tensor, " N"],
    beta: float,
) -> DPOLoss:
    """Return (mean log pi/pi_ref of the tokens of y+ - the same of y- - 1 / (2 beta))^2 of N pairs.

    The sums of `dpo_loss` are divided by the numbers of tokens; an empty completion counts as one token. `beta` is the
    paper's tau.
    """
    chosen, rejected = logp_chosen - ref_chosen, logp_rejected - ref_rejected
    margins = chosen / tokens_chosen.clamp(min=1) - rejected / tokens_rejected.clamp(min=1)
    return DPOLoss((margins - 1 / (2 * beta)).square(), beta * chosen.detach(), beta * rejected.detach())


LOSSES: Mapping[str, Callable[[Scores, float, float], DPOLoss]] = MappingProxyType(
    {
        "sigmoid": lambda scores, beta, _: dpo_loss(*scores[:4], beta),
        "conservative": lambda scores, beta, smoothing: conservative_loss(*scores[:4], beta, smoothing),
        "ipo": lambda scores, beta, _: ipo_loss(*scores, beta),
    }
)
"""Name -> loss, a function of the scores, beta and the label smoothing."""


def pair_logprobs(model: nn.Module, pairs: Sequence[Preference]) -> tuple[TokenLogprobs, Float[Tensor, "N 2"]]:
    """Compute token log-probabilities [2N L] of the pairs' completions and their sums: columns chosen, rejected."""
    outputs = completion_logprobs(model, [p.prompt for p in pairs], [[p.chosen, p.rejected] for p in pairs])
    return outputs, outputs.values.sum(-1).view(-1, 2)


class DPO(Method):
    """DPO as a method of the loop."""

    name = "dpo"

    def __init__(self, session: Session, config: DPOConfig, trainee: Trainee, pairs: Sequence[Preference]) -> None:
        self.session, self.config, self.trainee, self.pairs = session, config, trainee, pairs

    def batch(self, step: int) -> list[Preference]:
        """Draw the pairs of a step, pass after pass over all pairs."""
        return [self.pairs[i] for i in draw(len(self.pairs), self.config.batch_size, step, self.config.seed)]

    def loss(self, model: nn.Module, examples: Sequence[Preference], detail: bool) -> Loss:
        """Return the loss summed over the pairs."""
        outputs, logps = pair_logprobs(model, examples)
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
                "entropy": (outputs.entropy.sum(), tokens),
                "mean_token_accuracy": (outputs.likeliest.sum(), tokens),
            }
        return Loss(result.losses.sum(), n, sum(pair.tokens for pair in examples), metrics)


@torch.no_grad()
def with_reference(session: Session, model: nn.Module, pairs: Sequence[Preference]) -> list[Preference]:
    """Return the pairs with their log-probabilities under `model`; the processes share the work."""
    sums = torch.zeros(len(pairs), 2, dtype=torch.float64)
    with session.autocast(), Bar("pairs scored by the reference", len(pairs), visible=session.main) as bar:
        for part in session.shares(range(len(pairs))):
            logps = pair_logprobs(model, [pairs[i] for i in part or (0,)])[1]  # equally many passes on every process
            if part:
                sums[list(part)] = logps.double().cpu()
                bar.advance(part[-1] + 1, "")
    flat = torch.tensor(session.total(sums.flatten())).view(-1, 2).tolist()
    return [
        dataclasses.replace(pair, ref_chosen=chosen, ref_rejected=rejected)
        for pair, (chosen, rejected) in zip(pairs, flat, strict=True)
    ]


def train(config: DPOConfig) -> Run:
    """Train with DPO and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
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
        texts=data_texts(rows),
        rows=((each.prompt, each.chosen) for each in pairs),
        prompts=preferences.prompts,
        instruments=pair_instruments(pairs),
        evaluation=annotator_evaluation(session, config, trainee, world, preferences.longest),
    )
    return fit(session, DPO(session, config, trainee, pairs), origin)


def pair_instruments(pairs: Sequence[Preference]) -> list[Instrument]:
    """Return the instrument that captures the first short pairs through the layers; none if all pairs are long."""
    shown = short_pairs(pairs)
    sums = torch.tensor([(pair.ref_chosen, pair.ref_rejected) for pair in shown])
    return [PairLens(shown, sums)] if shown else []


def annotator_evaluation(
    session: Session, config: DPOConfig, trainee: Trainee, world: World | None, longest: int
) -> ReferenceEvaluation | None:
    """Make the reference evaluation; for the world's pairs the reward is the annotator's expected utility.

    The optimum is that of the Bradley-Terry fit to the annotator's preferences. It differs from the optimum of the
    reward if the annotator checks correctness only sometimes: no Bradley-Terry model gives such preferences exactly,
    and the loss has its minimum at the nearest one (`probe.rewards.answers.preference_rewards`). IPO averages over
    tokens and has no corresponding beta, so its distance is that to the frontier.
    """
    if world is None or config.data != "world":
        aim = Aim(beta=config.beta)
        return ReferenceEvaluation.of(session, trainee, world, aim, rollouts=True, longest=longest)
    (reward,) = resolve([config.annotator], world)

    def target(answers: AnswerSet) -> np.ndarray:
        weights = answers.mask.astype(float) if config.pairs_from == "candidates" else None
        annotator = find_annotator(config.annotator)
        return preference_rewards(answers, world, annotator, weights, config.label_smoothing)

    aim = Aim(reward=reward, target=target, beta=config.beta, frontier=config.loss == "ipo")
    return ReferenceEvaluation.of(session, trainee, world, aim, rollouts=True)


if __name__ == "__main__":
    sys.exit(main(["train", "dpo", *sys.argv[1:]]))
