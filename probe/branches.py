"""The hidden states of completions, each prompt run once, in a single pass: completions are branches of one row.

    ids        p0 p1 p2 | a0 a1 | b0 b1 b2
    positions  0  1  2  | 3  4  | 3  4  5         each branch goes on where the prompt ends
    sees       prompt   | prompt and itself, never another branch

The two completions of a preference pair repeat one prompt. `probe.scoring` runs the prompt first and the completions on
its keys and values; here both lie in one row under one mask, which for short texts is faster, since a small model pays
for each pass. A model whose attention takes no such mask gets a row for each completion.

Axes: P prompts, N completions (prompt-major), R rows, T tokens of the longest row, L tokens of the longest completion.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.scoring import Ids, arguments, can_share, check_lengths, positions, unwrap
from probe.tokens import pad

LONG = 256
"""A row of branches may have this many tokens, or twice those of the longest text: attention grows with the square."""


class Layout(NamedTuple):
    """Where prompts and completions lie in the rows that are run."""

    ids: Int[Tensor, "R T"]
    positions: Int[Tensor, "R T"]
    mask: Bool[Tensor, "R T"] | Bool[Tensor, "R 1 T T"]
    """Real tokens; with branches which token (last axis) each token sees."""
    rows: Int[Tensor, " N"]
    """The row of each completion."""
    starts: Int[Tensor, " N"]
    """Column of a completion's first token."""
    prompt_ends: Int[Tensor, " N"]
    """Column of the last token of its prompt."""
    lengths: Int[Tensor, " N"]
    """Tokens of each completion."""

    @property
    def ends(self) -> Int[Tensor, " N"]:
        """Column of the last real token of prompt and completion."""
        return torch.where(self.lengths > 0, self.starts + self.lengths - 1, self.prompt_ends)


def last_states(
    model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], *, share_prompt: bool = True
) -> Float[Tensor, "N D"]:
    """The final hidden state at the last real token of each prompt with its completion; differentiable.

    Args:
        model: a decoder of transformers with any head; the head is not run.
        prompts: ids of P prompts, none empty.
        completions: for each prompt the ids of its group of any size; at an empty completion the prompt's end is read.
        share_prompt: run each prompt once where the model allows it.

    Raises:
        DataError: an empty prompt, or a sequence longer than the model's context.
    """
    layout = lay_out(model, prompts, completions, share_prompt)
    return _states(model, layout)[layout.rows, layout.ends]


def token_states(
    model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], *, share_prompt: bool = True
) -> tuple[Float[Tensor, "N L D"], Bool[Tensor, "N L"]]:
    """The final hidden state *at* every token of every completion, and which of them are real; see `last_states`."""
    layout = lay_out(model, prompts, completions, share_prompt)
    steps = torch.arange(int(layout.lengths.max()) if len(layout.lengths) else 0, device=layout.ids.device)
    mask = steps < layout.lengths[:, None]
    columns = torch.where(mask, layout.starts[:, None] + steps, 0)
    return _states(model, layout)[layout.rows[:, None], columns], mask


def lay_out(
    model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], share_prompt: bool = True
) -> Layout:
    """Rows of branches where the model can read them and they stay short, else one row for each completion."""
    owners = [i for i, group in enumerate(completions) for _ in group]
    flat = [completion for group in completions for completion in group]
    longest = [len(prompts[i]) + len(ids) for i, ids in zip(owners, flat, strict=True)]
    check_lengths(model, prompts, longest)
    device = next(model.parameters()).device
    joined = [[*prompt, *(t for ids in group for t in ids)] for prompt, group in zip(prompts, completions, strict=True)]
    widest = max(map(len, joined), default=0)
    heads = torch.tensor([len(prompts[i]) for i in owners], dtype=torch.long)
    lengths = torch.tensor([len(ids) for ids in flat], dtype=torch.long)
    if share_prompt and widest <= max(LONG, 2 * max(longest, default=0)) and can_branch(model):
        return _branched(joined, prompts, completions, torch.tensor(owners, dtype=torch.long), heads, lengths, device)
    ids, mask = pad([[*prompts[i], *completion] for i, completion in zip(owners, flat, strict=True)], 0)
    made = Layout(ids, positions(mask), mask, torch.arange(len(flat)), heads, heads - 1, lengths)
    return Layout(*(tensor.to(device) for tensor in made))


def can_branch(model: nn.Module) -> bool:
    """Whether attention takes a mask for each token pair, with positions of our own."""
    inner = unwrap(model)
    masked = getattr(inner.config, "_attn_implementation", "") in ("sdpa", "eager")
    return masked and bool(getattr(inner, "_supports_attention_backend", False)) and can_share(inner.base_model)


def _branched(
    joined: Sequence[Ids],
    prompts: Sequence[Ids],
    completions: Sequence[Sequence[Ids]],
    owners: Tensor,
    heads: Tensor,
    lengths: Tensor,
    device: torch.device,
) -> Layout:
    ids, real = pad(joined, 0)
    before = torch.tensor([sum(map(len, group[:i])) for group in completions for i in range(len(group))])
    starts = heads + before.long()
    steps = torch.arange(ids.shape[1])
    branch = torch.full(ids.shape, -1).where(~real, 0)  # 0: the prompt; 1, 2, ...: a completion; -1: padding
    where = steps.expand_as(ids).clone()
    inside = (steps >= starts[:, None]) & (steps < (starts + lengths)[:, None])
    number = torch.cat([torch.arange(1, len(group) + 1) for group in completions])
    completion, column = inside.nonzero(as_tuple=True)
    branch[owners[completion], column] = number[completion]
    where[owners[completion], column] = column - before[completion]
    where[~real] = 0
    sees = (branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)
    sees &= steps[:, None] >= steps
    made = Layout(ids, where, sees[:, None], owners, starts, heads - 1, lengths)
    return Layout(*(tensor.to(device) for tensor in made))


def _states(model: nn.Module, layout: Layout) -> Float[Tensor, "R T D"]:
    """The final hidden states of the rows (after the last norm), without the head."""
    inner = unwrap(model)
    backbone = inner.base_model
    mask = layout.mask
    if mask.ndim == 2:
        mask = mask.long()
    elif inner.config._attn_implementation == "eager":
        dtype = inner.dtype
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    inputs: dict[str, Any] = {"attention_mask": mask, "position_ids": layout.positions, "use_cache": False}
    known = arguments(backbone)
    return backbone(input_ids=layout.ids, **{k: v for k, v in inputs.items() if k in known}).last_hidden_state
