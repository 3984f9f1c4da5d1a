"""Heads that read one number from a model's last state: PPO's value of a prefix, the reward of a whole text.

They sit beside the causal language model itself, so that the instruments, LoRA and checkpoints treat that as they
treat any other. The state is the one that enters the unembedding (after the last norm).

A reward model is trained as the sequence classification model of transformers that it is saved as. Its decoder is the
very one of the causal language model: the instruments look at that (with the unembedding it came with), a checkpoint
holds the classifier. With --lora the decoder carries the adapter, and a checkpoint holds adapter and head as peft
writes them for sequence classification.
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
from probe.model.text import unwrap
from probe.untrusted import WEIGHTS, regular
from trainers.lora import LoRATrainee
from trainers.trainee import Reference, Trainee

VALUE_HEAD = "value_head.safetensors"


class ScalarHead(nn.Linear):
    """A linear map from states [... d] to numbers [...], without bias, drawn with standard deviation 1/sqrt(d + 1).

    The scale is that of Stiennon et al. 2020 (arXiv 2009.01325): numbers of about unit size from normalised states.
    """

    def __init__(self, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__(width, 1, bias=False)
        nn.init.normal_(self.weight, std=(width + 1) ** -0.5, generator=generator)

    def forward(self, input: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
        """Return one number for each state."""
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
        """Return one value for each state."""
        return self.scale * super().forward(input)


class ModelWithHead(nn.Module):
    """A model and a head that are trained together; a loss runs `model` with `head` as its readout."""

    def __init__(self, model: nn.Module, head: ScalarHead) -> None:
        super().__init__()
        self.model, self.head = model, head


class HeadedTrainee(Trainee):
    """Another trainee with a head beside it: `module` is a `ModelWithHead`, a checkpoint has one more file."""

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
            self._module.head.load_state_dict(load_file(regular(directory / VALUE_HEAD, WEIGHTS)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelError(
                f"`{directory}` has no readable {VALUE_HEAD} ({error}): start a new run with --base {directory}."
            ) from error

    @property
    def fingerprint(self) -> str:
        """The inner trainee's."""
        return self.inner.fingerprint

    def reference(self) -> Reference:
        """Return the inner trainee's reference, which needs no head."""
        return self.inner.reference()


def width_of(model: nn.Module) -> int:
    """Return the width d of the states that enter the unembedding."""
    return int(unwrap(model).get_output_embeddings().weight.shape[1])


class RewardTrainee(Trainee):
    """What `inner` trains, all weights or an adapter, with a new scalar head on top."""

    def __init__(self, inner: Trainee, seed: int) -> None:
        """Put a head with random weights from `seed` on the decoder.

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
        """The causal language model over the same decoder."""
        return self._inner.view

    def refresh(self) -> None:
        """Bring the view up to date."""
        self._inner.refresh()

    @property
    def fingerprint(self) -> str:
        """That of the model that training starts from."""
        return self._inner.fingerprint

    def rewards(self) -> RewardModel:
        """Return the reward model; it works on the same weights, so it stays up to date."""
        return RewardModel(self._model, self._tokenizer)

    def save(self, directory: Path) -> None:
        """Write an ordinary sequence classification directory, or an adapter directory with the head."""
        if isinstance(self._inner, LoRATrainee):
            self._inner.save(directory, self._model.score.weight, self._tokenizer)
        else:
            weights.write(self._model, self._tokenizer, directory)

    def load(self, directory: Path) -> None:
        """Put back in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model.
        """
        if isinstance(self._inner, LoRATrainee):
            self._inner.load(directory, self._model.score.weight)
            return
        model = weights.read_reward_model(directory, torch.float32, torch.device("cpu"))
        self._model.load_state_dict(model.state_dict())


def padding(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, PreTrainedTokenizerBase]:
    """Return a token to pad with that ends no text, and the tokenizer with it.

    transformers reads a sequence at its last token that is not this one, so the end token will not do. Without another
    special token there is none, and then transformers scores one text at a time (`probe.RewardModel` is told lengths
    and needs none).
    """
    end = tokenizer.eos_token_id
    candidates = [token for token in (tokenizer.pad_token_id, tokenizer.bos_token_id) if token is not None]
    usable = [token for token in (*candidates, *tokenizer.all_special_ids) if token != end]
    if not usable:
        return None, tokenizer
    clone = copy.deepcopy(tokenizer)
    clone.pad_token = clone.convert_ids_to_tokens(usable[0])
    return usable[0], clone
