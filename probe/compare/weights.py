"""Weight changes between two models of one architecture: how large, where, and in how many directions.

A change dW = W_aligned - W_base is described by its singular values s_1 >= s_2 >= ...:

    norm                 sqrt(sum s_i^2) (Frobenius); `relative` divides it by that of W_base
    spectral             s_1
    participation_rank   (sum s_i^2)^2 / sum s_i^4: participation ratio of the squared singular values, as the dimension
                         of a covariance in Gao et al. 2017 (bioRxiv 214262)
    entropy_rank         exp of the entropy of s_i / sum s (Roy and Vetterli 2007, effective rank)
    rank                 how many are counted

Both effective ranks are 1 for one direction and r for r equally strong ones; the second gives weak directions more
weight. Only singular values above `noise` count, since rounding alone has full rank. Weights stored with precision eps
have errors of up to eps |W| / 2 each, and the spectral norm of a random matrix of such entries is at most about its
largest row norm plus its largest column norm (Bandeira and van Handel 2016).

Axes: d width, dh head width, H heads.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ModelError
from probe.model.adapted import Weights, inside
from probe.model.equations import Maps, read_network
from probe.model.heads import effective_rank, small
from probe.model.lm import LM
from probe.model.placement import require_weights
from probe.numbers import in_percent, rate
from probe.plotting.notebook import Drawable, titled
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

KINDS = {
    "norm": r"norm|(^|[._])ln",
    "qkv": r"c_attn|query_key_value|qkv",
    "q": r"(^|\.)(q|q_proj|query)\.",
    "k": r"(^|\.)(k|k_proj|key)\.",
    "v": r"(^|\.)(v|v_proj|value)\.",
    "o": r"att\w*\.(o|o_proj|out|out_proj|c_proj|dense|proj)\.",
    "attention": r"att",
    "mlp": r"mlp|ffn|feed_forward|experts|(^|\.)fc",
    "embed": r"embed|wte|wpe",
}
"""Kinds of parameters by the first pattern that matches the name; the output layer is `unembed`, all else `other`."""
SAME = ("num_attention_heads", "num_key_value_heads", "rope_parameters")
"""Entries of the configuration that must be equal, in addition to shapes, for weights to be comparable."""
FORMATS = (torch.bfloat16, torch.float16, torch.float32)
COLUMNS = {"QK": "qk", "OV": "ov", "query": "q", "key": "k", "value": "v", "output": "o"}
"""Labels of the parts of a head, and the prefixes of their columns."""
Part = Annotated[Literal["QK", "OV", "query", "key", "value", "output"], Input("Part of a head")]
"""Part of every head: what it compares, what it copies, or one of its four maps."""
FIRST = ("name", "shape", "relative", "rank", "participation_rank", "entropy_rank", "cosine")
"""Columns of the table of matrices that are shown first."""
TIMED = 192
"""Size of the square matrix that is timed to estimate the total."""
HEIGHT = 360
"""Height of the figures in pixels, for models with few blocks."""
RELATIVE = (
    r"\Delta W = W_{\mathrm{aligned}} - W_{\mathrm{base}} = \sum_i s_i u_i v_i^\top, \quad"
    r"\mathrm{relative} = \lVert \Delta W \rVert_F / \lVert W_{\mathrm{base}} \rVert_F"
)
RANKS = (
    r"\mathrm{participation\ rank} = \frac{(\sum_i s_i^2)^2}{\sum_i s_i^4}, \quad"
    r"\mathrm{entropy\ rank} = \exp\Big(-\sum_i \tfrac{s_i}{\sum_j s_j} \log \tfrac{s_i}{\sum_j s_j}\Big)"
)


@dataclass(frozen=True)
class WeightChange(Drawable):
    """Weight changes from a base to an aligned model; the measures are explained in the module."""

    matrices: pd.DataFrame
    """Table with one row per parameter; tied ones once, a stack of experts one row per expert: name, block (missing
    outside the blocks), kind (`KINDS`), shape, norm, base_norm, relative, spectral, participation_rank, entropy_rank,
    rank, cosine (of the change and the base's matrix: below 0 it shrinks), noise. A vector counts as a matrix with one
    column.
    """
    heads: pd.DataFrame
    """Table with one row per query head: block, head, key_head; for q, k, v and o, the slices of the maps M, N, V and
    O, norm and relative norm of the change; for qk (M^T N) and ov (O V) also spectral, ranks, cosine and noise. Norms,
    rotations and biases are not part of these maps. Empty if the equations do not describe the architecture.
    """
    why_no_heads: str
    """Sentence on why `heads` is empty."""
    precision: str
    """Coarser of the number formats of the two models' weights."""
    names: tuple[str, str] = ("base", "aligned")
    """Names of the two models."""

    @property
    def blocks(self) -> pd.DataFrame:
        """Return one row per block, and one for parameters outside the blocks: block, norm, relative, share, kind.

        `share` is the share of the whole squared change, and `kind` the kind with the largest norm.
        """
        rows = []
        total = float((self.matrices["norm"] ** 2).sum())
        for block, group in self.matrices.groupby("block", dropna=False):
            squares, base = (group[column] ** 2 for column in ("norm", "base_norm"))
            square, by_kind = float(squares.sum()), squares.groupby(group["kind"]).sum()
            row = {"block": block, "norm": square**0.5, "relative": _ratio(square, float(base.sum())) ** 0.5}
            rows.append(row | {"share": _ratio(square, total), "kind": by_kind.idxmax() if square else ""})
        return pd.DataFrame(rows).astype({"block": "Int64"})

    @property
    def rounding(self) -> int:
        """Number of parameters whose change is not zero but within rounding to `precision`, so that its rank is 0."""
        return int(((self.matrices["norm"] > 0) & (self.matrices["rank"] == 0)).sum())

    def sentence(self) -> str:
        """State how much changed, where most, and in how many directions."""
        rows = self.matrices
        total = float((rows["norm"] ** 2).sum()) ** 0.5
        if not total:
            return f"No weight of {self.names[1]} differs from that of {self.names[0]}."
        whole = total / max(float((rows["base_norm"] ** 2).sum()) ** 0.5, 1e-300)
        blocks = self.blocks.dropna(subset="block").sort_values("relative", ascending=False)
        where = ""
        if len(blocks) > 1:
            most, least = blocks.iloc[0], blocks.iloc[-1]
            where = (
                f", most in block {most['block']} ({in_percent(most['relative'])}) and least in block {least['block']} "
                f"({in_percent(least['relative'])})"
            )
        wide = rows[rows["shape"].map(min) > 1]
        changed = wide[wide["rank"] > 0]
        start = f"From {self.names[0]} to {self.names[1]} the weights changed by {in_percent(whole)} of their norm"
        if not len(changed):
            return f"{start}{where}; no matrix changed by more than rounding."
        widths, top = changed["shape"].map(min), int(changed["rank"].max())
        if top <= widths.min() / 4:
            how = (
                f"{len(changed)} of {len(wide)} matrices changed, each in at most {top} of its {widths.min()} or more "
                f"directions, as by a LoRA adapter of rank {top}"
            )
        else:
            share = (changed["participation_rank"] / widths).median()
            how = (
                f"the median matrix changed in {changed['participation_rank'].median():.0f} effective directions "
                f"(participation ratio), {rate(share)} of its directions"
            )
        return f"{start}{where}; {how}."

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on the colours, and on the changes that rounding may explain."""
        colours = (
            "Each cell is the norm of the change over the norm of the base's weights. QK is the product of a"
            " head's query and key maps, OV that of its value and output maps; neither depends on the head's inner"
            " basis."
        )
        rounded = f"{self.rounding} parameters changed by no more than rounding to {self.precision} explains."
        hidden = f"Heads are not shown: {self.why_no_heads}"
        return (colours, *[rounded] * bool(self.rounding), *[hidden] * (not len(self.heads)))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the rows of parameters, heads and blocks; no heads if their maps are unknown."""
        every = {"weights": self.matrices, "weight-heads": self.heads, "weight-blocks": self.blocks}
        return {name: table for name, table in every.items() if len(table)}

    def lists(self, part: Part = "QK") -> dict[str, pd.DataFrame]:
        """Return the tables with the largest changes first.

        Args:
            part: part by which heads are sorted.
        """
        shapes = [" x ".join(map(str, shape)) for shape in self.matrices["shape"]]
        matrices = _with_first(self.matrices.assign(shape=shapes), FIRST)
        found = {"Matrices": _falling(matrices, "relative")}
        if len(self.heads):
            own = [name for name in map(str, self.heads) if name.startswith(f"{COLUMNS[part]}_")]
            heads = _with_first(self.heads, ("block", "head", "key_head", *own))
            found["Heads"] = _falling(heads, f"{COLUMNS[part]}_relative")
        return found | {"Blocks": _falling(self.blocks, "relative")}

    def figures(self, part: Part = "QK") -> "dict[str, go.Figure]":
        """Draw the relative change of each kind of parameter in each block, and of one part of every head.

        Args:
            part: part of every head to draw, by which heads are also sorted.
        """
        from probe.compare.figures import head_change_map, weight_map

        height = max(HEIGHT, 120 + 18 * len(self.blocks))
        title = f"Relative change from {self.names[0]} to {self.names[1]}"
        charts = {"weights": titled(weight_map(self.matrices), title, height)}
        if len(self.heads):
            chart = head_change_map(self.heads, COLUMNS[part])
            charts["weight-heads"] = titled(chart, f"{part} of every head: relative change", height)
        return charts


def decomposition_seconds(base: LM, aligned: LM) -> float:
    """Estimate the seconds that the singular values of all changes take, from a timing of one matrix."""
    matrix = torch.randn(TIMED, TIMED, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.linalg.svdvals(matrix)
    start = time.perf_counter()
    torch.linalg.svdvals(matrix)
    each = (time.perf_counter() - start) / TIMED**3
    own = Weights(aligned.model)
    stored = [own.stored[name] for name in own.parameters()]
    sizes = [tuple(weight.flatten(1).shape) for weight in stored if weight.ndim > 1]
    return 2 * each * sum(rows * columns * min(rows, columns) for rows, columns in sizes)  # 2: heads as well


@analysis(
    "compare",
    title="Weights",
    equations=(RELATIVE, RANKS),
    seconds=decomposition_seconds,
    key="weights",
    widths=((5, 4),),
)
@torch.no_grad()
def weight_change(base: LM, aligned: LM, tick: Tick = ignore) -> WeightChange:
    """Measure how much every matrix, head and block changed, and in how many directions.

    The change of a matrix is described by its singular values. *rank* counts those above the rounding error of the
    weights' format (*noise*); both effective ranks are computed from these: 1 for one direction, r for r equally strong
    ones. The change by an adapter (LoRA) has at most the adapter's rank. *cosine* is that of
    the change and the base's matrix: below 0 the matrix shrinks. QK is the product of a head's query and key maps, OV
    that of its output and value maps. A tied matrix counts once. The singular values are computed in double precision.

    Args:
        base: model to compare against.
        aligned: the other model, with the same architecture and sizes.
        tick: function called with the share of the work done.

    Raises:
        ModelError: the models differ in architecture, shapes, or numbers of heads.
    """
    require_one_architecture(base, aligned)
    eps, precision = _precision(base, aligned)
    own, other = (dict(_matrices(lm)) for lm in (base, aligned))
    rows = []
    for index, (name, (kind, read)) in enumerate(own.items()):
        before = read()
        place: dict[str, Any] = {"name": name, "block": block_of(name), "kind": kind, "shape": tuple(before.shape)}
        rows.append(place | _row(before.double(), other[name][1]().to(before.device).double(), eps))
        part(tick, 0, 2)((index + 1) / len(own))
    heads, why = pd.DataFrame(), ""
    try:
        nets = read_network(base), read_network(aligned, check=False)
        pairs = list(zip(*(net.blocks for net in nets), strict=True))
        found = []
        for index, (first, second) in enumerate(pairs):
            found += [{"block": index} | row for row in _heads(first.maps, second.maps, eps)]
            part(tick, 1, 2)((index + 1) / len(pairs))
        heads = pd.DataFrame(found)
    except ModelError as error:
        why = str(error)
    tick(1.0)
    matrices = pd.DataFrame(rows).astype({"block": "Int64"})
    return WeightChange(matrices, heads, why, precision, model_names(base, aligned))


def _with_first(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return a table with these columns first."""
    first = [name for name in names if name in table]
    return table[[*first, *(name for name in table if name not in first)]]


def _falling(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a table sorted by descending values of a column."""
    return table.sort_values(column, ascending=False, kind="stable", ignore_index=True)


def model_names(base: LM, aligned: LM) -> tuple[str, str]:
    """Return the names of the two models: the last part of each reference, or `base` and `aligned`."""
    return Path(base.ref).name or "base", Path(aligned.ref).name or "aligned"


def require_one_architecture(base: LM, aligned: LM) -> None:
    """Raise a ModelError unless the weights of both models have the same names, shapes and heads."""
    names = [f"`{lm.ref or 'created'}`" for lm in (base, aligned)]
    for lm in (base, aligned):
        require_weights(lm.model, lm.ref)

    def refuse(why: str) -> ModelError:
        return ModelError(
            f"The weights of {names[0]} and {names[1]} cannot be compared, since {why}: choose two models of the"
            " same architecture and size, such as a model and one trained from it."
        )

    kinds = [type(lm.model).__name__ for lm in (base, aligned)]
    if kinds[0] != kinds[1]:
        raise refuse(f"they are a {kinds[0]} and a {kinds[1]}")
    weights = [Weights(lm.model) for lm in (base, aligned)]
    shapes = [{name: tuple(each.stored[name].shape) for name in each.parameters()} for each in weights]
    odd = next((name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)), None)
    if odd is not None:
        sizes = " and ".join(str(shape.get(odd, "missing")) for shape in shapes)
        raise refuse(f"`{odd}` is {sizes}")
    for name in SAME:
        values = [getattr(lm.model.config, name, None) for lm in (base, aligned)]
        if values[0] != values[1]:
            raise refuse(f"`{name}` of their configurations is {values[0]} and {values[1]}")


def _precision(base: LM, aligned: LM) -> tuple[float, str]:
    """Return the relative spacing of the coarser number format of the models' weights, and the format's name.

    A model saved in half precision and read in single precision counts as half precision.
    """
    formats = [_format(lm.model) for lm in (base, aligned)]
    coarse = max(formats, key=lambda kind: torch.finfo(kind).eps)
    return torch.finfo(coarse).eps, str(coarse).removeprefix("torch.")


def _format(model: nn.Module) -> torch.dtype:
    """Return the coarsest format that holds every weight exactly."""
    own = Weights(model)
    names = [name for name in own.parameters() if own.stored[name].is_floating_point()]

    def fits(name: str, kind: torch.dtype) -> bool:
        weight = own[name]
        return bool((weight.to(kind).to(weight.dtype) == weight).all())

    return next((kind for kind in FORMATS if all(fits(name, kind) for name in names)), torch.float64)


def _matrices(lm: LM) -> Iterator[tuple[str, tuple[str, Callable[[], Float[Tensor, "m n"]]]]]:
    """Yield name and kind of every parameter, and a function that reads it as a matrix; experts are separate."""
    own, kinds = Weights(lm.model), parameter_kinds(lm)
    convolutions = {id(each.weight) for each in lm.model.modules() if isinstance(each, nn.Conv1d | nn.Conv2d)}

    def whole(name: str) -> Float[Tensor, "m n"]:
        weight = own[name]
        return weight.reshape(len(weight) if weight.ndim else 1, -1)

    def expert(name: str, index: int) -> Float[Tensor, "m n"]:
        return own[name][index].flatten(1)

    for name in own.parameters():
        weight = own.stored[name]
        if weight.ndim <= 2 or id(weight) in convolutions:
            yield name, (kinds[name], partial(whole, name))
        else:
            for index in range(len(weight)):
                yield f"{name}[{index}]", (kinds[name], partial(expert, name, index))


def parameter_kinds(lm: LM) -> dict[str, str]:
    """Return the kind of every parameter (`KINDS`) by its name; a tied matrix is the embedding."""
    model, own = lm.model, Weights(lm.model)
    output = model.get_output_embeddings() if lm.readout == "tokens" else None
    ends = {id(each): "unembed" for each in ([] if output is None else inside(output).parameters())}
    ends |= {id(each): "embed" for each in inside(model.get_input_embeddings()).parameters()}
    return {
        name: ends.get(id(own.stored[name]))
        or next((kind for kind, look in KINDS.items() if re.search(look, name)), "other")
        for name in own.parameters()
    }


def block_of(name: str) -> int | None:
    """Return the block that a parameter belongs to, by its name; None outside the blocks."""
    number = re.search(r"\.(\d+)\.", name)
    return None if number is None else int(number[1])


def _row(before: Float[Tensor, "m n"], after: Float[Tensor, "m n"], eps: float) -> dict[str, Any]:
    """Return the measures of the change of one matrix."""
    change = after - before
    noise = _noise(before, after, eps)
    values = torch.linalg.svdvals(change) if bool(change.any()) else change.new_zeros(1)
    return _measures(values, float(before.norm()), float((change * before).sum()), noise)


def _noise(before: Tensor, after: Tensor, eps: float) -> float:
    """Estimate how much rounding of both matrices can add to the spectral norm of their difference."""
    size = torch.maximum(before.abs(), after.abs())
    return eps / 2 * float(size.norm(dim=0).max() + size.norm(dim=1).max())


def _measures(values: Float[Tensor, " r"], base_norm: float, product: float, noise: float) -> dict[str, Any]:
    """Return the columns of a change with these singular values.

    Args:
        values: singular values of the change, largest first.
        base_norm: Frobenius norm of the base's matrix.
        product: inner product of the change and the base's matrix.
        noise: bound below which a singular value is rounding error.
    """
    norm, kept = float(values.norm()), values[values > noise].cpu().numpy()
    squares = kept**2
    return {
        "norm": norm,
        "base_norm": base_norm,
        "relative": _ratio(norm, base_norm),
        "spectral": float(values.max()),
        "participation_rank": float(squares.sum() ** 2 / (squares**2).sum()) if len(kept) else 0.0,
        "entropy_rank": float(effective_rank(kept)) if len(kept) else 0.0,
        "rank": len(kept),
        "cosine": _ratio(product, norm * base_norm) if norm and base_norm else float("nan"),
        "noise": noise,
    }


def _ratio(value: float, whole: float) -> float:
    """Return value / whole: 0 if nothing changed, infinite if a zero changed."""
    return value / whole if whole else (float("inf") if value else 0.0)


def _heads(before: Maps, after: Maps, eps: float) -> Iterator[dict[str, Any]]:
    """Yield the row of each head of a block."""
    sides = [{name: getattr(maps, name).double() for name in "MNVO"} for maps in (before, after)]
    for head, key in enumerate(before.group.tolist()):
        old, new = ({name: maps[name][head].to(before.M.device) for name in "MNVO"} for maps in sides)
        row: dict[str, Any] = {"head": head, "key_head": key}
        for column, name in zip("qkvo", "MNVO", strict=True):
            change = float((new[name] - old[name]).norm())
            row |= {f"{column}_norm": change, f"{column}_relative": _ratio(change, float(old[name].norm()))}
        qk = _product_row(old["M"].mT, old["N"], new["M"].mT, new["N"], eps)
        ov = _product_row(old["O"], old["V"], new["O"], new["V"], eps)
        yield row | {f"{name}_{key}": each for name, cells in (("qk", qk), ("ov", ov)) for key, each in cells.items()}


def _product_row(
    left: Float[Tensor, "d dh"],
    right: Float[Tensor, "dh d"],
    new_left: Float[Tensor, "d dh"],
    new_right: Float[Tensor, "dh d"],
    eps: float,
) -> dict[str, Any]:
    """Return the measures of the change of a product of two factors, without forming a d x d matrix.

    A'B' - AB = (A' - A) B' + A (B' - B), a product of d x 2dh and 2dh x d, of rank at most 2dh.
    """
    d_left, d_right = new_left - left, new_right - right
    outer, inner = torch.cat([d_left, left], dim=1), torch.cat([new_right, d_right])
    changed = bool(d_left.any() or d_right.any())
    values = torch.linalg.svdvals(small(outer) @ small(inner.mT).mT) if changed else left.new_zeros(1)
    base_norm = float((small(left) @ small(right.mT).mT).norm())
    product = float(((left.mT @ outer) * (right @ inner.mT)).sum())
    sizes = [float(torch.linalg.matrix_norm(each, 2)) for each in (new_left, new_right)]
    noise = _noise(left, new_left, eps) * sizes[1] + _noise(right, new_right, eps) * sizes[0]
    return _measures(values, base_norm, product, noise)
