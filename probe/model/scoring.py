"""Log-probabilities and states of completions, with gradients, at the cost of one pass over each prompt.

The completions of a group (GRPO, RSFT) and the pair of DPO repeat one prompt. It is run once with gradients on: short
ones as a tree in a row, with other examples in the row that do not see it; long ones by repeating the prompt's keys and
values for each completion. 24 prompts of 18 tokens with 8 completions of 8 tokens cost 1,776 token passes instead of
4,992. A model whose attention takes no mask for pairs of tokens gets a row for each completion.

A tree is a prompt followed by its completions. Each token sees the prompt and its own completion up to itself, none of
the others; positions count along the branch. Several trees can share a row without seeing each other. The last token of
a completion is only a target, so it is not run: a pair of 8 tokens each on a prompt of 18 costs 32 tokens instead of
52.

`last_states` and `token_states` return final hidden states instead of logits: rewards are read from them.

Axes: P prompts, N completions (prompt-major), L tokens of the longest completion, V vocabulary, R rows of W columns, M
completion tokens in reading order, d width of the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from probe.errors import ConfigError, DataError
from probe.model import sharing
from probe.model.placement import input_device
from probe.model.read_places import feed_forward_only, recomputes, unembed_only
from probe.model.sharing import window
from probe.model.text import Ids, arguments, can_cache, context_length, forward, pad, positions, unwrap

PREFIX = 16
"""Minimum number of tokens with which all prompts must begin to run these once for all of them."""
SETTLED = 128
"""Number of tokens in the rows for which `settle_ways` checks the ways; longer rows are not checked."""
WIDEST = 1.5
"""Maximum number of tokens of a tree per unit of the model's width; beyond, the masked attention to the rest of the row
costs more than repeating the prompt (docs/log.md)."""


@dataclass(frozen=True)
class Layout:
    """Placement of the tokens of some trees in rows."""

    ids: Int[Tensor, "R W"]
    positions: Int[Tensor, "R W"]
    sees: Bool[Tensor, "R 1 W W"]
    """Whether the token in a row of the last two axes attends to the one in the column; padding attends to padding."""
    sources: Int[Tensor, " M"]
    """Index, in the flattened rows, of the token that predicts each completion token."""


def size(prompt: Ids, group: Sequence[Ids]) -> int:
    """Return the number of tokens of a tree that are run."""
    return len(prompt) + sum(max(len(ids) - 1, 0) for ids in group)


def lay_out(prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> Layout:
    """Place trees in rows by first-fit; every row is as wide as the largest tree."""
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
    """Return row and first column of each tree: the largest first, each in the first row that has room."""
    width = max(sizes, default=0)
    rows, starts, widths = [0] * len(sizes), [0] * len(sizes), list[int]()
    for tree in sorted(range(len(sizes)), key=lambda tree: -sizes[tree]):
        row = next((row for row, fill in enumerate(widths) if fill + sizes[tree] <= width), len(widths))
        if row == len(widths):
            widths.append(0)
        rows[tree], starts[tree] = row, widths[row]
        widths[row] += sizes[tree]
    return rows, starts


def _sees(trees: Int[Tensor, "R W"], branches: Int[Tensor, "R W"]) -> Bool[Tensor, "R 1 W W"]:
    one_tree = trees[:, :, None] == trees[:, None, :]
    open_branch = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    return (one_tree & open_branch).tril()[:, None]


def fits(model: Any, prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> bool:
    """Return whether the trees are narrow enough to run in rows.

    They are if a masked row is cheaper, and if the attention window covers the whole row.
    """
    reach = window(model)
    most = WIDEST * model.config.get_text_config(decoder=True).hidden_size
    return widest(prompts, groups) <= (most if reach is None else min(most, reach))


def widest(prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> int:
    """Return the number of tokens of the largest tree, which is the width of every row."""
    return max((size(prompt, group) for prompt, group in zip(prompts, groups, strict=True)), default=0)


def attention_mask(model: Any, sees: Bool[Tensor, "R 1 W W"]) -> Tensor:
    """Return the mask as the attention of `model` takes it: Booleans, or numbers to add to the scores (eager)."""
    if model.config._attn_implementation == "sdpa":
        return sees
    return torch.zeros(sees.shape, dtype=model.dtype, device=sees.device).masked_fill(
        ~sees, torch.finfo(model.dtype).min
    )


class TokenLogprobs(NamedTuple):
    """Log-probabilities and entropies of the tokens of N completions, prompt-major, padded to the longest."""

    values: Float[Tensor, "N L"]
    """Log-probability of each token in nats; 0 where masked; differentiable."""
    mask: Bool[Tensor, "N L"]
    """True at real tokens."""
    entropy: Float[Tensor, "N L"]
    """Entropy of the distribution the token was drawn from, in nats; 0 where masked; detached unless requested."""
    likeliest: Bool[Tensor, "N L"]
    """True where the token is the most probable one; false where masked."""
    readout: Float[Tensor, "N L"] | None = None
    """Output of the requested head at the state that predicts the token; 0 where masked; differentiable."""


SCORES = TokenLogprobs._fields[:-1]
"""Names of its tensors without a head."""


@dataclass(frozen=True)
class _Batch:
    """N completions of P prompts, and what is read of each token."""

    prompts: Sequence[Ids]
    completions: Sequence[Sequence[Ids]]
    """A group for each prompt."""
    owner: Int[Tensor, " N"]
    """The prompt of each completion."""
    targets: Int[Tensor, "N L"]
    """Their ids, padded."""
    mask: Bool[Tensor, "N L"]
    """True at real tokens."""
    temperature: float = 1.0
    readout: nn.Module | None = None
    entropy_gradient: bool = False

    @classmethod
    def of(cls, model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], *read: Any) -> "_Batch":
        """Lay completions out on the device of a model."""
        device = input_device(model)
        targets, mask = (tensor.to(device) for tensor in pad([ids for group in completions for ids in group], 0))
        owner = torch.tensor([row for row, group in enumerate(completions) for _ in group], device=device)
        return cls(prompts, completions, owner, targets, mask, *read)


def completion_logprobs(
    model: nn.Module,
    prompts: Sequence[Ids],
    completions: Sequence[Sequence[Ids]],
    *,
    temperature: float = 1.0,
    share_prompt: bool = True,
    readout: nn.Module | None = None,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """Return log pi(token | prompt, tokens before) of every token of every completion (E1, E8, E13).

    Args:
        model: a causal language model of transformers, or a wrapper (DDP) that holds one as `.module`.
        prompts: token ids of P prompts, none empty.
        completions: for each prompt the token ids of its group of any size; a completion may be empty (its row is
            masked).
        temperature: divisor of the logits.
        share_prompt: run each prompt once; models that allow neither way of sharing, or whose numbers would differ
            (`probe.model.sharing`), run each completion with its prompt.
        readout: a head from the states [... d] that enter the unembedding to numbers [...], such as the values of PPO;
            it reads the state before each completion token.
        entropy_gradient: whether entropies are differentiable, too.

    Raises:
        DataError: an empty prompt, or a sequence longer than the model's context.
        ConfigError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ConfigError(f"Log-probabilities at temperature {temperature} do not exist: give a positive number.")
    pairs = zip(prompts, completions, strict=True)
    check_lengths(model, prompts, [len(prompt) + len(ids) for prompt, group in pairs for ids in group])
    batch = _Batch.of(model, prompts, completions, temperature, readout, entropy_gradient)
    if not batch.mask.any():
        return _nothing(model, readout, batch.mask)
    trees_fit = share_prompt and can_branch(model) and fits(unwrap(model), prompts, completions)
    if trees_fit and _sound(model, "trees", widest(prompts, completions)):
        lead = count_common(prompts) if can_share(model) and not torch.is_grad_enabled() else 0
        if lead >= PREFIX and _sound(model, "prefix", widest(prompts, completions)):
            return _score_behind(model, batch)
        return _score_as_trees(model, batch)
    longest = max(map(len, prompts)) + batch.mask.shape[1]
    if share_prompt and can_share(model) and _sound(model, "cache", longest):
        return _score_shared(model, batch)
    return (_plain if _sound(model, "padding", longest) else _alone)(model, batch)


