"""One forward pass of any causal language model of transformers, however it is wrapped: what differs between them.

Axes: B rows, T tokens, V vocabulary, d width.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probe.tokens import pad

Ids = Sequence[int]


def forward(
    model: nn.Module, ids: Int[Tensor, "B T"], *, keep: int = 0, readout: nn.Module | None = None, **inputs: Any
) -> Any:
    """One forward pass with the logits of the last `keep` positions (0: all), and with what `readout` says of them.

    Arguments that the architecture does not know (ALiBi models have no position_ids) are left out.
    """
    inner = unwrap(model)
    known = arguments(inner)
    if keep and "logits_to_keep" in known:
        inputs["logits_to_keep"] = keep
    with _read(inner, readout) as found:
        output = model(input_ids=ids, **{name: value for name, value in inputs.items() if name in known})
    output.logits = output.logits[:, -keep:]
    output.readout = found[0][:, -keep:] if found else None
    return output


@contextmanager
def _read(inner: Any, readout: nn.Module | None) -> Iterator[list[Float[Tensor, "B T"]]]:
    """Inside, what `readout` says of the states that enter the unembedding, whatever the architecture calls it."""
    found: list[Float[Tensor, "B T"]] = []
    if readout is None:
        yield found
        return
    unembedding = inner.get_output_embeddings()
    handle = unembedding.register_forward_pre_hook(lambda _, states: found.append(readout(states[0]).float()))
    try:
        yield found
    finally:
        handle.remove()


def whole_logits(model: nn.Module, rows: Sequence[Ids]) -> Float[Tensor, "N T V"]:
    """Logits of whole texts, padded on the right, without a cache."""
    ids, mask = (tensor.to(next(model.parameters()).device) for tensor in pad(rows, 0))
    return forward(model, ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False).logits


def positions(mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Positions from the mask, so that padding before a text does not shift it."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def unwrap(model: nn.Module) -> Any:
    """The model of transformers inside a wrapper such as DistributedDataParallel or an adapter of peft."""
    inner: Any = model if hasattr(model, "config") else model.module
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def bare(model: Any) -> Any:
    """The module inside of torch.compile, DataParallel and DistributedDataParallel; an adapter of peft stays."""
    while isinstance(model, nn.Module):
        inside = model._modules
        if inside.get("_orig_mod") is not None:  # of torch.compile, which passes every attribute on
            model = inside["_orig_mod"]
        elif not hasattr(model, "config") and inside.get("module") is not None:
            model = inside["module"]
        else:
            break
    return model


def context_length(model: nn.Module) -> int | None:
    """The longest sequence the model was built for, in tokens; None where the configuration does not say."""
    config = unwrap(model).config
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def can_cache(model: nn.Module) -> bool:
    """Whether the model keeps keys and values (recurrent models keep another state)."""
    inner = unwrap(model)
    return "past_key_values" in arguments(inner) and not getattr(inner, "_is_stateful", False)


def arguments(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that the forward pass of a model takes."""
    return _names(type(model).forward)


@lru_cache
def _names(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
