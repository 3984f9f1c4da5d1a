"""LoRA: training of a small adapter on frozen weights, with peft (Hu et al. 2021, arXiv 2106.09685).

A weight W [out in] acts as W + (alpha / r) B A with A [r in] random and B [out r] zero at the start, so that training
begins exactly at the base. The base is in memory once: the trained model and its reference, the base alone, are two
module trees over the same tensors, and instruments look at the trained model as it is (`probe.model.adapted`).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from probe import LM
from probe.errors import ConfigError
from probe.model import adapters
from probe.model.loading import twin
from trainers.config import TrainConfig
from trainers.session import derive_seed
from trainers.trainee import Reference, Trainee

if TYPE_CHECKING:
    from peft import PeftModel


class LoRATrainee(Trainee):
    """Trainee with an adapter on a frozen base; checkpoints are adapter directories of peft."""

    def __init__(self, lm: LM, config: TrainConfig) -> None:
        """Put a new adapter on `lm.model`, which is changed in place.

        Raises:
            ConfigError: the adapter cannot be put on this model.
            MissingToolError: peft is not installed.
        """
        self._base = LM(twin(lm.model), lm.tokenizer, lm.ref, lm.directory, lm.run_dir)
        self._identity = adapters.identify(lm.ref, lm.directory)
        self._peft = attach(lm, config)
        super().__init__(LM(self._peft, lm.tokenizer, lm.ref, lm.directory, lm.run_dir))

    @property
    def module(self) -> nn.Module:
        """The PeftModel, whose base is frozen."""
        return self._peft

    def save(
        self, directory: Path, head: Tensor | None = None, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        """Write an adapter directory of peft that names its base; for a reward model with its head [1 d]."""
        adapters.write(self._peft, tokenizer or self.lm.tokenizer, directory, self._identity, head)

    def load(self, directory: Path, head: Tensor | None = None) -> None:
        """Restore in place what `save` wrote."""
        adapters.restore(self._peft, directory, head)

    def reference(self) -> Reference:
        """Return the base, which needs no additional memory."""
        return Reference(self._base)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the base."""
        return self._base.weights_fingerprint


def attach(lm: LM, config: TrainConfig) -> "PeftModel":
    """Put a new adapter on `lm.model`, the same for equal seeds, and freeze the weights of the model.

    Raises:
        ConfigError: --lora-targets names no linear layer, or layers that an adapter cannot be put on.
        MissingToolError: peft is not installed.
    """
    with adapters.peft_installed("--lora"):
        from peft import LoraConfig, get_peft_model
    model = lm.model
    targets = list(config.lora_targets) or linear_layers(model)
    hits = [module for name, module in model.named_modules() if _matches(name, targets)]
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    if not hits or any(not isinstance(m, nn.Linear | Conv1D) or id(m.weight) in embeddings for m in hits):
        raise ConfigError(
            f"--lora-targets {' '.join(targets)} fits {'other layers too' if hits else 'no layer of this model'}: name"
            f" linear layers other than the unembedding, such as {' '.join(linear_layers(model)[:6])}."
        )
    settings = LoraConfig(
        r=config.lora,
        lora_alpha=config.lora_alpha,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in hits),
        task_type="CAUSAL_LM",
    )
    try:
        with adapters.quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, config.lora))
            return get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(
            f"--lora cannot be used on {type(model).__name__} ({adapters.short(error)}): choose other layers with"
            " --lora-targets, or train all weights with --lora 0."
        ) from None


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Return the default targets of an adapter: last parts of the names of all linear layers but the unembedding."""
    unembedding = model.get_output_embeddings()
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not unembedding
    ]
    return sorted({name.rpartition(".")[2] for name, _ in layers})


def _matches(name: str, targets: list[str]) -> bool:
    """Return whether peft matches the layer `name` with one of `targets`."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
