"""The page of any experiment, from its finding to its items."""

import inspect
import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard import access, models
from dashboard.components.details import details
from dashboard.components.estimates import other_estimates
from dashboard.components.figure import figure
from dashboard.components.form import choose
from dashboard.components.metric_words import words_config
from dashboard.components.table import show_table
from dashboard.components.tabs import open_tab
from dashboard.jobs import find_live
from dashboard.markdown import escape_markdown, finding, guard, guard_callback, note, prose, sentence_place, spin
from dashboard.pages.experiments import asking, items, kept_slices
from dashboard.pages.experiments.asking import ModelResult, Request, Subject
from dashboard.sides import ask_for_model
from dashboard.state import current
from probe.errors import DataError
from probe.experiments.comparison import IN_FORMS, ModelComparison
from probe.experiments.cost import TRIED, can_try, stored_seconds
from probe.experiments.definition import HELP, Experiment, form
from probe.experiments.forms import FORMS
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result, words_of
from probe.experiments.slices import Slice, read_slices
from probe.numbers import duration
from probe.options import argument_help, describe
from probe.plotting.notebook import title_of
from probe.plugins import BUILT_IN
from probe.runs.schema import RESULTS
from probe.seeds.numbers_over_trainings import OVER_TRAININGS, NumbersOverTrainings

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from streamlit.delta_generator import DeltaGenerator

AGAIN = "_again"
"""Key of the reader's wish to measure everything again."""
WITH_ITEMS = "Numbers and items"
"""Title of the first tab."""
MAIN_HEIGHT, HEIGHT = 370, 360
"""Largest height of the main figure, and default height of the others, in pixels."""


def draw_built_in(name: str, remark: str = "") -> None:
    """Draw the page of a built-in experiment.

    Args:
        name: name of the experiment.
        remark: remark on the page about the models above it.
    """
    with spin("Starting torch"):
        models.warm().wait()

    draw({name: find_experiment(name)}, name, remark)


def draw(known: Mapping[str, Experiment], page: str, remark: str = "") -> None:
    """Draw the page from top to bottom.

    Args:
        known: experiments of the page; the reader chooses if there are several.
        page: name of the page.
        remark: see `draw_built_in`.
    """
    choices = current()
    answer = sentence_place()
    if remark:
        note(remark)
    own = all(each.origin != BUILT_IN for each in known.values())
    *first, middle, right, last = st.columns(
        [*([8] if own else []), 12, 6, 7], gap="small", vertical_alignment="bottom"
    )
    experiment = next(iter(known.values()))
    for column in first:
        with column:
            experiment = asking.choose_experiment(known)
    with middle:
        subjects = asking.choose_models(choices)
    with right:
        question = asking.choose_options(experiment)
    if question is None:
        return
    if not subjects:
        ask_for_model(answer, f"Choose a model above to measure: {experiment.title}.")
        return
    problem = asking.refusal(question)
    if problem:
        with answer:
            finding(f"{experiment.title} has not been measured: its file cannot be used.")
        st.error(escape_markdown(problem))
        st.markdown(experiment.about)
        return
    outcomes = gather(question, subjects, last, page)
    group, apart = asking.alike(outcomes, choices.aligned, experiment.across_worlds)
    nearest = None if group else asking.nearest_results(question, [each.subject for each in outcomes])
    if nearest is not None:
        question, outcomes = nearest.question, nearest.outcomes
        group, apart = asking.alike(outcomes, choices.aligned, experiment.across_worlds)
    if not group:
        busy = [each.subject for each in outcomes if each.is_measured]
        with answer:
            if busy:
                finding(f"{experiment.title} is being measured on {_list_names(busy)}.")
            else:
                finding(f"{experiment.title} has not been measured on {_list_names(subjects)} with these options.")
        st.markdown(experiment.about)
        return
    with spin("Comparing the models item by item"):
        both = asking.compare(question, group)
        trainings, remarks = asking.over_trainings(both, group)
    if both.problem:
        st.error(prose(f"{both.problem} If the stored results are older than the experiment, measure again."))
    with answer:
        finding(both.sentence())
        if nearest is not None:
            note(nearest.remark)
    charts = both.figures()
    main, *others = charts
    draw_figure(both, main, charts[main], min(int(charts[main].layout.height or MAIN_HEIGHT), MAIN_HEIGHT))
    for remark in (*remarks, *both.notes):
        note(remark)
    older = [each.subject for each in group if each.result is not None and not experiment.is_whole(each.result)]
    if older:
        were = "were" if len(older) > 1 else "was"
        note(
            f"{_list_names(older)} {were} measured by an earlier version, without some of the current metrics. Measure"
            " again to get them."
        )
    if apart:
        names, s = _list_names([each.subject for each in apart]), "" if len(apart) > 1 else "s"
        note(f"{names} belong{s} to another world with other questions, and cannot be compared with these.")
    worlds = asking.apart(group) if experiment.across_worlds else ""
    if worlds:
        note(f"These models belong to different worlds ({worlds}), and each answered the questions of its own.")
    note(first_paragraph(experiment.about))
    provenance(group)
    sections(group, both, others, trainings)
    explain(question, group, both)


