"""Checks before a run is resumed: output directory, method and options, without importing torch or a model."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import ConfigError, RunError
from probe.options import option
from probe.runs.checksums import find_damage
from probe.runs.schema import CHECKSUMS, Checkpoint
from probe.runs.storage import check_folder, is_empty
from trainers.config import TrainConfig

if TYPE_CHECKING:
    from probe import Run


def check_out(out: Path, resume: bool) -> None:
    """Refuse an unusable output directory.

    Raises:
        RunError: it is not empty and --resume is not given, cannot be written to, or there is no run to resume.
    """
    check_folder(out.parent)
    if resume and not (out / "run.json").exists():
        raise RunError(f"There is no run to resume in `{out}`: leave --resume out to start one.")
    if not resume and out.exists() and not is_empty(out):
        raise RunError(
            f"--out `{out}` holds something already: choose another folder, add --resume to continue the run in it, or"
            " delete it."
        )


def check_checkpoints(run: "Run") -> None:
    """Refuse to resume from a checkpoint with a damaged file.

    Raises:
        RunError: a file is damaged; the message names it, the newest intact checkpoint before it, and the remedy.
    """
    damaged: list[Checkpoint] = []
    first: Path | None = None
    whole: Checkpoint | None = None
    for checkpoint in reversed(run.checkpoints()):
        file = find_damage(checkpoint.path)
        if file is None:
            whole = checkpoint
            break
        first = first or file
        damaged.append(checkpoint)
    if first is not None:
        where = f"continue from the checkpoint before it, `{whole.path}`" if whole else "start again"
        command = shlex.join(["rm", "-r", *(str(each.path) for each in damaged)])
        raise RunError(
            f"`{first}` is damaged (it does not match {CHECKSUMS} next to it): copy its checkpoint again from where it"
            f" was made, or type `{command}` and then the same command, to {where}."
        )


def check_method(run: "Run", method: str) -> None:
    """Refuse to resume a run with another method.

    Raises:
        RunError: the method differs.
    """
    if run.method != method:
        raise RunError(
            f"The run in `{run.path}` was made by `{run.method}`, not `{method}`: resume it with that method."
        )


def check_unchanged(config: TrainConfig, run: "Run", step: int) -> None:
    """Check that a config that resumes `run` at `step` has the options that the run was started with.

    Raises:
        ConfigError: an option differs (the message names it), or no steps are left.
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
