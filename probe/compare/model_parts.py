"""Parts of a model as locations in its parameters: blocks, heads, MLPs and the rest.

A head consists of its slices of W_Q and W_O with the bias of its queries, and those of W_K and W_V unless query heads
share keys and values; shared ones are a separate part (`keys`). So blocks and the parts outside of them make up the
whole model, each parameter once; and so do heads, keys, MLPs, the rests of blocks (without readable heads, with their
attention) and the parts outside. The location of a head in a parameter, fused or transposed, is read from the model
itself: each weight of a copy is set to the index of its parameter, then of its row, then of its column, and the maps M,
N, V and O (`probe.model.equations`) of that copy show where each of their entries comes from.

Axes: H heads, K key and value heads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.compare.weights import block_of, parameter_kinds
from probe.errors import ConfigError, ModelError
from probe.model.equations import Network, read_network, refusal
from probe.model.lm import LM
from probe.model.loading import merged
from probe.model.placement import require_weights

KINDS = {
    "block": "all of a block",
    "attention": "queries, keys, values and output of a block",
    "head": "an attention head",
    "keys": "keys and values that several query heads share",
    "mlp": "a feed-forward part",
    "rest": "norms and all other weights of a block outside its heads and feed-forward part",
    "outside": "embedding, final norm, unembedding",
}
"""Names of the kinds of parts."""
PLURAL = {"block": "blocks", "attention": "attention parts", "head": "heads", "keys": "shared keys and values"}
PLURAL |= {"mlp": "MLPs", "rest": "remaining parts of blocks", "outside": "parts outside of blocks"}
"""Plural names of the kinds of parts."""
OUTSIDE = {"embed": "embedding", "unembed": "unembedding", "norm": "final norm"}


class PartPlace(NamedTuple):
    """Entries of one parameter: the intersection of some rows and columns, or all entries."""

    name: str
    """Name of the parameter, or of a buffer that is saved with the model."""
    rows: Int[Tensor, " m"] | None = None
    columns: Int[Tensor, " n"] | None = None

    def read(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "m n"]:
        """Return a copy of the entries as a matrix; a vector is one column."""
        matrix = _matrix(tensors[self.name].detach())
        return matrix.clone() if self.rows is None else matrix[self.rows[:, None], self.columns]

    @staticmethod
    def of(tensors: Mapping[str, Tensor], place: "PartPlace") -> Float[Tensor, "m n"]:
        """Return the entries of the given tensors at this place."""
        return place.read(tensors)

    def crossing(self, tensors: Mapping[str, Tensor]) -> tuple[Int[Tensor, " m"], Int[Tensor, " n"]]:
        """Return the indices of the rows and columns of the parameter."""
        if self.rows is not None and self.columns is not None:
            return self.rows, self.columns
        matrix = _matrix(tensors[self.name])
        rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
        return rows, columns

    def write(self, tensors: Mapping[str, Tensor], values: Float[Tensor, "m n"]) -> None:
        """Write values to the place, in the format of the parameter."""
        matrix = _matrix(tensors[self.name].detach())
        values = values.to(matrix)
        if self.rows is None:
            matrix.copy_(values)
        else:
            matrix[self.rows[:, None], self.columns] = values


@dataclass(frozen=True)
class ModelPart:
    """A named part of a model."""

    name: str
    """Name such as `block 2`, `L2H1`, `MLP L2`, `embedding`."""
    kind: str
    """Kind of the part; see `KINDS`."""
    block: int | None
    """Index of the block; None outside the blocks."""
    head: int | None
    """Index of the query head, or of the key head for `keys`; otherwise None."""
    places: tuple[PartPlace, ...]
    """Locations of its entries."""


def weights_of(lm: LM) -> dict[str, Tensor]:
    """Return every parameter once, and the buffers that are saved with them, by name; under an adapter, merged ones.

    Raises:
        ModelError: weights are quantised or offloaded.
    """
    require_weights(lm.model, lm.ref)
    model = merged(lm.model)
    saved = model.state_dict(keep_vars=True)
    return dict(model.named_parameters()) | {name: buffer for name, buffer in model.named_buffers() if name in saved}


@torch.no_grad()
def list_parts(lm: LM, kinds: Sequence[str] = tuple(KINDS)) -> tuple[list[ModelPart], str]:
    """Return the parts of some kinds, first block first, and a sentence on why there are no heads, if so.

    Args:
        lm: model without an adapter, with weights in single precision or wider; they are overwritten during the search
            for heads, and restored.
        kinds: kinds of parts; see `KINDS`.

    Raises:
        ConfigError: a kind is unknown, or there is none.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        given = f"`{unknown[0]}`" if unknown else "none"
        raise ConfigError(f"The kinds of parts hold {given}: give some of {', '.join(KINDS)}.")
    heads, why = list[ModelPart](), ""
    if {"head", "keys", "rest"} & set(kinds):
        try:
            heads = _heads(lm)
        except ModelError as error:
            why = str(error)
    parts = [*_whole(lm, heads), *heads]
    order = {kind: index for index, kind in enumerate(KINDS)}
    parts = [each for each in parts if each.kind in kinds and each.places]
    parts.sort(key=lambda each: (order[each.kind], each.block is None, each.block or 0, each.head or 0))
    return parts, why


