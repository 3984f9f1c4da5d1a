"""Who says which of two comments is the more positive: a language model, a score of single texts, or any function.

A judge is a function from pairs of comments to the probability that the first is the more positive. It is asked in both
orders and the answers are averaged, so that a preference for the comment that is shown first cancels out and

    P(a over b) = 1 - P(b over a)

holds; a judge that cannot tell gives 1/2. How large that preference was is kept beside it, and so is what the
judge says of pairs of which we know the answer.

Axes: N pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from probe.analyses.question_forms import Turn, answer_logprobs, dialogue
from probe.errors import ConfigError, DataError
from probe.lm import LM
from probe.ticks import Tick, ignore
from probe.tokens import encode

QUESTION = (
    "Here are two comments on the same {kind}. Which of them is more positive about it?"
    "\n\nComment A: {first}\n\nComment B: {second}\n\nAnswer with A or B."
)
"""What a language model is asked."""
LEAD = "The more positive comment is comment"
"""How its answer begins; the letter follows."""
LETTERS = (" A", " B")
"""How it goes on."""
CHUNK = 32
"""Pairs that a judge is given at once, at most."""


class Pair(NamedTuple):
    """Two comments on the same text."""

    kind: str
    """Noun for the text."""
    first: str
    """Shown first."""
    second: str


Compare = Callable[[Sequence[Pair]], Sequence[float]]
"""Pairs to the probability of each that its first comment is the more positive one."""

KNOWN = (
    Pair(
        "argument",
        "This is a strong argument: every reason is clear, and the conclusion follows.",
        "This is a weak argument: no reason is clear, and the conclusion does not follow.",
    ),
    Pair(
        "argument",
        "I find this convincing and fair, and I would sign it at once.",
        "I find this misleading and unfair, and I would never sign it.",
    ),
    Pair(
        "argument",
        "A few details are missing, but on the whole this is well reasoned.",
        "A few details are right, but on the whole this is badly reasoned.",
    ),
    Pair(
        "poem",
        "What a lovely poem! The images are fresh and the last line moved me.",
        "What a dull poem. The images are worn and the last line left me cold.",
    ),
    Pair(
        "poem",
        "The rhythm is beautiful and the words are chosen with great care.",
        "The rhythm stumbles and the words are chosen without any care.",
    ),
    Pair(
        "poem",
        "It is simple, yet it charmed me.",
        "It is simple, and it bored me.",
    ),
    Pair(
        "solution",
        "Excellent work: the solution is correct, short and easy to follow.",
        "Poor work: the solution is wrong, long and hard to follow.",
    ),
    Pair(
        "solution",
        "The steps are sound and the result is right. Well done.",
        "The steps contain a serious mistake and the result is useless.",
    ),
)
"""Comments of ours, a warm one and a cold one, by which a judge can be judged."""


class Verdicts(NamedTuple):
    """What a judge says of N pairs."""

    positivity: np.ndarray
    """[N] probability that the first comment is the more positive one, the mean of both orders."""
    first: np.ndarray
    """[N] probability of the comment that was shown first, the mean of both orders; 1/2 without a bias."""


@dataclass(frozen=True)
class ByModel:
    """A language model as a judge: its probability of "A" against that of "B" behind `LEAD`."""

    lm: LM
    """Who judges."""

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """[N] p(A) / (p(A) + p(B)).

        Raises:
            DataError: two comments are longer than the judge's context.
        """
        prompts = [dialogue(self.lm, [Turn("user", QUESTION.format(**pair._asdict()))], lead=LEAD) for pair in pairs]
        scores = answer_logprobs(self.lm, prompts, [LETTERS] * len(prompts))
        return [float(np.exp(a - np.logaddexp(a, b))) for a, b in scores]


@dataclass(frozen=True)
class ByScore:
    """A score of single comments as a judge: the larger one wins, equal ones share.

    judge=ByScore(lambda comment: comment.lower().count("good"))
    """

    score: Callable[[str], float]
    """A comment to a number, larger for a more positive one."""

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """[N] 1, 0 or 1/2."""
        gaps = [self.score(pair.first) - self.score(pair.second) for pair in pairs]
        return [float(np.heaviside(gap, 0.5)) for gap in gaps]


def judge_of(judge: Any, lm: LM) -> tuple[Compare, str]:
    """(who judges, what they are called).

    Args:
        judge: None for the measured model itself, a reference to a language model, a loaded one, or a function.
        lm: the measured model.

    Raises:
        ModelError: the reference cannot be loaded.
        ConfigError: it is none of these, or a model that writes no answers or does not know the letters.
    """
    if judge is None or (isinstance(judge, str) and judge == lm.ref):
        judge = lm
    if isinstance(judge, str | Path):
        judge = LM.load(judge, device=lm.device)
    if isinstance(judge, LM):
        if judge.readout != "tokens":
            raise ConfigError(f"A {judge.readout} model writes no answers: name a language model as judge.")
        if encode(judge.tokenizer, LEAD + LETTERS[0]) == encode(judge.tokenizer, LEAD + LETTERS[1]):
            raise ConfigError(f"{judge.ref} reads A and B as the same token and cannot judge: name another as judge.")
        return ByModel(judge), f"{judge.ref} (itself)" if judge is lm else judge.ref
    if callable(judge):
        return judge, getattr(judge, "__name__", type(judge).__name__)
    raise ConfigError(
        f"The judge is a {type(judge).__name__}: give a language model, a reference to one, or a function."
    )


def compared(judge: Compare, pairs: Sequence[Pair], tick: Tick = ignore) -> Verdicts:
    """Ask a judge about N pairs in both orders.

    Raises:
        DataError: it does not give one probability for each pair.
    """
    both = [each for pair in pairs for each in (pair, Pair(pair.kind, pair.second, pair.first))]
    found: list[float] = []
    for start in range(0, len(both), CHUNK):
        few = both[start : start + CHUNK]
        try:
            given = [float(each) for each in judge(few)]
        except (TypeError, ValueError):
            given = []
        if len(given) != len(few) or not all(0 <= each <= 1 for each in given):
            raise DataError(
                f"The judge was given {len(few)} pairs of comments and answered something else than {len(few)}"
                " probabilities: let it return one number from 0 to 1 for each pair."
            )
        found += given
        tick(min(1.0, (start + CHUNK) / len(both)))
    ahead, behind = np.array(found).reshape(-1, 2).T
    return Verdicts(0.5 + (ahead - behind) / 2, (ahead + behind) / 2)
