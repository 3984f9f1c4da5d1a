"""Direct logit attribution: the logit of an answer as a sum over what each part of the model wrote.

The residual stream before the final norm is a sum: embedding, every head's output, every MLP's output and their biases.
With the norm's scale held at the value it has, norm and unembedding are linear, so the logit is the sum of what each
part adds to it (Elhage et al. 2021; nostalgebraist 2020). A norm behind the heads or the MLP of a block (Gemma 2 and
3) is held in the same way, and so is a cap on the logits (Gemma 2): its factor c tanh(z / c) / z at the logit z. It
says what a part writes, not what would happen without it: later parts read what it wrote (see
`probe.interventions.patching` for that).

`attribute` splits one text after any token and a head by source token; `attribute_last` splits many texts at once after
their last tokens, from the activations of a pass that is made anyway (a capture), with the tokens that each part
promotes and the strongest neurons of each block. Both add up by the same functions; one text is a batch of one.

Axes: P texts, D blocks, H heads, T tokens, A answers, m neurons of a block, n of them, d width, dh head width, V
vocabulary, k tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.errors import DataError, ModelError
from probe.logits.direct import HeldNorm, Part, final_norm, logit_cap, output_scale, post_hook, post_norm
from probe.logits.lens import Target, require_text, target_of, value
from probe.logits.parts import Reading, output_weights, read_parts
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.numbers import signed
from probe.plotting.notebook import Beside, Drawable, alone, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.logits.part_figures import Parts

SUM_OF_PARTS = (
    r"\ell_t(a) = \underbrace{\langle h^0_t, u_a\rangle}_{\text{embedding}} + \sum_{l,h} \langle z^{lh}_t W_O^{lh}, "
    r"u_a\rangle + \sum_l \langle \mathrm{MLP}^l_t, u_a\rangle + \text{biases},\qquad u_a = C\,\frac{g \odot "
    r"W_{out}[a]}{\sigma_t}"
)
BY_SOURCE = (
    r"\langle z^{lh}_t W_O^{lh}, u_a\rangle = \sum_{s \le t} \alpha^{lh}_{t,s}\, \langle v^{lh}_s W_O^{lh}, u_a\rangle"
)
SINGLE = {
    "embedding": "embedding",
    "positions": "positions",
    "norm_bias": "bias of the final norm",
    "unembedding_bias": "bias of the unembedding",
}
"""Parts without a layer, and what a figure calls them."""


@dataclass(frozen=True)
class Attribution(Drawable):
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
    """[D m] `mlps` by neuron, without the biases; None where an MLP is more than W_out of its neurons (experts)."""
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

    def panel(self, name: str = "", minus: "Attribution | None" = None) -> "Parts":
        """Return this attribution as a panel of the figure.

        Args:
            name: title of the panel.
            minus: the attribution of another model, which is subtracted.
        """
        from probe.logits.part_figures import Parts

        def less(part: str) -> Any:
            return getattr(self, part) - (getattr(minus, part) if minus else 0.0)

        single = [(label, float(less(part))) for part, label in SINGLE.items()]
        return Parts(name, less("heads"), less("mlps"), less("biases"), single)

    def sentence(self) -> str:
        """Name the part that adds most to the target."""
        return Attributions((self,), alone()).sentence()

    def figure(self) -> "go.Figure":
        """Draw what every head and MLP adds, layers upwards."""
        from probe.logits.part_figures import attribution_map

        return attribution_map([self.panel()], label=self.target.name)

    def source_table(self, layer: int, head: int) -> pd.DataFrame:
        """One row a source token of one head: layer, head, source, token, value."""
        values = self.sources[layer, head, : self.target.position + 1]
        return pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "source": range(len(values)),
                "token": self.tokens[: len(values)],
                "value": values,
            }
        )

    def neuron_table(self, layer: int, k: int = 20) -> pd.DataFrame:
        """Return the k neurons of one MLP that add or take most: layer, neuron, value; the bias is not among them.

        Raises:
            ModelError: the MLP has no neurons that add up to it.
        """
        if self.neurons is None:
            raise ModelError(
                "The MLPs of this model are more than W_out of their neurons (experts), so there is nothing to list by "
                "neuron: look at the whole MLP."
            )
        order = np.argsort(-np.abs(self.neurons[layer]), kind="stable")[:k]
        return pd.DataFrame({"layer": layer, "neuron": order, "value": self.neurons[layer, order]})


ALIKE_NATS = 0.005
"""A change of the target below which two models are said to agree."""

PartPlace = tuple[int, int | None]
"""(layer, head); head None is the MLP."""


def part_name(part: PartPlace) -> str:
    """Such as `L2H1` or `L2 MLP`."""
    layer, head = part
    return f"L{layer} MLP" if head is None else f"L{layer}H{head}"


def parse_part(name: str) -> PartPlace:
    """Return the part whose name `part_name` gave."""
    layer, _, head = name[1:].replace(" MLP", "H").partition("H")
    return int(layer), int(head) if head else None


def part_names(parts: Attribution) -> list[str]:
    """All heads and MLPs, block by block."""
    depth, heads = parts.heads.shape
    return [part_name((layer, head)) for layer in range(depth) for head in [*range(heads), None]]


def largest(heads: np.ndarray, mlps: np.ndarray, sign: float) -> tuple[PartPlace, float]:
    """Find the head or MLP that adds most in the direction of `sign`, and what it adds."""
    values = np.concatenate([heads, mlps[:, None]], axis=1)
    layer, column = np.unravel_index(int(np.argmax(values * (sign or 1.0))), values.shape)
    part = int(layer), int(column) if column < heads.shape[1] else None
    return part, float(values[layer, column])


def target_change(parts: Sequence[Attribution]) -> float | None:
    """By how much the target moves between two models whose parts pair up; None for one, or where they do not."""
    alike = len(parts) == 2 and parts[0].heads.shape == parts[1].heads.shape and parts[0].target == parts[1].target
    return parts[1].total - parts[0].total if alike else None


def carrier(parts: Sequence[Attribution]) -> tuple[PartPlace, float]:
    """Find the head or MLP that adds most to the target's move between two models or, without one, to the target."""
    last, change = parts[-1], target_change(parts)
    if change is not None and abs(change) >= ALIKE_NATS:
        return largest(last.heads - parts[0].heads, last.mlps - parts[0].mlps, np.sign(change))
    return largest(last.heads, last.mlps, np.sign(last.total))


