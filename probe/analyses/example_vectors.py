"""What examples add to the residual stream at the last token of a prompt, with gold and with permuted labels.

Axes: P prompts, D blocks, d width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.few_shot import Example, Question, few_shot_prompt
from probe.analyses.label_ablation import Mode, relabel
from probe.analyses.sites import Site
from probe.model.text import encode
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

VECTORS: tuple[tuple[str, Mode], ...] = (("own", "gold"), ("shuffled", "permuted"))
"""Name of each vector and the labels of the examples that make it."""


def draw_prompts(
    data: Sequence[Example], half: Sequence[int], count: int, shots: int, rng: np.random.Generator
) -> list[Question]:
    """Queries of a half, each with other examples of that half before it."""
    found = []
    for _ in range(count):
        asked, *others = rng.permutation(np.asarray(half))[: shots + 1].tolist()
        found.append(Question(asked, data[asked], [data[other] for other in others]))
    return found


@torch.no_grad()
def example_vectors(
    lm: "LM",
    drawn: Sequence[Question],
    labels: Sequence[str],
    k: int,
    blocks: Sequence[int],
    template: str,
    rng: np.random.Generator,
    tick: Tick = ignore,
) -> dict[str, Float[Tensor, "P D d"]]:
    """The residual at the last token of each prompt with examples, less that without: by names of `VECTORS`.

    Args:
        lm: the model.
        drawn: P queries with their examples.
        labels: the label space.
        k: examples in each prompt, the first ones.
        blocks: D blocks after which it is read.
        template: how an example is written.
        rng: permutes labels, in each prompt anew.
        tick: progress.
    """
    found: dict[str, list[Tensor]] = {name: [] for name, _ in VECTORS}
    for number, question in enumerate(drawn):
        zero = _last(lm, few_shot_prompt([], question.query.text, template), blocks)
        for name, mode in VECTORS:
            examples = question.examples[:k]
            changed = relabel([example.label for example in examples], labels, mode, rng)
            shown = [Example(example.text, label) for example, label in zip(examples, changed, strict=True)]
            found[name].append(_last(lm, few_shot_prompt(shown, question.query.text, template), blocks) - zero)
        tick((number + 1) / len(drawn))
    return {name: torch.stack(each) for name, each in found.items()}


def _last(lm: "LM", text: str, blocks: Sequence[int]) -> Float[Tensor, "D d"]:
    """The residual after blocks at the last token."""
    kept: list[Tensor] = []

    def keep(states: Tensor, hook: Any) -> None:
        kept.append(states[0, -1].double())

    def last(states: Tensor, hook: Any) -> Tensor:
        return states[:, -1:]

    with lm.hooks([*((Site("resid", block).hook, keep) for block in blocks), ("unembed.hook_in", last)]):
        lm.logits([encode(lm.tokenizer, text)])
    return torch.stack(kept)
