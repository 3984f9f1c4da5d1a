"""Stored results of a page's analyses, shown where the base of its models is not on this machine."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast, get_args

import streamlit as st

from dashboard import models
from dashboard.analysis import code_of, draw_results, looks_of
from dashboard.components.details import TAB_DETAILS
from dashboard.components.tabs import open_tab
from dashboard.computation import stored_inputs
from dashboard.inputs import Page, Values
from dashboard.markdown import note, pending_place
from dashboard.sides import Role, Side, chosen_ref, colour_of, load_side
from dashboard.state import PROMPT, SharedChoices, keep
from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import MODULES, find_analysis, summaries
from probe.analyses.stored_results import StoredResult, is_storable, nearest_unloaded
from probe.errors import MissingBaseError

if TYPE_CHECKING:
    from probe.model.lm import LM

TAB = "stored_tab"
"""Key of the open tab."""


@dataclass(frozen=True)
class Found:
    """Stored results of an analysis."""

    analysis: Analysis
    results: Sequence[tuple[Sequence[Side], StoredResult]]
    """Models and result, one for the pair or for each model."""
    wanted: Values
    """Inputs that the reader has chosen."""


def load_or_draw(page: str, shared: SharedChoices, role: Role, names: Collection[str]) -> Side | None:
    """Load the model of a page of one model; if its base is not here, draw the stored results in its place.

    Args:
        page: name of the page.
        shared: the shared choices.
        role: the model.
        names: names of the analyses that the page shows.

    Returns:
        The model; None if it waits for the reader's consent or its stored results are drawn.

    Raises:
        MissingBaseError: the model's base is not here, and no result is stored.
    """
    try:
        return load_side(shared, role)
    except MissingBaseError:
        if not draw_stored(page, shared, roles=[role], names=names):
            raise
        return None


def draw_stored(
    page: str,
    shared: SharedChoices,
    *more: Side,
    roles: Sequence[Role] = get_args(Role),
    names: Collection[str] = (),
    **given: object,
) -> bool:
    """Draw the stored results of a page's analyses of the chosen models; return whether there are any.

    Args:
        page: name of the page.
        shared: the shared choices.
        more: further models of the page, from `unloaded_side`.
        roles: models that the page shows.
        names: names of the analyses that the page shows; by default all.
        given: inputs by name that the page sets for its analyses.
    """
    chosen = [role for role in roles if chosen_ref(shared, role)]
    sides = [unloaded_side(role, *_about(shared, role)) for role in chosen]
    known = [side for side in (*sides, *more) if side is not None]
    every = [each for each in _storable(page) if not names or each.name in names]
    found = [each for each in (find_stored(one, known, shared, given) for one in every) if each is not None]
    if not found:
        return False
    own = Page(shared, pending_place(), section=TAB_DETAILS)
    parts = {each.analysis.title: partial(_draw, each, own) for each in found}
    linked = st.query_params.to_dict().values()  # a tab of the page has the title of its analysis
    keep(TAB, parts, next((title for title in parts if title in linked), next(iter(parts))))
    open_tab(TAB, parts)
    return True


def unloaded_side(role: str, ref: str, name: str, colour: str) -> Side | None:
    """Return a model of which only its stored results can be shown; None while the page waits for consent."""
    facts = models.unloaded_facts(ref)
    return None if facts is None else Side(role, name, colour, ref, cast("LM", facts))


def find_stored(analysis: Analysis, sides: Sequence[Side], shared: SharedChoices, given: Values) -> Found | None:
    """Find the results of an analysis that are nearest to the reader's prompt and to the page's inputs."""
    chosen = {each["name"]: shared.prompt for each in analysis.fields() if each["shared"] == PROMPT}
    wanted = chosen | {name: value for name, value in given.items() if name in analysis.inputs}
    distinct = list({side.ref: side for side in sides}.values())
    pair = [side for side in sides if side.role in PAIR]
    groups = [[side] for side in distinct] if analysis.models != PAIR else [pair] if len(pair) == len(PAIR) else []
    found = [(group, nearest_unloaded(analysis, wanted, *(side.lm for side in group))) for group in groups]
    results = [(group, stored) for group, stored in found if stored is not None]
    return Found(analysis, results, wanted) if results else None


def _about(shared: SharedChoices, role: Role) -> tuple[str, str, str]:
    return str(chosen_ref(shared, role)), shared.names()[role == "aligned"], colour_of(shared, role)


def _storable(page: str) -> list[Analysis]:
    """Return the built-in analyses of a page whose results are stored, in the order of their tabs."""
    names = [name for name, (own, _) in summaries().items() if own == page and name in MODULES]
    return [each for each in map(find_analysis, names) if is_storable(each)]


def _draw(found: Found, page: Page) -> None:
    """Draw the results of one analysis; its sentence is the page's."""
    analysis, sides = found.analysis, [side for group, _ in found.results for side in group]
    results = analysis.together([stored.result for _, stored in found.results], looks_of(sides))
    inputs, remarks = zip(*(stored_inputs(analysis, stored, found.wanted) for _, stored in found.results), strict=True)
    for remark in dict.fromkeys(filter(None, remarks)):
        note(remark)
    told = found.wanted | inputs[0]
    own = analysis.with_values(told).inputs
    told = {name: value for name, value in told.items() if name in own and value != own[name].default}
    groups = [sides] if len(results) == 1 else [[side] for side in sides]
    source = {side.role: side.ref for side in sides} | told
    scalar = any(side.role == "reward" for side in sides)
    draw_results(analysis, page, results, groups, source, partial(code_of, analysis, sides, told, scalar=scalar))
