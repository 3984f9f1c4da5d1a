"""The Jacobian of one attention head, split into its linear and its bilinear-softmax path (E23).

With y_s = O (V h_s + v_bias) and o_t = sum_s alpha_{t,s} y_s, a change of an earlier input h_s, s < t, moves o_t by

    d o_t / d h_s = alpha_{t,s} L + alpha_{t,s} (y_s - o_t) u_{t,s}^T,   u_{t,s} = d s_{t,s} / d h_s.

The first term moves what is read (linear path), the second where is looked (bilinear-softmax path). Without norms of
keys, u_{t,s} = scale N^T R_s^T R_t (M h_t + m_bias); the bias of V drops out of y_s - o_t. At s = t the input is also
the query: sum_j alpha_{t,j} (y_j - o_t) w_{t,j}^T joins the bilinear-softmax path, w_{t,j} = scale M^T R_t^T k_j.

Norms are held fixed: h is what attention reads, after the block's norm, and where queries and keys have norms of
their own (Qwen3), what these divide by is taken as a constant, so that k_s = R_s diag(weight) (N h_s) / scale_s is
linear in h_s. The split is of the head's own output, before the bias of O.

Axes: D blocks, H heads, T tokens (t query, s key), d width, dh head width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import DataError
from probe.model.equations import Maps, Norm, attend, bilinear, keys, queries, values

CELLS = 2**21
"""Numbers that an intermediate array may hold: query rows are taken in groups that keep to it."""


class Split(NamedTuple):
    """d o_t / d h_s of one head: rows are directions of the output, columns of the input."""

    linear: Float[Tensor, "d d"]
    """alpha_{t,s} L."""
    bilinear: Float[Tensor, "d d"]
    """alpha_{t,s} (y_s - o_t) u_{t,s}^T; at s = t with the query's part."""

    @property
    def total(self) -> Float[Tensor, "d d"]:
        """The whole Jacobian."""
        return self.linear + self.bilinear


@torch.no_grad()
def jacobian_split(maps: Maps, h: Float[Tensor, "T d"], head: int, t: int, s: int) -> Split:
    """E23 for one head and one pair of positions, as matrices.

    Args:
        maps: attention of a block (`probe.model.equations.read_network(lm).blocks[layer].maps`).
        h: what it reads, after the block's norm.
        head: query head.
        t: position of the query.
        s: position of the input that changes; zero matrices where s > t or s is out of the window.

    Raises:
        DataError: a position outside of the text or a head that the block does not have.
    """
    if not (0 <= t < len(h) and 0 <= s < len(h) and 0 <= head < len(maps.M)):
        raise DataError(
            f"Head {head} at positions {t} and {s} was asked for: this block has {len(maps.M)} heads and the text "
            f"{len(h)} tokens, counted from 0."
        )
    parts, row, O = _Parts.of(maps, h), slice(t, t + 1), maps.O[head]  # noqa: E741
    linear = parts.alpha[head, t, s] * maps.L(head)
    if s > t:
        return Split(linear, torch.zeros_like(linear))
    away = parts.v[head, s] - parts.mixed[head, t]
    slope = maps.N_shared[int(maps.group[head])].T @ _slopes(maps, parts, row)[head, 0, s]
    moved = parts.alpha[head, t, s] * torch.outer(O @ away, slope)
    if s == t:
        moved = moved + O @ _query_side(maps, parts, row)[head, 0] @ maps.M[head]
    return Split(linear, moved)


@torch.no_grad()
def block_norms(maps: Maps, h: Float[Tensor, "T d"]) -> tuple[Float[Tensor, "H T T"], ...]:
    """Attention and the Frobenius norms of the linear path, the bilinear-softmax path and their sum for one block.

    Everything happens in the width of a head: with L = O V and the rank-one matrix (O a)(N^T z)^T,

        |L|^2 = tr(G V V^T),   |O a| |N^T z| = sqrt(a^T G a) sqrt(z^T N N^T z),   their product a^T G V N^T z,

    where G = O^T O. Lengths of y_s - o_t are differences of larger numbers and taken in double precision.
    """
    parts = _Parts.of(maps, h)
    G, N, V = maps.O.mT @ maps.O, maps.N, maps.V
    size = torch.einsum("hef,hfe->h", G, V @ V.mT).clamp(min=0)
    linear = parts.alpha * size.sqrt()[:, None, None]
    away = _distances(parts.mixed.double(), parts.v.double(), G.double()).to(h.dtype)
    pulled, pulled_mean = (x @ (G @ V @ N.mT) for x in (parts.v, parts.mixed))
    second, third = torch.zeros_like(linear), torch.zeros_like(linear)
    for rows in _groups(len(h), len(G) * maps.M.shape[1] * max(len(h), maps.M.shape[1])):
        seen = slice(0, rows.stop)
        alpha, slope = parts.alpha[:, rows, seen], _slopes(maps, parts, rows)
        outer = away[:, rows, seen] * ((slope @ (N @ N.mT)[:, None]) * slope).sum(-1)
        cross = torch.einsum("htse,hse->hts", slope, pulled[:, seen])
        cross = cross - torch.einsum("htse,hte->hts", slope, pulled_mean[:, rows])
        second[:, rows, seen] = alpha * outer.clamp(min=0).sqrt()
        third[:, rows, seen] = alpha * (size[:, None, None] + 2 * cross + outer).clamp(min=0).sqrt()
        own, whole = _diagonal(maps, parts, rows, slope, G)
        at = torch.arange(rows.start, rows.stop, device=h.device)
        second[:, at, at], third[:, at, at] = own, whole
    return parts.alpha, linear, second, third


