"""The options that every training method has, and how a run that continues is held to them."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from probe.errors import ConfigError, RunError
from probe.options import option
from probe.runs.storage import check_folder

if TYPE_CHECKING:
    from probe import Run

FREE = frozenset({"out", "steps", "resume", "device", "track", "save_every", "threads", "strict"})
"""Options that may change when a run is resumed: they do not alter what the next step computes (`steps` may grow)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What all methods share; a method's own config adds to it and may change the defaults."""

    free: ClassVar[frozenset[str]] = FREE

    out: Path
    """Directory of the run; it must not exist yet, or be empty, unless --resume is given."""
    data: str = "world"
    """Where examples come from: `world` (the synthetic world), or the path of a file."""
    strict: bool = False
    """Refuse a data file with a row that cannot be used; otherwise such rows are left out and counted."""
    steps: int = 1000
    """Optimiser steps in all."""
    batch_size: int = 32
    """Examples in one optimiser step, over all processes and parts of the accumulation together."""
    accumulation: int = 1
    """Parts that the batch is run in, one after the other, to save memory; the result is the same."""
    lr: float = 1e-3
    """Highest learning rate."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0; more than two take half of --steps at most."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    final_lr: float = 0.1
    """Where `cosine` and `linear` end, as a share of --lr."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay; it acts on matrices, not on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 switches clipping off."""
    lora: int = 0
    """Rank of a LoRA adapter that is trained in place of the weights (needs peft); 0 trains all weights."""
    lora_alpha: float = 16.0
    """The adapter's product B A is multiplied by this / --lora."""
    lora_targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter (as `q_proj v_proj`); without it all linear ones but the unembedding."""
    seed: int = 0
    """Seed of everything that is drawn: initial weights, order of the examples, dropout."""
    save_every: int = 500
    """Steps between checkpoints; 0 keeps only the last. The last step and an interruption always write one."""
    log_every: int = 10
    """Steps between rows of metrics; a row holds the values of its own step."""
    eval_every: int = 100
    """Steps between evaluations on held-out data, where the method has any; 0 evaluates at the end only."""
    capture_every: int = 50
    """Steps between captures of attention, lens and entropy on the probe prompts; 0 switches them off."""
    probe_prompts: Path | None = None
    """Text file with one prompt a line to capture on; without it the world's prompts or the first of the data."""
    evaluate: int = 400
    """Items a cell in the evaluation on the world that ends a run; 0 switches it off."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, to the same bits; options not given are the run's own."""
    device: str | None = None
    """Device such as `cpu`, `cuda` or `mps`; without it the best one here, or the one `accelerate launch` gives."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation: `bfloat16` is autocast; weights and optimiser stay in float32."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Also send the metrics to this tracker, through accelerate."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice. On a busy machine 1 can be many times faster than 2."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type in (Path, Path | None):  # Python callers may give text
                object.__setattr__(self, field.name, _typed(getattr(self, field.name), field.type))
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("warmup", "lora", "save_every", "eval_every", "capture_every", "evaluate", "threads", "seed"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        self.require(self.lr > 0, "lr", "a number above 0")
        self.require(self.lora_alpha > 0, "lora_alpha", "a number above 0")
        self.require(0 <= self.final_lr <= 1, "final_lr", "a share between 0 and 1")
        self.require(all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers from 0 to below 1")
        self.require(self.weight_decay >= 0 and self.clip >= 0, "weight_decay", "0 or more, and --clip too")
        self.require(
            self.batch_size % self.accumulation == 0, "accumulation", f"a divisor of --batch-size {self.batch_size}"
        )

    @property
    def warmup_steps(self) -> int:
        """The steps of the warm-up that is made: `warmup`, shortened so that every training reaches --lr."""
        return min(self.warmup, max(self.steps // 2, min(self.steps, 2)))

    def require(self, condition: bool, name: str, expected: str) -> None:
        """Check one option.

        Raises:
            ConfigError: the condition does not hold.
        """
        if not condition:
            raise ConfigError(f"{option(name)} is {getattr(self, name)}; expected {expected}.")

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `to_dict` wrote; options that this version does not have are left out."""
        known: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = values.get(field.name, dataclasses.MISSING)
            if value is not dataclasses.MISSING:
                known[field.name] = _typed(value, field.type)
        return cls(**known)


def check_out(out: Path, resume: bool) -> None:
    """Refuse an output directory that cannot be used.

    Raises:
        RunError: it holds something and is not to be resumed, cannot be written to, or there is no run to resume.
    """
    check_folder(out.parent)
    if resume and not (out / "run.json").exists():
        raise RunError(f"There is no run to resume in `{out}`: leave --resume out to start one.")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            f"--out `{out}` holds something already: choose another folder, add --resume to continue the run in it, or"
            " delete it."
        )


def check_method(run: "Run", method: str) -> None:
    """Refuse to resume a run by another method than the one that made it.

    Raises:
        RunError: it is another one.
    """
    if run.method != method:
        raise RunError(
            f"The run in `{run.path}` was made by `{run.method}`, not `{method}`: resume it with that method."
        )


def check_unchanged(config: TrainConfig, run: "Run", step: int) -> None:
    """Hold a config that resumes `run` at `step` to the options that the run was started with.

    Raises:
        ConfigError: an option differs (the message names it), or there is nothing left to do.
    """
    for name, value in config.to_dict().items():
        if name not in config.free and run.config.get(name, value) != value:
            raise ConfigError(
                f"The run in `{config.out}` has {option(name)} {run.config[name]} and --resume came with {value}:"
                f" leave {option(name)} out to continue it, or start a new run with another --out."
            )
    if config.steps < step or (config.steps == step and run.status == "finished"):
        raise ConfigError(
            f"The run in `{config.out}` has already made {step} steps: give a larger --steps to train it further."
        )


def _typed(value: Any, kind: Any) -> Any:
    if value is not None and kind in (Path, Path | None):
        return Path(value)
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value
