"""Direct logit attribution: the logit of an answer as a sum over what each part of the model wrote.

The residual stream before the final norm is a sum: embedding, every head's output, every MLP's output and their biases.
With the norm's scale held at the value it has, norm and unembedding are linear, so the logit is the sum of what each
part adds to it (Elhage et al. 2021; nostalgebraist 2020). It says what a part writes, not what would happen without it:
later parts read what it wrote (see `probe.interventions.patching` for that).

`attribute` takes one text apart. `attribute_last` does so for many texts at once, at the last token of each, from
activations that are there already: by head and MLP alone, which a capture can afford at every step. What is left
(embedding, positions, biases) is one number. The tokens that each part promotes and suppresses come with it, as
`probe.logits.parts.promoted` gives them, and the strongest neurons, as `Attribution.neuron_table` gives them: of the
activations that enter W_out only those of the last tokens are kept.

Axes: P texts, D blocks, H heads, T tokens, A answers, m neurons of a block, n of them, d width, dh head width, V
vocabulary, k tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import DataError, ModelError
from probe.logits.direct import final_norm, output_scale
from probe.logits.lens import Target, value
from probe.logits.parts import Reading, output_weights, read_parts
from probe.model.lm import LM
from probe.model.text import pieces
from probe.plotting.notebook import Drawn

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Attribution(Drawn):
    """What each part adds to a target's value, in nats (of a scalar model in the scalar's unit)."""

    tokens: list[str]
    """[T] readable pieces of the text."""
    target: Target
    """Whose logit, at which token."""
    total: float
    """The target's value as the model gives it."""
    embedding: float
    """What the token's embedding adds."""
    positions: float
    """What the learned position adds; 0 where positions are not learned."""
    heads: np.ndarray
    """[D H] what each head adds: z_h W_O."""
    biases: np.ndarray
    """[D] what the bias of each attention output adds; 0 where there is none."""
    mlps: np.ndarray
    """[D] what each MLP adds, its bias included."""
    norm_bias: float
    """What the bias of the final norm adds."""
    unembedding_bias: float
    """What the bias of the unembedding adds."""
    sources: np.ndarray = field(repr=False)
    """[D H T] `heads` by the token whose value vector carried it; zero after the target's position."""
    neurons: np.ndarray | None = field(default=None, repr=False)
    """[D m] `mlps` by neuron, without the biases; None where an MLP is more than W_out of its neurons."""
    mlp_biases: np.ndarray | None = field(default=None, repr=False)
    """[D] what the bias of W_out adds, so that neurons and bias sum to `mlps`."""

    @property
    def sum(self) -> float:
        """The sum of all parts, equal to `total` up to rounding."""
        single = self.embedding + self.positions + self.norm_bias + self.unembedding_bias
        return float(single + self.heads.sum() + self.biases.sum() + self.mlps.sum())

    def table(self) -> pd.DataFrame:
        """One row a part: part, layer, head, value; layer and head are -1 where a part has none."""
        depth, width = self.heads.shape
        rows: list[tuple[str, int, int, float]] = [("embedding", -1, -1, self.embedding)]
        rows.append(("positions", -1, -1, self.positions))
        for layer in range(depth):
            rows += [("head", layer, head, float(self.heads[layer, head])) for head in range(width)]
            rows.append(("attention bias", layer, -1, float(self.biases[layer])))
            rows.append(("mlp", layer, -1, float(self.mlps[layer])))
        rows.append(("norm bias", -1, -1, self.norm_bias))
        rows.append(("unembedding bias", -1, -1, self.unembedding_bias))
        return pd.DataFrame(rows, columns=["part", "layer", "head", "value"])

    def figure(self) -> "go.Figure":
        """What every head and MLP adds, layers upwards."""
        from probe.logits.part_figures import attribution_map, parts_of

        return attribution_map([parts_of("", self)], label=self.target.name)

    def source_table(self, layer: int, head: int) -> pd.DataFrame:
        """One row a source token of one head: layer, head, source, token, value."""
        shown = self.sources[layer, head, : self.target.position + 1]
        return pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "source": range(len(shown)),
                "token": self.tokens[: len(shown)],
                "value": shown,
            }
        )

    def neuron_table(self, layer: int, k: int = 20) -> pd.DataFrame:
        """The k neurons of one MLP that add or take most: layer, neuron, value; the bias is not among them.

        Raises:
            ModelError: the MLP has no neurons that add up to it.
        """
        if self.neurons is None:
            raise ModelError(
                "The MLPs of this model are more than W_out of their neurons (experts, or a norm after them), so there "
                "is nothing to list by neuron: look at the whole MLP."
            )
        order = np.argsort(-np.abs(self.neurons[layer]), kind="stable")[:k]
        return pd.DataFrame({"layer": layer, "neuron": order, "value": self.neurons[layer, order]})