def _whole(lm: LM, heads: Sequence[ModelPart]) -> Iterator[ModelPart]:
    """Yield the parts that consist of whole parameters."""
    own, kinds = weights_of(lm), parameter_kinds(lm)
    covered = {place.name for head in heads for place in head.places}
    groups: dict[tuple[str, int | None, str], list[PartPlace]] = {}
    for name in own:
        block, kind = block_of(name), kinds.get(name, "other")
        if block is None:
            groups.setdefault((OUTSIDE.get(kind, kind), None, "outside"), []).append(PartPlace(name))
            continue
        titles = {"block": f"block {block}"}
        if kind == "mlp":
            titles["mlp"] = f"MLP L{block}"
        elif kind not in ("norm", "other"):
            titles["attention"] = f"attention L{block}"
        if kind != "mlp" and name not in covered:
            titles["rest"] = f"rest of L{block}"
        for each, title in titles.items():
            groups.setdefault((title, block, each), []).append(PartPlace(name))
    for (title, block, kind), places in groups.items():
        yield ModelPart(title, kind, block, None, tuple(places))


SLOTS = {"head": ("M", "m_bias", "O"), "keys": ("N_shared", "n_bias_shared", "V_shared", "v_bias_shared")}
"""Maps of a block by owner: a query head, or a key head."""
Slot = tuple[int, str, str, int]
"""Block, `head` or `keys`, map, head."""


def _heads(lm: LM) -> list[ModelPart]:
    """Return every head as a part: the slices of the parameters that belong to it.

    Raises:
        ModelError: the equations do not describe the architecture, or its heads are not rows and columns.
    """
    kinds = parameter_kinds(lm)
    inner = {
        name: _matrix(weight.detach())
        for name, weight in lm.model.named_parameters()
        if block_of(name) is not None and kinds[name] not in ("norm", "mlp")
    }
    saved = {name: matrix.clone() for name, matrix in inner.items()}
    names, net = list(inner), read_network(lm)
    sizes, groups = {slot: tensor.numel() for slot, tensor in _slots(net)}, [block.maps.group for block in net.blocks]
    values = {slot: tensor.flatten().sort().values for slot, tensor in _slots(net)}  # copies
    found = []
    try:
        for axis in ("parameter", "row", "column"):
            for number, matrix in enumerate(inner.values(), 1):
                rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
                fill = {"parameter": torch.tensor(number), "row": rows[:, None], "column": columns[None]}[axis]
                matrix.copy_(fill.expand_as(matrix))
            net = read_network(lm, check=False)
            found.append({slot: tensor.unique().round().long() for slot, tensor in _slots(net)})
    finally:
        for name, matrix in inner.items():
            matrix.copy_(saved[name])
    places: dict[tuple[int, str, int], list[PartPlace]] = {}
    filled = dict.fromkeys(names, 0)
    for slot, size in sizes.items():
        number, rows, columns = (each[slot] for each in found)
        if number.tolist() == [0]:  # a bias that the model does not have
            continue
        place = PartPlace(names[int(number[0]) - 1], rows, columns) if 0 < int(number[0]) <= len(names) else None
        if place is None or len(number) > 1 or len(rows) * len(columns) != size:
            raise refusal(lm, "the slices of its heads are not rows and columns of its parameters")
        if not torch.equal(place.read(inner).flatten().sort().values.to(values[slot]), values[slot]):
            raise refusal(lm, "the maps of its heads are not the numbers that its parameters hold")
        filled[place.name] += size
        block, whose, _, head = slot
        places.setdefault((block, whose, head), []).append(place)
    partly = [name for name, count in filled.items() if 0 < count < inner[name].numel()]
    if partly:
        raise refusal(lm, f"heads are only a part of `{partly[0]}`")
    return list(_join(places, groups))


def _slots(net: Network) -> Iterator[tuple[Slot, Tensor]]:
    """Return every map of every head."""
    for index, block in enumerate(net.blocks):
        for whose, maps in SLOTS.items():
            for name in maps:
                for head, tensor in enumerate(getattr(block.maps, name)):
                    yield (index, whose, name, head), tensor


def _join(places: Mapping[tuple[int, str, int], list[PartPlace]], groups: Sequence[Tensor]) -> Iterator[ModelPart]:
    """Merge the slots of each head, with its keys and values unless they are shared."""
    for (block, whose, head), own in places.items():
        group: list[Any] = groups[block].tolist()
        shared = len(set(group)) < len(group)
        if whose == "head":
            keys = [] if shared else places[block, "keys", group[head]]
            yield ModelPart(f"L{block}H{head}", "head", block, head, (*own, *keys))
        elif shared:
            yield ModelPart(f"keys L{block}K{head}", "keys", block, head, tuple(own))


def _matrix(tensor: Tensor) -> Float[Tensor, "m n"]:
    """View a parameter as a matrix over the same memory: a vector is a column, further axes are columns."""
    return tensor.view(len(tensor), -1) if tensor.ndim else tensor.view(1, 1)
