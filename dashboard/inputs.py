"""The inputs of analyses on a page: layout of their widgets, possible values, and the reader's choices."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from dashboard import models
from dashboard.components.details import DETAILS
from dashboard.components.focus import take_focus
from dashboard.components.form import draw_option, set_input
from dashboard.consent import may_open
from dashboard.data import quiet
from dashboard.markdown import escape_markdown, finding
from dashboard.sides import Side, as_text, choose_chat
from dashboard.state import CHAT, SharedChoices, has_changed, keep
from probe.analyses.analysis_record import Analysis
from probe.options import option, parse, words

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

T = TypeVar("T")
Values = dict[str, Any]
BESIDE = "#beside"
"""Key of the place for a note in a row of widgets."""
Take = Callable[[str, Mapping[str, Any]], None]
"""Function that opens another analysis of the page, given by name, with these inputs."""
SHORT = 36
"""Largest total number of characters of a choice's values that are shown side by side."""
LONG = 6
"""Largest number of widgets in one column of a popover."""
ROOM = 12
"""Width of a row in relative units; narrower widgets leave the rest free."""
ROW: Any = {"vertical_alignment": "bottom", "gap": "medium"}
WIDTHS = {"flag": 4, "int": 2, "float": 2, "path": 5, "text": 5, "list": 4, "map": 5}
"""Relative widths of the widgets by type of value; that of a choice depends on its labels."""


@dataclasses.dataclass(frozen=True)
class Page:
    """Settings of a page for the analyses that it draws."""

    shared: SharedChoices
    """Choices above the page."""
    answer: "DeltaGenerator"
    """Container of the sentence."""
    tell: Callable[[str], None] = finding
    """Function that draws the sentence."""
    section: str = DETAILS
    """Key of the folded section."""
    drawn: Values = dataclasses.field(default_factory=dict)
    """Values of the widgets drawn so far, by key; each analysis adds its own."""
    take: Take | None = None
    """Function that opens another analysis of the page from a row of a table."""
    given: Values = dataclasses.field(default_factory=dict)
    """Inputs by name that the page sets for its analyses, without widgets."""
    sides: "Sequence[Side] | None" = None
    """Models of the analyses; by default those chosen above the page."""
    asked: "Sequence[Side]" = ()
    """Models that determine the default values of inputs; by default the models of the analyses."""
    row: "DeltaGenerator | None" = None
    """Container of the widgets of its first analysis."""
    offers: "DeltaGenerator | None" = None
    """Container of offers of long computations; by default above the figures."""
    lists: bool = True
    """Whether the tables of its first analysis are shown on the page or only in the folded section."""
    says: bool = True
    """Whether the sentence of its first analysis is shown; if not, the page has another sentence."""
    spots: "Mapping[str, DeltaGenerator]" = dataclasses.field(default_factory=dict)
    """Containers of figures by name; other figures are drawn in rows."""

    def below(self, **changes: Any) -> "Page":
        """Return the settings for the part below the main figures, where the sentence is drawn too."""
        return dataclasses.replace(self, answer=st.container(), row=None, lists=True, says=True, **changes)


def lay_out(fields: Sequence[Mapping[str, Any]], page: Page, beside: bool = False) -> "dict[str, DeltaGenerator]":
    """Lay out the widgets of inputs in one row, and return their containers by key, those of popovers by name.

    Args:
        fields: fields of the inputs.
        page: page, which sets some inputs and has already drawn widgets of others.
        beside: whether to leave room for a note, at the key `BESIDE`.
    """
    new = [each for each in fields if asks(each) and each["key"] not in page.drawn and each["name"] not in page.given]
    slots: dict[str, list[Mapping[str, Any]]] = {}
    for field in new:
        at = next((each for each in new if each["name"] == field["instead"]), field)
        slots.setdefault(field["folded"] or f"={at['key']}", []).append(field)
    widths = [3 if not slot.startswith("=") else width(own[0]) for slot, own in slots.items()] + [5] * beside
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
    """Return the containers of a popover's widgets by key; many widgets are arranged in two columns."""
    if len(fields) <= LONG:
        return {field["key"]: popover for field in fields}
    return {
        field["key"]: place
        for start in range(0, len(fields), 2)
        for field, place in zip(fields[start : start + 2], popover.columns(2), strict=False)
    }


def fields_of(analysis: Analysis, *lms: "LM", **about: Any) -> list[dict[str, Any]]:
    """Return the fields of an analysis; problems of damaged runs are shown in the list of runs."""
    with quiet():
        return analysis.fields(*lms, **about)


