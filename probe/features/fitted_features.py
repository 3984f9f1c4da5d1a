"""Features of one model or two, from texts to a measured autoencoder: what `probe features fit` runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.features.feature_files import Features
from probe.features.fitting import Fit, FitSettings, fit
from probe.features.measures import Reconstruction, measure
from probe.features.streamed_states import StateBuffer, hold_out, read_pieces, require_models
from probe.interventions.sites import Site
from probe.numbers import rate
from probe.rows import EVERY, Selection
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

WIDER = 8
"""Default number of features, in widths of the residual stream."""
FILLED = 0.2
"""Share of the progress at which the first states are read."""


@dataclass(frozen=True)
class FittedFeatures:
    """Autoencoder that was fitted to texts, with its measures on held-out ones."""

    features: Features
    """Autoencoder, with the models and block it was fitted to."""
    fit: Fit
    """Course of the fit."""
    measured: Reconstruction
    """Measures on held-out texts."""
    names: tuple[str, ...]
    """Names of the models."""
    notes: tuple[str, ...] = ()
    """Notes on rows that were left out."""

    def sentence(self) -> str:
        """State what the autoencoder explains, how sparse it is, and what the models lose with it."""
        _, _, size = self.features.model.shape
        each = [
            f"{rate(one.explained)} of the variance of {name}, of whose loss they recover {rate(one.recovered)}"
            for name, one in zip(self.names, self.measured.models, strict=True)
        ]
        return (
            f"After block {self.features.block}, {self.measured.active:.1f} of {size:,} features are active at a"
            f" token of held-out texts. They explain {', and '.join(each)}. {rate(self.measured.dead)} of the features"
            f" are active at none of {self.measured.tokens:,} tokens."
        )

    def table(self) -> pd.DataFrame:
        """Return one row per model: `model`, `explained`, `loss`, `spliced`, `zeroed` (nats a token), `recovered`."""
        rows = [
            {"model": name, **vars(one), "recovered": one.recovered}
            for name, one in zip(self.names, self.measured.models, strict=True)
        ]
        return pd.DataFrame(rows)


def usual_size(lms: "Sequence[LM]") -> int:
    """Return the default number of features."""
    return WIDER * int(lms[0].bridge.cfg.d_model)


def fit_features(
    lms: "Sequence[LM]",
    block: int,
    settings: FitSettings | None = None,
    data: Path | None = None,
    selection: Selection = EVERY,
    strict: bool = False,
    tick: Tick = ignore,
    stop: Callable[[], bool] = lambda: False,
) -> FittedFeatures:
    """Fit an autoencoder to the residual stream of a model after a block, or a crosscoder to that of several.

    A tenth of the texts is held out, and the autoencoder is measured on it.

    Args:
        lms: one model, or a base and an aligned model.
        block: block after which states are read.
        settings: settings of the fit; by default eight features per dimension.
        data: file of texts; by default documents of the models' world, or the built-in question sets.
        selection: rows of the file to use; without a file, number of documents and their seed.
        strict: refuse a file with an invalid row.
        tick: progress.
        stop: function that says whether to end after the present step, with what was learned until then.

    Raises:
        ConfigError: a model lacks the block, the widths differ, or a setting is invalid.
        DataError: the texts cannot be read or are too few, or the models cannot be read together.
        TrainingStopped: the loss is not a number.
    """
    require_models(lms, block)
    settings = FitSettings(usual_size(lms)) if settings is None else settings
    pieces, notes = read_pieces(lms, data, selection, strict)
    learned, held = hold_out(pieces, settings.seed)
    buffer = StateBuffer(lms, learned, block, settings.seed, tick=between(tick, 0.0, FILLED))
    found = fit(buffer.batches(settings.batch_size), settings, between(tick, FILLED, 0.9), stop, lms[-1].device)
    measured = measure(lms, found.model, held, block, between(tick, 0.9, 1.0))
    names = tuple(str(lm.ref or f"model {at}") for at, lm in enumerate(lms, start=1))
    about: dict[str, Any] = {
        "model_name": names[0],
        "hook_name": Site("resid", block).hook,
        "model_names": list(names),
        "fingerprints": [lm.fingerprint for lm in lms],
        "k": settings.k,
        "steps": found.steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "seed": settings.seed,
    }
    return FittedFeatures(Features(found.model, block, about), found, measured, names, notes)