def gather(question: Request, subjects: list[Subject], slot: "DeltaGenerator", page: str) -> list[ModelResult]:
    """Collect the result of every model; offer to compute missing results as jobs, with an estimate of the time."""
    facts = {}
    for subject in subjects:
        with guard():  # an unreadable one does not hide others
            about = models.model_facts(subject.ref)
            if about is not None:
                facts[subject] = about
    outcomes = {subject: asking.find_result(question, subject, about) for subject, about in facts.items()}
    missing = [subject for subject, each in outcomes.items() if each.result is None and not each.is_measured]
    if missing and len(missing) == len(subjects):
        offer_stored(question, list(facts.values()))
    again = bool(st.session_state.pop(AGAIN, False))
    picks = list(outcomes) if again else []
    if missing and not again:
        line = st.empty()
        with line.container(horizontal=True, vertical_alignment="center", gap="small"):
            click = st.button(
                escape_markdown(f"Measure {_list_names(missing)}"),
                type="primary",
                icon=":material/play_arrow:",
                key=f"{question.experiment.name}-run",
                **access.button("Runs as a job: leave the page, come back, stop it; answers so far are kept."),
            )
            seconds = expected_seconds(question, {subject: facts[subject] for subject in missing})
            unknown = seconds is None and can_try(question.call(facts[missing[0]]).options)
            ask = unknown and st.button(
                "How long?",
                icon=":material/timer:",
                key=f"{question.experiment.name}-try",
                **access.button(f"Asks each model {TRIED} questions, and estimates the time of all."),
            )
            note(offer(seconds))
        if click:
            picks = missing
        elif ask:
            with guard():
                for subject in missing:
                    asking.try_out(question, subject, facts[subject])
                st.rerun()
    if picks:
        with guard():
            for subject in picks:
                asking.measure(question, subject, page, again=again)
            st.rerun()
    busy = [title for each in facts if (title := asking.title_of_job(question, each)) and find_live(title)]
    with slot:
        st.button(
            "Measure again",
            icon=":material/refresh:",
            width="stretch",
            key=f"{question.experiment.name}-again",
            on_click=_measure_again,
            **access.button(
                "Runs the experiment again on every model, and replaces the stored results.",
                disabled=bool(busy) or all(each.result is None for each in outcomes.values()),
            ),
        )
    for each in outcomes.values():
        if each.error:
            st.error(prose(f"{each.subject.label}: {each.error}"))
    return list(outcomes.values())


def offer_stored(question: Request, known: "list[models.ModelFacts]") -> None:
    """Draw a button for each other set of options for which results of all models are stored."""
    choices = asking.stored_options(question, known) if known else {}
    if not choices:
        return
    note("Stored with other options:")
    with st.container(horizontal=True, gap="small"):
        for label, values in choices.items():
            st.button(
                escape_markdown(label or "defaults"),
                key=f"{question.experiment.name}-stored-{label}",
                on_click=_take_options,
                args=(question.experiment, values),
            )


@guard_callback
def _take_options(experiment: Experiment, values: Mapping[str, Any]) -> None:
    choose(experiment.name, describe(form(experiment)), values)


@guard_callback
def _measure_again() -> None:
    st.session_state[AGAIN] = True


def expected_seconds(question: Request, known: "dict[Subject, models.ModelFacts]") -> float | None:
    """Estimate the total time of models from stored results, else from the questions of `try_out`.

    The result is None if the time of one model is unknown.
    """
    total = 0.0
    folders = [run.path / RESULTS for run in current().store.runs.values()]
    for about in known.values():
        stored = stored_seconds(question.call(about), folders)
        each = asking.tried_seconds(question, about) if stored is None else stored
        if each is None:
            return None
        total += each
    return total


def offer(seconds: float | None) -> str:
    """State that models are not measured yet and, if known, how long the measurement takes."""
    what = "Not measured yet with these options"
    return f"{what}." if seconds is None else f"{what}: about {duration(seconds)}."


def sections(
    outcomes: list[ModelResult], both: ModelComparison, others: list[str], trainings: NumbersOverTrainings | None
) -> None:
    """Draw the part below the main figure: the numbers with their items, and the other figures."""
    name = both.experiment.name

    def numbers() -> None:
        items.draw_numbers(both)
        other_estimates(name)
        items.section(both, [each.subject for each in outcomes])

    def over_trainings(found: NumbersOverTrainings) -> None:
        for title, chart in found.figures().items():
            draw_figure(both, title, chart, table=found.table())
        draw_table(found.lists()[OVER_TRAININGS], f"{name}-trainings", found.notes)

    parts = {WITH_ITEMS: numbers} | ({"Figures": lambda: grid(both, others)} if others else {})
    if trainings is not None:
        parts[OVER_TRAININGS] = partial(over_trainings, trainings)
    if FORMS in both.result.tables:
        parts[IN_FORMS] = lambda: draw_table(both.lists()[IN_FORMS], f"{name}-forms", [both.about_forms])
    slices: list[Slice] = []
    with suppress(DataError):  # described beside the filters
        slices = read_slices(name)
    if slices:
        parts[kept_slices.SLICES] = lambda: kept_slices.draw_slices(both, outcomes, slices)
    choices = {WITH_ITEMS: items.CHOICES, kept_slices.SLICES: kept_slices.CHOICES}
    open_tab(f"{name}~tab", parts, {title: [name + end for end in ends] for title, ends in choices.items()})


