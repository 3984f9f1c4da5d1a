"""The one way a page shows an analysis: its inputs, its cost, its sentence, figures and tables, all from its record."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.badge import trust_badge
from dashboard.components.details import DETAILS, TAB_DETAILS, csv_button, details
from dashboard.components.figure import figure
from dashboard.components.focus import take_focus
from dashboard.components.form import draw_option, set_input
from dashboard.components.table import number_formats, show_table
from dashboard.components.tokens import token_rows
from dashboard.data import stamp
from dashboard.markdown import escape_markdown, finding, guard_callback, note, prose
from dashboard.named import may_open
from dashboard.sentences import duration
from dashboard.sides import Side, ask_for_model, choose_chat, load_side, load_sides, note_form, words_known
from dashboard.state import CHAT, PROMPT, SharedChoices, has_changed, keep
from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import find_analysis
from probe.errors import ProbeError
from probe.options import option, parse, words
from probe.plotting.notebook import Drawable, Look, meta_of, title_of
from probe.plugins import BUILT_IN

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM
    from probe.plotting.chips import TokenRows
    from probe.ticks import Tick

T = TypeVar("T")
Values = dict[str, Any]

SHORT = 36
"""Letters up to which the values of a choice stand side by side."""
ROOM = 12
"""Width of a row: widgets that are narrower together leave the rest of it free."""
ROWS = 10
"""Rows of a table that are seen without scrolling."""
ROW: Any = {"vertical_alignment": "bottom", "gap": "medium"}
WIDTHS = {"flag": 3, "int": 2, "float": 2, "path": 5, "text": 5, "list": 4, "map": 5}
"""Relative widths of the widgets by the type of their value; that of a choice follows from its words."""


CLICK = " (click one)"
"""Behind the title of a figure in which a click chooses something."""
BESIDE = "#beside"
"""Where a row of widgets has room for a note."""
Take = Callable[[str, Mapping[str, Any]], None]
"""Opens another analysis of the page, by its name, with these inputs."""


def keys_of(names: Sequence[str]) -> list[str]:
    """Return the keys of the widgets of analyses, which are their names in the URL."""
    known = list(map(find_analysis, names))
    keys = [field["key"] for each in known for field in each.fields() if _asks(field)]
    return [*keys, *(_list_key(each) for each in known)]


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
    lists: bool = True
    """Whether the tables of its first analysis are shown; else they are in the folded section alone."""

    def below(self, **changes: Any) -> "Page":
        """Return the page for what stands below its main figures: the sentence stands there too."""
        return dataclasses.replace(self, answer=st.container(), row=None, lists=True, **changes)


def draw_below(name: str, page: Page) -> None:
    """Draw an analysis in a tab below what the page is about."""
    draw(find_analysis(name), page.below(tell=say, section=TAB_DETAILS))


def say(sentence: str) -> None:
    """Draw the sentence of a tab."""
    st.markdown(prose(sentence))


def draw_several(names: Sequence[str], page: Page) -> None:
    """Draw analyses one below the other: the sentence of the first is that of the page, and inputs are shared."""
    for index, name in enumerate(names):
        analysis = find_analysis(name)
        if index:
            st.markdown(f"#### {escape_markdown(analysis.title)}")
        draw(analysis, page.below(tell=note, section=f"{DETAILS}-{name}") if index else page)


def draw(analysis: Analysis, page: Page) -> bool:
    """Draw an analysis of the chosen models, from its inputs to its folded section; return whether there is a result.

    Args:
        analysis: which one.
        page: where it is drawn.
    """
    sides = load(analysis, page.shared) if page.sides is None else page.sides
    if sides is None or _lacks(analysis, page, sides):
        return False
    lms = [side.lm for side in page.asked or sides]
    fields = analysis.fields(*lms)
    texts = st.container()
    with page.row or st.container():
        places = lay_out([each for each in fields if each["view"] != "lists"], page, beside=analysis.has_chips)
    found: list[tuple[Sequence[Side], Drawable]] | None = []
    errors = ["What is named below has not been opened."]
    try:
        asked = choose(analysis, [each for each in fields if not each["view"]], page, lms, places)
        if asked is not None:
            values = _settled(analysis, lms, asked)
            found, errors = compute(analysis, sides, values)
    except ProbeError as failed:
        asked, errors = {}, [str(failed)]
    if asked is None or not found:
        _tell_why(analysis, page, sides, found, errors)
        return False
    if errors:
        sides = [side for group, _ in found for side in group]
    results = analysis.together([result for _, result in found], looks_of(sides))
    for error in errors:
        note(error)
    with texts:
        if "chat" in asked and "chat" not in page.given:
            note_form(lms, bool(asked["chat"]))
    groups = [sides] if len(results) == 1 else [[side] for side in sides]
    source = {side.role: side.ref for side in sides} | values
    draw_results(analysis, page, results, groups, source, partial(code, analysis, sides, values), lms, texts, places)
    return True


def draw_results(
    analysis: Analysis,
    page: Page,
    results: Sequence[Drawable],
    groups: "Sequence[Sequence[Side]]",
    source: Mapping[str, Any],
    lines: Callable[[Values], str],
    lms: "Sequence[LM]" = (),
    texts: "DeltaGenerator | None" = None,
    places: "Mapping[str, DeltaGenerator] | None" = None,
) -> None:
    """Draw results of an analysis: sentence, texts, figures, notes, tables, and the folded section.

    Args:
        analysis: which one.
        page: where they are drawn.
        results: what `Analysis.together` gives.
        groups: the models of each result; none where it has no models, as with captures.
        source: models and inputs, for the files that a reader takes away.
        lines: gives the Python lines of the chosen views.
        lms: the models.
        texts: where texts go.
        places: where the widgets of views go, by their keys; without it they get a row here.
    """
    texts = st.container() if texts is None else texts
    looks = [each for each in analysis.fields(*lms, result=results[0]) if each["view"]]
    if places is None:
        places = lay_out([each for each in looks if each["view"] != "lists"], page, beside=analysis.has_chips)
    for each in looks:
        if analysis.about_input(each["name"]).first is not None:
            begin_again(each, {"first": each["default"]})
    views = choose(analysis, [each for each in looks if each["view"] != "lists"], page, lms, places) or {}
    with page.answer:
        for sentence in dict.fromkeys(filter(None, (analysis.sentence(result, views) for result in results))):
            page.tell(sentence)
    with texts:
        for result, group in zip(results, groups, strict=True):
            draw_texts(analysis, analysis.chips(result, views), _apart("texts", group, groups), places.get(BESIDE))
    draw_figures(analysis, results, groups, views, source)
    for remark in dict.fromkeys(remark for result in results for remark in result.notes):
        note(remark)
    if page.lists:
        own = [each for each in looks if each["view"] == "lists"]
        views = draw_lists(analysis, results, groups, own, views, page)
    if results[0].hooked and page.section == DETAILS:
        trust_badge(*((side.name, side.lm) for group in groups for side in group), text=results[0].hooked)
    tables = {
        _key(analysis, _apart(name, group, groups)): table
        for result, group in zip(results, groups, strict=True)
        for name, table in result.tables().items()
    }
    details(analysis.equations, analysis.about, lines(views), tables, key=page.section)


def _lacks(analysis: Analysis, page: Page, sides: Sequence[Side]) -> bool:
    """Ask for the models or the prompt that an analysis needs; return whether it lacks them."""
    aim = analysis.summary[:1].lower() + analysis.summary[1:]
    if analysis.models and not sides:
        ask_for_model(page.answer, f"Choose {'two models' if analysis.models == PAIR else 'a model'} above to {aim}")
        return True
    needs = any(each["required"] for each in analysis.fields() if each["shared"] == PROMPT)
    if needs and not page.shared.prompt.strip():
        ask_for_model(page.answer, f"Write a prompt above to {aim}")
        return True
    return False


def _settled(analysis: Analysis, lms: "Sequence[LM]", values: Values) -> Values:
    """Return inputs that are left to the models with one value for all of them."""
    if analysis.settle is None or analysis.models == PAIR or len(lms) < 2:
        return values
    say = f"{escape_markdown(analysis.title)}: asking all models alike"
    return models.compute_once(_settle, *lms, say=say, name=analysis.name, values=tuple(values.items()))


def _tell_why(
    analysis: Analysis, page: Page, sides: Sequence[Side], found: Sequence[object] | None, errors: Sequence[str]
) -> None:
    """Say why there is no result: it is only offered, a word of the prompt is unknown, or what failed."""
    asks = any(each["shared"] == PROMPT for each in analysis.fields())
    named = ((side.name, side.lm) for side in sides)
    if found is not None and asks and not words_known(page.shared, named, page.answer):
        return
    aim = analysis.summary[:1].lower() + analysis.summary[1:]
    with page.answer:
        page.tell(f"Press the button to {aim}" if found is None else errors[0])


def load(analysis: Analysis, shared: SharedChoices) -> list[Side] | None:
    """Load the models that an analysis takes; None while the page waits for consent, none where one is not chosen."""
    if not analysis.models:
        return []
    if analysis.models != PAIR:
        sides = load_sides(shared)
        return None if sides is None else list(sides)
    if not (shared.base and shared.aligned):
        return []
    first, second = load_side(shared, "base"), load_side(shared, "aligned")
    return None if first is None or second is None else [first, second]


def lay_out(fields: Sequence[Mapping[str, Any]], page: Page, beside: bool = False) -> "dict[str, DeltaGenerator]":
    """Return where the widget of each input goes, by its key: one row, with one place for each popover.

    Args:
        fields: the inputs.
        page: which of them it gives, and which have a widget already.
        beside: leave room for a note, at the key `BESIDE`.
    """
    new = [each for each in fields if _asks(each) and each["key"] not in page.drawn and each["name"] not in page.given]
    slots: dict[str, list[Mapping[str, Any]]] = {}
    for field in new:
        slots.setdefault(field["folded"] or f"={field['key']}", []).append(field)
    widths = [2 if not slot.startswith("=") else width(own[0]) for slot, own in slots.items()] + [5] * beside
    rest = [ROOM - sum(widths)] * (sum(widths) < ROOM and not beside)
    columns = st.columns([*widths, *rest], **ROW)[: len(widths)] if widths else []
    places: dict[str, DeltaGenerator] = {BESIDE: columns.pop()} if beside else {}
    for column, (slot, own) in zip(columns, slots.items(), strict=True):
        if not slot.startswith("="):
            column = column.popover(slot, width="stretch")
        places |= {field["key"]: column for field in own}
    return places


def _asks(field: Mapping[str, Any]) -> bool:
    """Return whether an input has a widget of its own on a page: it is the page's, and there is something to choose."""
    only = len(field["choices"]) == 1 and not (field["required"] or field["optional"])
    return not (field["shared"] or field["advanced"] or only)