def every_part(parts: Attribution) -> dict[str, float]:
    """Return what each part on the map adds, by its name: heads, MLPs, biases, and what has no layer."""
    layers = range(len(parts.mlps))
    values = {part_name((layer, head)): float(value) for (layer, head), value in np.ndenumerate(parts.heads)}
    values |= {part_name((layer, None)): float(parts.mlps[layer]) for layer in layers}
    values |= {f"the attention bias of L{layer}": float(parts.biases[layer]) for layer in layers}
    return values | {
        "the embedding": parts.embedding,
        "the positions": parts.positions,
        "the bias of the final norm": parts.norm_bias,
        "the bias of the unembedding": parts.unembedding_bias,
    }


def above_all(parts: Sequence[Attribution]) -> str:
    """Name the part that adds most to the target, or to its move, with its number.

    If that part is neither a head nor an MLP, also name the head or MLP that adds most.

    It is the largest cell of the map in the direction of the sum.
    """
    values, change = every_part(parts[-1]), target_change(parts)
    if change is not None and abs(change) >= ALIKE_NATS:
        before = every_part(parts[0])
        values, total = {name: value - before[name] for name, value in values.items()}, change
    else:
        total = parts[-1].total
    most = max(values, key=lambda name: values[name] * (np.sign(total) or 1.0))
    part, own = carrier(parts)
    largest_part = f"{most} ({signed(values[most])})"
    more = f", of heads and MLPs {part_name(part)} ({signed(own)})"
    return largest_part if most == part_name(part) else largest_part + more


