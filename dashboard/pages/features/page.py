"""Features: texts that activate a neuron, a head or a feature most, all features of a fit, and base against aligned."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dashboard.analysis import draw, draw_below
from dashboard.inputs import Page, set_inputs
from dashboard.jobs import offer
from dashboard.markdown import note
from dashboard.one_model import draw_tabs, open_page
from dashboard.sides import Side, load_sides
from dashboard.state import ALIGNED, BASE
from probe.analyses.catalogue import find_analysis
from probe.features.fit_options import FitOptions
from probe.features.known_fits import known_fits
from probe.options import describe

MAIN, ALL, CHANGES, STEER = "top_texts", "list_features", "compare_features", "steer_feature"
"""Main analysis, and those of the tabs."""
CHOICE = "features_model"
"""Key of the choice of the model."""


def take(name: str, inputs: Mapping[str, Any]) -> None:
    """Show an analysis of the page with these inputs."""
    set_inputs(find_analysis(name), inputs)


def offer_fit(own: Page, *sides: Side, **choices: str) -> None:
    """Offer to fit features of one model, or of a base and an aligned model together."""
    chosen = {each: str(getattr(own.shared, each)) for each in (BASE, ALIGNED) if getattr(own.shared, each)}
    refs = [side.ref for side in sides]
    title = f"Fit features of {' and '.join(side.name for side in sides)}"
    offer(
        "features fit",
        title,
        refs,
        describe(FitOptions),
        {"page": "features", **chosen, **choices},
        icon="model_training",
    )


def draw_of_fit(name: str, own: Page, side: Side) -> None:
    """Draw an analysis of the features of one model."""
    if own.drawn.get("features") or known_fits(side.lm):
        draw_below(name, own)
        return
    note(f"No features of {side.name} were found: fit some here, or by the command below.")
    offer_fit(own, side, **{CHOICE: side.role})


def draw_changes(own: Page) -> None:
    """Draw the features that base and aligned share, and those that differ."""
    sides = load_sides(own.shared)
    if sides is None:
        return
    if len(sides) < 2:
        note("Choose a base and an aligned model above to compare their features.")
        return
    if not known_fits(*(side.lm for side in sides)):
        note("No crosscoder of these two models was found: fit one here or by the command below, or give its folder.")
        offer_fit(own, *sides)
    draw_below(CHANGES, replace(own, sides=sides))


def page() -> None:
    """Draw the page from top to bottom."""
    asks = "Choose a model above to see what its neurons, heads and features respond to."
    own = open_page("features", CHOICE, MAIN, asks, take)
    if own is None:
        return
    draw(find_analysis(MAIN), own)
    (side,) = own.sides or ()
    tabs = {ALL: partial(draw_of_fit, ALL, own, side), CHANGES: partial(draw_changes, own)}
    draw_tabs("features_tab", own, tabs | {STEER: partial(draw_of_fit, STEER, own, side)})


page()