def gather_logprobs(
    logits: Float[Tensor, "N T V"], prompt_lengths: Sequence[int], completions: Sequence[Ids], temperature: float
) -> TokenLogprobs:
    """Return the result of `completion_logprobs` from the logits of whole sequences.

    A sequence is a prompt and its completion, padded on the right.
    """
    targets, mask = (tensor.to(logits.device) for tensor in pad(completions, 0))
    first = torch.tensor(prompt_lengths, device=logits.device)[:, None] - 1
    columns = (first + torch.arange(targets.shape[1], device=logits.device)).clamp(max=logits.shape[1] - 1)
    at = torch.arange(len(targets), device=logits.device)[:, None]
    return _token_logprobs(logits[at, columns], targets, mask, temperature)


def can_share(model: nn.Module) -> bool:
    """Return whether the keys and values of a prompt can be repeated: a plain growing cache in every layer."""
    inner = unwrap(model)
    return not recomputes(inner) and _sees_everything(inner)


def can_branch(model: nn.Module) -> bool:
    """Return whether trees can be run in rows: attention takes positions and a mask for every pair of tokens."""
    inner = unwrap(model)
    takes_mask = getattr(inner.config, "_attn_implementation", None) in ("sdpa", "eager")
    alibi = getattr(inner.config, "alibi", False)
    return takes_mask and not alibi and "position_ids" in arguments(inner) and _sees_everything(inner)


