"""The neurons that add or take most of an answer's logit, of many texts at once, after the last token of each.

The same numbers as `Attribution.neuron_table` gives for one text, of the pass that a capture makes anyway: of the
activations that enter W_out only those of the last tokens are kept.

Axes: P texts, T tokens, D blocks, d width, m neurons of a block, n of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.attribution import rounding
from probe.model.lm import LM

Posts = dict[int, Float[Tensor, "P m"]]
"""By block, what enters W_out after the last token of each text."""


class LastNeurons(NamedTuple):
    """The strongest neurons of each block after the last token of each text."""

    ids: Int[Tensor, "P D n"]
    """Numbers of the neurons, the strongest first whether it adds or takes."""
    values: Float[Tensor, "P D n"]
    """What each adds to the target, nats."""


@contextmanager
def last_posts(lm: LM, shape: Sequence[int], last: Int[Tensor, " P"]) -> Iterator[Posts]:
    """Inside, a pass over texts leaves in the dict what enters W_out after their last tokens, where there is W_out.

    Args:
        lm: the model.
        shape: (P, T) of the batch that will be run.
        last: position of the last token of each text.
    """
    bridge, texts = lm.bridge, torch.arange(len(last))
    posts: Posts = {}

    def reader(block: int) -> Callable[[Tensor, object], None]:
        def keep(tensor: Tensor, hook: object) -> None:
            if tensor.shape[:-1].numel() == shape[0] * shape[1]:  # else it is not one row a token (experts)
                rows = tensor.detach().reshape(*shape, -1)
                posts[block] = rows[texts.to(rows.device), last.to(rows.device)].float()

        return keep

    names = {block: f"blocks.{block}.mlp.hook_post" for block in range(bridge.cfg.n_layers)}
    with lm.hooks([(name, reader(block)) for block, name in names.items() if name in bridge.hook_dict]):
        yield posts


@torch.no_grad()
def strongest(lm: LM, posts: Posts, u: Float[Tensor, "P d"], mlps: Float[Tensor, "P D"], n: int) -> LastNeurons | None:
    """The n neurons of each block whose share of the target is the largest by its absolute value.

    Args:
        lm: the model.
        posts: what `last_posts` kept.
        u: of each text, the direction in the residual stream whose product with a part is its share.
        mlps: the share of each MLP.
        n: how many neurons; of a narrower MLP fewer are given, in every block alike.

    Returns:
        None where neurons and the bias of W_out do not sum to the MLPs: experts, or a norm after them.
    """
    blocks = lm.bridge.blocks
    ids, values = [], []
    for block, whole in enumerate(mlps.T):
        post, mlp = posts.get(block), blocks[block].mlp
        weight, bias = getattr(mlp, "W_out", None), getattr(mlp, "b_out", None)
        if weight is None or post is None or weight.shape != (post.shape[-1], u.shape[-1]):
            return None
        shares = post * (u @ weight.detach().float().T)
        rest = whole if bias is None else whole - u @ bias.detach().float()
        gaps, sizes = (shares.sum(-1) - rest).abs().tolist(), shares.abs().sum(-1).tolist()
        if not all(gap <= rounding(lm, size) for gap, size in zip(gaps, sizes, strict=True)):
            return None
        order = shares.abs().argsort(dim=-1, descending=True, stable=True)[:, :n]
        ids.append(order)
        values.append(shares.gather(-1, order))
    width = min(each.shape[-1] for each in ids)
    return LastNeurons(*(torch.stack([each[:, :width] for each in rows], dim=1) for rows in (ids, values)))
