"""Figures of the Interventions page about one grid of sites and the site that was chosen on it."""

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from dashboard.components.figure import figure
from dashboard.components.tokens import token_rows
from dashboard.pages.interventions.choices import AT, HEAD, KIND, LAYER, TOKEN
from dashboard.pages.interventions.compute import GridView, nulls_of
from probe.interventions.figures import (
    effect_and_nulls,
    effect_grid,
    exact_against_estimate,
    layer_labels,
    probabilities,
)
from probe.plotting.chips import Chip, TokenRow

if TYPE_CHECKING:
    from probe.interventions.controls import Outcome

HEIGHT = 300


def grid_figure(view: GridView, chosen: tuple[int, int], source: dict, differing: list[int]) -> None:
    """Draw the main figure: every site of the kind."""
    what = {"head": "head", "resid": "residual after each block", "mlp": "MLP output", "attn": "attention output"}
    verb = "Patch" if view.way.do == "patch" else "Ablate"
    where = "" if view.way.kind != "head" or view.way.at is None else f" at token {view.way.at}"
    kind = f"{verb} each {what[view.way.kind]}{where}" if view.way.kind != "resid" else f"{verb} the {what['resid']}"
    chart = effect_grid(
        view.values,
        view.grid.layers,
        view.columns,
        label=view.label if view.grid.exact else f"estimated {view.label}",
        axis="head" if view.way.kind == "head" else "token",
        chosen=chosen,
        marked=differing if view.way.kind != "head" else (),
        bound=max(1.0, float(np.abs(view.values).max())) if view.share else None,
        height=HEIGHT,
    )
    title = f"{kind}{'' if view.grid.exact else ' (estimate)'}: click one"
    figure(chart, view.grid.table(), "int-grid", title=title, source=source, on_select=take)


def take(points: list[dict]) -> None:
    """Choose the site that was clicked on the grid."""
    custom = points[0].get("customdata")
    if custom:
        st.session_state[LAYER] = int(custom[0])
        st.session_state[HEAD if st.session_state.get(KIND) == "heads" else TOKEN] = int(custom[1])


def outcome_figures(outcome: "Outcome", view: GridView, site_name: str, colour: str, source: dict) -> None:
    """Draw the chosen site: answers before and after, and the effect beside its nulls."""
    table = outcome.table()
    if outcome.answers:
        controls = [(null.name, null.logprobs) for null in outcome.nulls]
        chart = probabilities(outcome.answers, outcome.before, outcome.after, controls, colour=colour)
        title = f"{site_name}: answers before and after"
        figure(chart, table, "int-answers", title=title, height=HEIGHT // 2 + 20, source=source)
    of = f"effect on {view.question.name}"
    label = view.axis if view.share else f"{of}, nats" if outcome.answers else of
    nulls = [(null.name, null.effects) for null in nulls_of(outcome, view)]
    chart = effect_and_nulls(outcome.effect, nulls, label=label, colour=colour, scale=view.unit)
    title = "The effect beside its null controls" if outcome.answers else f"{site_name}: effect beside its nulls"
    height = HEIGHT // 2 - 60 if outcome.answers else HEIGHT
    figure(chart, table, "int-nulls", title=title, height=height, source=source)


def estimate_figures(exact: GridView, estimate: GridView, colour: str, chosen: tuple[int, int], source: dict) -> str:
    """Draw the estimate, and the exact grid against it; return their correlation in words."""
    from probe.interventions.patching import agreement

    correlation = agreement(exact.grid.effects, estimate.grid.effects)
    left, right = st.columns([1, 1], gap="medium")
    bound = max(1.0 if exact.share else 0.0, float(np.abs([exact.values, estimate.values]).max()))
    name = "Attribution patching" if exact.way.do == "patch" else "Gradient times change"
    with left:
        chart = effect_grid(
            estimate.values,
            estimate.grid.layers,
            estimate.columns,
            label=f"estimated {estimate.label}",
            axis="head" if exact.way.kind == "head" else "token",
            chosen=chosen,
            bound=bound,
            height=320,
        )
        figure(chart, estimate.grid.table(), "int-estimate", title=f"{name}: the estimate", source=source)
    with right:
        rows = layer_labels(exact.grid.layers)
        names = [f"{row}, {column}" for row in rows for column in exact.columns]
        chart = exact_against_estimate(
            exact.values.ravel(), estimate.values.ravel(), names, label=exact.axis, colour=colour
        )
        table = exact.grid.table().assign(estimate=estimate.grid.effects.ravel())
        if np.isnan(correlation.pearson):
            title = "Exact against estimate"
        else:
            title = f"Exact against estimate: Pearson {correlation.pearson:.2f}, Spearman {correlation.spearman:.2f}"
        figure(chart, table, "int-agreement", title=title, height=320, source=source)
    if np.isnan(correlation.pearson):
        return f"Nothing differs between the {correlation.n} sites, so there is nothing to correlate."
    return (
        f"One backward pass estimates all {correlation.n} sites; over them the estimate and the exact effect "
        f"correlate with {correlation.pearson:.2f} (Pearson) and {correlation.spearman:.2f} (Spearman)."
    )


def prompts(clean: list[str], corrupted: list[str], differing: list[int], chosen: int | None, colour: str) -> None:
    """Both texts token by token, the differing ones coloured; a click chooses the token."""
    rows = []
    for label, tokens, others in (("clean", clean, corrupted), ("corrupted", corrupted, clean)):
        chips = [
            Chip(
                text=token,
                tip=f"token {at}: {token}" + (f"\nthe other text has {others[at]}" if at in differing else ""),
                strength=0.7 if at in differing else 0.0,
                prompt=True,
            )
            for at, token in enumerate(tokens)
        ]
        rows.append(TokenRow(label=label, colour=colour if label == "clean" else "transparent", tokens=chips))

    def pick(row: int, index: int) -> None:
        st.session_state[AT if st.session_state.get(KIND) == "heads" else TOKEN] = index

    token_rows(rows, chosen=(0, chosen if chosen is not None else -1), key="int_texts", on_pick=pick)
