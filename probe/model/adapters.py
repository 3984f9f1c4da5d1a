"""LoRA adapters of peft: a small directory next to a base model stored elsewhere, read into one plain model.

    adapter_config.json, adapter_model.safetensors, tokenizer files      what peft, TRL and the trainers here write
    generation_config.json                                               what the trainers here write in addition

Hu et al. 2021 (arXiv 2106.09685): a weight W becomes W + (alpha / r) B A with A [r in] and B [out r].
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import MissingBaseError, MissingToolError, ModelError, brief, one_line
from probe.model import identity
from probe.model import loading as weights
from probe.model.adapted import base_tensors, is_adapted
from probe.model.folders import sound_folder
from probe.model.placement import Placement, is_offloaded
from probe.model.references import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    GENERATION_CONFIG,
    REAL_MODEL,
    TOKENIZER_CONFIG,
    ModelPlace,
    cached_snapshot,
    check_model_folder,
    find_model,
    is_adapter,
    look_up,
    model_files,
    resolve,
)
from probe.runs.addresses import is_url
from probe.runs.storage import sort_metadata
from probe.untrusted import WEIGHTS, foreign, read_json, regular, short

if TYPE_CHECKING:
    from peft import PeftModel

CONTINUES, CLASSIFIES = "CAUSAL_LM", "SEQ_CLS"
"""Tasks of adapters in peft's terms: of language models and of reward models."""
HEAD = "base_model.model.score.weight"
"""Name in adapter_model.safetensors of a reward model's scalar head [1 d]."""
BASE_HASH = "base_hash"
"""Metadata key in adapter_model.safetensors for the base's `probe.model.loading.weights_hash`."""
TEXTS_HASH = "texts_hash"
"""Metadata key in the same file for the trained model's `probe.model.identity.texts_hash`."""
RENAMED = "`is_gradient_checkpointing` is deprecated"
"""Warning of transformers 5.2x about a name that peft 0.21 still uses."""


