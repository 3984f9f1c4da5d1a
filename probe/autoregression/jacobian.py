"""Jacobians: the two paths of every attention head (E23), and singular values from each block to the last (METRICS).

With y_s = O (V h_s + v_bias) and o_t = sum_s alpha_{t,s} y_s, the derivative of o_t by an earlier input h_s, s < t, is

    d o_t / d h_s = alpha_{t,s} L + alpha_{t,s} (y_s - o_t) u_{t,s}^T,   u_{t,s} = d s_{t,s} / d h_s.

The first term changes the values that are read (linear path), the second the attention weights (bilinear-softmax path).
Without norms of keys, u_{t,s} = scale N^T R_s^T R_t (M h_t + m_bias); the bias of V cancels in y_s - o_t. At s = t the
input is also the query: sum_j alpha_{t,j} (y_j - o_t) w_{t,j}^T joins the bilinear-softmax path, w_{t,j} = scale M^T
R_t^T k_j. Where scores are capped, s = c tanh(r / c) (Gemma 2), both slopes have the factor ds / dr = 1 - tanh^2(r /
c); a distance bias of the scores (Bloom) has derivative 0.

Norms are held fixed in E23: h is the input of attention, after the block's norm, and if queries and keys have norms of
their own (Qwen3), their divisors are treated as constants, so that k_s = R_s diag(weight) (N h_s) / scale_s is linear
in h_s. The split applies to the head's own output, before the bias of O; if a block normalises the output of its heads
(Gemma 2 and 3), `jacobian_norms` takes that norm as part of O, with its divisor at t held fixed. `neutral_jacobian`
differentiates norms and caps too.

Axes: D blocks, H heads, T tokens (t query, s key), d width, dh head width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.analysis_record import Asked, Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.equations import (
    Block,
    Maps,
    Norm,
    attend,
    attention,
    bilinear,
    keys,
    maps_to_stream,
    queries,
    read_network,
    shape_scores,
    states,
    through,
    values,
)
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import pieces, text_ids
from probe.numbers import rate, signed
from probe.plotting.notebook import Beside, Drawable, alone, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

Text = Asked
"""Text to read; Python callers may pass token ids instead."""
E23 = (
    r"\text{E23}\quad \frac{\partial o_t}{\partial h_s} = \alpha_{t,s} L + \alpha_{t,s} (L h_s - o_t)"
    r"(N^\top R_s^\top R_t M h_t)^\top / \sqrt{d_h},\quad s < t"
)
SPECTRUM = r"\sigma\big(\partial h^D_p / \partial h^l_p\big),\quad l = 0, \dots, D - 1"
CELLS = 2**21
"""Largest number of values in an intermediate array; query rows are processed in groups that respect it."""


class Split(NamedTuple):
    """The two terms of d o_t / d h_s of one head: rows are directions of the output, columns of the input."""

    linear: Float[Tensor, "d d"]
    """Linear path: alpha_{t,s} L."""
    bilinear: Float[Tensor, "d d"]
    """Bilinear-softmax path: alpha_{t,s} (y_s - o_t) u_{t,s}^T; at s = t including the query's part."""

    @property
    def total(self) -> Float[Tensor, "d d"]:
        """Sum of both terms: the whole Jacobian."""
        return self.linear + self.bilinear


