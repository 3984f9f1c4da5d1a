"""Head circuits computed from the weights alone: QK and OV spectra, copying, composition (Elhage et al. 2021).

A head reads the residual stream through its block's norm and is read through later norms. So the maps here are folded:
gains of norms (and of norms on queries and keys) are multiplied into M, N and V, and for layer norms the
mean is subtracted from what a head reads and writes, as in `fold_ln` and `center_writing_weights` of transformer_lens.
A norm after the sum of the heads (Gemma 2 and 3) is folded into O. The norms' scales, which depend on the text, are not
part of a map. With rotary positions M^T N is the form at lag 0; a cap on scores (Gemma 2) or a distance bias (Bloom) is
applied after it.

Axes: D blocks, H heads, dh head width, r = min(dh, d), d width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.catalogue import analysis
from probe.attention.reading import Head, HeadName, head_name, parse_head
from probe.errors import ConfigError, DataError
from probe.model.equations import Block, Norm, embed_rows, maps_to_stream, read_network
from probe.model.heads import array, effective_rank, head_names, small
from probe.model.lm import LM
from probe.numbers import signed
from probe.plotting.notebook import NAME, Beside, Drawable, Look, alone, clickable, titled
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

Kind = Literal["Q", "K", "V"]
COPYING = (
    r"\mathrm{copying} = \sum_i \mathrm{Re}\, \lambda_i \Big/ \sum_i |\lambda_i|,\quad \lambda \text{ of } "
    r"W_E W_{OV} W_U"
)
COMPOSITION = (
    r"\mathrm{composition} = \lVert A L \rVert_F / (\lVert A \rVert_F \lVert L \rVert_F),\quad A = M^T N "
    r"\text{ (by its query or key side) or } O V"
)
RANDOM = 64
"""Number of pairs of random maps in the baseline of composition."""


@dataclass(frozen=True)
class Spectra:
    """Singular values of every head's bilinear form M^T N and of its value-output map L = O V."""

    qk: np.ndarray
    """[D H r] singular values of M^T N, largest first (without the factor 1 / sqrt(dh) of the scores)."""
    ov: np.ndarray
    """[D H r] singular values of O V, largest first."""

    @property
    def qk_rank(self) -> np.ndarray:
        """[D H] effective rank of M^T N: exp of the entropy of its normalised spectrum (Roy and Vetterli 2007)."""
        return effective_rank(self.qk)

    @property
    def ov_rank(self) -> np.ndarray:
        """[D H] effective rank of O V."""
        return effective_rank(self.ov)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per singular value: name, layer, head, map ("QK" or "OV"), index, value."""
        return pd.concat([self._rows("QK", self.qk), self._rows("OV", self.ov)], ignore_index=True)

    def rank_table(self) -> pd.DataFrame:
        """Return a table with one row per head: name, layer, head, qk_rank, ov_rank, qk_norm, ov_norm (Frobenius)."""
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
    """Composition scores: how strongly each head reads what each head of an earlier block writes."""

    kind: Kind
    """Part of the reading head: queries (Q), keys (K) or values (V)."""
    scores: np.ndarray
    """[D H D H] composition scores, indexed by the writer's block and head, then the reader's; NaN unless the reader's
    block is later.
    """
    baseline: tuple[float, float]
    """Mean and standard deviation of the score over pairs of random maps of the same shapes."""

    @property
    def excess(self) -> np.ndarray:
        """[D H D H] scores minus the random mean."""
        return self.scores - self.baseline[0]

    def table(self) -> pd.DataFrame:
        """Return a table with one row per pair of heads, strongest first.

        Columns: writer, reader, their layers and heads, score, excess, and z, the excess in standard deviations of the
        random score.
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
    """Maps of one block with the surrounding norms folded in."""

    M: Float[Tensor, "H dh d"]
    """[H dh d] query maps."""
    N: Float[Tensor, "H dh d"]
    """[H dh d] key maps."""
    V: Float[Tensor, "H dh d"]
    """[H dh d] value maps."""
    O: Float[Tensor, "H d dh"]  # noqa: E741
    """[H d dh] output maps."""


