"""Placement of a model: one device or several, parts on the disk, its number format, and quantised weights.

A model over several devices is dispatched by accelerate, through transformers: hooks on its modules (not those of
`LM.hooks`) bring inputs and weights to the device that computes. Weights on the disk, or on the CPU next to a GPU, are
on the meta device between two calls of their module.
"""

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from probe.errors import ConfigError, MissingToolError, ModelError, brief

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs what it lacks, and a line for each layer it runs
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Quantization = Literal["8bit", "4bit"]
"""LLM.int8 (Dettmers et al. 2022), and NF4 (Dettmers et al. 2023), both by bitsandbytes."""
DeviceMap = str | Mapping[str, str | int | torch.device]
"""`auto`, `balanced`, `balanced_low_0` or `sequential`; or names of modules to a device, `cpu` or `disk`."""
MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
VARIABLE = "PROBE_LOAD"
"""Environment variable with the arguments of models that are loaded without any, such as `device_map=auto`."""
NAMES = ("device", "dtype", "device_map", "quantization")
"""Arguments that the variable may hold."""
HOOK = "_hf_hook"
"""Attribute in which accelerate keeps the hook of a module that it dispatched."""
WRAPPERS = ("forward", "to", "cuda", "_old_forward")
"""Attributes that TRL and accelerate set on a module, which call the module itself."""
PACKED = ("Int8Params", "Params4bit")
"""Classes of bitsandbytes for quantised weights."""
INSTALL = "`pip install 'probe-lm[quantization]'`"


@dataclass(frozen=True)
class Placement:
    """Place and format in which a model is loaded."""

    device: torch.device | None = None
    """Device of the whole model; None if `device_map` says where its parts are."""
    dtype: torch.dtype | None = None
    """Number format; None for single precision on the CPU, elsewhere the saved format."""
    device_map: DeviceMap | None = None
    """Devices of its parts."""
    quantization: Quantization | None = None
    """Precision to which weights are quantised while they are loaded."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`.

        Raises:
            MissingToolError: bitsandbytes is needed and not installed.
        """
        found: dict[str, Any] = {"dtype": self.dtype or (torch.float32 if self._on_cpu else "auto")}
        if self.device_map is not None:
            found["device_map"] = self.device_map if isinstance(self.device_map, str) else dict(self.device_map)
        if self.quantization is not None:
            require_bitsandbytes(f"quantization={self.quantization!r}")
            from transformers import BitsAndBytesConfig

            compute = self.dtype or (torch.float32 if self._on_cpu else torch.bfloat16)
            four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
            found["quantization_config"] = BitsAndBytesConfig(
                **four if self.quantization == "4bit" else {"load_in_8bit": True}
            )
            found.setdefault("device_map", {"": self.device})
        return found

    @property
    def is_whole(self) -> bool:
        """Whether the model stands on one device and keeps its precision."""
        return self.device is not None and self.quantization is None

    def require_one(self, adapter: Path) -> torch.device:
        """Return the device of the whole model, for an adapter on an adapter, which is merged there.

        Raises:
            ModelError: there are several, or the weights are to be quantised.
        """
        if self.device is None or not self.is_whole:
            raise ModelError(
                f"`{adapter}` is an adapter on an adapter, which is merged in memory: load it without device_map and"
                " quantization, or merge it with peft, save the whole model, and give that."
            )
        return self.device

    @property
    def _on_cpu(self) -> bool:
        if self.device is not None:
            return self.device.type == "cpu"
        if isinstance(self.device_map, Mapping):
            return {str(place) for place in self.device_map.values()} <= {"cpu", "disk"}
        return not torch.cuda.is_available()


def placement(
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    quantization: str | None = None,
) -> Placement:
    """Check the arguments with which a model is loaded; if there are none, those of the variable `PROBE_LOAD` hold.

    Raises:
        ConfigError: two arguments exclude each other, or one is not valid.
        ModelError: there is no such device or dtype.
    """
    if device is None and dtype is None and device_map is None and quantization is None:
        device, dtype, device_map, quantization = _of_environment()
    if device is not None and device_map is not None:
        raise ConfigError("device and device_map were both given: leave one out, since a map names the devices.")
    if isinstance(device_map, str) and device_map not in MAPS:
        raise ConfigError(
            f"device_map={brief(device_map)!r} was given: give one of {', '.join(MAPS)}, or a dict from names of"
            " modules to devices, 'cpu' or 'disk'."
        )
    if quantization is not None and quantization not in get_args(Quantization):
        raise ConfigError(f"quantization={brief(str(quantization))!r} was given: give '8bit' or '4bit'.")
    for place in {str(each) for each in device_map.values()} if isinstance(device_map, Mapping) else ():
        if place != "disk":
            device_of(int(place) if place.isdigit() else place)
    return Placement(
        None if device_map is not None else device_of(device),
        dtype_of(dtype),
        device_map,
        cast(Quantization | None, quantization),
    )


def _of_environment() -> list[str | None]:
    """Return the arguments in the variable `PROBE_LOAD`, in the order of `NAMES`.

    Raises:
        ConfigError: it holds something else.
    """
    words = os.environ.get(VARIABLE, "").replace(",", " ").split()
    given = dict(word.partition("=")[::2] for word in words)
    odd = next((word for word in words if word.partition("=")[0] not in NAMES or not word.partition("=")[2]), None)
    if odd is not None:
        raise ConfigError(
            f"The environment variable {VARIABLE} holds {brief(odd)!r}: write it as device_map=auto,dtype=bfloat16,"
            f" with any of {', '.join(NAMES)}."
        )
    return [given.get(name) for name in NAMES]