@torch.no_grad()
def attribute(lm: LM, text: str | Sequence[int] | Reading, target: Target) -> Attribution:
    """The value of `target` as a sum over the parts of the model.

    Args:
        lm: the model.
        text: a text or its ids, which costs a hooked forward pass; or what `read_parts` gave for the target's position.
        target: whose logit, at which token.

    Raises:
        ModelError: the parts do not add up: a norm after attention or MLP, capped logits, or an unknown architecture.
        DataError: an empty or too long text, or a target outside of it.
    """
    read = text if isinstance(text, Reading) else read_parts(lm, text, target.position)
    if read.position != target.position:
        raise DataError(
            f"The parts were read after token {read.position} and the target is at {target.position}: read them there."
        )
    bridge, norm = lm.bridge, final_norm(lm, read.final)
    column, constant = unembedding(lm, target)
    u = norm.direction(column)
    heads, sources, biases = [], [], []
    for layer, (z, pattern, values) in enumerate(zip(read.z, read.pattern, read.values, strict=True)):
        w_o, bias = output_weights(bridge, layer)
        per_head = torch.einsum("hed,d->he", w_o, u)
        heads.append((z * per_head).sum(-1))
        repeated = values.repeat_interleave(len(w_o) // values.shape[1], dim=1)
        sources.append(pattern * torch.einsum("she,he->hs", repeated, per_head))
        biases.append(0.0 if bias is None else float(bias @ u))
    mlps = torch.stack([written @ u for written in read.mlps])
    neurons, mlp_biases = _neurons(lm, bridge, read, u, mlps)
    learned = 0.0 if read.learned is None else float(read.learned @ u)
    found = Attribution(
        tokens=pieces(lm.tokenizer, read.ids),
        target=target,
        total=float(value(read.logits[None, None], replace(target, position=0))[0]),
        embedding=float(read.embedding @ u) - learned,
        positions=learned,
        heads=torch.stack(heads).cpu().numpy(),
        biases=np.array(biases, dtype=np.float32),
        mlps=mlps.cpu().numpy(),
        norm_bias=float(norm.shift @ column),
        unembedding_bias=float(constant),
        sources=torch.stack(sources).cpu().numpy(),
        neurons=neurons,
        mlp_biases=mlp_biases,
    )
    _require_sum(lm, found)
    return found


def difference_table(base: Attribution, aligned: Attribution) -> pd.DataFrame:
    """Two models part by part: part, layer, head, base, aligned, change (aligned - base).

    Raises:
        DataError: the models have different numbers of blocks or heads, or the targets differ.
    """
    if base.heads.shape != aligned.heads.shape:
        raise DataError(
            f"The base has {base.heads.shape} blocks and heads and the aligned model {aligned.heads.shape}, so their "
            "parts have no counterparts: choose two models of one shape."
        )
    ours, theirs = aligned.target, base.target
    if (ours.position, ours.answer, ours.against) != (theirs.position, theirs.answer, theirs.against):
        raise DataError("The two attributions have different targets: attribute one target with both models.")
    table = base.table().rename(columns={"value": "base"})
    table["aligned"] = aligned.table()["value"]
    table["change"] = table["aligned"] - table["base"]
    return table


def unembedding(lm: LM, target: Target) -> tuple[Float[Tensor, " d"], Tensor]:
    """The column of W_U that the target reads (answer minus against), and what the bias adds."""
    head = lm.model.get_output_embeddings()
    weight, bias = head.weight.detach(), getattr(head, "bias", None)
    column, constant = weight[target.answer].float(), torch.zeros((), device=weight.device)
    if bias is not None:
        constant = bias.detach()[target.answer].float()
    if target.against is not None:
        column = column - weight[target.against].float()
        if bias is not None:
            constant = constant - bias.detach()[target.against].float()
    return column * output_scale(lm), constant * output_scale(lm)


def rounding(lm: LM, size: float) -> float:
    """How far a sum of this size may be off by rounding alone."""
    return 1e-4 + 8 * torch.finfo(lm.dtype).eps * size


def _neurons(
    lm: LM, bridge: "TransformerBridge", read: Reading, u: Float[Tensor, " d"], mlps: Float[Tensor, " D"]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What each neuron adds, and each bias; None where they do not make up the MLP."""
    values, biases = [], []
    for layer, whole in enumerate(mlps):
        mlp, post = bridge.blocks[layer].mlp, read.posts[layer]
        weight, bias = getattr(mlp, "W_out", None), getattr(mlp, "b_out", None)
        if weight is None or post is None or weight.shape != (*post.shape, len(u)):
            return None, None
        values.append(post * (weight.detach().float() @ u))
        biases.append(bias.detach().float() @ u if bias is not None else torch.zeros_like(whole))
        if float((values[-1].sum() + biases[-1] - whole).abs()) > rounding(lm, float(values[-1].abs().sum())):
            return None, None
    return torch.stack(values).cpu().numpy(), torch.stack(biases).cpu().numpy()


def _require_sum(lm: LM, found: Attribution) -> None:
    size = float(np.abs(found.table()["value"]).sum())
    if not abs(found.sum - found.total) <= rounding(lm, size):
        raise ModelError(
            f"The parts of the logit add up to {found.sum:.4f} and {type(lm.model).__name__} gives {found.total:.4f}: "
            "it does more than add what heads and MLPs write (a norm after them, a cap on the logits): use a model of "
            "another architecture."
        )


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