def choose(
    analysis: Analysis,
    fields: Sequence[Mapping[str, Any]],
    page: Page,
    lms: "Sequence[LM]",
    places: "Mapping[str, DeltaGenerator]",
) -> Values | None:
    """Draw the widgets of some inputs but for those that are drawn, and return their values by name.

    None while a file that a link names waits for the reader's consent.

    Raises:
        ProbeError: what the models cannot be asked with these inputs.
    """
    shared, drawn = page.shared, page.drawn
    given: dict[str, Any] = {field["flag"]: getattr(shared, field["shared"]) for field in fields if field["shared"]}
    asked = [field for field in fields if _asks(field) and field["name"] not in page.given]
    for field in asked:
        key = field["key"]
        if key not in drawn:
            if field["depends"]:
                known = _parsed(analysis, field["depends"], given) | page.given
                (field,) = analysis.fields(*lms, given=known, names=[field["name"]], ask=_ask)
                if analysis.about_input(field["name"]).first is not None:
                    begin_again(field, known)
            with places[key]:
                drawn[key] = _widget(analysis, field, shared, lms)
        if drawn[key] is not None:
            given[field["flag"]] = drawn[key]
    for slot, own in {field["folded"]: field for field in asked if field["folded"]}.items():
        if own["key"] in places:
            with places[own["key"]]:
                take_focus(slot.lower())
    if not all(
        _opened(field, str(given[field["flag"]])) for field in asked if field["file"] and field["flag"] in given
    ):
        return None
    names = [field["name"] for field in fields]
    return _parsed(analysis, names, given) | {name: value for name, value in page.given.items() if name in names}


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
    if field["suggestions"]:  # models: one of the hub is fetched only when the reader says so
        return named in field["suggestions"] or models.load(named) is not None
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
    letters = sum(len(field["labels"](each)) for each in field["choices"])
    return field["type"] == "choice" and not field["optional"] and not field["late"] and 0 < letters <= SHORT