def device_of(device: str | int | torch.device | None) -> torch.device:
    """Return the device of that name; None means CUDA if there is one, else the CPU.

    Raises:
        ModelError: there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError):
        raise ModelError(f"There is no device {str(device)!r} here: use 'cpu', or a torch built for it.") from None
    return place


def dtype_of(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the number format of that name; None, which keeps the format, stays None.

    Raises:
        ModelError: there is no such format.
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError(f"The dtype {name!r} cannot be used: give one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def require_bitsandbytes(what: str) -> None:
    """Raise a MissingToolError unless bitsandbytes is installed; `what` needs it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingToolError(f"{what} needs the package `bitsandbytes`: {INSTALL}.")


def settle(model: nn.Module) -> None:
    """Keep 4-bit weights in the layout in which they are saved.

    On a CPU with bfloat16 instructions bitsandbytes rearranges them in the first pass and computes in bfloat16 from
    then on, so that one model would have two fingerprints and other numbers on another machine.
    """
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            vars(module)["support_avx512bf16_for_cpu"] = False


def input_device(model: nn.Module) -> torch.device:
    """Return the device on which a model takes its input and gives its output."""
    first = next(model.parameters()).device
    if first.type != "meta":
        return first
    hooks = [hook for module in model.modules() if (hook := hook_of(module)) is not None]
    return device_of(hooks[0].execution_device) if hooks else first


def devices_of(model: nn.Module) -> list[str]:
    """Return the names of the places of a model's weights: devices, and `disk`."""
    spread = getattr(model, "hf_device_map", None) or {}
    places = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in spread.values()}
    return sorted(places) or [str(input_device(model))]


def hook_of(module: nn.Module) -> Any:
    """Return the hook with which accelerate dispatched a module; None without one."""
    return vars(module).get(HOOK)


def count_parameters(model: Any) -> int:
    """Return the number of parameters; shared ones count once, also if they are offloaded, and packed ones as saved."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    again = (weight.numel() for name, weight in model.named_parameters() if weight.is_meta and name in tied)
    return int(model.num_parameters()) - sum(again)


def is_offloaded(model: nn.Module) -> bool:
    """Return whether weights of a model are loaded only while their module runs."""
    return any(parameter.is_meta for parameter in model.parameters())


def is_quantized(model: nn.Module) -> bool:
    """Return whether weights of a model are quantised."""
    return getattr(model, "hf_quantizer", None) is not None


def is_packed(layer: nn.Module) -> bool:
    """Return whether the weight of a layer is quantised."""
    return type(layer._parameters.get("weight")).__name__ in PACKED


def aligned(module: nn.Module) -> AbstractContextManager[None]:
    """Load the weights that an offloaded module holds itself, inside the context."""
    from accelerate.utils import align_module_device

    return align_module_device(module)


@contextmanager
def readable(module: nn.Module) -> Iterator[None]:
    """Hold the weights of a module and of all modules in it as plain numbers, inside the context.

    Offloaded ones are loaded and quantised ones dequantised, so give one block or less.
    """
    with ExitStack() as stack:
        for each in module.modules():
            stack.enter_context(aligned(each))
            if is_packed(each):
                weight = each._parameters["weight"]
                from transformers.integrations.bitsandbytes import dequantize_bnb_weight

                plain = dequantize_bnb_weight(cast(Any, weight), getattr(each, "state", None))
                stack.callback(each._parameters.__setitem__, "weight", weight)
                each._parameters["weight"] = nn.Parameter(plain, requires_grad=False)
        yield


def value_of(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Return the values of a tensor of a model's state, which are loaded if it is offloaded."""
    if not tensor.is_meta:
        return tensor
    from transformers.integrations.accelerate import load_offloaded_parameter

    return load_offloaded_parameter(cast(Any, model), name)


def is_exact(model: Any) -> bool:
    """Return whether two kernels give the same logits up to rounding in single precision."""
    return model.dtype in (torch.float32, torch.float64) and not is_quantized(model)


def format_of(model: Any) -> str:
    """Return the number format of a model in words, such as `float32` or `float32 with 8-bit weights`."""
    bits = [bit for bit in (4, 8) if getattr(model, f"is_loaded_in_{bit}bit", False)]
    return str(model.dtype).removeprefix("torch.") + (f" with {bits[0]}-bit weights" if bits else "")


def require_weights(model: nn.Module, ref: str) -> None:
    """Raise a ModelError unless all weights are in memory as plain numbers, for what reads or changes them."""
    name = f"`{ref}`" if ref else f"this {type(model).__name__}"
    if is_quantized(model):
        raise ModelError(f"The weights of {name} are quantised and are read here: load it without quantisation.")
    if is_offloaded(model):
        raise ModelError(
            f"The weights of {name} are partly on the disk or offloaded to the CPU, and are read here all at once: load"
            " it without `device_map`, or on devices that hold it."
        )


def follow(copy: nn.Module) -> None:
    """Dispatch the copy of a module as accelerate dispatched the module, with the hooks that it shares with it."""
    for module in copy.modules():
        own = vars(module)
        for name in WRAPPERS:
            own.pop(name, None)
        hook = own.pop(HOOK, None)
        if hook is not None:
            _attach(module, hook)


def _attach(module: Any, hook: Any) -> None:
    """Add a hook of accelerate that is prepared already; `add_hook_to_module` would move the weights again."""
    run = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
        return hook.post_forward(module, run(*args, **kwargs))

    module._hf_hook, module._old_forward, module.forward = hook, run, forward
