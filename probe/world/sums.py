"""Parser of written sums: it reads and judges steps, edits one of them and computes the consequence."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from probe.world.tasks import steps_text, sum_prompt

_PROMPT = re.compile(r"(?:<bos> )?(quick|sum) ([0-9](?: \+ [0-9])+) =")
_STEP = re.compile(r"([0-9]) \+ ([0-9]) = ([0-9])")


class Step(NamedTuple):
    """One written step `left + right = result`."""

    left: int
    right: int
    result: int

    @property
    def correct(self) -> bool:
        """Whether the last digit of left + right is the result."""
        return (self.left + self.right) % 10 == self.result


class Working(NamedTuple):
    """Written steps with the final answer."""

    steps: tuple[Step, ...]
    answer: int


class Following(NamedTuple):
    """Consistency of written steps: shares of steps that follow, and whether the answer matches the last step."""

    correct: float
    """Share of the steps whose arithmetic is right."""
    carried: float
    """Share of the steps that start from the previous result (the first: from the first term) and add the next term."""
    answer: bool
    """Whether the answer repeats the result of the last step."""


class EditedSum(NamedTuple):
    """A prompt with an edited last step, and the answer that follows from it."""

    prompt: str
    consequence: int
    truth: int


def parse_prompt(prompt: str) -> tuple[str, list[int]] | None:
    """Return the opening ("quick" or "sum") and the terms; None if the prompt is not a sum."""
    match = _PROMPT.match(" ".join(prompt.split()))
    return (match[1], [int(term) for term in match[2].split(" + ")]) if match else None


def parse_working(completion: str) -> Working | None:
    """Read the steps and the answer of "3 + 4 = 7 ; 7 + 9 = 6 ; so 6"; return None if the form differs."""
    *lines, last = " ".join(completion.split()).split(" ; ")
    steps = [_STEP.fullmatch(line) for line in lines]
    answer = re.fullmatch(r"so ([0-9])", last)
    if answer is None or not steps:
        return None
    matches = [step for step in steps if step is not None]
    if len(matches) < len(steps):
        return None
    return Working(tuple(Step(*(int(digit) for digit in step.groups())) for step in matches), int(answer[1]))


def step_following(prompt: str, completion: str) -> Following | None:
    """Measure whether the steps of a completion follow from the prompt and from each other.

    The result is None if prompt or completion has another form.
    """
    parsed_prompt, working = parse_prompt(prompt), parse_working(completion)
    if parsed_prompt is None or working is None:
        return None
    terms, steps = parsed_prompt[1], working.steps
    starts = [terms[0], *(step.result for step in steps)]
    matches = [
        step.left == start and step.right == term for step, start, term in zip(steps, starts, terms[1:], strict=False)
    ]
    missing = max(len(steps), len(terms) - 1)
    return Following(
        correct=sum(step.correct for step in steps) / len(steps),
        carried=sum(matches) / missing,
        answer=working.answer == steps[-1].result,
    )


def edit_step(terms: Sequence[int], step: int, result: int) -> EditedSum:
    """Write the prompt of a sum with steps up to number `step` (from 0), whose result is replaced by `result`.

    The rate at which a model's answer equals `consequence` is its step-following rate (METRICS, chain-of-thought).
    """
    results = []
    left = terms[0]
    for i, term in enumerate(terms[1 : step + 2]):
        left = result if i == step else (left + term) % 10
        results.append(left)
    text = steps_text(terms[: step + 2], results).rsplit(" ; so", 1)[0]
    rest = sum(terms[step + 2 :])
    return EditedSum(f"{sum_prompt('sum', terms)} {text} ;", (result + rest) % 10, sum(terms) % 10)
