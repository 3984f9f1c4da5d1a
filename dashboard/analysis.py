"""The one way a page shows an analysis: its inputs, its cost, its sentence, figures and tables, all from its record."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.details import DETAILS, csv_button, details
from dashboard.components.figure import figure
from dashboard.components.form import draw_option
from dashboard.components.table import number_formats, show_table
from dashboard.data import stamp
from dashboard.markdown import escape_markdown, finding, note, prose
from dashboard.named import may_open
from dashboard.sentences import duration
from dashboard.sides import Side, ask_for_model, load_side, load_sides
from dashboard.state import SharedChoices, keep
from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import find_analysis
from probe.errors import ProbeError
from probe.options import parse, words
from probe.plotting.notebook import Drawable, Look, title_of
from probe.plugins import BUILT_IN

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM
    from probe.ticks import Tick

T = TypeVar("T")
Values = dict[str, Any]

SHORT = 36
"""Letters up to which the values of a choice stand side by side."""
ROWS = 10
"""Rows of a table that are seen without scrolling."""
ROW: Any = {"vertical_alignment": "bottom", "gap": "medium"}
WIDTHS = {"flag": 3, "int": 2, "float": 2, "path": 5, "text": 5, "list": 4, "map": 5}
"""Relative widths of the widgets by the type of their value; that of a choice follows from its words."""


def draw_below(name: str, shared: SharedChoices, section: str) -> None:
    """Draw an analysis in a tab below what the page is about: its sentence stands in the tab."""
    draw(find_analysis(name), shared, st.container(), section, _say)


def _say(sentence: str) -> None:
    st.markdown(prose(sentence))


def draw_several(names: Sequence[str], shared: SharedChoices, answer: "DeltaGenerator") -> None:
    """Draw analyses one below the other: the sentence of the first is that of the page, and inputs are shared."""
    drawn: Values = {}
    for index, name in enumerate(names):
        analysis = find_analysis(name)
        if index:
            st.markdown(f"#### {escape_markdown(analysis.title)}")
        section = DETAILS if not index else f"{DETAILS}-{name}"
        draw(analysis, shared, st.container() if index else answer, section, note if index else finding, drawn)


def draw(
    analysis: Analysis,
    shared: SharedChoices,
    answer: "DeltaGenerator",
    section: str = DETAILS,
    tell: Callable[[str], None] = finding,
    drawn: Values | None = None,
) -> None:
    """Draw an analysis of the chosen models, from its inputs to its folded section.

    Args:
        analysis: which one.
        shared: the choices above the page.
        answer: where its sentence goes.
        section: key of the folded section.
        tell: what draws the sentence.
        drawn: values of widgets that the page has drawn, by their keys, to which those of this analysis are added.
    """
    drawn = {} if drawn is None else drawn
    sides = load(analysis, shared)
    if sides is None:
        return
    if analysis.models and not sides:
        ask_for_model(
            answer, f"Choose {'two models' if analysis.models == PAIR else 'a model'} above to {_aim(analysis)}"
        )
        return
    lms = [side.lm for side in sides]
    fields = analysis.fields(*(lms if analysis.models == PAIR else lms[:1]))
    if not shared.prompt.strip() and any(field["shared"] and field["required"] for field in fields):
        ask_for_model(answer, f"Write a prompt above to {_aim(analysis)}")
        return
    values = choose(analysis, [each for each in fields if not each["view"]], shared, drawn)
    if values is None:
        with answer:
            tell("The file comes from a link and has not been opened.")
        return
    found, errors = compute(analysis, sides, values)
    if found is None or not found:
        with answer:
            tell(f"Press the button to {_aim(analysis)}" if found is None else next(iter(errors)))
        return
    if errors:
        sides = [side for group, _ in found for side in group]
    results = analysis.together([result for _, result in found], looks_of(sides))
    for error in errors:
        note(error)
    with answer:
        for sentence in dict.fromkeys(filter(None, (result.sentence() for result in results))):
            tell(sentence)
    views = choose(analysis, [each for each in fields if each["view"]], shared, drawn) or {}
    groups = [sides] if len(results) == 1 else [[side] for side in sides]
    source = {side.role: side.ref for side in sides} | values
    draw_figures(analysis, results, groups, views, source)
    for remark in dict.fromkeys(remark for result in results for remark in result.notes):
        note(remark)
    draw_lists(analysis, results, groups, views)
    tables = {
        _key(analysis, _apart(name, group, groups)): table
        for result, group in zip(results, groups, strict=True)
        for name, table in result.tables().items()
    }
    details(analysis.equations, analysis.about, code(analysis, sides, values, views), tables, key=section)


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


def choose(
    analysis: Analysis, fields: Sequence[Mapping[str, Any]], shared: SharedChoices, drawn: Values
) -> Values | None:
    """Draw the widgets of some inputs in one row but for those that are drawn, and return their values by name.

    None while a file that a link names waits for the reader's consent.
    """
    asked = [field for field in fields if not field["shared"] and not field["advanced"]]
    given: dict[str, Any] = {field["flag"]: getattr(shared, field["shared"]) for field in fields if field["shared"]}
    new = [field for field in asked if field["key"] not in drawn]
    for column, field in zip(st.columns(list(map(width, new)), **ROW) if new else (), new, strict=True):
        with column:
            value = draw_choice(field) if is_short(field) else draw_option(analysis.name, dict(field), link=True)
        drawn[field["key"]] = value
    given |= {field["flag"]: drawn[field["key"]] for field in asked if drawn[field["key"]] is not None}
    if not all(may_open(str(given[field["flag"]])) for field in asked if field["file"] and field["flag"] in given):
        return None
    form: Any = parse(analysis.form([field["name"] for field in fields]), [*words(given, joined=True)], analysis.name)
    return {field["name"]: getattr(form, analysis.option_of(field["name"])) for field in fields}


def is_short(field: Mapping[str, Any]) -> bool:
    """Return whether the values of an input fit side by side."""
    letters = sum(len(field["labels"](each)) for each in field["choices"])
    return field["type"] == "choice" and not field["optional"] and 0 < letters <= SHORT


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
        result = models.compute_once(fn, *lms, say=say, steps=True, **options)
    place.empty()
    return result


def draw_figures(
    analysis: Analysis,
    results: Sequence[Drawable],
    groups: Sequence[Sequence[Side]],
    views: Values,
    source: dict[str, object],
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
            title = _apart(title_of(chart, analysis.title), groups[index], groups, ": ")
            with column:
                key = _key(analysis, _apart(name, groups[index], groups))
                figure(chart, results[index].data(name), key, title=title, source=source | views)


def draw_lists(
    analysis: Analysis, results: Sequence[Drawable], groups: Sequence[Sequence[Side]], views: Values
) -> None:
    """Draw the table that the reader chooses, with all of its rows as CSV."""
    lists = {
        _apart(title, group, groups, ": "): table
        for result, group in zip(results, groups, strict=True)
        for title, table in analysis.lists(result, views).items()
    }
    if not lists:
        return
    title = next(iter(lists))
    if len(lists) > 1:
        key = keep(f"{analysis.key}_list", lists, title)
        title = str(st.segmented_control("Table", list(lists), key=key, bind="query-params", required=True) or title)
    table = lists[title]
    height = 38 + 35 * min(ROWS, max(1, len(table)))
    show_table(table, hide_index=True, height=height, key=f"{analysis.name}-list", column_config=number_formats(table))
    if any(map(pd.api.types.is_float_dtype, table.dtypes)):
        csv_button(table, f"{analysis.key}-{title.lower()}")


def code(analysis: Analysis, sides: Sequence[Side], values: Mapping[str, Any], views: Mapping[str, Any]) -> str:
    """Return the Python lines that give the sentence, the figures and the tables of the page."""
    scalar = any(side.lm.readout != "tokens" for side in sides)
    load = "probe.model.rewards.analysable" if scalar else "probe.LM.load"
    loads = [f"{load}({side.ref!r})" for side in sides]
    lms = [side.lm for side in sides]
    computed = analysis.complete(values, *(lms if analysis.models == PAIR else lms[:1]))
    given = [f"{name}={_literal(value)}" for name, value in computed.items() if value != analysis.inputs[name].default]
    shown = [f"{name}={_literal(value)}" for name, value in views.items() if value != analysis.views[name].default]
    lines = ["from pathlib import Path", ""] * any(isinstance(value, Path) for value in computed.values())
    lines += ["import probe", *["import probe.model.rewards"] * scalar]
    if analysis.origin.endswith(".py"):
        lines += ["import probe.plugins", "", f"probe.plugins.load({analysis.origin!r})"]
    names = list(analysis.models) if analysis.models == PAIR else [side.role for side in sides]
    lines += ["", *([f"{', '.join(names)} = {', '.join(loads)}"] if loads else [])]
    for own in [names] if analysis.models == PAIR else [[name] for name in names] or [[]]:
        lines += [f"result = {analysis.call}({', '.join([*own, *given])})"]
        lines += [f"print(result.sentence()); result.figures({', '.join(shown)}), result.tables()"]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    return f"Path({str(value)!r})" if isinstance(value, Path) else repr(value)


def _aim(analysis: Analysis) -> str:
    """Return what the analysis does, as the end of a sentence that begins with what the reader is to do."""
    return analysis.summary[:1].lower() + analysis.summary[1:]


def _key(analysis: Analysis, name: str) -> str:
    """Return the name of a figure or a table on its page, and of its files; those of a plugin stand apart."""
    return name if analysis.origin == BUILT_IN else f"{analysis.name}-{name}"


def _apart(name: str, group: Sequence[Side], groups: Sequence[Sequence[Side]], sign: str = "-") -> str:
    """Return a name with that of the model behind it, where several stand side by side."""
    if len(groups) == 1:
        return name
    return f"{name}{sign}{group[0].name}"
