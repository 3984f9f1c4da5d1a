"""Neurons, heads and features by name, and their activations on texts beside those of random directions.

A neuron's activation is its value after the activation function, which W_out reads; a head's is the norm of what it
writes into the residual stream, |z W_O| (Kobayashi et al. 2020, arXiv 2004.10102), before a norm after the heads, if
the architecture has one. Random directions of the residual stream after the same block are the control.

Axes: B texts, T tokens, N tokens of all texts, R random directions, d width, F features.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError, ModelError
from probe.features.feature_files import Features
from probe.features.streamed_states import Piece, passes
from probe.interventions.sites import Site
from probe.logits.parts import output_weights
from probe.model.heads import check_head
from probe.model.placement import readable

if TYPE_CHECKING:
    from probe.model.lm import LM

Kind = Literal["neuron", "head", "feature"]
RANDOM = 100
"""Number of random directions."""
AT_ONCE = 2**22
"""Largest number of activations of features that are in memory at once."""
NAME = re.compile(r"l\s*(\d{1,6})\s*(n|h)\s*(\d{1,9})|f\s*(\d{1,9})", re.IGNORECASE)


@dataclass(frozen=True)
class UnitPlace:
    """Neuron, head or feature of a model."""

    kind: Kind
    layer: int
    """Block; of a feature, the block after which it is read."""
    index: int
    """Number of the neuron, head or feature."""

    @property
    def name(self) -> str:
        """Short name: `L2N17`, `L1H3`, `F12`."""
        return f"F{self.index}" if self.kind == "feature" else f"L{self.layer}{self.kind[0].upper()}{self.index}"


class UnitValues(NamedTuple):
    """Activations at all tokens of one piece of text."""

    piece: Piece
    own: Float[Tensor, "T U"]
    """Activations of one unit, or of all features."""
    random: Float[Tensor, "T R"]
    """States along the random directions."""


def find_unit(lm: "LM", name: str, features: Features | None) -> UnitPlace:
    """Return the neuron, head or feature of a name such as `L2N17`, `L1H3` or `F12`.

    Raises:
        ConfigError: the name is none, or the model or the features lack it.
        ModelError: the MLPs of the architecture have no single W_out, so no neurons.
    """
    found = NAME.fullmatch(name.strip())
    if found is None:
        raise ConfigError(
            f"`{name[:40]}` names no unit: give a neuron (L2N17), a head (L1H3) or a feature (F12, with features)."
        )
    if found[4] is not None:
        if features is None:
            raise ConfigError(
                f"F{found[4]} is a feature, and no features of this model were found: fit some with `probe features"
                " fit`, or give their folder."
            )
        size = features.model.shape[2]
        if int(found[4]) >= size:
            raise ConfigError(f"There is no feature {found[4]}: these are {size:,}, give F0 to F{size - 1}.")
        return UnitPlace("feature", block_of(features), int(found[4]))
    layer, index, depth = int(found[1]), int(found[3]), lm.bridge.cfg.n_layers
    if found[2].upper() == "H":
        check_head(lm, layer, index)
        return UnitPlace("head", layer, index)
    if layer >= depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give 0 to {depth - 1}.")
    size = len(neuron_weights(lm, layer))
    if index >= size:
        raise ConfigError(f"There is no neuron {index} in block {layer}: it has {size:,}, give 0 to {size - 1}.")
    return UnitPlace("neuron", layer, index)


def block_of(features: Features) -> int:
    """Return the block after which features read.

    Raises:
        ConfigError: their files do not say.
    """
    if features.block is None:
        raise ConfigError("The files of these features name no block of a residual stream, so they cannot be read out.")
    return features.block


def neuron_weights(lm: "LM", layer: int) -> Float[Tensor, "m d"]:
    """Return what each neuron of a block writes at an activation of 1.

    Raises:
        ModelError: the MLPs of the architecture have no single W_out.
    """
    if not has_neurons(lm, layer):
        raise ModelError(f"The MLPs of {type(lm.model).__name__} have no single W_out: choose a head or a feature.")
    mlp = lm.bridge.blocks[layer].mlp
    with readable(mlp.original_component):
        return mlp.W_out.detach().float().to(lm.device)


def has_neurons(lm: "LM", layer: int) -> bool:
    """Return whether the MLP of a block has one W_out, so that its neurons can be read."""
    mlp = getattr(lm.bridge.blocks[layer], "mlp", None)
    return getattr(mlp, "W_out", None) is not None and neuron_hook(layer) in lm.bridge.hook_dict


def neuron_hook(layer: int) -> str:
    """Return the name of the hook of a block's neurons after the activation function."""
    return f"blocks.{layer}.mlp.hook_post"


def random_axes(width: int, count: int = RANDOM, seed: int = 0) -> Float[Tensor, "d R"]:
    """Return random directions of norm 1."""
    drawn = torch.randn(width, count, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=0)


