"""Attention: what every head looks at, one head stage by stage, and how two models or two steps differ."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.analysis import draw, draw_below, keys_of, say
from dashboard.components.badge import trust_badge
from dashboard.components.details import TAB_DETAILS
from dashboard.components.figure import figure
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page, Values
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.attention.choices import HEAD, NEW, TAB, choose_head, choose_layers, take_head
from dashboard.pages.attention.compute import LONG, Head, Reading, live, read_captured, read_live
from dashboard.pages.attention.long_texts import choose_cut, long_text
from dashboard.pages.attention.through_training import head_scores, moved, rolled_out, through_training
from dashboard.pages.attention.words import explain, head_finding, why_apart
from dashboard.sides import ask_for_model, asked_text, choose_chat, note_form, words_known
from dashboard.state import CHAT, SharedChoices, current, keep
from probe.analyses.catalogue import find_analysis
from probe.attention.figures import attention_head, attention_mosaic, mosaic_pair
from probe.attention.reading import head_name
from probe.runs.captured import attention_table

VIEWS = ("base", "aligned", "both", "captures")
# New tokens that the slider offers.
MOST_NEW = 64
HEIGHT = 400
# Pixels of a figure over the whole page, as it is at 1280 x 800, without its colour bars.
WIDTH = 740


def choose_view(shared: SharedChoices) -> str:
    """Let the reader choose where the patterns come from; at first both models, where both are chosen."""
    flags = [bool(shared.reference(choice)) for choice in (shared.base, shared.aligned)]
    default = "both" if all(flags) else "aligned" if flags[1] else "base"
    key = keep("att_view", VIEWS, default)
    view = st.segmented_control(
        "Patterns of", VIEWS, key=key, bind="query-params", required=True, help="Captures: of a training run."
    )
    return str(view or default)


def missing_input(shared: SharedChoices, view: str) -> str:
    """Name in words what is not yet chosen for a view; empty if nothing is missing."""
    need = {"base": ("base",), "aligned": ("aligned",), "both": ("base", "aligned")}.get(view, ())
    lacking = [
        f"a{'n' * (side == 'aligned')} {side} model" for side in need if not shared.reference(getattr(shared, side))
    ]
    lacking += ["a prompt"] * (view != "captures" and not shared.prompt.strip())
    return " and ".join(lacking)


def main_figure(reading: Reading, head: Head) -> None:
    """Draw the mosaic of all heads; where there is one side, also draw the chosen head enlarged beside it."""
    layers = choose_layers(reading, head)
    panels = [
        (side, [layer for layer in layers if layer < side.read.pattern.shape[0]])
        for side in reading.sides
        if layers[0] < side.read.pattern.shape[0]
    ]
    table = pd.concat(
        [attention_table(side.read.pattern[own], side.read.tokens, own).assign(of=side.name) for side, own in panels],
        ignore_index=True,
    )
    if len(panels) == 2:
        (first, one), (second, two) = panels
        heads = max(side.read.pattern.shape[1] for side in reading.sides)
        height = int(np.clip(80 + WIDTH / 3 * max(len(one), len(two)) / heads, 250, HEIGHT))
        chart = mosaic_pair(
            (first.read.pattern[one], second.read.pattern[two]),
            first.read.tokens,
            names=(first.name, second.name),
            others=None if reading.alike else second.read.tokens,
            layers=(one, two),
            chosen=head,
            height=height,
            width=WIDTH,
            boundary=reading.boundary if reading.alike else None,
        )
        title = "Attention of every head (click one)"
        figure(chart, table, "att-heads", title=title, source=reading.source, on_select=take_head)
        if why_apart(reading):
            note(why_apart(reading))
        return
    side, own = panels[0]
    left, right = st.columns([1, 1], gap="medium")
    with left:
        chart = attention_mosaic(
            side.read.pattern[own], side.read.tokens, layers=own, chosen=head, height=HEIGHT, boundary=reading.boundary
        )
        title = f"Heads of {side.name} (click one)"
        figure(chart, table, "att-heads", title=title, source=reading.source, on_select=take_head)
    with right:
        weights = side.read.pattern[head]
        chart = attention_head(weights, side.read.tokens, boundary=reading.boundary)
        rows = attention_table(weights[None, None], side.read.tokens, [head[0]]).assign(head=head[1])
        title = f"L{head[0]}H{head[1]} of {side.name}"
        figure(chart, rows, "att-head", title=title, height=HEIGHT, source=reading.source)


TABS = ("read_stages", "score_heads", "compare_attention", "read_circuits", "attention_rollout")
"""The analyses of the tabs."""
SHARED = (HEAD, NEW, "chat")
"""Keys of inputs that the page itself asks for."""


def sections(reading: Reading, head: Head, shared: SharedChoices, chat: bool, new: int) -> None:
    """Draw the tabs below the main figure; only the open one is computed."""
    titles = {name: find_analysis(name).title for name in TABS}
    tabs: dict[str, Callable[[], None]] = {}
    if reading.moment:
        own = Page(shared, st.container(), tell=say, section=TAB_DETAILS, given={"head": head_name(head)})
        tabs["Through training"] = partial(through_training, reading, head)
        tabs[titles["score_heads"]] = partial(head_scores, reading, own)
        if reading.comparable:
            tabs[titles["compare_attention"]] = partial(moved, reading, own, head)
        tabs[titles["attention_rollout"]] = partial(rolled_out, reading, own)
    else:
        own = page_of(reading, head, shared, chat, new)
        for name in TABS:
            if name == "compare_attention" and not reading.comparable:
                continue
            tabs[titles[name]] = partial(circuits if name == "read_circuits" else draw_below, name, own)
    keys = {titles[name]: [key for key in keys_of([name]) if key not in SHARED] for name in TABS}
    open_tab(TAB, tabs, keys)


def page_of(reading: Reading, head: Head, shared: SharedChoices, chat: bool, new: int) -> Page:
    """Return the page for analyses of what its main figure shows: one text of ids where all models read the same."""
    given: Values = {"head": head_name(head)}
    last = reading.last.read
    if reading.alike:
        given |= {"prompt": tuple(last.ids), "chat": False, "max_new_tokens": 0, "given": last.prompt_length}
    else:
        given |= {"chat": chat, "max_new_tokens": new}
    sides = [side.side for side in reading.sides if side.side is not None]
    return Page(shared, st.container(), given=given, sides=sides)


def circuits(name: str, own: Page) -> None:
    """Draw what the weights alone say of the chosen head, and which heads it composes with in the last model."""
    draw_below(name, own)
    other = find_analysis("compose_heads")
    st.markdown(f"#### {other.title}")
    below = own.below(tell=note, section=f"{TAB_DETAILS}-{other.name}")
    draw(other, replace(below, sides=below.sides[-1:] if below.sides else below.sides))


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    columns = st.columns([9, 4, 6, 5], gap="medium", vertical_alignment="bottom")
    with columns[0]:
        view = choose_view(choices)
    if missing_input(choices, view):
        ask_for_model(answer, f"Choose {missing_input(choices, view)} above to see what its heads attend to.")
        return
    captures = view == "captures"
    reading = read_captured(choices, columns[2]) if captures else read_models(choices, view, columns, answer)
    if reading is None:
        if captures:
            with answer:
                finding("No run here has captures of attention to move through.")
        return
    default, sentence = head_finding(reading)
    with answer:
        finding(sentence)
    with columns[1]:
        head = choose_head(reading, f"L{default[0]}H{default[1]}")
    if not reading.moment:
        badge(reading)
    main_figure(reading, head)
    wrote = "".join(reading.tokens[reading.boundary or len(reading.tokens) :]).replace("\u00b7", " ").strip()
    note(
        "Every square is a head: rows are tokens that look (queries), columns tokens that are looked at (keys). "
        + (f"Red lines part the prompt from what {reading.last.name} wrote: \u201c{wrote}\u201d. " if wrote else "")
        + ("The difference is the right one minus the left one, centred on zero." if reading.comparable else "")
    )
    explain(reading, head)
    chat = bool(st.session_state.get(CHAT["attention"]))
    sections(reading, head, choices, chat, int(st.session_state.get(NEW, 0)))


def read_models(
    shared: SharedChoices, view: str, columns: list, answer: "st.delta_generator.DeltaGenerator"
) -> Reading | None:
    """Patterns of the chosen models; None while the page waits, or where a long text was shown in another way."""
    readers = live(shared, view)
    if readers is None or not words_known(shared, ((side.name, side.lm) for side in readers), answer):
        return None
    writer = readers[-1].lm
    with columns[2]:
        new = st.slider(
            "New tokens",
            0,
            MOST_NEW,
            0,
            key=NEW,
            bind="query-params",
            disabled=writer.readout != "tokens",
            help="Let the model go on (greedy) and see what it attended to while it wrote."
            if writer.readout == "tokens"
            else f"A {writer.readout} model writes nothing.",
        )
    with columns[3]:
        chat = choose_chat("attention", [writer], shared.prompt)
    note_form([writer], chat)
    text = asked_text(writer, shared.prompt, chat)
    if len(text) + int(new) > LONG:
        if not choose_cut(len(text) + int(new)):
            long_text(readers, text, answer)
            return None
        text = text[: LONG - int(new)]
    return read_live(readers, text, shared.prompt, chat, int(new))


def badge(reading: Reading) -> None:
    """Show the trust badge of every model."""
    pairs = [(side.name, side.lm) for side in reading.sides if side.lm is not None]
    trust_badge(*pairs, text=tuple(reading.last.read.ids) if reading.alike else current().prompt)


page()