def width(field: Mapping[str, Any]) -> int:
    """Return the relative width of the widget of an input."""
    return WIDTHS.get(field["type"], 4 if is_short(field) else 3)


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


def compute(
    analysis: Analysis, sides: Sequence[Side], values: Values
) -> tuple[list[tuple[Sequence[Side], Drawable]] | None, list[str]]:
    """Return the result of the pair, or of each model, and why others have none; None while one is only offered."""
    options: dict[str, Any] = {
        "name": analysis.name,
        "version": analysis.version,
        "values": tuple(sorted(values.items())),
        "stamps": tuple(stamp(each.expanduser()) for each in values.values() if isinstance(each, Path)),
    }
    groups = [[*sides]] if analysis.models == PAIR else [[side] for side in sides] or [[]]
    what, key, errors = escape_markdown(analysis.title), f"{analysis.name}-run", dict[int, str]()
    costs, place = list[float](), st.empty()
    for index, group in enumerate(groups):
        lms = [side.lm for side in group]
        try:
            if models.ready(_run, *lms, **options) is None:
                costs.append(models.compute_once(_cost, *lms, say=f"{what}: telling its cost", **options))
        except ProbeError as error:
            errors[index] = str(error)
    if costs and not agreed(place, "Run it", sum(costs), key):
        return None, []
    found = list[tuple[Sequence[Side], Drawable]]()
    for index, group in enumerate(groups):
        if index in errors:
            continue
        try:
            result = compute_stoppably(place, f"{key}-{index}", _run, *(side.lm for side in group), say=what, **options)
            found.append((group, result))
        except ProbeError as error:
            errors[index] = str(error)
    return found, list(errors.values())


