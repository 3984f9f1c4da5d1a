"""Least-squares concept erasure (LEACE; Belrose et al. 2023, arXiv 2306.03819).

An eraser is the affine map after which labels and states are uncorrelated, so that no linear classifier does better
than a constant (their theorem 3.1); among all such maps it changes the states least in the mean square (theorem 4.3).

Axes: N states, d width, k classes (or one number).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from probe.errors import DataError

LEACE = (
    r"r(x) = x - W^{+} P\, W \,(x - \mathbb{E}[x]), \quad W = \big(\Sigma_{xx}^{1/2}\big)^{+}, \quad"
    r"P = (W \Sigma_{xz})(W \Sigma_{xz})^{+}"
)
TOLERANCE = 1e-9
"""Largest share of the greatest singular value that counts as 0."""


@dataclass(frozen=True)
class Eraser:
    """Affine map that erases what is linearly known of labels."""

    mean: np.ndarray
    """[d] mean of the states."""
    oblique: np.ndarray
    """[d d] projection Q onto the decoded subspace, along what is kept."""

    @property
    def rank(self) -> int:
        """Number of directions that are erased."""
        return round(float(np.trace(self.oblique)))

    def decoded(self, states: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N d"]:
        """Return the part of each state that is erased, as a deviation from the mean."""
        return np.asarray((states - self.mean) @ self.oblique.T)

    def __call__(self, states: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N d"]:
        """Return the states without that part."""
        return np.asarray(states - self.decoded(states))


def one_hot(labels: Shaped[np.ndarray, " N"], numeric: bool) -> Float[np.ndarray, "N k"]:
    """Return labels as columns: one of numbers, or one for each class."""
    if numeric:
        return np.asarray(labels, dtype=float)[:, None]
    return (np.asarray(labels)[:, None] == np.unique(labels)[None]).astype(float)


def erase(
    states: Float[np.ndarray, "N d"],
    labels: Shaped[np.ndarray, " N"],
    *,
    numeric: bool = False,
    shrink: bool = False,
) -> Eraser:
    """Fit the eraser of labels.

    Args:
        states: N states.
        labels: class or number of each state.
        numeric: whether labels are numbers.
        shrink: whether the covariance of the states is shrunk towards a multiple of the identity (Ledoit and Wolf
            2004), as few states in many dimensions need it. Labels and states are uncorrelated either way.

    Raises:
        DataError: there are fewer than two states, or as many labels as states are not given.
    """
    x, z = np.asarray(states, dtype=float), one_hot(labels, numeric)
    if len(x) != len(z) or len(x) < 2:
        raise DataError(f"{len(x)} states have {len(z)} labels: give two states or more, and a label for each.")
    mean = x.mean(0)
    centred = x - mean
    if shrink:
        from sklearn.covariance import ledoit_wolf

        spread = ledoit_wolf(centred, assume_centered=True)[0]
    else:
        spread = centred.T @ centred / len(x)
    values, vectors = np.linalg.eigh(spread)
    kept = values > TOLERANCE * max(values.max(), 0)
    basis, sizes = vectors[:, kept], np.sqrt(values[kept])
    joint = basis.T @ (centred.T @ (z - z.mean(0)) / len(x)) / sizes[:, None]
    left, strengths, _ = np.linalg.svd(joint, full_matrices=False)
    least = TOLERANCE * np.sqrt(max(z.var(0).sum(), 0))  # a whitened correlation of 0 up to rounding
    inner = left[:, strengths > least]
    whitened = inner @ inner.T
    return Eraser(mean, (basis * sizes) @ whitened @ (basis / sizes).T)
