"""Diagnosis: the faults of training that runs show, each with its step, its curve and a remedy; and what is unseen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.rollouts import SAMPLED
from dashboard.components.step_views import TAB
from dashboard.components.table import show_table
from dashboard.data import Store
from dashboard.markdown import escape_markdown, finding, guard, note, prose
from dashboard.pages import page_file
from dashboard.state import DIAGNOSED, RUNS, current, keep
from probe.diagnosis.diagnosed import Diagnosis, Finding
from probe.diagnosis.score import score, shipped_trials
from probe.diagnosis.score import sentence as sentence_of_score
from probe.runs.reader import Run
from probe.texts import visible

PAGE = "diagnosis_page"
"""Key of the page of the table of all runs."""
EACH = 50
"""Number of runs on a page of the table."""
ROWS = 8
"""Rows of the table that are visible without scrolling."""
NOTHING, NOT_LOGGED = "nothing found", "too little was logged"
"""Words of the table for a run without a fault, and for one in which none could be seen."""
DEFINITION = """
Each fault is looked for by a rule of its own in what the run logged: levels at the beginning and at the end, each with
a 95 % interval, and the step at which a metric leaves its first level for good. *Severity* runs from 0 to 1, which
means that nothing after that step is of use. A fault whose metrics the run did not log **could not be seen**: that
nothing was found says nothing about it. Rules can err in both directions: look at the curve before you act.
"""
CODE = """import probe

