"""Direct logit attribution of many texts at once: the logit of an answer as a sum over the parts of a model.

The residual stream before the final norm is a sum: embedding, every head's output, every MLP's output and their biases.
With the norm's scale held fixed, norm and unembedding are linear, so the logit is the sum of the parts' contributions
(Elhage et al. 2021; nostalgebraist 2020). A norm after the heads or the MLP of a block (Gemma 2 and 3) is held fixed in
the same way, and so is a cap on the logits (Gemma 2): its factor c tanh(z / c) / z at the logit z.

`probe.logits.attribution` splits one text after any token by the same functions, as a batch of one. `attribute_last`
splits texts after their last tokens, from the activations of an existing pass (a capture), with the tokens
that each part promotes and the strongest neurons of each block.

Axes: P texts, D blocks, H heads, T tokens, A answers, m neurons of a block, n of them, d width, dh head width, V
vocabulary, k tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import ModelError
from probe.logits.direct import HeldNorm, Part, final_norm, logit_cap, output_layer, output_scale, post_hook, post_norm
from probe.logits.parts import output_weights
from probe.model.hooks import Hook
from probe.model.lm import LM
from probe.model.placement import is_quantized, readable


class Sums(NamedTuple):
    """Contributions of the parts of a model to the targets of P texts, each after one token."""

    u: Float[Tensor, "P d"]
    """Residual-stream direction whose inner product with a part is the part's contribution."""
    parts: Float[Tensor, "P D H+1"]
    """Contribution of each head and, last, of the MLP, its bias included."""
    embedding: Float[Tensor, " P"]
    """Contribution of the stream before the first block."""
    biases: Float[Tensor, "P D"]
    """Contribution of the bias of each attention output, and of the norm after it."""
    norm_bias: Float[Tensor, " P"]
    unembedding_bias: Float[Tensor, " P"]
    promoted: Int[Tensor, "P D H+1 2 k"]
    """Promoted and suppressed tokens, see `LastAttribution`; empty if k is 0."""


def split_logit(
    lm: LM,
    final: Float[Tensor, "P d"],
    first: Float[Tensor, "P d"],
    z: Iterable[Float[Tensor, "P H dh"]],
    attn_norms: Iterable[HeldNorm | None],
    mlps: Iterable[Float[Tensor, "P d"]],
    answers: Int[Tensor, "P A"],
    k: int = 0,
) -> Sums:
    """Split the targets' logits into the contributions of the parts.

    Args:
        lm: the model.
        final: residual stream after the last block.
        first: residual stream before the first block.
        z: mixed values of the heads of each block, before W_O.
        attn_norms: norm after the heads of each block, if there is one.
        mlps: output of each block's MLP, after its norm if there is one.
        answers: answer tokens, see `target_columns`.
        k: number of promoted and of suppressed tokens (before a cap on the logits); 0 leaves them out.
    """
    norm = final_norm(lm, final)
    column, constant = target_columns(lm, answers, final)
    u = norm.direction(column)
    rows = output_layer(lm)[0] if k else column
    part_norm = replace(norm, scale=norm.scale[:, None])
    parts, biases, extremes = [], [], []
    for layer, (mixture, post, mlp) in enumerate(zip(z, attn_norms, mlps, strict=True)):
        w_o, bias = output_weights(lm, layer)
        heads = torch.einsum("phe,hed->phd", mixture.reshape(len(mixture), *w_o.shape[:2]), w_o)
        bias = torch.zeros_like(u[0]) if bias is None else bias
        if post is not None:
            heads, bias = replace(post, scale=post.scale[:, None])(heads), post(bias) + post.shift
        outputs = torch.cat([heads, mlp[:, None]], dim=1)
        parts.append(torch.einsum("pnd,pd->pn", outputs, u))
        biases.append((u * bias).sum(-1))
        if k:
            change = _through_rows(part_norm(outputs), rows) * output_scale(lm)
            extremes.append(torch.stack([change.topk(k).indices, (-change).topk(k).indices], dim=2))
    promoted = torch.stack(extremes, dim=1) if k else torch.empty(0, dtype=torch.long)
    embedding, norm_bias = (first * u).sum(-1), column @ norm.shift
    return Sums(u, torch.stack(parts, 1), embedding, torch.stack(biases, 1), norm_bias, constant, promoted)


