"""The neutral-Jacobian test: how much the residual stream after block l still moves the final one (METRICS).

J_l = d h_D[p] / d h_l[p] at one position p, from the residual after block l (0: the embedding) to that after the last
block, before the final norm. Everything is differentiated, norms too. Singular values near 1 are neutral: what block l
leaves is carried to the end neither grown nor shrunk. Because attention is causal, h_l[p] reaches h_D[p] only through
position p itself, so that J_l is the product of one matrix for each block, A_k = d h_k[p] / d h_{k-1}[p]: as costly as
d backward passes over one token, and not over the text.

Axes: D blocks, H heads, T tokens, d width, dh head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import DataError
from probe.model.equations import Block, keys, read_network, states, values
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import pieces, text_ids
from probe.ticks import Tick, ignore

ROWS = 128
"""Rows of a block's Jacobian that are computed at once."""
NEAR = float(np.log(2.0))
"""A singular value counts as near 1 between 1/2 and 2."""


@dataclass(frozen=True)
class NeutralJacobian:
    """Singular values of the Jacobian from each block to the end, and of each block alone."""

    position: int
    """The position p, from 0."""
    token: str
    """Its token as a readable piece."""
    to_end: np.ndarray
    """[D, d] row l: singular values of d h_D[p] / d h_l[p], largest first; row 0 starts from the embedding.

    NaN where one is smaller than double precision resolves beside the largest (d times 2e-16 of it).
    """
    alone: np.ndarray
    """[D, d] row l: singular values of block l alone, d h_{l+1}[p] / d h_l[p], largest first."""

    @property
    def geometric_mean(self) -> np.ndarray:
        """[D] geometric mean of the singular values to the end; 1 is neutral.

        Its logarithm is log |det J_l| / d, and determinants multiply: it is exact where single values are not resolved.
        """
        with np.errstate(divide="ignore"):  # a block that loses a direction has the determinant 0
            return np.exp(np.log(self.alone).mean(-1)[::-1].cumsum()[::-1])

    @property
    def spread(self) -> np.ndarray:
        """[D] standard deviation of the logarithms of those that are resolved, in nats; 0 is a scaled rotation."""
        return np.nanstd(np.log(self.to_end), axis=-1)

    def table(self) -> pd.DataFrame:
        """One row for each layer l: layer, name, the summary to the end and, with the prefix block_, of block l alone.

        `distance` is the root mean square of the logarithms of the resolved singular values: 0 for a neutral Jacobian.
        `near_one` is the share of all that lies between 1/2 and 2, `unresolved` how many are NaN.
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


@torch.no_grad()
def neutral_jacobian(lm: LM, text: str | Sequence[int], position: int = -1, tick: Tick = ignore) -> NeutralJacobian:
    """Singular values of d h_D[p] / d h_l[p] for each block l.

    Args:
        lm: the model.
        text: a text or its token ids.
        position: the position p; negative counts from the end.
        tick: called after each block.

    Raises:
        ModelError: the equations do not describe the architecture.
        DataError: a text without tokens or one longer than the model's context, or a position outside of it.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    if not -len(ids) <= position < len(ids):
        raise DataError(f"Position {position} was asked for in a text of {len(ids)} tokens: give one inside.")
    at = position % len(ids)
    net = read_network(lm)
    rows = states(net, ids[: at + 1])
    product = torch.eye(net.d, dtype=torch.float64, device=net.W_emb.device)
    to_end, alone = [], []
    for done, layer in enumerate(reversed(range(len(net.blocks)))):
        own = block_jacobian(net.blocks[layer], rows[layer]).double()
        product = product @ own
        to_end.append(_resolved(torch.linalg.svdvals(product)).cpu().numpy())
        alone.append(torch.linalg.svdvals(own).cpu().numpy())
        tick((done + 1) / len(net.blocks))
    token = pieces(lm.tokenizer, ids)[at]
    return NeutralJacobian(at, token, np.stack(to_end[::-1]), np.stack(alone[::-1]))


def block_jacobian(block: Block, h: Float[Tensor, "T d"]) -> Float[Tensor, "d d"]:
    """A = d h'[p] / d h[p] of one block at the last position p = T - 1 by autograd; h is the residual before it."""
    return torch.func.jacrev(last_step(block, h[:-1]), chunk_size=ROWS)(h[-1])


def last_step(block: Block, past: Float[Tensor, "p d"]) -> Callable[[Float[Tensor, " d"]], Float[Tensor, " d"]]:
    """E6 at one position as a function of the residual there, the earlier ones being held fixed.

    Equal to the last row of `probe.model.equations.step`, at the cost of one token: keys and values of the past are
    cached.
    """
    maps, seen = block.maps, len(past) + 1
    window = slice(0 if maps.window is None else max(0, seen - maps.window), None)
    before = block.norm(past)
    past_keys, past_values = keys(maps, before), values(maps, before)
    like = past.new_zeros(maps.M.shape[1])
    R = None if maps.rotary is None else maps.rotary.matrix(len(past), like)

    def of(x: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        h = block.norm(x)
        q, k = maps.M @ h + maps.m_bias, maps.N_shared @ h + maps.n_bias_shared
        q = q if maps.q_norm is None else maps.q_norm(q)
        k = k if maps.k_norm is None else maps.k_norm(k)
        if R is not None:
            q, k = q @ R.T, k @ R.T
        v = maps.V_shared @ h + maps.v_bias_shared
        all_keys = torch.cat([past_keys, k[maps.group][:, None]], dim=1)[:, window]
        all_values = torch.cat([past_values, v[maps.group][:, None]], dim=1)[:, window]
        alpha = (torch.einsum("he,hse->hs", q, all_keys) * maps.scale).softmax(-1)
        mixed = torch.einsum("hs,hse->he", alpha, all_values)
        attended = x + torch.einsum("he,hde->d", mixed, maps.O) + maps.o_bias
        return attended + block.ffn(block.ffn_norm(x if block.parallel else attended))

    return of


def _resolved(singular: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """NaN in place of what rounding has made of the smallest ones."""
    floor = singular[0] * len(singular) * torch.finfo(singular.dtype).eps
    return singular.masked_fill(singular < floor, torch.nan)
