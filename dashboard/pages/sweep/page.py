"""Sweep: states of the tasks of a sweep, their commands, logs of failed tasks, and links to curves."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components.details import details
from dashboard.components.table import show_table
from dashboard.markdown import escape_markdown, finding, guard_callback, note, prose
from dashboard.state import current, keep, training_link
from probe.errors import ConfigError
from probe.sweep import Sweep, find_sweeps, read_sweep
from probe.sweep.journal import TaskState, log_file
from probe.sweep.spec import EXAMPLE
from probe.texts import visible

CHOSEN, TASK = "sweep", "sweep_task"
"""Keys of the chosen sweep, and of the task whose command and log are shown."""
REFRESH_S = 2
LINES = 12
"""Number of lines of a log that are shown."""
CODE = """import probe

sweep = probe.sweep.read_sweep({0!r})     # or probe.sweep.run_sweep("SPEC.toml"), which runs it
sweep.sentence, sweep.tasks
sweep.results()                         # one row a metric of each run and experiment"""
DEFINITION = """
Every **task** is an ordinary `probe train` or `probe experiment`. It starts when all tasks that it needs are finished.
A task whose process or machine was **lost** is started again, from the last checkpoint of its run; **skipped** ones
need a task that failed. `probe sweep SPEC.toml` goes on with all that is not finished. The state comes from the journal
in `.sweep` next to the runs, where the logs are, too.
"""
MARKS = {
    "finished": "\u2713 finished",
    "running": "\u25b6 running",
    "waiting": "\u2026 waiting",
    "interrupted": "\u2016 interrupted",
    "lost": "\u21bb lost",
    "failed": "\u2717 failed",
    "skipped": "\u2212 skipped",
}


def empty() -> None:
    """Explain what a sweep is, and how to make one."""
    finding("There is no sweep in the run directories.")
    st.markdown(
        "A sweep is many trainings and experiments as one graph: a grid over options and seeds, resumed where it"
        " stopped. Save this as `betas.toml`, which is 15 trainings and 15 experiments, and run"
        " `probe sweep betas.toml`:"
    )
    st.code(EXAMPLE, language="toml")
    note("The tasks show their progress here. `probe sweep betas.toml --check` lists them and starts nothing.")


def sweeps() -> dict[str, Path]:
    """Return the folders with a sweep by name, or by path if two have the same name."""
    folders = find_sweeps()
    names = [folder.name for folder in folders]
    return {path.name if names.count(path.name) == 1 else str(path): path for path in folders}


def table(sweep: Sweep) -> pd.DataFrame:
    """Return one row per task."""
    rows = []
    for task in sweep.tasks.values():
        step, steps = sweep.progress(task.name) or (None, None)
        done = 1.0 if task.state == "finished" else step / steps if step is not None and steps else None
        rows.append(
            {
                "task": task.name,
                "state": MARKS[task.state],
                "progress": done,
                "steps": "" if step is None else f"{step:,} of {steps:,}",
                "minutes": None if task.seconds is None else task.seconds / 60,
                "attempts": task.attempt,
                "machine": task.node,
                "needs": ", ".join(task.needs),
                "command": shlex.join(task.command),
            }
        )
    return pd.DataFrame(rows)


COLUMNS = {
    "task": st.column_config.TextColumn(pinned=True),
    "progress": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1, width=110),
    "minutes": st.column_config.NumberColumn(format="%.1f", width=70, help="Of the last attempt."),
    "attempts": st.column_config.NumberColumn(width=70, help="How many times the task was started."),
}


def trained(sweep: Sweep) -> dict[str, str]:
    """Return the label of the run of each training that has begun, by the task's name."""
    labels = {os.path.realpath(run.path): label for label, run in current().store.runs.items()}
    names = [task.name for task in sweep.tasks.values() if task.kind == "train"]
    places = {name: os.path.realpath(sweep.out / name) for name in names}
    return {name: labels[place] for name, place in places.items() if place in labels}


def links(sweep: Sweep, runs: Mapping[str, str]) -> None:
    """Draw links to the curves of each entry with several runs."""
    groups: dict[str, list[str]] = {}
    for name, label in runs.items():
        groups.setdefault(sweep.tasks[name].entry, []).append(label)
    several = {entry: labels for entry, labels in groups.items() if len(labels) > 1}
    if not several:
        return
    with st.container(horizontal=True):
        for entry, labels in several.items():
            training_link(escape_markdown(f"Curves of {entry} ({len(labels)} runs)"), *labels)


def one_task(sweep: Sweep, runs: Mapping[str, str]) -> None:
    """Show the command of a task, the link to its curves, and its log; by default a failed task."""
    order = ("failed", "lost", "running", "interrupted", "finished", "skipped", "waiting")
    names = [task.name for task in sorted(sweep.tasks.values(), key=lambda task: order.index(task.state))]
    name = st.selectbox("Task", names, key=keep(TASK, names, names[0]), bind="query-params", format_func=visible)
    task = sweep.tasks[name]
    if task.message:
        tell(task)
    st.code(visible(shlex.join(task.command)), language=None, wrap_lines=True)
    if name in runs:
        training_link(escape_markdown(f"Curves of {name}"), runs[name])
    lines = sweep.log(name)
    if lines:
        st.code(visible("\n".join(lines[-LINES:]), lines=True), language=None, wrap_lines=True)
        note(f"The end of `{log_file(sweep.folder, name)}`.")
    else:
        note("It has printed nothing yet.")


def tell(task: TaskState) -> None:
    """Explain why a task is not finished."""
    (st.error if task.state == "failed" else st.info)(prose(task.message))


def show(folder: Path, name: str, live: bool, answer: Any) -> None:
    """Show a sweep, and update it while it runs."""
    sweep = read_sweep(folder)
    with answer.container():
        finding(f"{name}: {sweep.sentence}")
    if not sweep.tasks:
        note("It has no tasks yet.")
        return
    tasks = table(sweep)
    show_table(tasks, hide_index=True, column_config=COLUMNS, height="content" if len(tasks) < 16 else 560)
    runs = trained(sweep)
    links(sweep, runs)
    one_task(sweep, runs)
    if live and not sweep.live:
        st.rerun()


def page() -> None:
    """Draw the page from top to bottom."""
    answer, folders = st.empty(), sweeps()
    if not folders:
        with answer.container():
            empty()
        return
    names = list(folders)
    key = keep(CHOSEN, names, names[0])
    name = (
        st.selectbox("Sweep", names, key=key, bind="query-params", format_func=visible) if len(names) > 1 else names[0]
    )
    folder = folders[name]
    try:
        sweep = read_sweep(folder)
    except ConfigError as error:
        with answer.container():
            finding(f"{name} cannot be read.")
        st.error(prose(error))
        return
    every = REFRESH_S if sweep.live else None
    st.fragment(guard_callback(show), run_every=every)(folder, name, sweep.live, answer)
    details((), DEFINITION, CODE.format(str(folder)), {"tasks": table(sweep)})


page()
