"""Traits: the direction of a trait in a model, the rows of data that push along it, and checkpoints of a training."""

from dataclasses import replace
from functools import partial

from dashboard.analysis import draw, draw_below
from dashboard.inputs import Page
from dashboard.markdown import note
from dashboard.one_model import draw_tabs, open_page
from dashboard.sides import load_side
from probe.analyses.catalogue import find_analysis

MAIN, DATA, TRAINING = "trait_direction", "project_data", "project_training"
"""Main analysis, and those of the tabs."""
NOT_TRAINED = "Choose an aligned model above that a run trained from another one to follow its checkpoints."


def follow(own: Page) -> None:
    """Draw the checkpoints of the aligned model's run."""
    name = own.shared.label(own.shared.aligned) if own.shared.aligned else None
    run = own.shared.store.runs.get(name) if name else None
    side = load_side(own.shared, "aligned") if run is not None and run.parent is not None else None
    if run is None or side is None:
        note(NOT_TRAINED)
        return
    draw_below(TRAINING, replace(own, sides=[side], given={"run": run.path}))


def page() -> None:
    """Draw the page from top to bottom."""
    own = open_page("traits", "trait_model", MAIN, "Choose a model above to find the direction of a trait in it.")
    if own is not None and draw(find_analysis(MAIN), own):
        draw_tabs("trait_tab", own, {DATA: partial(draw_below, DATA, own), TRAINING: partial(follow, own)})


page()