class Attributions(Beside[Attribution]):
    """What each part of one model or several adds to one target."""

    def sentence(self) -> str:
        """Name the part that adds most to the target, or to its move between two models."""
        parts, label = self.results, self.results[-1].target.name
        whole = f"{label} = {signed(parts[-1].total)} in {self.looks[-1].name}, by direct effect above all from"
        change = target_change(parts)
        if change is None:
            return f"{whole} {above_all(parts)}."
        if abs(change) < ALIKE_NATS:
            return f"{label} is the same in both to {ALIKE_NATS}."
        return f"{label} moves by {signed(change)}, by direct effect above all through {above_all(parts)}."

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Which tokens of the answers are compared, where an answer has several."""
        return tuple(dict.fromkeys(each.target.note for each in self.results if each.target.note))

    def figures(self) -> "dict[str, go.Figure]":
        """Draw what every head and MLP adds, layers upwards, and what changed from the first model to the second."""
        from probe.logits.part_figures import attribution_map

        first, last = self.results[0], self.results[-1]
        panels = [
            each.panel(f"{look.name}: {signed(each.total)}")
            for look, each in zip(self.looks, self.results, strict=True)
        ]
        if target_change(self.results) is not None:
            panels.append(last.panel(f"change: {signed(last.total - first.total)}", first))
        label = last.target.name
        if len({each.heads.shape for each in self.results}) > 1:
            return {
                f"parts-{index}": titled(attribution_map([panel], label=label), f"What each part adds: {panel.name}")
                for index, panel in enumerate(panels)
            }
        return {"parts": titled(attribution_map(panels, label=label), f"What each part adds to {label}")}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the parts that add or take most first."""
        rows = next(iter(self.tables().values()))
        return {"Parts": rows.sort_values("value", key=abs, ascending=False, kind="stable", ignore_index=True)}


def same_answer(
    lms: Sequence[LM], prompt: str, answer: str | None = None, position: int | None = None, **others: Any
) -> dict[str, Any]:
    """Return the answer that all models are asked about: where none is given, the likeliest of the last model."""
    if answer is not None or lms[-1].readout != "tokens":
        return {}
    return {"answer": target_of(lms[-1], prompt, None, None, position).answer}


@analysis(
    "logits",
    title="Which parts carry it",
    equations=(SUM_OF_PARTS, BY_SOURCE),
    key="log_parts",
    beside=Attributions,
    settle=same_answer,
)
@torch.no_grad()
def attribute_answer(
    lm: LM,
    prompt: Prompt,
    *,
    answer: Annotated[str | None, Input("Answer", placeholder="the likeliest")] = None,
    against: Annotated[str | None, Input("Against", placeholder="nothing")] = None,
    position: Annotated[int | None, Input("After token", advanced=True)] = None,
) -> Attribution:
    """Measure what each head and MLP adds to the logit of an answer, alone or against another answer.

    The stream before the final norm is the sum of what embedding, heads and MLPs wrote. With the norm's scale held at
    its value, norm and unembedding are linear, so the parts sum to the logit (checked every time). A norm behind heads
    or MLP (Gemma 2 and 3) and a cap on the logits (Gemma 2, its factor at the logit) are held alike. It says what a
    part writes directly, not what would happen without it: later parts read what it wrote, which the page Interventions
    measures.

    Args:
        lm: the model.
        prompt: the text.
        answer: a text, with the blank that precedes it, whose first token counts (that differs from the other answer);
            by default the token that the model finds likeliest; of several models, the last one.
        against: the answer whose logit is subtracted; by default none.
        position: the token after which the answers are due, from 0; by default the last.

    Raises:
        DataError: see `target_of`.
        ModelError: see `attribute`.
    """
    return attribute(lm, prompt, target_of(lm, prompt, answer, against, position))