@torch.no_grad()
def read_units(
    lms: "Sequence[LM]",
    place: UnitPlace | None,
    features: Features | None,
    pieces: Sequence[Piece],
    axes: Float[Tensor, "d R"],
) -> Iterator[tuple[list[UnitValues], float]]:
    """Yield the activations on pieces of text, those of one pass together, and the share of the passes that are done.

    Args:
        lms: the model, or the models of a crosscoder; random directions are those of the last one.
        place: neuron, head or feature; None for all features.
        features: the features, if one is read.
        pieces: texts.
        axes: random directions.
    """
    groups = list(_in_reach(pieces, None if place is not None or features is None else features.model.shape[2]))
    for done, group in enumerate(groups, start=1):
        ids = [piece.ids for piece in group]
        own, states = [], []
        for lm in lms:
            values, read = _read(lm, place, features, ids)
            own.append(values)
            states.append(read)
        found: list[UnitValues] = []
        for at, piece in enumerate(group):
            rows = [each[at, : len(piece.ids)] for each in states]
            if place is None or place.kind == "feature":
                assert features is not None
                active = features.model.encode(torch.stack(rows, dim=1))
                values = active if place is None else active[:, [place.index]]
            else:
                values = own[-1][at, : len(piece.ids), None]
            found.append(UnitValues(piece, values, rows[-1] @ axes))
        yield found, done / len(groups)


def _in_reach(pieces: Sequence[Piece], features: int | None) -> Iterator[list[Piece]]:
    """Yield the groups of pieces that are read at once; fewer if all features of them would take much memory."""
    for group in passes(pieces):
        tokens = max(len(piece.ids) for piece in group)
        size = len(group) if features is None else max(1, AT_ONCE // (features * tokens))
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _read(
    lm: "LM", place: UnitPlace | None, features: Features | None, ids: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T d"]]:
    """Return the activations of a neuron or head (else nothing), and the states after its block."""
    layer = block_of(features) if place is None and features is not None else place.layer if place is not None else 0
    kept: dict[str, Tensor] = {}
    size = len(ids), max(map(len, ids))

    def keep(tensor: Tensor, hook: Any) -> None:
        kept["states"] = tensor.float().cpu()

    def neuron(tensor: Tensor, hook: Any) -> None:
        assert place is not None
        kept["own"] = tensor.reshape(*size, -1)[..., place.index].float().cpu()

    def last(states: Tensor, hook: Any) -> Tensor:
        return states[:, -1:]  # logits are not needed, and those of a large vocabulary take much memory

    hooks: list[Any] = [(Site("resid", layer).hook, keep), ("unembed.hook_in", last)]
    if place is not None and place.kind == "neuron":
        hooks.append((neuron_hook(layer), neuron))
    elif place is not None and place.kind == "head":
        written = output_weights(lm, layer)[0][place.index]

        def head(tensor: Tensor, hook: Any) -> None:
            z = tensor.reshape(*size, -1, len(written))[:, :, place.index]
            kept["own"] = (z.float() @ written.to(z.device)).norm(dim=-1).cpu()

        hooks.append((Site("head", layer).hook, head))
    with lm.hooks(hooks):
        lm.logits([list(each) for each in ids])
    return kept.get("own", torch.empty(0)), kept["states"]


class Leaders:
    """Largest activations of several units over texts, one a text."""

    def __init__(self, count: int) -> None:
        """Begin without texts.

        Args:
            count: number of texts that are kept.
        """
        self._count = count
        self.values = torch.empty(0)
        """[count U] largest activations, the largest first."""
        self.pieces = self.positions = torch.empty(0, dtype=torch.long)
        """[count U] number of the text, and of the token in it."""

    def add(self, number: int, values: Float[Tensor, "T U"]) -> None:
        """Add a text; its first token is left out."""
        largest, at = values[1:].max(0)
        rows = largest[None], torch.full_like(at, number)[None], at[None] + 1
        if not len(self.values):
            self.values, self.pieces, self.positions = rows
            return
        if len(self.values) == self._count:
            better = largest > self.values[-1]
            if not better.any():
                return
        both = torch.cat([self.values, rows[0]])
        order = both.argsort(dim=0, descending=True, stable=True)[: self._count]
        self.values = both.gather(0, order)
        self.pieces = torch.cat([self.pieces, rows[1]]).gather(0, order)
        self.positions = torch.cat([self.positions, rows[2]]).gather(0, order)

    def tokens(self, pieces: Sequence[Piece], shift: int = 0) -> np.ndarray:
        """Return the ids [count U] of the tokens of the largest activations; -1 where the text has none so far.

        Args:
            pieces: texts.
            shift: 0 for the token itself, -1 for the one before it, 1 for the one after it.
        """
        found = np.full(tuple(self.pieces.shape), -1)
        for place, number in np.ndenumerate(self.pieces.numpy()):
            at = int(self.positions[place]) + shift
            ids = pieces[int(number)].ids
            if 0 <= at < len(ids):
                found[place] = ids[at]
        return found
