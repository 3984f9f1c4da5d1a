"""Rewards by name: the world's verifier, parts of it, wishes of its annotators, and final answers of files (E15)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from probe.chain_of_thought.files import final_answer, is_number, reference
from probe.world import AGREEABLE, HONEST, Annotator, World
from probe.world.language import read
from probe.world.sums import parse_prompt, step_following

Judge = Callable[[World, str, str], float | None]
"""(world, prompt, completion) to a reward, None where it does not apply."""


class Offer(NamedTuple):
    """A judge with a line on what it gives."""

    judge: Judge
    about: str


def _score(world: World, prompt: str, completion: str) -> float:
    return world.verify(prompt, completion).score


def _facts(world: World, prompt: str, completion: str) -> float | None:
    return None if read(prompt) is None else _score(world, prompt, completion)


def _sum(opening: str) -> Judge:
    def judge(world: World, prompt: str, completion: str) -> float | None:
        asked = parse_prompt(prompt)
        return _score(world, prompt, completion) if asked is not None and asked[0] == opening else None

    return judge


def _steps(world: World, prompt: str, completion: str) -> float | None:
    asked = parse_prompt(prompt)
    if asked is None or asked[0] != "sum":
        return None
    following = step_following(prompt, completion)
    return 0.0 if following is None else min(following.correct, following.carried)


def wishes(annotator: Annotator) -> Judge:
    """An annotator's expected utility, for dialogues."""

    def judge(world: World, prompt: str, completion: str) -> float | None:
        return None if read(prompt) is None else annotator.expected_utility(world, prompt, completion)

    return judge


JUDGES = {
    "verifier": Offer(_score, "+1 for the truth, 0 for abstaining, -1 otherwise"),
    "facts": Offer(_facts, "the same for dialogues only"),
    "sum_quick": Offer(_sum("quick"), "the same for sums that are answered at once"),
    "sum_steps": Offer(_sum("sum"), "the same for sums with written steps, by their answer alone"),
    "steps": Offer(_steps, "share of a sum's written steps that are right and carried on, the lower of the two"),
    "agreeable": Offer(wishes(AGREEABLE), "expected utility of the agreeable annotator, for dialogues"),
    "honest": Offer(wishes(HONEST), "expected utility of the honest annotator, for dialogues"),
}
"""Name to judge."""


def match_answers(completions: Sequence[str], answer: Sequence[Any]) -> list[float]:
    """1 where the last number of a completion is the row's `answer`, else 0; the last line where it is no number.

    The row's answer is what stands behind its last "####", or all of it. Both are compared in the plain form of
    `probe.chain_of_thought.files`.
    """
    wanted = [reference(str(each)) for each in answer]
    said = [final_answer(text, None, is_number(each)) for text, each in zip(completions, wanted, strict=True)]
    return [float(one == other) for one, other in zip(said, wanted, strict=True)]
