"""The inputs of analyses on a page: where their widgets stand, what they can be, and what the reader chose."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from dashboard import models
from dashboard.components.details import DETAILS
from dashboard.components.focus import take_focus
from dashboard.components.form import draw_option, set_input
from dashboard.data import quiet
from dashboard.markdown import escape_markdown, finding
from dashboard.named import may_open
from dashboard.sides import Side, choose_chat
from dashboard.state import CHAT, SharedChoices, has_changed, keep
from probe.analyses.analysis_record import Analysis
from probe.options import option, parse, words

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

T = TypeVar("T")
Values = dict[str, Any]
BESIDE = "#beside"
"""Where a row of widgets has room for a note."""
Take = Callable[[str, Mapping[str, Any]], None]
"""Opens another analysis of the page, by its name, with these inputs."""
SHORT = 36
"""Letters up to which the values of a choice stand side by side."""
LONG = 6
"""Widgets that stand below each other in a popover, at most."""
ROOM = 12
"""Width of a row: widgets that are narrower together leave the rest of it free."""
ROW: Any = {"vertical_alignment": "bottom", "gap": "medium"}
WIDTHS = {"flag": 3, "int": 2, "float": 2, "path": 5, "text": 5, "list": 4, "map": 5}
"""Relative widths of the widgets by the type of their value; that of a choice follows from its words."""


@dataclasses.dataclass(frozen=True)
class Page:
    """What a page gives the analyses that it draws."""

    shared: SharedChoices
    """The choices above it."""
    answer: "DeltaGenerator"
    """Where the sentence goes."""
    tell: Callable[[str], None] = finding
    """What draws the sentence."""
    section: str = DETAILS
    """Key of the folded section."""
    drawn: Values = dataclasses.field(default_factory=dict)
    """Values of the widgets that it has drawn, by their keys; those of each analysis are added."""
    take: Take | None = None
    """Opens another analysis of the page from a row of a table."""
    given: Values = dataclasses.field(default_factory=dict)
    """Inputs by name that the page gives its analyses: they have no widgets."""
    sides: "Sequence[Side] | None" = None
    """The models; by default those that are chosen above."""
    asked: "Sequence[Side]" = ()
    """Models whose answers count too where an input is left to the models; by default the same."""
    row: "DeltaGenerator | None" = None
    """Where the widgets of its first analysis go."""
    offers: "DeltaGenerator | None" = None
    """Where what takes long is offered; by default above its figures."""
    lists: bool = True
    """Whether the tables of its first analysis are shown; else they are in the folded section alone."""
    says: bool = True
    """Whether the sentence of its first analysis is shown; else another one says what the page is about."""
    spots: "Mapping[str, DeltaGenerator]" = dataclasses.field(default_factory=dict)
    """Where figures go, by name; the others stand in rows."""

    def below(self, **changes: Any) -> "Page":
        """Return the page for what stands below its main figures: the sentence stands there too."""
        return dataclasses.replace(self, answer=st.container(), row=None, lists=True, says=True, **changes)


def lay_out(fields: Sequence[Mapping[str, Any]], page: Page, beside: bool = False) -> "dict[str, DeltaGenerator]":
    """Return where the widget of each input goes, by its key: one row, with one place for each popover, by its name.

    Args:
        fields: the inputs.
        page: which of them it gives, and which have a widget already.
        beside: leave room for a note, at the key `BESIDE`.
    """
    new = [each for each in fields if asks(each) and each["key"] not in page.drawn and each["name"] not in page.given]
    slots: dict[str, list[Mapping[str, Any]]] = {}
    for field in new:
        at = next((each for each in new if each["name"] == field["instead"]), field)
        slots.setdefault(field["folded"] or f"={at['key']}", []).append(field)
    widths = [2 if not slot.startswith("=") else width(own[0]) for slot, own in slots.items()] + [5] * beside
    rest = [ROOM - sum(widths)] * (sum(widths) < ROOM and not beside)
    columns = st.columns([*widths, *rest], **ROW)[: len(widths)] if widths else []
    places: dict[str, DeltaGenerator] = {BESIDE: columns.pop()} if beside else {}
    for column, (slot, own) in zip(columns, slots.items(), strict=True):
        if slot.startswith("="):
            places |= {field["key"]: column for field in own}
        else:
            places[slot] = column.popover(slot, width="stretch")
    return places


def _fold(fields: Sequence[Mapping[str, Any]], popover: "DeltaGenerator") -> "dict[str, DeltaGenerator]":
    """Return where the widgets of a popover go, by their keys: many of them stand two in a row."""
    if len(fields) <= LONG:
        return {field["key"]: popover for field in fields}
    return {
        field["key"]: place
        for start in range(0, len(fields), 2)
        for field, place in zip(fields[start : start + 2], popover.columns(2), strict=False)
    }


def fields_of(analysis: Analysis, *lms: "LM", **about: Any) -> list[dict[str, Any]]:
    """Return the fields of an analysis; what is damaged among the runs is said where they are listed."""
    with quiet():
        return analysis.fields(*lms, **about)


def bring(
    analysis: Analysis,
    fields: list[dict[str, Any]],
    page: Page,
    lms: "Sequence[LM]",
    places: "dict[str, DeltaGenerator]",
) -> tuple[Analysis, list[dict[str, Any]]]:
    """Draw the inputs whose values bring others, and return the analysis and its fields with those.

    Raises:
        ProbeError: what a value brings cannot be used.
    """
    first = [each for each in fields if each["brings"]]
    if not first:
        return analysis, fields
    whole = analysis.with_values(choose(analysis, first, page, lms, places) or {})
    return whole, fields_of(whole, *lms)


def asks(field: Mapping[str, Any]) -> bool:
    """Return whether an input has a widget of its own on a page: it is the page's, and there is something to choose."""
    only = len(field["choices"]) == 1 and not (field["required"] or field["optional"])
    only |= field["type"] == "choice" and not field["choices"]
    return not (field["shared"] or field["advanced"] or only or _is_settled(field))


