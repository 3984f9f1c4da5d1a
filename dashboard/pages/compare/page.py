"""Side by side: two models on one prompt, over a corpus, inside, in their weights, between them, in a gradient."""

from functools import partial
from importlib import import_module

from dashboard import analysis, models, sentences
from dashboard.components.tabs import open_tab
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.compare.choices import (
    CORPUS,
    FIRST_TOKENS,
    GRADIENT,
    LINE,
    ONE_PROMPT,
    PROMPT_TAB,
    TAB,
    TRANSPLANTS,
    WEIGHTS,
    WEIGHTS_TAB,
    Pair,
)
from dashboard.sides import ask_for_model
from dashboard.state import current
from probe.plotting.theme import METHODS, aligned_colour

TABS: dict[str, tuple[str | tuple[str, ...], tuple[str, ...]]] = {
    PROMPT_TAB: ("one_prompt", ONE_PROMPT),
    "Over a corpus": ("over_corpus", CORPUS),
    "First tokens": (("compare_first_tokens", "steer_by_first_tokens"), FIRST_TOKENS),
    WEIGHTS_TAB: (("weight_change",), WEIGHTS),
    "Transplants": (("transplant_parts",), TRANSPLANTS),
    "The line between them": ("line_between", LINE),
    "Gradient": ("token_gradient", GRADIENT),
}
"""The analyses of each tab, or the file beside this one whose `draw` takes a `Pair`; and the keys of its widgets."""


def draw(what: str | tuple[str, ...], pair: Pair) -> None:
    """Draw a tab; only the file of the open one is imported."""
    if isinstance(what, tuple):
        analysis.draw_several(what, pair.shared, pair.answer)
    else:
        import_module(f"dashboard.pages.compare.{what}").draw(pair)


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    refs = choices.reference(choices.base), choices.reference(choices.aligned)
    if not refs[0] or not refs[1]:
        ask_for_model(answer, f"Choose {'an aligned' if refs[0] else 'a base'} model above to compare two models.")
        return
    base, aligned = models.load(refs[0]), models.load(refs[1])
    if base is None or aligned is None:
        return
    names = choices.names()
    problem = sentences.incomparable(base, aligned, names)
    if problem:
        with answer:
            finding(problem)
            note("The pages Attention, Logits and Interventions show each model by itself.")
        return
    colours = METHODS["pretrain"], aligned_colour(choices.method(choices.aligned))
    pair = Pair(choices, base, aligned, (refs[0], refs[1]), names, colours, answer)
    open_tab(
        TAB,
        {title: partial(draw, what, pair) for title, (what, _) in TABS.items()},
        {title: keys for title, (_, keys) in TABS.items()},
    )


page()