def looks_of(sides: Sequence[Side]) -> list[Look]:
    """Return how the models are drawn: a second one of the same colour with dashes."""
    dashes = ["dash" if index and side.colour == sides[0].colour else "solid" for index, side in enumerate(sides)]
    return [Look(side.name, side.colour, dash) for side, dash in zip(sides, dashes, strict=True)]


def _run(
    *lms: "LM", tick: "Tick", name: str, version: str | None, values: tuple[tuple[str, Any], ...], stamps: Any
) -> Drawable:
    return find_analysis(name).run(*lms, tick=tick, **dict(values))


def _settle(*lms: "LM", name: str, values: tuple[tuple[str, Any], ...]) -> Values:
    return find_analysis(name).settled(dict(values), *lms)


def _cost(*lms: "LM", name: str, version: str | None, values: tuple[tuple[str, Any], ...], stamps: Any) -> float:
    return find_analysis(name).cost(*lms, **dict(values))


def compute_when_asked(
    fn: Callable[..., T],
    *lms: "LM",
    button: str,
    seconds: float | None,
    key: str,
    say: str,
    most: str = "",
    **options: Any,
) -> T | None:
    """Return what `compute_once` gives, at once if it is known or cheap, else after the reader pressed a button.

    Args:
        fn: see `compute_once`; it is given a `tick`.
        lms: the same.
        button: what it says, followed by the cost.
        seconds: how long it takes, None where nobody knows.
        key: of the button.
        say: what happens meanwhile.
        most: what stands behind the seconds.
        options: of `fn`.

    Returns:
        None while it is only offered.
    """
    place = st.empty()
    if models.ready(fn, *lms, **options) is None and not agreed(place, button, seconds, key, most):
        return None
    return compute_stoppably(place, key, fn, *lms, say=say, **options)