@torch.no_grad()
def spectra(lm: LM) -> Spectra:
    """Compute the singular values of M^T N and O V of every head from their factors, without forming d x d matrices.

    Raises:
        ModelError: the architecture is not described by the equations.
    """
    qk, ov = [], []
    for block in read_network(lm).blocks:
        maps = folded_maps(block)
        qk.append(array(torch.linalg.svdvals(small(maps.M.mT) @ small(maps.N.mT).mT)))
        ov.append(array(torch.linalg.svdvals(small(maps.O) @ small(maps.V.mT).mT)))
    return Spectra(np.stack(qk), np.stack(ov))


@torch.no_grad()
def copying_score(lm: LM) -> np.ndarray:
    """Compute [D H] copying scores, sum of Re(lambda) over sum of |lambda| of W_out L W_emb (tokens to logits).

    lambda are the eigenvalues. The score is 1 if attending to a token can only raise that token's logit, -1 if it can
    only lower it (Elhage et al. 2021; METRICS). The eigenvalues are those of the dh x dh product with the same nonzero
    spectrum. The final norm is folded in too, and so is a norm of the embedding (Bloom).

    Raises:
        DataError: the model reads out one scalar and no tokens.
        ModelError: the architecture is not described by the equations.
    """
    if lm.readout != "tokens":
        raise DataError(
            f"The copying score needs logits of tokens, and this model outputs a {lm.readout}: use the policy or"
            " its base."
        )
    net = read_network(lm)
    token_map = embed_rows(net, net.W_emb).T @ read_through(net.norm, net.W_out)
    rows = []
    for block in net.blocks:
        maps = folded_maps(block)
        values = torch.linalg.eigvals((maps.V @ token_map @ maps.O).double())
        rows.append(array(values.real.sum(-1) / values.abs().sum(-1)))
    return np.stack(rows)


@torch.no_grad()
def composition(lm: LM, kind: Kind = "Q", *, tick: Tick = ignore) -> Composition:
    """Compute the composition of every head with every head of a later block (Elhage et al. 2021).

    The score is |A L|_F / (|A|_F |L|_F). L is the value-output map of the earlier head; A is the map of the later head
    that reads: M^T N on its query side (Q) or its key side (K), or its own L (V). Random maps give about 1 / sqrt(d).

    Args:
        lm: the model.
        kind: "Q", "K" or "V".
        tick: called after each block.

    Raises:
        ConfigError: the kind is not one of these.
        ModelError: the architecture is not described by the equations.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"Composition by {kind!r} was requested: give 'Q', 'K' or 'V'.")
    net = read_network(lm)
    (heads, dh, d), depth = net.blocks[0].maps.M.shape, len(net.blocks)
    scores = np.full((depth, heads, depth, heads), np.nan, dtype=np.float32)
    writers: list[Tensor] = []
    for later, block in enumerate(net.blocks):
        maps = folded_maps(block)
        reading = reads(maps, kind)
        for earlier, writing in enumerate(writers):
            scores[earlier, :, later] = array(score_pairs(writing, reading))
        writers.append(writes(maps))
        tick((later + 1) / depth)
    return Composition(kind, scores, random_composition(d, dh))


def random_composition(d: int, dh: int, seed: int = 0, pairs: int = RANDOM) -> tuple[float, float]:
    """Estimate mean and standard deviation of the score over pairs of maps with normally distributed factors."""
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(pairs):
        M, N, V = torch.randn(3, 1, dh, d, generator=generator)
        maps = FoldedMaps(M, N, V, torch.randn(1, d, dh, generator=generator))
        scores.append(float(score_pairs(writes(maps), reads(maps, "Q"))))
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


def score_pairs(writing: Float[Tensor, "H d r"], reading: Float[Tensor, "I r d"]) -> Float[Tensor, "H I"]:
    """Compute the composition scores of all pairs of heads of two blocks."""
    (heads, d, r), (others, s, _) = writing.shape, reading.shape
    product = reading.reshape(-1, d) @ writing.transpose(0, 1).reshape(d, -1)
    sizes = product.reshape(others, s, heads, r).square().sum((1, 3)).sqrt()
    return (sizes / reading.norm(dim=(1, 2))[:, None] / writing.norm(dim=(1, 2))).T


def writes(maps: FoldedMaps) -> Float[Tensor, "H d r"]:
    """Return L = O V without the rotation on its right, which changes no Frobenius norm."""
    return maps.O @ small(maps.V.mT).mT


def reads(maps: FoldedMaps, kind: Kind) -> Float[Tensor, "H r d"]:
    """Return the map through which a head reads by queries, keys or values, without the rotation on its left."""
    if kind == "Q":
        return small(maps.N.mT) @ maps.M
    return small(maps.M.mT) @ maps.N if kind == "K" else small(maps.O) @ maps.V


def folded_maps(block: Block) -> FoldedMaps:
    """Return the maps of a block with the gains of norms folded in, centred if the norm is a layer norm."""
    maps, norm = maps_to_stream(block), block.norm
    M, N = (side if gain is None else side * gain.weight[:, None] for side, gain in _sides(block))
    O = maps.O if norm.kind == "rms" else maps.O - maps.O.mean(1, keepdim=True)  # noqa: E741
    return FoldedMaps(read_through(norm, M), read_through(norm, N), read_through(norm, maps.V), O)


def read_through(norm: Norm, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Convert rows that read a normed state to rows that read the state itself, up to the norm's scale and bias."""
    return norm.centre(rows * norm.weight)