@torch.no_grad()
def jacobian_split(maps: Maps, h: Float[Tensor, "T d"], head: int, t: int, s: int) -> Split:
    """Compute both terms of E23 for one head and one pair of positions, as matrices.

    Args:
        maps: attention of a block (`probe.model.equations.read_network(lm).blocks[layer].maps`). A norm after the sum
            of its heads is not included.
        h: [T d] input of attention, after the block's norm.
        head: index of the query head.
        t: position of the query.
        s: position of the input that changes; the matrices are zero if s > t or s is outside the window.

    Raises:
        DataError: a position is outside the text, or the block has no such head.
    """
    if not (0 <= t < len(h) and 0 <= s < len(h) and 0 <= head < len(maps.M)):
        raise DataError(
            f"Head {head} at positions {t} and {s} was requested: this block has {len(maps.M)} heads and the text "
            f"{len(h)} tokens, counted from 0."
        )
    parts, row, O = _Parts.of(maps, h), slice(t, t + 1), maps.O[head]  # noqa: E741
    linear = parts.alpha[head, t, s] * maps.L(head)
    if s > t:
        return Split(linear, torch.zeros_like(linear))
    offset = parts.v[head, s] - parts.mixed[head, t]
    slope = maps.N_shared[int(maps.group[head])].T @ _slopes(maps, parts, row)[head, 0, s]
    softmax_path = parts.alpha[head, t, s] * torch.outer(O @ offset, slope)
    if s == t:
        softmax_path = softmax_path + O @ _query_side(maps, parts, row)[head, 0] @ maps.M[head]
    return Split(linear, softmax_path)


@torch.no_grad()
def block_norms(maps: Maps, h: Float[Tensor, "T d"]) -> tuple[Float[Tensor, "H T T"], ...]:
    """Compute attention and the Frobenius norms of both paths and of their sum for one block.

    All computations are in the width of a head: with L = O V and the rank-one matrix (O a)(N^T z)^T,

        |L|^2 = tr(G V V^T),   |O a| |N^T z| = sqrt(a^T G a) sqrt(z^T N N^T z),   their product a^T G V N^T z,

    where G = O^T O. The norm of y_s - o_t is a difference of larger numbers and computed in double precision.
    """
    parts = _Parts.of(maps, h)
    G, N, V = maps.O.mT @ maps.O, maps.N, maps.V
    size = torch.einsum("hef,hfe->h", G, V @ V.mT).clamp(min=0)
    linear = parts.alpha * size.sqrt()[:, None, None]
    lengths = _distances(parts.mixed.double(), parts.v.double(), G.double()).to(h.dtype)
    projected, projected_mean = (x @ (G @ V @ N.mT) for x in (parts.v, parts.mixed))
    second, third = torch.zeros_like(linear), torch.zeros_like(linear)
    for rows in _groups(len(h), len(G) * maps.M.shape[1] * max(len(h), maps.M.shape[1])):
        causal_keys = slice(0, rows.stop)
        alpha, slope = parts.alpha[:, rows, causal_keys], _slopes(maps, parts, rows)
        outer = lengths[:, rows, causal_keys] * ((slope @ (N @ N.mT)[:, None]) * slope).sum(-1)
        cross = torch.einsum("htse,hse->hts", slope, projected[:, causal_keys])
        cross = cross - torch.einsum("htse,hte->hts", slope, projected_mean[:, rows])
        second[:, rows, causal_keys] = alpha * outer.clamp(min=0).sqrt()
        third[:, rows, causal_keys] = alpha * (size[:, None, None] + 2 * cross + outer).clamp(min=0).sqrt()
        own, whole = _diagonal(maps, parts, rows, slope, G)
        at = torch.arange(rows.start, rows.stop, device=h.device)
        second[:, at, at], third[:, at, at] = own, whole
    return parts.alpha, linear, second, third


class _Parts(NamedTuple):
    """Intermediate results that all formulas of a block use."""

    alpha: Float[Tensor, "H T T"]
    q: Float[Tensor, "H T dh"]
    k: Float[Tensor, "H T dh"]
    v: Float[Tensor, "H T dh"]
    mixed: Float[Tensor, "H T dh"]
    q_gain: Float[Tensor, "H T 1"] | None
    k_gain: Float[Tensor, "H T 1"] | None
    cap_slope: Float[Tensor, "H T T"] | None

    @classmethod
    def of(cls, maps: Maps, h: Float[Tensor, "T d"]) -> "_Parts":
        alpha, v = attend(bilinear(maps, h)), values(maps, h)
        raw_q = torch.einsum("td,hed->hte", h, maps.M) + maps.m_bias[:, None]
        raw_k = torch.einsum("td,hed->hte", h, maps.N_shared) + maps.n_bias_shared[:, None]
        q_gain = None if maps.q_norm is None else maps.q_norm.scale(raw_q)
        k_gain = None if maps.k_norm is None else maps.k_norm.scale(raw_k)[maps.group]
        q, k = queries(maps, h), keys(maps, h)
        cap_slope = None if maps.cap is None else 1 - (q @ k.mT * maps.scale / maps.cap).tanh().square()
        return cls(alpha, q, k, v, alpha @ v, q_gain, k_gain, cap_slope)


