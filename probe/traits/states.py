"""States of answers: the residual stream after every block, averaged over the tokens of an answer.

Axes: N answers, L + 1 places (the embedding, then after each of L blocks), d width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from probe.interventions.sites import Site
from probe.model.text import encode, split
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

Ids = Sequence[int]
AT_ONCE = 4096
"""Number of tokens read at once."""


def answer_ids(lm: "LM", prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of its answer; a text that answers nothing is an answer after its first token.

    Raises:
        DataError: the tokenizer does not know a word, or the text is empty.
    """
    if prompt:
        return split(lm.tokenizer, prompt, answer)
    ids = encode(lm.tokenizer, answer)
    return ids[:1], ids[1:]


@torch.no_grad()
def mean_states(lm: "LM", answers: Sequence[tuple[Ids, Ids]], tick: Tick = ignore) -> Float[np.ndarray, "N places d"]:
    """Return the mean state over the tokens of each answer, after the embedding and after every block.

    Args:
        lm: the model.
        answers: ids of each prompt and of its answer; an empty answer stands for the last token of the prompt.
        tick: progress.

    Raises:
        DataError: a text is longer than the model's context.
    """
    names = [Site("resid", layer).hook for layer in range(-1, lm.bridge.cfg.n_layers)]
    order = sorted(range(len(answers)), key=lambda at: -sum(map(len, answers[at])))
    states = np.zeros((len(answers), len(names), lm.bridge.cfg.d_model), dtype=np.float32)
    start = 0
    while start < len(order):
        longest = sum(map(len, answers[order[start]]))
        part = order[start : start + max(1, AT_ONCE // longest)]
        texts = [[*answers[at][0], *answers[at][1]] for at in part]
        _, cache = lm.run_with_cache(texts, names)
        weights = torch.zeros(len(part), longest, dtype=torch.float64)
        for row, at in enumerate(part):
            first, end = len(answers[at][0]), len(texts[row])
            weights[row, min(first, end - 1) : end] = 1 / max(1, end - first)
        for place, name in enumerate(names):
            values = cache[name].double()
            states[part, place] = torch.einsum("nt,ntd->nd", weights.to(values.device), values).float().cpu().numpy()
        start += len(part)
        tick(start / len(order))
    return states
