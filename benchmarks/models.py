"""The model and the inputs of every benchmark: the tiny preset on the world, 0.85 M parameters."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import probe
from benchmarks.harness import median_seconds
from probe.world import World

PROMPTS, COMPLETIONS, NEW_TOKENS = 24, 8, 8


@cache
def world() -> World:
    """Return the default world."""
    return World()


@cache
def tiny() -> probe.LM:
    """Return the tiny preset with random weights."""
    return probe.LM.create("tiny", world().tokenizer(), seed=0)


@cache
def prompts() -> list[list[int]]:
    """Return 24 prompts of 18 tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, len(tiny().tokenizer), (PROMPTS, 18), generator=generator).tolist()


def completions(size: int) -> list[list[list[int]]]:
    """Return a group of `size` completions of 8 tokens for each prompt."""
    generator = torch.Generator().manual_seed(1)
    shape = (PROMPTS, size, NEW_TOKENS)
    return torch.randint(5, len(tiny().tokenizer), shape, generator=generator).tolist()


def linear_products(model: nn.Module, tokens: int) -> tuple[Callable[[], object], float]:
    """Return all products of the linear layers in one step, forward and backward, and their number of operations."""
    layers = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Linear)]
    operands = [(torch.randn(tokens, w.shape[1]), w, torch.randn(tokens, w.shape[0])) for w in layers]

    def products() -> None:
        for inputs, weight, gradient in operands:
            inputs @ weight.T
            gradient @ weight
            gradient.T @ inputs

    return products, sum(6.0 * tokens * weight.numel() for weight in layers)


def share_of_products(model: nn.Module, step: Callable[[], object], seconds: float, tokens: int = 2048) -> float:
    """Measure the share of a step's `seconds` that its matrix products take where they run alone.

    The rest is attention, everything by element, the optimiser and Python: what a faster step could save.

    Args:
        model: model at whose sizes the products alone are timed.
        step: a step whose products are counted; attention is no product here.
        seconds: time that the step takes.
        tokens: number of rows of the products that are timed.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    products, operations = linear_products(model, tokens)
    return float(counter.get_total_flops()) * median_seconds(products) / operations / seconds