class _Parts(NamedTuple):
    """What every formula of a block needs."""

    alpha: Float[Tensor, "H T T"]
    q: Float[Tensor, "H T dh"]
    k: Float[Tensor, "H T dh"]
    v: Float[Tensor, "H T dh"]
    mixed: Float[Tensor, "H T dh"]
    q_gain: Float[Tensor, "H T 1"] | None
    k_gain: Float[Tensor, "H T 1"] | None

    @classmethod
    def of(cls, maps: Maps, h: Float[Tensor, "T d"]) -> "_Parts":
        alpha, v = attend(bilinear(maps, h)), values(maps, h)
        raw_q = torch.einsum("td,hed->hte", h, maps.M) + maps.m_bias[:, None]
        raw_k = torch.einsum("td,hed->hte", h, maps.N_shared) + maps.n_bias_shared[:, None]
        q_gain = None if maps.q_norm is None else maps.q_norm.scale(raw_q)
        k_gain = None if maps.k_norm is None else maps.k_norm.scale(raw_k)[maps.group]
        return cls(alpha, queries(maps, h), keys(maps, h), v, alpha @ v, q_gain, k_gain)


def _slopes(maps: Maps, parts: _Parts, rows: slice) -> Float[Tensor, "H t s dh"]:
    """u_{t,s} before N^T: how the score of query t changes with N h_s, for a group of queries and the keys they see."""
    turned = (parts.q[:, rows, None] * maps.scale).expand(-1, -1, rows.stop, -1)
    turned = turned if maps.rotary is None else maps.rotary.back(turned)
    return turned if parts.k_gain is None else _through(maps.k_norm, turned, parts.k_gain[:, None, : rows.stop])


def _query_side(maps: Maps, parts: _Parts, rows: slice) -> Float[Tensor, "H t dh dh"]:
    """sum_j alpha_{t,j} (v_j - mean) w_{t,j}^T before O and M: the covariance of values and slopes under alpha."""
    seen = slice(0, rows.stop)
    away = (parts.v[:, None, seen] - parts.mixed[:, rows, None]) * parts.alpha[:, rows, seen, None]
    spread = torch.einsum("htse,hsf->htef", away, parts.k[:, seen]) * maps.scale
    if maps.rotary is not None:
        spread = _back_at(maps, spread, rows)
    return spread if parts.q_gain is None else _through(maps.q_norm, spread, parts.q_gain[:, rows, None])


def _back_at(maps: Maps, spread: Float[Tensor, "H t e f"], rows: slice) -> Float[Tensor, "H t e f"]:
    """R_t^T along the last axis, for queries that start at `rows.start`."""
    assert maps.rotary is not None
    moved = spread.transpose(1, 2)  # positions come last but one
    front = moved.new_zeros(*moved.shape[:2], rows.start, moved.shape[-1])
    return maps.rotary.back(torch.cat([front, moved], dim=2))[:, :, rows.start :].transpose(1, 2)


def _through(norm: Norm | None, x: Float[Tensor, "... dh"], scale: Tensor) -> Float[Tensor, "... dh"]:
    """Transpose of a norm whose divisor is held fixed: weight, then centring, then division."""
    assert norm is not None
    return norm.centred(x * norm.weight) / scale


def _diagonal(maps: Maps, parts: _Parts, rows: slice, slope: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """Norms at s = t [H t] of the bilinear-softmax path, O (a z^T N + C M), and of the whole, O (alpha V + ...)."""
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
    read = alpha.square() * torch.einsum("hef,hfe->h", G, V @ V.mT)[:, None]
    read_key = alpha * (Ga @ (V @ N.mT) * z).sum(-1)
    read_query = alpha * (GC * (V @ M.mT)[:, None]).sum((-2, -1))
    whole = square + read + 2 * (read_key + read_query)
    return square.clamp(min=0).sqrt(), whole.clamp(min=0).sqrt()


def _distances(x: Tensor, y: Tensor, G: Tensor) -> Float[Tensor, "H t s"]:
    """(y_s - x_t)^T G (y_s - x_t) of each pair."""
    own_x, own_y = ((z @ G * z).sum(-1) for z in (x, y))
    return (own_x[..., None] + own_y[:, None] - 2 * x @ G @ y.mT).clamp(min=0)


def _groups(length: int, cells: int) -> Iterator[slice]:
    """Query rows in groups whose intermediate arrays keep to `CELLS` numbers."""
    size = max(1, CELLS // max(1, cells))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