def _sees_everything(inner: Any) -> bool:
    """Return whether every layer attends to all tokens before (no window, no other state)."""
    return can_cache(inner) and all(type(layer) is DynamicLayer for layer in DynamicCache(config=inner.config).layers)


def _sound(model: nn.Module, way: str, width: int) -> bool:
    """Return whether a way of scoring agrees with scoring each completion alone, for rows of up to `width` tokens."""

    def measured(score: Callable[..., TokenLogprobs]) -> sharing.Measure:
        def values(inner: Any, prompts: Sequence[Ids], groups: Sequence[Sequence[Ids]]) -> Tensor:
            if way == "prefix":
                prompts = [[*prompts[0][:-1], prompt[-1]] for prompt in prompts]
            batch = _Batch.of(inner, prompts, groups)
            return score(inner, batch).values[batch.mask]

        return values

    ways: dict[str, Callable[..., TokenLogprobs]] = {
        "trees": _score_as_trees,
        "prefix": _score_behind,
        "cache": _score_shared,
        "padding": _plain,
    }
    return sharing.agrees(model, way, width, measured(ways[way]), measured(_alone))


def settle_ways(model: nn.Module, *others: nn.Module) -> bool:
    """Restrict a model and others of its kind to scoring with one forward pass, whatever the lengths of the texts.

    Processes that hold parts of one model must make the same number of passes, each for its own texts.

    Args:
        model: model on which the ways are checked, for rows of `SETTLED` tokens.
        others: modules over the same weights.

    Returns:
        Whether there is such a way: texts can be padded.
    """
    padding, trees = _sound(model, "padding", SETTLED), can_branch(model) and _sound(model, "trees", SETTLED)
    for each in (model, *others):
        sharing.settle(each, {"padding": True, "trees": trees, "prefix": False, "cache": False})
    return padding


def check_lengths(model: nn.Module, prompts: Sequence[Ids], totals: Sequence[int]) -> None:
    """Raise a DataError for an empty prompt or for a sequence beyond the model's context."""
    if any(len(ids) == 0 for ids in prompts):
        raise DataError("A prompt has no tokens, so there is nothing to continue: give at least one word.")
    limit = context_length(model)
    longest = max((*totals, *map(len, prompts)), default=0)
    if limit is not None and longest > limit:
        raise DataError(f"A text has {longest} tokens and the model reads at most {limit}: shorten it.")


