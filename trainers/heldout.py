"""Preference pairs that are kept from training, and what a reward model makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.special import entr
from torch.nn.functional import logsigmoid
from transformers import PreTrainedTokenizerBase

from probe import RewardModel, stats
from probe.errors import DataError
from probe.hallucination.confidence import preference_calibration
from probe.model.text import pieces
from probe.rewards.bias import reward_bias
from probe.world import Annotator, World
from trainers.preferences import Pair


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out pairs, and who labelled them where that is known."""

    pairs: list[Pair]
    world: World | None = None
    annotator: Annotator | None = None
    """The world's annotator who labelled the pairs; None for pairs of a file."""
    trained: frozenset[str] = frozenset()
    """Prompts that are trained on."""
    seed: int = 0
    exact: list[float] = field(init=False)
    """The annotator's exact probability of preferring the chosen completion; empty without an annotator."""

    def __post_init__(self) -> None:
        world, judge = self.world, self.annotator
        exact = (
            [judge.preference_probability(world, *pair.texts) for pair in self.pairs if pair.texts]
            if world and judge
            else []
        )
        object.__setattr__(self, "exact", exact)

    def scores(self, model: RewardModel) -> np.ndarray:
        """The rewards [N 2] of the chosen and the rejected completions."""
        prompts = [pair.prompt for pair in self.pairs for _ in range(2)]
        return (
            model.score(prompts, [ids for pair in self.pairs for ids in (pair.chosen, pair.rejected)])
            .view(-1, 2)
            .numpy()
        )

    def figures(self, model: RewardModel, questions: int) -> list[dict[str, Any]]:
        """Rows metric, value, ci_low, ci_high, n (docs/metrics.md): the pairs, and the biases on fresh questions.

        Args:
            model: the reward model.
            questions: questions of each kind that the world asks; 0 for none.
        """
        rows = self._pair_figures(self.scores(model)) if self.pairs else []
        if self.world is not None and questions:
            rows += reward_bias(model, self.world, self.annotator, questions, self.seed, self.trained)
        return rows

    def _pair_figures(self, scores: np.ndarray) -> list[dict[str, Any]]:
        margins = (scores[:, 0] - scores[:, 1]).astype(float)
        n, seed = len(margins), self.seed
        losses = -logsigmoid(torch.from_numpy(margins)).numpy()
        found = {
            "eval_accuracy": stats.wilson(int((margins > 0).sum()), n),
            "eval_loss": stats.bootstrap_mean(losses, seed=seed),
            "eval_margin": stats.bootstrap_mean(margins, seed=seed),
            "eval_ece": preference_calibration(margins, seed=seed),
        }
        if self.exact:
            q = np.array(self.exact)
            found |= {
                "eval_ece_annotator": preference_calibration(margins, q, seed=seed),
                "accuracy_bound": stats.bootstrap_mean(np.maximum(q, 1 - q), seed=seed, bounds=stats.SHARE),
                "loss_bound": stats.bootstrap_mean(entr(q) + entr(1 - q), seed=seed, bounds=(0.0, float(np.log(2)))),
            }
        return [
            {"metric": name, "value": value.value, "ci_low": value.low, "ci_high": value.high, "n": n}
            for name, value in found.items()
        ]

    def rollouts(self, model: RewardModel, step: int, count: int) -> list[dict[str, Any]]:
        """The completions of the first `count` pairs as rows of rollouts.jsonl, with the reward at every token.

        `rewards` holds `model`, and in the world `gold` (the verifier's score) and `annotator` (expected utility).
        """
        both = [(number, pair, kept) for number, pair in enumerate(self.pairs[:count]) for kept in (True, False)]
        prompts = [pair.prompt for _, pair, _ in both]
        ids = [pair.chosen if kept else pair.rejected for _, pair, kept in both]
        values, mask = model.token_scores(prompts, ids)
        totals = model.score(prompts, ids).tolist()
        rows = []
        for row, (number, pair, kept) in enumerate(both):
            prompt, completion = as_text(model.tokenizer, pair, kept)
            rows.append(
                {
                    "step": step,
                    "prompt": prompt,
                    "completion": completion,
                    "group": number,
                    "chosen": kept,
                    "token_ids": ids[row],
                    "tokens": pieces(model.tokenizer, ids[row]),
                    "token_scores": values[row][mask[row]].tolist(),
                    "rewards": {"model": totals[row], **self._judged(prompt, completion)},
                    "reward": totals[row],
                }
            )
        return rows

    def _judged(self, prompt: str, completion: str) -> dict[str, float]:
        """What verifier and annotator make of a completion."""
        if self.world is None:
            return {}
        gold = {"gold": self.world.verify(prompt, completion).score}
        if self.annotator is None:
            return gold
        return gold | {"annotator": self.annotator.expected_utility(self.world, prompt, completion)}


def as_text(tokenizer: PreTrainedTokenizerBase, pair: Pair, chosen: bool) -> tuple[str, str]:
    """Prompt and completion of one side of a pair."""
    if pair.texts is not None:
        prompt, *sides = pair.texts
        return prompt, sides[0 if chosen else 1]
    ids = pair.chosen if chosen else pair.rejected
    return tokenizer.decode(pair.prompt), tokenizer.decode(ids, skip_special_tokens=True)


def hold_out(pairs: Sequence[Pair], held_out: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split pairs for training and for evaluation; all pairs of one prompt go to the same side.

    Args:
        pairs: all of them.
        held_out: at least 1 the number, below 1 the share that is held out (more if a prompt has several pairs).
        seed: of the order in which prompts are taken.

    Raises:
        DataError: nothing would be left to train on.
    """
    wanted = int(held_out) if held_out >= 1 else round(held_out * len(pairs))
    members: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        members.setdefault(tuple(pair.prompt), []).append(number)
    groups = list(members.values())
    taken: set[int] = set()
    for at in np.random.default_rng([seed, 1]).permutation(len(groups)):
        if len(taken) >= wanted:
            break
        taken.update(groups[at])
    if len(taken) == len(pairs):
        raise DataError(
            f"--held-out {held_out:g} leaves none of {len(pairs)} pairs to train on: hold out fewer, or give more."
        )
    kept = [pair for number, pair in enumerate(pairs) if number not in taken]
    return kept, [pairs[number] for number in sorted(taken)]
