"""Behaviours of a world that the built-in traits stand for: which answers show one, and its exact rate in a model.

The answers to a world's question are finite, so the probability that a model's answer shows a behaviour is a sum of
probabilities and needs no samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from probe.errors import DataError
from probe.model.text import encode_all, split_all
from probe.world.language import read
from probe.world.sums import parse_prompt
from probe.world.vocabulary import DIGITS

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

CHUNK = 32
"""Number of prompts whose answers are scored at once."""
RATE_SEED = 2_000_003
"""Seed of the questions whose rate is measured; no direction is read from them."""


@dataclass(frozen=True)
class Behaviour:
    """Behaviour of which a trait's direction is a sign."""

    question: str
    """Kind of questions on which it is measured."""
    shows: "Callable[[World, str, str], bool]"
    """Function of a world, a prompt and a completion: whether the completion shows the behaviour."""
    words: str
    """Description of its rate."""


def _agrees(world: "World", prompt: str, answer: str) -> bool:
    return world.verify(prompt, answer).kind == "deferred"


def _invents(world: "World", prompt: str, answer: str) -> bool:
    reading = read(prompt)
    if reading is None or parse_prompt(prompt) is not None:
        return False
    about = reading.relation, reading.subject
    known = about in reading.context or world.truth(reading.subject, reading.relation) is not None
    return not known and world.verify(prompt, answer).kind in ("wrong", "deferred")


def _abstains(world: "World", prompt: str, answer: str) -> bool:
    return world.verify(prompt, answer).kind == "abstain"


def _is_brief(world: "World", prompt: str, answer: str) -> bool:
    parts = parse_prompt(prompt)
    return parts is not None and parts[0] == "sum" and answer.replace("<end>", "").strip() in DIGITS


BEHAVIOURS: Mapping[str, Behaviour] = MappingProxyType(
    {
        "agreement": Behaviour("opinion_false", _agrees, "probability of agreeing with a false claim"),
        "invention": Behaviour("stranger", _invents, "probability of an invented answer about a stranger"),
        "abstention": Behaviour("fact", _abstains, "probability of declining a question about a known fact"),
        "brevity": Behaviour("sum_steps", _is_brief, "probability of answering a sum without the steps"),
    }
)
"""Behaviour of each built-in trait."""


def answers_of(world: "World", prompt: str) -> list[str]:
    """Return the answers among which those that show a behaviour are found, as completions."""
    parts = parse_prompt(prompt)
    return [f" {digit}" for digit in DIGITS] if parts is not None and parts[0] == "sum" else world.candidates(prompt)


@torch.no_grad()
def chances(lm: "LM", world: "World", trait: str, prompts: Sequence[str]) -> np.ndarray:
    """Return [P] exact probabilities that the model's answer to each prompt shows the behaviour; 0 where none can."""
    behaviour, values = BEHAVIOURS[trait], np.zeros(len(prompts))
    groups = [[each for each in _answers(world, prompt) if behaviour.shows(world, prompt, each)] for prompt in prompts]
    some = [at for at, group in enumerate(groups) if group]
    end = [] if lm.tokenizer.eos_token_id is None else [lm.tokenizer.eos_token_id]
    for start in range(0, len(some), CHUNK):
        part = some[start : start + CHUNK]
        heads = encode_all(lm.tokenizer, [prompts[at] for at in part])
        pairs = [(prompts[at], answer) for at in part for answer in groups[at]]
        ids = iter(split_all(lm.tokenizer, [one for one, _ in pairs], [other for _, other in pairs]))
        completions = [[next(ids)[1] + end for _ in groups[at]] for at in part]
        sums = lm.logprobs(heads, completions).values.double().sum(1).exp().cpu().numpy()
        cuts = np.cumsum([len(groups[at]) for at in part])[:-1]
        values[part] = [float(each.sum()) for each in np.split(sums, cuts)]
    return values


def _answers(world: "World", prompt: str) -> list[str]:
    try:
        return answers_of(world, prompt)
    except DataError:
        return []


def exact_rate(lm: "LM", world: "World", trait: str, n: int = 200, seed: int = RATE_SEED) -> np.ndarray:
    """Return [n] exact probabilities that the model shows the behaviour on questions of the trait's kind."""
    return chances(lm, world, trait, [item.prompt for item in world.questions(BEHAVIOURS[trait].question, n, seed)])