def check_ids(ids: Int[Tensor, "..."], size: int) -> None:
    """Raise a DataError unless each id is below the vocabulary size `size`; otherwise a GPU would end the process."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < size:
        wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise DataError(f"A text has the token {wrong} and the model knows 0 to {size - 1}: encode it for this model.")


def _nothing(model: nn.Module, readout: nn.Module | None, mask: Bool[Tensor, "N L"]) -> TokenLogprobs:
    """Return zeros for completions without tokens; a loss on them has a gradient, and it is zero."""
    heads = [] if readout is None else list(readout.parameters())
    zero = sum(
        (parameter.flatten()[:0].sum() for parameter in (*model.parameters(), *heads)),
        start=torch.zeros((), device=mask.device),
    )
    values = zero.expand(mask.shape)
    return TokenLogprobs(values, mask, values.detach(), mask, None if readout is None else values)


def _score_as_trees(model: nn.Module, batch: _Batch, before: DynamicCache | None = None) -> TokenLogprobs:
    """Score each prompt with its completions as one tree.

    No token is run twice, and only the logits that are scored are computed. Every token sees the keys and values of the
    tokens `before`, which are those of one row.
    """
    inner, layout = unwrap(model), lay_out(batch.prompts, batch.completions)
    ids, places, sees, sources = (
        tensor.to(batch.targets.device) for tensor in (layout.ids, layout.positions, layout.sees, layout.sources)
    )
    inputs: dict[str, Any] = {"attention_mask": attention_mask(inner, sees), "position_ids": places}
    if before is not None:
        length = before.get_seq_length()
        before.batch_repeat_interleave(len(ids))
        whole = torch.cat([sees.new_ones(*sees.shape[:3], length), sees], dim=-1)
        inputs = {"attention_mask": attention_mask(inner, whole), "position_ids": places + length}
        inputs["past_key_values"] = before
    with unembed_only(inner, sources):
        output = forward(model, ids, use_cache=before is not None, readout=batch.readout, **inputs)
    readout = None if batch.readout is None else output.readout[0]
    return _spread(output.logits[0], batch.targets, batch.mask, batch.temperature, readout, batch.entropy_gradient)


def _score_behind(model: nn.Module, batch: _Batch) -> TokenLogprobs:
    """Run the tokens with which all prompts begin once, then score the rest as trees on their keys and values."""
    lead = count_common(batch.prompts)
    ids = torch.tensor([list(batch.prompts[0][:lead])], device=batch.targets.device)
    head = forward(model, ids, keep=1, use_cache=True, past_key_values=DynamicCache())
    rest = replace(batch, prompts=[prompt[lead:] for prompt in batch.prompts])
    return _score_as_trees(model, rest, head.past_key_values)


def count_common(prompts: Sequence[Ids]) -> int:
    """Count the tokens with which all prompts begin; the last token of each prompt is never counted."""
    if len(prompts) < 2:
        return 0
    first, last = (
        min(map(list, prompts)),
        max(map(list, prompts)),
    )  # all lists begin with the common beginning of the smallest and the largest one
    pairs = zip(first, last, strict=False)
    shared = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)))
    return min(shared, *(len(prompt) - 1 for prompt in prompts))


def _score_shared(model: nn.Module, batch: _Batch) -> TokenLogprobs:
    """Run each prompt once, then score the completions on its repeated keys and values."""
    owner, targets, mask, readout = batch.owner, batch.targets, batch.mask, batch.readout
    ids, prompt_mask = (tensor.to(owner.device) for tensor in pad(batch.prompts, 0, "left"))
    inputs: dict[str, Any] = {
        "attention_mask": prompt_mask.long(),
        "position_ids": positions(prompt_mask),
        "past_key_values": DynamicCache(),
    }
    head = forward(model, ids, keep=1, use_cache=True, readout=readout, **inputs)
    logprobs = _log_softmax(head.logits[:, 0], batch.temperature)
    nonempty = mask[:, :1]
    first = TokenLogprobs(
        values=logprobs[owner, targets[:, 0]][:, None].where(nonempty, 0),
        mask=nonempty,
        entropy=entropy(logprobs, batch.entropy_gradient)[owner][:, None].where(nonempty, 0),
        likeliest=(logprobs.argmax(-1)[owner] == targets[:, 0])[:, None] & nonempty,
        readout=None if readout is None else head.readout[owner].where(nonempty, 0),
    )
    if mask.shape[1] == 1:
        return first
    cache = _repeat_cache(head.past_key_values, torch.bincount(owner, minlength=len(batch.prompts)))
    whole = torch.cat([prompt_mask[owner], mask[:, :-1]], dim=1)
    places = positions(whole)[:, ids.shape[1] :]
    inputs = {"attention_mask": whole.long(), "position_ids": places, "past_key_values": cache}
    tail = forward(model, targets[:, :-1], use_cache=True, readout=readout, **inputs)
    read = batch.temperature, tail.readout, batch.entropy_gradient
    rest = _token_logprobs(tail.logits, targets[:, 1:], mask[:, 1:], *read)
    both = [[column for column in part if column is not None] for part in (first, rest)]
    return TokenLogprobs(*(torch.cat(pair, dim=1) for pair in zip(*both, strict=True)))


def _plain(model: nn.Module, batch: _Batch) -> TokenLogprobs:
    """Score each completion with its own pass over the prompt.

    Prompts end and completions begin in the same column.
    """
    owner, mask = batch.owner, batch.mask
    ids, prompt_mask = (tensor.to(owner.device) for tensor in pad(batch.prompts, 0, "left"))
    whole = torch.cat([prompt_mask[owner], mask[:, :-1]], dim=1)
    inputs: dict[str, Any] = {"attention_mask": whole.long(), "position_ids": positions(whole)}
    rows = torch.cat([ids[owner], batch.targets[:, :-1]], dim=1)
    output = forward(model, rows, keep=mask.shape[1], use_cache=False, readout=batch.readout, **inputs)
    read = batch.temperature, output.readout, batch.entropy_gradient
    return _token_logprobs(output.logits, batch.targets, mask, *read)


def _alone(model: nn.Module, batch: _Batch) -> TokenLogprobs:
    """Score each completion in a separate pass without padding, for models that do not handle padding."""
    flat, mask = [ids for group in batch.completions for ids in group], batch.mask
    read = batch.temperature, batch.readout, batch.entropy_gradient
    rows = [
        _plain(model, _Batch.of(model, [batch.prompts[at]], [[ids]], *read))
        for at, ids in zip(batch.owner.tolist(), flat, strict=True)
        if len(ids)
    ]

    def padded(*found: Tensor) -> Tensor:
        """Return [N L] from a column of the rows; 0 or false without a token."""
        empty = torch.zeros(mask.shape, dtype=found[0].dtype, device=mask.device)
        return empty.masked_scatter(mask, torch.cat([values[0] for values in found]))

    columns = zip(*(row if batch.readout is not None else row[:-1] for row in rows), strict=True)
    return TokenLogprobs(*(padded(*column) for column in columns))


def _repeat_cache(cache: DynamicCache, times: Int[Tensor, " P"]) -> DynamicCache:
    """Repeat each prompt's keys and values in the cache as often as it has completions."""
    if bool((times == times[0]).all()):
        cache.batch_repeat_interleave(int(times[0]))
    else:
        cache.batch_select_indices(torch.arange(len(times), device=times.device).repeat_interleave(times))
    return cache


