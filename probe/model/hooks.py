"""Hooks on demand: a TransformerBridge that shares the model's parameters.

`boot_transformers(hf_model=...)` would change the module in place and make it twice as slow. Here the tree of modules
is copied and the parameters are not, so the plain module trains and samples while the bridge (`LM.bridge`) uses the
same weights. The plain model has the attention kernel with which it was loaded; the bridge has the eager one where a
hook reads attention scores or weights (`probe.model.kernels`). If both give the same logits, hooked activations are
those of the model: `probe.model.hooked_gap` runs both.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module, detect_tokenizer_bos_eos
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ConfigError, ModelError, suggest
from probe.model.adapted import parts_in_use, put_stand_ins, wrapped_layers
from probe.model.kernels import keep_kernel, read_weights
from probe.model.loading import twin
from probe.model.module_hooks import bridge_module, fields_of
from probe.model.module_map import MappedModel
from probe.model.placement import devices_of, input_device, is_exact, is_offloaded
from probe.model.text import forward, pad_id


class HookWarning(UserWarning):
    """Warning: hooked and plain logits differ."""


HookFn = Callable[[torch.Tensor, Any], torch.Tensor | None]
Hook = tuple[str, HookFn]
FusedPart = tuple[Any, str, tuple[str, ...]]
"""A component, the method that splits its projection, and the names of the parts."""
COMPARED = 6
"""Number of tokens on which hooked and plain logits are compared when a bridge is built."""
FUSED = {"split_qkv_matrix": ("q", "k", "v"), "split_gate_up_matrix": ("gate", "in")}
"""Method with which the bridge splits a fused projection to the names of its parts; some models need copies, not
views."""


def build_bridge(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """Build a bridge over the parameters and buffers of `model`, which is not changed.

    For a plain module `probe.model.module_hooks` builds it; the rest holds for a model of transformers.

    Attention in the bridge is the eager kernel where scores and patterns are read. Fused projections (GPT-2, GPT-NeoX,
    Phi-3) are split in the bridge; `refresh` updates the parts, and gradients of such parameters need the plain model.
    Layers with an adapter stay in `model`; in the bridge plain ones stand for them (`probe.model.adapted`).

    Raises:
        ModelError: transformer-lens has no adapter for the architecture, or none for this configuration; or the module
            map does not match.
    """
    mapped = isinstance(model, MappedModel)
    own, architecture = (None, "") if mapped else _prepare_copy(model, tokenizer)
    try:
        with torch.random.fork_rng(devices=[]):  # split projections start as random layers
            if own is not None:
                bridge = build_bridge_from_module(own, architecture, hf_config=own.config)
            else:
                bridge = bridge_module(cast(MappedModel, model))
        for module in bridge.modules():
            _scale_as_the_model_does(module)
        if own is not None:
            keep_kernel(bridge, str(model.config._attn_implementation))
        _compare(model, bridge)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as failure:
        reason = " ".join(str(failure).split()).partition(". ")[0][:200] or type(failure).__name__
        why = "its module map does not fit" if mapped else "transformer-lens does not follow its configuration"
        raise ModelError(
            f"This {type(model).__name__} cannot be hooked, since {why} ({reason}): training, sampling and "
            f"log-probabilities work, hooks and lenses need another {'map' if mapped else 'model'}."
        ) from failure
    for module in bridge.modules():
        if "_pattern" in vars(module):  # transformer-lens leaves each block's last pattern there and never reads it
            module.register_forward_hook(lambda attention, *_: setattr(attention, "_pattern", None))
    _give_tokenizer(bridge, tokenizer)
    return bridge


def _prepare_copy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedModel, str]:
    """Return a module tree for the bridge, and the name of the architecture that selects its adapter."""
    own = twin(model)
    put_stand_ins(own, model)
    own.set_attn_implementation("eager")
    if getattr(own.config, "pad_token_id", None) is None:
        own.config.pad_token_id = pad_id(tokenizer)
    own.config.architectures = [type(model).__name__]  # missing in a model that was never saved
    try:
        return own, determine_architecture_from_hf_config(own.config)
    except ValueError:
        raise ModelError(
            f"The architecture {type(model).__name__} cannot be hooked, since transformer-lens has no adapter for it: "
            "training, sampling and log-probabilities work, hooks and lenses need another model."
        ) from None


def _scale_as_the_model_does(module: Any) -> None:
    """Scale the scores of fused attention in the bridge as the model does.

    The bridge divides them by the root of the head's width; a model may not (GPT-2).
    """
    scaling = getattr(getattr(module, "original_component", None), "scaling", None)
    if not isinstance(module, JointQKVAttentionBridge) or scaling is None or module.config is None:
        return
    default = float(module.config.d_head) ** -0.5
    if getattr(module.config, "scale_attn_by_inverse_layer_idx", False) and module._layer_idx is not None:
        default /= module._layer_idx + 1
    factor = scaling / default
    if abs(factor - 1) > 1e-6:
        apply_mask = module._apply_reconstruct_attention_mask

        def scaled(attn_scores: torch.Tensor, **others: Any) -> torch.Tensor:
            return apply_mask(attn_scores=attn_scores * factor, **others)

        module._apply_reconstruct_attention_mask = scaled


@torch.no_grad()
def _compare(model: PreTrainedModel, bridge: TransformerBridge) -> None:
    """Warn if hooked logits differ from plain ones: transformer-lens may not know an option of the configuration."""
    mapped, exact = isinstance(model, MappedModel), is_exact(model)
    plain = twin(model).eval() if model.training or not exact else model
    if not (exact or mapped):
        plain.set_attn_implementation("eager")  # in half precision kernels differ by many nats on odd tokens
    training = bridge.original_model.training
    ids = torch.arange(1, 1 + COMPARED, device=input_device(model))[None] % model.config.get_text_config().vocab_size
    bridge.train(False)
    inputs: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(COMPARED, device=ids.device)[None],
    }
    with _adapters_without_dropout(model):
        with bridge.hooks(fwd_hooks=read_weights(bridge)):
            hooked = bridge(ids, **inputs).float()
        expected = forward(plain, ids, use_cache=False, **inputs).logits.float()
    bridge.train(training)
    gap, spread = float((hooked - expected).abs().max()), float(expected.std())
    limit = max((1e-3 if exact else 0.1) * spread, 1e-6)
    if bool(expected.isfinite().all()) and not gap <= limit:
        why = "hooking changes what it computes" if mapped else "transformer-lens does not follow its configuration"
        warnings.warn(
            f"Hooks do not show what this {type(model).__name__} computes: hooked and plain logits differ by"
            f" {gap:.2g} nats (the logits spread by {spread:.2g}), since {why}.",
            HookWarning,
            stacklevel=4,
        )


@contextmanager
def _adapters_without_dropout(model: nn.Module) -> Iterator[None]:
    """Run the layers of peft, which a bridge shares with the model, in evaluation mode inside the context."""
    layers = wrapped_layers(model).values()
    training = [module for layer in layers for module in layer.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


class Structure:
    """Modules and parameters of a model at one time; a bridge over it is valid as long as they are `same`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._modules, self._layers = list(model.modules()), list(wrapped_layers(model).values())
        self._then = self._now()

    def same(self, model: PreTrainedModel) -> bool:
        """Return whether this is the model, and no part was replaced, cast or moved, also by an adapter."""
        return model is self._modules[0] and self._now() == self._then

    def _now(self) -> list[Any]:
        """Describe each module without a walk over the tree; offloaded parameters are new after each pass."""
        found: list[Any] = [id(child) for module in self._modules for child in module._modules.values()]
        parameters = (each for module in self._modules for each in module._parameters.values() if each is not None)
        found += [(id(each), each.dtype, each.device) for each in parameters if not each.is_meta]
        return [*found, *parts_in_use(self._layers)]


