"""Autoregression: the model's effective context, the effect of a wrong token, and the paths by which inputs act."""

from functools import partial

from dashboard.analysis import draw, draw_below, keys_of
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import sentence_place
from dashboard.sides import ask_for_model, load_sides, words_known, written
from dashboard.state import current
from probe.analyses.catalogue import find_analysis

MAIN = "look_back"
TABS = ("follow_wrong_token", "jacobian_norms", "neutral_jacobian", "linear_autoregression")
"""Analyses of the tabs."""


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    sides = load_sides(choices)
    choices = written(choices, [side.lm for side in sides or ()])
    if sides is None or not words_known(choices, ((side.name, side.lm) for side in sides), answer):
        return
    main = find_analysis(MAIN)
    lms = [side.lm for side in sides]
    (texts,) = main.fields(*lms, given={"prompt": choices.prompt}, names=["documents"]) if sides else ({},)
    if not texts.get("choices"):
        ask_for_model(answer, "Choose a model and a prompt above to see how far back it looks.")
        return
    own = Page(choices, answer, sides=sides, lists=False)
    if draw(main, own):
        tabs = {find_analysis(name).title: partial(draw_below, name, own) for name in TABS}
        open_tab("lag_tab", tabs, {find_analysis(name).title: keys_of([name]) for name in TABS})


page()
