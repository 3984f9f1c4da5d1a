"""Measurements of a method against its frozen reference: distance to the exact optimum, reward shift, KL.

A method with a reference declares its objective once and passes the result to its `Origin`; the loop then logs
`kl_to_optimal` at every evaluation, adds the reward shift and the KL to the reference after every token of the fixed
prompts to every capture, and reports KL and proxy reward in the last evaluation. The method itself needs no code for
this.

    evaluation = ReferenceEvaluation.of(session, trainee, world, Aim(reward=reward, beta=config.beta))

On the world the answers are finite, so the policy's distance to pi*_beta is exact (probe/rewards/optimum.py): it is
measured on the same `QUESTIONS` questions in every run, which no training uses. Without a world there is only the
reward shift.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from probe import LM, Run
from probe.errors import ProbeError
from probe.model.rewards import RewardModel
from probe.recording.recorder import Instrument, ReferenceKL, leave_undisturbed
from probe.recording.reward_shift import RewardShift
from probe.rewards.answers import AnswerSet, Reward, enumerate_answers, verifier_reward
from probe.rewards.optimum import condition, expectation, kl_to_optimal
from probe.world import World
from probe.world.annotators import SHARES
from trainers.session import Session
from trainers.trainee import Reference, Trainee, cast


def origin_reference(session: Session, base: str, trainee: Trainee) -> tuple[Reference | None, dict[str, Any]]:
    """Return the model that a run started from, and the entry of run.json that identifies it.

    This is for methods that train without that model. A resumed run has changed weights, so the base is loaded again.
    If it is missing or not the model that the run started from, training continues without a reference.

    Args:
        session: session, whose config determines whether captures are made and whether the run is resumed.
        base: the model as the user named it.
        trainee: trainee before training.
    """
    config = session.config
    has_captures = session.main and config.capture_every > 0
    if not config.resume:
        return trainee.reference() if has_captures else None, {"reference": trainee.fingerprint}
    fingerprint = (Run(config.out).meta.get("data") or {}).get("reference")
    if not has_captures or fingerprint is None:
        return None, {}
    try:
        reference = trainee.reference() if config.lora else Reference(session.load(base))
        same = reference.lm.weights_fingerprint == fingerprint
    except ProbeError:
        same = False
    if same:
        if config.reference_dtype:
            cast(reference.lm.model, config.reference_dtype)
        return reference, {}
    session.say(f"{base} is not the model that this run started from any more: captures continue without the KL to it.")
    return None, {}


SAMPLE_TOKENS, MOST_SAMPLE_TOKENS = 8, 64
"""Tokens of the samples in captures: in the world, whose answers are short, and the largest number for other data."""
QUESTIONS = 64
SEED = 987_654_321
"""Seed of the questions, the same in all runs and different from seeds of trainings."""
DIALOGUES = tuple(SHARES)
"""Kinds of questions that the world's annotators see."""

Target = Callable[[AnswerSet], np.ndarray]
"""Function from an answer set to its [P A] rewards, NaN where they do not apply."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Objective of a method against its reference."""

    reward: Reward | RewardModel | None = None
    """Reward, if it follows from a prompt and a completion alone."""
    target: Target | None = None
    """Rewards whose optimum is the limit of the method, if `reward` is not that reward."""
    beta: float | None = None
    """Coefficient of the KL, and the factor of the implicit reward; None if it is not constant: the distance is then
    that to the nearest point of the frontier."""
    frontier: bool = False
    """Whether to measure the distance to the frontier even if there is a beta."""
    kinds: Sequence[str] = DIALOGUES
    """Kinds of questions to enumerate; none leaves the optimum out."""


@dataclass(frozen=True)
class Optimum:
    """The optimum pi*_beta on fixed questions."""

    answers: AnswerSet
    """Answer sets with the log-probabilities of the reference."""
    rewards: np.ndarray
    """[P A] optimised reward, in the unit of beta."""
    gold: np.ndarray
    """[P A] score of the verifier."""
    beta: float | None
    """Coefficient of the KL; None stands for the nearest point of the frontier."""

    def distance(self, lm: LM) -> dict[str, float]:
        """Measure a policy exactly: its distance to the optimum, rewards and KL to the reference (docs/metrics.md)."""
        with leave_undisturbed(lm.model):
            logprobs = self.answers.score(lm)
        distance = kl_to_optimal(logprobs, self.answers.logprobs, self.rewards, self.beta)
        return {
            "kl_to_optimal": distance.mean,
            "kl_to_reference": float(distance.reference_kl.mean()),
            "expected_reward": float(distance.reward.mean()),
            "expected_gold": float(expectation(condition(logprobs), self.gold).mean()),
            "answer_mass": float(distance.mass.mean()),
        }


