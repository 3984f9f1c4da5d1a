"""The world that a model belongs to, in a small file beside its weights, so that a copy of the folder keeps it.

probe_world.json        the world's `to_dict()`: format, config, seed and hash
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from probe.errors import DataError, RunError
from probe.runs.addresses import RUN_FILE
from probe.untrusted import read_json

WORLD_FILE = "probe_world.json"
MOST_BYTES = 2**16
"""A world's file has about 2,000 bytes."""


def write_world(directory: Path, world: Mapping[str, Any] | None) -> None:
    """Write a world (its `to_dict()`) beside a model's weights; where there is none, no file of one stays there."""
    if world:
        (directory / WORLD_FILE).write_text(json.dumps(world, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        (directory / WORLD_FILE).unlink(missing_ok=True)


def read_world(run_dir: Path | None, directory: Path | None) -> Any:
    """Return the world that a model's run or folder states, as JSON values that are yet to be checked, or None.

    Args:
        run_dir: the run that the model belongs to, if any; then its run.json says it.
        directory: the folder that the model lies in, if any.

    Raises:
        RunError: the run has no readable run.json.
        DataError: the folder's file is damaged or far larger than a world.
    """
    if run_dir is not None:
        try:
            return read_json(run_dir / RUN_FILE).get("world")
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(f"The run {run_dir} has no readable run.json ({error}): restore it or train anew.") from None
    if directory is None or not (directory / WORLD_FILE).is_file():
        return None
    return world_in(directory / WORLD_FILE)


def world_in(file: Path) -> Any:
    """Return what a world's file holds, as JSON values that are yet to be checked.

    Raises:
        DataError: it is damaged or far larger than a world.
    """
    try:
        return read_json(file, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"`{file}` cannot be read ({error}): copy it again, or delete it.") from None
