"""How far a model has moved from its reference on the fixed prompts, as an instrument: KL(pi || pi_ref) by token.

    recorder = probe.watch(lm, run, every=50, instruments=[ReferenceKL(reference.logits)])

The reference does not change, so it is asked once: its log-probabilities of the prompts are kept, and a capture costs
one plain forward pass of the model in training (the hooked one rounds otherwise, in half precision by as much as a
small KL: a model that has not moved would not be at 0). It is read back by
`probe.logits.trained.kl_over_training`.

Axes: P prompts, T tokens (padded on the right, zero there), V vocabulary.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probe.logits.lens import kl
from probe.model.lm import LM
from probe.model.text import whole_logits
from probe.runs.schema import ProbePrompt
from probe.shift import LogitsFn


class ReferenceKL:
    """An instrument for `probe.watch`."""

    def __init__(self, reference_logits: LogitsFn) -> None:
        """Say what to compare with.

        Args:
            reference_logits: whole texts as rows of ids to logits, padded on the right; for a frozen `LM` called
                `reference` that is `reference.logits`. It is called at the first capture alone (or when the prompts
                change), so with `lm.logits` of the model in training the reference is where that stood then.
        """
        self.reference_logits = reference_logits
        self._asked: list[list[int]] = []
        self._kept: list[Float[Tensor, "L V"]] = []
        """Of each prompt its log-probabilities under the reference, without padding; in the memory of the CPU."""

    @torch.no_grad()
    def __call__(self, lm: LM, prompts: Sequence[ProbePrompt]) -> dict[str, Float[Tensor, "P T"]]:
        """The tensor of one capture.

        Returns:
            reference_kl [P T]: KL(pi || pi_ref) in nats of the distributions after each token, 0 beyond a prompt. Of
            vocabularies padded to different sizes the common tokens count.
        """
        rows = [list(prompt.token_ids) for prompt in prompts]
        if rows != self._asked:
            self._kept = [part.cpu() for part in _logprobs(self.reference_logits(rows), rows)]
            self._asked = rows
        found = torch.zeros(len(rows), max(map(len, rows)))
        ours = _logprobs(whole_logits(lm.model, rows), rows)
        for row, (policy, reference) in enumerate(zip(ours, self._kept, strict=True)):
            found[row, : len(policy)] = kl(policy, reference).cpu()
        return {"reference_kl": found}


def _logprobs(logits: Float[Tensor, "P T V"], rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "L V"]]:
    """Log-probabilities of each row, its padding cut off."""
    return [logits[index, : len(ids)].float().log_softmax(-1) for index, ids in enumerate(rows)]