def agreed(place: "DeltaGenerator", button: str, seconds: float | None, key: str, most: str = "") -> bool:
    """Return whether something is computed now: it is cheap, or the reader has pressed the button that says its cost.

    Args:
        place: where the button is.
        button: what it says, followed by the cost.
        seconds: how long it takes, None where nobody knows.
        key: of the button.
        most: what stands behind the seconds.
    """
    if seconds is not None and models.is_quick(seconds):
        return True
    cost = "the bar tells how long it takes" if seconds is None else f"about {duration(seconds)}{most}"
    return place.button(f"{button} ({cost})", key=key, type="primary", icon=":material/play_arrow:")


def compute_stoppably(
    place: "DeltaGenerator", key: str, fn: Callable[..., T], *lms: "LM", say: str, **options: Any
) -> T:
    """Return what `compute_once` gives, with a button that stops it meanwhile."""
    result = models.ready(fn, *lms, **options)
    if result is not None:
        return result
    with place.container():
        stop: Any = {"key": f"{key}-cancel", "icon": ":material/close:"}
        st.button("Cancel", help="Stops at the next step of the bar.", **stop)
        try:
            result = models.compute_once(fn, *lms, say=say, steps=True, **options)
        except ProbeError:
            place.empty()  # there is nothing to cancel any more
            raise
    place.empty()
    return result


def draw_texts(analysis: Analysis, texts: "TokenRows | None", key: str, beside: "DeltaGenerator | None" = None) -> None:
    """Draw texts as chips; a click on one gives inputs the values that it names. What they mean is said beside."""
    if texts is None:
        return

    def pick(row: int, index: int) -> None:
        set_inputs(analysis, texts.rows[row].tokens[index].inputs)

    token_rows(texts.rows, chosen=texts.chosen, key=_key(analysis, key), on_pick=pick)
    if texts.note and beside is not None:
        with beside:
            note(texts.note)


def draw_figures(
    analysis: Analysis,
    results: Sequence[Drawable],
    groups: Sequence[Sequence[Side]],
    views: Values,
    source: Mapping[str, Any],
) -> None:
    """Draw all figures in the rows that the record names; those of several models stand side by side."""
    charts = [analysis.figures(result, views) for result in results]
    names = list(dict.fromkeys(name for each in charts for name in each))
    rows = [*analysis.widths, *([1] for _ in names)]
    while names:
        widths, *rows = rows
        row, names = names[: len(widths)], names[len(widths) :]
        columns = st.columns([part for part in widths[: len(row)] for _ in charts], gap="medium")
        places = [(name, index) for name in row for index in range(len(charts))]
        for column, (name, index) in zip(columns, places, strict=True):
            chart = charts[index].get(name)
            if chart is None:
                continue
            clicks = meta_of(chart).get("inputs")
            title = _apart(title_of(chart, analysis.title), groups[index], groups, ": ") + CLICK * bool(clicks)
            act = partial(_take_point, analysis, clicks) if clicks else None
            with column:
                key = _key(analysis, _apart(name, groups[index], groups))
                about = {**source, **views}
                figure(chart, results[index].data(name), key, title=title, source=about, on_select=act)


def _take_point(analysis: Analysis, clicks: Mapping[str, str], points: list[dict]) -> None:
    """Give inputs the values of the point that was clicked."""
    values = {name: points[0].get(part) for name, part in clicks.items()}
    values = {name: value[0] if isinstance(value, list) else value for name, value in values.items()}
    kinds = {each["name"]: each["type"] for each in analysis.fields()}
    known = {name: value for name, value in values.items() if value is not None}
    set_inputs(analysis, {name: int(value) if kinds[name] == "int" else value for name, value in known.items()})


