"""pass@1 and pass@8 on held-out questions of the world or of a file, at every capture of a training that samples.

pass@k is the probability that at least one of k samples is right (Chen et al. 2021, arXiv 2107.03374). A policy that
only narrows gains at pass@1 and loses at pass@8. Questions and random numbers are the same at every capture, and no
generator of the training is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from probe import LM
from probe.chain_of_thought.measures import pass_at_k
from probe.model.text import encode
from probe.recording.recorder import leave_undisturbed
from probe.world import World
from probe.world.questions import Item
from trainers.config import OnlineConfig
from trainers.prompts import Prompt, Prompts, columns_of
from trainers.reward_functions import RewardFunction, resolve
from trainers.session import derive_seed

QUESTIONS, SAMPLES = 32, 8
"""Most questions, and samples of each."""
CANDIDATES = 8
"""Questions that are drawn for each that is wanted, as those that are trained on are left out."""
PASSING = 5
"""Purpose of derived seeds (`trainers.sampling.SAMPLING` and others)."""


@dataclass(frozen=True)
class PassRates:
    """Measurement of pass@k on fixed questions."""

    questions: Sequence[Prompt]
    judge: RewardFunction
    """Reward that is above 0 for a right completion."""
    config: OnlineConfig

    def __call__(self, lm: LM) -> dict[str, float]:
        """Return pass@1 and pass@8 of a model; nothing without questions.

        Raises:
            DataError: the judge fails.
        """
        if not self.questions:
            return {}
        config = self.config
        with leave_undisturbed(lm.model), torch.no_grad():
            output = lm.generate(
                [question.ids for question in self.questions],
                n=SAMPLES,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
                seed=[derive_seed(config.seed, place, PASSING) for place in range(len(self.questions))],
            )
        asked = [question for question in self.questions for _ in range(SAMPLES)]
        scores = self.judge([each.text for each in asked], output.text, **columns_of(asked, output.ids))
        right = np.reshape([score is not None and score > 0 for score in scores], (-1, SAMPLES)).sum(1)
        return {f"pass@{k}": float(pass_at_k(right, SAMPLES, k).mean()) for k in (1, SAMPLES)}


def pass_rates(
    lm: LM, world: World | None, config: OnlineConfig, prompts: Prompts, rewards: Sequence[RewardFunction]
) -> PassRates | None:
    """Return the measurement of pass@k; None without captures, or without held-out prompts of a file."""
    if prompts.held_out:
        return PassRates(prompts.held_out, rewards[0], config)
    if world is None or config.data != "world" or not config.capture_every:
        return None
    questions = held_out_questions(world, config, [prompt.text for prompt in prompts.items])
    (verifier,) = resolve(["verifier"], world)
    return PassRates(
        [Prompt(each.prompt, encode(lm.tokenizer, each.prompt), {}) for each in questions], verifier, config
    )


def held_out_questions(world: World, config: OnlineConfig, trained: Sequence[str]) -> list[Item]:
    """Draw questions of the trained kinds that have a true answer and whose prompts are not trained on.

    Each kind has an equal number, or as many as there are.
    """
    seed, known = derive_seed(config.seed, PASSING), set(trained)
    share = max(QUESTIONS // len(config.tasks), 1)
    chosen: dict[str, Item] = {}
    for kind in config.tasks:
        drawn = {question.prompt: question for question in world.questions(kind, CANDIDATES * share, seed)}
        new = [prompt for prompt in drawn if prompt not in known and _has_truth(world, drawn[prompt])]
        chosen |= {prompt: drawn[prompt] for prompt in new[:share]}
    return list(chosen.values())[:QUESTIONS]


def _has_truth(world: World, question: Item) -> bool:
    """Return whether a question has a true answer; one on unseen entities has none, as abstaining is best."""
    return any(world.verify(question.prompt, answer).score > 0 for answer in question.answers)
