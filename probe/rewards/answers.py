"""Finite answer sets of the world's prompts, with model probabilities and rewards of every answer.

The world knows all answers to its questions (`World.candidates`), so a distribution over them is a row of numbers, and
no sampling is needed. An answer is a whole completion and is scored with its end token. The probability of all other
completions is 1 - `mass`; distributions over the answers are conditioned on the set.

Axes: P prompts, A answers of the longest set; if a set is shorter, log-probabilities are -inf and rewards 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from scipy.special import expit

from probe.errors import DataError
from probe.world.language import subject_of

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import Annotator, World

Array = np.ndarray
Reward = Callable[[list[str], list[str]], Sequence[float | None]]
"""Function (N prompts, N completions) -> N rewards: a verifier, `RewardModel.score`, or any function of this form."""
AnswerLogprobs = dict[tuple[tuple[int, ...], tuple[int, ...]], float]
"""Log-probabilities of whole completions in nats, by the ids of the prompt and of the completion."""
CHUNK = 32


class Scorer(Protocol):
    """Scorer of completions by log-probability: an `LM`, or a reference."""

    def logprobs(self, prompts: Any, completions: Any) -> Any:
        """Return log-probabilities `.values` [N L] of the completions' tokens, 0 where masked; inputs are token ids."""


@dataclass(frozen=True)
class AnswerSet:
    """Answers to P prompts with their log-probabilities under one model, usually the reference."""

    prompts: list[str]
    """Texts of the P prompts."""
    answers: list[list[str]]
    """Answers to each prompt as completions with a leading blank, without the end token."""
    prompt_ids: list[list[int]]
    """Token ids of the prompts."""
    answer_ids: list[list[list[int]]]
    """Token ids of the answers, the end token included."""
    logprobs: Array
    """[P A] log-probability of each whole answer in nats, float64; -inf for missing answers."""

    @property
    def people(self) -> tuple[str, ...]:
        """Person that each of the P prompts asks about, the unit that was drawn; else the prompt itself."""
        return tuple(subject_of(prompt) or prompt for prompt in self.prompts)

    @property
    def mask(self) -> Array:
        """[P A] true for existing answers."""
        counts = np.array([len(group) for group in self.answers])
        return np.arange(counts.max(initial=0)) < counts[:, None]

    @property
    def mass(self) -> Array:
        """[P] total probability of the set's answers."""
        return np.exp(self.logprobs).sum(axis=1)

    def score(self, scorer: Scorer) -> Array:
        """Return the log-probabilities [P A] of the same answers under another model, in nats.

        Args:
            scorer: an `LM`, or an object with the same `logprobs(prompt ids, groups of completion ids)`.
        """
        return _score(scorer, self.prompt_ids, self.answer_ids, self.mask)

    def logprobs_by_text(self, logprobs: Array) -> AnswerLogprobs:
        """Map prompt and answer to the answer's log-probability under a model.

        Args:
            logprobs: [P A] log-probabilities, see `score`.
        """
        return {
            (tuple(prompt), tuple(ids)): float(value)
            for prompt, group, row in zip(self.prompt_ids, self.answer_ids, logprobs, strict=True)
            for ids, value in zip(group, row[: len(group)], strict=True)
        }

    def rewards(self, reward: Reward) -> Array:
        """Return the rewards [P A] of the answers, 0 for missing answers.

        Raises:
            DataError: the function returns another number of rewards, or one that is not a finite number.
        """
        values = self.judge(reward)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise DataError(
                f"The reward returned no finite number for {bad} of {values.size} answers: return one for each."
            )
        return values

    def judge(self, reward: Reward) -> Array:
        """Return the rewards [P A], with NaN for rewards that do not apply (None).

        Raises:
            DataError: the function returns another number of rewards.
        """
        prompts = [prompt for prompt, group in zip(self.prompts, self.answers, strict=True) for _ in group]
        flat = [answer for group in self.answers for answer in group]
        values = np.array([np.nan if value is None else float(value) for value in reward(prompts, flat)], dtype=float)
        if values.shape != (len(flat),):
            raise DataError(f"The reward returned {len(values)} values for {len(flat)} answers: return one for each.")
        result = np.zeros(self.mask.shape)
        result[self.mask] = values
        return result

    def take(self, keep: Array) -> "AnswerSet":
        """Return the answer set of some of the prompts.

        Args:
            keep: [P] Booleans of the prompts to keep.
        """
        at = np.flatnonzero(keep)
        texts, answers = [self.prompts[i] for i in at], [self.answers[i] for i in at]
        ids, answer_ids = [self.prompt_ids[i] for i in at], [self.answer_ids[i] for i in at]
        width = max(map(len, answers), default=0)
        return AnswerSet(texts, answers, ids, answer_ids, self.logprobs[at, :width])

    def table(self, **columns: Array) -> pd.DataFrame:
        """Return one row per answer: prompt (its number), text, answer, logprob, and the given [P A] arrays by name."""
        row, column = np.nonzero(self.mask)
        data: dict[str, Any] = {
            "prompt": row,
            "text": [self.prompts[p] for p in row],
            "answer": [self.answers[p][a] for p, a in zip(row, column, strict=True)],
            "logprob": self.logprobs[row, column],
        }
        return pd.DataFrame(data | {name: values[row, column] for name, values in columns.items()})


