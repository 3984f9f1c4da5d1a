"""Where one can intervene in a model, and a batched forward pass in which every row has its own intervention.

A site is the residual stream after a block, the output of an attention head (before W_O), of the attention or of the
feed-forward part, at one token or at all. `sweep` repeats the text as rows of a batch and edits another site in each.

Axes: B texts, D blocks, H heads, T tokens, d width, dh head width, R interventions, A answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.targets import Target, require_inside, value
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.hooks import Hook

Kind = Literal["resid", "head", "mlp", "attn"]
KINDS: dict[str, str] = {
    "resid": "the residual stream",
    "head": "a head's output",
    "mlp": "the feed-forward output",
    "attn": "the attention output",
}
"""What a site of each kind is, in words."""

TOKENS_PER_PASS = 2048
"""How many tokens a batch of interventions holds, at most (one text at least)."""

Activations = Mapping[str, Float[Tensor, "T ..."]]
"""Activations of one text by hook name, [T d], or [T H dh] for heads."""


@dataclass(frozen=True, order=True)
class Site:
    """One place in the model."""

    kind: Kind
    layer: int
    """The block, from 0; -1 is the embedding (`resid` only)."""
    head: int | None = None
    """The query head, for `head` only."""
    position: int | None = None
    """The token, from 0; None means all."""

    @property
    def hook(self) -> str:
        """Name of the hook point."""
        if self.kind == "resid":
            return "blocks.0.hook_resid_pre" if self.layer < 0 else f"blocks.{self.layer}.hook_resid_post"
        last = {"head": "attn.hook_z", "mlp": "hook_mlp_out", "attn": "hook_attn_out"}[self.kind]
        return f"blocks.{self.layer}.{last}"

    @property
    def name(self) -> str:
        """Short name without the token: `L5H3`, `residual after L5`, `MLP L5`, `attention L5`."""
        if self.kind == "head":
            return f"L{self.layer}H{self.head}"
        if self.kind == "resid":
            return "embedding" if self.layer < 0 else f"residual after L{self.layer}"
        return f"{'MLP' if self.kind == 'mlp' else 'attention'} L{self.layer}"

    @property
    def index(self) -> tuple[Any, ...]:
        """Where it lies in the activations [T ...] of its hook point."""
        token: Any = slice(None) if self.position is None else self.position
        return (token,) if self.head is None else (token, self.head)


class Edit(NamedTuple):
    """One change in a forward pass."""

    site: Site
    value: Tensor
    """What comes in place of the activation; [d] or [dh], [T d] or [T dh] where the site is all tokens."""


class Readings(NamedTuple):
    """What R forward passes said at the target's token."""

    values: Float[Tensor, " R"]
    """The target in nats (in the units of a scalar model's head)."""
    logprobs: Float[Tensor, "R A"]
    """Log-probability of each answer in nats; without columns for a scalar model."""


