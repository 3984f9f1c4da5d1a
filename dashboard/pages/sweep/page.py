"""Sweep: states of the tasks of a sweep, their commands, logs of failed tasks, and links to curves."""

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import access
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.form import lasting_key, memory
from dashboard.components.table import show_table
from dashboard.jobs import launch
from dashboard.markdown import escape_markdown, finding, guard, guard_callback, note, prose
from dashboard.state import current, keep, tell_again, training_link
from probe.errors import ConfigError
from probe.jobs.trainings import writable_roots
from probe.runs.directories import NAME as RUN_NAME
from probe.runs.storage import disk, write_atomic
from probe.sweep import ComparedRuns, Sweep, compare_runs, find_sweeps, read_sweep
from probe.sweep.journal import TaskState, log_file
from probe.sweep.spec import EXAMPLE, read_spec
from probe.terms import RATES
from probe.texts import visible
from probe.untrusted import parse_toml, read_file

CHOSEN, TASK, SPEC, NAME = "sweep", "sweep_task", "sweep_spec", "sweep_name"
"""Keys of the chosen sweep, of the task whose command and log are shown, and of the text and name of a new sweep."""
METRICS, COLOUR = "sweep_metrics", "sweep_colour"
"""Keys of the metrics that are compared, and of the one that colours the lines."""
MOST_METRICS, MOST_OPTIONS = 6, 8
"""Largest numbers of axes with metrics and with options in the figure."""
REFRESH_S = 2
LINES = 12
"""Number of lines of a log that are shown."""
CODE = """import probe

sweep = probe.sweep.read_sweep({0!r})     # or probe.sweep.run_sweep("SPEC.toml"), which runs it
sweep.sentence, sweep.tasks
sweep.results()                         # one row a metric of each run and experiment
runs = probe.sweep.compare_runs(sweep)  # one row a finished training, with options and metrics
runs.table, runs.figure()"""
DEFINITION = """
Every **task** is an ordinary `probe train` or `probe experiment`. It starts when all tasks that it needs are finished.
A task whose process or machine was **lost** is started again, from the last checkpoint of its run; **skipped** ones
need a task that failed. `probe sweep SPEC.toml`, or *Continue* of its job, goes on with all that is not finished. The
state comes from the journal
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


def form(is_first: bool) -> None:
    """Let the reader write a sweep, list its tasks, and start it as a job.

    Args:
        is_first: whether there is no sweep yet, so that the form is open.
    """
    with st.expander("New sweep", expanded=is_first, icon=":material/add:"):
        left, right = st.columns([3, 2], gap="medium")
        with left:
            text = st.text_area(
                "Trainings and experiments (TOML)",
                key=lasting_key(SPEC, EXAMPLE),
                height=380,
                help="Entries [[train]] and [[experiment]]: a grid over options, seeds, and what each needs"
                " (docs/sweep.md).",
            )
            memory()[SPEC] = text
        with right:
            name = st.text_input("Name", key=lasting_key(NAME, "betas"), help="The text is saved as NAME.toml.")
            memory()[NAME] = name
            button, below = st.container(), st.container()
            try:
                spec = read_spec(parse_toml(text))
            except (ConfigError, ValueError) as error:
                below.error(prose(error if isinstance(error, ConfigError) else f"The text is not TOML: {error}."))
                return
            kinds = Counter(task.kind for task in spec.tasks)
            with below:
                counts = f"Trainings: {kinds['train']}, experiments: {kinds['experiment']}; their runs go to"
                st.markdown(
                    f"{counts} {escape_markdown(spec.out)}. A task starts when those that it needs are finished."
                )
                if spec.uses:
                    note(spec.uses)
                rows = [{"task": each.name, "needs": ", ".join(each.needs)} for each in spec.tasks]
                show_table(pd.DataFrame(rows), hide_index=True, height=235)
            with button:
                click = st.button("Start sweep", type="primary", icon=":material/play_arrow:", **access.button())
        if click:
            with guard():
                launch(["sweep", str(save_spec(name.strip(), text))], f"Sweep {name.strip()}", {"page": "sweep"})
                st.rerun()


def save_spec(name: str, text: str) -> Path:
    """Save the text of a sweep next to the runs, and return its file.

    Raises:
        ConfigError: the reader may only read, the name is invalid, or belongs to another text.
        RunError: the file cannot be written.
    """
    access.check()
    if not RUN_NAME.fullmatch(name):
        raise ConfigError(f"`{name}` cannot name a sweep: use letters, digits and any of . _ - + = , @ and blanks.")
    file = writable_roots()[0] / f"{name}.toml"
    with disk(file):
        if os.path.lexists(file) and (file.is_symlink() or read_file(file) != text.encode()):
            raise ConfigError(f"`{file}` exists already with another text: choose another name.")
        write_atomic(file, text.encode())
    return file


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


@st.cache_data(max_entries=4, show_spinner=False)
def compared(folder: Path, ended: tuple[tuple[str, float | None], ...]) -> ComparedRuns:
    """Return the finished trainings of a sweep with options and metrics; `ended` tells when each task finished."""
    return compare_runs(read_sweep(folder))


def compare(sweep: Sweep) -> None:
    """Draw the options and metrics of the finished trainings as parallel coordinates, and list them."""
    finished = [task for task in sweep.tasks.values() if task.state == "finished"]
    runs = compared(sweep.out, tuple((task.name, task.ended) for task in finished))
    if not runs.suggested:
        note("Options and metrics are compared here when two trainings have finished.")
        return
    chosen, colour = choose_metrics(runs)
    part = runs.of(chosen)
    if len(part.metrics) < 2:
        note("Fewer than two finished trainings have all of these metrics: choose others.")
        return
    note(part.sentence(colour))
    options = part.varying
    figure(
        part.figure(chosen, colour, options[:MOST_OPTIONS]),
        part.table,
        "options-and-metrics",
        title="Options and metrics of each training",
        source={"sweep": str(sweep.out), "metrics": chosen, "colour": colour},
    )
    note(
        f"Each line is one of {len(part.metrics):,} trainings"
        + (", from its options (left) to its metrics (right)" if options else ", which do not differ in their options")
        + ". Drag along an axis to keep only the lines that cross it there, and click the axis to see all again; drag"
        " a name to move its axis."
    )
    note(left_out(sweep, len(part.metrics), options[MOST_OPTIONS:]))
    show_table(
        part.table.sort_values(colour),
        hide_index=True,
        column_config={
            name: st.column_config.NumberColumn(visible(each.label), format="percent" if each.unit in RATES else "%.4g")
            for name, each in part.about.items()
        },
    )


def choose_metrics(runs: ComparedRuns) -> tuple[list[str], str]:
    """Let the reader choose the metrics, and the one that colours the lines."""
    known = list(runs.about)
    with st.container(horizontal=True):
        chosen = st.multiselect(
            "Metrics",
            known,
            default=runs.suggested,
            key=tell_again(METRICS),
            bind="query-params",
            max_selections=MOST_METRICS,
            format_func=lambda name: visible(runs.about[name].label),
            placeholder="choose metrics",
        )
        chosen = chosen or runs.suggested
        colour = st.selectbox(
            "Coloured by",
            chosen,
            key=keep(COLOUR, chosen, chosen[0]),
            bind="query-params",
            format_func=lambda name: visible(runs.about[name].label),
            width=260,
        )
    return chosen, colour


def left_out(sweep: Sweep, drawn: int, options: Sequence[str]) -> str:
    """Say which trainings and further options are not drawn, and why."""
    counts = Counter(task.state for task in sweep.tasks.values() if task.kind == "train")
    parts = [f"{count:,} {state}" for state, count in counts.items() if state != "finished"]
    parts += [f"{rest:,} without these metrics"] if (rest := counts["finished"] - drawn) else []
    trainings = f"Trainings that are not drawn: {', '.join(parts)}." if parts else ""
    return f"{trainings} In the table only: {', '.join(options)}.".strip() if options else trainings


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
    if live and not sweep.live:
        st.rerun()  # before anything is drawn that the page draws anew
    with answer.container():
        finding(f"{name}: {sweep.sentence}")
    if not sweep.tasks:
        note("It has no tasks yet.")
        return
    tasks = table(sweep)
    show_table(tasks, hide_index=True, column_config=COLUMNS, height="content" if len(tasks) < 16 else 560)
    runs = trained(sweep)
    links(sweep, runs)
    compare(sweep)
    one_task(sweep, runs)


def page() -> None:
    """Draw the page from top to bottom."""
    answer, folders = st.empty(), sweeps()
    if not folders:
        with answer.container():
            finding(
                "There is no sweep in the run directories. A sweep is many trainings and experiments as one graph: a"
                " grid over options and seeds, resumed where it stopped."
            )
        form(is_first=True)
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
    form(is_first=False)
    details((), DEFINITION, CODE.format(str(folder)), {"tasks": table(sweep)})


page()
