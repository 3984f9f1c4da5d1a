"""What a model gives labels behind prompts while a vector is added to the residual stream at each prompt's last token.

As `lm-evaluation-harness` scores multiple choice: the summed log-likelihood of each label's tokens. Only the prompt's
last token is changed, also where a label has several tokens. Labels of one token share one row.

Axes: Q prompts, L labels, d width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.sites import TOKENS_PER_PASS, Site
from probe.model.text import split

if TYPE_CHECKING:
    from probe.model.lm import LM


class Wanted(NamedTuple):
    """A label that is read in a row."""

    prompt: int
    label: int
    ids: list[int]


class Asked(NamedTuple):
    """Prompts with their labels as rows of ids, in which a label's last token is not needed."""

    rows: list[list[int]]
    ends: list[int]
    """Of each row: the prompt's last token."""
    wanted: list[list[Wanted]]
    """Of each row: the labels that are read in it."""
    shape: tuple[int, int]
    """Prompts and labels."""


def ask(lm: "LM", prompts: Sequence[str], labels: Sequence[str]) -> Asked:
    """The rows that are needed to score each label, behind a blank, after each prompt."""
    known: dict[tuple[int, ...], int] = {}
    asked = Asked([], [], [], (len(prompts), len(labels)))
    for number, prompt in enumerate(prompts):
        for which, label in enumerate(labels):
            head, ids = split(lm.tokenizer, prompt, f" {label}")
            row = (*head, *ids[:-1])
            if row not in known:
                known[row] = len(known)
                asked.rows.append(list(row))
                asked.ends.append(len(head) - 1)
                asked.wanted.append([])
            asked.wanted[known[row]].append(Wanted(number, which, ids))
    return asked


@torch.no_grad()
def steered_labels(
    lm: "LM", asked: Asked, vectors: Float[Tensor, "Q d"] | None = None, block: int = 0
) -> Float[np.ndarray, "Q L"]:
    """Summed log-likelihood in nats of each label.

    Args:
        lm: the model.
        asked: see `ask`.
        vectors: what is added at the last token of each prompt; None adds nothing.
        block: after which they are added.
    """
    found = np.empty(asked.shape)
    size = max(1, TOKENS_PER_PASS // max(map(len, asked.rows)))
    for first in range(0, len(asked.rows), size):
        rows, ends = asked.rows[first : first + size], asked.ends[first : first + size]
        owners, start = [wanted[0].prompt for wanted in asked.wanted[first : first + size]], min(ends)

        def add(states: Tensor, hook: Any, ends: list[int] = ends, owners: list[int] = owners) -> Tensor | None:
            if vectors is None:
                return None
            states = states.clone()
            states[torch.arange(len(ends)), torch.tensor(ends)] += vectors[owners].to(states)
            return states

        def needed(states: Tensor, hook: Any, start: int = start) -> Tensor:
            return states[:, start:]

        with lm.hooks([(Site("resid", block).hook, add), ("unembed.hook_in", needed)]):
            said = lm.logits(rows)
        for at, (end, wanted) in enumerate(zip(ends, asked.wanted[first : first + size], strict=True)):
            for prompt, label, ids in wanted:
                steps = torch.arange(len(ids))
                logprobs = said[at, steps + end - start].double().log_softmax(-1)
                found[prompt, label] = float(logprobs[steps, torch.tensor(ids)].sum())
    return found
