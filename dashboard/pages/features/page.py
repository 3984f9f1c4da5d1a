"""Features: texts that activate a neuron, a head or a feature most, all features of a fit, and base against aligned."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dashboard.analysis import draw, draw_below
from dashboard.inputs import Page, set_inputs
from dashboard.markdown import note
from dashboard.one_model import draw_tabs, open_page
from dashboard.sides import Side, load_sides
from probe.analyses.catalogue import find_analysis
from probe.features.known_fits import known_fits

MAIN, ALL, CHANGES, STEER = "top_texts", "list_features", "compare_features", "steer_feature"
"""Main analysis, and those of the tabs."""


def take(name: str, inputs: Mapping[str, Any]) -> None:
    """Show an analysis of the page with these inputs."""
    set_inputs(find_analysis(name), inputs)


def fit_command(*sides: Side) -> str:
    """Return the command that fits features of these models where the page finds them."""
    return f"`probe features fit {' '.join(side.ref for side in sides)}`"


def draw_of_fit(name: str, own: Page, side: Side) -> None:
    """Draw an analysis of the features of one model."""
    if own.drawn.get("features") or known_fits(side.lm):
        draw_below(name, own)
    else:
        note(f"No features of {side.name} were found. {fit_command(side)} fits some, and this page finds them.")


def draw_changes(own: Page) -> None:
    """Draw the features that base and aligned share, and those that differ."""
    sides = load_sides(own.shared)
    if sides is None:
        return
    if len(sides) < 2:
        note("Choose a base and an aligned model above to compare their features.")
        return
    if not known_fits(*(side.lm for side in sides)):
        note(
            f"No crosscoder of these two models was found. {fit_command(*sides)} fits one, and this page finds it; or"
            " give the folder of one."
        )
    draw_below(CHANGES, replace(own, sides=sides))


def page() -> None:
    """Draw the page from top to bottom."""
    asks = "Choose a model above to see what its neurons, heads and features respond to."
    own = open_page("features", "features_model", MAIN, asks, take)
    if own is None:
        return
    draw(find_analysis(MAIN), own)
    (side,) = own.sides or ()
    tabs = {ALL: partial(draw_of_fit, ALL, own, side), CHANGES: partial(draw_changes, own)}
    draw_tabs("features_tab", own, tabs | {STEER: partial(draw_of_fit, STEER, own, side)})


page()