def _sides(block: Block) -> list[tuple[Tensor, Norm | None]]:
    return [(block.maps.M, block.maps.q_norm), (block.maps.N, block.maps.k_norm)]


@dataclass(frozen=True)
class Circuits(Drawable):
    """QK and OV spectra and copying scores of the heads of a model."""

    spectra: Spectra
    """Singular values of the QK and OV maps."""
    copying: np.ndarray | None
    """[D H] copying score of each OV circuit; None for a model with a scalar output, which has no tokens to copy."""
    head: Head
    """Head that is enlarged."""

    def sentence(self) -> str:
        """Say how many directions the chosen head uses and whether it copies."""
        return CircuitsBeside((self,), alone()).sentence()

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the singular values of the chosen head and the copying scores of all heads."""
        return CircuitsBeside((self,), alone()).figures()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all singular values and copying scores."""
        tables = {"spectra": self.spectra.table()}
        if self.copying is not None:
            layer, head = (axis.ravel() for axis in np.indices(self.copying.shape))
            values = {"layer": layer, "head": head, "copying": self.copying.ravel()}
            tables["copying"] = pd.DataFrame({"name": head_names(*self.copying.shape), **values})
        return tables

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the effective ranks and the copying score of every head."""
        return CircuitsBeside((self,), alone()).lists()


class CircuitsBeside(Beside[Circuits]):
    """QK and OV spectra and copying scores of the heads of one model or several."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes that explain the numbers."""
        rank = "Effective rank: the exponential of the entropy of the singular values."
        copies = (
            "Copying: the sum of the real parts of the eigenvalues of W_E W_OV W_U over the sum of their absolute"
            " values; 1 copies, \u22121 inverts."
        )
        none = "A model with a scalar output has no output tokens to copy to."
        return (rank, copies if all(each.copying is not None for each in self.results) else none)

    def sentence(self) -> str:
        """Say how many directions the chosen head uses and whether it copies."""
        parts = []
        for look, each in self._with_head():
            qk, ov = (values[each.head] for values in (each.spectra.qk_rank, each.spectra.ov_rank))
            copies = "" if each.copying is None else f", copying {signed(float(each.copying[each.head]))}"
            width = each.spectra.qk.shape[-1]
            parts.append(f"effective rank {qk:.1f} (QK) and {ov:.1f} (OV) of {width}{copies} in {look.name}")
        return f"{head_name(self.results[-1].head)} by its weights alone: {'; '.join(parts)}."

    def _with_head(self) -> list[tuple[Look, Circuits]]:
        """Return the models that have the head."""
        layer, number = self.results[-1].head
        pairs = zip(self.looks, self.results, strict=True)
        return [
            (look, each)
            for look, each in pairs
            if layer < each.spectra.qk.shape[0] and number < each.spectra.qk.shape[1]
        ]

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the singular values of the chosen head and the copying scores of all heads."""
        from probe.attention import head_figures as plots

        head, own = self.results[-1].head, self._with_head()
        panels = [
            ("QK", [(look.name, each.spectra.qk[head]) for look, each in own]),
            ("OV", [(look.name, each.spectra.ov[head]) for look, each in own]),
        ]
        chart = plots.spectra(panels, colours=[look.colour for look, _ in own])
        charts = {"spectra": titled(chart, f"Singular values of {head_name(head)}", 300)}
        grids = [(look.name, each.copying) for look, each in own if each.copying is not None]
        if grids:
            copying = plots.head_grids(grids, "copying", signed=(True,), chosen=head, width=400)
            charts["copying"] = titled(clickable(copying, head="customdata"), "Copying score from the weights")
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the effective ranks and the copying score of every head."""
        frames = []
        for look, each in zip(self.looks, self.results, strict=True):
            rows = each.spectra.rank_table().drop(columns=["layer", "head"]).rename(columns={"name": "head"})
            rows = rows if each.copying is None else rows.assign(copying=each.copying.ravel())
            rows.insert(0, "model", look.name)
            frames.append(rows)
        return {"Heads": pd.concat(frames, ignore_index=True)}