ROWS = 2**13
"""Number of rows of an unembedding in half precision that are converted at once."""


def _through_rows(states: Float[Tensor, "... d"], rows: Float[Tensor, "V d"]) -> Float[Tensor, "... V"]:
    """Return the product with every row in single precision, without a second copy of the whole matrix."""
    if rows.dtype == torch.float32:
        return states @ rows.T
    return torch.cat([states @ part.float().T for part in rows.split(ROWS)], dim=-1)


def target_columns(
    lm: LM, answers: Int[Tensor, "P A"], final: Float[Tensor, "P d"]
) -> tuple[Float[Tensor, "P d"], Float[Tensor, " P"]]:
    """Return the columns of W_U that the targets read, and the contribution of the bias.

    Args:
        lm: the model.
        answers: answer token of each text, and the one whose logit is subtracted if there are two; padded with -1.
        final: residual stream after the last block, at which a cap on the logits is held fixed.
    """
    weight, bias = output_layer(lm)
    factors = _cap_factors(lm, answers, final)
    column = _difference(weight, answers, factors) * output_scale(lm)
    if bias is None:
        return column, column.new_zeros(len(column))
    return column, _difference(bias[:, None], answers, factors)[:, 0] * output_scale(lm)


def _cap_factors(lm: LM, answers: Int[Tensor, "P A"], final: Float[Tensor, "P d"]) -> Float[Tensor, "P A"] | None:
    """Return c tanh(z / c) / z at each answer's logit z before the cap c; None without a cap."""
    cap = logit_cap(lm)
    if not cap:
        return None
    (weight, bias), tokens = output_layer(lm), answers.clamp(min=0).to(final.device)
    normed = lm.bridge.ln_final.original_component(final.to(weight.dtype)).float()
    logits = torch.einsum("pad,pd->pa", weight[tokens].float(), normed)
    if bias is not None:
        logits = logits + bias[tokens].float()
    logits = logits * output_scale(lm)
    return torch.where(logits.abs() > 1e-6, cap * (logits / cap).tanh() / logits, 1.0)


def rounding(lm: LM, size: float) -> float:
    """Return the maximum error of a sum of this size by rounding; LLM.int8 rounds the inputs of layers, too."""
    eps = max(torch.finfo(lm.dtype).eps, 2**-10 if is_quantized(lm.model) else 0)
    return 1e-4 + 8 * eps * size


Posts = dict[int, Float[Tensor, "P m"]]
"""Input of W_out after the last token of each text, by block."""


class NeuronShares(NamedTuple):
    """Contributions of the neurons of one MLP to the targets of P texts."""

    values: Float[Tensor, "P m"]
    bias: Float[Tensor, " P"]
    """Contribution of the bias of W_out."""


def neuron_shares(
    lm: LM,
    posts: Posts,
    u: Float[Tensor, "P d"],
    norms: Sequence[HeldNorm | None],
    mlps: Float[Tensor, "P D"],
) -> list[NeuronShares] | None:
    """Return the contribution of each neuron of each block.

    Args:
        lm: the model.
        posts: input of W_out after one token of each text, by block.
        u: residual-stream direction of each text whose inner product with a part is its contribution.
        norms: norm after the MLP of each block, if there is one.
        mlps: contribution of each MLP.

    Returns:
        None if neurons and the bias of W_out do not sum to the MLPs, as with experts.
    """
    shares_by_block = []
    for block, whole in enumerate(mlps.T):
        post, mlp = posts.get(block), lm.bridge.blocks[block].mlp
        with readable(mlp.original_component):
            weight, b_out = getattr(mlp, "W_out", None), getattr(getattr(mlp, "out", None), "bias", None)
        weight, b_out = (each if each is None else each.detach().float().to(u.device) for each in (weight, b_out))
        if weight is None or post is None or weight.shape != (post.shape[-1], u.shape[-1]):
            return None
        norm, inner = norms[block], through(norms[block], u)
        shares = post * (inner @ weight.T)
        bias = torch.zeros_like(whole) if b_out is None else inner @ b_out
        bias = bias if norm is None else bias + u @ norm.shift
        gaps, sizes = (shares.sum(-1) - (whole - bias)).abs().tolist(), shares.abs().sum(-1).tolist()
        if not all(gap <= rounding(lm, size) for gap, size in zip(gaps, sizes, strict=True)):
            return None
        shares_by_block.append(NeuronShares(shares, bias))
    return shares_by_block


