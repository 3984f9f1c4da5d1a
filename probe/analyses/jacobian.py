"""How much of what moves a head's output is what it reads, and how much is where it looks: E23 over a text.

`probe.analyses.jacobian_split` has the formulas; here are their norms for every head and pair of positions.

Axes: D blocks, H heads, T tokens (t query, s key).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe.analyses.jacobian_split import Split, block_norms, jacobian_split
from probe.model.equations import read_network, states
from probe.model.lm import LM
from probe.model.scoring import check_lengths
from probe.model.text import pieces, text_ids
from probe.ticks import Tick, ignore

__all__ = ["JacobianNorms", "Split", "block_norms", "jacobian_norms", "jacobian_split"]


@dataclass(frozen=True)
class JacobianNorms:
    """Frobenius norms of both paths for every head and every pair of positions; zero where s > t."""

    tokens: list[str]
    """Readable pieces of the text."""
    ids: list[int]
    """Their ids."""
    alpha: np.ndarray
    """[D, H, T, T] attention."""
    linear: np.ndarray
    """[D, H, T, T] norm of the linear path, alpha |L|."""
    bilinear: np.ndarray
    """[D, H, T, T] norm of the bilinear-softmax path; the diagonal holds the query's part too."""
    total: np.ndarray
    """[D, H, T, T] norm of their sum, which is less than the sum of norms where they oppose each other."""

    @property
    def share(self) -> np.ndarray:
        """[D, H] share of the bilinear-softmax path: its norms over s < t, by the norms of both; NaN for one token."""
        linear, bilinear = (_earlier(part) for part in (self.linear, self.bilinear))
        with np.errstate(invalid="ignore"):
            return bilinear / (linear + bilinear)

    def table(self) -> pd.DataFrame:
        """One row a head: layer, head, name, share, and the norms of each path and of the whole, summed over s < t."""
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

    def pairs(self, layer: int, head: int) -> pd.DataFrame:
        """One row for each query and key of one head, s <= t: positions, tokens, alpha and the three norms."""
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


@torch.no_grad()
def jacobian_norms(lm: LM, text: str | Sequence[int], tick: Tick = ignore) -> JacobianNorms:
    """Norms of both paths of E23 for every head and pair of positions of a text, without matrices of d by d.

    Args:
        lm: the model.
        text: a text or its token ids.
        tick: called after each block.

    Raises:
        ModelError: the equations do not describe the architecture.
        DataError: a text without tokens or one longer than the model's context.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    net = read_network(lm)
    rows: list[tuple[Tensor, ...]] = []
    for index, (block, state) in enumerate(zip(net.blocks, states(net, ids), strict=False)):
        rows.append(block_norms(block.maps, block.norm(state)))
        tick((index + 1) / len(net.blocks))
    alpha, linear, bilinear_, total = (torch.stack(part).cpu().numpy() for part in zip(*rows, strict=True))
    return JacobianNorms(pieces(lm.tokenizer, ids), ids, alpha, linear, bilinear_, total)


def _earlier(norms: np.ndarray) -> np.ndarray:
    """Sum over the pairs s < t."""
    return np.tril(norms, -1).sum((-2, -1))
