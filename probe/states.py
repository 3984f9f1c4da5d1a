"""The final hidden states at the tokens of completions, with gradients and without a head: rewards are read from them.

The completions of one prompt are a tree (`probe.trees`), so that a prompt is run once; a model whose attention cannot
be told who sees whom gets a row for each completion.

Axes: P prompts, N completions (prompt-major), L tokens of the longest completion, d width of the model.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe import sharing, trees
from probe.forward import Ids, arguments, positions, unwrap
from probe.scoring import can_branch, check_lengths
from probe.tokens import pad

Groups = Sequence[Sequence[Ids]]


def last_states(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, *, share_prompt: bool = True
) -> Float[Tensor, "N d"]:
    """The state after the last norm at the last real token of each prompt with its completion; differentiable.

    Args:
        model: a decoder of transformers with whatever head, or a wrapper that holds one as `.module`.
        prompts: ids of P prompts, none empty.
        completions: for each prompt the ids of its group of any size; of an empty completion the prompt's end is read.
        share_prompt: run each prompt once where the model allows it.

    Raises:
        DataError: an empty prompt, or a sequence longer than the model's context.
    """
    lengths = torch.tensor([len(ids) for group in completions for ids in group], dtype=torch.long)
    ends = (lengths + 1).cumsum(0) - 1
    return _states(model, prompts, completions, share_prompt, keep=ends)


def token_states(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, *, share_prompt: bool = True
) -> tuple[Float[Tensor, "N L d"], Bool[Tensor, "N L"]]:
    """The states *at* the tokens of every completion, 0 where masked, and which are real; see `last_states`."""
    flat = [ids for group in completions for ids in group]
    mask = pad(flat, 0)[1]
    lengths = mask.sum(-1)
    firsts = (lengths + 1).cumsum(0) - lengths
    keep = (firsts[:, None] + torch.arange(mask.shape[1]))[mask]
    found = _states(model, prompts, completions, share_prompt, keep=keep)
    mask = mask.to(found.device)
    spread = torch.zeros(*mask.shape, found.shape[-1], dtype=found.dtype, device=found.device)
    return spread.masked_scatter(mask[..., None], found), mask


def _states(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, share_prompt: bool, keep: Int[Tensor, " M"]
) -> Float[Tensor, "M d"]:
    """The states of `keep`, which counts for each completion the end of its prompt and then its tokens."""
    totals = [len(prompt) + len(ids) for prompt, group in zip(prompts, completions, strict=True) for ids in group]
    check_lengths(model, prompts, totals)
    fits = share_prompt and can_branch(model) and trees.fits(unwrap(model), prompts, _ended(completions))
    return _run(model, prompts, completions, fits and _sound(model, prompts, completions), keep)


def _ended(completions: Groups) -> list[list[list[int]]]:
    """A tree does not run the last token of a completion, which `scoring` only predicts: one more makes it run."""
    return [[[*ids, 0] for ids in group] for group in completions]


def _run(
    model: nn.Module, prompts: Sequence[Ids], completions: Groups, branch: bool, keep: Int[Tensor, " M"]
) -> Float[Tensor, "M d"]:
    inner = unwrap(model)
    device = next(inner.parameters()).device
    if branch:
        layout = trees.lay_out(prompts, _ended(completions))
        ids, places, sources = layout.ids, layout.positions, layout.sources
        seen = trees.attention_mask(inner, layout.sees.to(device))
    else:
        pairs = [(prompt, ids) for prompt, group in zip(prompts, completions, strict=True) for ids in group]
        ids, real = pad([[*prompt, *completion] for prompt, completion in pairs], 0)
        places, seen = positions(real), real.long().to(device)
        columns = [(len(prompt) - 1, len(prompt) + len(completion)) for prompt, completion in pairs]
        sources = torch.tensor([row * ids.shape[1] + at for row, span in enumerate(columns) for at in range(*span)])
    inputs = {"attention_mask": seen, "position_ids": places.to(device), "use_cache": False}
    known = arguments(inner.base_model)
    states = inner.base_model(input_ids=ids.to(device), **{k: v for k, v in inputs.items() if k in known})
    return states.last_hidden_state.flatten(0, 1)[sources[keep].to(device)]


def _sound(model: nn.Module, prompts: Sequence[Ids], completions: Groups) -> bool:
    """Whether trees of this width give what rows give, of which padding on the right says nothing."""

    def measured(branch: bool) -> sharing.Measure:
        def values(inner: nn.Module, prompts: Sequence[Ids], groups: Groups) -> Tensor:
            count = sum(len(ids) + 1 for group in groups for ids in group)
            return _run(inner, prompts, groups, branch, torch.arange(count)).flatten()

        return values

    return sharing.agrees(model, "states", trees.widest(prompts, _ended(completions)), measured(True), measured(False))