def through(norm: HeldNorm | None, u: Float[Tensor, "P d"]) -> Float[Tensor, "P d"]:
    """Return the direction before a norm whose product with a part equals that of `u` with the normed part."""
    return u if norm is None else norm.direction(u)


class LastNeurons(NamedTuple):
    """Strongest neurons of each block after the last token of each text."""

    ids: Int[Tensor, "P D n"]
    """Numbers of the neurons, by descending absolute contribution."""
    values: Float[Tensor, "P D n"]
    """Contribution of each neuron to the target, nats."""


def last_hooks(
    names: Iterable[str], shape: Sequence[int], last: Int[Tensor, " P"], rows: dict[str, Tensor]
) -> list[Hook]:
    """Return hooks that keep some activations after the last token of each text, in single precision.

    Args:
        names: hook names.
        shape: shape (P, T) of the batch that will be run.
        last: position of the last token of each text.
        rows: dict that a pass over the texts fills, by hook name [P ...].
    """
    texts = torch.arange(len(last))

    def keep(tensor: Tensor, hook: object, name: str) -> None:
        if tuple(tensor.shape[:2]) != tuple(shape):
            if tensor.shape[:-1].numel() != shape[0] * shape[1]:  # experts have no row per token
                return
            tensor = tensor.reshape(*shape, -1)
        rows[name] = tensor.detach()[texts.to(tensor.device), last.to(tensor.device)].float()

    return [(name, partial(keep, name=name)) for name in names]


def strongest(shares: Sequence[NeuronShares], n: int) -> LastNeurons:
    """Return the n neurons of each block with the largest contributions; fewer in all if one MLP is narrower."""
    width = min(n, *(each.values.shape[-1] for each in shares))
    orders = [each.values.abs().argsort(dim=-1, descending=True, stable=True)[:, :width] for each in shares]
    values = [each.values.gather(-1, order) for each, order in zip(shares, orders, strict=True)]
    return LastNeurons(torch.stack(orders, dim=1), torch.stack(values, dim=1))


class LastAttribution(NamedTuple):
    """Logit of each text's first answer minus that of its second, after its last token, as a sum; in nats."""

    parts: Float[Tensor, "P D H+1"]
    """Contribution of each head and, last, of the MLP, its bias included."""
    rest: Float[Tensor, " P"]
    """Contribution of embedding, positions and the biases of attention, final norm and unembedding."""
    value: Float[Tensor, " P"]
    """Difference in the model's output: the sum of all parts and the rest, up to rounding."""
    promoted: Int[Tensor, "P D H+1 2 k"]
    """Tokens whose logits each part raises most, then those that it lowers most, strongest first."""
    neurons: LastNeurons | None
    """Neurons of each block with the largest contributions; None if neurons do not sum to the MLPs."""


def last_names(lm: LM) -> list[str]:
    """Return the hook names that `attribute_last` reads after the last token of each text.

    There are none if a block lacks heads or an MLP.
    """
    blocks, hooks = range(lm.bridge.cfg.n_layers), lm.bridge.hook_dict
    names = [name for block in blocks for name in (_mixed(block), _mlp_out(block))]
    posts = [name for block in blocks for name in (post_hook(lm, block, "attn"), post_hook(lm, block, "mlp")) if name]
    inputs = [name for block in blocks if (name := _into_out(block)) in hooks]
    ends = ["blocks.0.hook_resid_pre", f"blocks.{len(blocks) - 1}.hook_resid_post"]
    return [*ends, *names, *posts, *inputs] if all(name in hooks for name in names) else []