@dataclass(frozen=True, kw_only=True)
class ReferenceEvaluation:
    """Measurements of one training against its reference; made by `of`."""

    reference: Reference
    """Reference model of the KL."""
    reward: Reward | None = None
    """Optimised reward, as a function of texts."""
    optimum: Optimum | None = None
    shift: RewardShift | None = None
    """Reward shift, measured at every capture; None without captures."""
    kl: ReferenceKL | None = None
    """KL to the reference on the fixed prompts, measured at every capture."""
    rollouts: bool = False
    """Whether the samples of the captures are also written as rollouts, for methods that do not sample."""

    @property
    def instruments(self) -> Sequence[Instrument]:
        """Measurements at every capture."""
        return [instrument for instrument in (self.shift, self.kl) if instrument]

    def rows(self, step: int) -> list[dict[str, Any]]:
        """Return the samples of the latest capture as rollouts (docs/runs.md), if they are to be written."""
        return [{"step": step, **row} for row in self.shift.latest] if self.shift and self.rollouts else []

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `probe.rewards.evaluation` for reference and reward."""
        return {"reference": self.reference, "reward": self.reward}

    @classmethod
    def of(
        cls,
        session: Session,
        trainee: Trainee,
        world: World | None,
        aim: Aim = Aim(),
        *,
        reference: Reference | None = None,
        rollouts: bool = False,
        longest: int = SAMPLE_TOKENS,
    ) -> "ReferenceEvaluation | None":
        """Make the measurements for `trainee`, which must not have been trained yet.

        Args:
            session: session; the main process measures, or all processes that share the model; on others, or without
                anything to measure, the result is None.
            trainee: trainee, whose present weights are the reference unless one is given.
            world: world, whose questions have finite answer sets; without it there is no optimum and no true reward.
            aim: of the method.
            reference: the method's frozen model, if it has one.
            rollouts: write the samples of the captures as rollouts, for a method that does not sample.
            longest: tokens of the longest answer of the data, and of the samples in captures, up to
                `MOST_SAMPLE_TOKENS`.

        Raises:
            DataError: the world has no questions of these kinds.
        """
        config = session.config
        if not session.measures or (
            world is None and not config.capture_every
        ):  # the reference is a copy and takes memory
            return None
        reference = reference or trainee.reference()
        reward, target, beta = aim.reward, aim.target, aim.beta
        score = _scores(reward) if isinstance(reward, RewardModel) else reward
        if target is None and score is not None:
            target = partial(AnswerSet.judge, reward=score)
        optimum = None
        if world is not None and target is not None:
            optimum = world_optimum(trainee.lm, world, aim.kinds, target, None if aim.frontier else beta)
        shift = kl = None
        if config.capture_every:
            kl = ReferenceKL(reference.logits)
            shift = RewardShift(
                reference.logits,
                proxy=reward,
                world=world,
                beta=1.0 if beta is None else beta,
                max_new_tokens=min(longest, MOST_SAMPLE_TOKENS),
            )
        return cls(reference=reference, reward=score, optimum=optimum, shift=shift, kl=kl, rollouts=rollouts)


def world_optimum(
    lm: LM, world: World, kinds: Sequence[str], target: Target, beta: float | None, n: int = QUESTIONS
) -> Optimum | None:
    """Compute pi*_beta on `n` questions of the kinds in equal shares, with the present `lm` as the reference.

    Questions whose answers have no reward are left out; the result is None if no question is left.
    """
    shares = {kind: n // len(kinds) + (i < n % len(kinds)) for i, kind in enumerate(kinds)}
    prompts = [item.prompt for kind, share in shares.items() for item in world.questions(kind, share, SEED)]
    if not prompts:
        return None
    with leave_undisturbed(lm.model):
        answers = enumerate_answers(lm, world, prompts)
    rewards = target(answers)
    keep = np.asarray(np.isfinite(rewards).all(axis=1))
    if not keep.any():
        return None
    subset = answers.take(keep)
    return Optimum(subset, rewards[keep, : subset.mask.shape[1]], subset.rewards(verifier_reward(world)), beta)


def _scores(model: RewardModel) -> Reward:
    def score(prompts: list[str], completions: list[str]) -> list[float | None]:
        return model.score(prompts, completions).tolist()

    return score
