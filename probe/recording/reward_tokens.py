"""Reward at every token of fixed pairs of texts (E9): an instrument, and the pairs as rows of rollouts.jsonl.

    probe.watch(lm, run, every=50, instruments=[RewardTokens(classifier.score, pairs)])

A pair is a prompt with the preferred and the rejected completion, as ids. `lm` is a causal language
model over the decoder that the head reads.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from probe.model.lm import LM
from probe.model.rewards import RewardModel
from probe.model.text import pad, pieces, unwrap
from probe.runs.schema import ProbePrompt


class PreferenceLike(Protocol):
    """A prompt with two completions, as ids."""

    @property
    def prompt(self) -> list[int]:
        """Token ids of the common prompt."""

    @property
    def chosen(self) -> list[int]:
        """Token ids of the preferred completion."""

    @property
    def rejected(self) -> list[int]:
        """Token ids of the rejected completion."""


class TextPair(NamedTuple):
    """A pair as plain lists."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def split_pair(chosen: Sequence[int], rejected: Sequence[int]) -> TextPair:
    """Split two whole texts into a pair; the prompt is their common beginning, short of either text's last token."""
    most = min(len(chosen), len(rejected)) - 1
    size = next((n for n in range(most) if chosen[n] != rejected[n]), most)
    return TextPair(list(chosen[:size]), list(chosen[size:]), list(rejected[size:]))


class RewardTokens:
    """Instrument that measures the scalar at every token of Q fixed pairs."""

    def __init__(self, head: nn.Module, pairs: Sequence[PreferenceLike]) -> None:
        """Set the pairs; `head` reads one number [... 1] from states [... d] after the last norm."""
        self.head, self.pairs = head, pairs

    @torch.no_grad()
    def __call__(self, lm: LM, _: Sequence[ProbePrompt]) -> dict[str, Tensor]:
        """Compute `reward_ids` and `reward_tokens` [Q 2 T], chosen first, and `reward_prompt` [Q] (docs/runs.md)."""
        sides = [[*pair.prompt, *side] for pair in self.pairs for side in (pair.chosen, pair.rejected)]
        ids, mask = pad(sides, -1)
        mask = mask.to(lm.device)
        states = unwrap(lm.model).base_model(
            input_ids=ids.clamp(min=0).to(lm.device), attention_mask=mask.long(), use_cache=False
        )
        values = self.head(states.last_hidden_state)[..., 0].where(mask, 0)
        shape = len(self.pairs), 2, ids.shape[1]
        return {
            "reward_ids": ids.int().view(shape),
            "reward_tokens": values.float().view(shape),
            "reward_prompt": torch.tensor([len(pair.prompt) for pair in self.pairs], dtype=torch.int32),
        }


def pair_rows(model: RewardModel, step: int, pairs: Sequence[PreferenceLike]) -> list[dict[str, Any]]:
    """Return both completions of each pair as rows of rollouts.jsonl, the preferred one first, with values by token."""
    both = [(number, pair, chosen) for number, pair in enumerate(pairs) for chosen in (True, False)]
    prompts = [pair.prompt for _, pair, _ in both]
    ids = [pair.chosen if chosen else pair.rejected for _, pair, chosen in both]
    values, mask = model.token_scores(prompts, ids)
    totals = model.score(prompts, ids).tolist()
    rows = []
    for row, (number, pair, chosen) in enumerate(both):
        rows.append(
            {
                "step": step,
                "prompt": model.tokenizer.decode(pair.prompt),
                "completion": model.tokenizer.decode(ids[row], skip_special_tokens=True),
                "group": number,
                "chosen": chosen,
                "token_ids": ids[row],
                "tokens": pieces(model.tokenizer, ids[row]),
                "token_scores": values[row][mask[row]].tolist(),
                "rewards": {"model": totals[row]},
                "reward": totals[row],
            }
        )
    return rows
