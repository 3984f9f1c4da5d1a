"""Direct logit attribution of many texts at once, at the last token of each, from activations that are there already.

The same sum as `probe.analyses.attribution.attribute` takes apart for one text, by head and MLP alone: what a capture
can afford at every step. What is left (embedding, positions, biases) is one number. The tokens that each part promotes
and suppresses come with it, as `probe.analyses.promoted.promoted` gives them, and the strongest neurons
(`probe.analyses.neurons_last`).

Axes: P texts, A answers, D blocks, H heads, T tokens, d width, dh head width, V vocabulary, k tokens, n neurons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.attribution import rounding
from probe.analyses.direct import final_norm, output_scale
from probe.analyses.neurons_last import LastNeurons, Posts, strongest
from probe.analyses.parts import output_weights
from probe.errors import ModelError
from probe.model.lm import LM


class LastAttribution(NamedTuple):
    """The logit of each text's first answer minus that of its second, after its last token, as a sum; in nats."""

    parts: Float[Tensor, "P D H+1"]
    """What each head adds, and last what the MLP adds, its bias included."""
    rest: Float[Tensor, " P"]
    """What embedding, positions and the biases of attention, final norm and unembedding add."""
    value: Float[Tensor, " P"]
    """The difference as the model gives it: the sum of all parts and the rest, up to rounding."""
    promoted: Int[Tensor, "P D H+1 2 k"]
    """The tokens whose logits each part raises most, then those that it lowers most, the strongest first."""
    neurons: LastNeurons | None
    """The neurons of each block that add or take most; None where they do not make up the MLPs."""


def last_names(lm: LM) -> list[str]:
    """Hook names that `attribute_last` reads beside the residual stream; none if a block lacks heads or an MLP."""
    bridge = lm.bridge
    names = [
        name
        for block in range(bridge.cfg.n_layers)
        for name in (f"blocks.{block}.attn.hook_z", f"blocks.{block}.hook_mlp_out")
    ]
    known = bridge.hook_dict
    return names if all(name in known for name in names) else []


@torch.no_grad()
def attribute_last(
    lm: LM,
    names: Sequence[str],
    cache: Mapping[str, Tensor],
    logits: Float[Tensor, "P T V"],
    last: Int[Tensor, " P"],
    answers: Int[Tensor, "P A"],
    k: int = 5,
    posts: Posts | None = None,
    n: int = 10,
) -> LastAttribution | None:
    """What every part adds to the logit of a text's first answer minus that of its second.

    Args:
        lm: the model.
        names: `last_names(lm)`.
        cache: activations that hold these and `residual_names(lm)`.
        logits: the model's own output.
        last: position of the last token of each text.
        answers: answer tokens of each text, padded with -1. One answer is taken alone; without any all is zero.
        k: how many promoted and suppressed tokens to give.
        posts: what `last_posts` kept in the same pass; without it no neurons are given.
        n: how many neurons of each block to give.

    Returns:
        None where the parts do not sum to the logits: a norm after attention or MLP, capped logits, no heads.
    """
    if not names:
        return None
    bridge, first, final = lm.bridge, "blocks.0.hook_resid_pre", f"blocks.{len(names) // 2 - 1}.hook_resid_post"
    texts, last = torch.arange(len(last), device=logits.device), last.to(logits.device)

    def read(name: str) -> Tensor:
        return cache[name][texts, last].float()

    try:
        norm = final_norm(lm, read(final))
    except ModelError:
        return None
    head = lm.model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    column = _difference(head.weight.detach(), answers) * output_scale(lm)
    u = norm.direction(column)
    rest = (read(first) * u).sum(-1) + column @ norm.shift
    if bias is not None:
        rest = rest + _difference(bias.detach()[:, None], answers)[:, 0] * output_scale(lm)
    parts: list[Tensor] = []
    named: list[Tensor] = []
    wide, columns = replace(norm, scale=norm.scale[:, None]), head.weight.detach().float()
    k = min(k, len(columns))
    for z_name, mlp_name in zip(names[::2], names[1::2], strict=True):
        w_o, b_o = output_weights(bridge, len(parts))
        z = read(z_name).reshape(len(texts), *w_o.shape[:2])
        written = torch.cat([torch.einsum("phe,hed->phd", z, w_o), read(mlp_name)[:, None]], dim=1)
        parts.append(torch.einsum("pnd,pd->pn", written, u))
        change = wide(written) @ columns.T * output_scale(lm)
        named.append(torch.stack([change.topk(k).indices, (-change).topk(k).indices], dim=2))
        rest = rest if b_o is None else rest + u @ b_o
    found = torch.stack(parts, dim=1)
    value = _difference(logits[texts, last].float()[..., None], answers, own=True)[:, 0]
    gap = (found.sum((1, 2)) + rest - value).abs()
    size = found.abs().sum((1, 2)) + rest.abs()
    sums = all(g <= rounding(lm, s) for g, s in zip(gap.tolist(), size.tolist(), strict=True))
    if not sums:
        return None
    neurons = strongest(lm, posts, u, found[:, :, -1], n) if posts else None
    return LastAttribution(found, rest, value, torch.stack(named, dim=1), neurons)


def _difference(rows: Tensor, answers: Int[Tensor, "P A"], own: bool = False) -> Float[Tensor, "P n"]:
    """The row of each text's first answer minus that of its second, zeros for an answer that is not there.

    Args:
        rows: [V n], or [P V n] if each text has its own.
        answers: answer tokens of each text, padded with -1.
        own: whether each text has its own.
    """
    texts = torch.arange(len(answers), device=rows.device)
    total = rows.new_zeros((len(answers), rows.shape[-1]), dtype=torch.float32)
    for sign, asked in zip((1.0, -1.0), answers.to(rows.device).T, strict=False):
        found = rows[texts, asked.clamp(min=0)] if own else rows[asked.clamp(min=0)]
        total = total + sign * found.float().masked_fill((asked < 0)[:, None], 0.0)
    return total
