"""Attention rollout: how much of each token a position can have seen through the blocks (Abnar and Zuidema 2020).

Each block passes on `residual` of a state as it is and mixes the rest by the mean attention of its heads; the product
of these matrices over the blocks says where a state comes from, as if values and MLPs changed nothing.

Axes: D blocks, H heads, T tokens.
"""

import numpy as np
import pandas as pd

from probe.analyses.attention import Attention
from probe.errors import ConfigError, DataError


def rollout(read: Attention | np.ndarray, residual: float = 0.5, value_norms: np.ndarray | None = None) -> np.ndarray:
    """[D T T] after each block, the share of every earlier token in each position; rows sum to 1.

    Args:
        read: attention, or its pattern [D H T T].
        residual: share of a state that passes a block unmixed, 0 to 1; 0.5 in the paper.
        value_norms: [D H T] |L h_s| (`probe.analyses.stages.value_norms`): heads and keys count by what they
            write (pattern times norm, each row scaled to sum 1) and not all alike.

    Raises:
        ConfigError: a residual share outside of 0 to 1.
        DataError: arrays of other shapes.
    """
    pattern = read.pattern if isinstance(read, Attention) else np.asarray(read)
    if pattern.ndim != 4 or pattern.shape[2] != pattern.shape[3]:
        raise DataError(f"A pattern has the axes blocks, heads, queries, keys; this one has shape {pattern.shape}.")
    if not 0 <= residual <= 1:
        raise ConfigError(f"The residual share {residual} lies outside of 0 to 1: the paper takes 0.5.")
    if value_norms is not None and value_norms.shape != pattern.shape[:3]:
        raise DataError(f"Value norms have the shape {pattern.shape[:3]} of the pattern, and not {value_norms.shape}.")
    if value_norms is None:
        mixing = pattern.mean(1)
    else:
        mixing = (pattern * value_norms[:, :, None]).sum(1)
        mixing = mixing / mixing.sum(-1, keepdims=True)
    steps = residual * np.eye(pattern.shape[-1]) + (1 - residual) * mixing.astype(np.float64)
    seen = [steps[0]]
    for step in steps[1:]:
        seen.append(step @ seen[-1])
    return np.stack(seen).astype(np.float32)


def rollout_table(seen: np.ndarray, tokens: list[str]) -> pd.DataFrame:
    """One row for each layer and pair at or below the diagonal: layer, position, token, source, source_token, share."""
    layer, position, source = (axis.ravel() for axis in np.indices(seen.shape))
    names = np.array(tokens, dtype=object)
    table = pd.DataFrame(
        {
            "layer": layer,
            "position": position,
            "token": names[position],
            "source": source,
            "source_token": names[source],
            "share": seen.ravel(),
        }
    )
    return table[table["source"] <= table["position"]].reset_index(drop=True)