def _token_logprobs(
    logits: Float[Tensor, "N L V"],
    targets: Int[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    temperature: float,
    readout: Float[Tensor, "N L"] | None = None,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """Return the log-probabilities of the targets at real tokens; 0 elsewhere."""
    read = None if readout is None else readout[mask]
    return _spread(logits[mask], targets, mask, temperature, read, entropy_gradient)


def _spread(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    temperature: float,
    readout: Float[Tensor, " M"] | None = None,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """Return the log-probabilities of the targets from the logits of the M real tokens in reading order."""
    logprobs = _log_softmax(logits, temperature)
    values = logprobs.gather(-1, targets[mask][:, None])[:, 0]
    empty = torch.zeros(mask.shape, device=mask.device)
    return TokenLogprobs(
        values=empty.masked_scatter(mask, values),
        mask=mask,
        entropy=empty.masked_scatter(mask, entropy(logprobs, entropy_gradient)),
        likeliest=torch.zeros_like(mask).masked_scatter(mask, values == logprobs.detach().amax(-1)),
        readout=None if readout is None else empty.masked_scatter(mask, readout),
    )


def _log_softmax(logits: Float[Tensor, "... V"], temperature: float) -> Float[Tensor, "... V"]:
    """Return log-probabilities at a temperature, in single precision or more."""
    logits = logits.float()
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def entropy(logprobs: Float[Tensor, "... V"], differentiable: bool = False) -> Float[Tensor, "..."]:
    """Return the entropy of log-distributions in nats."""
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        shares = logprobs.softmax(-1)  # torch's exp takes many times as long
        with torch.autocast(logprobs.device.type, enabled=False):
            found = -torch.linalg.vecdot(shares, logprobs)
        return -(shares * logprobs.clamp(min=-1e9)).sum(-1) if bool(found.isnan().any()) else found  # 0 log 0 is 0


Groups = Sequence[Sequence[Ids]]


def last_states(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, *, share_prompt: bool = True
) -> Float[Tensor, "N d"]:
    """Return the state after the last norm at the last real token of each prompt with its completion.

    It is differentiable.

    Args:
        model: a decoder of transformers with any head, or a wrapper that holds one as `.module`.
        prompts: token ids of P prompts, none empty.
        completions: for each prompt the token ids of its group of any size; for an empty completion the end of the
            prompt is read.
        share_prompt: run each prompt once if the model allows it.

    Raises:
        DataError: an empty prompt, or a sequence longer than the model's context.
    """
    lengths = torch.tensor([len(ids) for group in completions for ids in group], dtype=torch.long)
    ends = (lengths + 1).cumsum(0) - 1
    return _states(model, prompts, completions, share_prompt, keep=ends)


def token_states(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, *, share_prompt: bool = True
) -> tuple[Float[Tensor, "N L d"], Bool[Tensor, "N L"]]:
    """Return the states *at* the tokens of every completion, 0 where masked, and the mask; see `last_states`."""
    flat = [ids for group in completions for ids in group]
    mask = pad(flat, 0)[1]
    lengths = mask.sum(-1)
    firsts = (lengths + 1).cumsum(0) - lengths
    keep = (firsts[:, None] + torch.arange(mask.shape[1]))[mask]
    states = _states(model, prompts, completions, share_prompt, keep=keep)
    mask = mask.to(states.device)
    spread = torch.zeros(*mask.shape, states.shape[-1], dtype=states.dtype, device=states.device)
    return spread.masked_scatter(mask[..., None], states), mask


def _states(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, share_prompt: bool, keep: Int[Tensor, " M"]
) -> Float[Tensor, "M d"]:
    """Return the states of `keep`, which lists for each completion the end of its prompt and then its tokens."""
    totals = [len(prompt) + len(ids) for prompt, group in zip(prompts, completions, strict=True) for ids in group]
    check_lengths(model, prompts, totals)
    short = share_prompt and can_branch(model) and fits(unwrap(model), prompts, _add_ends(completions))
    return _run(model, prompts, completions, short and _states_sound(model, prompts, completions), keep)


def _add_ends(completions: Groups) -> list[list[list[int]]]:
    """Add a token to each completion, so that a tree also runs the former last one.

    A tree does not run the last token of a completion, which `scoring` only predicts.
    """
    return [[[*ids, 0] for ids in group] for group in completions]


def _run(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, branch: bool, keep: Int[Tensor, " M"]
) -> Float[Tensor, "M d"]:
    inner = unwrap(model)
    device = input_device(inner)
    if branch:
        layout = lay_out(prompts, _add_ends(completions))
        ids, places, sources = layout.ids, layout.positions, layout.sources
        mask = attention_mask(inner, layout.sees.to(device))
    else:
        pairs = [(prompt, ids) for prompt, group in zip(prompts, completions, strict=True) for ids in group]
        ids, real = pad([[*prompt, *completion] for prompt, completion in pairs], 0)
        places, mask = positions(real), real.long().to(device)
        columns = [(len(prompt) - 1, len(prompt) + len(completion)) for prompt, completion in pairs]
        sources = torch.tensor([row * ids.shape[1] + at for row, span in enumerate(columns) for at in range(*span)])
    inputs = {"attention_mask": mask, "position_ids": places.to(device), "use_cache": False}
    parameters, read = arguments(inner.base_model), sources[keep].to(device)
    with feed_forward_only(inner, read):
        states = inner.base_model(input_ids=ids.to(device), **{k: v for k, v in inputs.items() if k in parameters})
    return states.last_hidden_state.flatten(0, 1)[read]


def _states_sound(model: nn.Module, prompts: Sequence[Ids], completions: Groups) -> bool:
    """Return whether trees of this width agree with separate rows.

    Whether rows can be padded on the right is another question.
    """

    def measured(branch: bool) -> sharing.Measure:
        def values(inner: nn.Module, prompts: Sequence[Ids], groups: Groups) -> Tensor:
            count = sum(len(ids) + 1 for group in groups for ids in group)
            return _run(inner, prompts, groups, branch, torch.arange(count)).flatten()

        return values

    return sharing.agrees(model, "states", widest(prompts, _add_ends(completions)), measured(True), measured(False))