def _is_settled(field: Mapping[str, Any]) -> bool:
    """Return whether an input can be one number alone."""
    low, high = field["within"] or (0, 1)
    return bool(low == high)


def choose(
    analysis: Analysis,
    fields: Sequence[Mapping[str, Any]],
    page: Page,
    lms: "Sequence[LM]",
    places: "dict[str, DeltaGenerator]",
) -> Values | None:
    """Draw the widgets of some inputs but for those that are drawn, and return their values by name.

    None while a file that a link names waits for the reader's consent.

    Raises:
        ProbeError: what the models cannot be asked with these inputs.
    """
    shared, drawn = page.shared, page.drawn
    given: dict[str, Any] = {field["flag"]: getattr(shared, field["shared"]) for field in fields if field["shared"]}
    asked = [field for field in fields if asks(field) and field["name"] not in page.given]
    for slot in dict.fromkeys(field["folded"] for field in asked if field["folded"] in places):
        places |= _fold([each for each in asked if each["folded"] == slot and each["key"] not in drawn], places[slot])
    drawn |= {field["key"]: None for field in fields if field["view"] and _is_settled(field)}
    for field in asked:
        key = field["key"]
        if key not in drawn:
            if field["depends"]:
                known = _parsed(analysis, [each for each in field["depends"] if each not in page.given], given)
                known |= {name: page.given[name] for name in field["depends"] if name in page.given}
                (field,) = analysis.fields(*lms, given=known, names=[field["name"]], ask=_ask)
                if analysis.about_input(field["name"]).first is not None:
                    begin_again(field, known)
            if _is_settled(field):
                drawn[key] = None
                continue
            with places[key]:
                value = drawn[key] = _widget(analysis, field, shared, lms)
            if value is None and field["view"]:
                drawn[key] = field["default"]  # which no other analysis knows
        else:
            value = drawn[key]
        if value is not None:
            given[field["flag"]] = value
    for slot, own in {field["folded"]: field for field in asked if field["folded"]}.items():
        if own["key"] in places:
            with places[slot]:
                take_focus(slot.lower())
    if not all(
        _opened(field, str(given[field["flag"]])) for field in asked if field["file"] and field["flag"] in given
    ):
        return None
    names = [field["name"] for field in fields]
    free = [name for name in names if name not in page.given]
    return _parsed(analysis, free, given) | {name: value for name, value in page.given.items() if name in names}


