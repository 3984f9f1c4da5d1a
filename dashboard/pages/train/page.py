"""Train: a form for any method on any base, and the progress of running trainings."""

import itertools
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import access, data, sentences
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.form import Field, lasting_key, memory, options
from dashboard.jobs import COLOURS, act, log_lines, methods, proceed
from dashboard.markdown import finding, guard, note, prose
from dashboard.state import compare_link, current, keep, model_options, training_link
from probe.errors import ConfigError
from probe.jobs.job import LIVE, Job, JobProgress
from probe.jobs.trainings import (
    TRAIN,
    check_name,
    find_training,
    line_to_type,
    list_jobs,
    run_of,
    start_training,
    status_of,
    stop_job,
    writable_roots,
)
from probe.options import words
from probe.plotting.curves import metric_curves, styles
from probe.texts import visible

JOB, STATUS = "job", "_status"
"""Keys of the watched training, and of its status when the page was drawn: if it changes, the page is redrawn."""
REFRESH_S = 2
# Options of every method that are shown with the method's own.
FIRST = ("data", "steps", "batch_size", "lr")
# Options with their own widgets, or that need several processes: the page starts only one.
ELSEWHERE = ("out", "base", "resume", "shard")
# Metrics of the curve: the first two of them that a run has.
SHOWN = ("loss", "reward", "eval_loss", "objective/scores")

PYTHON = """\
from trainers.dpo import DPOConfig, train

run = train(DPOConfig(out="runs/dpo", base="base"))
run.metrics()"""

DEFINITION = """
A training is a process of its own: it goes on when this page, or the dashboard, is closed, and is found here again
(`probe jobs` lists it in a terminal). *Stop* is Ctrl-C: the step under way is finished and a checkpoint written;
*Continue* runs `--resume`; the result is the same to the bit. Its output is next to its run in
`.jobs/NAME/log.txt`. The time left is that of the steps made
so far, evaluations and captures included. A run is data: where it names code of its own, such as
`--reward FILE:FUNCTION`, that is imported only when a command line names it again, so the page shows that command in
place of *Continue*.
"""


def names(method: str) -> Iterator[str]:
    """Yield the method's name, then the name with numbers from 2 on."""
    yield method
    yield from (f"{method}-{number}" for number in itertools.count(2))


def is_taken(root: Path, name: str) -> bool:
    """Return whether a run of this name exists or is being started."""
    job = find_training(root / name)
    return (root / name).exists() or (job is not None and job.status in LIVE)


def choose_target(method: str) -> tuple[Path, str]:
    """Let the reader choose the folder and the name of the run."""
    roots = writable_roots()
    left, right = st.columns(2)
    with right:
        labels = [str(root) for root in roots]
        key = keep("folder", labels, labels[0])
        folder = st.selectbox("In the folder", labels, key=key, format_func=lambda text: visible(Path(text).name))
    root = roots[labels.index(folder)]
    key = f"name-{method}"
    suggestions = st.session_state.setdefault("_offered", {})
    value = st.session_state.get(key, memory().get(key))
    if value is None or (value == suggestions.get(key) and is_taken(root, value)):
        value = suggestions[key] = next(name for name in names(method) if not is_taken(root, name))
    st.session_state[key] = value
    with left:
        name = st.text_input("Name of the run", key=key)
        memory()[key] = name
    return root, name.strip()


def choose_base(field: Field, method: str) -> str | None:
    """Let the reader choose the model to start from."""
    choices = current()
    first = choices.base if field["required"] else None
    labels = model_options(choices.store)
    key = lasting_key(f"base-{method}", first)
    if st.session_state[key] is not None and st.session_state[key] not in labels:
        labels = [*labels, st.session_state[key]]
    choice = st.selectbox(
        "Base model",
        labels,
        key=key,
        index=None,
        accept_new_options=True,
        placeholder="a run, or type a model folder" if field["required"] else "none: new weights",
        help=field["help"],
        format_func=visible,
    )
    memory()[key] = choice
    return (
        choice
        if choice in choices.store.runs and choices.store.runs[choice].name == choice
        else choices.reference(choice)
    )