SMOL_HEADS = 270
"""Number of heads of SmolLM2-135M, on which the seconds were measured (one core); costs of other models are scaled by
it.
"""


def circuits_seconds(lm: LM, **rest: Any) -> float:
    """Estimate the seconds that spectra and copying scores of all heads take."""
    cfg = lm.bridge.cfg
    vocabulary, width = lm.model.get_input_embeddings().weight.shape
    spectral = 1.4 * cfg.n_layers * cfg.n_heads / SMOL_HEADS * width / 576 * (cfg.d_head / 64) ** 2
    return spectral + 0.8 * vocabulary / 49152 * (width / 576) ** 2


def same_head(lms: Sequence[LM], *, head: str | None = None, **others: Any) -> dict[str, Any]:
    """Return one head for all models if none is named: the first."""
    return {"head": head_name((0, 0))} if head is None else {}


@analysis(
    "attention",
    title="Circuits",
    equations=(COPYING,),
    seconds=circuits_seconds,
    key="att_circuits",
    beside=CircuitsBeside,
    settle=same_head,
    widths=((5, 4),),
)
def read_circuits(lm: LM, *, head: HeadName = None) -> Circuits:
    """Compute from the weights alone the rank of each head's QK and OV maps, and whether it copies.

    Shown are the singular values of each head's bilinear form (QK) and value-output map (OV), with the gains of norms
    folded in, and for every OV circuit (from tokens to logits) how much it raises the logit of the token that it reads.

    Args:
        lm: the model.
        head: head to enlarge; the first by default.

    Raises:
        ModelError: the architecture is not described by the equations.
    """
    copies = copying_score(lm) if lm.readout == "tokens" else None
    return Circuits(spectra(lm), copies, (0, 0) if head is None else parse_head(head))