def layers_of(lm: LM, kind: Kind) -> range:
    """The rows of a grid of sites: blocks, for the residual stream with the embedding (-1) first.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"A site of kind {kind!r} was asked for: give one of {', '.join(KINDS)}.")
    return range(-1 if kind == "resid" else 0, lm.bridge.cfg.n_layers)


def grid(lm: LM, kind: Kind, length: int, position: int | None = None) -> list[list[Site]]:
    """Every site of a kind: layers downwards; heads to the right (at `position`, None: at all), else tokens.

    Args:
        lm: the model.
        kind: of the sites.
        length: T, the tokens of the text.
        position: the token of the heads; other kinds have each token as a column.

    Raises:
        ConfigError: an unknown kind.
        DataError: a token outside of the text.
    """
    layers = layers_of(lm, kind)
    require_token(position, length)
    if kind == "head":
        return [[Site(kind, layer, head, position) for head in range(lm.bridge.cfg.n_heads)] for layer in layers]
    return [[Site(kind, layer, None, token) for token in range(length)] for layer in layers]


def hooks_of(lm: LM, kinds: Iterable[Kind]) -> list[str]:
    """The hook points of all sites of these kinds."""
    return [Site(kind, layer).hook for kind in kinds for layer in layers_of(lm, kind)]


def observe(
    lm: LM, ids: Sequence[int], names: Sequence[str]
) -> tuple[Float[Tensor, "1 T V"], dict[str, Float[Tensor, "T ..."]]]:
    """(logits, activations at the hook points `names`) of one text, from one pass without gradients."""
    logits, cache = lm.run_with_cache([list(ids)], list(dict.fromkeys(names)))
    return logits.float(), {name: cache[name][0] for name in names}


def activations(lm: LM, ids: Sequence[int], names: Sequence[str]) -> dict[str, Float[Tensor, "T ..."]]:
    """Activations of one text at the hook points `names`."""
    return observe(lm, ids, names)[1]


def check(lm: LM, sites: Iterable[Site], length: int) -> None:
    """Raise unless each site exists in the model and in a text of `length` tokens.

    Raises:
        ConfigError: an unknown kind, a block or head that the model lacks, or a head that is missing or too many.
        DataError: a token outside of the text.
    """
    depth, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    for site in sites:
        if site.layer not in layers_of(lm, site.kind):
            raise ConfigError(f"Block {site.layer} was asked for in a model of {depth} blocks: give 0 to {depth - 1}.")
        if (site.kind == "head") != (site.head is not None):
            raise ConfigError(f"A site of kind {site.kind!r} has head {site.head}: only `head` sites name one.")
        if site.head is not None and not 0 <= site.head < heads:
            raise ConfigError(f"Head {site.head} was asked for in blocks of {heads} heads: give 0 to {heads - 1}.")
        require_token(site.position, length)


def require_token(position: int | None, length: int) -> None:
    """Raise a DataError unless the token is one of a text of `length` tokens, or None for all."""
    if position is not None and not 0 <= position < length:
        raise DataError(f"Token {position} was asked for in a text of {length} tokens: give 0 to {length - 1}.")


@torch.no_grad()
def sweep(
    lm: LM,
    ids: Sequence[int],
    rows: Sequence[Sequence[Edit]],
    target: Target,
    answers: Sequence[int] = (),
    tick: Tick = ignore,
) -> Readings:
    """Run one text once for each row of edits, several rows in one forward pass.

    Args:
        lm: the model.
        ids: the text.
        rows: R interventions; the edits of a row act together, none at all gives the untouched run.
        target: what is measured; only its token goes through the unembedding.
        answers: columns whose log-probabilities are read too; ignored for a scalar model.
        tick: progress.

    Raises:
        ConfigError, DataError: a site or a target that does not exist (see `check`).
    """
    check(lm, {edit.site for row in rows for edit in row}, len(ids))
    require_inside(target, len(ids))
    text = torch.tensor([list(ids)], device=lm.device)
    size = max(1, TOKENS_PER_PASS // len(ids))
    columns = list(answers) if lm.readout == "tokens" else []
    values, logprobs = [], []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        with lm.hooks([*_hooks(part), ("unembed.hook_in", lambda states, hook: _only(states, target.position))]):
            logits = lm.logits(text.expand(len(part), -1)).float()
        values.append(value(logits, replace(target, position=0)).cpu())
        logprobs.append(logits[:, 0].log_softmax(-1)[:, columns].cpu())
        tick(min(1.0, (start + size) / len(rows)))
    return Readings(torch.cat(values), torch.cat(logprobs))


def _only(states: Float[Tensor, "B T d"], position: int) -> Float[Tensor, "B 1 d"]:
    return states[:, position : position + 1]


def _hooks(rows: Sequence[Sequence[Edit]]) -> "list[Hook]":
    """One hook for each hook point that any row edits."""
    places: dict[str, list[tuple[int, Edit]]] = {}
    for row, edits in enumerate(rows):
        for edit in edits:
            places.setdefault(edit.site.hook, []).append((row, edit))

    def setter(found: list[tuple[int, Edit]]) -> Any:
        def fn(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            for row, edit in found:
                tensor[(row, *edit.site.index)] = edit.value.to(tensor)
            return tensor

        return fn

    return [(name, setter(found)) for name, found in places.items()]
