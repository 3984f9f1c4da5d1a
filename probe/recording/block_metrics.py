"""Gradient and update of each part of a model in a logged step: whether it is trained, and how fast.

    grad_norm/PART      norm of the gradient before clipping; the squares of the parts add up to that of `grad_norm`
    update_ratio/PART   ||w_after - w_before|| / ||w_before|| of an update of the optimiser

A part is a block (`blocks.0` is the first), `embedding` (tokens and positions, with an unembedding tied to them), or
`head`: everything else, such as the last norm, an untied unembedding, and a head of values or rewards.

The update is measured on the weights themselves, not taken from the optimiser: it is 0 if an update does not reach
them. A copy of all weights would need the memory of another model, so only the beginning of each tensor is compared,
about `SAMPLE` numbers: all of a small one, and in a large one enough, as Adam's updates differ little within a tensor.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from probe.errors import ConfigError
from probe.model.read_places import blocks_of

SAMPLE = 4096
"""Largest number of weights of a tensor whose update is measured."""


def parts_of(module: nn.Module) -> dict[str, list[str]]:
    """Return the names of the trained parameters of each part, in the order of the model; empty without known blocks.

    Every block is named, also one in which nothing is trained; embedding and head only if something is.
    """
    body = next((each for each in module.modules() if isinstance(each, PreTrainedModel)), None)
    try:
        blocks = list(blocks_of(body)) if body is not None else []
    except ConfigError:
        return {}
    of = {id(weight): f"blocks.{number}" for number, block in enumerate(blocks) for weight in block.parameters()}
    embeddings = (each for each in module.modules() if isinstance(each, nn.Embedding))
    of |= {id(weight): "embedding" for each in embeddings for weight in each.parameters()}
    parts: dict[str, list[str]] = {part: [] for part in ("embedding", *(f"blocks.{i}" for i in range(len(blocks))))}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            parts.setdefault(of.get(id(weight), "head"), []).append(name)
    return {part: names for part, names in parts.items() if names or part != "embedding"}


class BlockMetrics:
    """Measurements of the parts of a model around the update of a step."""

    def __init__(
        self,
        module: nn.Module,
        pairs: Mapping[str, tuple[Tensor, Tensor]],
        total: Callable[[list[float]], Sequence[float]] = list,
    ) -> None:
        """Find the parts of a model.

        Args:
            module: model that is trained.
            pairs: name -> (trained weight, tensor that the optimiser updates in its place, or the weight itself).
            total: function that adds up numbers over the processes that share the model.
        """
        self._total, parts = total, parts_of(module)
        self._parts = list(parts)
        self._pairs = [(part, pairs[name]) for part, names in parts.items() for name in names]
        self._views = [_beginning(weight) for _, (weight, _) in self._pairs]

    def gradients(self, norms: Iterable[tuple[Tensor, float]], scale: float) -> dict[str, float]:
        """Return `grad_norm/PART`.

        Args:
            norms: each updated tensor of the optimiser with the norm of its gradient.
            scale: factor of the norms.
        """
        known = {id(tensor): norm for tensor, norm in norms}
        squares = self._sums([known.get(id(updated), 0.0) ** 2 for _, (_, updated) in self._pairs])
        return {f"grad_norm/{part}": scale * math.sqrt(square) for part, square in squares.items()}

    @torch.no_grad()
    def weights(self) -> Sequence[Tensor]:
        """Copy the beginning of each tensor."""
        return torch._foreach_mul(self._views, 1.0) if self._views else []

    @torch.no_grad()
    def updates(self, before: Sequence[Tensor]) -> dict[str, float]:
        """Return `update_ratio/PART` since `weights` returned `before`; NaN for weights that were all 0."""
        if not self._views:
            return {}
        changes = torch._foreach_sub(self._views, list(before))
        norms = [norm**2 for norm in norms_of([*changes, *before])]
        now, old = self._sums(norms[: len(before)]), self._sums(norms[len(before) :])
        return {f"update_ratio/{part}": _ratio(math.sqrt(now[part]), math.sqrt(old[part])) for part in now}

    def _sums(self, values: Sequence[float]) -> dict[str, float]:
        """Add up the values of the tensors by part, over the processes if these share the model."""
        sums = dict.fromkeys(self._parts, 0.0)
        for (part, _), value in zip(self._pairs, values, strict=True):
            sums[part] += value
        return dict(zip(sums, self._total(list(sums.values())), strict=True))


def norms_of(tensors: Sequence[Tensor]) -> list[float]:
    """Return the norms of tensors, which may lie on several devices, summed in single precision or better."""
    if not tensors:
        return []
    wide = torch.float64 if any(each.dtype == torch.float64 for each in tensors) else torch.float32
    norms: Sequence[Tensor] = torch._foreach_norm(list(tensors), 2, dtype=wide)
    values: list[float] = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
    return values


def _ratio(change: float, norm: float) -> float:
    return change / norm if norm else math.nan if change else 0.0


def part_of(weight: Tensor) -> Tensor:
    """Return the part of a weight that this process holds, or the whole weight if it is not shared.

    The result shares the memory of the weight.
    """
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _beginning(weight: Tensor) -> Tensor:
    """Return the beginning of a weight, about `SAMPLE` numbers: the rows of it that this process holds, as a view."""
    view, left, first = part_of(weight.detach()), SAMPLE, 0
    if isinstance(weight, DTensor):
        first = weight.device_mesh.get_local_rank() * -(-weight.shape[0] // weight.device_mesh.size())
    for axis in range(weight.ndim):
        size = max(left // math.prod(weight.shape[axis + 1 :]), 1)
        view = view.narrow(axis, 0, min(max(size - first, 0), view.shape[axis]))
        left, first = max(left // size, 1), 0
    return view


class UpdateWatch:
    """Gradient and update of each part in one update of a trainer that is not Probe's, around its optimiser's step."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        trained = {name: (weight, weight) for name, weight in module.named_parameters() if weight.requires_grad}
        self._blocks = BlockMetrics(module, trained)
        self._before: Sequence[Tensor] | None = None
        self._gradients: dict[str, float] = {}
        self._updates: dict[str, float] = {}

    def before(self) -> None:
        """Measure the gradients, and note the weights; without gradients that can be read nothing is measured."""
        self._before, self._gradients, self._updates = None, {}, {}
        slopes = [(weight, weight.grad) for weight in self._weights if weight.grad is not None]
        if not slopes or any(slope.layout != torch.strided for _, slope in slopes):
            return  # the trainer keeps its gradients elsewhere (DeepSpeed), or has applied them already
        norms = norms_of([part_of(slope) for _, slope in slopes])
        self._gradients = self._blocks.gradients(zip((weight for weight, _ in slopes), norms, strict=True), 1.0)
        self._before = self._blocks.weights()

    def after(self) -> None:
        """Measure the update, if the gradients were measured."""
        if self._before is not None:
            self._updates, self._before = self._blocks.updates(self._before), None

    def take(self, norm: float) -> dict[str, float]:
        """Return the metrics of the last measured update, once.

        Args:
            norm: norm of the whole gradient before clipping. Trainers of transformers show their gradients after it,
                and all parts are scaled alike.
        """
        now = math.sqrt(math.fsum(value**2 for value in self._gradients.values()))
        scale = norm / now if now else 1.0
        metrics = {name: value * scale for name, value in self._gradients.items()} | self._updates
        self._gradients, self._updates = {}, {}
        return metrics
