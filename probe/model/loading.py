"""Reading and writing of models (safetensors), copies of their modules, and hashes of weights."""

import copy
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto import modeling_auto
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from probe.errors import ConfigError, ModelError, brief
from probe.model.adapted import Weights, is_adapted, merged_layer, state_of, wrapped_layers
from probe.model.folders import sound_folder
from probe.model.placement import HOOK, Placement, follow, is_quantized, require_bitsandbytes, settle, value_of
from probe.model.references import read_config
from probe.model.rehearsed import rehearsed
from probe.runs.schema import CHECKSUMS, TRAINER_STATE
from probe.runs.thinning import half_precision
from probe.runs.world_file import write_world
from probe.untrusted import WEIGHTS, foreign, read_json, regular

COUNTED = re.compile(r"(?:num|n)_(?:\w+_)?(?:layers?|blocks)|(?:en|de)coder_layers|attention_types")
"""Entries of a configuration that give numbers of parts that transformers builds in a loop."""
SUMMED = 2**16
"""Approximate number of values of a tensor that are summed to detect a change quickly."""
SPARE = 2**26
"""Maximum number of elements of a model in excess of its weights: buffers for masks and positions."""


def require_causal(directory: Path) -> None:
    """Raise a ModelError unless the configuration in `directory` is that of a causal language model."""
    config = read_config(directory)
    causal = _classes(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, config)
    architectures = config.get("architectures") or sorted(causal)
    if config.get("is_encoder_decoder") or not causal.intersection(architectures):
        name = architectures[0] if architectures else config["model_type"]
        if name in reward_classes(config):
            raise ModelError(
                f"`{directory}` holds a {name}, which scores texts and does not continue them: load it with "
                "`probe.RewardModel.load`, or give the model that it was trained from."
            )
        raise ModelError(
            f"`{directory}` holds a {name}, which does not continue texts: give a causal language model such as "
            "LlamaForCausalLM or GPT2LMHeadModel."
        )


def reward_classes(config: dict[str, Any]) -> set[str]:
    """Return the names of classes with an architecture's decoder and a scalar head; empty if there are none."""
    if not _classes(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, config) or config.get("is_encoder_decoder"):
        return set()
    return _classes(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, config)


def require_reward(directory: Path) -> None:
    """Raise a ModelError unless the configuration in `directory` is that of a decoder with one score."""
    config = read_config(directory)
    classes = reward_classes(config)
    architectures = config.get("architectures") or []
    label_names = config.get("id2label") or (0, 1)
    labels = config.get("num_labels", len(label_names) if isinstance(label_names, dict | tuple) else repr(label_names))
    if not classes.intersection(architectures):
        name = architectures[0] if architectures else config["model_type"]
        raise ModelError(
            f"`{directory}` holds a {name}, which gives texts no score: give a reward model (the run of `probe train "
            "reward-model`, or a decoder for sequence classification with one label such as "
            "LlamaForSequenceClassification)."
        )
    if labels != 1:
        raise ModelError(
            f"`{directory}` sorts texts into {labels} classes and a reward model gives one score: give a model with "
            "num_labels 1."
        )


def read_model(directory: Path, place: Placement) -> PreTrainedModel:
    """Read the causal language model in `directory`, in evaluation mode, with every weight found there.

    Args:
        directory: directory with config.json and safetensors.
        place: where to put it, and in which format.

    Raises:
        ModelError: the weights are broken or incomplete, quantised in a way that is not read here, or not those of a
            causal language model; or the device map does not fit.
        MissingToolError: it needs bitsandbytes, which is not installed.
    """
    return _read(AutoModelForCausalLM, "causal language model", directory, place)


def read_reward_model(directory: Path, place: Placement) -> PreTrainedModel:
    """Read the sequence classification model in `directory`; arguments and errors as in `read_model`."""
    model = _read(AutoModelForSequenceClassification, "reward model", directory, place)
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise ModelError(
            f"`{directory}` holds a {type(model).__name__}, which is not a decoder with a linear head `score`:"
            " give one such as LlamaForSequenceClassification."
        )
    return model


