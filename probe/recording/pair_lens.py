"""Chosen and rejected completions through the layers while a model trains: an instrument.

    probe.watch(lm, run, every=50, instruments=[PairLens(pairs)])

At every capture the logit lens reads, after each layer, the log-probability of every token of both completions of a few
fixed pairs. Summed over a completion, the last layer gives log pi(y | x), the quantity that DPO trains.

Axes: Q pairs, D blocks, C tokens (prompt and completion, padded on the right).
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from probe.logits.lens import AT_ONCE
from probe.logits.readout import residual_names, unembed
from probe.model.lm import LM
from probe.model.text import pad
from probe.recording.reward_shift import LogitsFn
from probe.recording.reward_tokens import PreferenceLike
from probe.runs.schema import ProbePrompt

MOST_PAIRS, MOST_TOKENS = 4, 128
"""Numbers of pairs that trainers capture, and of tokens of a prompt with its longer completion."""

P = TypeVar("P", bound=PreferenceLike)


def short_pairs(pairs: Iterable[P]) -> list[P]:
    """Return the first pairs that are short enough to be captured, at most `MOST_PAIRS`."""
    return list(islice(filter(_fits, pairs), MOST_PAIRS))


def _fits(pair: PreferenceLike) -> bool:
    whole = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
    return whole <= MOST_TOKENS and all((pair.prompt, pair.chosen, pair.rejected))


@torch.no_grad()
def pair_sums(logits: LogitsFn, pairs: Sequence[PreferenceLike]) -> Float[Tensor, "Q 2"]:
    """Compute log pi of both completions of each pair, summed over their tokens, in nats.

    Args:
        logits: function from whole texts, as rows of ids, to logits, such as `LM.logits`.
        pairs: Q pairs.
    """
    sums = torch.zeros(len(pairs), 2)
    for number, pair in enumerate(pairs):
        sides = [list(pair.chosen), list(pair.rejected)]
        found = logits([[*pair.prompt, *side] for side in sides])
        for side, ids in enumerate(sides):
            start = len(pair.prompt) - 1
            rows = found[side, start : start + len(ids)]
            sums[number, side] = _own(rows, torch.tensor(ids, device=rows.device)).sum()
    return sums


class PairLens:
    """Instrument that reads both completions of Q fixed pairs with the logit lens, after every layer."""

    def __init__(
        self, pairs: Sequence[PreferenceLike], reference: LogitsFn | Float[Tensor, "Q 2"] | None = None
    ) -> None:
        """Set the pairs.

        Args:
            pairs: pairs of completions, none empty.
            reference: the completions' log-probabilities under the reference, summed over tokens, in nats; or the
                reference as in `probe.recording.recorder.ReferenceKL`, called once, at the first capture.
        """
        self.pairs, self.reference = list(pairs), reference

    @torch.no_grad()
    def __call__(self, lm: LM, _: Sequence[ProbePrompt]) -> dict[str, Tensor]:
        """Compute the tensors of one capture (docs/runs.md).

        Returns:
            pair_ids [Q 2 C], chosen first, -1 after the end; pair_prompt [Q], the number of tokens of the prompt;
            pair_lens_logprobs [Q 2 D+1 C] in nats, 0 at the prompt and after the end; with a reference
            pair_ref_logprobs [Q 2] in nats.

        Raises:
            ModelError: the architecture cannot be hooked.
        """
        ids, _mask = pad([[*pair.prompt, *side] for pair in self.pairs for side in (pair.chosen, pair.rejected)], -1)
        names = residual_names(lm)
        values = torch.zeros(len(self.pairs), 2, len(names), ids.shape[-1])
        for number, pair in enumerate(self.pairs):
            values[number] = _read_pair(lm, pair, names, ids.shape[-1])
        tensors = {
            "pair_ids": ids.int().view(len(self.pairs), 2, -1),
            "pair_prompt": torch.tensor([len(pair.prompt) for pair in self.pairs], dtype=torch.int32),
            "pair_lens_logprobs": values,
        }
        if self.reference is not None:
            if not isinstance(self.reference, Tensor):
                self.reference = pair_sums(self.reference, self.pairs)
            tensors["pair_ref_logprobs"] = self.reference.float()
        return tensors


def _read_pair(lm: LM, pair: PreferenceLike, names: Sequence[str], width: int) -> Float[Tensor, "2 D+1 C"]:
    """Read both completions of a pair; one forward pass, and unembeddings at the completions only."""
    sides = [list(pair.chosen), list(pair.rejected)]
    logits, cache = lm.run_with_cache([[*pair.prompt, *side] for side in sides], names)
    values = torch.zeros(2, len(names), width)
    for number, side in enumerate(sides):
        start = len(pair.prompt)
        before, after = slice(start - 1, start - 1 + len(side)), slice(start, start + len(side))
        tokens = torch.tensor(side, device=logits.device)
        values[number, -1, after] = _own(logits[number, before], tokens)
        for row, name in enumerate(names[:-1]):
            states = cache[name][number, before]
            parts = zip(*(each.split(max(1, AT_ONCE // logits.shape[-1])) for each in (states, tokens)), strict=True)
            values[number, row, after] = torch.cat([_own(unembed(lm, part), own) for part, own in parts])
    return values


def _own(logits: Float[Tensor, "L V"], tokens: Tensor) -> Float[Tensor, " L"]:
    """Return the log-probability of each row's token."""
    values = logits.float()
    return (values.gather(-1, tokens[:, None])[:, 0] - values.logsumexp(-1)).cpu()