def _slopes(maps: Maps, parts: _Parts, rows: slice) -> Float[Tensor, "H t s dh"]:
    """Compute u_{t,s} before N^T, the derivative of the score of query t by N h_s, for a group of queries."""
    slope = (parts.q[:, rows, None] * maps.scale).expand(-1, -1, rows.stop, -1)
    slope = slope if parts.cap_slope is None else slope * parts.cap_slope[:, rows, : rows.stop, None]
    slope = slope if maps.rotary is None else maps.rotary.back(slope)
    return slope if parts.k_gain is None else _through(maps.k_norm, slope, parts.k_gain[:, None, : rows.stop])


def _query_side(maps: Maps, parts: _Parts, rows: slice) -> Float[Tensor, "H t dh dh"]:
    """Compute sum_j alpha_{t,j} (v_j - mean) w_{t,j}^T before O and M: a covariance of values and slopes."""
    span = slice(0, rows.stop)
    weights = parts.alpha if parts.cap_slope is None else parts.alpha * parts.cap_slope
    away = (parts.v[:, None, span] - parts.mixed[:, rows, None]) * weights[:, rows, span, None]
    spread = torch.einsum("htse,hsf->htef", away, parts.k[:, span]) * maps.scale
    if maps.rotary is not None:
        spread = _back_at(maps, spread, rows)
    return spread if parts.q_gain is None else _through(maps.q_norm, spread, parts.q_gain[:, rows, None])


def _back_at(maps: Maps, spread: Float[Tensor, "H t e f"], rows: slice) -> Float[Tensor, "H t e f"]:
    """Apply R_t^T along the last axis, for queries that start at `rows.start`."""
    assert maps.rotary is not None
    by_position = spread.transpose(1, 2)  # positions come last but one
    front = by_position.new_zeros(*by_position.shape[:2], rows.start, by_position.shape[-1])
    return maps.rotary.back(torch.cat([front, by_position], dim=2))[:, :, rows.start :].transpose(1, 2)


def _through(norm: Norm | None, x: Float[Tensor, "... dh"], scale: Tensor) -> Float[Tensor, "... dh"]:
    """Apply the transpose of a norm whose divisor is held fixed: weight, then centring, then division."""
    assert norm is not None
    return norm.centre(x * norm.weight) / scale


