"""Passes of a text through a model that analyses share, so that the pages of a prompt run each model once on it.

    with share_passes():
        ...                                  # lm.logits and lm.run_with_cache of one text, and `hooked_logits`

The first hooked pass of a short text keeps what most analyses read, so that the next one finds it. Passes under
`LM.hooks`, with gradients or of several texts are not shared. What is handed out is a copy.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probe.model.loading import quick_stamp

if TYPE_CHECKING:
    from transformer_lens.ActivationCache import ActivationCache
    from transformer_lens.model_bridge import TransformerBridge

ROOM = 128 * 2**20
"""Maximum bytes that are kept for a model; a text that alone takes more is not kept."""
READ = (
    *("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"),
    *("attn.hook_v", "attn.hook_z", "attn.hook_attn_scores", "attn.hook_pattern"),
)
"""Hook points of a block that most analyses read."""


class ReadModel(Protocol):
    """Interface of a model whose passes are shared; `probe.LM` has it."""

    @property
    def model(self) -> PreTrainedModel:
        """The plain model."""

    @property
    def bridge(self) -> "TransformerBridge":
        """The hooked model."""

    @property
    def is_hooked(self) -> bool:
        """Whether this thread has attached hooks."""


@dataclass
class Pass:
    """Knowledge of one text: logits of the plain and of the hooked model, and activations."""

    plain: Tensor | None = None
    hooked: Tensor | None = None
    activations: dict[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(each.nbytes for each in (self.plain, self.hooked, *self.activations.values()) if each is not None)


@dataclass
class Passes:
    """Passes of one model with unchanged weights, the latest last."""

    version: Any
    texts: OrderedDict[tuple[int, ...], Pass] = field(default_factory=OrderedDict)

    def find(self, ids: Tensor) -> Pass:
        """Return what is known of a text [1 T]."""
        return self.texts.get(tuple(ids[0].tolist())) or Pass()

    def hold(self, ids: Tensor, known: Pass) -> None:
        """Keep what is known of a text [1 T]; the oldest texts make room."""
        key = tuple(ids[0].tolist())
        self.texts[key] = known
        self.texts.move_to_end(key)
        while self.texts and sum(each.nbytes for each in self.texts.values()) > ROOM:
            self.texts.popitem(last=False)


_SHARED: ContextVar[bool] = ContextVar("shared", default=False)
_PASSES: "WeakKeyDictionary[ReadModel, Passes]" = WeakKeyDictionary()


@contextmanager
def share_passes(shared: bool = True) -> Iterator[None]:
    """Share the passes of this thread inside the context with all earlier and later ones, or run each of them."""
    token = _SHARED.set(shared)
    try:
        yield
    finally:
        _SHARED.reset(token)


def plain_logits(lm: "ReadModel", ids: Tensor, run: Callable[[], Tensor]) -> Tensor:
    """Return the logits [1 T V] of a text [1 T] by the plain model, from an earlier pass or from `run`."""
    passes = _passes_of(lm, ids)
    if passes is None:
        return run()
    known = passes.find(ids)
    if known.plain is None:
        known.plain = run()
    passes.hold(ids, known)
    return known.plain.clone()


def hooked_logits(lm: "ReadModel", ids: Sequence[int]) -> Tensor | None:
    """Return the logits [1 T V] of an earlier shared pass that computed all patterns; None without one."""
    text = torch.tensor([list(ids)])
    passes = _passes_of(lm, text)
    known = Pass() if passes is None else passes.find(text)
    patterns = [name for name in lm.bridge.hook_dict if name.endswith(".attn.hook_pattern")]
    whole = known.hooked is not None and all(name in known.activations for name in patterns)
    return known.hooked.clone() if known.hooked is not None and whole else None


def read_pass(
    lm: "ReadModel", ids: Tensor, names: Sequence[str], run: "Callable[[list[str]], tuple[Tensor, ActivationCache]]"
) -> "tuple[Tensor, ActivationCache]":
    """Return the logits [1 T V] and named activations of a text [1 T], from earlier passes or from `run(names)`."""
    passes = _passes_of(lm, ids)
    if passes is None:
        return run(list(names))
    known = passes.find(ids)
    if known.hooked is None or any(name not in known.activations for name in names):
        wanted = list(dict.fromkeys([*names, *_most_read(lm, ids.shape[1])]))
        known.hooked, cache = run(wanted)
        known.activations |= {name: cache[name] for name in wanted if name in cache.cache_dict}
    passes.hold(ids, known)
    from transformer_lens.ActivationCache import ActivationCache

    found = {name: known.activations[name].clone() for name in names if name in known.activations}
    return known.hooked.clone(), ActivationCache(found, lm.bridge)


def _passes_of(lm: "ReadModel", ids: Tensor) -> Passes | None:
    """Return the passes of a model with its present weights; None if those of a text [B T] are not shared."""
    if not _SHARED.get() or len(ids) != 1 or lm.is_hooked or torch.is_grad_enabled() or lm.model.training:
        return None
    version, passes = quick_stamp(lm.model), _PASSES.get(lm)
    if passes is None or passes.version != version:
        passes = _PASSES[lm] = Passes(version)
    return passes


def _most_read(lm: "ReadModel", length: int) -> list[str]:
    """Return the hook points that most analyses read, none if they take too much of a text of this length."""
    cfg, points = lm.bridge.cfg, lm.bridge.hook_dict
    widths = 7 * cfg.d_model + 2 * cfg.n_heads * length
    if 4 * cfg.n_layers * length * widths > ROOM // 2:
        return []
    names = [f"blocks.{block}.{point}" for block in range(cfg.n_layers) for point in READ]
    return [name for name in names if name in points and lm.bridge._gated_hook_reason(points[name].name) is None]
