"""Heads that read one number from a model's last state: PPO's value of a prefix, the reward of a whole text.

They sit beside the causal language model itself, so that the instruments, LoRA and checkpoints treat that as they
treat any other. The state is the one that enters the unembedding (after the last norm).
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from probe import LM
from probe.errors import ModelError
from probe.model.text import unwrap
from trainers.reference import Reference
from trainers.trainee import Trainee

VALUE_HEAD = "value_head.safetensors"


class ScalarHead(nn.Linear):
    """A linear map from states [... d] to numbers [...], without bias, drawn with standard deviation 1/sqrt(d + 1).

    The scale is that of Stiennon et al. 2020 (arXiv 2009.01325): numbers of about unit size from normalised states.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__(width, 1, bias=False)
        nn.init.normal_(self.weight, std=(width + 1) ** -0.5, generator=generator)

    def forward(self, input: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """One number a state."""
        return super().forward(input.to(self.weight.dtype))[..., 0]


class ValueHead(ScalarHead):
    """V(s) = `scale` w . s, with w = 0 at the start, so that it neither helps nor misleads the first updates.

    Adam moves every weight by about the learning rate, whatever its gradient: the scale makes the head learn that many
    times as fast as the policy, whose layers it reads and whose learning rate it shares.
    """

    scale: Tensor

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__(width)
        nn.init.zeros_(self.weight)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, input: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """One value a state."""
        return self.scale * super().forward(input)


class Headed(nn.Module):
    """A model and a head that are trained together; a loss runs `model` with `head` as its readout."""

    def __init__(self, model: nn.Module, head: ScalarHead) -> None:
        super().__init__()
        self.model, self.head = model, head


class HeadedTrainee(Trainee):
    """Another trainee with a head beside it: `module` is a `Headed`, a checkpoint has one more file."""

    def __init__(self, inner: Trainee, head: ScalarHead) -> None:
        super().__init__(inner.lm)
        self.inner = inner
        self._module = Headed(inner.module, head.to(inner.lm.device))

    @property
    def module(self) -> Headed:
        """Model and head."""
        return self._module

    @property
    def view(self) -> LM:
        """The inner trainee's."""
        return self.inner.view

    def refresh(self) -> None:
        """Bring `view` up to date."""
        self.inner.refresh()

    def save(self, directory: Path) -> None:
        """Write what the inner trainee writes, and the head."""
        self.inner.save(directory)
        save_file(
            {name: tensor.detach().cpu() for name, tensor in self._module.head.state_dict().items()},
            directory / VALUE_HEAD,
        )

    def load(self, directory: Path) -> None:
        """Put back in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model, or no head.
        """
        self.inner.load(directory)
        try:
            self._module.head.load_state_dict(load_file(directory / VALUE_HEAD))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"`{directory}` has no readable {VALUE_HEAD} ({error}): start a new run with --base {directory}."
            ) from error

    @property
    def fingerprint(self) -> str:
        """The inner trainee's."""
        return self.inner.fingerprint

    def reference(self) -> Reference:
        """The inner trainee's; it needs no head."""
        return self.inner.reference()


def width_of(model: nn.Module) -> int:
    """The width d of the states that enter the unembedding."""
    return int(unwrap(model).get_output_embeddings().weight.shape[1])