diagnosis = probe.diagnosis.diagnose(probe.open_run({path!r}))
diagnosis.sentence()
diagnosis.table()"""


def look(store: Store) -> dict[str, Diagnosis]:
    """Return the diagnosis of every run by its label, with a progress bar if many were not made yet."""
    found, place = dict[str, Diagnosis](), st.empty()
    new = sum(data.known_diagnosis(run) is None for run in store.runs.values())
    done = 0
    for label, run in store.runs.items():
        if new > 1 and data.known_diagnosis(run) is None:
            done += 1
            place.progress(done / new, f"Reading {new} runs")
        with guard():
            found[label] = replace(data.diagnosis(run), name=label)
    place.empty()
    return found


def sentence(found: Mapping[str, Diagnosis]) -> str:
    """State in how many runs something was found, and name the worst."""
    ill = [one for one in found.values() if one.findings]
    looked = [one for one in found.values() if one.findings or one.clear]
    if not looked:
        return "No run has logged anything in which a fault of training could be seen."
    count = f"{len(looked)} run{'s' * (len(looked) > 1)}"
    if not ill:
        return f"No fault of training was found in {count}."
    worst = max(ill, key=lambda one: one.findings[0].sign.severity)
    first = worst.findings[0]
    rest = f"A fault of training was found in {len(ill)} of {count}"
    return f"{rest}; the worst: {first.fault.title} in {worst.name}, from step {first.sign.step:,}."


def rows(found: Mapping[str, Diagnosis], store: Store) -> pd.DataFrame:
    """Return one row per run, those with the worst findings first."""
    worst = {label: max((each.sign.severity for each in one.findings), default=-1.0) for label, one in found.items()}
    lines = []
    for label in sorted(found, key=lambda label: (-worst[label], not found[label].clear)):
        one = found[label]
        lines.append(
            {
                "run": label,
                "method": store.runs[label].method,
                "found": ", ".join(each.fault.title for each in one.findings) or (NOTHING if one.clear else NOT_LOGGED),
                "from step": f"{one.findings[0].sign.step:,}" if one.findings else "",
                "severity": max(worst[label], 0.0) if one.findings else None,
                "looked for": len(one.findings) + len(one.clear),
                "could not be seen": len(one.unseen),
            }
        )
    return pd.DataFrame(lines)


COLUMNS = {
    "run": st.column_config.TextColumn(width=150),
    "method": st.column_config.TextColumn(width=84),
    "found": st.column_config.TextColumn(width=230),
    "from step": st.column_config.TextColumn(width=80),
    "severity": st.column_config.ProgressColumn(min_value=0.0, max_value=1.0, format="%.2f", width=100),
    "looked for": st.column_config.NumberColumn(help="Faults that could have been seen in what was logged.", width=84),
    "could not be seen": st.column_config.NumberColumn(help="Faults whose metrics the run did not log.", width=116),
}


def choose_run(table: pd.DataFrame) -> str:
    """Draw the table of all runs; return the chosen one, by default the first."""
    pages = max(1, -(-len(table) // EACH))
    page = 1
    if pages > 1:
        page = st.pagination(pages, key=keep(PAGE, range(1, pages + 1), 1), bind="query-params")
    shown = table.iloc[(page - 1) * EACH : page * EACH]

    def take() -> None:
        picked = st.session_state[key]["selection"]["rows"]
        if picked and picked[0] < len(shown):
            st.session_state[DIAGNOSED] = str(shown["run"].iloc[picked[0]])

    key = f"diagnosed-{page}"
    height = 38 + 35 * min(ROWS, len(shown))
    show_table(
        shown,
        key=key,
        on_select=take,
        selection_mode="single-row",
        hide_index=True,
        column_config=COLUMNS,
        height=height,
    )
    labels = [str(label) for label in table["run"]]
    return str(
        st.selectbox(
            "Run", labels, key=keep(DIAGNOSED, labels, labels[0]), bind="query-params", format_func=visible, width=400
        )
    )


def draw_finding(store: Store, label: str, each: Finding, whole: Diagnosis) -> None:
    """Draw a fault: evidence, what to try, links to its step, and the curves that show it."""
    run, step = store.runs[label], each.sign.step
    left, right = st.columns([2, 3], gap="medium")
    with left:
        st.markdown(f"**{escape_markdown(each.fault.title)}**, from step {step:,}")
        st.markdown(prose(each.sign.sentence))
        st.markdown(f"**Try:** {prose(each.fault.remedy)}")
        note(f"{each.fault.about} Severity {each.sign.severity:.2f}; name: {each.fault.name}.")
        with st.container(horizontal=True):
            open_step(run_label=label, step=nearest(data.captures(run).steps, step))
            if data.has_rollouts(run):
                st.page_link(
                    page_file("training"),
                    label="Rollouts",
                    icon=":material/format_quote:",
                    query_params={RUNS: label, SAMPLED: label, TAB: "Rollouts"},
                )
    chart = whole.figures().get(each.fault.name) if each.sign.metric else None
    if chart is not None:
        with right:
            columns = ["step", *dict.fromkeys(name for name in (each.sign.metric, *each.sign.also))]
            table = whole.reading.frame.reindex(columns=columns).dropna(how="all", subset=columns[1:])
            figure(
                chart,
                table,
                f"diagnosis-{each.fault.name}",
                title=f"{each.fault.title} in {label} (dotted: step {step:,})",
                source={"run": str(run.path), "fault": each.fault.name, "step": step},
                says=each.sign.sentence,
            )


def open_step(run_label: str, step: int | None) -> None:
    """Draw a link to the curves of a run, at a captured step if there is one."""
    chosen = {RUNS: run_label} | ({"watched": run_label, "step": str(step)} if step is not None else {})
    title = "Curves" if step is None else f"Curves and captures at step {step:,}"
    st.page_link(page_file("training"), label=title, icon=":material/show_chart:", query_params=chosen)


def nearest(steps: Sequence[int], step: int) -> int | None:
    """Return the first captured step from `step` on, or the last one; None without captures."""
    return next((each for each in steps if each >= step), steps[-1] if steps else None)


def draw_rest(one: Diagnosis) -> None:
    """State which faults were not found, and which could not be seen, with the metrics that are missing."""
    if one.clear:
        note(f"Looked for and not found: {', '.join(each.title for each in one.clear)}.")
    if one.unseen:
        st.markdown("**Could not be seen**")
        table = pd.DataFrame([{"fault": each.fault.title, "lacks": each.text} for each in one.unseen])
        show_table(table, hide_index=True)


def draw_alarms(run: Run) -> None:
    """List the alarms that were raised while a run was trained, if there are any."""
    with data.heard() as problems:
        alarms = run.alarms()
    data.tell(*problems)
    if not alarms:
        return
    st.markdown("**Alarms while it was trained**")
    rows = [
        {"at step": f"{each.step:,}", "fault": each.title, "from step": f"{each.began:,}", "evidence": each.evidence}
        for each in alarms
    ]
    show_table(pd.DataFrame(rows), hide_index=True)


SCORE = {
    "title": st.column_config.TextColumn("fault", width=190),
    "runs": st.column_config.NumberColumn(help="Trainings into which the fault was put."),
    "named": st.column_config.NumberColumn(help="Trainings in which this fault is found."),
    "first": st.column_config.NumberColumn("worst", help="Trainings in which it is the worst finding."),
    "found": st.column_config.NumberColumn("anything", help="Trainings in which any fault is found."),
    "alarms": st.column_config.NumberColumn(help="Trainings with an alarm after the injury."),
    "soon": st.column_config.NumberColumn(help="Trainings with an alarm within a quarter of the steps after it."),
    "delay": st.column_config.TextColumn(
        help="Median of the steps from the injury to the first alarm, as a share of all steps."
    ),
    "rules": st.column_config.NumberColumn(
        "obvious rule", help="Trainings in which a fixed bound on KL, entropy or loss is broken."
    ),
}
"""Columns of the table of the score, in their order."""


def draw_score() -> None:
    """Draw how often the rules are right, in a closed section."""
    section = st.expander("How often it is right", icon=":material/fact_check:", key="score", on_change="rerun")
    if not section.open:
        return
    with section:
        trials = shipped_trials()
        st.markdown(prose(sentence_of_score(trials)))
        note(
            "Trainings with a fault that was put into them, and healthy ones; no rule was made on these before they "
            "were scored. Counts of trainings; the definition of each column appears at its head."
        )
        table = score(trials)
        table["delay"] = ["" if pd.isna(each) else f"{100 * each:.0f} %" for each in table["delay"]]
        show_table(table, column_order=list(SCORE), column_config=SCORE, hide_index=True)


def page() -> None:
    """Draw the page from top to bottom."""
    store = current().store
    answer = st.container()
    if not store.runs:
        with answer:
            finding("There is no run to diagnose yet; the page Runs says how to make one.")
        return
    found = look(store)
    with answer:
        finding(sentence(found))
    if not found:
        return
    label = choose_run(rows(found, store))
    with guard():
        whole = replace(found[label], reading=data.reading(store.runs[label]))
        if not whole.findings:
            st.markdown(prose(whole.sentence()))
        for each in whole.findings:
            with st.container(border=True):
                draw_finding(store, label, each, whole)
        draw_rest(whole)
        draw_alarms(store.runs[label])
    draw_score()
    path = str(store.runs[label].path)
    tables: dict[str, Callable[[], pd.DataFrame]] = {
        "diagnosis": partial(rows, found, store),
        f"findings-{label}": found[label].table,
    }
    details([], DEFINITION, CODE.format(path=path), tables)


page()
