"""Models with an adapter of peft as they are: the adapter is not merged, and no weight of the base is copied.

    x W + (alpha / r) x A B                             what a layer with a LoRA computes, W shared with the base
    W + (alpha / r) A B                                 its effective weight, made for one layer when something reads it

Everything here follows the adapter that is active at the time, and one that is switched off.
"""

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from probe.errors import ModelError
from probe.model.placement import is_packed, readable


def is_wrapped(module: nn.Module) -> bool:
    """Return whether a module is a layer of peft around a layer of the plain model."""
    if sys.modules.get("peft") is None:
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)


def is_peft_model(model: Any) -> bool:
    """Return whether this is a model in the wrapper of peft."""
    return hasattr(model, "get_base_model") and hasattr(model, "peft_config")


def wrapped_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers of peft in a model, each under the name that its layer has in the plain model."""
    found: dict[str, Any] = {}
    outer = None
    for name, module in model.named_modules() if sys.modules.get("peft") is not None else ():
        if is_wrapped(module) and (outer is None or not name.startswith(f"{outer}.")):
            found[name], outer = module, name
    return found


def is_adapted(model: nn.Module) -> bool:
    """Return whether a model has an adapter that is not merged."""
    return bool(wrapped_layers(model))


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Return which adapters of a model are active, and which are switched off or merged."""
    return tuple(
        (layer.disable_adapters, tuple(layer.active_adapters), tuple(layer.merged_adapters))
        for layer in wrapped_layers(model).values()
    )


def inside(layer: Any) -> Any:
    """Return the plain layer inside a layer of peft, with the base's weights or those that were trained in its place.

    A plain layer is returned itself.
    """
    layer = _current(layer)
    return layer.get_base_layer() if is_wrapped(layer) else layer


@torch.no_grad()
def merged_layer(layer: Any) -> Any:
    """Return a plain layer with the effective weights; tensors that the adapter leaves alone are shared.

    The layer of peft is not changed; a plain layer is returned itself.
    """
    layer = _current(layer)
    if not is_wrapped(layer):
        return layer
    off, base = layer.disable_adapters, layer.get_base_layer()
    if off != layer.merged:  # as its forward pass: the base alone, or what was merged into it
        return base
    if is_packed(base):
        return _unpacked(layer, base)
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*layer.parameters(), *layer.buffers())}
    for weight in base.parameters():
        data = weight.detach().clone() if off else weight.detach()
        memo[id(weight)] = nn.Parameter(data, requires_grad=weight.requires_grad)
    own = each = copy.deepcopy(layer, memo)
    while is_wrapped(each):  # one around another, where two weights of a module are adapted (experts)
        if off:
            each.unmerge()
        else:
            each.merge(safe_merge=True)  # it replaces the data of the weights instead of changing them
        each = each.base_layer
    return own.get_base_layer()


def _unpacked(layer: Any, base: Any) -> nn.Linear:
    """Return a plain layer with the dequantised weight of a quantised base and the updates of its adapters.

    Raises:
        ModelError: an adapter is not a plain LoRA, whose update is added.
    """
    if not hasattr(layer, "get_delta_weight") or getattr(layer, "lora_variant", None):
        raise ModelError(
            f"The effective weight of a quantised {type(layer).__name__} is known for plain LoRA alone: load the base"
            " without quantisation."
        )
    sign, names = (-1, layer.merged_adapters) if layer.merged else (1, layer.active_adapters)
    with readable(base):
        weight = base.weight.detach().clone()
    for name in (each for each in names if each in layer.lora_A):
        weight += sign * layer.get_delta_weight(name).to(weight.dtype)
    own = nn.Linear(weight.shape[1], weight.shape[0], bias=base.bias is not None, device="meta", dtype=weight.dtype)
    own.weight, own.bias = nn.Parameter(weight), base.bias
    return own


def layer_weight(layer: Any) -> Tensor:
    """Return the effective weight of a layer; that of a plain layer is its parameter."""
    weight: Tensor = merged_layer(layer).weight
    return weight