def about(known: dict[str, dict[str, Any]]) -> str:
    """Return a text that lists the methods with their descriptions."""
    return "\n".join(f"- `{name}`: {each['summary']}" for name, each in known.items())


def form() -> None:
    """Draw the form of a training (method, base model, options), and start it when the button is pressed."""
    registry = methods()
    key = keep("method", registry, "dpo" if "dpo" in registry else next(iter(registry)))
    left, right = st.columns(2)
    with left:
        method = st.selectbox(
            "Method", list(registry), key=key, bind="query-params", help=about(registry), format_func=visible
        )
    fields = {field["name"]: field for field in registry[method]["fields"]}
    with right:
        base = choose_base(fields["base"], method) if "base" in fields else None
    root, name = choose_target(method)
    button = st.container()
    with st.container(height=390, border=True):
        flags = {"--base": base} if base else {}
        flags |= options(method, [fields[name] for name in FIRST if name in fields])
        own = [field for field in fields.values() if not field["common"] and "." not in field["name"]]
        flags |= options(method, [field for field in own if field["name"] not in (*FIRST, *ELSEWHERE)])
        with st.expander("Options of every method", icon=":material/tune:"):
            common_fields = [field for field in fields.values() if field["common"]]
            flags |= options(method, [field for field in common_fields if field["name"] not in (*FIRST, *ELSEWHERE)])
        world_fields = [field for field in fields.values() if "." in field["name"]]
        if world_fields:
            with st.expander("The world of a new model", icon=":material/public:"):
                flags |= options(method, world_fields)
    with button:
        click = st.button("Start training", type="primary", icon=":material/play_arrow:", **access.button())
    line = ["probe", "train", method, "--out", os.path.relpath(root / name), *words(flags)]
    st.code(visible(shlex.join(line)), language=None, wrap_lines=True)
    if click:
        with guard():
            if fields.get("base", {}).get("required") and not base:
                raise ConfigError(f"`probe train {method}` needs a base model: choose one above.")
            access.check()
            job = start_training(method, check_name(root, name), list(words(flags)), methods())
            st.session_state[JOB] = job.name
            st.rerun()


def sentence(job: Job, status: str, frame: pd.DataFrame, steps: int) -> str:
    """Describe the state of a training in a sentence."""
    name = job.name
    if status == "waiting":
        return f"{name} waits until a core is free."
    if status == "failed" and job.error:
        return f"{name} was not trained{' further' if len(frame) else ''}: see why below."
    if run_of(job) is None:
        if status == "running":
            doing = job.progress.doing
            return f"{name} is starting{f': {doing}' if doing != JobProgress.doing else ''}."
        return f"{name} was stopped before its first step: press Start training to begin again."
    step = int(frame["step"].iloc[-1]) if len(frame) else 0
    went = sentences.training({name: frame}, "loss") if "loss" in frame else ""
    if status == "running":
        if step >= steps > 0:
            return f"{name} has made all {steps:,} steps: it is being evaluated and saved. {went}".strip()
        rest = time_left(frame, steps)
        return f"{name} is at step {step:,} of {steps:,}{f', about {rest} left' if rest else ''}. {went}".strip()
    return f"{name} is {status} after {step:,} of {steps:,} steps. {went}".strip()


def time_left(frame: pd.DataFrame, steps: int) -> str:
    """Estimate the time of the remaining steps from the pace so far; empty if it is not known yet."""
    rows = frame[["step", "time"]].dropna() if {"step", "time"} <= set(frame) else pd.DataFrame()
    if len(rows) < 2 or rows["step"].iloc[-1] <= rows["step"].iloc[0]:
        return ""
    pace = (rows["time"].iloc[-1] - rows["time"].iloc[0]) / (rows["step"].iloc[-1] - rows["step"].iloc[0])
    seconds = max(1, round(pace * max(0, steps - rows["step"].iloc[-1])))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds % 60:02} s" if minutes else f"{seconds} s"
    )


