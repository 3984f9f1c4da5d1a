"""Resolution of references (run, checkpoint, Hugging Face directory, model name, hub id) to trusted directories.

A reference with a separator is a path if the path exists (`./base`, `../base`, `runs/base`), and else a hub id. A bare
name is that of a run in the folders of runs, of a folder in the working directory, or of a model in a folder of models.
The folders of models are the entries of the environment variable PROBE_MODELS (separated as in PATH), or else `.cache`
of the working directory and of the checkout. An ambiguous bare name is refused, except that a model takes precedence
over a run that only stands for that model untrained.
"""

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from probe.errors import AmbiguousNameError, ModelError, RunError, brief
from probe.runs.addresses import RUN_FILE, is_cached, is_run, is_url
from probe.runs.directories import SHIPPED, ambiguous, candidates, find, is_path, present
from probe.runs.schema import TRAINER_STATE
from probe.runs.store.mirror import cached_run, missing_bytes
from probe.untrusted import read_json, short

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer_config.json", "generation_config.json"
READ_FROM = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "additional_chat_templates/*.jinja")
"""Files from which a model, its tokenizer and its settings are read."""
MAPPED = "mapped_module"
"""model_type of a plain module of PyTorch (`probe.model.module_map`)."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
REAL_MODEL = "SmolLM2-135M-Instruct"
"""Name of the base of the real sample runs."""

Readout = Literal["tokens", "reward", "value"]
"""Output of a model that is read (`probe.model.rewards`); it follows `#` in a reference."""


class ModelPlace(NamedTuple):
    """Place of a model on disk."""

    directory: Path
    """Hugging Face directory with config, weights and tokenizer."""
    run_dir: Path | None
    """Run that the checkpoint belongs to, if any."""


def resolve(ref: str | Path, revision: str | None = None) -> ModelPlace:
    """Return the directory that `ref` names, after checking that it has a configuration and weights in safetensors.

    Args:
        ref: a path (run directory, checkpoint, Hugging Face directory), the name of a run in the folders of runs or of
            a model in the folders of models, the address of a run in a store, or a hub id `owner/name`. `RUN@STEP` is
            the checkpoint of that step; without it the latest one is used.
        revision: branch, tag or commit of a hub id.

    Raises:
        ModelError: nothing is found there, or it cannot be trusted or understood.
    """
    place = look_up(ref, revision)
    if place is None:
        return ModelPlace(check_model_folder(_download(str(ref), revision)), None)
    return ModelPlace(check_model_folder(place.directory), place.run_dir)


def look_up(ref: str | Path, revision: str | None = None) -> ModelPlace | None:
    """Return the place of a reference on this machine, or None for a hub id that must be requested from the hub.

    No file of the model is opened, and neither torch nor the hub is needed; arguments as in `resolve`.

    Raises:
        ModelError: nothing is found there, or a bare name means several folders.
    """
    text = str(ref)
    base, step = split_step(text)
    path = Path(os.path.expanduser(base))
    if os.path.isfile(path):
        raise ModelError(_file_message(path))
    if not is_path(base):
        places = _meanings(base, step)
        if len(places) > 1:
            raise AmbiguousNameError(ambiguous(base, *places))
        for place in places:
            return ModelPlace(_checkpoint(place, step), place) if is_run(place) else ModelPlace(place, _owner(place))
    try:
        run = find(base)
    except RunError as error:
        no_run = str(error)
    else:
        return ModelPlace(_checkpoint(run, step), run)
    if step or is_url(base):
        raise ModelError(no_run)
    if os.path.isdir(path):
        return ModelPlace(path, _owner(path))
    named = find_model(text)  # owner/name in a folder of models
    if named is not None:
        return ModelPlace(named, None)
    if not HUB_ID.fullmatch(text):
        raise ModelError(
            f"There is no model at `{brief(text)}`: give a run, a folder that holds config.json, or a hub id."
        )
    if "/" in text:
        return None
    snapshot = cached_snapshot(text, revision)
    if snapshot is None:
        raise ModelError(no_run)
    return ModelPlace(snapshot, None)


def _meanings(name: str, step: str) -> list[Path]:
    """Return the folders that a bare name means on this machine, of runs and of models, each once.

    A model takes precedence over a run that only stands for it untrained. With a step only runs count.
    """
    model = None if step else find_model(name)
    places = [model] if model else []
    places += [run for run in candidates(name) if model is None or not _is_as_it_comes(run, name)]
    if not step and any(os.path.isfile(os.path.join(name, file)) for file in ("config.json", ADAPTER_CONFIG)):
        places.append(Path(name))
    return list({os.path.realpath(place): place for place in places}.values())


def _is_as_it_comes(run: Path, name: str) -> bool:
    """Return whether a run did no training and stands for the model `name` itself.

    One of the real sample runs is such a run.
    """
    try:
        meta = read_json(run / RUN_FILE)
    except (OSError, ValueError):
        return False
    config = meta.get("config") if isinstance(meta, dict) else None
    return isinstance(config, dict) and meta.get("method") == "pretrain" and config.get("base") == name


def model_files(directory: Path) -> list[Path]:
    """Return the files from which a model in a directory is read, without the state of its trainer."""
    files = {file for pattern in READ_FROM for file in directory.glob(pattern)}
    return sorted(file for file in files if file.name not in TRAINER_STATE)


def find_model(name: str) -> Path | None:
    """Return the directory of that name in the folders of models, or None."""
    setting = os.environ.get("PROBE_MODELS", "")
    folders = [os.path.expanduser(part) for part in setting.split(os.pathsep) if part]
    places = [Path(folder, name) for folder in folders or (".cache", SHIPPED.parent / ".cache")]
    return next((path for path in places if HUB_ID.fullmatch(name) and os.path.isdir(path)), None)


def place(ref: str | Path) -> Path:
    """Return where `resolve` looks for a reference on this machine.

    This is the run of that name, or the path; it need not exist.
    """
    base, _ = split_step(str(ref))
    try:
        if is_url(base):  # the store is not contacted
            return cached_run(base)
        return find(base)
    except RunError:
        return Path(os.path.expanduser(base))


def bytes_to_fetch(ref: str) -> int:
    """Return the bytes of the checkpoint that `resolve` would fetch from a store; 0 if it is here or not found."""
    base, step = split_step(ref)
    try:
        directory = _checkpoint(find(base), step)
    except (RunError, ModelError):
        directory = Path(base)
    if not is_cached(directory):
        return 0

    return missing_bytes(directory)


def split_step(ref: str) -> tuple[str, str]:
    """Split a reference into its base and the step after `@`; the step is empty if there is none."""
    base, _, step = ref.rpartition("@")
    if not step.isdecimal() or os.path.exists(os.path.expanduser(ref)):
        return ref, ""
    return base, step


def split_readout(ref: str) -> tuple[str, Readout | None]:
    """Split a reference into its base and the readout after `#`; None if there is none.

    Raises:
        ModelError: there is no such readout.
    """
    base, sign, name = ref.rpartition("#")
    if not sign or os.path.exists(os.path.expanduser(ref)):
        return ref, None
    for readout in get_args(Readout):
        if name == readout:
            return base, readout
    raise ModelError(
        f"`{brief(ref)}` asks for the readout {brief(name)!r}: give one of {', '.join(get_args(Readout))}, or none."
    )


def check_model_folder(directory: Path) -> Path:
    """Return `directory` if it holds a configuration and weights in safetensors that need no custom code.

    Raises:
        ModelError: something is missing, is a pickle, or needs code from elsewhere.
    """
    present(directory)
    if is_adapter(directory):
        return _checked_adapter(directory)
    read_config(directory)
    return _checked_files(directory)


def check_reference(ref: str | Path) -> ModelPlace | None:
    """Return the place of a reference, as `look_up` does, after checking that it looks like a model.

    It needs neither torch nor the hub. Files that were not fetched from a store yet are not checked.

    Raises:
        ModelError: nothing is found there, or it is not a model.
    """
    place = look_up(ref)
    if place is not None and is_adapter(place.directory):
        _checked_adapter(place.directory)
    elif place is not None and not is_cached(place.directory):
        _checked_files(place.directory)
    return place


def _checked_files(directory: Path) -> Path:
    """Return `directory` if it holds a configuration and weights in safetensors."""
    config = read_settings(directory)
    if any(directory.glob("*.safetensors")):
        return directory
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"`{directory}` holds its weights as a pickle ({pickles[0]}), which can run any code when it is opened: if "
            f'you trust it, convert it once with `python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{directory}', use_safetensors=False).save_pretrained('{directory}-safetensors')\"`, "
            "copy the tokenizer's files over, and load that folder."
        )
    kind = config.get("model_type", "model")
    raise ModelError(f"`{directory}` has the configuration of a {kind} but no weights: add its *.safetensors files.")


def read_config(directory: Path) -> dict:
    """Read the model configuration in `directory` as a dictionary; refuse an architecture that transformers lacks.

    Raises:
        ModelError: config.json is missing or broken, or names an architecture that needs code from elsewhere.
    """
    config = read_settings(directory)
    from transformers import CONFIG_MAPPING

    if config["model_type"] not in CONFIG_MAPPING:
        needs = "needs code of its own (auto_map), which is never run here" if "auto_map" in config else "is not known"
        raise ModelError(
            f"The architecture `{config['model_type']}` of `{directory}` {needs}: use a model whose architecture is "
            "part of transformers, such as llama, qwen3, gpt2 or gpt_neox."
        )
    return config


def read_settings(directory: Path) -> dict:
    """Read the model configuration without checking its architecture, which would import transformers.

    Raises:
        ModelError: config.json is missing or broken, or is that of a plain module.
    """
    file = directory / "config.json"
    if not file.is_file():
        if is_adapter(directory):
            raise ModelError(f"`{directory}` is an adapter, not a whole model: merge it into its base model first.")
        raise ModelError(
            f"`{directory}` is not a model, since it has no config.json: give a run, a checkpoint folder of a run, or "
            "a folder that `save_pretrained` wrote."
        )
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"`{file}` cannot be read as JSON ({short(error)}): write the model again or fetch the file again."
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(
            f"`{file}` names no model_type, so the architecture is unknown: use the config.json of the model."
        )
    if not _is_bounded(config):
        raise ModelError(f"`{file}` holds a number beyond all bounds: fetch the file again.")
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ModelError(f"`{file}` has a damaged entry `architectures`: use the config.json of the model.")
    if config["model_type"] == MAPPED:
        name = (classes or ["module"])[0]
        raise ModelError(
            f"`{directory}` holds the weights of a plain module ({name}), which only its own code builds: build it, "
            "read model.safetensors into it with `safetensors.torch.load_model`, and give it to probe.LM with its map."
        )
    return config


def _is_bounded(value: object) -> bool:
    """Return whether all integers in a configuration are within the range of the libraries."""
    if isinstance(value, dict | list):
        return all(map(_is_bounded, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or abs(value) < 2**63


def is_adapter(directory: Path) -> bool:
    """Return whether `directory` holds an adapter of peft, which needs a base model stored elsewhere."""
    return (directory / ADAPTER_CONFIG).is_file()


def _checked_adapter(directory: Path) -> Path:
    """Return `directory` if its weights are safetensors."""
    if (directory / ADAPTER_WEIGHTS).is_file():
        return directory
    if (directory / "adapter_model.bin").is_file():
        raise ModelError(
            f"`{directory}` holds its adapter as a pickle (adapter_model.bin), which can run any code when it is"
            " opened: if you trust it, load it with peft and `save_pretrained` it again, which writes safetensors."
        )
    raise ModelError(
        f"`{directory}` has the configuration of an adapter and no adapter_model.safetensors: add the file."
    )


def _checkpoint(run: Path, step: str) -> Path:
    """Return the checkpoint of `step` in `run`, or the latest one if no step is given."""
    folder = run / "checkpoints"
    checkpoints = {int(path.name): path for path in folder.iterdir() if path.name.isdigit()} if folder.is_dir() else {}
    if not checkpoints:
        raise ModelError(f"The run `{run}` has no checkpoints: train it on, or name another run.")
    if step and int(step) not in checkpoints:
        steps = ", ".join(map(str, sorted(checkpoints)[-12:]))
        raise ModelError(f"The run `{run}` has no checkpoint of step {int(step)}: it has those of steps {steps}.")
    return checkpoints[int(step) if step else max(checkpoints)]


def _owner(directory: Path) -> Path | None:
    """Return the run whose checkpoint `directory` is, or None."""
    run = directory.resolve().parent.parent
    return run if directory.resolve().parent.name == "checkpoints" and is_run(run) else None


def _file_message(path: Path) -> str:
    if path.suffix in PICKLES:
        return f"`{path}` is a pickle, which can run any code when opened: give the folder of a model in safetensors."
    return f"`{path}` is a file: give the folder that holds config.json and the weights."


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """Return the snapshot of a hub id in the hub's cache on this machine, or None; no network access."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        file = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(file).parent if isinstance(file, str) else None


def _download(name: str, revision: str | None) -> Path:
    """Fetch the snapshot of a hub id, from the cache or the network; pickles are never fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        reason = "asks for an agreement: accept it on the hub and log in with `hf auth login`"
    except RevisionNotFoundError:
        reason = f"has no revision `{revision}` on the hub: give a branch, tag or commit that exists"
    except RepositoryNotFoundError:
        reason = "is neither a run nor a folder, and the hub has no such model: check its spelling"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError):
        reason = (
            "is neither a run nor a folder, and the hub cannot be reached: check its spelling (`probe runs list` shows "
            "the runs), or fetch the model where there is a network"
        )
    except HFValidationError:
        reason = "is neither a run, a folder nor a hub id: check its spelling"
    raise ModelError(f"The model `{name}` {reason}.") from None