def draw_table(table: pd.DataFrame, key: str, notes: Sequence[str]) -> None:
    """Draw a formatted table of numbers with the definitions of its metrics."""
    show_table(table, hide_index=True, key=key, column_config=words_config(table))
    for remark in notes:
        note(remark)


def grid(both: ModelComparison, names: list[str]) -> None:
    """Draw figures side by side."""
    charts = both.figures()
    for start in range(0, len(names), 2):
        pair = names[start : start + 2]
        for column, name in zip(st.columns(len(pair), gap="medium"), pair, strict=True):
            with column:
                draw_figure(both, name, charts[name])


def draw_figure(
    both: ModelComparison, name: str, chart: "go.Figure", height: int | None = None, table: pd.DataFrame | None = None
) -> None:
    """Draw a figure with its table and its provenance."""
    result, behind = both.result, both.data(name) if table is None else table
    facts = {each: result.meta.get(each) for each in ("n", "seed", "options", "data", "world", "version", "key")}
    source = {"experiment": result.name, "models": result.meta.get("models"), **facts}
    height = height or int(chart.layout.height or HEIGHT)
    figure(chart, behind, name, title=title_of(chart, words_of(name)), height=height, source=source)


def provenance(outcomes: list[ModelResult]) -> None:
    """State when the numbers were computed."""
    parts = []
    for each in outcomes:
        meta = each.result.meta if each.result else {}
        at = str(meta.get("created", "")).replace("T", " ").removesuffix("+00:00")
        parts.append(f"{each.subject.label} {at} UTC in {float(meta.get('seconds') or 0):.1f} s")
    note(f"Measured: {'; '.join(parts)}.")


def first_paragraph(text: str) -> str:
    """Return the first paragraph of a text on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _list_names(subjects: Sequence[Subject]) -> str:
    names = [subject.label for subject in subjects]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def explain(question: Request, outcomes: Sequence[ModelResult], both: ModelComparison) -> None:
    """Draw the folded section with the definition, the Python lines and all downloads."""
    experiment = question.experiment
    equations = getattr(inspect.getmodule(experiment.function), "EQUATIONS", ())
    lines = code(question, [each.subject.ref for each in outcomes])
    files = {f"{experiment.name}.zip": partial(zip_result, both.result)}
    details(equations, definition(question), lines, both.tables, files)


def definition(question: Request) -> str:
    """Return the descriptions of the experiment and of its options, as Markdown."""
    experiment = question.experiment
    helps = HELP | argument_help(experiment.function)
    lines = [f"- `{name}` = `{value!r}`: {helps.get(name, '')}" for name, value in question.options.items()]
    return "\n\n".join([experiment.about, "\n".join(lines)])


def code(question: Request, refs: Sequence[str]) -> str:
    """Return the Python lines that reproduce the page's numbers, items and figures."""
    experiment = question.experiment
    options = [f"{name}={_literal(value)}" for name, value in asking.changed_options(question).items()]
    lines = ["import probe"]
    if experiment.origin.endswith(".py"):
        lines += ["from probe.experiments.registry import load_plugin", "", f"load_plugin({experiment.origin!r})"]
    name = repr(experiment.name)
    base, *others = refs
    if not others:
        lines += ["", f"result = probe.run_experiment({', '.join([name, repr(base), *options])})"]
    elif len(others) == 1:
        arguments = ", ".join([name, repr(others[0]), f"baseline={base!r}", *options])
        lines += ["", f"result = probe.run_experiment({arguments})"]
    else:
        lines.insert(1, "from probe.experiments.registry import find_experiment")
        lines.insert(2, "from probe.experiments.run import join")
        lines += ["", f"refs = {[*others, base]!r}"]
        lines.append(f"parts = [probe.run_experiment({', '.join([name, 'ref', *options])}) for ref in refs]")
        lines.append(f"result = join(find_experiment({name}), parts)")
    return "\n".join([*lines, "result.finding, result.summary, result.items, result.figures"])


def zip_result(result: Result) -> bytes:
    """Pack the folder written by `Result.save` into a ZIP file, and return its bytes."""
    buffer = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        place = result.save(Path(folder) / result.name)
        for file in sorted(place.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return buffer.getvalue()


def _literal(value: Any) -> str:
    """Return an option as a Python literal."""
    return repr(str(value)) if isinstance(value, Path) else repr(value)
