"""Heads by their weights alone: spectra of the QK and OV maps, copying, composition (Elhage et al. 2021).

A head reads the residual stream through its block's norm and is read through later norms. So the maps here are folded
by default: gains of norms (and of norms on queries and keys) are multiplied into M, N and V, and for layer norms the
mean is taken off what is read and written, as `fold_ln` and `center_writing_weights` of transformer_lens do. A norm
behind the sum of the heads (Gemma 2 and 3) is folded into O. The norms' scales, which depend on the text, are not part
of a map. With rotary positions M^T N is the form at lag 0; a cap on scores (Gemma 2) or a bias by distance (Bloom)
comes after it.

Axes: D blocks, H heads, dh head width, r = min(dh, d), d width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError, DataError
from probe.model.equations import Block, Norm, embed_rows, maps_to_stream, read_network
from probe.model.heads import array, effective_rank, head_names, small
from probe.model.lm import LM
from probe.ticks import Tick, ignore

Kind = Literal["Q", "K", "V"]
RANDOM = 64
"""Pairs of random maps behind the baseline of composition."""


@dataclass(frozen=True)
class Spectra:
    """Singular values of every head's bilinear form M^T N and of its value-output map L = O V."""

    qk: np.ndarray
    """[D H r] singular values of M^T N, largest first (without the factor 1 / sqrt(dh) of the scores)."""
    ov: np.ndarray
    """[D H r] singular values of O V, largest first."""

    @property
    def qk_rank(self) -> np.ndarray:
        """[D H] effective rank of M^T N: exp of the entropy of its normed singular values (Roy and Vetterli 2007)."""
        return effective_rank(self.qk)

    @property
    def ov_rank(self) -> np.ndarray:
        """[D H] effective rank of O V."""
        return effective_rank(self.ov)

    def table(self) -> pd.DataFrame:
        """One row a singular value: name, layer, head, map ("QK" or "OV"), index, value."""
        return pd.concat([self._rows("QK", self.qk), self._rows("OV", self.ov)], ignore_index=True)

    def rank_table(self) -> pd.DataFrame:
        """One row a head: name, layer, head, qk_rank, ov_rank, qk_norm, ov_norm (Frobenius)."""
        layer, head = (axis.ravel() for axis in np.indices(self.qk.shape[:2]))
        columns = {"qk_rank": self.qk_rank.ravel(), "ov_rank": self.ov_rank.ravel()}
        columns |= {f"{name}_norm": np.linalg.norm(getattr(self, name), axis=-1).ravel() for name in ("qk", "ov")}
        return pd.DataFrame({"name": head_names(*self.qk.shape[:2]), "layer": layer, "head": head, **columns})

    def _rows(self, name: str, values: np.ndarray) -> pd.DataFrame:
        layer, head, index = (axis.ravel() for axis in np.indices(values.shape))
        names = np.repeat(np.array(head_names(*values.shape[:2]), dtype=object), values.shape[2])
        columns = {"name": names, "layer": layer, "head": head, "map": name, "index": index, "value": values.ravel()}
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class Composition:
    """How strongly each head reads what each head of an earlier block writes."""

    kind: Kind
    """What reads: queries (Q), keys (K) or values (V)."""
    scores: np.ndarray
    """[D H D H] the writer's block and head, the reader's block and head; NaN where the reader is not later."""
    baseline: tuple[float, float]
    """Mean and standard deviation of the score over random maps of the same shapes."""

    @property
    def excess(self) -> np.ndarray:
        """[D H D H] scores above the random mean."""
        return self.scores - self.baseline[0]

    def table(self) -> pd.DataFrame:
        """One row a pair of heads, strongest first: writer, reader, their layers and heads, score, excess, z.

        z is the excess in standard deviations of the random score.
        """
        finite = ~np.isnan(self.scores)
        index = np.nonzero(finite)
        names = np.array(head_names(*self.scores.shape[:2]), dtype=object).reshape(self.scores.shape[:2])
        scores = self.scores[finite]
        columns = dict(zip(("writer_layer", "writer_head", "reader_layer", "reader_head"), index, strict=True))
        excess = scores - self.baseline[0]
        table = pd.DataFrame({"writer": names[index[:2]], "reader": names[index[2:]], **columns, "score": scores})
        table = table.assign(excess=excess, z=excess / self.baseline[1])
        return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class FoldedMaps:
    """The maps of one block with the norms around them folded in."""

    M: Float[Tensor, "H dh d"]
    """Queries."""
    N: Float[Tensor, "H dh d"]
    """Keys."""
    V: Float[Tensor, "H dh d"]
    """Values."""
    O: Float[Tensor, "H d dh"]  # noqa: E741
    """Outputs."""


@torch.no_grad()
def spectra(lm: LM, *, fold: bool = True) -> Spectra:
    """Singular values of M^T N and of O V for every head, from their factors: no d x d matrix is made.

    Args:
        lm: the model.
        fold: whether norms are part of the maps (see the module).

    Raises:
        ModelError: the architecture is not described by the equations.
    """
    qk, ov = [], []
    for block in read_network(lm).blocks:
        maps = folded_maps(block) if fold else plain_maps(block)
        qk.append(array(torch.linalg.svdvals(small(maps.M.mT) @ small(maps.N.mT).mT)))
        ov.append(array(torch.linalg.svdvals(small(maps.O) @ small(maps.V.mT).mT)))
    return Spectra(np.stack(qk), np.stack(ov))