def _diagonal(maps: Maps, parts: _Parts, rows: slice, slope: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the norms [H t] at s = t of the bilinear-softmax path and of the sum of both paths."""
    at = torch.arange(rows.start, rows.stop, device=slope.device)
    alpha, z = parts.alpha[:, at, at], slope[:, at - rows.start, at]
    a = alpha[..., None] * (parts.v[:, at] - parts.mixed[:, at])
    C = _query_side(maps, parts, rows)
    M, N, V = maps.M, maps.N, maps.V
    GC, Ga = G[:, None] @ C, a @ G
    key = (Ga * a).sum(-1) * ((z @ (N @ N.mT)) * z).sum(-1)
    query = (GC * (C @ (M @ M.mT)[:, None])).sum((-2, -1))
    between = torch.einsum("hte,htef,htf->ht", Ga, C, z @ (N @ M.mT))
    square = key + query + 2 * between
    linear = alpha.square() * torch.einsum("hef,hfe->h", G, V @ V.mT)[:, None]
    read_key = alpha * (Ga @ (V @ N.mT) * z).sum(-1)
    read_query = alpha * (GC * (V @ M.mT)[:, None]).sum((-2, -1))
    whole = square + linear + 2 * (read_key + read_query)
    return square.clamp(min=0).sqrt(), whole.clamp(min=0).sqrt()


def _distances(x: Tensor, y: Tensor, G: Tensor) -> Float[Tensor, "H t s"]:
    """Compute (y_s - x_t)^T G (y_s - x_t) for each pair."""
    own_x, own_y = ((z @ G * z).sum(-1) for z in (x, y))
    return (own_x[..., None] + own_y[:, None] - 2 * x @ G @ y.mT).clamp(min=0)


def _groups(length: int, cells: int) -> Iterator[slice]:
    """Split the query rows into groups whose intermediate arrays have at most `CELLS` values."""
    size = max(1, CELLS // max(1, cells))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


@dataclass(frozen=True)
class JacobianNorms(Drawable):
    """Frobenius norms of both paths for every head and every pair of positions; zero if s > t."""

    tokens: list[str]
    """[T] readable pieces of the text."""
    ids: list[int]
    """[T] token ids."""
    alpha: np.ndarray
    """[D, H, T, T] attention weights."""
    linear: np.ndarray
    """[D, H, T, T] norm of the linear path, alpha |L|."""
    bilinear: np.ndarray
    """[D, H, T, T] norm of the bilinear-softmax path; the diagonal includes the query's part."""
    total: np.ndarray
    """[D, H, T, T] norm of the sum of both paths, less than the sum of norms if they oppose each other."""

    @property
    def share(self) -> np.ndarray:
        """[D, H] share of the bilinear-softmax path in the summed norms of both paths, s < t; NaN for one token."""
        linear, bilinear = (_earlier(part) for part in (self.linear, self.bilinear))
        with np.errstate(invalid="ignore"):
            return bilinear / (linear + bilinear)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per head: layer, head, name, share, and the norms summed over s < t."""
        layer, head = (axis.ravel() for axis in np.indices(self.share.shape))
        return pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "name": [f"L{row}H{column}" for row, column in zip(layer, head, strict=True)],
                "share": self.share.ravel(),
                "linear": _earlier(self.linear).ravel(),
                "bilinear": _earlier(self.bilinear).ravel(),
                "total": _earlier(self.total).ravel(),
            }
        )

    def sentence(self) -> str:
        """Name the head whose bilinear-softmax share is largest."""
        return HeadPaths((self,), alone()).sentence()

    def figure(self) -> "go.Figure":
        """Draw the bilinear-softmax path's share of each head's Jacobian."""
        return HeadPaths((self,), alone()).figure()

    def pairs(self, layer: int, head: int) -> pd.DataFrame:
        """Return a table with one row per query and key of one head, s <= t: positions, tokens, alpha, three norms."""
        query, key = np.tril_indices(len(self.ids))
        return pd.DataFrame(
            {
                "query": query,
                "query_token": [self.tokens[t] for t in query],
                "key": key,
                "key_token": [self.tokens[s] for s in key],
                "alpha": self.alpha[layer, head, query, key],
                "linear": self.linear[layer, head, query, key],
                "bilinear": self.bilinear[layer, head, query, key],
                "total": self.total[layer, head, query, key],
            }
        )


class HeadPaths(Beside[JacobianNorms]):
    """Share of each path in every head of one model or several."""

    notes = ("0: the head's output depends on the content path alone. 1: it depends on the attention path alone.",)

    def sentence(self) -> str:
        """Name each model's head with the largest bilinear-softmax share, and the largest change between equal shapes.

        The sentence is empty for a single token.
        """
        norms = self.results
        if not all(np.isfinite(each.share).any() for each in norms):
            return "This text is a single token: there is no earlier token on which it could depend."
        best = [each.table().set_index("name")["share"] for each in norms]
        parts = [
            f"in {look.name} the attention path has its largest share in {shares.idxmax()} ({rate(shares.max())})"
            for look, shares in zip(self.looks, best, strict=True)
        ]
        if len(norms) == 2 and norms[0].share.shape == norms[1].share.shape:
            changes = norms[1].table().assign(change=(norms[1].share - norms[0].share).ravel())
            row = changes.iloc[int(np.nanargmax(changes["change"].abs()))]
            parts.append(f"the largest change between them is {signed(row['change'])} in {row['name']}")
        text = "; ".join(parts)
        return f"{text[:1].upper()}{text[1:]}."

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the bilinear-softmax path's share of each head's Jacobian."""
        from probe.autoregression.figures import path_shares

        shares = [each.share for each in self.results]
        height = min(520, 110 + 34 * max(len(each) for each in shares))
        title = "Share of the attention path in each head's Jacobian (E23)"
        return {"paths": titled(path_shares(shares, self.looks), title, height)}


def paths_seconds(lm: LM, text: str | Sequence[int]) -> float:
    """Estimate the seconds that the paths of all heads take, from a timing of the first block."""
    net = read_network(lm)
    state = next(iter(states(net, text_ids(lm.tokenizer, text))))
    start = time.perf_counter()
    block_norms(maps_to_stream(net.blocks[0]), net.blocks[0].norm(state))
    return len(net.blocks) * (time.perf_counter() - start)


@analysis(
    "autoregression",
    title="Content and attention path (E23)",
    equations=(E23,),
    seconds=paths_seconds,
    key="lag_paths",
    beside=HeadPaths,
)
@torch.no_grad()
def jacobian_norms(lm: LM, text: Text, tick: Tick = ignore) -> JacobianNorms:
    """Measure the share of each of two paths by which a head depends on earlier inputs.

    A change of an earlier input *s* changes a head's output at *t* in two ways: through the value that is read there
    (linear path, alpha L) and through the attention weights (bilinear-softmax path). The figure shows the share of the
    second path in the Frobenius norms, summed over all pairs *s* < *t* of the prompt. Norms are held fixed, and biases
    of the output are left out. No d by d matrix is formed.

    Args:
        lm: the model.
        text: text or its token ids.
        tick: function called with the share of the work done, after each block.

    Raises:
        ModelError: the equations do not describe the architecture.
        DataError: the text has no tokens or is longer than the model's context.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    net = read_network(lm)
    rows: list[tuple[Tensor, ...]] = []
    for index, (block, state) in enumerate(zip(net.blocks, states(net, ids), strict=False)):
        h = block.norm(state)
        weights, *norms = block_norms(maps_to_stream(block), h)
        if block.post_norm is not None:
            scale = block.post_norm.scale(attention(block.maps, h))
            norms = [norm / scale for norm in norms]
        rows.append((weights, *norms))
        tick((index + 1) / len(net.blocks))
    alpha, linear, bilinear_, total = (torch.stack(part).cpu().numpy() for part in zip(*rows, strict=True))
    return JacobianNorms(pieces(lm.tokenizer, ids), ids, alpha, linear, bilinear_, total)


def _earlier(norms: np.ndarray) -> np.ndarray:
    """Sum [D, H, T, T] values over the pairs s < t."""
    return np.tril(norms, -1).sum((-2, -1))


ROWS = 128
"""Number of rows of a block's Jacobian computed at once."""
NEAR = float(np.log(2.0))
"""Largest |log| of a singular value that counts as near 1: between 1/2 and 2."""


@dataclass(frozen=True)
class NeutralJacobian(Drawable):
    """Singular values of the Jacobian from each block to the end, and of each block alone."""

    position: int
    """Position p, counted from 0."""
    token: str
    """Token at the position, as a readable piece."""
    to_end: np.ndarray
    """[D, d] row l: singular values of d h_D[p] / d h_l[p], largest first; row 0 starts from the embedding.

    Values below the resolution of double precision (the largest times 2e-16 d) are NaN.
    """
    alone: np.ndarray
    """[D, d] row l: singular values of block l alone, d h_{l+1}[p] / d h_l[p], largest first."""

    @property
    def geometric_mean(self) -> np.ndarray:
        """[D] geometric mean of the singular values to the end; 1 is neutral.

        Its logarithm is log |det J_l| / d, and determinants multiply: it is exact where single values are not resolved.
        """
        with np.errstate(divide="ignore"):  # a rank-deficient block has determinant 0
            return np.exp(np.log(self.alone).mean(-1)[::-1].cumsum()[::-1])

    @property
    def spread(self) -> np.ndarray:
        """[D] standard deviation of the logs of the resolved singular values in nats; 0 for a scaled rotation."""
        return np.nanstd(np.log(self.to_end), axis=-1)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per layer l: layer, name, the summary to the end, that of block l (block_...).

        `distance` is the root mean square of the logarithms of the resolved singular values: 0 for a neutral Jacobian.
        `near_one` is the share of all values between 1/2 and 2, `unresolved` the number of NaN.
        """
        log = np.log(self.to_end)
        return pd.DataFrame(
            {
                "layer": range(len(log)),
                "name": ["embedding", *(f"block {layer}" for layer in range(len(log) - 1))],
                "geometric_mean": self.geometric_mean,
                "spread": self.spread,
                "distance": np.sqrt(np.nanmean(np.square(log), axis=-1)),
                "near_one": (np.abs(log) <= NEAR).mean(-1),
                "largest": self.to_end[:, 0],
                "smallest": np.nanmin(self.to_end, axis=-1),
                "unresolved": np.isnan(self.to_end).sum(-1),
                "block_geometric_mean": np.exp(np.log(self.alone).mean(-1)),
                "block_spread": np.log(self.alone).std(-1),
            }
        )

    def sentence(self) -> str:
        """State the smallest and the largest gain from a layer to the end."""
        return NeutralJacobians((self,), alone()).sentence()

    def figure(self) -> "go.Figure":
        """Draw the singular values from each layer to the end: median and middle 80 %."""
        return NeutralJacobians((self,), alone()).figure()


class NeutralJacobians(Beside[NeutralJacobian]):
    """Singular values of the Jacobians of one model or several."""

    def sentence(self) -> str:
        """State the smallest and the largest gain from a layer to the end, for every model."""
        words = []
        for look, each in zip(self.looks, self.results, strict=True):
            gain = each.table().set_index("name")["geometric_mean"]
            ends = ((gain.min(), gain.idxmin()), (gain.max(), gain.idxmax()))
            low, high = (f"{value:.2g} (from {name})" for value, name in ends)
            words.append(
                f"in {look.name} the Jacobian from each layer to the last scales the residual by {low} to {high}"
            )
        text = "; ".join(words)
        return f"{text[:1].upper()}{text[1:]}, as the geometric mean of the singular values; 1 keeps the size."

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the singular values from each layer to the end: median and middle 80 %."""
        from probe.autoregression.figures import singular_values

        title = "Singular values of the Jacobian from each layer to the end: median and middle 80 %"
        chart = singular_values([each.to_end for each in self.results], self.looks)
        return {"neutral": titled(chart, title, 330)}


def spectrum_seconds(lm: LM, text: str | Sequence[int], position: int) -> float:
    """Estimate the seconds that the Jacobians of all blocks take, from a timing of the first block."""
    net = read_network(lm)
    state = next(iter(states(net, text_ids(lm.tokenizer, text))))
    start = time.perf_counter()
    torch.linalg.svdvals(block_jacobian(net.blocks[0], state).double())
    return 1.3 * len(net.blocks) * (time.perf_counter() - start)  # 1.3: also those of the product


@analysis(
    "autoregression",
    title="Jacobian spectrum",
    equations=(SPECTRUM,),
    seconds=spectrum_seconds,
    key="lag_neutral",
    beside=NeutralJacobians,
)
@torch.no_grad()
def neutral_jacobian(
    lm: LM, text: Text, position: Annotated[int, Input(advanced=True)] = -1, tick: Tick = ignore
) -> NeutralJacobian:
    """Measure how much a change after each block still changes the final residual stream.

    Shown are the singular values of the Jacobian of the last residual stream with respect to that after layer *l*, at
    the last token of the prompt; norms are differentiated too. 1 is neutral: a change after the layer arrives at the
    end neither amplified nor attenuated. Values that double precision does not resolve are left out.

    J_l = d h_D[p] / d h_l[p] at one position p maps a change of the residual after block l (0: the embedding) to the
    change after the last block, before the final norm. Because attention is causal, h_l[p] reaches h_D[p] only through
    position p itself, so J_l is the product of one matrix per block, A_k = d h_k[p] / d h_{k-1}[p]. The cost is that of
    d backward passes over one token, not over the text.

    Args:
        lm: the model.
        text: text or its token ids.
        position: position p; negative values count from the end.
        tick: function called with the share of the work done, after each block.

    Raises:
        ModelError: the equations do not describe the architecture.
        DataError: the text has no tokens or is longer than the model's context, or the position is outside it.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    if not -len(ids) <= position < len(ids):
        raise DataError(
            f"Position {position} was requested in a text of {len(ids)} tokens: give a position inside the text."
        )
    at = position % len(ids)
    net = read_network(lm)
    rows = states(net, ids[: at + 1])
    product = torch.eye(net.d, dtype=torch.float64, device=net.W_emb.device)
    to_end, single = [], []
    for index, layer in enumerate(reversed(range(len(net.blocks)))):
        own = block_jacobian(net.blocks[layer], rows[layer]).double()
        product = product @ own
        to_end.append(_mask_rounding(torch.linalg.svdvals(product)).cpu().numpy())
        single.append(torch.linalg.svdvals(own).cpu().numpy())
        tick((index + 1) / len(net.blocks))
    token = pieces(lm.tokenizer, ids)[at]
    return NeutralJacobian(at, token, np.stack(to_end[::-1]), np.stack(single[::-1]))


def block_jacobian(block: Block, h: Float[Tensor, "T d"]) -> Float[Tensor, "d d"]:
    """Compute A = d h'[p] / d h[p] of one block at the last position p = T - 1, by automatic differentiation.

    h is the residual stream before the block.
    """
    return torch.func.jacrev(last_step(block, h[:-1]), chunk_size=ROWS)(h[-1])


def last_step(block: Block, past: Float[Tensor, "p d"]) -> Callable[[Float[Tensor, " d"]], Float[Tensor, " d"]]:
    """Return E6 at one position as a function of the residual there; the earlier positions are held fixed.

    Equal to the last row of `probe.model.equations.step`, at the cost of one token, since keys and values of earlier
    positions are cached.
    """
    maps, length = block.maps, len(past) + 1
    lag = torch.arange(length - 1, -1, -1, device=past.device)[None]
    window = slice(0 if maps.window is None else max(0, length - maps.window), None)
    before = block.norm(past)
    past_keys, past_values = keys(maps, before), values(maps, before)
    like = past.new_zeros(maps.M.shape[1])
    R = None if maps.rotary is None else maps.rotary.matrix(len(past), like)

    def of(x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        h = block.norm(x)
        q, k = maps.M @ h + maps.m_bias, maps.N_shared @ h + maps.n_bias_shared
        q, k = through(maps.q_norm, q), through(maps.k_norm, k)
        if R is not None:
            q, k = q @ R.T, k @ R.T
        v = maps.V_shared @ h + maps.v_bias_shared
        all_keys = torch.cat([past_keys, k[maps.group][:, None]], dim=1)
        all_values = torch.cat([past_values, v[maps.group][:, None]], dim=1)[:, window]
        scores = shape_scores(maps, torch.einsum("he,hse->hs", q, all_keys)[:, None] * maps.scale, lag)
        alpha = scores[:, 0, window].softmax(-1)
        mixture = torch.einsum("hs,hse->he", alpha, all_values)
        attended = torch.einsum("he,hde->d", mixture, maps.O) + maps.o_bias
        middle = x + through(block.post_norm, attended)
        written = block.ffn(block.ffn_norm(x if block.parallel else middle))
        return middle + through(block.ffn_post_norm, written)

    return of


def _mask_rounding(singular: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """Replace the smallest values, which are rounding errors, by NaN."""
    floor = singular[0] * len(singular) * torch.finfo(singular.dtype).eps
    return singular.masked_fill(singular < floor, torch.nan)