def _read(auto: Any, label: str, directory: Path, place: Placement) -> PreTrainedModel:
    saved = _check_quantization(directory, place)
    _check_sizes(auto, label, directory)
    arguments = place.arguments
    if saved:
        arguments.setdefault("device_map", {"": place.device})
    scratch = tempfile.mkdtemp(prefix="probe-offload-") if place.device_map else None
    with _loading(label, directory), _no_progress_bar():
        model, info = auto.from_pretrained(
            sound_folder(directory),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            offload_folder=scratch,
            **arguments,
        )
    if scratch is not None:
        # Weights that transformers converts while it loads them are offloaded there.
        weakref.finalize(model, shutil.rmtree, scratch, ignore_errors=True)
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacking:
        raise ModelError(
            f"The weights in `{directory}` lack {len(lacking)} tensors of the model (such as {lacking[0]}): they are "
            f"not those of a whole {label}, so save or fetch it again."
        )
    settle(model)
    return model.eval() if saved or place.quantization or place.device_map else model.to(place.device).eval()


METHODS = ("bitsandbytes",)
"""Methods of quantised weights that are read: they need no code and no calibration."""


def _check_quantization(directory: Path, place: Placement) -> bool:
    """Return whether the weights in a directory were saved quantised, after checking that they can be read.

    Raises:
        ModelError: they cannot.
        MissingToolError: bitsandbytes is not installed.
    """
    config = read_config(directory).get("quantization_config")
    if config is None:
        return False
    method = config.get("quant_method") if isinstance(config, dict) else None
    name = brief(str(method or "an unknown method"))
    if method not in METHODS:
        raise ModelError(
            f"The weights in `{directory}` are quantised by {name}, and only {' and '.join(METHODS)} is read here: give"
            " the model without quantisation, and load it with quantization='8bit' or '4bit' if memory is short."
        )
    if place.quantization is not None:
        raise ModelError(f"The weights in `{directory}` are quantised already: load it without quantization=.")
    require_bitsandbytes(f"`{directory}` is quantised and")
    return True


def _loading(label: str, directory: Path) -> AbstractContextManager[None]:
    """Turn errors of transformers while it reads a model into a ModelError, inside the context."""
    return foreign(
        lambda reason: ModelError(f"`{directory}` cannot be loaded as a {label} ({reason}): fix it or use another.")
    )


def shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the weights in `directory`, from the headers of its files.

    Raises:
        ModelError: a file is broken.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        if file.name in TRAINER_STATE:
            continue
        with foreign(_broken_error(directory)), safe_open(regular(file, WEIGHTS), "pt") as weights:
            sizes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return sizes


def weights_hash(directory: Path, exact: bool = False) -> str:
    """Return the SHA-256 of the weights in a directory, in hexadecimal: names, shapes and values of all tensors.

    A directory is read once per process, and again if its files have changed.

    Args:
        directory: directory with safetensors.
        exact: hash the stored values; otherwise hash them in half precision, so that a model and its reduced copy
            (`probe.runs.thin`) have the same hash.

    Raises:
        ModelError: a file is broken.
    """
    files = [file for file in sorted(directory.glob("*.safetensors")) if file.name not in TRAINER_STATE]
    with foreign(_broken_error(directory)):
        stats = [file.stat() for file in files]
    return _hash_files(tuple(zip(files, [(each.st_size, each.st_mtime_ns) for each in stats], strict=True)), exact)


@lru_cache(maxsize=16)
def _hash_files(files: tuple[tuple[Path, tuple[int, int]], ...], exact: bool) -> str:
    digest = hashlib.sha256()
    for name, file in sorted(_places([file for file, _ in files]).items()):
        tensor = read_tensor(file, name)
        tensor = (tensor if exact else half_precision(tensor)).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def places(directory: Path) -> dict[str, Path]:
    """Return the file of every tensor of the weights in a directory.

    Raises:
        ModelError: a file is broken.
    """
    return _places([file for file in sorted(directory.glob("*.safetensors")) if file.name not in TRAINER_STATE])


