"""A problem small enough to be solved exactly: three prompts, six answers of one token, a reward for each.

A tiny model is fitted to a given distribution over the answers, so that it hardly ever says anything else; it is the
base and the reference of the real trainers. Its answers are enumerated, so the optimum of every objective is known.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from scipy.special import expit

from probe import LM, Run
from probe.model.scoring import completion_logprobs
from probe.rewards.answers import AnswerSet, enumerate_answers
from probe.rewards.optimum import condition
from tests.models import random_lm, reloaded

PROMPTS = ("where does mira live ?", "where does tom live ?", "where does ana live ?")
ANSWERS = ("oslo", "rome", "paris", "cat", "dog", "one")
REFERENCE = np.array(
    [
        [0.40, 0.25, 0.15, 0.10, 0.06, 0.04],
        [0.05, 0.10, 0.35, 0.30, 0.12, 0.08],
        [0.20, 0.20, 0.10, 0.10, 0.30, 0.10],
    ]
)
REWARDS = np.array(
    [
        [-0.5, 0.3, 1.0, 0.0, -1.0, 0.6],
        [1.0, 0.5, -0.6, 0.2, 0.0, -1.0],
        [0.0, -0.8, 0.9, 0.4, -0.3, 1.0],
    ]
)
JUDGE = '''
REWARDS = {rewards}


def judge(prompts, completions):
    """The reward of each answer, -1 for anything else."""
    return [REWARDS[prompt].get(completion.strip(), -1.0) for prompt, completion in zip(prompts, completions)]
'''


@dataclass(frozen=True)
class Tabular:
    """The problem with its files."""

    base: Path
    """Directory of the fitted model."""
    judge: str
    """`file.py:function` of the reward."""
    prompts: Path
    """The prompts as JSONL, each many times."""
    answers: AnswerSet
    """With the log-probabilities of the base."""

    @property
    def rewards(self) -> np.ndarray:
        return REWARDS

    def score(self, run: Run) -> np.ndarray:
        """[P A] what the trained model gives to the answers."""
        return self.answers.score(LM.load(run.path))


def make(folder: Path, repeats: int = 64, steps: int = 150) -> Tabular:
    """Fit the base and write the files."""
    lm = random_lm("llama", reloaded(random_lm().tokenizer, folder / "tokenizer"), seed=3)
    world = SimpleNamespace(candidates=lambda prompt: [f" {answer}" for answer in ANSWERS])
    answers = enumerate_answers(lm, world, PROMPTS)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=1e-2, weight_decay=0.0)
    target = torch.tensor(REFERENCE, dtype=torch.float32)
    for _ in range(steps):
        scored = completion_logprobs(lm.model, answers.prompt_ids, answers.answer_ids).values.sum(1)
        loss = -(target * scored.view(target.shape)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answers = AnswerSet(answers.prompts, answers.answers, answers.prompt_ids, answers.answer_ids, answers.score(lm))
    base = lm.save(folder / "base")
    table = {
        prompt: dict(zip(ANSWERS, row, strict=True)) for prompt, row in zip(PROMPTS, REWARDS.tolist(), strict=True)
    }
    (folder / "judge.py").write_text(JUDGE.format(rewards=table))
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS)
    (folder / "prompts.jsonl").write_text(rows * repeats)
    return Tabular(base, f"{folder / 'judge.py'}:judge", folder / "prompts.jsonl", answers)


def write_pairs(path: Path, tabular: Tabular, n: int, noise: float, seed: int = 0) -> Path:
    """`n` pairs of different answers drawn from the base, labelled by Bradley-Terry with the reward over `noise`."""
    rng, weights = np.random.default_rng(seed), np.exp(condition(tabular.answers.logprobs))
    with path.open("w") as file:
        while n > 0:
            prompt = int(rng.integers(len(PROMPTS)))
            first, second = (int(i) for i in rng.choice(len(ANSWERS), 2, p=weights[prompt]))
            if first == second:
                continue
            if rng.random() > expit((REWARDS[prompt, first] - REWARDS[prompt, second]) / noise):
                first, second = second, first
            pair = {"prompt": PROMPTS[prompt], "chosen": f" {ANSWERS[first]}", "rejected": f" {ANSWERS[second]}"}
            file.write(json.dumps(pair) + "\n")
            n -= 1
    return path
