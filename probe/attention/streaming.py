"""Attention weights of a text from the model's own kernel, one block of queries at a time.

transformers lets a function replace the attention kernel. The function here calls the architecture's own eager kernel
on `block` queries at a time and passes their weights on, so grouped heads, windows, soft caps and learned sinks are as
in the model. The model itself is not changed, since a second module tree over its parameters runs.

Axes: H heads, G key heads, T tokens, b queries of a block, S keys that the block can see, dh width of a head.
"""

import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from probe.errors import ConfigError, ModelError
from probe.model.lm import LM
from probe.model.loading import twin
from probe.model.scoring import check_ids, check_lengths
from probe.model.text import arguments

KERNEL = "probe_blocks"
"""Name under which transformers knows the replacement of the attention kernel."""

Receive = Callable[[int, Float[Tensor, "H b S"], int, int], None]
"""Function that receives a block: index among the layers with attention, weights in single precision, and the positions
of the first query and of the first key.
"""


@torch.no_grad()
def stream_weights(lm: LM, ids: Sequence[int], block: int, receive: Receive) -> list[int]:
    """Run one text and pass every attention weight to `receive` once, layer by layer, block by block.

    Keys that no query of the block can see are left out. No logits are computed.

    Args:
        lm: the model.
        ids: token ids of the text.
        block: number of queries at a time.
        receive: function that takes a block; an exception in it ends the run and propagates.

    Returns:
        The indices of the layers with attention, in order.

    Raises:
        DataError: the text has no tokens or is longer than the model's context.
        ConfigError: hooks are attached, which would have no effect here.
        ModelError: the architecture's attention cannot be read in blocks.
    """
    check_lengths(lm.model, [ids], [])
    if lm._hook_depth:
        raise ConfigError("Attention in blocks runs on the plain model, where hooks do not act: leave `hooks` first.")
    body, length, tokens = _readable(lm), len(ids), torch.tensor([list(ids)])
    check_ids(tokens, len(lm.model.get_input_embeddings().weight))
    inputs = {
        "input_ids": tokens.to(lm.device),
        "attention_mask": torch.ones(1, length, dtype=torch.long, device=lm.device),
        "position_ids": torch.arange(length, device=lm.device)[None],
        "use_cache": False,
    }
    parameters, reader = arguments(body), _BlockReader(length, block, receive)
    token = _reader.set(reader)
    try:
        body(**{name: value for name, value in inputs.items() if name in parameters})
    finally:
        _reader.reset(token)
    if not reader.layers:
        raise _unreadable(lm)
    numbers = [number for number in reader.layers if isinstance(number, int)]
    distinct = len(set(numbers)) == len(reader.layers)  # otherwise a module has no index, or is used twice
    return numbers if distinct else list(range(len(reader.layers)))


class _BlockReader:
    """Receiver of the blocks in one thread, and the layers seen so far."""

    def __init__(self, length: int, block: int, receive: Receive) -> None:
        self.length, self.block, self.receive = length, block, receive
        self.layers: list[Any] = []


_reader: ContextVar[_BlockReader] = ContextVar("reader")
"""Reader of this thread; the attention function is shared by all threads."""


def _readable(lm: LM) -> Any:
    """Return the body of the model (no unembedding) as a separate module tree that attends through `_attention`."""
    AttentionInterface.register(KERNEL, _attention)
    AttentionMaskInterface.register(KERNEL, sdpa_mask)  # a boolean for each pair, or None for a plain causal mask
    if not lm.model._can_set_attn_implementation():
        raise _unreadable(lm)
    own = twin(lm.model).eval()
    own.set_attn_implementation(KERNEL)
    return own.base_model


def _unreadable(lm: LM) -> ModelError:
    return ModelError(
        f"The attention of {type(lm.model).__name__} does not go through transformers' attention interface, so it"
        " cannot be read in blocks: use `lm.run_with_cache` on a short text, or another model."
    )


def _attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T dh"],
    key: Float[Tensor, "1 G T dh"],
    value: Float[Tensor, "1 G T dv"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "1 T H dv"], None]:
    """Run the module's own eager kernel block by block, and pass its weights to the reader."""
    reader, length, kernel = _reader.get(), query.shape[2], _kernel(module)
    if length != reader.length or key.shape[2] != length:
        raise ModelError(
            f"{type(module).__name__} attends from {length} to {key.shape[2]} places in a text of {reader.length} "
            "tokens, so its weights are not those between tokens: use another model."
        )
    causal, bias = options.get("is_causal"), options.pop("position_bias", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    reader.layers.append(getattr(module, "layer_idx", None))
    outputs = []
    for first in range(0, length, reader.block):
        rows = slice(first, min(first + reader.block, length))
        mask = _rows(attention_mask, rows, length, bool(causal), query)
        low, high = _span(mask)
        if bias is not None:
            options["position_bias"] = bias[..., rows if bias.shape[-2] > 1 else slice(None), low:high]
        output, weights = kernel(
            module, query[:, :, rows], key[:, :, low:high], value[:, :, low:high], mask[..., low:high], **options
        )
        reader.receive(len(reader.layers) - 1, weights[0].float(), first, low)
        outputs.append(output)
    return torch.cat(outputs, dim=1), None


def _rows(mask: Tensor | None, rows: slice, length: int, causal: bool, query: Tensor) -> Float[Tensor, "1 h b T"]:
    """Return the additive mask of a block of queries: 0, or the lowest number where the mask hides a key."""
    if mask is not None and mask.dtype != torch.bool:
        return mask[:, :, rows, :length]
    if mask is None:
        keys = torch.arange(length, device=query.device)
        visible: Bool[Tensor, "1 h b T"] = ((keys <= keys[rows, None]) | (not causal))[None, None]
    else:
        visible = mask[:, :, rows, :length]
    return torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, torch.finfo(query.dtype).min)


def _span(mask: Float[Tensor, "1 h b T"]) -> tuple[int, int]:
    """Return the first key that a block of queries sees, and the last plus one."""
    keys = (mask > torch.finfo(mask.dtype).min / 2).flatten(0, 2).any(0).nonzero()
    return int(keys[0]), int(keys[-1]) + 1


def _kernel(module: nn.Module) -> Callable[..., Any]:
    """Return the eager attention function of the file that defines the module."""
    forward: Any = inspect.unwrap(type(module).forward)
    kernel = forward.__globals__.get("eager_attention_forward")
    if kernel is None:
        raise ModelError(
            f"{type(module).__name__} has no eager attention function whose weights could be read: use another model."
        )
    return kernel