@dataclass(frozen=True)
class Partners(Drawable):
    """Heads with which one head composes."""

    head: Head
    """Head in question."""
    compositions: tuple[Composition, ...]
    """Composition by its queries, keys and values."""
    names: tuple[str, ...] = (NAME,)
    """Name of the model."""

    def grid(self, composed: Composition) -> np.ndarray:
        """[D H] excess composition with every other head: with earlier heads as reader, with later heads as writer."""
        excess = composed.excess
        reads, writes = excess[:, :, self.head[0], self.head[1]], excess[self.head[0], self.head[1]]
        return np.where(np.isfinite(reads), reads, writes)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes that explain a cell."""
        name = head_name(self.head)
        return (
            f"Cells above the row of {name} show how strongly it reads the output of an earlier head, as query,"
            " key or value. Cells below it show how strongly a later head reads its output. Each value is the Frobenius"
            " norm of the product over the product of the norms (Elhage et al. 2021), minus the mean for random"
            " maps of the same shapes. The titles give that mean and its standard deviation.",
        )

    def sentence(self) -> str:
        """Name the pair with the strongest composition, and the median over all pairs of the head."""
        rows = self.table()
        if not len(rows):
            return f"{self.names[0]} has one layer, so no head reads another."
        top = rows.iloc[0]
        own = head_name(self.head)
        pair = f"{own} reads {top['other']}" if top["way"] == "reads" else f"{top['other']} reads {own}"
        kind = {"Q": "queries", "K": "keys", "V": "values"}[top["kind"]]
        return (
            f"In {self.names[0]}, {pair} most strongly, through its {kind}: {signed(float(top['excess']))} above"
            f" random maps; the median of its {len(rows)} pairs is {signed(float(rows['excess'].median()))}."
        )

    def table(self) -> pd.DataFrame:
        """Return a table with one row for each kind and other head, strongest first."""
        parts = []
        for composed in self.compositions:
            grid = self.grid(composed)
            layers, heads = np.nonzero(np.isfinite(grid))
            ways = ["is read by" if layer > self.head[0] else "reads" for layer in layers]
            others = [head_name((int(layer), int(head))) for layer, head in zip(layers, heads, strict=True)]
            values = {"layer": layers, "number": heads, "excess": grid[layers, heads]}
            rows = pd.DataFrame({"kind": composed.kind, "way": ways, "other": others, **values})
            parts.append(rows.assign(z=rows["excess"] / composed.baseline[1]))
        joined = pd.concat(parts, ignore_index=True)
        joined.insert(0, "head", head_name(self.head))
        return joined.sort_values("excess", ascending=False, kind="stable", ignore_index=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the composition of the head with all others."""
        return {"composition": self.table()}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw how strongly the head reads earlier heads, and how strongly later heads read it."""
        from probe.attention.head_figures import head_grids

        panels = [
            (f"{each.kind} (random {each.baseline[0]:.3f} \u00b1 {each.baseline[1]:.3f})", self.grid(each))
            for each in self.compositions
        ]
        chart = head_grids(panels, "excess", signed=(True,), chosen=self.head, digits=3)
        whose = f"{head_name(self.head)} of {self.names[0]}"
        title = f"Composition of {whose}: with earlier heads above its row, with later heads below"
        return {"composition": titled(clickable(chart, head="customdata"), title)}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads that it composes with, strongest first."""
        return {"Partners": self.table().drop(columns=["head", "layer", "number"])}


def composition_seconds(lm: LM, **rest: Any) -> float:
    """Estimate the seconds that the composition of all pairs of heads takes."""
    cfg = lm.bridge.cfg
    return 3 * 1.7 * (cfg.n_layers * cfg.n_heads / SMOL_HEADS) ** 2 * (cfg.d_head / 64) ** 2


@analysis(
    "attention",
    title="Composition",
    equations=(COMPOSITION,),
    seconds=composition_seconds,
    key="att_composition",
    settle=same_head,
)
def compose_heads(lm: LM, *, head: HeadName = None, tick: Tick = ignore) -> Partners:
    """Measure from the weights alone which earlier heads a head reads, and which later heads read it.

    *L* is the value-output map of the earlier head. *A* is the map of the later head that reads: its bilinear form on
    the side of queries (Q) or of keys (K), or its own value-output map (V). Gains of norms are folded into both.

    Args:
        lm: the model.
        head: head in question; the first by default.
        tick: function called with the share of the work done.

    Raises:
        ModelError: the architecture is not described by the equations.
    """
    kinds = get_args(Kind)
    ways = [composition(lm, kind, tick=part(tick, index, len(kinds))) for index, kind in enumerate(kinds)]
    return Partners((0, 0) if head is None else parse_head(head), tuple(ways))
