"""Trainees at the start of a training: all weights of a model, an adapter on it, or a sharded model."""

from pathlib import Path

from probe import LM
from probe.model import adapters
from probe.model.references import is_adapter
from trainers.blocks import recompute_blocks
from trainers.checkpoint import last_checkpoint
from trainers.config import TrainConfig
from trainers.lora import LoRATrainee
from trainers.session import Session
from trainers.sharding import ShardedTrainee
from trainers.trainee import Trainee


def load_trainee(session: Session, config: TrainConfig, ref: str | Path) -> Trainee:
    """Load the model `ref` and prepare it for training as `config` asks.

    It has the format --weights-dtype and is on the session's device.

    Raises:
        ModelError: it cannot be loaded.
        ConfigError, MissingToolError: see `make_trainee`.
    """
    if session.shards:
        return ShardedTrainee(session, config, LM.load(ref, device="cpu", dtype=session.weights))
    if config.lora:
        ref = starting_point(config, ref)
    return make_trainee(session.load(ref), config)


def make_trainee(lm: LM, config: TrainConfig) -> Trainee:
    """Make a trainee of `lm` that trains all weights, or a new adapter with --lora.

    Raises:
        ConfigError: the adapter does not fit this model, or the blocks of the model cannot be found.
        MissingToolError: --lora was given and peft is not installed.
    """
    if config.lora:
        trainee: Trainee = LoRATrainee(lm, config)
    else:
        trainee = Trainee(lm, config.reference_dtype)
    if config.gradient_checkpointing:
        recompute_blocks(trainee.lm.model)
    return trainee


def starting_point(config: TrainConfig, ref: str | Path) -> str | Path:
    """Return the model that a run with --lora loads: `ref`, or after a resume the recorded base of its adapter.

    A name such as `base` means the newest checkpoint of that run, which may have changed since.
    """
    checkpoint = last_checkpoint(config)
    if checkpoint is None or not is_adapter(checkpoint):
        return ref
    return adapters.base_ref(checkpoint, adapters.read_config(checkpoint)["base_model_name_or_path"])