@torch.no_grad()
def copying_score(lm: LM, *, fold: bool = True) -> np.ndarray:
    """[D H] sum of Re(lambda) over sum of |lambda|, lambda the eigenvalues of W_out L W_emb, tokens to logits.

    1 where attending to a token can only raise that token's logit, -1 where it can only lower it (Elhage et al. 2021;
    METRICS). Eigenvalues of the dh x dh product that has the same ones.

    Args:
        lm: the model.
        fold: whether norms are part of the maps, the final norm too. A norm of the embedding (Bloom) always is, since
            it depends on the token alone.

    Raises:
        DataError: the model reads out one scalar and no tokens.
        ModelError: the architecture is not described by the equations.
    """
    if lm.readout != "tokens":
        raise DataError(
            f"The copying score is about tokens and this model reads out a {lm.readout}: take the policy or its base."
        )
    net = read_network(lm)
    token_map = embed_rows(net, net.W_emb).T @ (read_through(net.norm, net.W_out) if fold else net.W_out)
    rows = []
    for block in net.blocks:
        maps = folded_maps(block) if fold else plain_maps(block)
        values = torch.linalg.eigvals((maps.V @ token_map @ maps.O).double())
        rows.append(array(values.real.sum(-1) / values.abs().sum(-1)))
    return np.stack(rows)


@torch.no_grad()
def composition(lm: LM, kind: Kind = "Q", *, fold: bool = True, seed: int = 0, tick: Tick = ignore) -> Composition:
    """Composition of every head with every head of a later block (Elhage et al. 2021).

    |A L|_F / (|A|_F |L|_F), L what the earlier head writes and A what the later one reads with: M^T N by its query side
    (Q) or its key side (K), or its own L (V). 1 / sqrt(d) is what random maps give.

    Args:
        lm: the model.
        kind: "Q", "K" or "V".
        fold: whether norms are part of the maps.
        seed: of the random maps behind the baseline.
        tick: called after each block.

    Raises:
        ConfigError: another kind.
        ModelError: the architecture is not described by the equations.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"Composition by {kind!r} was asked for: give 'Q', 'K' or 'V'.")
    net = read_network(lm)
    (heads, dh, d), depth = net.blocks[0].maps.M.shape, len(net.blocks)
    scores = np.full((depth, heads, depth, heads), np.nan, dtype=np.float32)
    writers: list[Tensor] = []
    for later, block in enumerate(net.blocks):
        maps = folded_maps(block) if fold else plain_maps(block)
        reading = reads(maps, kind)
        for earlier, writing in enumerate(writers):
            scores[earlier, :, later] = array(score_pairs(writing, reading))
        writers.append(writes(maps))
        tick((later + 1) / depth)
    return Composition(kind, scores, random_composition(d, dh, seed))


def random_composition(d: int, dh: int, seed: int = 0, pairs: int = RANDOM) -> tuple[float, float]:
    """Mean and standard deviation of the score of pairs of maps whose factors are drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(pairs):
        M, N, V = torch.randn(3, 1, dh, d, generator=generator)
        maps = FoldedMaps(M, N, V, torch.randn(1, d, dh, generator=generator))
        scores.append(float(score_pairs(writes(maps), reads(maps, "Q"))))
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


def score_pairs(writing: Float[Tensor, "H d r"], reading: Float[Tensor, "I r d"]) -> Float[Tensor, "H I"]:
    """Scores of all pairs of the heads of two blocks."""
    (heads, d, r), (others, s, _) = writing.shape, reading.shape
    product = reading.reshape(-1, d) @ writing.transpose(0, 1).reshape(d, -1)
    sizes = product.reshape(others, s, heads, r).square().sum((1, 3)).sqrt()
    return (sizes / reading.norm(dim=(1, 2))[:, None] / writing.norm(dim=(1, 2))).T


def writes(maps: FoldedMaps) -> Float[Tensor, "H d r"]:
    """L = O V without the rotation behind it, which changes no Frobenius norm."""
    return maps.O @ small(maps.V.mT).mT


def reads(maps: FoldedMaps, kind: Kind) -> Float[Tensor, "H r d"]:
    """Return the map that a head reads with by its queries, keys or values, without the rotation before it."""
    if kind == "Q":
        return small(maps.N.mT) @ maps.M
    return small(maps.M.mT) @ maps.N if kind == "K" else small(maps.O) @ maps.V


def plain_maps(block: Block) -> FoldedMaps:
    """Return the maps of a block as the model has them, with no norm folded in."""
    return FoldedMaps(block.maps.M, block.maps.N, block.maps.V, block.maps.O)


def folded_maps(block: Block) -> FoldedMaps:
    """Return the maps of a block with the gains of norms folded in, centred where the norm is a layer norm."""
    maps, norm = maps_to_stream(block), block.norm
    M, N = (side if gain is None else side * gain.weight[:, None] for side, gain in _sides(block))
    O = maps.O if norm.kind == "rms" else maps.O - maps.O.mean(1, keepdim=True)  # noqa: E741
    return FoldedMaps(read_through(norm, M), read_through(norm, N), read_through(norm, maps.V), O)


def read_through(norm: Norm, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Rows that read a normed state, as rows that read the state itself, up to the norm's scale and bias."""
    return norm.centre(rows * norm.weight)


def _sides(block: Block) -> list[tuple[Tensor, Norm | None]]:
    return [(block.maps.M, block.maps.q_norm), (block.maps.N, block.maps.k_norm)]