def read(
    directory: Path, dtype: torch.dtype | None, device: torch.device, above: tuple[Path, ...] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read the base with the adapter in `directory` merged into it, and its tokenizer.

    The model is a plain one, in evaluation mode.

    Args:
        directory: output of peft's `save_pretrained`, or a checkpoint of a run with --lora.
        dtype: number format of the base; None is single precision on the CPU, elsewhere the format in which it was
            saved.
        device: device of the model.
        above: adapters on top of this one.

    Raises:
        ModelError: the adapter or its base is missing or broken, or they do not match; it is its own base, directly or
            through others; the base is not the one that it was trained on; or it is not a LoRA of a causal model.
        MissingToolError: peft is not installed.
    """
    model, tokenizer = _read_base(directory, CONTINUES, dtype, device, above)
    merged = merge(model, directory)
    if (directory / GENERATION_CONFIG).is_file():
        merged.generation_config = identity.read_generation(directory)
    return merged, tokenizer


def read_reward(
    directory: Path, dtype: torch.dtype | None, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a reward model from its adapter, which holds the scalar head, and its tokenizer.

    The model is a sequence classification model with the adapter merged into it, in evaluation mode, as in `read`.
    """
    base, tokenizer = _read_base(directory, CLASSIFIES, dtype, device)
    return merge(weights.classifier(base, tokenizer.pad_token_id), directory), tokenizer


def require_base(directory: Path, base: Any) -> None:
    """Check that a base given for the model in `directory` is a plain model, and the one that its adapter is put on.

    Args:
        directory: directory of the model.
        base: the `LM` that was given; None if there is none.

    Raises:
        ModelError: it is not.
    """
    if base is None:
        return
    name = f"`{base.ref or 'created'}`"
    if not is_adapter(directory):
        raise ModelError(f"The base {name} was given for `{directory}`, which is not an adapter: leave it out.")
    place = base_of(directory).directory
    if base.directory is None or base.directory.resolve() != place.resolve():
        raise ModelError(f"The adapter in `{directory}` is put on `{place}`, and {name} was given: give that base.")
    if is_adapted(base.model):
        raise ModelError(f"The base {name} has an adapter that is not merged: load it without a base of its own.")


def put_on(
    directory: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Put the adapter in `directory` on the weights of a base, which is not changed; return model and tokenizer.

    The model has its own module tree over the base's tensors, and the layers of peft in it.

    Args:
        directory: adapter of a language model, or of a reward model.
        base: base of the adapter (`require_base`).
        tokenizer: tokenizer of the base, for an adapter without one.

    Raises:
        ModelError: the adapter is broken, or does not match the base, or parts of the base are offloaded.
        MissingToolError: peft is not installed.
    """
    if is_offloaded(base):
        raise ModelError(
            f"The adapter in `{directory}` cannot be put on a base of which parts are offloaded: give a device_map"
            " without the disk, or quantization='8bit' or '4bit'."
        )
    check_base(directory, base_of(directory).directory)
    if (directory / TOKENIZER_CONFIG).is_file():
        tokenizer = weights.read_tokenizer(directory)
    plain = {name: each for name, each in base.named_parameters() if each.is_floating_point()}
    own = weights.twin(base, {name: nn.Parameter(each.detach()) for name, each in plain.items()})
    if is_reward(directory):
        own = weights.classifier(own, tokenizer.pad_token_id)
    model = attach(own, directory).get_base_model().eval()
    for each in model.parameters():
        each.requires_grad_(each.is_floating_point())
    if (directory / GENERATION_CONFIG).is_file():
        model.generation_config = identity.read_generation(directory)
    return model, tokenizer


def is_reward(directory: Path) -> bool:
    """Return whether `directory` holds the adapter of a reward model."""
    return is_adapter(directory) and _entries(directory).get("task_type") == CLASSIFIES


def _read_base(
    directory: Path, task: str, dtype: torch.dtype | None, device: torch.device, above: tuple[Path, ...] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read the model to which an adapter for `task` is added, and the tokenizer of the adapter, or else of the base."""
    config = read_config(directory)
    found = config.get("task_type") or CONTINUES
    if found != task:
        does = "does not continue texts" if task == CONTINUES else "scores no texts"
        raise ModelError(f"`{directory}` is an adapter for {found}, which {does}: give one for {task}.")
    base = base_of(directory, config).directory
    chain = (*above, directory.resolve())
    if base.resolve() in chain:
        names = " on ".join(f"`{path}`" for path in (*chain, base.resolve()))
        raise ModelError(f"These adapters rest only on each other ({names}): name a base that is not an adapter.")
    check_base(directory, base)
    if is_adapter(base):
        model, tokenizer = read(base, dtype, device, chain)
    else:
        weights.require_causal(base)
        model, tokenizer = weights.read_model(base, Placement(device, dtype)), weights.read_tokenizer(base)
    if (directory / TOKENIZER_CONFIG).is_file():
        tokenizer = weights.read_tokenizer(directory)
    return model, tokenizer


def merge(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Add the adapter in `directory` to the weights of `model` in place, and return the plain model; see `attach`."""
    with _peft_reads(directory):
        merged = attach(model, directory).merge_and_unload(safe_merge=True)
    return merged.requires_grad_(True).eval()


def attach(model: PreTrainedModel, directory: Path) -> Any:
    """Put the adapter in `directory` on `model`, which is changed in place, and return the PeftModel.

    Raises:
        ModelError: the adapter does not match the model, or is broken.
        MissingToolError: peft is not installed.
    """
    with peft_installed(f"`{directory}` is an adapter and"):
        from peft import PeftModel

    with _peft_reads(directory):
        return PeftModel.from_pretrained(model, sound_folder(directory), torch_device=str(model.device))


@contextmanager
def _peft_reads(directory: Path) -> Iterator[None]:
    """Turn errors of peft about an adapter, and its warning about missing layers, into a ModelError in the context."""

    def refuse(reason: str) -> ModelError:
        return ModelError(
            f"The adapter in `{directory}` cannot be merged into its base ({reason}): check that"
            " base_model_name_or_path names the model that it was trained on."
        )

    with foreign(refuse), warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        yield
    for note in notes:
        if "missing adapter keys" in str(note.message):
            raise ModelError(
                f"The adapter in `{directory}` does not cover the layers that its configuration names"
                f" ({short(note.message)}): copy or fetch it again."
            )
        if RENAMED not in str(note.message):
            warnings.warn(one_line(note.message), note.category, stacklevel=4)


def read_config(directory: Path) -> dict[str, Any]:
    """Read the adapter_config.json in `directory`, and check that it is a LoRA with a base.

    Raises:
        ModelError: it is broken, is not a LoRA, or names no base.
    """
    config = _entries(directory)
    kind, base = (config.get(name) for name in ("peft_type", "base_model_name_or_path"))
    if kind != "LORA":
        raise ModelError(
            f"`{directory}` is an adapter of type {kind or 'unknown'}, and only LoRA is read here: merge it into its"
            " base with peft, save the whole model, and give that."
        )
    if config.get("megatron_config"):
        raise ModelError(
            f"`{directory}` is an adapter for Megatron, which names code to import, and none is run here: save it"
            " again without megatron_config."
        )
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"`{directory / ADAPTER_CONFIG}` names no base_model_name_or_path: write the path or hub id of the base"
            " there."
        )
    return config


def _entries(directory: Path) -> dict[str, Any]:
    """Read the entries of adapter_config.json; return none if it holds no JSON object.

    Raises:
        ModelError: it is not JSON.
    """
    file = directory / ADAPTER_CONFIG
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"`{file}` cannot be read as JSON ({short(error)}): copy or fetch the adapter again."
        ) from None
    return config if isinstance(config, dict) else {}


def base_of(directory: Path, config: dict[str, Any] | None = None) -> ModelPlace:
    """Find the base model of the adapter in `directory`, and check it.

    A base that was a run's checkpoint is also found if the folder of runs has moved: as a run of that name next to the
    adapter's run, or in the folders of runs.

    Raises:
        MissingBaseError: it is that of the real sample runs, and not on this machine.
        ModelError: it is not found, cannot be trusted, or is the adapter itself.
    """
    config = config or read_config(directory)
    base = config["base_model_name_or_path"]
    if base == REAL_MODEL and find_model(base) is None:
        raise MissingBaseError(
            f"The adapter in `{directory}` is put on `{base}`, which is not on this machine: fetch it with `make"
            " real-model` in a checkout of Probe, or let PROBE_MODELS name the folder that it lies in."
        )
    ref = base_ref(directory, base)
    try:
        place = resolve(ref, config.get("revision"))
        if place.directory.resolve() == directory.resolve():
            raise ModelError("It is the adapter itself: name the model that it was trained on.")
    except ModelError as error:
        reason = str(error)
        raise ModelError(
            f"The base `{base}` of the adapter in `{directory}` cannot be used: {reason[0].lower()}{reason[1:]}"
        ) from None
    return place


def plain_base(directory: Path) -> Path | None:
    """Return the folder of an adapter's base if adapters can share it: None for a base that is an adapter itself.

    The result is None for a model that is no adapter, too.

    Raises:
        ModelError: see `base_of`.
    """
    place = base_of(directory).directory.resolve() if is_adapter(directory) else None
    return None if place is None or is_adapter(place) else place


def base_ref(directory: Path, base: str) -> str:
    """Return the reference of a base as the adapter in `directory` names it, or its new place if it has moved.

    Raises:
        ModelError: it is an address in a store.
    """
    if is_url(base):
        raise ModelError(
            f"The adapter in `{directory}` is put on `{brief(base)}`, and what a file names is not fetched from a"
            " store: fetch it with `probe runs download`, and name the folder of its checkpoint there."
        )
    path = Path(base)
    if os.path.exists(base) or path.parent.name != "checkpoints" or not path.name.isdecimal():
        return base
    run = path.parent.parent.name
    beside = directory.resolve() / "../../.." / run / "checkpoints" / path.name
    return str(beside.resolve()) if os.path.isdir(beside) else f"{run}@{int(path.name)}"


def fingerprint(directory: Path) -> str | None:
    """Return the fingerprint of the model in `directory` without loading it or its base (`probe.LM.fingerprint`).

    If the base is not on this machine, the tokenizer and generation settings are those with which the adapter was
    trained. The result is None if the adapter holds too little about its base, and for the adapter of a reward model.
    """
    known, texts = weights_fingerprint(directory), _texts_hash(directory)
    return None if known is None or texts is None else identity.combine(known, texts)


def _texts_hash(directory: Path) -> str | None:
    """Return the hash of tokenizer and generation settings, or None if it is not known on this machine."""
    folders = folders_of(directory)
    tokenizer, generation = (
        next((folder for folder in folders if (folder / name).is_file() or not is_adapter(folder)), None)
        for name in (TOKENIZER_CONFIG, GENERATION_CONFIG)
    )
    if tokenizer and generation:
        files = sorted({*model_files(tokenizer), *model_files(generation)})
        return _hash_texts(tokenizer, generation, tuple((file, file.stat().st_mtime_ns) for file in files))
    return None if tokenizer or generation else _metadata(directory).get(TEXTS_HASH)


@lru_cache(maxsize=16)
def _hash_texts(tokenizer: Path, generation: Path, written: tuple[tuple[Path, int], ...]) -> str:
    return identity.texts_hash(weights.read_tokenizer(tokenizer), identity.read_generation(generation))


def folders_of(directory: Path) -> list[Path]:
    """Return the folders from which the model in `directory` is read, itself first, if they exist here."""
    folders = [directory]
    while is_adapter(folders[-1]):
        config = read_config(folders[-1])
        base = config["base_model_name_or_path"]
        try:
            ref, revision = base_ref(folders[-1], base), config.get("revision")
            place = None if is_url(base) else look_up(ref, revision)
            folder = place.directory if place else cached_snapshot(ref, revision)
        except ModelError:  # it is not here
            break
        if folder is None or folder.resolve() in {each.resolve() for each in folders}:
            break
        folders.append(folder)
    return folders


def weights_fingerprint(directory: Path) -> str | None:
    """Return a SHA-256 that stands for the weights of base and adapter, without reading the base.

    The result is None if the adapter does not hold the hash of its base, and for the adapter of a reward model. Unlike
    the rounding of merged weights, it does not depend on the processor.
    """
    wanted, config = base_hash(directory), read_config(directory)
    if wanted is None or config.get("task_type") == CLASSIFIES:
        return None
    settings = {name: config.get(name) for name in ("task_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern")}
    settings |= {name: config.get(name) for name in ("use_rslora", "use_dora", "fan_in_fan_out")}
    facts = [wanted, weights.weights_hash(directory, exact=True), settings]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def base_hash(directory: Path) -> str | None:
    """Return the hash of the base on which the adapter in `directory` was trained; None if the adapter has none.

    Raises:
        ModelError: the adapter is broken.
    """
    return _metadata(directory).get(BASE_HASH)


def _metadata(directory: Path) -> dict[str, str]:
    """Read the metadata in the file of an adapter's weights."""

    def refuse(reason: str) -> ModelError:
        return ModelError(f"The adapter in `{directory}` cannot be merged into its base ({reason}): copy it again.")

    with foreign(refuse), safe_open(regular(directory / ADAPTER_WEIGHTS, WEIGHTS), "pt") as file:
        return dict(file.metadata() or {})


def check_base(directory: Path, base: Path) -> None:
    """Raise an error if the base is not the one on which the adapter in `directory` was trained, if the adapter tells.

    Raises:
        ModelError: the weights in `base` have another hash (`probe.model.loading.weights_hash`).
    """
    wanted = base_hash(directory)
    found = weights.weights_hash(base) if wanted else None
    if wanted != found:
        raise ModelError(
            f"The adapter in `{directory}` was trained on weights with the hash {short(wanted)[:12]} and those in"
            f" `{base}` have {str(found)[:12]}: give the base that it was trained on."
        )


def identify(ref: str, directory: Path | None) -> tuple[str, str]:
    """Return how an adapter identifies its base: by name and by the hash of the weights.

    The hash is `probe.model.loading.weights_hash`.

    The name is the hub id `ref`, the name of a model in the folders of models, or else the path of `directory`.

    Raises:
        ModelError: the base has no place on disk or on the hub.
    """
    if directory is None:
        raise ModelError("An adapter needs a base that lies on disk or on the hub: save the model first and load it.")
    place, named = directory.resolve(), find_model(directory.name)
    if named is not None and named.resolve() == place:
        return directory.name, weights.weights_hash(place)
    hub = not Path(ref).expanduser().exists() and "snapshots" in directory.parts
    return ref if hub else str(place), weights.weights_hash(place)


def write(
    model: "PeftModel",
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    base: tuple[str, str],
    head: torch.Tensor | None = None,
) -> None:
    """Write the adapter of `model` into a directory that peft, TRL and `probe.LM.load` read.

    Args:
        model: model whose active adapter is written.
        tokenizer: tokenizer to save with it.
        directory: directory to write; it is made if it does not exist.
        base: name and hash of the base (`identify`).
        head: scalar head [1 d] of a reward model; the adapter is then one for sequence classification.
    """
    from peft import get_peft_model_state_dict

    directory.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    settings = model.active_peft_config.to_dict() | {"base_model_name_or_path": base[0], "inference_mode": True}
    if head is not None:
        state[HEAD] = head
        settings |= {"task_type": CLASSIFIES, "modules_to_save": ["score"]}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    generation = getattr(model.get_base_model(), "generation_config", None)
    about = {"format": "pt", BASE_HASH: base[1], TEXTS_HASH: identity.texts_hash(tokenizer, generation)}
    (directory / ADAPTER_WEIGHTS).write_bytes(sort_metadata(save(tensors, about)))
    if generation is not None and head is None:
        generation.to_json_file(directory / GENERATION_CONFIG)
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    weights.write_tokenizer(tokenizer, directory)


def write_trained(model: "PeftModel", tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write what was trained: the adapter, if `LM.load` finds its base, else the whole model, merged tensor by tensor.

    Args:
        model: model with an adapter.
        tokenizer: tokenizer to save with it.
        directory: directory to write.
    """
    base = _base_on_disk(model)
    if base is None:
        weights.write(model.get_base_model(), tokenizer, directory)
    else:
        write(model, tokenizer, directory, base)


def _base_on_disk(model: "PeftModel") -> tuple[str, str] | None:
    """Return how the adapter identifies its base (`identify`), or None if it cannot be read onto that base later.

    The base must lie on this machine with the weights that it has in memory, since methods may change them at the start
    of training, and the adapter must be the only active one, and a LoRA.
    """
    inner, name = model.get_base_model(), model.active_adapter
    config = model.peft_config.get(name) if isinstance(name, str) else None
    ref = getattr(inner.config, "_name_or_path", "")
    try:
        if config is None or config.peft_type.value != "LORA" or not ref:
            return None
        place = look_up(ref)
        directory = place.directory if place else cached_snapshot(ref)
        if directory is None or is_adapter(directory):
            return None
        weights.require_causal(check_model_folder(directory))
        same = _is_stored(inner, directory)
    except ModelError:
        return None
    return identify(ref, directory) if same else None


def _is_stored(model: PreTrainedModel, directory: Path) -> bool:
    """Return whether the base's weights are those in a directory, read one tensor at a time in the model's format.

    Quantised weights and those of an architecture that is stored under other names cannot be compared, and count as
    equal.
    """
    if not weights.has_own_names(model):
        return True
    base, places = base_tensors(model), weights.places(directory)
    if base.keys() - places.keys() - set(model._tied_weights_keys or ()):
        return False
    for name in base.keys() & places.keys():
        own = base[name].detach().cpu()
        if own.is_floating_point() and not torch.equal(weights.read_tensor(places[name], name).to(own.dtype), own):
            return False
    return True


@torch.no_grad()
def restore(model: "PeftModel", directory: Path, head: torch.Tensor | None = None) -> None:
    """Load the adapter in `directory` into `model` in place of its own, bit for bit, and its head into `head`.

    Raises:
        ModelError: they do not have the same tensors.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        state = load_file(regular(directory / ADAPTER_WEIGHTS, WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The adapter in `{directory}` is broken ({error}): use another checkpoint.") from None
    own = get_peft_model_state_dict(model, save_embedding_layers=False) | ({} if head is None else {HEAD: head})
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in state.items()}:
        raise ModelError(
            f"The adapter in `{directory}` has another rank or other layers: give the options it was made with."
        )
    if head is not None:
        head.copy_(state.pop(HEAD))
    set_peft_model_state_dict(model, state)


@contextmanager
def peft_installed(what: str) -> Iterator[None]:
    """Explain an import of peft that fails inside the context.

    Raises:
        MissingToolError: peft is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingToolError(f"{what} needs the package `peft`: `pip install 'probe-lm[peft]'`.") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warning that peft uses a name which transformers has renamed, inside the context."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", RENAMED, FutureWarning)
        yield