def controls(job: Job, status: str, steps: int) -> None:
    """Draw the buttons that stop or continue a training, and links to other pages."""
    run = run_of(job)
    label = next((label for label, each in current().store.runs.items() if run and each.path == run.path), None)
    more = run is not None and status not in LIVE and bool(run.checkpoints())
    command = line_to_type(run) if run is not None and more else ""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if status in LIVE and access.may_write():
            st.button("Stop", icon=":material/stop:", on_click=act, args=(stop_job, job), key="stop")
        elif more and not command and access.may_write():
            key = f"more-{job.folder}"
            st.number_input("Steps in all", 1, value=steps or 1, key=key, width=130)
            play = ":material/play_arrow:"
            st.button("Continue", icon=play, on_click=act, args=(resume, job, steps, key), key="resume")
        if label:
            training_link("Curves", label)
            parent = current().store.label(run.parent, run) if run else None
            compare_link("Compare", aligned=label, **({"base": parent} if parent else {}))
    if command:
        note(
            "This run names code of its own or an address, which no button uses. Read that code, or see whether you"
            " trust that host; then continue it in a terminal:"
        )
        st.code(visible(command), language=None, wrap_lines=True)


def resume(job: Job, steps: int, key: str) -> None:
    """Continue a run from its last checkpoint, up to the number of steps in the widget `key`."""
    more = int(st.session_state.get(key) or steps)
    proceed(job, *(["--steps", str(more)] if more != steps else []))


def progress(trainings: Sequence[Job], answer: Any) -> None:
    """Show a training's state, curve and last output, updated while it runs."""
    with guard():
        names = {job.name: job for job in reversed(trainings)}
        choice = names[st.session_state[JOB]]
        job = find_training(choice.root / choice.name) or choice  # it may have been continued since
        status, run = status_of(job), run_of(job)
        if status != st.session_state[STATUS]:
            st.rerun()  # before anything is drawn that the page draws anew: a field would lose what is typed into it
        frame = data.metrics(run) if run else pd.DataFrame()
        setting = run.config.get("steps") if run else None
        steps = setting if type(setting) is int and setting > 0 else 0
        step = int(frame["step"].iloc[-1]) if len(frame) else 0
        with answer.container():
            finding(sentence(job, status, frame, steps))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(status, color=COLOURS[status])
            st.progress(min(1.0, step / steps) if steps else 0.0)
        controls(job, status, steps)
        if job.error:
            st.error(prose(job.error))
        metrics = [metric for metric in SHOWN if metric in frame and frame[metric].notna().any()][:2]
        if run and metrics:
            chart = metric_curves(
                {job.name: frame},
                metrics,
                styles({job.name: run.method}),
                methods={job.name: run.method},
                columns=len(metrics),
            )
            table = frame[["step", "time", *metrics]]
            figure(chart, table, "progress", title="Training so far", height=320, source={"run": str(run.path)})
        log_lines(job)


def watch(answer: Any) -> None:
    """Let the reader choose a training, and show its progress."""
    trainings = [job for job in list_jobs() if job.kind == TRAIN]
    if not trainings:
        with answer.container():
            finding("Choose a method and a base model, and start: the training shows its progress here.")
        return
    names = list(dict.fromkeys(job.name for job in trainings))
    name = st.selectbox(
        "Training", names, index=None, key=keep(JOB, names, names[0]), bind="query-params", format_func=visible
    )
    status = status_of(next(job for job in trainings if job.name == name))
    st.session_state[STATUS] = status
    st.fragment(progress, run_every=REFRESH_S if status in LIVE else None)(trainings, answer)


def page() -> None:
    """Draw the page from top to bottom."""
    answer = st.empty()
    left, right = st.columns([5, 6], gap="medium")
    with left:
        form()
    with right:
        watch(answer)
    details([], DEFINITION, PYTHON)


page()