def _into_out(block: int) -> str:
    """Return the name of the input of W_out."""
    return f"blocks.{block}.mlp.hook_post"


def _mixed(block: int) -> str:
    return f"blocks.{block}.attn.hook_z"


def _mlp_out(block: int) -> str:
    return f"blocks.{block}.hook_mlp_out"


@torch.no_grad()
def attribute_last(
    lm: LM, rows: Mapping[str, Tensor], answers: Int[Tensor, "P A"], k: int = 5, n: int = 10
) -> LastAttribution | None:
    """Return the contributions of all parts to the logit of a text's first answer minus that of its second.

    Args:
        lm: the model.
        rows: activations of `last_names(lm)` after the last token of each text [P ...] (`last_hooks`), and `logits`
            [P V], the model's output there.
        answers: answer tokens of each text, padded with -1. A single answer is taken alone; without answers all values
            are zero.
        k: number of promoted and of suppressed tokens.
        n: number of neurons of each block; none are returned if `rows` has no inputs of W_out.

    Returns:
        None if the parts do not sum to the logits, or there are no heads.
    """

    def norms(part: Part) -> list[HeldNorm | None]:
        hooks = [post_hook(lm, block, part) for block in blocks]
        return [post_norm(lm, block, part, rows[hook]) if hook else None for block, hook in enumerate(hooks)]

    blocks, k = range(lm.bridge.cfg.n_layers), min(k, lm.model.get_output_embeddings().weight.shape[0])
    first, final = rows["blocks.0.hook_resid_pre"], rows[f"blocks.{len(blocks) - 1}.hook_resid_post"]
    z, mlps = ([rows[name(block)] for block in blocks] for name in (_mixed, _mlp_out))
    posts = {block: rows[_into_out(block)] for block in blocks if _into_out(block) in rows}
    try:
        attn_norms, mlp_norms = norms("attn"), norms("mlp")
        split = split_logit(lm, final, first, z, attn_norms, mlps, answers, k)
    except ModelError:
        return None
    rest = split.embedding + split.norm_bias + split.unembedding_bias
    for bias in split.biases.T:
        rest = rest + bias
    value = _difference(rows["logits"][..., None], answers, own=True)[:, 0]
    gap = (split.parts.sum((1, 2)) + rest - value).abs()
    size = split.parts.abs().sum((1, 2)) + rest.abs()
    if not all(g <= rounding(lm, s) for g, s in zip(gap.tolist(), size.tolist(), strict=True)):
        return None
    neurons = neuron_shares(lm, posts, split.u, mlp_norms, split.parts[:, :, -1]) if posts else None
    strong = None if neurons is None else strongest(neurons, n)
    return LastAttribution(split.parts, rest, value, split.promoted, strong)


def _difference(
    rows: Tensor, answers: Int[Tensor, "P A"], factors: Float[Tensor, "P A"] | None = None, own: bool = False
) -> Float[Tensor, "P n"]:
    """Return the row of each text's first answer minus that of its second; a missing answer counts as zeros.

    Args:
        rows: [V n], or [P V n] if each text has its own.
        answers: answer tokens of each text, padded with -1.
        factors: factor of the row of each answer; None means ones.
        own: whether each text has its own rows.
    """
    texts = torch.arange(len(answers), device=rows.device)
    total = rows.new_zeros((len(answers), rows.shape[-1]), dtype=torch.float32)
    factors = rows.new_ones(answers.shape) if factors is None else factors
    for sign, tokens, factor in zip((1.0, -1.0), answers.to(rows.device).T, factors.T, strict=False):
        picks = rows[texts, tokens.clamp(min=0)] if own else rows[tokens.clamp(min=0)]
        total = total + sign * factor[:, None] * picks.float().masked_fill((tokens < 0)[:, None], 0.0)
    return total
