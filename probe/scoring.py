"""Log-probabilities of completions, with gradients, at the price of one pass over each prompt.

The completions of a group (GRPO, RSFT) and the pair of DPO repeat one prompt. It is run once with gradients on: short
ones as a tree in a row (`probe.trees`), with examples beside it that do not see it; long ones by repeating the prompt's
keys and values for each completion. 24 prompts of 18 tokens with 8 completions of 8 tokens cost 1,776 token passes and
not 4,992.

Axes: P prompts, N completions (prompt-major), L tokens of the longest completion, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from probe import sharing, trees
from probe.errors import ConfigError, DataError
from probe.forward import Ids, arguments, can_cache, context_length, forward, positions, unwrap
from probe.tokens import pad


class TokenLogprobs(NamedTuple):
    """What a model gives the tokens of N completions, prompt-major, padded to the longest."""

    values: Float[Tensor, "N L"]
    """Log-probability of each token in nats; 0 where masked; differentiable."""
    mask: Bool[Tensor, "N L"]
    """True at real tokens."""
    entropy: Float[Tensor, "N L"]
    """Entropy of the distribution the token was drawn from, in nats; 0 where masked; detached."""
    likeliest: Bool[Tensor, "N L"]
    """True where the token is the most probable one; false where masked."""
    readout: Float[Tensor, "N L"] | None = None
    """What the head that was asked for says of the state the token was drawn from; 0 where masked; differentiable."""


def completion_logprobs(
    model: nn.Module,
    prompts: Sequence[Ids],
    completions: Sequence[Sequence[Ids]],
    *,
    temperature: float = 1.0,
    share_prompt: bool = True,
    readout: nn.Module | None = None,
) -> TokenLogprobs:
    """log pi(token | prompt, tokens before) of every token of every completion (E1, E8, E13).

    Args:
        model: a causal language model of transformers, or a wrapper (DDP) that holds one as `.module`.
        prompts: ids of P prompts, none empty.
        completions: for each prompt the ids of its group of any size; a completion may be empty (its row is masked).
        temperature: the logits are divided by it.
        share_prompt: run each prompt once; models that allow neither way, or whose numbers would differ
            (`probe.sharing`), are run the plain way anyway.
        readout: a head that turns the states [... d] which enter the unembedding into numbers [...], such as the values
            of PPO; it reads the state before each completion token.

    Raises:
        DataError: an empty prompt, or a sequence longer than the model's context.
        ConfigError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ConfigError(f"Log-probabilities at temperature {temperature} do not exist: give a positive number.")
    rows = [row for row, group in enumerate(completions) for _ in group]
    flat = [completion for group in completions for completion in group]
    check_lengths(model, prompts, [len(prompts[row]) + len(ids) for row, ids in zip(rows, flat, strict=True)])
    device = next(model.parameters()).device
    targets, mask = (tensor.to(device) for tensor in pad(flat, 0))
    if not mask.any():
        return _nothing(model, readout, mask)
    owner = torch.tensor(rows, device=device)
    trees_fit = share_prompt and can_branch(model) and trees.fits(unwrap(model), prompts, completions)
    if trees_fit and _sound(model, "trees", trees.widest(prompts, completions)):
        return _branched(model, prompts, completions, targets, mask, temperature, readout)
    longest = max(map(len, prompts)) + mask.shape[1]
    if share_prompt and can_share(model) and _sound(model, "cache", longest):
        score = _shared
    else:
        score = _plain if _sound(model, "padding", longest) else _alone
    return score(model, prompts, owner, targets, mask, temperature, readout)


def gather_logprobs(
    logits: Float[Tensor, "N T V"], prompt_lengths: Sequence[int], completions: Sequence[Ids], temperature: float
) -> TokenLogprobs:
    """The same from the logits of whole sequences, prompt and completion, padded on the right."""
    targets, mask = (tensor.to(logits.device) for tensor in pad(completions, 0))
    first = torch.tensor(prompt_lengths, device=logits.device)[:, None] - 1
    columns = (first + torch.arange(targets.shape[1], device=logits.device)).clamp(max=logits.shape[1] - 1)
    at = torch.arange(len(targets), device=logits.device)[:, None]
    return _packed(logits[at, columns], targets, mask, temperature)


def can_share(model: nn.Module) -> bool:
    """Whether the keys and values of a prompt can be repeated: a plain growing cache in every layer."""
    inner = unwrap(model)
    recomputes = inner.training and any(getattr(module, "gradient_checkpointing", False) for module in inner.modules())
    return not recomputes and _sees_everything(inner)