class Weights(Mapping[str, Tensor]):
    """Parameters and saved buffers of a model by their names in the plain model; adapted ones are made when read.

    Names of tied weights are all there; `once` lists one name of each.
    """

    def __init__(self, model: nn.Module) -> None:
        self.stored: dict[str, Tensor] = {}
        """Name -> tensor that is stored: of an adapted layer that of the base, with the shape of the effective one."""
        self._layers: dict[str, tuple[Any, str]] = {}
        layers = wrapped_layers(model)
        for name, tensor in model.state_dict(keep_vars=True).items():
            parts = name.split(".")
            prefixes = (".".join(parts[:count]) for count in range(1, len(parts))) if layers else ()
            at = next((prefix for prefix in prefixes if prefix in layers), None)
            if at is None:
                self.stored[name] = tensor
                continue
            wrapped, layer = is_wrapped(_current(layers[at])), inside(layers[at])
            packed = wrapped and is_packed(layer)
            shape = nn.Linear(layer.in_features, layer.out_features, device="meta").weight if packed else None
            for leaf, own in layer.state_dict(keep_vars=True).items():
                if packed and leaf not in ("weight", "bias"):
                    continue  # it describes the quantised weight, which is not the effective one
                self.stored[f"{at}.{leaf}"] = shape if shape is not None and leaf == "weight" else own
                if wrapped:
                    self._layers[f"{at}.{leaf}"] = layers[at], leaf

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._layers:
            return self.stored[name]
        layer, leaf = self._layers[name]
        tensor: Tensor = merged_layer(layer).state_dict(keep_vars=True)[leaf]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def once(self, *, ordered: bool = False) -> list[str]:
        """Return the first name of every tensor, in the order of the modules or, if `ordered`, of the names."""
        first: dict[tuple[int, int], str] = {}
        for name in sorted(self.stored) if ordered else self.stored:
            first.setdefault((id(self.stored[name]), id(self._layers[name][0]) if name in self._layers else 0), name)
        return list(first.values())

    def parameters(self) -> list[str]:
        """Return the first name of every parameter."""
        return [name for name in self.once() if isinstance(self.stored[name], nn.Parameter)]


def base_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the base's parameters by their names in the plain model, without what an adapter adds or replaces."""
    layers = wrapped_layers(model)
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        at = next((prefix for prefix in layers if name.startswith(f"{prefix}.")), None)
        if at is None:
            found[name] = parameter
    for at, layer in layers.items():
        if not hasattr(layer, "original_module"):  # those of a part trained as a whole are not used
            found |= {f"{at}.{name}": each for name, each in layer.get_base_layer().named_parameters()}
    return found


def put_stand_ins(own: nn.Module, model: nn.Module) -> None:
    """Replace the layers of peft in `own`, a copy of the module tree of `model`, by plain ones that stand for them.

    A stand-in is of the plain layer's class. It runs the layer of `model`, and its weight is the effective one.
    """
    for name, layer in wrapped_layers(model).items():
        plain = inside(layer)
        if next(plain.children(), None) is None:
            own.set_submodule(name, _stand_in(layer, plain))
        elif not is_wrapped(_current(layer)):  # a whole part of the model that was trained in place of the base's
            memo: dict[int, Any] = {id(tensor): tensor for tensor in (*plain.parameters(), *plain.buffers())}
            own.set_submodule(name, copy.deepcopy(plain, memo))


def parts_in_use(layers: Iterable[Any]) -> list[int]:
    """Return the ids of the parts made of several layers that compute at present in place of these layers of peft."""
    parts = [part for part in map(_current, layers) if not is_wrapped(part)]
    return [id(part) for part in parts if next(part.children(), None) is not None]


@contextmanager
def reference_active(model: Any) -> Iterator[None]:
    """Turn a PeftModel into the reference of its training inside the context: as TRL does, base or adapter `ref`.

    `ref` is the first state of an adapter whose training is continued. What is trainable does not change.
    """
    trainable = [(each, each.requires_grad) for each in model.parameters()]
    before = model.active_adapter
    try:
        if "ref" in model.peft_config:
            model.set_adapter("ref")
            yield
        else:
            with model.disable_adapter():
                yield
    finally:
        if "ref" in model.peft_config:
            model.set_adapter(before)
        for each, flag in trainable:
            each.requires_grad_(flag)


def _current(layer: Any) -> Any:
    """Return what computes in place of a module that was trained as a whole: the trained module, or the base's."""
    if not hasattr(layer, "original_module") or not is_wrapped(layer):
        return layer
    if layer.disable_adapters or any(name not in layer._adapters for name in layer.active_adapters):
        return layer.original_module
    if hasattr(layer, "token_adapter"):
        return layer.token_adapter
    return layer.modules_to_save[layer.active_adapters[0]] if layer.active_adapters else layer.original_module


class _StandIn(nn.Module):
    """A layer of peft with the face of the plain layer."""

    _layer: tuple[Any]
    """The layer of peft, not registered, since its mode and its weights are those of the model that it is part of."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer[0](*args, **kwargs)

    @property
    def weight(self) -> Tensor:
        return layer_weight(self._layer[0])


class _BiasedStandIn(_StandIn):
    """A stand-in for a layer with a bias."""

    @property
    def bias(self) -> Tensor:
        bias: Tensor = merged_layer(self._layer[0]).bias
        return bias


def _stand_in(layer: Any, plain: nn.Module) -> nn.Module:
    kind, biased = type(plain), getattr(plain, "bias", None) is not None
    own: Any = object.__new__(type(kind.__name__, (_BiasedStandIn if biased else _StandIn, kind), {}))
    nn.Module.__init__(own)
    module = vars(nn.Module()).keys()
    vars(own).update({name: value for name, value in vars(plain).items() if name not in module})
    own._layer = (layer,)
    own.training = plain.training
    if not biased and hasattr(plain, "bias"):
        own.register_parameter("bias", None)
    for name, buffer in plain.named_buffers():  # such as the scale of an embedding
        own.register_buffer(name, buffer, persistent=False)
    return cast(nn.Module, own)