def _places(files: Sequence[Path]) -> dict[str, Path]:
    found = dict[str, Path]()
    for file in files:
        with foreign(_broken_error(file.parent)), safe_open(regular(file, WEIGHTS), "pt") as weights:
            found |= dict.fromkeys(weights.keys(), file)
    return found


def read_tensor(file: Path, name: str) -> Tensor:
    """Read one tensor from a file of safetensors.

    Raises:
        ModelError: the file is broken.
    """
    with foreign(_broken_error(file.parent)), safe_open(regular(file, WEIGHTS), "pt") as weights:
        tensor: Tensor = weights.get_tensor(name)
    return tensor


def _broken_error(directory: Path) -> Callable[[str], ModelError]:
    return lambda reason: ModelError(f"The weights in `{directory}` are broken ({reason}): copy or fetch them again.")


def _check_sizes(auto: Any, label: str, directory: Path) -> None:
    """Raise a ModelError if the configuration describes a larger model than the weights next to it.

    Building such a model could take all memory or never end, so its size is checked first: layers are counted in the
    configuration file, elements on the meta device, which takes no memory.
    """
    sizes = shapes(directory)
    for name, value in _entries(read_config(directory)):
        if isinstance(value, float) and math.isnan(value):
            raise ModelError(
                f"`{directory / 'config.json'}` sets {name} to NaN: use the config.json that belongs to the weights."
            )
        if type(value) is int and COUNTED.fullmatch(name) and not 0 <= value <= max(len(sizes), 1):
            raise ModelError(
                f"`{directory / 'config.json'}` sets {name} to {value:,}, but the weights have {len(sizes):,}"
                " tensors: use the config.json that belongs to them."
            )
    with _loading(label, directory):
        config = AutoConfig.from_pretrained(sound_folder(directory), trust_remote_code=False, local_files_only=True)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # refused below
            model = auto.from_config(config, trust_remote_code=False)
    empty = next((name for name, each in model.named_parameters() if not each.numel()), None)
    if empty is not None:
        raise ModelError(
            f"`{directory / 'config.json'}` sets a size to 0, which leaves `{empty}` without elements: use the"
            " config.json that belongs to the weights."
        )
    have = sum(math.prod(shape) for shape in sizes.values())
    need = max(sum(each.numel() for each in part) for part in (model.parameters(), model.buffers()))
    factor = 16 if getattr(config, "quantization_config", None) else 2
    if need > factor * have + SPARE:
        raise ModelError(
            f"`{directory / 'config.json'}` describes a model of {need:,} numbers and the weights have {have:,}: use "
            "the config.json that belongs to them."
        )