def fused_parts(bridge: TransformerBridge) -> list[FusedPart]:
    """Find the components of a bridge that hold parts of a fused projection.

    Call this once per bridge, because it visits all modules.
    """
    return [
        (module, split, names) for module in bridge.modules() for split, names in FUSED.items() if split in vars(module)
    ]


def refresh(bridge: TransformerBridge, projections: Sequence[FusedPart], training: bool) -> None:
    """Update the bridge from the parameters that it shares: split projections and training mode."""
    if bridge.original_model.training != training:
        bridge.train(training)
    for module, split, names in projections:
        if is_offloaded(module.original_component):  # whose weights do not change
            continue
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            parts = getattr(module, split)(module.original_component)
        for name, part in zip(names, parts, strict=True):
            mine = getattr(module, name).original_component
            for key, value in part.named_parameters():
                mine.get_parameter(key).data = value.data


@contextmanager
def attach_hooks(bridge: TransformerBridge, hooks: Sequence[Hook]) -> Iterator[None]:
    """Attach hook functions `fn(tensor, hook) -> tensor | None` inside the context, and remove them in any case."""
    points = bridge.hook_dict
    check_names(bridge, [name for name, _ in hooks])
    several = len(devices_of(bridge.original_model)) > 1
    main = input_device(bridge.original_model) if several else None
    with bridge.hooks(fwd_hooks=[(points[name].name, on_one_device(fn, main)) for name, fn in hooks]):
        yield


def check_names(bridge: TransformerBridge, names: Sequence[str]) -> None:
    """Raise a ConfigError unless each name is an active hook point of the bridge."""
    points = bridge.hook_dict
    for name in names:
        if name not in points:
            if isinstance(bridge.original_model, MappedModel) and (fields := fields_of(name)):
                raise ConfigError(
                    f"{type(bridge.original_model).__name__} has no hook point {name!r}, which needs {fields} in its "
                    "module map: add what the module has, or use what works without (what did not fit was left out "
                    "with a warning)."
                )
            if ".attn." in name and not any(".attn." in point for point in points):
                raise ConfigError(
                    f"This model has no attention ({type(bridge.original_model).__name__}), so it has no hook point "
                    f"{name!r}: analyses of attention and heads need a transformer."
                )
            remedy = suggest(name, points, "`lm.hook_names()` lists them.", most=3)
            raise ConfigError(f"This model has no hook point {name!r}: {remedy}")
        setter = bridge._gated_hook_reason(points[name].name or name)
        if setter is not None:
            raise ConfigError(f"The hook point {name!r} is switched off: call `lm.bridge.set_{setter}(True)` first.")


def on_one_device(fn: HookFn, device: torch.device | None) -> HookFn:
    """Return a hook function that is called by position, and with tensors on `device` if the model has several."""

    def run(tensor: torch.Tensor, hook: Any) -> torch.Tensor | None:
        if device is None or tensor.device == device:
            return fn(tensor, hook)
        here = tensor.to(device)
        version = here._version
        given = fn(here, hook)
        changed = given if given is not None else here if here._version != version else None
        return None if changed is None else changed.to(tensor.device)

    return run


def _give_tokenizer(bridge: TransformerBridge, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the bridge a copy of the tokenizer, so that it reads texts as the LM does.

    Otherwise transformer-lens reloads the tokenizer from its directory and forces a beginning token.
    """
    own = copy.deepcopy(tokenizer)
    if own.pad_token is None:
        own.pad_token = own.eos_token
    begins, ends = detect_tokenizer_bos_eos(own)
    bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = begins, ends
    bridge.cfg.default_prepend_bos = begins
    bridge.tokenizer = own
