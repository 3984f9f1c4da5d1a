"""Attention: patterns of all heads, the stages of one head, and differences of two models or steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import streamlit as st

from dashboard import data
from dashboard.analysis import CHAT, code, draw, draw_below, draw_results, keys_of
from dashboard.components.badge import trust_badge
from dashboard.components.details import TAB_DETAILS
from dashboard.components.step_views import MOVEMENT, choose_moment
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import finding, note, say, sentence_place
from dashboard.sides import Role, Side, ask_for_model, asked_text, choose_chat, load_side, note_form, written
from dashboard.state import ATTENTION_OF, SharedChoices, current, keep
from dashboard.without_base import draw_stored
from probe.analyses.catalogue import find_analysis
from probe.attention.one_score import SCORES, score_label
from probe.attention.reading import LONG, MOST_NEW, Attentions, head_name, splits_alike
from probe.attention.trained_heads import CapturedAttention
from probe.errors import MissingBaseError
from probe.plotting.notebook import Drawable
from probe.texts import visible

VIEWS: dict[str, tuple[Role, ...]] = {
    "base": ("base",),
    "aligned": ("aligned",),
    "both": ("base", "aligned"),
    "captures": (),
}
"""Models of each view; the view of captures has none."""
MAIN, LONG_TEXTS = "read_attention", "attention_statistics"
"""Main analysis, and the analysis of texts that are too long for patterns."""
CAPTURED, TRAINED = "captured_attention", "follow_attention"
"""Main analysis of captures, and the analysis of all captured steps."""
TABS = ("read_stages", "score_heads", "compare_attention", "read_circuits", "attention_rollout")
"""Analyses of the tabs."""
HEAD, NEW, SCORE, TAB = "att_head", "att_new", "att_score", "att_tab"
"""Keys of the head, of the number of tokens that the last model generates, of the score, and of the open tab."""


def choose_view(shared: SharedChoices) -> str:
    """Let the reader choose the source of the patterns; by default both models, if both are chosen."""
    flags = [bool(shared.reference(choice)) for choice in (shared.base, shared.aligned)]
    default = "both" if all(flags) else "aligned" if flags[1] else "base"
    key = keep(ATTENTION_OF, VIEWS, default)
    hint = "Captures: of a training run."
    view = st.segmented_control("Patterns of", list(VIEWS), key=key, bind="query-params", required=True, help=hint)
    return str(view or default)


def missing_input(shared: SharedChoices, view: str) -> str:
    """Name the choices that a view still lacks; empty if nothing is missing."""
    lacking = [
        f"a{'n' * (side == 'aligned')} {side} model"
        for side in VIEWS[view]
        if not shared.reference(getattr(shared, side))
    ]
    lacking += ["a prompt"] * (view != "captures" and not shared.prompt.strip())
    return " and ".join(lacking)


def choose_new(scalar: str) -> int:
    """Let the reader choose the number of tokens that the last model generates, if it can."""
    hint = "Let the model continue the text (greedy) and see what it attends to meanwhile."
    hint = f"A {scalar} model writes nothing." if scalar else hint
    new = st.slider("New tokens", 0, MOST_NEW, 0, key=NEW, bind="query-params", disabled=bool(scalar), help=hint)
    return 0 if scalar else int(new)


def choose_cut(length: int) -> bool:
    """Let the reader choose to show the patterns of the beginning of a long text instead."""
    hint = f"This text has {length:,} tokens: beyond {LONG}, heads get statistics instead of patterns."
    return bool(st.toggle(f"Patterns of the first {LONG} tokens", key="att_cut", bind="query-params", help=hint))


def choose_score() -> str:
    """Let the reader choose a score of the heads on a captured prompt."""
    options = [name for name, kind in SCORES.items() if not kind.repeats]
    key = keep(SCORE, options, options[0])
    with st.container(width=300):
        return st.selectbox(
            "Score", options, format_func=lambda each: visible(score_label(each)), key=key, bind="query-params"
        )


def look_inside(shared: SharedChoices, sides: Sequence[Side], own: Page) -> None:
    """Draw the patterns of one or two models on the prompt, or statistics of a long prompt, and the tabs."""
    lms, writer = [side.lm for side in sides], sides[-1].lm
    shared = written(shared, lms)
    own = replace(own, shared=shared)
    with own.row or st.container():
        row, middle, right = st.columns([9, 5, 5], gap="medium", vertical_alignment="bottom")
    with middle:
        new = choose_new("" if writer.readout == "tokens" else writer.readout)
    with right:
        chat = choose_chat("attention", lms, shared.prompt)
    note_form(lms, chat)
    own = replace(own, row=row, sides=sides, drawn={NEW: str(new) if new else None, CHAT: chat or None})
    text = asked_text(writer, shared.prompt, chat)
    if len(text) + new > LONG:
        left, row = st.columns([10, 20], gap="medium", vertical_alignment="bottom")
        with left:
            cut = choose_cut(len(text) + new)
        if not cut:
            draw(find_analysis(LONG_TEXTS), replace(own, row=row, lists=True))
            return
        text = text[: LONG - new]
        alike = [side for side in sides if splits_alike(side.lm, writer, text)]
        own = replace(own, sides=alike, given={"prompt": text, "chat": False})
    results = draw(find_analysis(MAIN), own)
    if not results:
        return
    found = cast("Attentions", results[0])
    if not found.hooked:
        trust_badge(*((side.name, side.lm) for side in sides), text=shared.prompt)
    below, acts = with_head(own, found), dict.fromkeys(TABS, draw_below) | {"read_circuits": circuits}
    names = [name for name in TABS if name != "compare_attention" or found.comparable]
    open_tabs(MAIN, {name: partial(acts[name], name, below) for name in names})


def look_back(shared: SharedChoices, own: Page) -> None:
    """Draw the patterns that a run captured at one step, and the tabs."""
    order = [shared.label(shared.aligned), shared.label(shared.base), *shared.store.runs]
    names = [name for name in dict.fromkeys(order) if name in shared.store.runs]
    labels = [name for name in names if name and len(data.captures(shared.store.runs[name]))]
    if labels:
        keep("att_watched", labels, labels[0])
    moment = choose_moment(shared.store, [name for name in names if name], prefix="att_", kinds=("Attention",))
    if moment is None:
        with own.answer:
            finding("No run here has captures of attention to move through.")
        return
    own = replace(own, sides=(), given={"run": moment.run.path, "captured": moment.prompt.text, "step": moment.step})
    results = draw(find_analysis(CAPTURED), own)
    if not results:
        return
    found = cast("CapturedAttention", results[0])
    below = with_head(own, found)
    below = replace(below, given=below.given | {"since": found.starts or len(found.results) > 1})
    tabs: dict[str, Callable[[], None]] = {
        TRAINED: partial(draw_below, TRAINED, below),
        MOVEMENT: partial(draw_below, MOVEMENT, below),
        "score_heads": lambda: draw_captured("score_heads", below, found.scores, choose_score()),
        "compare_attention": partial(draw_captured, "compare_attention", below, found.shift, below.given["head"]),
        "attention_rollout": partial(draw_captured, "attention_rollout", below, found.rollout),
    }
    if not found.comparable:
        del tabs["compare_attention"]
    if len(data.captures(moment.run)) == 1:
        del tabs[MOVEMENT]
    open_tabs(CAPTURED, tabs)


def draw_captured(name: str, own: Page, method: Callable[..., Drawable], *given: str) -> None:
    """Draw an analysis of captured patterns, which a method of `CapturedAttention` makes."""
    call, shown = f".{method.__name__}({', '.join(map(repr, given))})", find_analysis(name)
    lines = partial(code, find_analysis(CAPTURED), (), own.given, shown=shown, call=call)
    below = own.below(tell=say, section=TAB_DETAILS)
    draw_results(shown, below, [method(*given)], [()], own.given, lines)


def with_head(own: Page, found: Attentions) -> Page:
    """Return the settings of the tabs with the head enlarged in the main figure."""
    return replace(own, given=own.given | {"head": head_name(found.head(own.drawn.get(HEAD)))})


def circuits(name: str, own: Page) -> None:
    """Draw the circuits of the chosen head from the weights alone, and its composition with other heads."""
    draw_below(name, own)
    other = find_analysis("compose_heads")
    st.markdown(f"#### {other.title}")
    below = own.below(tell=note, section=f"{TAB_DETAILS}-{other.name}")
    draw(other, replace(below, sides=(own.sides or ())[-1:]))


def open_tabs(main: str, tabs: dict[str, Callable[[], None]]) -> None:
    """Draw the tabs below the main figure, which share its inputs; only the open tab is computed."""
    titles, taken = {name: find_analysis(name).title for name in tabs}, keys_of([main])
    keys = {titles[name]: [key for key in keys_of([name]) if key not in taken] for name in tabs}
    open_tab(TAB, {titles[name]: act for name, act in tabs.items()}, keys)


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    left, right = st.columns([10, 20], gap="medium", vertical_alignment="bottom")
    with left:
        view = choose_view(choices)
    missing = missing_input(choices, view)
    if missing:
        ask_for_model(answer, f"Choose {missing} above to see what its heads attend to.")
        return
    own = Page(choices, answer, row=right, lists=False)
    if view == "captures":
        look_back(choices, own)
        return
    try:
        sides = [load_side(choices, role) for role in VIEWS[view]]
    except MissingBaseError:
        if not draw_stored("attention", choices, roles=VIEWS[view]):
            raise
        return
    known = [side for side in sides if side is not None]
    if len(known) == len(sides):
        look_inside(choices, known, own)


page()
