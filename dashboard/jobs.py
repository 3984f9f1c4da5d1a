"""Panel of jobs on every page: what runs, waits for a core and has ended, with the buttons that steer it."""

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import access, models
from dashboard.components.form import Field, options
from dashboard.markdown import escape_markdown, guard, guard_callback, note, prose
from dashboard.pages import page_file, page_names
from dashboard.state import ALIGNED, BASE, LINK
from probe.jobs import control
from probe.jobs.job import LIVE, Job
from probe.jobs.trainings import (
    TRAIN,
    describe_methods,
    line_to_type,
    list_jobs,
    resume_training,
    run_of,
    status_of,
    stop_job,
    writable_roots,
)
from probe.numbers import duration
from probe.options import words
from probe.texts import visible

REFRESH_S = 1.5
"""Seconds between two looks at the jobs while one is alive."""
ROWS, SHOWN = 4, 12
"""Number of live jobs, and of ended ones in the list."""
LINES = 12
"""Number of lines of a log that are shown."""
SEEN, ENDED = "_jobs_seen", "_jobs_ended"
"""Keys of the states of jobs when the panel was last drawn, and of the messages about those that have ended since."""
ICONS = {"finished": "check_circle", "stopped": "stop_circle", "failed": "error"}
COLOURS: dict[str, Any] = {
    "running": "blue",
    "waiting": "gray",
    "finished": "green",
    "stopped": "orange",
    "failed": "red",
}
"""Colour of the badge of each state."""
HIDE_RUNNING = "<style>[data-testid=stStatusWidget] { display: none; }</style>"
"""Style that hides Streamlit's own Stop, which stops the drawing of the page and no job."""


@st.cache_resource(show_spinner="Reading the options of all methods (some seconds, once)")
def methods() -> dict[str, dict[str, Any]]:
    """Return all training methods by name, each with `summary` and `fields`."""
    return {each["method"]: each for each in describe_methods()}


def draw_ended() -> None:
    """Draw the list of jobs that have ended, behind a button; nothing if there are none."""
    states = [(job, status_of(job)) for job in list_jobs()]
    ended = [(job, state) for job, state in states if state not in LIVE]
    if not ended:
        return
    failed = sum(state == "failed" for _, state in ended)
    title = f"Jobs: {len(ended)} ended" + (f", {failed} failed" if failed else "")
    with st.popover(title, icon=":material/history:", type="tertiary", key="jobs-ended"):
        for job, state in ended[:SHOWN]:
            _draw_ended(job, state)
        if len(ended) > SHOWN:
            note(f"{len(ended) - SHOWN} earlier ones: `probe jobs` lists all.")


def draw_live() -> None:
    """Draw the jobs that run or wait for a core, updated while there are any; nothing if there are none."""
    for message in st.session_state.pop(ENDED, []):
        st.toast(prose(message))
    states = [(job, status_of(job)) for job in list_jobs()]
    if any(state in LIVE for _, state in states):
        with st.container(key="jobs", gap=None):
            st.html(HIDE_RUNNING)
            st.fragment(_draw, run_every=REFRESH_S)()
    else:
        _tell_ends(states)


def _draw() -> None:
    with guard():
        states = [(job, status_of(job)) for job in list_jobs()]
        _tell_ends(states)
        live = [(job, state) for job, state in states if state in LIVE]
        waiting = sorted((job for job, state in live if state == "waiting"), key=lambda job: job.order)
        live.sort(key=lambda pair: (pair[1] == "waiting", pair[0].order))
        for job, state in live[:ROWS]:
            _draw_live(job, state, waiting)
        if len(live) > ROWS:
            note(f"{len(live) - ROWS} more wait for a core: `probe jobs` lists all.")


def _tell_ends(states: Sequence[tuple[Job, str]]) -> None:
    """Redraw the page if a job has ended since the last look, since the page may show its result."""
    now = {str(job.folder): state for job, state in states}
    before = st.session_state.get(SEEN, {})
    st.session_state[SEEN] = now
    ended = [job for job, state in states if before.get(str(job.folder)) in LIVE and state not in LIVE]
    started = [each for each, state in now.items() if state in LIVE and before.get(each) not in LIVE]
    if ended or (before and started):
        st.session_state[ENDED] = [f"{job.title}: {now[str(job.folder)]}." for job in ended]
        st.rerun()


def _draw_live(job: Job, state: str, waiting: Sequence[Job]) -> None:
    progress, may, key = job.progress, access.may_write(), str(job.folder)
    what, bar, far, buttons = st.columns([9, 4, 5, 9], vertical_alignment="center", gap="small")
    with what:
        st.markdown(f"**{escape_markdown(job.title)}**: {escape_markdown(_doing(job, state, waiting))}")
    with bar:
        st.progress((progress.share or 0.0) if state == "running" else 0.0)
    with far:
        st.caption(_how_far(job, state))
    with buttons, st.container(horizontal=True, gap="small", vertical_alignment="center"):
        small: Any = {"type": "tertiary"}
        if may:
            st.button("Stop", icon=":material/stop:", key=f"stop-{key}", on_click=act, args=(stop_job, job), **small)
        if may and state == "waiting" and waiting.index(job):
            up: Any = {"icon": ":material/arrow_upward:", "help": "Lets this job run before the one above it."}
            st.button("Earlier", key=f"up-{key}", on_click=act, args=(control.move, job, -1), **small, **up)
        _open_link(job)


