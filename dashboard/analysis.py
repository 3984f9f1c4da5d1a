"""Display of an analysis on any page: inputs, cost, sentence, figures and tables, all from its record."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard.components.badge import trust_badge
from dashboard.components.details import DETAILS, TAB_DETAILS, csv_button, details
from dashboard.components.figure import figure
from dashboard.components.metric_words import words_config
from dashboard.components.table import number_formats, show_table
from dashboard.components.tokens import token_rows
from dashboard.computation import compute, nearest, paths, settled
from dashboard.data import quiet
from dashboard.inputs import (
    BESIDE,
    ROW,
    Page,
    Take,
    Values,
    asks,
    begin_again,
    bring,
    choose,
    fields_of,
    lay_out,
    set_inputs,
    width,
)
from dashboard.markdown import escape_markdown, guard_callback, note, say
from dashboard.sides import Side, ask_for_model, load_side, load_sides, note_form, words_known
from dashboard.state import PROMPT, SharedChoices, keep
from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import find_analysis
from probe.errors import ProbeError
from probe.plotting.notebook import Drawable, Look, meta_of, title_of
from probe.plugins import BUILT_IN

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM
    from probe.plotting.chips import TokenRows

ROWS = 10
"""Rows of a table that are visible without scrolling."""
BADGE, WORDS, TOLD = "#badge", "#words", "#told"
"""Keys under which a page remembers that it has drawn the trust badge, unknown words, and why there is no result."""
CHAT = "chat"
"""Key of the choice whether the prompt is sent in the chat template."""
CLICK = " (click one)"
"""Suffix of the title of a figure in which a click selects something."""


def keys_of(names: Sequence[str]) -> list[str]:
    """Return the keys of the widgets of analyses, which are their names in the URL."""
    known = list(map(find_analysis, names))
    keys = [field["key"] for each in known for field in each.fields() if asks(field)]
    return [*keys, *(_list_key(each) for each in known)]


def draw_below(name: str, page: Page) -> None:
    """Draw an analysis in a tab below the main part of the page."""
    draw(find_analysis(name), page.below(tell=say, section=TAB_DETAILS))


def draw_several(names: Sequence[str], page: Page) -> None:
    """Draw analyses below each other with shared inputs; the first one's sentence is the page's."""
    for index, name in enumerate(names):
        analysis = find_analysis(name)
        if index:
            st.markdown(f"#### {escape_markdown(analysis.title)}")
        draw(analysis, page.below(tell=note, section=f"{page.section}-{name}") if index else page)


def draw(analysis: Analysis, page: Page) -> Sequence[Drawable]:
    """Draw an analysis of the chosen models, from its inputs to its details; return its results, if any.

    Args:
        analysis: analysis to draw.
        page: page of the analysis.
    """
    sides = load(analysis, page.shared) if page.sides is None else page.sides
    if sides is None or _lacks(analysis, page, sides):
        return ()
    lms = [side.lm for side in page.asked or sides]
    fields, told = fields_of(analysis, *lms), CHAT in page.drawn
    texts = st.container()
    beside = analysis.has_chips and page.row is None
    with page.row or st.container():
        places = lay_out([each for each in fields if each["view"] != "lists"], page, beside=beside)
    found: list[tuple[Sequence[Side], Drawable]] | None = []
    errors, remark = ["The references below have not been opened."], ""
    try:
        analysis, fields = bring(analysis, fields, page, lms, places)
        asked = choose(analysis, [each for each in fields if not each["view"]], page, lms, places)
        if asked is not None:
            values = settled(analysis, lms, asked)
            found, errors = compute(analysis, sides, values, page.offers)
            if found is None:
                values, found, remark = nearest(analysis, sides, values)
            if found is None and analysis.preview is not None:
                values = {**values, **analysis.preview.inputs}
                found, more = compute(analysis, sides, values)
                errors = [*errors, *more]
    except ProbeError as failed:
        asked, errors = {}, [str(failed)]
    if asked is None or not found:
        _tell_why(analysis, page, sides, found, errors)
        return ()
    if errors:
        sides = [side for group, _ in found for side in group]
    results = analysis.together([result for _, result in found], looks_of(sides))
    for error in filter(None, (*errors, remark)):
        note(error)
    with texts:
        reads = page.section == DETAILS and page.shared.prompt.strip() and _takes_prompt(analysis)
        if lms and CHAT not in page.given and not told and (CHAT in asked or reads):
            note_form(lms, bool(asked.get(CHAT)))
    groups = [sides] if len(results) == 1 else [[side] for side in sides]
    source = {side.role: side.ref for side in sides} | values
    draw_results(analysis, page, results, groups, source, partial(code, analysis, sides, values), lms, texts, places)
    return results


def draw_results(
    analysis: Analysis,
    page: Page,
    results: Sequence[Drawable],
    groups: "Sequence[Sequence[Side]]",
    source: Mapping[str, Any],
    lines: Callable[[Values], str],
    lms: "Sequence[LM]" = (),
    texts: "DeltaGenerator | None" = None,
    places: "dict[str, DeltaGenerator] | None" = None,
) -> None:
    """Draw results of an analysis: sentence, texts, figures, notes, tables and details.

    Args:
        analysis: analysis of the results.
        page: page of the analysis.
        results: results of `Analysis.together`.
        groups: models of each result; empty for results without models, as from captures.
        source: models and inputs, recorded in downloaded files.
        lines: function that returns the Python lines of the chosen views.
        lms: the models.
        texts: container of texts.
        places: containers of the widgets of views, by their keys; by default a new row.
    """
    texts = st.container() if texts is None else texts
    looks = [each for each in fields_of(analysis, *lms, result=results[0]) if each["view"]]
    if places is None:
        places = lay_out([each for each in looks if each["view"] != "lists"], page, beside=analysis.has_chips)
    firsts = [each for each in looks if analysis.about_input(each["name"]).first is not None]
    for each in firsts:
        begin_again(each, {other["name"]: other["default"] for other in firsts})
    views = choose(analysis, [each for each in looks if each["view"] != "lists"], page, lms, places) or {}
    with page.answer:
        for sentence in dict.fromkeys(filter(None, (analysis.sentence(result, views) for result in results))):
            if page.says:
                page.tell(sentence)
    clickable = bool(lms) or not any(groups)  # a stored result of models that are not loaded has fixed inputs
    with texts:
        for result, group in zip(results, groups, strict=True):
            key = _apart("texts", group, groups)
            draw_texts(analysis, analysis.chips(result, views), key, places.get(BESIDE), clickable)
    draw_figures(analysis, results, groups, views, source, page.spots, clickable)
    for remark in dict.fromkeys(remark for result in results for remark in result.notes):
        note(remark)
    if page.lists:
        own = [each for each in looks if each["view"] == "lists"]
        views = draw_lists(analysis, results, groups, own, views, page)
    if results[0].hooked and BADGE not in page.drawn:
        page.drawn[BADGE] = True
        trust_badge(*((side.name, side.lm) for group in groups for side in group), text=results[0].hooked)

    def tables() -> dict[str, pd.DataFrame]:
        return {
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


def _tell_why(
    analysis: Analysis, page: Page, sides: Sequence[Side], found: Sequence[object] | None, errors: Sequence[str]
) -> None:
    """State why there is no result: it is only offered, a word of the prompt is unknown, or something failed."""
    named = ((side.name, side.lm) for side in sides)
    asks = found is not None and _takes_prompt(analysis)
    if asks and (WORDS in page.drawn or not words_known(page.shared, named, page.answer)):
        page.drawn[WORDS] = True
        return
    aim = analysis.summary[:1].lower() + analysis.summary[1:]
    why = errors[0] if errors else f"Press the button to {aim}"
    if page.drawn.get(TOLD) != why:
        with page.answer:
            page.tell(why)
    page.drawn[TOLD] = why


def _takes_prompt(analysis: Analysis) -> bool:
    return any(each["shared"] == PROMPT for each in analysis.fields())


def load(analysis: Analysis, shared: SharedChoices) -> list[Side] | None:
    """Load the models of an analysis; None while the page waits for consent, empty if one is not chosen."""
    if not analysis.models:
        return []
    if analysis.models != PAIR:
        sides = load_sides(shared)
        return None if sides is None else list(sides)
    if not (shared.base and shared.aligned):
        return []
    first, second = load_side(shared, "base"), load_side(shared, "aligned")
    return None if first is None or second is None else [first, second]


def looks_of(sides: Sequence[Side]) -> list[Look]:
    """Return the styles of the models; a second one of the same colour is dashed."""
    dashes = ["dash" if index and side.colour == sides[0].colour else "solid" for index, side in enumerate(sides)]
    return [Look(side.name, side.colour, dash) for side, dash in zip(sides, dashes, strict=True)]


def draw_texts(
    analysis: Analysis,
    texts: "TokenRows | None",
    key: str,
    beside: "DeltaGenerator | None" = None,
    clickable: bool = True,
) -> None:
    """Draw texts as chips with a legend; a click on a chip sets inputs to its values."""
    if texts is None:
        return

    def pick(row: int, index: int) -> None:
        if clickable:
            set_inputs(analysis, texts.rows[row].tokens[index].inputs)

    token_rows(texts.rows, chosen=texts.chosen, key=_key(analysis, key), on_pick=pick)
    if texts.caption:
        note(texts.caption)
    if texts.note and beside is not None:
        with beside:
            note(texts.note)


def draw_figures(
    analysis: Analysis,
    results: Sequence[Drawable],
    groups: Sequence[Sequence[Side]],
    views: Values,
    source: Mapping[str, Any],
    spots: "Mapping[str, DeltaGenerator]",
    clickable: bool = True,
) -> None:
    """Draw all figures in the page's places for them, else in the rows of the record.

    Figures of several models are side by side.
    """
    charts = [analysis.figures(result, views) for result in results]
    names = list(dict.fromkeys(name for each in charts for name in each))
    rows = [*analysis.widths, *([1] for _ in names)]
    while names:
        widths, *rows = rows
        row, names = names[: len(widths)], names[len(widths) :]
        parts = [part for name, part in zip(row, widths, strict=False) if name not in spots for _ in charts]
        free = iter(st.columns(parts, gap="medium") if parts else [])
        for name, index in [(name, index) for name in row for index in range(len(charts))]:
            column = spots[name] if name in spots else next(free)
            chart = charts[index].get(name)
            if chart is None:
                continue
            clicks = meta_of(chart).get("inputs") if clickable else None
            title = _apart(title_of(chart, analysis.title), groups[index], groups, ": ") + CLICK * bool(clicks)
            act = partial(_take_point, analysis, clicks) if clicks else None
            with column:
                key = _key(analysis, _apart(name, groups[index], groups))
                about = {**source, **views}
                table = analysis.data(results[index], name, views)
                says = analysis.sentence(results[index], views)
                figure(chart, table, key, title=title, source=about, says=says, on_select=act)


def _take_point(analysis: Analysis, clicks: Mapping[str, str], points: list[dict]) -> None:
    """Set inputs to the values of the clicked point."""
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
    """Draw the chosen table, with all rows as CSV; return the views including those of tables."""
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
    look: Any = {"hide_index": True, "column_config": {**number_formats(table), **words_config(table)}}
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


def code(
    analysis: Analysis,
    sides: Sequence[Side],
    values: Values,
    views: Values,
    shown: Analysis | None = None,
    call: str = "",
) -> str:
    """Return the Python lines that reproduce the sentence, the figures and the tables of the page.

    Args:
        analysis: analysis that is computed.
        sides: models.
        values: values of its inputs.
        views: choices of what is shown.
        shown: analysis whose result is shown, if it is made from that of the computed one.
        call: method of the computed result that makes the shown one, with its arguments.
    """
    lms = [side.lm for side in sides]
    computed = analysis.complete(values, *lms)
    with quiet():
        told = {name: value for name, value in computed.items() if not analysis.is_usual(name, computed, *lms)}
    scalar = any(lm.readout != "tokens" for lm in lms)
    return code_of(analysis, sides, told, views, shown, call, scalar)


def code_of(
    analysis: Analysis,
    sides: Sequence[Side],
    told: Values,
    views: Values,
    shown: Analysis | None = None,
    call: str = "",
    scalar: bool = False,
) -> str:
    """Return the Python lines for inputs that differ from their defaults, without the models; arguments as in `code`.

    Args:
        analysis: analysis that is computed.
        sides: models, which need not be loaded.
        told: inputs that differ from their defaults.
        views: choices of what is shown.
        shown: see `code`.
        call: see `code`.
        scalar: whether a model outputs a number.
    """
    shown = shown or analysis
    load = "probe.model.rewards.analysable" if scalar else "probe.LM.load"
    loads = [f"{load}({side.ref!r})" for side in sides]
    given = [f"{name}={_literal(value)}" for name, value in told.items()]
    chosen = {
        method: ", ".join(
            f"{name}={_literal(value)}"
            for name, value in views.items()
            if value != shown.views[name].default and name in shown.views_of(method)
        )
        for method in ("sentence", "figures", "lists")
    }
    lines = ["from pathlib import Path", ""] * bool(paths(told.values()))
    lines += ["import probe", *["import probe.model.rewards"] * scalar]
    if not analysis.call.startswith("probe."):
        lines += [f"import {analysis.function.__module__}"]
    if analysis.origin.endswith(".py"):
        lines += ["import probe.plugins", "", f"probe.plugins.load({analysis.origin!r})"]
    names = list(analysis.models) if analysis.models == PAIR else [side.role for side in sides]
    lines += ["", *([f"{', '.join(names)} = {', '.join(loads)}"] if loads else [])]
    for own in [names] if analysis.models == PAIR else [[name] for name in names] or [[]]:
        lines += [f"result = {analysis.call}({', '.join([*own, *given])}){call}"]
        lines += [f"print(result.sentence({chosen['sentence']})); result.figures({chosen['figures']}), result.tables()"]
        lines += [f"result.lists({chosen['lists']})"] * (chosen["lists"] not in ("", chosen["figures"]))
    return "\n".join(lines)


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    return f"Path({str(value)!r})" if isinstance(value, Path) else repr(value)


def _key(analysis: Analysis, name: str) -> str:
    """Return the name of a figure or table on its page and of its files; names of plugins are distinct."""
    return name if analysis.origin == BUILT_IN else f"{analysis.name}-{name}"


def _apart(name: str, group: Sequence[Side], groups: Sequence[Sequence[Side]], sign: str = "-") -> str:
    """Return a name followed by that of the model, if several models are side by side."""
    if len(groups) == 1:
        return name
    return f"{name}{sign}{group[0].name}"