@torch.no_grad()
def attribute(lm: LM, text: str | Sequence[int] | Reading, target: Target) -> Attribution:
    """Split the value of `target` into a sum over the parts of the model.

    Args:
        lm: the model.
        text: a text or its ids, which costs a hooked forward pass; or what `read_parts` gave for the target's position
            in `target.text(ids)`.
        target: whose logit, at which token.

    Raises:
        ModelError: the parts do not add up, since the architecture does more than the parts say.
        DataError: an empty or too long text, or a target outside of it.
    """
    if not isinstance(text, Reading):
        text = read_parts(lm, target.text(text_ids(lm.tokenizer, text)), target.position)
    reading = text
    if reading.position != target.position:
        raise DataError(
            f"The parts were read after token {reading.position} and the target is at {target.position}: read them"
            " there."
        )
    require_text(target, reading.ids)
    answers = torch.tensor([[target.answer, -1 if target.against is None else target.against]])
    z, mlps = [each[None] for each in reading.z], [each[None] for each in reading.mlps]
    attn_norms, mlp_norms = (
        [None if norm is None else replace(norm, scale=norm.scale[None]) for norm in norms]
        for norms in (reading.attn_norms, reading.mlp_norms)
    )
    split = _split(lm, reading.final[None], reading.embedding[None], z, attn_norms, mlps, answers)
    posts = {layer: post[None] for layer, post in enumerate(reading.posts) if post is not None}
    neurons = neuron_shares(lm, posts, split.u, mlp_norms, split.parts[:, :, -1])
    sources = []
    for layer, (pattern, values) in enumerate(zip(reading.pattern, reading.values, strict=True)):
        w_o, _ = output_weights(lm.bridge, layer)
        per_head, u = values.repeat_interleave(len(w_o) // values.shape[1], dim=1), _through(attn_norms[layer], split.u)
        sources.append(pattern * torch.einsum("she,he->hs", per_head, torch.einsum("hed,d->he", w_o, u[0])))
    learned = 0.0 if reading.learned is None else float(reading.learned @ split.u[0])
    attribution = Attribution(
        tokens=pieces(lm.tokenizer, reading.ids),
        target=target,
        total=float(value(reading.logits[None, None], replace(target, position=0))[0]),
        embedding=float(split.embedding[0]) - learned,
        positions=learned,
        heads=split.parts[0, :, :-1].cpu().numpy(),
        biases=split.biases[0].cpu().numpy(),
        mlps=split.parts[0, :, -1].cpu().numpy(),
        norm_bias=float(split.norm_bias[0]),
        unembedding_bias=float(split.unembedding_bias[0]),
        sources=torch.stack(sources).cpu().numpy(),
        neurons=None if neurons is None else torch.cat([each.values for each in neurons]).cpu().numpy(),
        mlp_biases=None if neurons is None else torch.cat([each.bias for each in neurons]).cpu().numpy(),
    )
    _require_sum(lm, attribution)
    return attribution


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


class _Split(NamedTuple):
    """What the parts of a model add to the targets of P texts, each after one token."""

    u: Float[Tensor, "P d"]
    """The direction in the residual stream whose product with a part is what the part adds."""
    parts: Float[Tensor, "P D H+1"]
    """Each head, and last the MLP, its bias included."""
    embedding: Float[Tensor, " P"]
    """The stream before the first block."""
    biases: Float[Tensor, "P D"]
    """The bias of each attention output, and of the norm behind it."""
    norm_bias: Float[Tensor, " P"]
    unembedding_bias: Float[Tensor, " P"]
    promoted: Int[Tensor, "P D H+1 2 k"]
    """See `LastAttribution`; empty where k is 0."""


def _split(
    lm: LM,
    final: Float[Tensor, "P d"],
    first: Float[Tensor, "P d"],
    z: Iterable[Float[Tensor, "P H dh"]],
    attn_norms: Iterable[HeldNorm | None],
    mlps: Iterable[Float[Tensor, "P d"]],
    answers: Int[Tensor, "P A"],
    k: int = 0,
) -> _Split:
    """Add up the parts.

    Args:
        lm: the model.
        final: the stream after the last block.
        first: the stream before the first block.
        z: of each block, the mixed values of its heads, before W_O.
        attn_norms: of each block, the norm behind its heads, if there is one.
        mlps: of each block, what its MLP wrote, behind its norm if there is one.
        answers: see `unembedding`.
        k: how many promoted and suppressed tokens to give (before a cap on the logits); 0 leaves them out.
    """
    norm = final_norm(lm, final)
    column, constant = unembedding(lm, answers, final)
    u = norm.direction(column)
    rows = lm.model.get_output_embeddings().weight.detach().float() if k else column
    part_norm = replace(norm, scale=norm.scale[:, None])
    parts, biases, extremes = [], [], []
    for layer, (mixture, post, mlp) in enumerate(zip(z, attn_norms, mlps, strict=True)):
        w_o, bias = output_weights(lm.bridge, layer)
        heads = torch.einsum("phe,hed->phd", mixture.reshape(len(mixture), *w_o.shape[:2]), w_o)
        bias = torch.zeros_like(u[0]) if bias is None else bias
        if post is not None:
            heads, bias = replace(post, scale=post.scale[:, None])(heads), post(bias) + post.shift
        outputs = torch.cat([heads, mlp[:, None]], dim=1)
        parts.append(torch.einsum("pnd,pd->pn", outputs, u))
        biases.append((u * bias).sum(-1))
        if k:
            change = part_norm(outputs) @ rows.T * output_scale(lm)
            extremes.append(torch.stack([change.topk(k).indices, (-change).topk(k).indices], dim=2))
    promoted = torch.stack(extremes, dim=1) if k else torch.empty(0, dtype=torch.long)
    embedding, norm_bias = (first * u).sum(-1), column @ norm.shift
    return _Split(u, torch.stack(parts, 1), embedding, torch.stack(biases, 1), norm_bias, constant, promoted)


def unembedding(
    lm: LM, answers: Int[Tensor, "P A"], final: Float[Tensor, "P d"]
) -> tuple[Float[Tensor, "P d"], Float[Tensor, " P"]]:
    """Return the columns of W_U that the targets read, and what the bias adds.

    Args:
        lm: the model.
        answers: of each text the answer, and the one whose logit is taken off it if there are two; padded with -1.
        final: the stream after the last block, at which a cap on the logits is held.
    """
    head = lm.model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    factors = _cap_factors(lm, answers, final)
    column = _difference(head.weight.detach(), answers, factors) * output_scale(lm)
    if bias is None:
        return column, column.new_zeros(len(column))
    return column, _difference(bias.detach()[:, None], answers, factors)[:, 0] * output_scale(lm)


def _cap_factors(lm: LM, answers: Int[Tensor, "P A"], final: Float[Tensor, "P d"]) -> Float[Tensor, "P A"] | None:
    """Return c tanh(z / c) / z at each answer's logit z before the cap c; None where there is no cap."""
    cap = logit_cap(lm)
    if not cap:
        return None
    head, tokens = lm.model.get_output_embeddings(), answers.clamp(min=0).to(final.device)
    normed = lm.bridge.ln_final.original_component(final.to(head.weight.dtype)).float()
    logits = torch.einsum("pad,pd->pa", head.weight.detach()[tokens].float(), normed)
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias.detach()[tokens].float()
    logits = logits * output_scale(lm)
    return torch.where(logits.abs() > 1e-6, cap * (logits / cap).tanh() / logits, 1.0)


def rounding(lm: LM, size: float) -> float:
    """Return how far a sum of this size may be off by rounding alone."""
    return 1e-4 + 8 * torch.finfo(lm.dtype).eps * size


def _require_sum(lm: LM, attribution: Attribution) -> None:
    size = float(np.abs(attribution.table()["value"]).sum())
    if not abs(attribution.sum - attribution.total) <= rounding(lm, size):
        raise ModelError(
            f"The parts of the logit add up to {attribution.sum:.4f} and {type(lm.model).__name__} gives"
            f" {attribution.total:.4f}: it does more than add what heads and MLPs write (a factor on them, as in"
            " Granite): use a model of another architecture."
        )


Posts = dict[int, Float[Tensor, "P m"]]
"""By block, what enters W_out after the last token of each text."""


class NeuronShares(NamedTuple):
    """What the neurons of one MLP add to the targets of P texts."""

    values: Float[Tensor, "P m"]
    bias: Float[Tensor, " P"]
    """What the bias of W_out adds."""


def neuron_shares(
    lm: LM,
    posts: Posts,
    u: Float[Tensor, "P d"],
    norms: Sequence[HeldNorm | None],
    mlps: Float[Tensor, "P D"],
) -> list[NeuronShares] | None:
    """Return what each neuron of each block adds.

    Args:
        lm: the model.
        posts: by block, what enters W_out after one token of each text.
        u: of each text, the direction in the residual stream whose product with a part is its share.
        norms: of each block, the norm behind its MLP, if there is one.
        mlps: the share of each MLP.

    Returns:
        None where neurons and the bias of W_out do not sum to the MLPs, as with experts.
    """
    shares_by_block = []
    for block, whole in enumerate(mlps.T):
        post, mlp = posts.get(block), lm.bridge.blocks[block].mlp
        weight, b_out = getattr(mlp, "W_out", None), getattr(mlp, "b_out", None)
        if weight is None or post is None or weight.shape != (post.shape[-1], u.shape[-1]):
            return None
        norm, inner = norms[block], _through(norms[block], u)
        shares = post * (inner @ weight.detach().float().T)
        bias = torch.zeros_like(whole) if b_out is None else inner @ b_out.detach().float()
        bias = bias if norm is None else bias + u @ norm.shift
        gaps, sizes = (shares.sum(-1) - (whole - bias)).abs().tolist(), shares.abs().sum(-1).tolist()
        if not all(gap <= rounding(lm, size) for gap, size in zip(gaps, sizes, strict=True)):
            return None
        shares_by_block.append(NeuronShares(shares, bias))
    return shares_by_block


def _through(norm: HeldNorm | None, u: Float[Tensor, "P d"]) -> Float[Tensor, "P d"]:
    """Return the direction before a norm whose product with a part is that of `u` with the normed part."""
    return u if norm is None else norm.direction(u)


class LastNeurons(NamedTuple):
    """The strongest neurons of each block after the last token of each text."""

    ids: Int[Tensor, "P D n"]
    """Numbers of the neurons, the strongest first whether it adds or takes."""
    values: Float[Tensor, "P D n"]
    """What each adds to the target, nats."""


@contextmanager
def last_posts(lm: LM, shape: Sequence[int], last: Int[Tensor, " P"]) -> Iterator[Posts]:
    """Collect what enters W_out at the last token of each text, where there is W_out.

    A pass over the texts inside the context fills the dict.

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


def strongest(shares: Sequence[NeuronShares], n: int) -> LastNeurons:
    """Return the n neurons of each block that add or take most; if one MLP is narrower, fewer in every block alike."""
    width = min(n, *(each.values.shape[-1] for each in shares))
    orders = [each.values.abs().argsort(dim=-1, descending=True, stable=True)[:, :width] for each in shares]
    values = [each.values.gather(-1, order) for each, order in zip(shares, orders, strict=True)]
    return LastNeurons(torch.stack(orders, dim=1), torch.stack(values, dim=1))


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
    """Return the hook names that `attribute_last` reads besides the residual stream.

    There are none if a block lacks heads or an MLP.
    """
    blocks, hooks = range(lm.bridge.cfg.n_layers), lm.bridge.hook_dict
    names = [name for block in blocks for name in (_mixed(block), _mlp_out(block))]
    posts = [name for block in blocks for name in (post_hook(lm, block, "attn"), post_hook(lm, block, "mlp")) if name]
    return [*names, *posts] if all(name in hooks for name in names) else []


def _mixed(block: int) -> str:
    return f"blocks.{block}.attn.hook_z"


def _mlp_out(block: int) -> str:
    return f"blocks.{block}.hook_mlp_out"


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
    """Return what every part adds to the logit of a text's first answer minus that of its second.

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
        None where the parts do not sum to the logits, or there are no heads.
    """
    if not names:
        return None
    texts, last = torch.arange(len(last), device=logits.device), last.to(logits.device)

    def read(name: str) -> Tensor:
        return cache[name][texts, last].float()

    def norms(part: Part) -> list[HeldNorm | None]:
        hooks = [post_hook(lm, block, part) for block in blocks]
        return [post_norm(lm, block, part, read(hook)) if hook else None for block, hook in enumerate(hooks)]

    blocks, k = range(lm.bridge.cfg.n_layers), min(k, lm.model.get_output_embeddings().weight.shape[0])
    first, final = read("blocks.0.hook_resid_pre"), read(f"blocks.{len(blocks) - 1}.hook_resid_post")
    z, mlps = ([read(name(block)) for block in blocks] for name in (_mixed, _mlp_out))
    try:
        attn_norms, mlp_norms = norms("attn"), norms("mlp")
        split = _split(lm, final, first, z, attn_norms, mlps, answers, k)
    except ModelError:
        return None
    rest = split.embedding + split.norm_bias + split.unembedding_bias
    for bias in split.biases.T:
        rest = rest + bias
    value = _difference(logits[texts, last].float()[..., None], answers, own=True)[:, 0]
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
    """Return the row of each text's first answer minus that of its second; an answer that is not there counts as zeros.

    Args:
        rows: [V n], or [P V n] if each text has its own.
        answers: answer tokens of each text, padded with -1.
        factors: of the row of each answer; None: ones.
        own: whether each text has its own.
    """
    texts = torch.arange(len(answers), device=rows.device)
    total = rows.new_zeros((len(answers), rows.shape[-1]), dtype=torch.float32)
    factors = rows.new_ones(answers.shape) if factors is None else factors
    for sign, tokens, factor in zip((1.0, -1.0), answers.to(rows.device).T, factors.T, strict=False):
        picks = rows[texts, tokens.clamp(min=0)] if own else rows[tokens.clamp(min=0)]
        total = total + sign * factor[:, None] * picks.float().masked_fill((tokens < 0)[:, None], 0.0)
    return total
