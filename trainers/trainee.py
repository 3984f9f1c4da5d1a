"""The trained model, as seen by optimiser, checkpoints and instruments, and its frozen reference."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe import LM
from probe.model.loading import twin
from probe.model.placement import dtype_of
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.model.text import Ids, whole_logits


class Reference:
    """Frozen reference model of a KL or an implicit reward; it computes without gradients."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """Yield the module to use inside the context."""
        with torch.no_grad():
            yield self.lm.model

    def logprobs(
        self, prompts: Sequence[Ids], completions: Sequence[Sequence[Ids]], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return log pi_ref of every token of every completion: see `probe.model.scoring.completion_logprobs`."""
        with self.active() as model:
            return completion_logprobs(model, prompts, completions, temperature=temperature)

    def logits(self, rows: Sequence[Ids]) -> Float[Tensor, "N T V"]:
        """Return the logits of whole texts, padded on the right."""
        with self.active() as model:
            return whole_logits(model, rows)


class Trainee:
    """A model whose weights are all trained; subclasses train an adapter instead, or an additional head."""

    def __init__(self, lm: LM, reference_dtype: str | None = None) -> None:
        self.lm = lm
        """The trained model; its weights change in place."""
        self._reference_dtype = reference_dtype

    @property
    def module(self) -> nn.Module:
        """Module with everything that is trained; a method's loss gets it as `model`."""
        return self.lm.model

    @property
    def view(self) -> LM:
        """The model for instruments and evaluations, as of the last `refresh`."""
        return self.lm

    def refresh(self) -> None:
        """Update `view`; here it shares the weights, so there is nothing to do."""

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory, with further files if a resume needs more."""
        self.lm.save(directory)

    def give_parts(self) -> None:
        """Take part in another process's saving; if each process has the whole model, there is nothing to do."""

    def load(self, directory: Path) -> None:
        """Restore in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model.
        """
        self.lm.model.load_state_dict(LM.load(directory, dtype=torch.float32).model.state_dict())

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the weights that training starts from; it must be read before training starts."""
        return self.lm.weights_fingerprint

    def reference(self) -> Reference:
        """Return a frozen copy of the present model."""
        return Reference(frozen_copy(self.lm, self._reference_dtype))


def frozen_copy(lm: LM, dtype: str | None = None) -> LM:
    """Copy `lm` with separate, frozen weights, in another number format if one is given."""
    kind = dtype_of(dtype) or lm.dtype
    copies = {
        name: nn.Parameter(parameter.detach().to(kind, copy=True), requires_grad=False)
        for name, parameter in lm.model.named_parameters()
    }
    return LM(twin(lm.model, copies).eval(), lm.tokenizer, lm.ref, lm.directory, lm.run_dir)


@torch.no_grad()
def cast(model: nn.Module, dtype: str | torch.dtype) -> None:
    """Convert the weights of `model` to another number format; buffers (rotary frequencies) keep theirs."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype_of(dtype))