def enumerate_answers(lm: "LM", world: "World", prompts: Sequence[str], scorer: Scorer | None = None) -> AnswerSet:
    """Return the world's answers to the prompts and their log-probabilities.

    Args:
        lm: model whose tokenizer encodes the texts; it scores them unless a scorer is given.
        world: the world that asks the questions.
        prompts: prompts with a finite answer set, such as those of `world.questions`.
        scorer: scorer to use in place of `lm`, for instance a frozen reference.

    Raises:
        DataError: a prompt asks nothing that the world can answer.
    """
    from probe.model.text import encode_all, split_all

    answers = [world.candidates(prompt) for prompt in prompts]
    end = [] if lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]
    heads = encode_all(lm.tokenizer, prompts)
    repeats = [prompt for prompt, group in zip(prompts, answers, strict=True) for _ in group]
    pairs = iter(split_all(lm.tokenizer, repeats, [answer for group in answers for answer in group]))
    ids = [[next(pairs)[1] + end for _ in group] for group in answers]
    empty = AnswerSet(list(prompts), answers, heads, ids, np.zeros((0, 0)))
    return AnswerSet(list(prompts), answers, heads, ids, empty.score(scorer or lm))


def verifier_reward(world: "World") -> Reward:
    """Return a reward that gives the verifier's score: +1 true, 0 abstains, -1 otherwise."""

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        return [world.verify(prompt, text).score for prompt, text in zip(prompts, completions, strict=True)]

    return reward


def annotator_reward(world: "World", annotator: "Annotator") -> Reward:
    """Return a reward that gives the annotator's expected utility, averaged over whether correctness is checked."""

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [annotator.expected_utility(world, prompt, text) for prompt, text in pairs]

    return reward


def preference_rewards(
    answers: AnswerSet,
    world: "World",
    annotator: "Annotator",
    weights: Array | None = None,
    flipped: float = 0.0,
) -> Array:
    """Return the Bradley-Terry rewards [P A] that best fit the annotator's exact preferences: DPO's limit.

    For an annotator who checks correctness always or never, preferences are Bradley-Terry, and the reward is utility /
    noise up to a constant for each prompt. One who checks *sometimes* is a mixture of two, which no reward gives
    exactly: if a large difference is checked with probability c, the odds stay below (1 + c) / (1 - c) however large it
    is, far from what the expected utility suggests. The fit minimises the expected loss of DPO (E13) over pairs of
    answers.

    Args:
        answers: answer sets, with the log-probabilities of the model from which the pairs are sampled.
        world: the world that judges the truth.
        annotator: the annotator with the preferences.
        weights: [P A] probability of drawing each answer for a pair; default: its probability under the model.
        flipped: share of labels that a conservative loss assumes to be wrong.
    """
    wins = np.zeros((*answers.mask.shape, answers.mask.shape[1]))
    for check, share in ((True, annotator.checks), (False, 1 - annotator.checks)):
        utility = answers.rewards(_utility(world, annotator, check)) / annotator.noise
        wins += share * expit(utility[:, :, None] - utility[:, None, :])
    wins = (1 - flipped) * wins + flipped * (1 - wins)
    frequency = np.exp(answers.logprobs) if weights is None else weights
    return bradley_terry(wins, frequency / frequency.sum(axis=1, keepdims=True)) * answers.mask


_FLAT = 1e-14
"""Minimum curvature of a step of `bradley_terry`, for preferences that are certain."""


NEWTON_STEPS = 100
"""Maximum number of steps of `bradley_terry`."""


def bradley_terry(wins: Array, weights: Array) -> Array:
    """Return rewards r [P A] whose sigma(r_a - r_b) best fits preferences, for a, b drawn by `weights`.

    Args:
        wins: [P A A] probability that a is preferred to b; wins[a, b] + wins[b, a] = 1.
        weights: [P A] probability of drawing each answer; sums to 1.

    Returns:
        Rewards with mean 0 under the weights. For answers that always win no finite reward is optimal: theirs rises
        until the remaining error is at the level of rounding.
    """
    r, index = np.zeros(weights.shape), np.arange(weights.shape[-1])
    for _ in range(NEWTON_STEPS):
        predicted = expit(r[:, :, None] - r[:, None, :])
        # the gradient by r_a, divided by the weight of a, so that rare answers are fitted as well as frequent ones
        gap = ((wins - predicted) * weights[:, None, :]).sum(axis=2)
        slope = predicted * (1 - predicted) * weights[:, None, :]
        hessian = -slope
        hessian[:, index, index] += slope.sum(axis=2) + _FLAT
        change = np.linalg.solve(hessian + weights[:, None, :], gap[..., None])[..., 0]
        change *= np.minimum(1.0, 2.0 / np.maximum(np.abs(change).max(axis=1, keepdims=True), 1e-12))
        r += change
        if np.abs(change).max(initial=0.0) < 1e-12:
            break
    return r - (weights * r).sum(axis=1, keepdims=True)


def _utility(world: "World", annotator: "Annotator", check: bool) -> Reward:
    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [annotator.utility(world, prompt, text, check) for prompt, text in pairs]

    return reward


def _score(scorer: Scorer, prompts: list[list[int]], groups: list[list[list[int]]], mask: Array) -> Array:
    """Return sums over tokens [P A], processing some prompts at a time."""
    import torch

    result = np.full(mask.shape, -np.inf)
    for start in range(0, len(prompts), CHUNK):
        part = slice(start, start + CHUNK)
        with torch.no_grad():
            values = scorer.logprobs(prompts[part], groups[part]).values
        rows = result[part]
        rows[mask[part]] = values.double().sum(dim=1).cpu().numpy()
    return result
