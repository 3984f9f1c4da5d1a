"""What is trained (what the optimiser sees, a checkpoint holds, the instruments look at), and its frozen reference."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe import LM
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.model.text import Ids, whole_logits
from trainers.config import TrainConfig
from trainers.session import Session


class Reference:
    """The frozen model that a KL or an implicit reward refers to; nothing it computes has gradients."""

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
        """log pi_ref of every token of every completion: see `probe.model.scoring.completion_logprobs`."""
        with self.active() as model:
            return completion_logprobs(model, prompts, completions, temperature=temperature)

    def logits(self, rows: Sequence[Ids]) -> Float[Tensor, "N T V"]:
        """Logits of whole texts, padded on the right."""
        with self.active() as model:
            return whole_logits(model, rows)


class Trainee:
    """A model of which all weights are trained; subclasses train an adapter in its place, or a head beside it."""

    def __init__(self, lm: LM) -> None:
        self.lm = lm
        """The model that is being trained; its weights change in place."""

    @property
    def module(self) -> nn.Module:
        """All that is trained; a method's loss gets it as `model`."""
        return self.lm.model

    @property
    def view(self) -> LM:
        """A plain model to look at and to evaluate, as it was at the last `refresh`."""
        return self.lm

    def refresh(self) -> None:
        """Bring `view` up to date; it shares the weights here, so there is nothing to do."""

    def save(self, directory: Path) -> None:
        """Write an ordinary Hugging Face directory, with further files if there is more to continue from."""
        self.lm.save(directory)

    def load(self, directory: Path) -> None:
        """Put back in place what `save` wrote.

        Raises:
            ModelError: the directory holds no such model.
        """
        self.lm.model.load_state_dict(LM.load(directory, dtype=torch.float32).model.state_dict())

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that training starts from, asked for before it starts."""
        return self.lm.fingerprint

    def reference(self) -> Reference:
        """The model as it is now, frozen."""
        return Reference(frozen_copy(self.lm))


def frozen_copy(lm: LM) -> LM:
    """A copy with weights of its own that never change."""
    return LM(copy.deepcopy(lm.model).requires_grad_(False).eval(), lm.tokenizer, lm.ref, lm.directory, lm.run_dir)


def load_trainee(session: Session, config: TrainConfig, ref: str | Path) -> Trainee:
    """The model `ref`, in float32 on the session's device, ready to be trained as `config` asks.

    Raises:
        ModelError: it cannot be loaded.
        ConfigError, MissingToolError: see `make_trainee`.
    """
    if config.lora:
        from trainers.lora import starting_point

        ref = starting_point(config, ref)
    return make_trainee(session.load(ref), config)


def make_trainee(lm: LM, config: TrainConfig) -> Trainee:
    """`lm` with all its weights to be trained, or with a new adapter as --lora asks.

    Raises:
        ConfigError: the adapter cannot be put on this model.
        MissingToolError: --lora was given and peft is not installed.
    """
    if not config.lora:
        return Trainee(lm)
    from trainers.lora import LoRATrainee

    return LoRATrainee(lm, config)
