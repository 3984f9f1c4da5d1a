"""Sharding of one model among processes (--shard): each holds a part of every weight, gradient and moment.

Training uses torch's `fully_shard` (Rajbhandari et al. 2020, arXiv 1910.02054, stage 3): the weights of a block are
gathered before its forward and backward pass and released afterwards, and its gradients are summed into the parts.
Captures, evaluations and sampling use `SharedLM`: a model whose weights are gathered when they are read, one block at a
time. Every process has to take part, since each contributes its part; so the processes must read the same weights in
the same order, and agree on how they score.

    weight      DTensor [n ...] over the processes; its part on this one is [ceil(n / processes) ...] or fewer rows
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed import all_gather
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad

from probe import LM
from probe.errors import ConfigError
from probe.model import loading
from probe.model.placement import dtype_of
from probe.model.read_places import blocks_of
from probe.model.scoring import settle_ways
from probe.recording.block_metrics import part_of
from trainers.blocks import recompute_blocks
from trainers.config import TrainConfig
from trainers.session import Session
from trainers.trainee import Reference, Trainee


def gather(*weights: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Gather whole tensors from the parts of all processes in one exchange; every process has to call it.

    Args:
        weights: pairs of a weight and this process's part of a tensor that is sharded like the weight.
    """
    if not isinstance(weights[0][0], DTensor):
        return [part for _, part in weights]
    mesh = weights[0][0].device_mesh
    rows = [-(-weight.shape[0] // mesh.size()) for weight, _ in weights]
    padded = [
        pad(part, (0, 0) * (part.ndim - 1) + (0, n - len(part))) for (_, part), n in zip(weights, rows, strict=True)
    ]
    flat = torch.cat([part.flatten() for part in padded])
    received = [torch.empty_like(flat) for _ in range(mesh.size())]
    all_gather(received, flat, mesh.get_group())
    columns = zip(*(each.split([part.numel() for part in padded]) for each in received), strict=True)
    return [
        torch.cat(column).view(-1, *weight.shape[1:])[: len(weight)].to(part.dtype)
        for (weight, part), column in zip(weights, columns, strict=True)
    ]


def cut(weight: Tensor, whole: Tensor) -> Tensor:
    """Return this process's part of `whole`, sharded like `weight`."""
    if not isinstance(weight, DTensor):
        return whole
    parts, rank = whole.chunk(weight.device_mesh.size()), weight.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole[:0]


class Gatherer:
    """Cache of whole weights: those of a block are gathered together and kept until a weight outside it is read."""

    def __init__(self, weights: Mapping[int, tuple[str, Tensor]], blocks: tuple[str, ...]) -> None:
        """Set the weights and blocks.

        Args:
            weights: identity of each placeholder -> name and DTensor of the weight.
            blocks: names of the blocks, each with a final dot; weights outside blocks are gathered one by one.
        """
        self._weights, self._blocks = weights, blocks
        self._kept: dict[int, nn.Parameter] = {}

    @torch.no_grad()
    def __call__(self, placeholder: nn.Parameter) -> nn.Parameter:
        """Return the weight that a placeholder stands for."""
        if id(placeholder) not in self._kept:
            self.release()
            own, weight = self._weights[id(placeholder)]
            block = next((each for each in self._blocks if own.startswith(each)), None)
            if block is None:
                return nn.Parameter(gather((weight, part_of(weight)))[0], False)
            members = {key: weight for key, (name, weight) in self._weights.items() if name.startswith(block)}
            wholes = gather(*((weight, part_of(weight)) for weight in members.values()))
            self._kept = {key: nn.Parameter(whole, False) for key, whole in zip(members, wholes, strict=True)}
        return self._kept[id(placeholder)]

    def release(self) -> None:
        """Release gathered weights, because they have changed or others are needed."""
        self._kept = {}


class Weights(dict[str, nn.Parameter | None]):
    """Parameters of a module: iteration yields placeholders without memory, access by name the whole weights."""

    def __init__(self, placeholders: Mapping[str, nn.Parameter | None], gatherer: Gatherer) -> None:
        super().__init__(placeholders)
        self.gatherer = gatherer

    def __getitem__(self, name: str) -> nn.Parameter | None:
        placeholder = super().__getitem__(name)
        return None if placeholder is None else self.gatherer(placeholder)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)({name: memo.get(id(each), each) for name, each in self.items()}, self.gatherer)


class SharedLM(LM):
    """A model whose weights are distributed over processes, which all have to use it in the same way."""

    def __init__(self, lm: LM, device: torch.device, dtype: torch.dtype) -> None:
        """Copy the module tree of `lm` with placeholders for weights, which `attach` connects."""
        self._placeholders = {
            name: nn.Parameter(torch.tensor(torch.nan, dtype=dtype, device=device).expand(weight.shape), False)
            for name, weight in lm.model.named_parameters()
        }
        model = loading.twin(lm.model, self._placeholders).eval()
        super().__init__(model, lm.tokenizer, lm.ref, lm.directory, lm.run_dir)

    def attach(self, weights: Mapping[str, Tensor], blocks: tuple[str, ...]) -> Self:
        """Connect the placeholders to the weights of these names."""
        by_placeholder = {id(each): (name, weights[name]) for name, each in self._placeholders.items()}
        self.gatherer = Gatherer(by_placeholder, blocks)
        for module in self.model.modules():
            vars(module)["_parameters"] = Weights(module._parameters, self.gatherer)
        return self

    @property
    def weights_fingerprint(self) -> str:
        """The fingerprint of the weights, gathered tensor by tensor."""
        return loading.fingerprint(self.model, self._whole)

    def state(self, keep: bool = True) -> dict[str, Tensor]:
        """Return all weights in CPU memory, gathered one by one; empty on processes that do not keep them."""
        self.gatherer.release()
        tensors: dict[int, Tensor] = {}
        state = self.model.state_dict(keep_vars=True)
        for tensor in state.values():
            if id(tensor) not in tensors:
                whole = self._whole(tensor)
                tensors[id(tensor)] = whole.cpu() if keep else torch.empty(0)
        return {name: tensors[id(tensor)] for name, tensor in state.items()} if keep else {}

    def _whole(self, tensor: Tensor) -> Tensor:
        known = any(tensor is each for each in self._placeholders.values())
        return self.gatherer(tensor).detach() if known else tensor.detach()  # type: ignore[arg-type]


class ShardedTrainee(Trainee):
    """Trainee of which each process holds and trains a part; checkpoints are Hugging Face directories."""

    def __init__(self, session: Session, config: TrainConfig, lm: LM) -> None:
        """Shard `lm` in place, so that it holds only this process's part.

        Raises:
            ConfigError: the blocks of the model cannot be found, or its texts cannot be padded.
        """
        self._fingerprint, self._module, self._device = lm.weights_fingerprint, lm.model, session.device
        blocks = blocks_of(lm.model)
        names = {module: name for name, module in lm.model.named_modules()}
        self._blocks = tuple(f"{names[block]}." for block in blocks)
        view = SharedLM(lm, session.device, lm.dtype)
        if config.gradient_checkpointing:
            recompute_blocks(lm.model)
        mesh = init_device_mesh(session.device.type, (session.processes,))
        for module in (*blocks, lm.model):
            policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
            fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
            assert isinstance(module, FSDPModule)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no mean
        super().__init__(view.attach(dict(lm.model.named_parameters()), self._blocks), config.reference_dtype)
        if not settle_ways(view.model, lm.model):
            raise ConfigError(
                f"--shard cannot be used with {type(lm.model).__name__}, which gives other numbers for padded texts, so"
                " that processes would take different numbers of passes: leave it out, or use another architecture."
            )

    lm: SharedLM

    @property
    def module(self) -> nn.Module:
        """The model sharded by torch, only for training."""
        return self._module

    def refresh(self) -> None:
        """Release the gathered weights."""
        self.lm.gatherer.release()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the weights that training starts from."""
        return self._fingerprint

    def reference(self) -> Reference:
        """Return a frozen copy of the present model; each process holds a part of it."""
        dtype = dtype_of(self._reference_dtype) or self.lm.dtype
        frozen = {
            name: DTensor.from_local(
                part_of(weight.detach()).to(dtype, copy=True),
                weight.device_mesh,
                weight.placements,
                shape=weight.shape,
                stride=weight.stride(),
            )
            for name, weight in self._module.named_parameters()
            if isinstance(weight, DTensor)
        }
        return Reference(SharedLM(self.lm, self._device, dtype).attach(frozen, self._blocks))

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory from the parts of all processes."""
        loading.write(self.lm.model, self.lm.tokenizer, directory, state=self.lm.state())

    def give_parts(self) -> None:
        """Send this process's parts to the process that saves."""
        self.lm.state(keep=False)

    @torch.no_grad()
    def load(self, directory: Path) -> None:
        """Restore this process's parts in place.

        Raises:
            ModelError: the directory holds no such model.
        """
        whole = dict(LM.load(directory, device="cpu", dtype=self.lm.dtype).model.named_parameters())
        for name, weight in self._module.named_parameters():
            part_of(weight).copy_(cut(weight, whole[name]))
        self.refresh()
