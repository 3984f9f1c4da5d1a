"""Fits of features that are found for a model: those that come with Probe, and those among the model's results.

A fit belongs to models by their fingerprints, which `probe features fit` writes into its files. A folder without them,
such as one of SAELens, is used by its path.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.analyses.stored_results import result_homes
from probe.errors import ConfigError, DataError
from probe.features.feature_files import CONFIG, Features, read_features
from probe.untrusted import MB, read_json

if TYPE_CHECKING:
    from probe.model.lm import LM

SHIPPED = Path(__file__).parent / "samples"
"""Fits of sample runs that come with Probe."""
FOLDER = "features"
"""Subfolder of a model's results."""
MOST = 50
"""Largest number of fits among the results of a model that are looked at."""


def usual_folder(*lms: "LM", block: int) -> Path:
    """Return the folder for a new fit among the results of a model; of a crosscoder, among those of the second one."""
    name = f"block-{block}" if len(lms) == 1 else f"with-{Path(lms[0].ref or 'base').name}-block-{block}"
    return result_homes(*lms)[0] / FOLDER / name


def known_fits(*lms: "LM") -> list[str]:
    """Return the fits of one model, or of a base and an aligned model together.

    They are names of those that come with Probe, and paths of others.
    """
    wanted = [lm.fingerprint for lm in lms]
    return [str(name) for name, folder in _folders(lms[-1]) if fingerprints_of(folder) == wanted]


def usual_fit(*lms: "LM") -> str | None:
    """Return the first fit of a model, or of a base and an aligned model; None if there is none."""
    return next(iter(known_fits(*lms)), None)


def open_fit(features: "str | Path | Features | None", *lms: "LM") -> Features | None:
    """Return features for these models: those that are given, or those of a known fit or a folder.

    Without a choice it is the first known fit; None if there is none.

    Raises:
        ConfigError: they are of another number of models, another width, or of a block that the models lack.
        DataError: the folder holds no features, or they cannot be read; or they were fitted to other models.
    """
    found = features or usual_fit(*lms)
    if found is None:
        return None
    if not isinstance(found, Features):
        name = str(found)
        shipped = {each.name: each for each in _shipped()}
        found = read_features(shipped.get(name, Path(name).expanduser()))
        own = found.about.get("fingerprints")
        if isinstance(own, list) and own != [lm.fingerprint for lm in lms]:
            names = found.about.get("model_names", found.about.get("model_name"))
            raise DataError(
                f"These features were fitted to {_told(names)}: choose features of this model, or fit some."
            )
    models, width, _ = found.model.shape
    if models != len(lms):
        other = "compare_features and two models" if models == 2 else "one model"
        raise ConfigError(f"These features are of {models} models and {len(lms)} was given: use {other}.")
    config = lms[0].bridge.cfg
    if width != config.d_model:
        raise ConfigError(f"These features read {width} numbers and the residual stream has {config.d_model}.")
    if found.block is not None and found.block >= config.n_layers:
        raise ConfigError(f"These features read block {found.block} and the model has {config.n_layers} blocks.")
    return found


def fingerprints_of(folder: Path) -> list[Any] | None:
    """Return the fingerprints of the models of a fit; None without readable ones."""
    try:
        about = read_json(folder / CONFIG, MB)["metadata"]["fingerprints"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return about if isinstance(about, list) else None


def _told(names: Any) -> str:
    known = names if isinstance(names, list) else [names]
    return " and ".join(Path(str(each)).name[:60] for each in known[:2]) if known and known[0] else "another model"


def _shipped() -> list[Path]:
    return sorted(SHIPPED.iterdir()) if SHIPPED.is_dir() else []


def _folders(lm: "LM") -> Iterator[tuple[Path | str, Path]]:
    """Yield name and folder of each fit that may be of a model: its own ones first."""
    for home in result_homes(lm):
        place = home / FOLDER
        if place.is_dir() and not place.is_symlink():
            for folder in sorted(place.iterdir())[:MOST]:
                if folder.is_dir() and not folder.is_symlink() and not folder.name.startswith("."):
                    yield folder, folder
    for folder in _shipped():
        yield folder.name, folder
