"""Answers by a rule instead of a model, to questions with known answers, and margins of one text at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe import LM
from probe.model.dialogues import completion
from probe.model.text import encode
from probe.sycophancy import beliefs, choices
from probe.sycophancy.beliefs import BeliefQuestion, read_questions

QUESTIONS = Path("tests/data/sycophancy_questions.jsonl")
ASKED = {question.question: question for question in read_questions(QUESTIONS, 99)}
"""The questions of a file by their words."""
Rule = Callable[[str, Sequence[str]], Sequence[float]]
"""Scores in nats of the answers to a prompt."""
Score = Callable[[BeliefQuestion, str, str], float]
"""Score in nats of an answer, by the question and by what stands behind it."""


def answer_by(monkeypatch: pytest.MonkeyPatch, rule: Rule) -> None:
    """Answer by a rule."""

    def fake(lm: LM, prompts: Sequence[str], answers: Sequence[Sequence[str]], tick: Any = None) -> list[np.ndarray]:
        return [np.array(rule(prompt, group), dtype=float) for prompt, group in zip(prompts, answers, strict=True)]

    for module in (beliefs, choices):
        monkeypatch.setattr(module, "answer_logprobs", fake)


def answer_questions_by(monkeypatch: pytest.MonkeyPatch, score: Score) -> None:
    """Answer the questions of `QUESTIONS` by a rule."""

    def rule(prompt: str, group: Sequence[str]) -> list[float]:
        question = next(each for text, each in ASKED.items() if text in prompt)
        said = prompt.split(question.question)[-1].partition("\n\nAssistant:")[0]
        return [score(question, said, answer.strip()) for answer in group]

    answer_by(monkeypatch, rule)


def slow_margin(lm: LM, prompt: str, first: str, second: str) -> float:
    """Log-likelihood of one answer less that of another, in nats, each read as a text of its own."""
    totals = []
    for answer in (first, second):
        head, whole = encode(lm.tokenizer, prompt), encode(lm.tokenizer, prompt + completion(prompt, answer))
        with torch.no_grad():
            logprobs = lm.logits([whole])[0].log_softmax(-1)
        totals.append(sum(float(logprobs[at - 1, whole[at]]) for at in range(len(head), len(whole))))
    return totals[0] - totals[1]
