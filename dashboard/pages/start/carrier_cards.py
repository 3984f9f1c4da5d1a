"""Which part each of three pages names on the example's prompt, and which of them carries the answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import streamlit as st

from dashboard.computation import compute
from dashboard.data import Store
from dashboard.markdown import escape_markdown, note, prose
from dashboard.models import LARGE_BYTES
from dashboard.pages.start.sample_pairs import CARRIERS, Pair, named
from dashboard.sides import load_side
from dashboard.state import COMPARE_TAB, DO, SharedChoices, look_link
from probe.analyses.catalogue import find_analysis
from probe.model.references import model_files
from probe.numbers import rate, share_text, signed

if TYPE_CHECKING:
    from probe.compare.carriers import Carriers

TITLE = "Who carries the answer?"
PARTS, CARRIES = "Which parts carry it", "Who carries it"
"""Tab of Logits that names a part, and tab of Side by side with every part."""
PAGES = {
    "attention": ("Attention", "grid_on"),
    "logits": ("Logits", "bar_chart"),
    "interventions": ("Interventions", "biotech"),
}
"""Title and icon of each page that names a part."""


class Card(NamedTuple):
    """A part that a page names."""

    page: str
    part: str
    text: str
    """Sentence on what it does, by the page's measure."""
    carries: float
    """Share of the answer that it carries when it is swapped alone."""
    own: Mapping[str, str] = {}
    """Choices on the page, by their names in its URL."""


def is_light(store: Store, pair: Pair) -> bool:
    """Return whether both models are small enough to be loaded for the Start page."""
    folders = [checkpoints[-1].path for label in pair[:2] if (checkpoints := store.runs[label].checkpoints())]
    sizes = [file.stat().st_size for folder in folders for file in model_files(Path(folder))]
    return len(folders) == 2 and sum(sizes) <= LARGE_BYTES


def compute_carriers(store: Store, pair: Pair, prompt: str) -> "Carriers | None":
    """Return the comparison of a pair on a prompt, stored or computed now; None if it is only offered, or fails."""
    choices = SharedChoices(store, pair.base, pair.aligned, prompt)
    base, aligned = load_side(choices, "base"), load_side(choices, "aligned")
    if base is None or aligned is None:
        return None
    values = {"prompt": prompt, "chat": False, "corrupted": ""}
    found, errors = compute(find_analysis(CARRIERS), [base, aligned], values)
    for error in errors:
        note(error)
    return named(store, pair, cast("Carriers", found[0][1])) if found else None


def draw_computed(store: Store, pair: Pair, prompt: str, /, **choices: str) -> None:
    """Draw the cards of a pair without a stored comparison, or a link to it if the models are large."""
    if is_light(store, pair):
        found = compute_carriers(store, pair, prompt)
        if found is not None:
            draw_carriers(found, False, **choices)
        return
    _link_to_all("Find who carries the answer", False, choices)


def _link_to_all(title: str, missing: bool, choices: Mapping[str, str]) -> None:
    look_link("compare", title, ":material/compare_arrows:", False, {COMPARE_TAB: CARRIES}, missing, **choices)


def draw_carriers(found: "Carriers", missing: bool, /, **choices: str) -> None:
    """Draw one card for each page with the part that it names, and the sentence that decides between them.

    Args:
        found: comparison of the pair.
        missing: whether the weights that the linked pages need are not here.
        choices: models and prompt of the links.
    """
    st.markdown(f"##### {TITLE}")
    does = f"{'Patched' if found.cause == 'patch' else 'Ablated'} alone, it {found.does}"
    moved, direct, leader = (found.largest(name) for name in ("moved", "direct", found.deciding))
    difference = " \u2212 ".join(found.answers)
    looked = f"changed its attention most: {rate(moved.value)} of it moved among tokens other than the first."
    nats = f"{signed(direct.value)} nats of {difference}"
    is_head = not leader.part.endswith("MLP")
    swap = {
        DO: found.cause,
        **({"int_kind": "head", "int_at": str(found.at)} if is_head else {"int_kind": "mlp"}),
    }
    cards = (
        Card("attention", moved.part, looked, moved.carries),
        Card("logits", direct.part, f"writes most of the change: {nats}.", direct.carries, {"log_tab": PARTS}),
        Card("interventions", leader.part, "changes the answer most.", leader.carries, swap),
    )
    for column, card in zip(st.columns(3, gap="medium"), cards, strict=True):
        with column, st.container(border=True):
            title, icon = PAGES[card.page]
            look_link(card.page, title, f":material/{icon}:", False, card.own, missing, **choices)
            carries = f"{does} {share_text(card.carries)} of {' over '.join(found.swapped)}."
            st.markdown(f"**{escape_markdown(card.part)}** {prose(card.text)}  \n{prose(carries)}")
    st.markdown(f"**{prose(found.sentence())}**")
    note(" ".join(found.notes[:-1]))
    _link_to_all("Every part, with the controls", missing, choices)
