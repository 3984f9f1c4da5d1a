"""Files of an autoencoder in the layout of SAELens: `cfg.json` and `sae_weights.safetensors`.

Weights are W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in], and threshold [d_sae] of a
`jumprelu`, in float32 by default. A crosscoder has the states of its models one after the other as its input, so that
d_in is M d. The architectures standard, jumprelu, topk and batchtopk of SAELens 3 to 6 are read.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from probe.errors import DataError
from probe.features.autoencoder import Autoencoder
from probe.runs.storage import check_folder, delete, disk, refuse_link, replace_folder, sync_tree
from probe.untrusted import foreign, read_json, regular

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LAYOUT = "6.0.0"
"""Version of SAELens whose layout is written."""
LARGEST = 16 * 2**30
"""Largest size in bytes of a file of weights."""
MOST_MODELS = 8
"""Largest number of models of a crosscoder."""
ARCHITECTURES = ("standard", "jumprelu", "topk", "batchtopk")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Features:
    """Autoencoder, and what it was fitted to."""

    model: Autoencoder
    block: int | None
    """Block after which it reads the residual stream; None if its files do not say."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Metadata of its files: `model_name`, `hook_name`, and more."""


def write_features(found: Features, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write an autoencoder to a folder, which exists in full or not at all; an earlier one there is replaced.

    Args:
        found: the autoencoder.
        folder: where to.
        dtype: type of the numbers in the file; half of the size with `torch.float16`.

    Raises:
        DataError: the folder holds something else. RunError: it cannot be written.
    """
    check_target(folder)
    model = found.model
    models, width, features = model.shape
    tensors = {
        "W_enc": model.W_enc.flatten(0, 1),
        "b_enc": model.b_enc,
        "W_dec": model.W_dec.flatten(1),
        "b_dec": model.b_dec.flatten(),
    }
    if model.most is None:
        tensors["threshold"] = model.threshold
    config = {
        "d_in": models * width,
        "d_sae": features,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": model.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {**found.about, "sae_lens_version": LAYOUT, "sae_lens_training_version": None, "models": models},
        "architecture": "jumprelu" if model.most is None else "topk",
    } | ({} if model.most is None else {"k": model.most, "rescale_acts_by_decoder_norm": False})
    made = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with disk(folder):
        made.mkdir(parents=True, exist_ok=True)
        try:
            weights = {name: each.detach().to(dtype).contiguous() for name, each in tensors.items()}
            (made / WEIGHTS).write_bytes(save(weights))
            (made / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
            sync_tree(made)
            replace_folder(made, folder)
        finally:
            delete(made)


def check_target(folder: Path) -> None:
    """Raise an error for a folder that features cannot be written to, before any work is done for it.

    Raises:
        DataError: it holds something other than features. RunError: it is a file or a link, or may not be written to.
    """
    refuse_link(folder)
    check_folder(folder)
    if folder.is_dir() and (others := sorted({each.name for each in folder.iterdir()} - {CONFIG, WEIGHTS})):
        raise DataError(f"`{folder}` holds `{others[0]}`, which is no part of features: choose another folder.")


def read_features(folder: Path) -> Features:
    """Read an autoencoder from a folder in the layout of SAELens.

    Raises:
        DataError: the folder has no such files, or they cannot be used; the sentence says why.
    """

    def refuse(reason: str) -> DataError:
        return DataError(f"The features in `{folder}` cannot be read ({reason}): fit or copy them again.")

    if not folder.is_dir() or not (folder / CONFIG).exists():
        raise DataError(
            f"`{folder}` has no `{CONFIG}`, so it holds no features: give a folder that `probe features fit` or"
            " SAELens wrote."
        )
    for name in (CONFIG, WEIGHTS):
        _require_own(folder, name, refuse)
    with foreign(refuse):
        config = read_json(folder / CONFIG)
    config = _settled(config, refuse)
    with foreign(refuse), safe_open(regular(folder / WEIGHTS, LARGEST), "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        _check_shapes(shapes, config, refuse)
        tensors = {name: file.get_tensor(name) for name in shapes}
    return _made(tensors, config, refuse)


def _require_own(folder: Path, name: str, refuse: Any) -> None:
    """Refuse a link that leads out of the folder, unless into the files of a cache of the hub."""
    path = folder / name
    if path.is_symlink():
        target = path.resolve()
        if target.parent != folder.resolve() and target.parent.name != "blobs":
            raise refuse(f"`{name}` is a link out of the folder")


def _settled(config: Any, refuse: Any) -> dict[str, Any]:
    """Return the configuration with the names and defaults of SAELens 6."""
    if not isinstance(config, dict):
        raise refuse(f"`{CONFIG}` is no JSON object")
    about: Any = config.get("metadata")
    about = about if isinstance(about, dict) else {}
    kind = config.get("architecture", "standard")
    older = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    arguments = config.get("activation_fn_kwargs") or {}
    if kind == "standard" and older in ("topk", "topk-acts-no-mask") and isinstance(arguments, dict):
        kind, config = "topk", config | {"k": arguments.get("k")}
    if kind not in ARCHITECTURES:
        raise refuse(f"its architecture is {str(kind)[:40]!r}, and {', '.join(ARCHITECTURES)} are read")
    for name in ("d_in", "d_sae"):
        if type(config.get(name)) is not int or not 0 < config[name] <= 2**24:
            raise refuse(f"`{name}` is {str(config.get(name))[:40]}, not the size of a layer")
    most = config.get("k")
    if kind == "topk" and (type(most) is not int or not 0 < most <= config["d_sae"]):
        raise refuse(f"`k` is {str(most)[:40]}, not a number of features from 1 to {config['d_sae']}")
    for name, plain in {"normalize_activations": ("none", None, False), "reshape_activations": ("none", None)}.items():
        if config.get(name) not in plain:
            raise refuse(f"`{name}` is {str(config[name])[:40]!r}, and only plain residual streams are read")
    if config.get("finetuning_scaling_factor"):
        raise refuse("they have a scaling factor of fine-tuning, which is not read")
    models = about.get("models", 1)
    if type(models) is not int or not 0 < models <= MOST_MODELS or config["d_in"] % models:
        raise refuse(f"`models` is {str(models)[:40]}, which does not divide the input of {config['d_in']}")
    hook = about.get("hook_name", config.get("hook_name", config.get("hook_point")))
    return config | {"architecture": kind, "metadata": about | {"hook_name": hook}, "models": models}


def _check_shapes(shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any], refuse: Any) -> None:
    d_in, d_sae, kind = config["d_in"], config["d_sae"], config["architecture"]
    wanted: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,)}
    wanted |= {"W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    if kind == "jumprelu":
        wanted["threshold"] = (d_sae,)
    elif kind == "batchtopk":
        wanted["topk_threshold"] = ()
    for name, shape in wanted.items():
        if name not in shapes:
            raise refuse(f"`{name}` is missing in `{WEIGHTS}`")
        if tuple(shapes[name]) != shape:
            raise refuse(f"`{name}` has the shape {list(shapes[name])[:6]}, and `{CONFIG}` says {list(shape)}")
    if others := sorted(shapes.keys() - wanted.keys()):
        raise refuse(f"`{others[0][:40]}` is a weight that a {kind} autoencoder does not have")


def _made(tensors: Mapping[str, Tensor], config: Mapping[str, Any], refuse: Any) -> Features:
    for name, each in tensors.items():
        if each.dtype not in DTYPES or not bool(torch.isfinite(each).all()):
            raise refuse(f"`{name}` holds something other than finite numbers")
    models, most = config["models"], config.get("k") if config["architecture"] == "topk" else None
    width, size = config["d_in"] // models, config["d_sae"]
    weights = {name: each.float() for name, each in tensors.items()}
    threshold = weights.get("threshold", torch.zeros(size))
    if config["architecture"] == "batchtopk":
        threshold = weights["topk_threshold"].expand(size).clone()
    model = Autoencoder(
        weights["W_enc"].unflatten(0, (models, width)),
        weights["b_enc"],
        weights["W_dec"].unflatten(1, (models, width)),
        weights["b_dec"].unflatten(0, (models, width)),
        threshold,
        most,
        bool(config.get("apply_b_dec_to_input", True)),
    )
    if config.get("rescale_acts_by_decoder_norm", config["architecture"] == "batchtopk"):
        norms = weights["W_dec"].norm(dim=-1).clamp(min=1e-8)
        with torch.no_grad():  # activations are weighed by the norms: folded, the weights say the same without them
            model.W_enc.mul_(norms)
            model.b_enc.mul_(norms)
            model.W_dec.div_(norms[:, None, None])
    model.requires_grad_(False)
    return Features(model, _block_of(config["metadata"].get("hook_name")), dict(config["metadata"]))


def _block_of(hook: Any) -> int | None:
    """Return the block after which a hook of the residual stream reads; None for another one.

    The stream before a block is that after the block before it.
    """
    parts = hook.split(".") if isinstance(hook, str) else []
    if len(parts) != 3 or parts[0] != "blocks" or not (parts[1].isdecimal() and len(parts[1]) < 5):
        return None
    place = {"hook_resid_post": 0, "hook_out": 0, "hook_resid_pre": -1, "hook_in": -1}.get(parts[2])
    return None if place is None or int(parts[1]) + place < 0 else int(parts[1]) + place
