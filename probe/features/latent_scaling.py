"""Features of a crosscoder by what alignment did to them: shared, changed, new, lost, or an artefact of sparsity.

The norms of a feature's two decoders say in which model it is, but sparsity can take a decoder away where the model
does have the direction. Latent scaling (Minder et al. 2025, arXiv 2504.02922) finds this: it fits the factor by which
the feature, along the decoder of the model where it is stronger, explains what the crosscoder leaves of each model's
states (its error without the feature), and what it reconstructs. The ratio of the two models' factors is near 0 for a
feature that only one model has.

Axes: B tokens, M = 2 models (base, aligned), d width, F features.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError
from probe.features.autoencoder import Autoencoder
from probe.features.streamed_states import Piece, passes, states_of
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

ONE_SIDED, EVEN, ALIKE, ABSENT = 0.1, 0.1, 0.9, 0.5
"""Relative norm up to which a feature belongs to one model; distance from a half up to which it belongs to both; cosine
from which its decoders are alike; ratio of factors below which the other model lacks it."""
KINDS = ("shared", "changed", "new", "lost", "artefact", "silent")


@torch.no_grad()
def scale_states(model: Autoencoder, batches: Iterable[Float[Tensor, "B M d"]]) -> pd.DataFrame:
    """Return one row per feature of a crosscoder of two models, from their states.

    Args:
        model: the crosscoder; the base comes first.
        batches: states, each once.

    Returns:
        `feature`; `kind` (see `KINDS`); `relative_norm` (0: base only, 1: aligned only, 0.5: both equally); `cosine` of
        the two decoders; `error_ratio` and `reconstruction_ratio` (factor in the model where the decoder is shorter,
        divided by that in the other); `density` (share of tokens at which it is active).

    Raises:
        ConfigError: it is no crosscoder of two models.
    """
    models, _, features = model.shape
    if models != 2:
        raise ConfigError(f"Latent scaling compares 2 models, and these features are of {models}: fit a crosscoder.")
    sums = torch.zeros(2, *model.W_dec.shape, dtype=torch.float64)
    squares, fired, count = torch.zeros(features, dtype=torch.float64), torch.zeros(features, dtype=torch.float64), 0
    for states in batches:
        active = model.encode(states)
        guess = model.decode(active)
        for at, target in enumerate((states - guess, guess - model.b_dec)):
            sums[at] += torch.einsum("bf,bmd->fmd", active, target)
        squares += active.double().square().sum(0)
        fired += (active > 0).sum(0)
        count += len(states)
    decoder, norms = model.W_dec.double(), model.norms.double()
    strong = norms.argmax(1)
    rows = torch.arange(features)
    along = decoder[rows, strong]
    size = along.square().sum(-1).clamp(min=1e-12)
    factors = torch.einsum("tfmd,fd->tfm", sums, along) / (size * squares.clamp(min=1e-12))[:, None]
    factors[0] += torch.einsum("fmd,fd->fm", decoder, along) / size[:, None]  # the error without the feature
    ratios = factors[:, rows, 1 - strong] / factors[:, rows, strong]
    relative = ((norms[:, 1] - norms[:, 0]) / norms.amax(1).clamp(min=1e-12) + 1) / 2
    cosine = torch.nn.functional.cosine_similarity(decoder[:, 0], decoder[:, 1], dim=-1)
    table = pd.DataFrame(
        {
            "feature": rows.numpy(),
            "relative_norm": relative.numpy(),
            "cosine": cosine.numpy(),
            "error_ratio": ratios[0].numpy(),
            "reconstruction_ratio": ratios[1].numpy(),
            "density": (fired / max(count, 1)).numpy(),
        }
    )
    table.insert(1, "kind", _kinds(table))
    return table


def _kinds(table: pd.DataFrame) -> list[str]:
    """Return the kind of each feature."""
    alone = (table["relative_norm"] <= ONE_SIDED) | (table["relative_norm"] >= 1 - ONE_SIDED)
    absent = (table["error_ratio"].abs() < ABSENT) & (table["reconstruction_ratio"].abs() < ABSENT)
    even = ((table["relative_norm"] - 0.5).abs() <= EVEN) & (table["cosine"] >= ALIKE)
    kinds = pd.Series("changed", index=table.index)
    kinds[even] = "shared"
    kinds[alone & ~absent] = "artefact"
    kinds[alone & absent] = "new"
    kinds[alone & absent & (table["relative_norm"] < 0.5)] = "lost"
    kinds[table["density"] == 0] = "silent"
    return kinds.tolist()


def scale_latents(
    base: "LM", aligned: "LM", model: Autoencoder, pieces: Sequence[Piece], block: int, tick: Tick = ignore
) -> pd.DataFrame:
    """Return which features of a crosscoder two models share, and which alignment changed, added or took away.

    Args:
        base: base model.
        aligned: aligned model.
        model: crosscoder of both.
        pieces: texts; see `probe.features.streamed_states.read_pieces`.
        block: block after which it reads.
        tick: progress.

    Returns:
        One row per feature; see `scale_states`.

    Raises:
        ConfigError: it is no crosscoder of two models.
    """

    def read() -> Iterator[Tensor]:
        groups = list(passes(pieces))
        for done, group in enumerate(groups, start=1):
            yield torch.cat([each[1:] for each in states_of([base, aligned], [one.ids for one in group], block)])
            tick(done / len(groups))

    return scale_states(model, read())
