"""`probe jobs`: lists the jobs that the dashboard has started, follows one, stops it or lets it continue."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from probe.commands.tables import grid, remark, safe, show
from probe.errors import ConfigError, RunError, suggest
from probe.options import choose, parse
from probe.texts import say

if TYPE_CHECKING:
    from probe.jobs.job import Job

COLOURS = {"finished": "green", "running": "cyan", "waiting": "cyan", "stopped": "yellow", "failed": "red"}
POLL_S = 0.5
LIVE_EXIT = {"finished": 0, "stopped": 130}
"""Exit status of `probe jobs follow` by the state of the job; any other is 1."""


def jobs(argv: list[str]) -> int:
    """List the dashboard's jobs, follow one, stop it or continue it: `probe jobs`, `follow`, `stop`, `continue`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class List:
        """List the jobs beside the run directories, the newest first: trainings, audits, sweeps and experiments."""

        json: bool = False
        """Print JSON instead of a table."""

    @dataclass(frozen=True, kw_only=True)
    class Named:
        """Name a job."""

        name: tyro.conf.Positional[str]
        """Name of the job, as in `probe jobs`."""

    about = "usage: probe jobs [list | follow NAME | stop NAME | continue NAME | next NAME | remove NAME]\n\n"
    about += "Show and steer the jobs that the dashboard has started: they are processes that run on without it."
    summaries = {
        "list": "all jobs beside the run directories (also `probe jobs` alone)",
        "follow": "print what a job prints until it ends; Ctrl-C leaves the job running",
        "stop": "stop a job: what it has done is kept; asked twice, it ends at once",
        "continue": "continue a job that was stopped or failed",
        "next": "let a waiting job run before the other waiting ones",
        "remove": "forget a job that has ended; its result stays",
    }
    choice = choose(argv or ["list"], "probe jobs", about, summaries)
    if choice is None:
        return 0
    if choice[0] == "list":
        list_all(parse(List, choice[1], "probe jobs list").json)
        return 0
    Named.__doc__ = f"{summaries[choice[0]].partition(';')[0].partition(':')[0].capitalize()}."
    job = named(parse(Named, choice[1], f"probe jobs {choice[0]}").name)
    deeds: dict[str, Callable[[Job], int]] = {
        "follow": follow,
        "stop": stop,
        "continue": proceed,
        "next": let_next,
        "remove": remove,
    }
    return deeds[choice[0]](job)


def named(name: str) -> "Job":
    """Return the newest job of a name.

    Raises:
        RunError: there is none.
    """
    from probe.jobs.trainings import list_jobs

    known = list_jobs()
    found = next((job for job in known if job.name == name), None)
    if found is None:
        hint = suggest(name, [job.name for job in known], "see `probe jobs`.")
        raise RunError(f"There is no job `{name}` beside the run directories: {hint}")
    return found


def list_all(as_json: bool) -> None:
    """Print all jobs."""
    from probe.jobs.trainings import list_jobs

    rows = [row(job) for job in list_jobs()]
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    if not rows:
        remark("No job runs or has run here: start one in the dashboard (`probe dashboard`).")
        return
    output = grid()
    for name in ("job", "state", "progress", "left", "started", "what"):
        output.add_column(name, justify="right" if name in ("progress", "left") else "left")
    for each in rows:
        state = f"[{COLOURS[each['state']]}]{each['state']}[/]"
        share = "" if each["share"] is None else f"{each['share']:.0%}"
        what = each["error"] or (each["doing"] if each["state"] in ("running", "waiting") else each["title"])
        started = datetime.fromtimestamp(each["started"]).strftime("%Y-%m-%d %H:%M")
        output.add_row(safe(each["job"]), state, share, clock_or_empty(each["left"]), started, safe(what))
    show(output, rows)


def clock_or_empty(seconds: float | None) -> str:
    """Format the remaining seconds; empty if they are unknown."""
    from probe.commands.progress import clock

    return "" if seconds is None else clock(seconds)


def row(job: "Job") -> dict[str, Any]:
    """Return a job as values: `job`, `title`, `state`, `doing`, `share`, `left`, `started`, `error`, `folder`."""
    from probe.jobs.job import LIVE
    from probe.jobs.trainings import status_of

    state, progress = status_of(job), job.progress
    live = state in LIVE
    return {
        "job": job.name,
        "title": job.title,
        "state": state,
        "doing": progress.doing if live else "",
        "share": progress.share if live else None,
        "left": progress.left if live else None,
        "started": job.started,
        "error": job.error if state == "failed" else "",
        "folder": str(job.folder),
    }


def follow(job: "Job") -> int:
    """Print the output of a job until it ends, and return the exit status for its state."""
    from probe.jobs.job import LIVE, LOG
    from probe.jobs.trainings import status_of
    from probe.texts import visible
    from probe.untrusted import open_file

    at = 0
    while True:
        live = status_of(job) in LIVE
        try:
            with open_file(job.folder / LOG, follow=False) as log:
                log.seek(at)
                text = log.read()
                at = log.tell()
        except OSError:
            text = b""
        if text:
            say(visible(text.decode("utf-8", "replace"), lines=True).rstrip("\n"))
        if not live:
            break
        time.sleep(POLL_S)
    state = status_of(job)
    remark(f"{job.title}: {state}.")
    return LIVE_EXIT.get(state, 1)


def stop(job: "Job") -> int:
    """Ask a job to end.

    Raises:
        ConfigError: it has ended.
    """
    from probe.jobs.job import LIVE
    from probe.jobs.trainings import status_of, stop_job

    state = status_of(job)
    if state not in LIVE:
        raise ConfigError(f"`{job.name}` is {state}, and cannot be stopped.")
    stop_job(job)
    remark(f"{job.title}: asked to stop; what it has done is kept.")
    return 0


def proceed(job: "Job") -> int:
    """Continue a job, a training from its last checkpoint."""
    from probe.jobs.control import resume
    from probe.jobs.trainings import TRAIN, describe_methods, resume_training, run_of

    if job.kind == TRAIN and run_of(job) is not None:
        resume_training(job, [each["method"] for each in describe_methods()])
    else:
        resume(job)
    remark(f"{job.title}: continues; `probe jobs follow {job.name}` shows what it prints.")
    return 0


def let_next(job: "Job") -> int:
    """Put a waiting job before the others.

    Raises:
        ConfigError: it does not wait.
    """
    from probe.jobs.control import move

    if job.status != "waiting":
        raise ConfigError(f"`{job.name}` does not wait: only a waiting job can be put first.")
    move(job, -(10**6))
    remark(f"{job.title}: is the next.")
    return 0


def remove(job: "Job") -> int:
    """Forget a job that has ended."""
    from probe.jobs.control import remove

    remove(job)
    remark(f"{job.title}: forgotten; its result stays.")
    return 0
