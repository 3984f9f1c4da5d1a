"""Probes: what is decodable from the states of a model, and whether the model uses it."""

from functools import partial

from dashboard.analysis import draw, draw_below
from dashboard.one_model import draw_tabs, open_page
from probe.analyses.catalogue import find_analysis

MAIN, TABS = "decode", ("use", "token_truth")
"""Main analysis, and those of the tabs."""


def page() -> None:
    """Draw the page from top to bottom."""
    own = open_page("probes", "probe_model", MAIN, "Choose a model above to read its states.")
    if own is not None and draw(find_analysis(MAIN), own):
        draw_tabs("probe_tab", own, {name: partial(draw_below, name, own) for name in TABS})


page()