def can_branch(model: nn.Module) -> bool:
    """Whether trees can be run in rows: attention that takes positions and a mask for every pair of tokens."""
    inner = unwrap(model)
    known = getattr(inner.config, "_attn_implementation", None) in ("sdpa", "eager")
    alibi = getattr(inner.config, "alibi", False)
    return known and not alibi and "position_ids" in arguments(inner) and _sees_everything(inner)


def _sees_everything(inner: Any) -> bool:
    """Whether every layer attends to all tokens before (no window, no other state)."""
    return can_cache(inner) and all(type(layer) is DynamicLayer for layer in DynamicCache(config=inner.config).layers)


def _sound(model: nn.Module, way: str, width: int) -> bool:
    """Whether a way of scoring gives what each completion gives alone, for rows of up to `width` tokens."""

    def measured(score: Callable[..., TokenLogprobs]) -> sharing.Measure:
        def values(inner: Any, prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> Tensor:
            flat = [ids for group in groups for ids in group]
            targets, mask = (tensor.to(next(inner.parameters()).device) for tensor in pad(flat, 0))
            rows = [row for row, group in enumerate(groups) for _ in group]
            whose: Any = groups if score is _branched else torch.tensor(rows, device=targets.device)
            return score(inner, prompts, whose, targets, mask, 1.0, None).values[mask]

        return values

    ways: dict[str, Callable[..., TokenLogprobs]] = {"trees": _branched, "cache": _shared, "padding": _plain}
    return sharing.agrees(model, way, width, measured(ways[way]), measured(_alone))


def check_lengths(model: nn.Module, prompts: Sequence[Ids], totals: Sequence[int]) -> None:
    """Raise a DataError for an empty prompt or for a sequence beyond the model's context."""
    if any(len(ids) == 0 for ids in prompts):
        raise DataError("A prompt has no tokens, so there is nothing to continue: give at least one word.")
    limit = context_length(model)
    longest = max((*totals, *map(len, prompts)), default=0)
    if limit is not None and longest > limit:
        raise DataError(f"A text has {longest} tokens and the model reads at most {limit}: shorten it.")


def check_ids(ids: Int[Tensor, "..."], size: int) -> None:
    """Raise a DataError unless each id is below the `size` of the vocabulary; a GPU would end the process instead."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise DataError(f"A text has the token {wrong} and the model knows 0 to {size - 1}: encode it for this model.")


def _nothing(model: nn.Module, readout: nn.Module | None, mask: Bool[Tensor, "N L"]) -> TokenLogprobs:
    """Zeros for completions without a token; a loss of them has a gradient, and it is zero."""
    heads = [] if readout is None else list(readout.parameters())
    zero = sum(
        (parameter.flatten()[:0].sum() for parameter in (*model.parameters(), *heads)),
        start=torch.zeros((), device=mask.device),
    )
    values = zero.expand(mask.shape)
    return TokenLogprobs(values, mask, values.detach(), mask, None if readout is None else values)


def _branched(
    model: nn.Module,
    prompts: Sequence[Ids],
    completions: Sequence[Sequence[Ids]],
    targets: Tensor,
    mask: Tensor,
    temperature: float,
    readout: nn.Module | None,
) -> TokenLogprobs:
    """Each prompt with its completions as one tree; no token is run twice, and logits exist of what is scored only."""
    inner, layout = unwrap(model), trees.lay_out(prompts, completions)
    ids, places, sees, sources = (
        tensor.to(targets.device) for tensor in (layout.ids, layout.positions, layout.sees, layout.sources)
    )
    inputs: dict[str, Any] = {"attention_mask": trees.attention_mask(inner, sees), "position_ids": places}
    with trees.unembed_only(inner, sources):
        output = forward(model, ids, use_cache=False, readout=readout, **inputs)
    return _spread(output.logits[0], targets, mask, temperature, None if readout is None else output.readout[0])


def _shared(
    model: nn.Module,
    prompts: Sequence[Ids],
    owner: Tensor,
    targets: Tensor,
    mask: Tensor,
    temperature: float,
    readout: nn.Module | None,
) -> TokenLogprobs:
    """Prompts once, then the completions on their repeated keys and values."""
    ids, seen = (tensor.to(owner.device) for tensor in pad(prompts, 0, "left"))
    inputs: dict[str, Any] = {
        "attention_mask": seen.long(),
        "position_ids": positions(seen),
        "past_key_values": DynamicCache(),
    }
    head = forward(model, ids, keep=1, use_cache=True, readout=readout, **inputs)
    logprobs = _log_softmax(head.logits[:, 0], temperature)
    begun = mask[:, :1]
    first = TokenLogprobs(
        values=logprobs[owner, targets[:, 0]][:, None].where(begun, 0),
        mask=begun,
        entropy=_entropy(logprobs)[owner][:, None].where(begun, 0),
        likeliest=(logprobs.argmax(-1)[owner] == targets[:, 0])[:, None] & begun,
        readout=None if readout is None else head.readout[owner].where(begun, 0),
    )
    if mask.shape[1] == 1:
        return first
    cache = _repeated(head.past_key_values, torch.bincount(owner, minlength=len(prompts)))
    whole = torch.cat([seen[owner], mask[:, :-1]], dim=1)
    where = positions(whole)[:, ids.shape[1] :]
    inputs = {"attention_mask": whole.long(), "position_ids": where, "past_key_values": cache}
    tail = forward(model, targets[:, :-1], use_cache=True, readout=readout, **inputs)
    rest = _packed(tail.logits, targets[:, 1:], mask[:, 1:], temperature, tail.readout)
    both = [[column for column in part if column is not None] for part in (first, rest)]
    return TokenLogprobs(*(torch.cat(pair, dim=1) for pair in zip(*both, strict=True)))


def _plain(
    model: nn.Module,
    prompts: Sequence[Ids],
    owner: Tensor,
    targets: Tensor,
    mask: Tensor,
    temperature: float,
    readout: nn.Module | None,
) -> TokenLogprobs:
    """Each completion with its own pass over the prompt: prompts end and completions begin in the same column."""
    ids, seen = (tensor.to(owner.device) for tensor in pad(prompts, 0, "left"))
    whole = torch.cat([seen[owner], mask[:, :-1]], dim=1)
    inputs: dict[str, Any] = {"attention_mask": whole.long(), "position_ids": positions(whole)}
    rows = torch.cat([ids[owner], targets[:, :-1]], dim=1)
    output = forward(model, rows, keep=mask.shape[1], use_cache=False, readout=readout, **inputs)
    return _packed(output.logits, targets, mask, temperature, output.readout)


def _alone(
    model: nn.Module,
    prompts: Sequence[Ids],
    owner: Tensor,
    targets: Tensor,
    mask: Tensor,
    temperature: float,
    readout: nn.Module | None,
) -> TokenLogprobs:
    """Each completion in a pass of its own without any padding, for models that do not take it for what it is."""
    rows = [
        _plain(model, [prompts[at]], owner[:1] * 0, ids[None, :length], real[None, :length], temperature, readout)
        for at, ids, real, length in zip(owner.tolist(), targets, mask, mask.sum(1).tolist(), strict=True)
        if length
    ]

    def padded(*found: Tensor) -> Tensor:
        """[N L] from a column of the rows; what has no token is 0 or false."""
        empty = torch.zeros(mask.shape, dtype=found[0].dtype, device=mask.device)
        return empty.masked_scatter(mask, torch.cat([values[0] for values in found]))

    columns = zip(*(row if readout is not None else row[:-1] for row in rows), strict=True)
    return TokenLogprobs(*(padded(*column) for column in columns))


def _repeated(cache: DynamicCache, times: Int[Tensor, " P"]) -> DynamicCache:
    """The cache with each prompt's keys and values as often as it has completions."""
    if bool((times == times[0]).all()):
        cache.batch_repeat_interleave(int(times[0]))
    else:
        cache.batch_select_indices(torch.arange(len(times), device=times.device).repeat_interleave(times))
    return cache


def _packed(
    logits: Float[Tensor, "N L V"],
    targets: Int[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    temperature: float,
    readout: Float[Tensor, "N L"] | None = None,
) -> TokenLogprobs:
    """What the logits say of the targets, at real tokens only; 0 elsewhere."""
    return _spread(logits[mask], targets, mask, temperature, None if readout is None else readout[mask])


def _spread(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    temperature: float,
    readout: Float[Tensor, " M"] | None = None,
) -> TokenLogprobs:
    """The same from the logits of the M real tokens in reading order."""
    logprobs = _log_softmax(logits, temperature)
    chosen = logprobs.gather(-1, targets[mask][:, None])[:, 0]
    empty = torch.zeros(mask.shape, device=mask.device)
    return TokenLogprobs(
        values=empty.masked_scatter(mask, chosen),
        mask=mask,
        entropy=empty.masked_scatter(mask, _entropy(logprobs)),
        likeliest=torch.zeros_like(mask).masked_scatter(mask, chosen == logprobs.detach().amax(-1)),
        readout=None if readout is None else empty.masked_scatter(mask, readout),
    )


def _log_softmax(logits: Float[Tensor, "... V"], temperature: float) -> Float[Tensor, "... V"]:
    """In single precision at the least."""
    logits = logits.float()
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


@torch.no_grad()
def _entropy(logprobs: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
    return -(logprobs.exp() * logprobs.clamp(min=-1e9)).sum(-1)