def _entries(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and value of every entry of a configuration."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _entries(value, str(key))
    elif isinstance(config, list):
        for value in config:
            yield from _entries(value, name)
    else:
        yield name, config


def read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer in `directory`, and check that it can be used.

    Raises:
        ModelError: there is no usable tokenizer.
    """

    def refuse(reason: str) -> ModelError:
        return ModelError(f"`{directory}` has no usable tokenizer ({reason}): copy the tokenizer's files into it.")

    with foreign(refuse):
        tokenizer = AutoTokenizer.from_pretrained(
            sound_folder(directory), trust_remote_code=False, local_files_only=True
        )
        tokenizer = rehearsed(tokenizer)
        tokenizer("a \u2603")  # wrong settings show only in use, some only on an unknown letter
    return tokenizer


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    dtype: torch.dtype | None = None,
    state: Mapping[str, Tensor] | None = None,
    world: Mapping[str, Any] | None = None,
) -> None:
    """Write a Hugging Face directory: a new one appears whole; in an old one files are replaced, config.json last.

    Args:
        model: model to write.
        tokenizer: tokenizer to write with it.
        directory: directory to write.
        dtype: number format to save in; default: the model's format.
        state: weights, if the model itself holds none.
        world: world that it belongs to, if any (`probe.runs.world_file`).
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = directory.parent / f".{directory.name}.{secrets.token_hex(4)}"
    work.mkdir()
    try:
        _save(model, tokenizer, work, dtype, state)
        write_world(work, world)
        if not directory.exists():
            work.rename(directory)
            return
        (directory / CHECKSUMS).unlink(missing_ok=True)  # of the files that are replaced
        new = {file.name for file in work.iterdir()}
        for name in sorted(new, key=lambda name: name == "config.json"):
            os.replace(work / name, directory / name)
        for stale in directory.glob("*.safetensors*"):
            if stale.name not in new:
                stale.unlink()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def classifier(model: PreTrainedModel, pad: int | None) -> Any:
    """Build a sequence classification model with one label around the decoder of `model`; its head is zero.

    Args:
        model: a causal language model, whose decoder is shared and not copied.
        pad: padding token that transformers will look for.

    Raises:
        ConfigError: transformers has no such class for this architecture.
    """
    config = copy.deepcopy(model.config)
    config.num_labels, config.get_text_config().pad_token_id = 1, pad
    if not reward_classes({"model_type": config.model_type}):
        raise ConfigError(
            f"A reward model is saved as a sequence classification model, and transformers has none for"
            f" {type(model).__name__}: start from another architecture, such as llama, qwen3, gpt2 or gpt_neox."
        )
    with torch.device("meta"):
        shell: Any = AutoModelForSequenceClassification.from_config(
            config, attn_implementation=model.config._attn_implementation
        )
    if type(shell.base_model) is not type(model.base_model) or not isinstance(getattr(shell, "score", None), nn.Linear):
        raise ConfigError(
            f"{type(shell).__name__} is built differently from {type(model).__name__} with a linear head `score`, so a"
            " reward model cannot be saved as one: start from another architecture, such as llama, qwen3 or gpt2."
        )
    setattr(shell, shell.base_model_prefix, model.base_model)
    shell.score = nn.Linear(shell.score.in_features, 1, bias=False, device=model.device, dtype=model.dtype)
    nn.init.zeros_(shell.score.weight)
    return shell.train(model.training)


def twin(model: PreTrainedModel, others: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """Copy the module tree over the same parameters and buffers, with separate hooks and modes.

    Args:
        model: model to copy; it is not changed.
        others: tensors that replace parameters and buffers, by name; shared ones once, under the first name.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    memo = {id(tensor): (others or {}).get(name, tensor) for name, tensor in named}
    memo |= {id(hook): hook for module in model.modules() if (hook := vars(module).get(HOOK)) is not None}
    own = copy.deepcopy(model, memo)
    follow(own)
    return own


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a plain model with the effective weights of an adapted one, which is not changed.

    Adapted weights are new tensors, all others are shared; a plain model is returned itself.
    """
    if not is_adapted(model):
        return model
    own = twin(model)
    for name, layer in wrapped_layers(model).items():
        own.set_submodule(name, merged_layer(layer))
    return own.train(model.training)


def tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state's tensors in the order of their names, shared ones once; offloaded ones have no values."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    distinct: dict[int | str, tuple[str, Tensor]] = {}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        distinct.setdefault(tied.get(name, name) if tensor.is_meta else id(tensor), (name, tensor))
    return dict(distinct.values())


def stamp(model: PreTrainedModel) -> list[Any]:
    """Return a cheap sign of the weights' contents that shows whether they have changed.

    Version counters miss fused optimisers and writes to `.data`, which do not increase them; the sum of bits does not.
    Offloaded tensors are left out, since they cannot be trained, and so are those that describe quantised weights.
    """
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    own = {id(each) for each in (*model.parameters(), *model.buffers()) if not each.is_meta}
    return [
        (id(tensor), tensor._version, int(tensor.detach().view(bits[tensor.element_size()]).sum(dtype=torch.int64)))
        for tensor in tensors(model).values()
        if id(tensor) in own
    ] + [*state_of(model)]


def quick_stamp(model: PreTrainedModel) -> tuple[Any, ...]:
    """Return a sign of the weights that is quicker than `stamp`: it sums about `SUMMED` values of each tensor."""
    flat = [each.detach().flatten() for each in model.parameters() if not each.is_meta]
    sums = [float(each[:: 1 + each.numel() // SUMMED].double().sum()) for each in flat]
    return sum(each._version for each in model.parameters()), *sums, state_of(model)


def fingerprint(model: PreTrainedModel, read: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> str:
    """Return the SHA-256, in hexadecimal, of the configuration and of every tensor's name, type, shape and bytes.

    An adapted model has the fingerprint of the merged one.

    Args:
        model: the model.
        read: function that returns the values of one tensor; it is called for one tensor after the other.
    """
    volatile = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}
    config = {name: value for name, value in model.config.to_dict().items() if name not in volatile}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    own = Weights(model)
    for name in own.once(ordered=True):
        tensor = own[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = read(value_of(model, name, tensor)).detach().cpu().contiguous()
        digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    dtype: torch.dtype | None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    if weights is None and is_adapted(model):
        if is_quantized(model):
            raise ModelError(
                "An adapter on quantised weights is not saved as one model with them: save the adapter alone"
                " (`save_pretrained` of its PeftModel), or put it on a base without quantisation."
            )
        if has_own_names(model):
            _save_adapted(model, directory, None if dtype == model.dtype else dtype)
            write_tokenizer(tokenizer, directory)
            return
        model = merged(model)
    state: dict[str, Any] = {} if weights is None else {"state_dict": dict(weights)}
    if dtype not in (None, model.dtype):
        values = {name: value_of(model, name, tensor) for name, tensor in model.state_dict().items()}
        cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in values.items()}
        state = {"state_dict": cast}
    with _no_progress_bar(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")  # they are read in turn
        model.save_pretrained(directory, **state)
    if dtype not in (None, model.dtype):
        _set_entries(directory / "config.json", dtype=str(dtype).removeprefix("torch."))
    write_tokenizer(tokenizer, directory)


def _set_entries(file: Path, **entries: Any) -> None:
    config = read_json(file) | entries
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def has_own_names(model: PreTrainedModel) -> bool:
    """Return whether transformers saves the weights under the names and in the shapes that they have in the model."""
    state: dict[str, Tensor] = {}
    usual = type(model).save_pretrained is PreTrainedModel.save_pretrained
    return usual and revert_weight_conversion(model, state) is state


STORED = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
STORED |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
STORED |= {torch.bool: "BOOL"}
"""Names of number formats in files of safetensors."""


def _save_adapted(model: PreTrainedModel, directory: Path, dtype: torch.dtype | None) -> None:
    """Write an adapted model merged, one tensor at a time, so that no second model is in memory.

    The file has the layout of safetensors: the length of the header, the header, the values.
    """
    own = Weights(model)
    ignored = set(model._keys_to_ignore_on_save or ())
    names, header, end = [name for name in own.once() if name not in ignored], dict[str, Any](), 0
    kinds = {name: (own.stored[name].is_floating_point() and dtype) or own.stored[name].dtype for name in names}
    for name in names:
        start, end = end, end + own.stored[name].numel() * kinds[name].itemsize
        shape = list(own.stored[name].shape)
        header[name] = {"dtype": STORED[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    text += b" " * (-len(text) % 8)
    with _no_progress_bar():
        model.save_pretrained(directory, state_dict={})  # configuration and generation settings
    tied = bool(set(model._tied_weights_keys or ()) & set(names)) and model.config.tie_word_embeddings
    entries = {"tie_word_embeddings": False} if tied else {}
    _set_entries(directory / "config.json", dtype=str(dtype or model.dtype).removeprefix("torch."), **entries)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = own[name].detach().to("cpu", kinds[name]).contiguous()
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)


LOADED = ("is_local", "local_files_only")
"""Settings of a tokenizer that record how it was loaded; `from_pretrained` notes and `save_pretrained` writes them."""


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write a tokenizer's files in the same form, whether it was read from a folder or built here."""
    tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    if not file.is_file():
        return
    settings = read_json(file)
    if any(name in settings for name in LOADED):
        kept = {name: value for name, value in settings.items() if name not in LOADED}
        text = json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        file.write_text(text, encoding="utf-8")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    had_bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bar:
            logging.enable_progress_bar()


def _classes(mapping: Mapping[str, Any], config: dict[str, Any]) -> set[str]:
    """Return the names of the classes that transformers has for a model type."""
    names = mapping.get(config["model_type"], ())
    return {names} if isinstance(names, str) else set(names)
