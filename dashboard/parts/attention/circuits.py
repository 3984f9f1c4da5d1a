"""Circuits of the Attention page: what the weights alone say of a head, and of its composition with other heads."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.figure import figure
from dashboard.parts.attention.choices import take_head
from dashboard.parts.attention.scores import allowed
from dashboard.parts.attention.source import Head, Reading, Side
from dashboard.text import note
from probe.attention.head_figures import head_grids, spectra

if TYPE_CHECKING:
    from probe.attention.circuits import Composition, Spectra
    from probe.model.lm import LM

SMOL_HEADS = 270
"""Heads of SmolLM2-135M, on which the seconds below were measured (one core): costs of other models are scaled."""


def circuits(reading: Reading, head: Head) -> None:
    """What the weights alone say of the chosen head: spectra, copying, and its composition with other heads."""
    name, sides = f"L{head[0]}H{head[1]}", [side for side in reading.sides if side.lm is not None and side.has(head)]
    what = f"Spectra of all heads of {' and '.join(side.name for side in sides)}"
    if not allowed("att-circuits", _spectra_seconds(sides), what):
        return
    maps = [(side, models.computed(_spectra, side.lm, say="Decomposing QK and OV")) for side in sides if side.lm]
    left, right = st.columns([5, 4], gap="medium")
    with left:
        panels = [
            ("QK", [(side.name, found.qk[head]) for side, found in maps]),
            ("OV", [(side.name, found.ov[head]) for side, found in maps]),
        ]
        chart = spectra(panels, colours=[side.colour for side, _ in maps])
        table = pd.concat([found.table().assign(of=side.name) for side, found in maps], ignore_index=True)
        figure(chart, table, "att-spectra", title=f"Singular values of {name}", height=300, source=reading.source)
        ranks = "; ".join(
            f"{side.name}: QK {found.qk_rank[head]:.1f}, OV {found.ov_rank[head]:.1f} of {found.qk.shape[-1]}"
            for side, found in maps
        )
        note(f"Effective rank (exponential of the entropy of the singular values): {ranks}.")
    with right:
        copying(reading, sides, head)
    composed(reading, head)


def copying(reading: Reading, sides: list[Side], head: Head) -> None:
    """The copying score of all heads from their weights."""
    readers = [side for side in sides if side.lm is not None and side.lm.readout == "tokens"]
    if not readers:
        note("A model of one number has no output tokens to copy to.")
        return
    panels = [
        (side.name, models.computed(_copying, side.lm, say="Eigenvalues of the OV circuits"))
        for side in readers
        if side.lm
    ]
    chart = head_grids(panels, "copying", signed=(True,), chosen=head, width=400)
    table = pd.concat(
        [
            pd.DataFrame(values)
            .rename_axis("layer")
            .reset_index()
            .melt("layer", var_name="head", value_name="copying")
            .assign(of=label)
            for label, values in panels
        ],
        ignore_index=True,
    )
    title = "Copying by the weights (click one)"
    figure(chart, table, "att-copying", title=title, source=reading.source, on_select=take_head)
    note(
        "Sum of the real parts over the sum of the sizes of the eigenvalues of W_E W_OV W_U: 1 copies, \u22121 inverts."
    )


def composed(reading: Reading, head: Head) -> None:
    """How the chosen head reads earlier heads and is read by later ones, above random maps of the same shapes."""
    side, name = reading.last, f"L{head[0]}H{head[1]}"
    if side.lm is None:
        return
    if not allowed("att-composition", _composition_seconds(side), f"Composition of all pairs of heads of {side.name}"):
        return
    panels, parts = [], []
    for kind in ("Q", "K", "V"):
        found = models.computed(_composition, side.lm, say=f"Composing heads ({kind})", steps=True, kind=kind)
        grid = partners(found.excess, head)
        panels.append((f"{kind} (random {found.baseline[0]:.3f} \u00b1 {found.baseline[1]:.3f})", grid))
        layers, heads = np.nonzero(np.isfinite(grid))
        ways = ["writes into" if layer > head[0] else "is read by" for layer in layers]
        parts.append(
            pd.DataFrame(
                {"kind": kind, "layer": layers, "head": heads, "way": ways, "excess": grid[layers, heads]}
            ).assign(chosen=name)
        )
    chart = head_grids(panels, "excess", signed=(True,), chosen=head, digits=3)
    title = f"Composition of {name} of {side.name}: with earlier heads above its row, with later ones below (click one)"
    table = pd.concat(parts, ignore_index=True)
    figure(chart, table, "att-composition", title=title, source=reading.source, on_select=take_head)
    note(
        f"Above its row: how strongly {name} reads, as query, key or value, what an earlier head writes. Below: how "
        "strongly later heads read what it writes. Frobenius norm of the product over the product of the norms (Elhage "
        "et al. 2021), minus the mean for random maps of the same shapes; that mean and its standard deviation stand "
        "in the titles."
    )


def partners(excess: np.ndarray, head: Head) -> np.ndarray:
    """[D H] excess composition of one head with every other: as the reader above its own layer, as the writer below.

    Args:
        excess: [D H D H] writer, then reader; NaN where the reader is not later.
        head: the one.
    """
    reads, writes = excess[:, :, head[0], head[1]], excess[head[0], head[1]]
    return np.where(np.isfinite(reads), reads, writes)


def _spectra_seconds(sides: list[Side]) -> float:
    """What spectra and copying of all heads cost where they are not there yet."""
    total = 0.0
    for side in sides:
        if side.lm is None or models.ready(_copying, side.lm) is not None:
            continue
        heads = side.read.pattern.shape[0] * side.read.pattern.shape[1]
        vocabulary, width = side.lm.model.get_input_embeddings().weight.shape
        total += 1.4 * heads / SMOL_HEADS * width / 576 * (side.lm.bridge.cfg.d_head / 64) ** 2
        total += 0.8 * vocabulary / 49152 * (width / 576) ** 2
    return total


def _composition_seconds(side: Side) -> float:
    """What the composition of all pairs of heads costs where it is not there yet."""
    if side.lm is None or models.ready(_composition, side.lm, kind="V") is not None:
        return 0.0
    heads = side.read.pattern.shape[0] * side.read.pattern.shape[1]
    return 3 * 1.7 * (heads / SMOL_HEADS) ** 2 * (side.lm.bridge.cfg.d_head / 64) ** 2


def _spectra(lm: "LM") -> "Spectra":
    from probe.attention.circuits import spectra

    return spectra(lm)


def _copying(lm: "LM") -> np.ndarray:
    from probe.attention.circuits import copying_score

    return copying_score(lm)


def _composition(lm: "LM", kind: str, tick: object) -> "Composition":
    from probe.attention.circuits import composition

    return composition(lm, kind, tick=tick)  # type: ignore[arg-type]
