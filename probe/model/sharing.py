"""Checks, per model and length, that a faster way of scoring completions agrees with scoring each alone.

Models differ in their use of masks and positions, and no configuration tells how. So before the first batch that would
run prompts once, repeat keys and values, or pad, a small batch of known tokens is scored without gradients in this way
and each text alone. It is as long as the batch (in powers of two), so it reaches every attention window that the batch
reaches. A way that differs by more than rounding is not used, and a warning says so once.
"""

import itertools
import json
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.model.loading import twin
from probe.model.placement import input_device, is_exact
from probe.model.text import Ids, context_length, unwrap

Measure = Callable[[Any, Sequence[Ids], Sequence[Sequence[Ids]]], Float[Tensor, " M"]]
"""Function of a model, prompts and their completions that returns the numbers to compare."""
EXACT, ROUNDED = 1e-3, 0.1
"""Maximum difference in standard deviations of the compared numbers: in single precision, and in half precision or with
quantised weights."""
ANY = 0
"""Value that stands for rows of any length."""
SHORTEST = 32
"""Number of tokens of the smallest check."""
HEAD, LAST = 6, 6
"""Numbers of tokens of the prompt and of its last completion, which is farthest from it."""
WINDOWS = ("sliding_window", "window_size", "attention_window", "attention_window_size", "local_attention")
"""Names of the attention window in configurations."""
WAYS = {
    "trees": "a row of several completions",
    "prefix": "a row of several texts behind what all begin with",
    "cache": "repeated keys and values of a prompt",
    "padding": "padding before a text",
    "generation": "cached keys and values",
    "states": "a row of several completions",
}
"""Ways that are checked, in words."""
LIBRARIES = ("transformers", "torch", "peft")
"""Packages whose modules compute the same in every model of one configuration."""
_IMPOSSIBLE = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError, KeyError)

_verdicts: WeakKeyDictionary[nn.Module, dict[tuple[str, int], bool]] = WeakKeyDictionary()
_by_architecture: dict[str, dict[tuple[str, int], bool]] = {}
"""Verdicts by architecture, for further models of one that has been checked."""
_lock = threading.RLock()


class SharingWarning(UserWarning):
    """Warning that a faster way is not used for a model, because its numbers would differ."""


def window(model: nn.Module) -> int | None:
    """Return the smallest attention window that the configuration names, in tokens; None if it names none."""
    config = unwrap(model).config.get_text_config(decoder=True)
    reaches = [getattr(config, name, None) for name in WINDOWS]
    return min((reach for reach in reaches if isinstance(reach, int) and reach > 0), default=None)


def agrees(model: nn.Module, way: str, width: int, quick: Measure, alone: Measure) -> bool:
    """Return whether `quick` and `alone` agree for texts and rows of up to `width` tokens.

    Args:
        model: a model of transformers, or a wrapper that holds one.
        way: one of `WAYS`; the key under which the answer is kept as long as the model exists.
        width: number of tokens of the longest row.
        quick: faster way to check.
        alone: scoring of each completion with its own prompt.
    """
    inner = unwrap(model)
    size = SHORTEST
    while size < width:
        size *= 2
    with _lock:
        checks = _verdicts.setdefault(inner, {})
        if (way, ANY) in checks:
            return checks[way, ANY]
        if (way, size) not in checks:
            architecture = _architecture(inner)
            known = _by_architecture.setdefault(architecture, {}) if architecture else {}
            if (way, size) not in known:
                known[way, size] = _agrees(inner, size, quick, alone)
            verdict = known[way, size]
            if not verdict and all(before for (name, _), before in checks.items() if name == way):
                warnings.warn(_sentence(inner, way, size), SharingWarning, stacklevel=4)
            checks[way, size] = verdict
        return checks[way, size]


def _architecture(inner: Any) -> str:
    """Return a text that two models share if they compute alike but for their weights; empty for models with own code.

    Classes, configuration, number format, device and attention kernel count. Verdicts on one hold for the other if all
    modules are of transformers, torch and peft, and none has a method or a hook of its own.
    """
    if not is_plain(inner):
        return ""
    modules = list(inner.modules())
    facts = {name: value for name, value in inner.config.to_dict().items() if name not in ("_name_or_path", "dtype")}
    classes = sorted({type(each).__name__ for each in modules if type(each).__module__.startswith("transformers.")})
    facts |= {"classes": classes, "kind": [str(inner.dtype), inner.device.type]}  # adapters change weights alone
    return json.dumps(facts | {"kernel": inner.config._attn_implementation}, sort_keys=True, default=str)


def is_plain(module: nn.Module) -> bool:
    """Return whether a module and all in it are of known libraries, without a forward method or a hook of their own."""
    modules = list(module.modules())
    if any("forward" in vars(each) or each._forward_hooks or each._forward_pre_hooks for each in modules):
        return False
    return all(type(each).__module__.partition(".")[0] in LIBRARIES for each in modules)


def settle(model: nn.Module, verdicts: Mapping[str, bool]) -> None:
    """Set which ways are used for a model with rows of any length, instead of checking them."""
    with _lock:
        _verdicts.setdefault(unwrap(model), {}).update({(way, ANY): sound for way, sound in verdicts.items()})


def left_out(model: nn.Module) -> list[str]:
    """Return the ways that were found to differ for a model so far, in words."""
    return sorted({WAYS[way] for (way, _), sound in _verdicts.get(unwrap(model), {}).items() if not sound})


def texts(vocabulary: int, size: int, limit: int | None) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Make two prompts with completions for a check of rows of `size` tokens.

    As a row the first group is longer than `size`, and so is its first text. The last completion is a whole row away
    from its prompt; no text is longer than `limit`.
    """
    head = min(HEAD, (limit or size) // 2)
    longest = (limit or size + head) - head
    lengths, rest = list[int](), size
    while rest > 0:
        lengths.append(min(rest + 1, longest))
        rest -= max(lengths[-1] - 1, 1)  # the last token of a completion is not run
    groups = [[*lengths, min(LAST, longest)], [2, min(4, longest)]]
    step, numbers = vocabulary // 7 + 1, itertools.count(1)

    def draw(count: int) -> list[int]:
        return [next(numbers) * step % vocabulary for _ in range(count)]

    return [draw(head), draw((head + 1) // 2)], [[draw(count) for count in group] for group in groups]


@torch.no_grad()
def _agrees(inner: Any, size: int, quick: Measure, alone: Measure) -> bool:
    model = twin(inner).eval() if inner.training else inner
    vocabulary = min(len(inner.get_input_embeddings().weight), inner.config.get_text_config(decoder=True).vocab_size)
    examples = texts(vocabulary, size, context_length(inner))
    # The rounding of autocast would look like a difference of the two ways.
    with torch.autocast(input_device(inner).type, enabled=False):
        expected = alone(model, *examples).float()
        try:
            values = quick(model, *examples).float()
        except torch.OutOfMemoryError:
            raise
        except _IMPOSSIBLE:
            return False
    finite = expected.isfinite()  # a broken model gives NaN in both ways
    if not torch.equal(finite, values.isfinite()):
        return False
    values, expected = values[finite], expected[finite]
    if not len(expected):
        return True
    share = EXACT if is_exact(inner) else ROUNDED
    return float((values - expected).abs().max()) <= share * max(float(expected.std(correction=0)), 1e-6)


def _sentence(inner: Any, way: str, size: int) -> str:
    return (
        f"{type(inner).__name__} gives other numbers with {WAYS[way]} than for each text alone (compared on rows of "
        f"{size} tokens): texts of this length are run without it, which takes longer."
    )
