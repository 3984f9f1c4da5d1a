"""Gap between sampler and trainer of the first minibatch of a step, over all processes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float
from torch import Tensor

from probe.recording.signs import gap_metrics
from trainers.session import Session

T = TypeVar("T")


class SamplingGap:
    """Record of the gap between sampler and trainer on the first minibatch of a step, before any update."""

    def __init__(self) -> None:
        self._before_update, self._log_ratios = False, list[Tensor]()

    def first(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the minibatches of a step; what is added while the first one is in use counts."""
        self._before_update, self._log_ratios = True, []
        for batch in batches:
            yield batch
            self._before_update = False  # the next minibatch is requested after the update

    def add(
        self, logprobs: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"], recorded: Sequence[Sequence[float]]
    ) -> None:
        """Add the tokens of N completions, unless weights have been updated in this step.

        Args:
            logprobs: log-probabilities under the trainer.
            mask: real tokens.
            recorded: log-probabilities under the sampler, of each real token of each completion.
        """
        if self._before_update:
            sampled = torch.tensor([value for row in recorded for value in row], device=logprobs.device)
            self._log_ratios.append(logprobs.detach()[mask] - sampled)

    def metrics(self, session: Session) -> dict[str, float]:
        """Return the gap over the tokens of all processes, each of which must call this."""
        parts = [torch.empty(0), *(values.cpu() for values in self._log_ratios)]
        return gap_metrics(torch.cat(gather_object(parts) if session.processes > 1 else parts))
