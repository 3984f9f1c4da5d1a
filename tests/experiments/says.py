"""A model that says what a rule says of the words so far: known exactly, so that estimators can be held against it."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from probe.world import World, WorldConfig
from tests.models import random_lm

WORLD = World(WorldConfig(), seed=0)
TOKENIZER = WORLD.tokenizer()


class Says:
    """A model that says what a rule says of the words so far: {word: probability}, uniform where it says nothing."""

    readout, ref, run_dir = "tokens", "rule", None
    device = torch.device("cpu")

    def __init__(self, rule: Callable[[list[str]], dict[str, float] | None]) -> None:
        self.tokenizer, self.rule = TOKENIZER, rule
        self.model = random_lm("llama", TOKENIZER).model

    def logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        size = len(self.tokenizer)
        found = torch.zeros(len(rows), max(map(len, rows)), size)
        for at, row in enumerate(rows):
            words = self.tokenizer.convert_ids_to_tokens(list(row))
            for t in range(len(row)):
                said = self.rule(words[1 : t + 1])
                if said is not None:
                    found[at, t] = -60.0
                    for word, p in said.items():
                        if p > 0:
                            found[at, t, self.tokenizer.convert_tokens_to_ids(word)] = float(np.log(p))
        return found


def pairs_of(words: list[str]) -> tuple[list[tuple[str, str]], str] | None:
    """The examples and the query of words that end in an arrow."""
    if words[-1:] != ["->"]:
        return None
    body = words[1:-1]
    return [(body[i], body[i + 2]) for i in range(0, len(body) - 1, 4)], body[-1]
