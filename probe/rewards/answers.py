"""The finite answer sets of the world's prompts, with what a model gives each answer and what a reward makes of it.

The world knows all answers to its questions (`World.candidates`), so a distribution over them is a row of numbers and
nothing has to be sampled. An answer is scored with its end token: it is the whole completion. What a model puts on
other completions is 1 - `mass`; distributions over the answers are conditioned on the set.

Axes: P prompts, A answers of the longest set; where a set is shorter, log-probabilities are -inf and rewards 0.
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
"""(N prompts, N completions) -> N rewards: a verifier, `RewardModel.score`, or any function of the convention."""
AnswerLogprobs = dict[tuple[tuple[int, ...], tuple[int, ...]], float]
"""Log-probabilities of whole completions in nats, by the ids of the prompt and of the completion."""
CHUNK = 32


class Scorer(Protocol):
    """What gives log-probabilities of completions: an `LM`, or a reference."""

    def logprobs(self, prompts: Any, completions: Any) -> Any:
        """[N L] log-probabilities `.values` of the completions' tokens, 0 where masked; all are token ids."""


@dataclass(frozen=True)
class AnswerSet:
    """The answers to P prompts and what one model, the reference as a rule, gives them."""

    prompts: list[str]
    """The P prompts as text."""
    answers: list[list[str]]
    """Their answers as completions with a blank in front, without the end token."""
    prompt_ids: list[list[int]]
    """Token ids of the prompts."""
    answer_ids: list[list[list[int]]]
    """Token ids of the answers, the end token included."""
    logprobs: Array
    """[P A] log-probability of each whole answer in nats, float64, -inf beyond a prompt's answers."""

    @property
    def people(self) -> tuple[str, ...]:
        """P times whom a prompt asks about, who was drawn; the prompt itself where that is nobody."""
        return tuple(subject_of(prompt) or prompt for prompt in self.prompts)

    @property
    def mask(self) -> Array:
        """[P A] True at answers."""
        counts = np.array([len(group) for group in self.answers])
        return np.arange(counts.max(initial=0)) < counts[:, None]

    @property
    def mass(self) -> Array:
        """[P] probability that the model gives an answer of the set and nothing else."""
        return np.exp(self.logprobs).sum(axis=1)

    def score(self, scorer: Scorer) -> Array:
        """[P A] log-probabilities of the same answers under another model, in nats.

        Args:
            scorer: an `LM`, or anything whose `logprobs(prompt ids, groups of completion ids)` is an `LM`'s.
        """
        return _score(scorer, self.prompt_ids, self.answer_ids, self.mask)

    def logprobs_by_text(self, logprobs: Array) -> AnswerLogprobs:
        """Log-probabilities of the answers under a model, by prompt and answer.

        Args:
            logprobs: [P A], see `score`.
        """
        return {
            (tuple(prompt), tuple(ids)): float(value)
            for prompt, group, row in zip(self.prompt_ids, self.answer_ids, logprobs, strict=True)
            for ids, value in zip(group, row[: len(group)], strict=True)
        }

    def rewards(self, reward: Reward) -> Array:
        """[P A] rewards of the answers, 0 beyond a prompt's answers.

        Raises:
            DataError: the function gives another number of rewards, or one that is no finite number.
        """
        values = self.judge(reward)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise DataError(f"The reward gave {bad} of {values.size} answers no finite number: give one for each.")
        return values

    def judge(self, reward: Reward) -> Array:
        """[P A] the same with NaN where the reward does not apply (None).

        Raises:
            DataError: the function gives another number of rewards.
        """
        prompts = [prompt for prompt, group in zip(self.prompts, self.answers, strict=True) for _ in group]
        flat = [answer for group in self.answers for answer in group]
        values = np.array([np.nan if value is None else float(value) for value in reward(prompts, flat)], dtype=float)
        if values.shape != (len(flat),):
            raise DataError(f"The reward gave {len(values)} values for {len(flat)} answers: give one for each.")
        result = np.zeros(self.mask.shape)
        result[self.mask] = values
        return result

    def take(self, keep: Array) -> "AnswerSet":
        """Return the answer set of some of the prompts.

        Args:
            keep: [P] which of them, as booleans.
        """
        at = np.flatnonzero(keep)
        texts, answers = [self.prompts[i] for i in at], [self.answers[i] for i in at]
        ids, answer_ids = [self.prompt_ids[i] for i in at], [self.answer_ids[i] for i in at]
        width = max(map(len, answers), default=0)
        return AnswerSet(texts, answers, ids, answer_ids, self.logprobs[at, :width])

    def table(self, **columns: Array) -> pd.DataFrame:
        """One row an answer: prompt (its number), text, answer, logprob, and the given [P A] arrays by name."""
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
        lm: its tokenizer encodes the texts, and it scores them unless a scorer is given.
        world: who asks.
        prompts: prompts with a finite answer set, such as those of `world.questions`.
        scorer: scores in place of `lm`, for instance a frozen reference.

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
    """[P A] the Bradley-Terry reward that fits the annotator's exact preferences best: what DPO has in its limit.

    An annotator who checks correctness always or never is a Bradley-Terry one, and this is utility / noise up to a
    constant for each prompt. One who checks *sometimes* is a mixture of two, which no reward gives exactly: where the
    difference is checked with probability c and large, the odds stay below (1 + c) / (1 - c) however large it is, far
    from what the expected utility suggests. The fit minimises the expected loss of DPO (E13) over pairs of answers.

    Args:
        answers: the sets, with the log-probabilities of the model that the pairs are sampled from.
        world: who judges the truth.
        annotator: who prefers.
        weights: [P A] how often each answer is drawn for a pair; default: as often as the model gives it.
        flipped: share of the labels that a conservative loss takes to be wrong.
    """
    wins = np.zeros((*answers.mask.shape, answers.mask.shape[1]))
    for check, share in ((True, annotator.checks), (False, 1 - annotator.checks)):
        utility = answers.rewards(_utility(world, annotator, check)) / annotator.noise
        wins += share * expit(utility[:, :, None] - utility[:, None, :])
    wins = (1 - flipped) * wins + flipped * (1 - wins)
    frequency = np.exp(answers.logprobs) if weights is None else weights
    return bradley_terry(wins, frequency / frequency.sum(axis=1, keepdims=True)) * answers.mask


_FLAT = 1e-14
"""What a step of `bradley_terry` takes the curvature to be where preferences are certain and there is none."""


def bradley_terry(wins: Array, weights: Array, steps: int = 100) -> Array:
    """[P A] rewards r whose sigma(r_a - r_b) fits preference probabilities best when a, b are drawn by `weights`.

    Args:
        wins: [P A A] probability that a is preferred to b; wins[a, b] + wins[b, a] = 1.
        weights: [P A] how often each is drawn; sums to 1.
        steps: most Newton steps.

    Returns:
        Rewards with mean 0 under the weights. Of answers that always win no reward is large enough: theirs rises until
        what is missing cannot be told from rounding.
    """
    r, index = np.zeros(weights.shape), np.arange(weights.shape[-1])
    for _ in range(steps):
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
    """[P A] sums over tokens, some prompts at a time."""
    import torch

    result = np.full(mask.shape, -np.inf)
    for start in range(0, len(prompts), CHUNK):
        part = slice(start, start + CHUNK)
        with torch.no_grad():
            values = scorer.logprobs(prompts[part], groups[part]).values
        rows = result[part]
        rows[mask[part]] = values.double().sum(dim=1).cpu().numpy()
    return result
