"""Passes of which only some tokens are read: what no other token needs is computed for these alone.

After the attention of the last block nothing mixes tokens any more, so its feed-forward part and the unembedding run
only on the tokens that are read. In the tiny preset that is a tenth of the products where a third of the tokens is
read, by arithmetic; what it gives is in docs/log.md.

Axes: R rows of W columns, M places that are read, V vocabulary, d width of the model.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import ConfigError
from probe.model.sharing import is_plain
from probe.model.text import unwrap


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """Return the blocks of a causal language model.

    They are the list of modules whose length is the number of layers in the configuration.

    Raises:
        ConfigError: there is no such list.
    """
    inner = unwrap(model)
    depth = getattr(inner.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    lists = [module for module in inner.modules() if isinstance(module, nn.ModuleList) and len(module) == depth > 0]
    if not lists:
        raise ConfigError(
            f"The blocks of {type(inner).__name__} cannot be found, which --gradient-checkpointing and --shard work on:"
            " leave both out, or use a decoder such as llama, qwen3 or gpt2."
        )
    return lists[0]


@contextmanager
def unembed_only(model: Any, places: Int[Tensor, " M"]) -> Iterator[None]:
    """Make `model` compute logits [1 M V] only for these places of the flattened batch, inside the context."""

    def select(_: nn.Module, inputs: tuple[Float[Tensor, "R W d"], ...]) -> tuple[Float[Tensor, "1 M d"]]:
        return (inputs[0].flatten(0, 1)[places][None],)

    with ExitStack() as stack:
        stack.callback(model.get_output_embeddings().register_forward_pre_hook(select).remove)
        stack.enter_context(feed_forward_only(model, places))
        yield


@contextmanager
def feed_forward_only(model: Any, places: Int[Tensor, " M"]) -> Iterator[None]:
    """Make `model` compute the feed-forward part of its last block only at these places, inside the context.

    At all others it writes zeros, so the states that leave the block are wrong there. Nothing changes for a model whose
    last block has no such part of its own, or where somebody else reads or replaces it.
    """
    part = _last_feed_forward(model)
    if part is None:
        yield
        return
    shapes: list[torch.Size] = []
    once = places.unique()

    def gather(_: nn.Module, inputs: tuple[Float[Tensor, "R W d"], ...]) -> tuple[Float[Tensor, "1 M d"]] | None:
        if len(inputs) != 1 or inputs[0].ndim != 3:
            return None
        shapes.append(inputs[0].shape)
        return (inputs[0].flatten(0, 1)[once][None],)

    def scatter(_: nn.Module, inputs: Any, output: Float[Tensor, "1 M d"]) -> Float[Tensor, "R W d"] | None:
        if not shapes:
            return None
        rows, columns, width = shapes.pop()
        whole = output.new_zeros(rows * columns, width).index_copy(0, once, output[0])
        return whole.view(rows, columns, width)

    handles = [part.register_forward_pre_hook(gather), part.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last_feed_forward(model: Any) -> nn.Module | None:
    """Return the feed-forward part of the last block, if each of its tokens can be computed by itself."""
    inner = unwrap(model)
    try:
        block = blocks_of(inner)[-1]
    except ConfigError:
        return None
    part = getattr(block, "mlp", None)
    if not isinstance(part, nn.Module) or recomputes(inner) or not is_plain(block):
        return None
    experts = any(weight.ndim > 2 for weight in part.parameters())
    drops = part.training and any(isinstance(each, nn.Dropout) and each.p > 0 for each in part.modules())
    return None if experts or drops else part  # what is dropped depends on the number of tokens


def recomputes(inner: nn.Module) -> bool:
    """Return whether blocks run once more in the backward pass, when no hook of this pass is there any more."""
    library = inner.training and any(getattr(module, "gradient_checkpointing", False) for module in inner.modules())
    return library or (torch.is_grad_enabled() and getattr(inner, "recomputes", False))  # trainers/blocks.py