def _doing(job: Job, state: str, waiting: Sequence[Job]) -> str:
    if state == "waiting":
        return f"waiting for a core, {waiting.index(job) + 1} of {len(waiting)}"
    doing = job.progress.doing
    return "running" if doing in job.title else doing


def _how_far(job: Job, state: str) -> str:
    progress, since = job.progress, duration(max(time.time() - job.started, 0))
    if state == "waiting" or progress.share is None:
        return f"for {since}"
    left = "" if progress.left is None or progress.share >= 1 else f", about {duration(progress.left)} left"
    return f"{int(100 * progress.share)} %{left}"


def _draw_ended(job: Job, state: str) -> None:
    """Draw a job that has ended: its state, why it failed, and what can be done with it."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(state, color=COLOURS[state], icon=f":material/{ICONS[state]}:")
        st.markdown(escape_markdown(job.title))
        _open_link(job)
        if access.may_write():
            key = str(job.folder)
            if state != "finished" and can_continue(job):
                play = ":material/play_arrow:"
                st.button("Continue", icon=play, key=f"go-{key}", on_click=act, args=(proceed, job), type="tertiary")
            if job.is_ours:
                bin: Any = {"icon": ":material/delete:", "help": "Forgets this job and its log; its result stays."}
                st.button("Remove", key=f"rm-{key}", on_click=act, args=(control.remove, job), type="tertiary", **bin)
    if state == "failed":
        note(job.error)


def _open_link(job: Job) -> None:
    """Draw the link to the page that shows a job's result; a copied job may name any page."""
    page = job.link.get("page")
    if page not in page_names():
        return
    choices = {name: each for name, each in job.link.items() if name != "page"}
    parameters = {LINK + name if name in (BASE, ALIGNED) else name: each for name, each in choices.items()}
    st.page_link(page_file(page), label="Open", icon=":material/arrow_forward:", query_params=parameters)


def can_continue(job: Job) -> bool:
    """Return whether a button can continue a job: a training whose run names no code, or a command of this user's."""
    run = run_of(job)
    return job.is_ours if run is None else not line_to_type(run)


def find_job(title: str, name: str = "") -> Job | None:
    """Return the newest job with this title, or with this name if one is given, or None."""
    return next((job for job in list_jobs() if (job.name == name if name else job.title == title)), None)


def find_live(title: str) -> Job | None:
    """Return the job with this title that runs or waits, or None."""
    job = find_job(title)
    return job if job is not None and status_of(job) in LIVE else None


def launch(words: Sequence[str], title: str, link: Mapping[str, str], name: str = "") -> Job:
    """Start a command of Probe as a job; the same one that is alive already is not started again.

    Args:
        words: words of the command after `probe`.
        title: what it does, for people.
        link: page that shows the result (`page`), and the choices on it.
        name: name of the job; by default it is made from the title.

    Raises:
        ConfigError: the reader may only read, or another command of this name is running.
        RunError: it cannot be started.
    """
    access.check()
    return control.start(writable_roots()[0], name or control.name_of(title), words, title=title, link=link)


def offer(
    name: str,
    title: str,
    refs: Sequence[str],
    fields: Sequence[Field],
    link: Mapping[str, str],
    *,
    more: Sequence[str] = (),
    label: str = "",
    icon: str,
    again: bool = False,
) -> None:
    """Offer a command about models as a job: its options, a button, and the line to type; a note while it runs.

    Args:
        name: words of the command after `probe`, also the key of its options.
        title: title of the job.
        refs: references of the models.
        fields: options (`probe.options.describe`).
        link: page that shows the result, and the choices on it.
        more: further words of the command.
        label: text of the button, by default the title.
        icon: icon of the button.
        again: whether the result is there already.
    """
    if find_live(title) is not None:
        note("It runs as a job, above: leaving this page does not stop it, and what it has done is kept.")
        return
    key = name.replace(" ", "-")
    with st.expander(f"Options of the {name.split()[-1]}", icon=":material/tune:"):
        flags = options(key, fields, columns=3)
    line = [*name.split(), *refs, *words(flags), *more]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        look: Any = {"icon": f":material/{icon}:", "type": "secondary" if again else "primary", **access.button()}
        click = st.button(escape_markdown(label or title), key=f"{key}-run", **look)
        note("It runs as a job: leave the page, come back, stop it; what it has done is kept.")
    st.code(visible(shlex.join(["probe", *line])), language=None, wrap_lines=True)
    if click:
        with guard():
            if all(list(map(models.agreed, refs))):
                launch(line, title, link)
                st.rerun()


def proceed(job: Job, *words: str) -> None:
    """Continue a job; a training from the last checkpoint of its run.

    Raises:
        ConfigError: the reader may only read, or see `probe.jobs.trainings.resume_training`.
        RunError: it cannot be started.
    """
    access.check()
    if job.kind == TRAIN and run_of(job) is not None:
        resume_training(job, methods(), words)
    else:
        control.resume(job)


@guard_callback
def act(deed: Any, *given: Any) -> None:
    """Perform a button's action; a user's mistake becomes a sentence on the redrawn page.

    Raises:
        ConfigError: the reader may only read.
    """
    access.check()
    deed(*given)


def log_lines(job: Job) -> None:
    """Draw the end of a job's log."""
    if job.lines:
        st.code(visible("\n".join(job.lines[-LINES:]), lines=True), language=None)