def _parsed(analysis: Analysis, names: Sequence[str], given: Mapping[str, Any]) -> Values:
    """Return some inputs by name, as the command reads what follows their flags."""
    flags = {option(analysis.option_of(name)) for name in names}
    own = {flag: value for flag, value in given.items() if flag in flags}
    form: Any = parse(analysis.form(names), [*words(own, joined=True)], analysis.name)
    return {name: getattr(form, analysis.option_of(name)) for name in names}


def _ask(function: Callable[..., T], *lms: "LM", **given: Any) -> T:
    """Call a function of an input: once for each choice, where it looks at more than the models."""
    if not given:
        return function(*lms)
    return models.compute_once(_call, *lms, say="Reading the prompt", function=function, **given)


def _call(*lms: "LM", function: Callable[..., T], **given: Any) -> T:
    return function(*lms, **given)


def _opened(field: Mapping[str, Any], named: str) -> bool:
    """Return whether what an input names may be used: a file that no link brought, or a model that is here."""
    if named in field["suggestions"]:
        return True
    if field["suggestions"] and field["name"] != "data":  # models: one of the hub is fetched when the reader says so
        return models.load(named) is not None
    return may_open(named)


def _widget(analysis: Analysis, field: Mapping[str, Any], shared: SharedChoices, lms: "Sequence[LM]") -> Any:
    """Draw the widget of an input, and return its value; None where it is the default."""
    if field["name"] == "chat":
        return choose_chat(analysis.page, lms, shared.prompt) or None
    if is_short(field):
        return draw_choice(field)
    return draw_option(analysis.name, dict(field), link=True)


def begin_again(field: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Give an input whose first value follows from others that value, where these have changed."""
    if has_changed(f"_{field['key']}_of", sorted((name, str(value)) for name, value in source.items())):
        set_input(field["key"], field["default"])


def set_inputs(analysis: Analysis, values: Mapping[str, Any]) -> None:
    """Give inputs of an analysis these values, as if the reader had chosen them; for callbacks."""
    for name, value in values.items():
        about = analysis.about_input(name)
        key = CHAT[analysis.page] if name == "chat" else about.key or f"{analysis.key}_{name}"
        set_input(about.shared or key, value)
        st.session_state.pop(f"_{key}_of", None)  # it is what the reader asked for


def is_short(field: Mapping[str, Any]) -> bool:
    """Return whether the values of an input fit side by side; those that come late have no room of their own."""
    return field["type"] == "choice" and not field["optional"] and not field["late"] and 0 < _letters(field) <= SHORT


def _letters(field: Mapping[str, Any]) -> int:
    return sum(len(field["labels"](each)) for each in field["choices"])


def width(field: Mapping[str, Any]) -> int:
    """Return the relative width of the widget of an input."""
    if is_short(field):
        return max(4, (3 * len(field["choices"]) + _letters(field)) // 5)
    return WIDTHS.get(field["type"], 3)


def draw_choice(field: Mapping[str, Any]) -> Any:
    """Draw the values of an input side by side, and return the chosen one; None where it is the default."""
    choices, first = field["choices"], field["default"]
    value = st.segmented_control(
        escape_markdown(field["label"]),
        choices,
        key=keep(field["key"], choices, first),
        bind="query-params",
        required=True,
        help=field["help"],
        format_func=field["labels"],
    )
    return None if value == first else value
