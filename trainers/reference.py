"""The frozen model that a KL or an implicit reward refers to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe import LM
from probe.forward import Ids, whole_logits
from probe.scoring import TokenLogprobs, completion_logprobs


class Reference:
    """A model that does not change; nothing it computes has gradients."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The module to run inside the context."""
        with torch.no_grad():
            yield self.lm.model

    def logprobs(
        self, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], temperature: float = 1.0
    ) -> TokenLogprobs:
        """log pi_ref of every token of every completion: see `probe.scoring.completion_logprobs`."""
        with self.active() as model:
            return completion_logprobs(model, prompts, completions, temperature=temperature)

    def logits(self, rows: Sequence[Ids]) -> Float[Tensor, "N T V"]:
        """Logits of whole texts, padded on the right."""
        with self.active() as model:
            return whole_logits(model, rows)
