"""Whether a run may go on: where it writes, by which method, with which options; light: no torch, no model."""

from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import ConfigError, RunError
from probe.options import option
from probe.runs.storage import check_folder, is_empty
from trainers.config import TrainConfig

if TYPE_CHECKING:
    from probe import Run


def check_out(out: Path, resume: bool) -> None:
    """Refuse an output directory that cannot be used.

    Raises:
        RunError: it holds something and is not to be resumed, cannot be written to, or there is no run to resume.
    """
    check_folder(out.parent)
    if resume and not (out / "run.json").exists():
        raise RunError(f"There is no run to resume in `{out}`: leave --resume out to start one.")
    if not resume and out.exists() and not is_empty(out):
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
