"""Heads that read one number from a model's last state: PPO's value of a prefix, the reward of a whole text.

They sit beside the causal language model itself, so that the instruments, LoRA and checkpoints treat that as they
treat any other. The state is the one that enters the unembedding (after the last norm).

A reward model is trained as the sequence classification model of transformers that it is saved as. Its decoder is the
very one of the causal language model: the instruments look at that (with the unembedding it came with), a checkpoint
holds the classifier. With --lora the decoder carries the adapter while training and a checkpoint has it merged in.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from probe import LM, RewardModel
from probe.errors import ConfigError, ModelError
from probe.model import loading as weights
from probe.model.loading import reward_classes
from probe.model.text import unwrap
from probe.runs.schema import ADAPTER_STATE
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
        self._model.score.weight = nn.Parameter(head.weight.detach().to(inner.lm.device))

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
        """The reward model as it is now and stays up to date, over the same weights."""
        return RewardModel(self._model, self._tokenizer)

    def save(self, directory: Path) -> None:
        """Write an ordinary sequence classification directory, and beside it the adapter, if there is one."""
        if not self._has_adapter:
            weights.write(self._model, self._tokenizer, directory)
            return
        self.refresh()
        model = classifier(self.view.model, self._pad)
        model.score = self._model.score
        weights.write(model, self._tokenizer, directory)
        save_file(self._trained_tensors(), directory / ADAPTER_STATE)

    def load(self, directory: Path) -> None:
        """Put back in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model.
        """
        if not self._has_adapter:
            model = weights.read_reward_model(directory, torch.float32, torch.device("cpu"))
            self._model.load_state_dict(model.state_dict())
            return
        try:
            state, own = load_file(directory / ADAPTER_STATE), self._trained_tensors()
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"The adapter in `{directory}` cannot be read ({error}): use another checkpoint."
            ) from None
        if {name: tensor.shape for name, tensor in state.items()} != {name: t.shape for name, t in own.items()}:
            raise ModelError(
                f"The adapter in `{directory}` has another rank or other layers: give the options it was made with."
            )
        self._model.load_state_dict(state, strict=False)

    @property
    def _has_adapter(self) -> bool:
        return self._inner.view is not self._inner.lm

    def _trained_tensors(self) -> dict[str, torch.Tensor]:
        """What the optimiser changes: adapter and head."""
        parameters = self._model.named_parameters()
        return {name: p.detach().cpu().contiguous() for name, p in parameters if p.requires_grad}


def classifier(model: PreTrainedModel, pad: int | None) -> Any:
    """A sequence classification model with one label around the decoder of `model`; its head is zero.

    Args:
        model: a causal language model, whose decoder is shared and not copied.
        pad: the padding token that transformers is to look for.

    Raises:
        ConfigError: transformers has none of this architecture.
    """
    config = copy.deepcopy(model.config)
    config.num_labels, config.get_text_config().pad_token_id = 1, pad
    if not reward_classes({"model_type": config.model_type}):
        raise ConfigError(
            f"A reward model is saved as a sequence classification model, and transformers has none for"
            f" {type(model).__name__}: start from another architecture, such as llama, qwen3, gpt2 or gpt_neox."
        )
    with torch.device("meta"):
        shell: Any = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=model.config._attn_implementation
        )
    if type(shell.base_model) is not type(model.base_model) or not isinstance(getattr(shell, "score", None), nn.Linear):
        raise ConfigError(
            f"{type(shell).__name__} is built otherwise than {type(model).__name__} with a linear head `score`, so a"
            " reward model cannot be saved as one: start from another architecture, such as llama, qwen3 or gpt2."
        )
    setattr(shell, shell.base_model_prefix, model.base_model)
    shell.score = nn.Linear(shell.score.in_features, 1, bias=False, device=model.device, dtype=model.dtype)
    nn.init.zeros_(shell.score.weight)
    return shell.train(model.training)


def padding(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, PreTrainedTokenizerBase]:
    """A token to pad with that ends no text, and the tokenizer with it.

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
