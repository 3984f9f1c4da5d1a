"""Prompts with their completions as trees in rows: one forward pass in which nothing is run twice and little is padded.

A tree is a prompt followed by its completions. Each token sees the prompt and its own completion up to itself, none
of the others; positions count along the branch. Trees that fit stand side by side in a row and do not see each other.
The last token of a completion is only ever a target, so it is not run: a pair of 8 tokens each on a prompt of 18 costs
32 tokens in place of 52.

Axes: R rows of W columns, M completion tokens in reading order, d width of the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.forward import Ids
from probe.sharing import window

WIDEST = 1.5
"""A tree may have this many tokens for each unit of the model's width; beyond, attention to the rest of the row, which
is computed and masked, costs more than the repeated prompt (docs/log.md)."""


@dataclass(frozen=True)
class Layout:
    """Where each token of some trees stands."""

    ids: Int[Tensor, "R W"]
    positions: Int[Tensor, "R W"]
    sees: Bool[Tensor, "R 1 W W"]
    """Whether the token in a row of the last two axes attends to the one in the column; padding sees padding."""
    sources: Int[Tensor, " M"]
    """For each completion token the place, counted along the flattened rows, of the token that predicts it."""


def size(prompt: Ids, group: Sequence[Ids]) -> int:
    """Tokens of a tree that are run."""
    return len(prompt) + sum(max(len(ids) - 1, 0) for ids in group)


def lay_out(prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> Layout:
    """Trees in as few rows as first-fit finds, each as wide as the largest tree."""
    sizes = [size(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]
    rows, starts = _fit(sizes)
    shape = max(rows, default=-1) + 1, max(sizes, default=0)
    ids, places, branches = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    trees = np.full(shape, -1)
    sources: list[int] = []
    for tree, (row, start, prompt, group) in enumerate(zip(rows, starts, prompts, groups, strict=True)):
        at, length = slice(start, start + sizes[tree]), len(prompt)
        runs = [completion[:-1] for completion in group]
        ids[row, at] = [*prompt, *(token for run in runs for token in run)]
        places[row, at] = [*range(length), *(i for run in runs for i in range(length, length + len(run)))]
        branches[row, at] = [0] * length + [branch for branch, run in enumerate(runs, start=1) for _ in run]
        trees[row, at] = tree
        root = row * shape[1] + start + length - 1
        first = root + 1
        for completion, run in zip(group, runs, strict=True):
            sources += [root] if completion else []
            sources += range(first, first + len(run))
            first += len(run)
    stands, where, of, on = (torch.from_numpy(table) for table in (ids, places, trees, branches))
    return Layout(stands, where, _sees(of, on), torch.tensor(sources, dtype=torch.long))


def _fit(sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Row and first column of each tree: the largest first, each into the first row that has room."""
    width = max(sizes, default=0)
    rows, starts, filled = [0] * len(sizes), [0] * len(sizes), list[int]()
    for tree in sorted(range(len(sizes)), key=lambda tree: -sizes[tree]):
        row = next((row for row, used in enumerate(filled) if used + sizes[tree] <= width), len(filled))
        if row == len(filled):
            filled.append(0)
        rows[tree], starts[tree] = row, filled[row]
        filled[row] += sizes[tree]
    return rows, starts


def _sees(trees: Int[Tensor, "R W"], branches: Int[Tensor, "R W"]) -> Bool[Tensor, "R 1 W W"]:
    one_tree = trees[:, :, None] == trees[:, None, :]
    open_branch = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    return (one_tree & open_branch).tril()[:, None]


def fits(model: Any, prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> bool:
    """Whether the trees are narrow enough that a masked row pays, and that a window of attention sees all of it."""
    reach = window(model)
    most = WIDEST * model.config.get_text_config(decoder=True).hidden_size
    return widest(prompts, groups) <= (most if reach is None else min(most, reach))


def widest(prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> int:
    """Tokens of the largest tree, which every row is as wide as."""
    return max((size(prompt, group) for prompt, group in zip(prompts, groups, strict=True)), default=0)


def attention_mask(model: Any, sees: Bool[Tensor, "R 1 W W"]) -> Tensor:
    """What the attention of `model` takes: truth values, or for the eager one numbers to add to the scores."""
    if model.config._attn_implementation == "sdpa":
        return sees
    return torch.zeros(sees.shape, dtype=model.dtype, device=sees.device).masked_fill(
        ~sees, torch.finfo(model.dtype).min
    )


@contextmanager
def unembed_only(model: Any, places: Int[Tensor, " M"]) -> Iterator[None]:
    """Inside, `model` gives logits [1 M V] of these places of the flattened batch and projects no others."""

    def select(_: nn.Module, inputs: tuple[Float[Tensor, "R W d"], ...]) -> tuple[Float[Tensor, "1 M d"]]:
        return (inputs[0].flatten(0, 1)[places][None],)

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
