"""Scalar heads on a model's last state: PPO's value of a prefix, the reward of a whole text.

They are separate from the causal language model, so that instruments, LoRA and checkpoints treat that like any other
model. The state is the input of the unembedding (after the last norm).

A reward model is trained and saved as a sequence classification model of transformers. It shares its decoder with the
causal language model: the instruments read the language model (with its original unembedding), and a checkpoint holds
the classifier. With --lora the decoder carries the adapter, and a checkpoint holds adapter and head as peft writes them
for sequence classification.
"""

import copy
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe import LM, RewardModel
from probe.errors import ModelError
from probe.model import loading as weights
from probe.model.loading import classifier
from probe.model.placement import Placement
from probe.model.text import unwrap
from probe.untrusted import WEIGHTS, regular
from trainers.lora import LoRATrainee
from trainers.trainee import Reference, Trainee

VALUE_HEAD = "value_head.safetensors"


class ScalarHead(nn.Linear):
    """A linear map from states [... d] to numbers [...], without bias, drawn with standard deviation 1/sqrt(d + 1).

    The scale is that of Stiennon et al. 2020 (arXiv 2009.01325): it gives numbers of about unit size for normalised
    states.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__(width, 1, bias=False)
        nn.init.normal_(self.weight, std=(width + 1) ** -0.5, generator=generator)

    def forward(self, input: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """Return one number for each state."""
        return super().forward(input.to(self.weight.dtype))[..., 0]


class ValueHead(ScalarHead):
    """A value head V(s) = `scale` w . s with w = 0 at the start, so that it has no effect on the first updates.

    Adam changes every weight by about the learning rate, whatever its gradient: the scale makes the head learn faster
    by this factor than the policy, whose layers and learning rate it shares.
    """

    scale: Tensor

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__(width)
        nn.init.zeros_(self.weight)
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, input: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """Return one value for each state."""
        return self.scale * super().forward(input)


class ModelWithHead(nn.Module):
    """A model and a head that are trained together; losses compute `model` with `head` as its readout."""

    def __init__(self, model: nn.Module, head: ScalarHead) -> None:
        super().__init__()
        self.model, self.head = model, head


class HeadedTrainee(Trainee):
    """A trainee with an additional head: `module` is a `ModelWithHead`, and checkpoints have one more file."""

    def __init__(self, inner: Trainee, head: ScalarHead) -> None:
        super().__init__(inner.lm)
        self.inner = inner
        self._module = ModelWithHead(inner.module, head.to(inner.lm.device))

    @property
    def module(self) -> ModelWithHead:
        """Model and head."""
        return self._module

    @property
    def view(self) -> LM:
        """See the inner trainee."""
        return self.inner.view

    def refresh(self) -> None:
        """Bring `view` up to date."""
        self.inner.refresh()

    def save(self, directory: Path) -> None:
        """Write the inner trainee's checkpoint and the head."""
        self.inner.save(directory)
        save_file(
            {name: tensor.detach().cpu() for name, tensor in self._module.head.state_dict().items()},
            directory / VALUE_HEAD,
        )

    def load(self, directory: Path) -> None:
        """Restore in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model, or no head.
        """
        self.inner.load(directory)
        try:
            self._module.head.load_state_dict(load_file(regular(directory / VALUE_HEAD, WEIGHTS)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"`{directory}` has no readable {VALUE_HEAD} ({error}): start a new run with --base {directory}."
            ) from error

    @property
    def fingerprint(self) -> str:
        """See the inner trainee."""
        return self.inner.fingerprint

    def reference(self) -> Reference:
        """Return the inner trainee's reference, which needs no head."""
        return self.inner.reference()


def width_of(model: nn.Module) -> int:
    """Return the width d of the states that enter the unembedding."""
    return int(unwrap(model).get_output_embeddings().weight.shape[1])


class RewardTrainee(Trainee):
    """The trainee `inner`, all weights or an adapter, with a new scalar head."""

    def __init__(self, inner: Trainee, seed: int) -> None:
        """Add a head with random weights from `seed` to the decoder.

        Raises:
            ConfigError: transformers has no sequence classification model of this architecture.
        """
        super().__init__(inner.lm)
        self._inner = inner
        self._pad, self._tokenizer = padding(inner.lm.tokenizer)
        self._model = classifier(unwrap(inner.lm.model), self._pad)
        generator = torch.Generator().manual_seed(seed)
        head = ScalarHead(self._model.score.in_features, generator)
        self._model.score.weight = nn.Parameter(head.weight.detach().to(inner.lm.device, inner.lm.dtype))

    @property
    def module(self) -> PreTrainedModel:
        """The sequence classification model, with the adapter if there is one."""
        return self._model

    @property
    def view(self) -> LM:
        """The causal language model with the same decoder."""
        return self._inner.view

    def refresh(self) -> None:
        """Bring the view up to date."""
        self._inner.refresh()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that training starts from."""
        return self._inner.fingerprint

    def rewards(self) -> RewardModel:
        """Return the reward model, which shares the weights and so is always up to date."""
        return RewardModel(self._model, self._tokenizer)

    def save(self, directory: Path) -> None:
        """Write a sequence classification directory, or an adapter directory with the head."""
        if isinstance(self._inner, LoRATrainee):
            self._inner.save(directory, self._model.score.weight, self._tokenizer)
        else:
            weights.write(self._model, self._tokenizer, directory)

    def load(self, directory: Path) -> None:
        """Restore in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model.
        """
        if isinstance(self._inner, LoRATrainee):
            self._inner.load(directory, self._model.score.weight)
            return
        model = weights.read_reward_model(directory, Placement(torch.device("cpu"), torch.float32))
        self._model.load_state_dict(model.state_dict())


def padding(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, PreTrainedTokenizerBase]:
    """Return a padding token that is not the end token, and the tokenizer with it.

    transformers reads a sequence at its last token that is not padding, so the end token is unsuitable. Without another
    special token the result is None, and transformers scores one text at a time (`probe.RewardModel` gets lengths and
    needs no padding token).
    """
    end = tokenizer.eos_token_id
    candidates = [token for token in (tokenizer.pad_token_id, tokenizer.bos_token_id) if token is not None]
    usable = [token for token in (*candidates, *tokenizer.all_special_ids) if token != end]
    if not usable:
        return None, tokenizer
    clone = copy.deepcopy(tokenizer)
    clone.pad_token = clone.convert_ids_to_tokens(usable[0])
    return usable[0], clone
