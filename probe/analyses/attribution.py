"""Direct logit attribution: the logit of an answer as a sum over what each part of the model wrote.

The residual stream before the final norm is a sum: embedding, every head's output, every MLP's output and their biases.
With the norm's scale held at the value it has, norm and unembedding are linear, so the logit is the sum of what each
part adds to it (Elhage et al. 2021; nostalgebraist 2020). It says what a part writes, not what would happen without it:
later parts read what it wrote (see `probe.interventions.patching` for that).

Axes: D blocks, H heads, T tokens, m neurons, d width, dh head width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.direct import final_norm, output_scale
from probe.analyses.parts import Reading, output_weights, read_parts
from probe.analyses.targets import Target, value
from probe.errors import DataError, ModelError
from probe.model.lm import LM
from probe.model.text import pieces

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Attribution:
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
