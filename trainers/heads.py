"""A head that reads one number from a model's last state: PPO's value of a prefix, the reward of a whole text.

Both sit on the causal language model itself, so that the instruments, LoRA and checkpoints treat it as they treat any
other. The state is the one that enters the unembedding (after the last norm).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.scoring import unwrap


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


class Headed(nn.Module):
    """A model and a head that are trained together; a loss runs `model` with `head` as its readout."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, head


def width_of(model: nn.Module) -> int:
    """The width d of the states that enter the unembedding.

    Some models narrow or widen the stream before it, so it is the unembedding that is asked.
    """
    return int(unwrap(model).get_output_embeddings().weight.shape[1])
