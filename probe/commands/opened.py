"""Checks of the models and runs on a command line, before torch is imported."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from probe.errors import ConfigError, DataError, RunError, brief
from probe.model.references import ModelPlace, cached_snapshot, check_reference, split_readout
from probe.runs.directories import find, typed
from probe.texts import say

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World


def check_models(refs: Iterable[str | Path | None]) -> dict[str, ModelPlace | None]:
    """Return the location of each model on a command line; None for a hub id that is not downloaded yet.

    Neither torch nor the network is needed, except for a run in a store.

    Args:
        refs: references as they were typed; None stands for an omitted option.

    Raises:
        ModelError: a reference does not exist, or is not a model.
    """
    return {str(ref): check_reference(split_readout(str(ref))[0]) for ref in refs if ref}


def open_models(refs: Iterable[str | Path | None]) -> None:
    """Print the location of each model on a command line to standard error; see `check_models`."""
    for ref, place in check_models(refs).items():
        folder = place.directory if place else cached_snapshot(ref)
        if folder is not None:
            _tell("model", ref, typed(folder))


def open_runs(refs: Iterable[str | Path]) -> list[Path]:
    """Return the folders of the runs on a command line, and print them to standard error.

    Raises:
        RunError: a reference is not a run; then nothing is printed.
    """
    places = {str(ref): find(ref) for ref in refs}
    for ref, place in places.items():
        _tell("run", ref, typed(place))
    return list(places.values())


def named_world(ref: str | None) -> "World | None":
    """Return the world that `--world` names: that of a run, that of a model's folder, or a file (`probe world`).

    Raises:
        ConfigError: the object belongs to no world, or its world cannot be built. DataError, ModelError, RunError: the
        object does not exist or is damaged.
    """
    if ref is None:
        return None
    import probe.world
    from probe.runs.world_file import world_in

    path = Path(os.path.expanduser(ref))
    if os.path.isfile(path):
        source: Any = SimpleNamespace(world=world_in(path))
    else:
        try:
            source = SimpleNamespace(run_dir=find(ref))
        except RunError:
            place = check_reference(ref)
            source = SimpleNamespace(directory=place.directory if place else None)
    world = probe.world.of(source)
    if world is None:
        raise ConfigError(f"--world `{brief(ref)}` belongs to no world: name a run, a model or a world.json that does.")
    return world


def give_world(models: "Sequence[LM]", world: "World | None") -> None:
    """Assign this world, if there is one, to the models that belong to no world.

    Raises:
        ConfigError: all models belong to a world already.
    """
    if world is None:
        return
    import probe.world

    without = [lm for lm in models if probe.world.of(lm) is None]
    if not without:
        raise ConfigError("--world was given and every model belongs to a world already: leave it out.")
    for lm in without:
        lm.world = world


def require_files(names: Iterable[str | Path]) -> None:
    """Raise an error for missing data files, before torch is imported.

    Args:
        names: paths, or several separated by commas.

    Raises:
        DataError: a path does not exist.
    """
    for name in names:
        whole = Path(name).expanduser()
        parts = [whole] if os.path.exists(whole) else [Path(each.strip()).expanduser() for each in str(name).split(",")]
        for path in parts:
            if not os.path.exists(path):
                raise DataError(
                    f"There is no file `{path}`: correct its path, which is relative to the working directory."
                )


def _tell(what: str, ref: str, where: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one process of a distributed training
        say(f"probe: {what} `{brief(ref)}` is {where}", error=True)