def draw_lists(
    analysis: Analysis,
    results: Sequence[Drawable],
    groups: Sequence[Sequence[Side]],
    fields: Sequence[Mapping[str, Any]],
    views: Values,
    page: Page,
) -> Values:
    """Draw the table that the reader chooses, with all of its rows as CSV; return the views with those of tables."""
    left, *right = st.columns([7, *map(width, fields)], **ROW) if fields else [st.container()]
    places = {field["key"]: place for field, place in zip(fields, right, strict=True)}
    views = views | (choose(analysis, fields, dataclasses.replace(page, drawn={}), (), places) or {})
    lists = {
        _apart(title, group, groups, ": "): table
        for result, group in zip(results, groups, strict=True)
        for title, table in analysis.lists(result, views).items()
    }
    if not lists:
        return views
    title = next(iter(lists))
    if len(lists) > 1:
        key = keep(_list_key(analysis), lists, title)
        with left:
            chosen = st.segmented_control("Table", list(lists), key=key, bind="query-params", required=True)
        title = str(chosen or title)
    table = lists[title]
    opens, rows = table.attrs.get("opens", ("", ()))
    look: Any = {"hide_index": True, "column_config": number_formats(table)}
    look |= {"height": 38 + 35 * min(ROWS, max(1, len(table)))}
    if opens and page.take is not None:
        key = f"{analysis.name}-rows"
        act = guard_callback(partial(_open_row, key, page.take, opens, rows))
        show_table(table, key=key, on_select=act, selection_mode="single-row", **look)
        note(f"A click on the box before a row opens it in {find_analysis(opens).title}.")
    else:
        show_table(table, key=f"{analysis.name}-list", **look)
    if any(map(pd.api.types.is_float_dtype, table.dtypes)):
        csv_button(table, f"{analysis.key}-{title.lower()}")
    return views


def _list_key(analysis: Analysis) -> str:
    return f"{analysis.key}_list"


def _open_row(key: str, take: Take, opens: str, rows: Sequence[Mapping[str, Any]]) -> None:
    picked = st.session_state[key]["selection"]["rows"]
    if picked:
        take(opens, rows[picked[0]])


def code(analysis: Analysis, sides: Sequence[Side], values: Mapping[str, Any], views: Mapping[str, Any]) -> str:
    """Return the Python lines that give the sentence, the figures and the tables of the page."""
    scalar = any(side.lm.readout != "tokens" for side in sides)
    load = "probe.model.rewards.analysable" if scalar else "probe.LM.load"
    loads = [f"{load}({side.ref!r})" for side in sides]
    lms = [side.lm for side in sides]
    computed = analysis.complete(values, *lms)
    given = [f"{name}={_literal(value)}" for name, value in computed.items() if value != analysis.inputs[name].default]
    shown = {
        method: ", ".join(
            f"{name}={_literal(value)}"
            for name, value in views.items()
            if value != analysis.views[name].default and name in analysis.views_of(method)
        )
        for method in ("sentence", "figures", "lists")
    }
    lines = ["from pathlib import Path", ""] * any(isinstance(value, Path) for value in computed.values())
    lines += ["import probe", *["import probe.model.rewards"] * scalar]
    if not analysis.call.startswith("probe."):
        lines += [f"import {analysis.function.__module__}"]
    if analysis.origin.endswith(".py"):
        lines += ["import probe.plugins", "", f"probe.plugins.load({analysis.origin!r})"]
    names = list(analysis.models) if analysis.models == PAIR else [side.role for side in sides]
    lines += ["", *([f"{', '.join(names)} = {', '.join(loads)}"] if loads else [])]
    for own in [names] if analysis.models == PAIR else [[name] for name in names] or [[]]:
        lines += [f"result = {analysis.call}({', '.join([*own, *given])})"]
        lines += [f"print(result.sentence({shown['sentence']})); result.figures({shown['figures']}), result.tables()"]
        lines += [f"result.lists({shown['lists']})"] * (shown["lists"] not in ("", shown["figures"]))
    return "\n".join(lines)


def _literal(value: Any) -> str:
    return f"Path({str(value)!r})" if isinstance(value, Path) else repr(value)


def _key(analysis: Analysis, name: str) -> str:
    """Return the name of a figure or a table on its page, and of its files; those of a plugin stand apart."""
    return name if analysis.origin == BUILT_IN else f"{analysis.name}-{name}"


def _apart(name: str, group: Sequence[Side], groups: Sequence[Sequence[Side]], sign: str = "-") -> str:
    """Return a name with that of the model behind it, where several stand side by side."""
    if len(groups) == 1:
        return name
    return f"{name}{sign}{group[0].name}"
