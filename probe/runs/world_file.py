"""World of a model in a small file next to its weights, so that a copy of the folder keeps it.

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
"""Maximum bytes of a world's file; it has about 2,000."""


def write_world(directory: Path, world: Mapping[str, Any] | None) -> None:
    """Write a world (its `to_dict()`) next to a model's weights; without a world, delete an old file."""
    if world:
        (directory / WORLD_FILE).write_text(json.dumps(world, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    else:
        (directory / WORLD_FILE).unlink(missing_ok=True)


def read_world(run_dir: Path | None, directory: Path | None) -> Any:
    """Return the world that a model's run or folder states, as unchecked JSON values, or None.

    Args:
        run_dir: run of the model, if any; its run.json takes precedence.
        directory: folder of the model, if any.

    Raises:
        RunError: the run has no readable run.json.
        DataError: the folder's file is damaged or far larger than a world.
    """
    if run_dir is not None:
        try:
            return read_json(run_dir / RUN_FILE).get("world")
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(
                f"The run {run_dir} has no readable run.json ({error}): restore it or train again."
            ) from None
    if directory is None or not (directory / WORLD_FILE).is_file():
        return None
    return world_in(directory / WORLD_FILE)


def world_in(file: Path) -> Any:
    """Return the contents of a world's file, as unchecked JSON values.

    Raises:
        DataError: it is damaged or far larger than a world.
    """
    try:
        return read_json(file, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise DataError(f"`{file}` cannot be read ({error}): copy it again, or delete it.") from None