def bring(
    analysis: Analysis,
    fields: list[dict[str, Any]],
    page: Page,
    lms: "Sequence[LM]",
    places: "dict[str, DeltaGenerator]",
) -> tuple[Analysis, list[dict[str, Any]]]:
    """Draw the inputs whose values add further inputs, and return the analysis and its fields with these.

    Raises:
        ProbeError: the inputs that a value adds cannot be used.
    """
    first = [each for each in fields if each["brings"]]
    if not first:
        return analysis, fields
    whole = analysis.with_values(choose(analysis, first, page, lms, places) or {})
    return whole, fields_of(whole, *lms)


def asks(field: Mapping[str, Any]) -> bool:
    """Return whether an input has a widget on a page: it is not shared or advanced, and has more than one value."""
    only = len(field["choices"]) == 1 and not (field["required"] or field["optional"])
    only |= field["type"] == "choice" and not field["choices"]
    return not (field["shared"] or field["advanced"] or only or _is_settled(field))


def _is_settled(field: Mapping[str, Any]) -> bool:
    """Return whether an input has only one possible number."""
    low, high = field["within"] or (0, 1)
    return bool(low == high)


def choose(
    analysis: Analysis,
    fields: Sequence[Mapping[str, Any]],
    page: Page,
    lms: "Sequence[LM]",
    places: "dict[str, DeltaGenerator]",
) -> Values | None:
    """Draw the widgets of inputs that are not drawn yet, and return all values by name.

    The result is None while a file named by a link waits for the reader's consent.

    Raises:
        ProbeError: the models cannot be used with these inputs.
    """
    shared, drawn = page.shared, page.drawn
    given: dict[str, Any] = {field["flag"]: getattr(shared, field["shared"]) for field in fields if field["shared"]}
    given = {flag: as_text(said, lms) for flag, said in given.items()}
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
    """Return inputs by name, parsed like the words after their flags on the command line."""
    flags = {option(analysis.option_of(name)) for name in names}
    own = {flag: value for flag, value in given.items() if flag in flags}
    form: Any = parse(analysis.form(names), [*words(own, joined=True)], analysis.name)
    return {name: getattr(form, analysis.option_of(name)) for name in names}


def _ask(function: Callable[..., T], *lms: "LM", **given: Any) -> T:
    """Call a function of an input; if it depends on more than the models, once for each choice."""
    if not given:
        return function(*lms)
    return models.compute_once(_call, *lms, say="Reading the prompt", function=function, **given)


def _call(*lms: "LM", function: Callable[..., T], **given: Any) -> T:
    return function(*lms, **given)


def _opened(field: Mapping[str, Any], named: str) -> bool:
    """Return whether the value of an input may be used: a file not named by a link, or a model on this machine."""
    if named in field["suggestions"]:
        return True
    if field["suggestions"] and field["name"] not in ("data", "features"):  # models: those of the hub need consent
        return models.load(named) is not None
    return may_open(named)


def _widget(analysis: Analysis, field: Mapping[str, Any], shared: SharedChoices, lms: "Sequence[LM]") -> Any:
    """Draw the widget of an input, and return its value; None for the default."""
    if field["name"] == "chat":
        return choose_chat(analysis.page, lms, shared.prompt) or None
    if is_short(field):
        return draw_choice(field)
    return draw_option(analysis.name, dict(field), link=True)


def begin_again(field: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Reset an input whose initial value depends on others, if these have changed."""
    if has_changed(f"_{field['key']}_of", sorted((name, str(value)) for name, value in source.items())):
        set_input(field["key"], field["default"])


def set_inputs(analysis: Analysis, values: Mapping[str, Any]) -> None:
    """Set inputs of an analysis as if the reader had chosen them; for callbacks."""
    for name, value in values.items():
        about = analysis.about_input(name)
        key = CHAT[analysis.page] if name == "chat" else about.key or f"{analysis.key}_{name}"
        set_input(about.shared or key, value)
        st.session_state.pop(f"_{key}_of", None)  # it is the reader's choice


def is_short(field: Mapping[str, Any]) -> bool:
    """Return whether the values of an input fit side by side; values that are added later are not considered."""
    return field["type"] == "choice" and not field["optional"] and not field["late"] and 0 < _letters(field) <= SHORT


def _letters(field: Mapping[str, Any]) -> int:
    return sum(len(field["labels"](each)) for each in field["choices"])


def width(field: Mapping[str, Any]) -> int:
    """Return the relative width of the widget of an input."""
    if is_short(field):
        return max(4, (3 * len(field["choices"]) + _letters(field)) // 5)
    return WIDTHS.get(field["type"], 3)


def draw_choice(field: Mapping[str, Any]) -> Any:
    """Draw the values of an input side by side, and return the chosen one; None for the default."""
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
