"""Features of a crosscoder: which ones base and aligned share, and which alignment changed, added or took away."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError
from probe.features.activating_texts import SHORT, TEXTS, Count, Data, Seed, distinct_pieces, top_texts_seconds
from probe.features.feature_files import Features
from probe.features.feature_table import describe_features, promoted_lists
from probe.features.known_fits import known_fits, open_fit, usual_fit
from probe.features.latent_scaling import KINDS, scale_latents
from probe.features.unit_activations import block_of, random_axes
from probe.model.lm import LM
from probe.plotting.notebook import Drawable, Look, clickable, pair, titled
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

RELATIVE = (
    r"\text{relative norm} = \tfrac12\Big(1 + \frac{\lVert d^{\text{aligned}} \rVert - \lVert d^{\text{base}} \rVert}"
    r"{\max(\lVert d^{\text{aligned}} \rVert, \lVert d^{\text{base}} \rVert)}\Big)"
)
NEEDS = (
    "No crosscoder of these two models was found: fit one with `probe features fit BASE ALIGNED`, or give its folder."
)
ORDER = ("new", "lost", "changed", "artefact", "shared", "silent")
LISTED = 500
"""Largest number of features of a kind in a table for reading."""
HEIGHT = 380
"""Height of the figure in pixels."""
Crosscoder = Annotated[
    str | Path | Features | None,
    Input(
        "Crosscoder",
        key="crosscoder",
        first=usual_fit,
        suggestions=known_fits,
        placeholder="none found: give a folder",
        type=Path | None,
    ),
]
Marked = Annotated[str | None, Input("Feature", key="changed_unit", advanced=True)]


@dataclass(frozen=True)
class FeatureChanges(Drawable):
    """Features of a crosscoder by what alignment did to them."""

    features: pd.DataFrame
    """One row per feature: `feature`, `kind`, `relative_norm`, `cosine`, `error_ratio`, `reconstruction_ratio`,
    `density` (see `probe.features.latent_scaling.scale_states`), what its top texts share (`property`, `token`,
    `share`), and the tokens that it promotes in each model: `base`, `aligned`; in a world `variable` and `f1`.
    """
    block: int
    """Block after which they read."""
    tokens: int
    """Number of tokens."""
    remarks: tuple[str, ...] = ()
    """Notes on rows that were left out."""
    looks: tuple[Look, Look] = field(default_factory=pair)
    """Names and colours of both models."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the kinds mean, and what a single fit cannot say."""
        return (
            "Shared: equally long decoders with a cosine of 0.9 or more. New, lost: one decoder alone, and latent"
            " scaling finds the direction in that model only; artefact: latent scaling finds it in both. Decoders begin"
            " equal in both models, so a short fit leans towards shared; refit with another seed before a single"
            " feature counts as changed.",
            *self.remarks,
        )

    @property
    def counts(self) -> pd.Series:
        """Number of features of each kind."""
        return self.features["kind"].value_counts().reindex(KINDS, fill_value=0)

    def sentence(self) -> str:
        """State how many features are shared, changed, new and lost, and the one that turned most."""
        count, (base, aligned) = self.counts, (look.name for look in self.looks)
        told = (
            f"Of {len(self.features):,} features after block {self.block} that {base} and {aligned} were fitted to"
            f" together, {count['shared']} are shared, {count['changed']} changed, {count['new']} new in {aligned} and"
            f" {count['lost']} lost; {count['artefact']} look new or lost and are in both, {count['silent']} are"
            f" silent on {self.tokens:,} tokens."
        )
        changed = self.features[self.features["kind"] == "changed"]
        if changed.empty:
            return told
        most = changed.iloc[int(changed["cosine"].to_numpy().argmin())]
        return (
            f"{told} {most['feature']} turned most: its decoders have a cosine of {most['cosine']:.2f}".replace(
                "-", "\u2212"
            )
            + "."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the features."""
        return {"changes": self.features}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the features of each kind, those that differ most first."""
        base, aligned = (look.name for look in self.looks)
        names = {"feature": "feature", "relative_norm": "relative norm", "cosine": "cosine", "density": "active"}
        names |= {"variable": "tells", "f1": "F1"} if "f1" in self.features else {}
        found = {}
        for kind in ORDER:
            rows = self.features[self.features["kind"] == kind].sort_values("cosine", kind="stable").head(LISTED)
            if len(rows):
                shown = rows[list(names)].rename(columns=names)
                shown["top texts share"] = rows["property"].map(SHORT) + " " + rows["token"]
                found[kind.capitalize()] = shown.assign(
                    **{f"promotes in {base}": rows["base"], f"in {aligned}": rows["aligned"]}
                )
        return found

    def figures(self, unit: Marked = None) -> "dict[str, go.Figure]":
        """Draw each feature by relative norm and cosine of its two decoders.

        Args:
            unit: feature to mark.
        """
        from probe.features.figures import features_by_change

        chart = features_by_change(self.features, [look.name for look in self.looks], unit)
        title = f"Features of {self.looks[0].name} and {self.looks[1].name} after block {self.block}"
        return {"changes": titled(clickable(chart, unit="customdata"), title, HEIGHT)}


def changes_seconds(base: LM, aligned: LM, features: Any = None, **rest: Any) -> float:
    """Estimate the seconds that reading the texts takes."""
    return 2 * (top_texts_seconds(base, **rest) + top_texts_seconds(aligned, **rest)) if features else 0.0


@analysis(
    "features", title="Base against aligned", equations=(RELATIVE,), seconds=changes_seconds, key="features_changed"
)
def compare_features(
    base: LM,
    aligned: LM,
    *,
    features: Crosscoder = None,
    data: Data = None,
    n: Count = TEXTS,
    seed: Seed = 1,
    tick: Tick = ignore,
) -> FeatureChanges:
    """Show which features of a crosscoder two models share, and which alignment changed, added or took away.

    A crosscoder reads the states of both models together and has a decoder for each. *Relative norm* is 0 for a feature
    of the base alone, 1 for one of the aligned model alone, and 0.5 where both decoders are equally long; *cosine* is
    that of the two decoders. Sparsity can take a decoder away where the model does have the direction, so a one-sided
    feature counts as new or lost only where latent scaling (Minder et al. 2025) finds no such direction in the other
    model's error and reconstruction. Promoted tokens are those of each model's own decoder and unembedding.

    Args:
        base: base model.
        aligned: aligned model.
        features: crosscoder of both: a fit that is found for them, or a folder (`probe features fit BASE ALIGNED`).
        data: file of texts; by default documents of the models' world, or the built-in question sets.
        n: number of texts that are drawn.
        seed: seed of the texts.
        tick: progress.

    Raises:
        ConfigError: there is no crosscoder, or it does not fit the models.
        DataError: the texts or the features cannot be read.
    """
    lms = [base, aligned]
    found = open_fit(features, *lms)
    if found is None:
        raise ConfigError(NEEDS)
    block = block_of(found)
    texts, remarks = distinct_pieces(lms, data, n, seed)
    table = scale_latents(base, aligned, found.model, texts, block, between(tick, 0, 0.4))
    axes = random_axes(base.bridge.cfg.d_model, seed=seed)
    about, _, tokens = describe_features(lms, found, texts, axes, between(tick, 0.4, 1.0))
    table = pd.concat([about["feature"], table.drop(columns="feature"), about.drop(columns="feature")], axis=1)
    for at, (name, lm) in enumerate(zip(("base", "aligned"), lms, strict=True)):
        table[name] = promoted_lists(lm, found.model.W_dec[:, at])["promotes"]
    return FeatureChanges(table, block, tokens, remarks)
