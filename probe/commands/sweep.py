"""`probe sweep SPEC.toml`: runs many trainings and experiments as one graph of tasks, with a progress table."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands.tables import grid, remark, safe, show
from probe.errors import ConfigError
from probe.options import parse
from probe.plugins import split
from probe.texts import console, say
from probe.ticks import announce

if TYPE_CHECKING:
    from rich.table import Table

    from probe.sweep.journal import Sweep, TaskState
    from probe.sweep.spec import Spec

COLOURS = {"finished": "green", "running": "cyan", "interrupted": "yellow", "lost": "yellow", "failed": "red"}
INTERRUPTED = 130


def sweep(argv: list[str]) -> int:
    """Run trainings and experiments as one graph, and resume it: `probe sweep SPEC.toml`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class SweepOptions:
        """Run all trainings and experiments that a spec describes.

        Each is an ordinary `probe train` or `probe experiment`. Finished tasks are not repeated, interrupted ones are
        resumed, and failed ones are retried. With Ray (pip install "probe-lm[sweep]") several tasks run at once,
        otherwise one after the other. On Ctrl-C, trainings write a checkpoint; the same command resumes from there.
        `--plugin FILE.py` loads your own rewards, annotators and experiments in every task; a spec cannot name plugins.

        Exit status: 0; 1 if a task failed; 2 if an input cannot be used; 130 after Ctrl-C.
        """

        spec: tyro.conf.Positional[Path]
        """TOML file that describes the sweep (docs/sweep.md)."""
        out: Path | None = None
        """Folder of the runs, instead of the spec's `out`; required if `out` lies neither in the spec's folder nor in
        the working folder.
        """
        address: str | None = None
        """Ray cluster to run on: `auto` or HOST:PORT; by default Ray is started on this machine alone."""
        cpus: int | None = None
        """Number of CPUs that the tasks share on this machine (default: all)."""
        serial: bool = False
        """Run one task after the other, without Ray."""
        check: bool = False
        """Check the spec and list the tasks with their commands, without starting any."""
        json: bool = False
        """Print the tasks as JSON instead of a table."""

    plugins, rest = split(argv)
    settings = parse(SweepOptions, rest, "probe sweep")
    if settings.cpus is not None and (settings.cpus < 1 or settings.address is not None):
        raise ConfigError(f"--cpus is {settings.cpus}; expected 1 or more, and no --address, which has its own.")
    if settings.serial and (settings.cpus is not None or settings.address is not None):
        raise ConfigError("--serial runs one task after the other: leave --cpus and --address out, or --serial.")

    from probe.sweep.schedule import check_unchanged
    from probe.sweep.spec import check_commands, read_spec

    spec = read_spec(settings.spec, out=settings.out, plugins=plugins)
    if spec.uses:
        say(f"probe: note: {spec.uses}", error=True)
    if settings.check:
        check_commands(spec)
        check_unchanged(spec)
        list_tasks(spec, settings.json)
        return 0
    engine = {"address": settings.address, "cpus": settings.cpus, "serial": settings.serial}
    return run_and_show(spec, as_json=settings.json, **engine)


def run_and_show(spec: "Spec", as_json: bool = False, **engine: Any) -> int:
    """Run a sweep with progress on standard error, print the outcome of its tasks, and return the exit status.

    Args:
        spec: spec of the sweep.
        as_json: print the tasks as JSON.
        engine: arguments `address`, `cpus` and `serial` of `probe.sweep.run_sweep`.

    Raises:
        ProbeError: see `probe.sweep.run_sweep`.
    """
    from probe.commands.progress import StopRequest
    from probe.sweep.schedule import run_sweep

    with StopRequest(STOPPING) as request, Screen() as screen:
        found = run_sweep(spec, stop=lambda: request.asked, tick=screen.draw, **engine)
    if as_json:
        say(json.dumps(list(rows(found)), indent=2))
    else:
        show(table(found), list(rows(found)))
    for task in found.tasks.values():
        if task.message and task.state in ("failed", "skipped"):
            say(f"probe: {task.name} {task.state}: {task.message}", error=True)
    remark(f"{found.sentence} Runs in {found.out}, logs in {found.folder}")
    if found.finished:
        return 0
    return INTERRUPTED if request.asked else 1


STOPPING = "stopping: trainings end after their step with a checkpoint; press Ctrl-C again to stop at once"


def list_tasks(spec: "Spec", as_json: bool) -> None:
    """Print the tasks of a spec with their commands."""
    import shlex

    lines = [
        {"task": each.name, "needs": " ".join(each.needs), "command": shlex.join(["probe", *each.words])}
        for each in spec.tasks
    ]
    if as_json:
        say(json.dumps(lines, indent=2))
        return
    output = grid()
    for name in ("task", "needs", "command"):
        output.add_column(name)
    for line in lines:
        output.add_row(*map(safe, line.values()))
    show(output, lines)


def rows(found: "Sweep") -> "Iterator[dict[str, Any]]":
    """Yield one row per task: `task`, `state`, `step`, `steps`, `minutes`, `attempt`, `node`, `command`, `message`."""
    import shlex

    for task in found.tasks.values():
        step, steps = found.progress(task.name) or (None, None)
        minutes = None if task.seconds is None else round(task.seconds / 60, 2)
        yield {
            "task": task.name,
            "state": task.state,
            "step": step,
            "steps": steps,
            "minutes": minutes,
            "attempt": task.attempt,
            "node": task.node,
            "command": shlex.join(task.command),
            "message": task.message,
        }


def table(found: "Sweep", most: int | None = None) -> "Table":
    """Draw the tasks for a terminal; with `most`, those that run or failed first, and a count of the rest."""
    tasks = list(found.tasks.values())
    caption = None
    if most is not None and len(tasks) > most:
        order = ("running", "lost", "failed", "interrupted", "waiting", "skipped", "finished")
        shown = {task.name for task in sorted(tasks, key=lambda task: order.index(task.state))[:most]}
        caption = f"{len(tasks) - most} further tasks"
        tasks = [task for task in tasks if task.name in shown]
    output = grid(safe(found.sentence) if most is not None else "", caption)
    for name in ("task", "state", "steps", "minutes", "machine"):
        output.add_column(name, justify="right" if name in ("steps", "minutes") else "left")
    for task in tasks:
        colour = COLOURS.get(task.state)
        state = f"[{colour}]{task.state}[/]" if colour else task.state
        output.add_row(safe(task.name), state, _steps(found, task), _minutes(task), safe(task.node))
    return output


def _steps(found: "Sweep", task: "TaskState") -> str:
    progress = found.progress(task.name)
    return "" if progress is None else f"{progress[0]:,} of {progress[1]:,}"


def _minutes(task: "TaskState") -> str:
    return "" if task.seconds is None else f"{task.seconds / 60:.1f}"


class Screen:
    """Progress on standard error: a live table on a terminal, otherwise one line whenever a task changes its state."""

    EVERY_S = 1.0

    def __init__(self) -> None:
        from rich.live import Live

        screen = console(error=True)
        self._live = Live(console=screen, auto_refresh=False, transient=True) if sys.stderr.isatty() else None
        self._states: dict[str, tuple[str, int]] = {}
        self._last = 0.0

    def draw(self, found: "Sweep") -> None:
        """Show the current state of the sweep."""
        announce(found.sentence, share_done(found))
        if self._live is None:
            for task in found.tasks.values():
                state = task.state, task.attempt
                if self._states.get(task.name, ("waiting", 0)) != state and task.state != "waiting":
                    say(_line(found, task), error=True)
                self._states[task.name] = state
        elif time.monotonic() - self._last > self.EVERY_S:
            self._last = time.monotonic()
            self._live.update(table(found, max(self._live.console.height - 8, 4)), refresh=True)

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            with suppress(BrokenPipeError):
                self._live.stop()


def share_done(found: "Sweep") -> float:
    """Return the share of all tasks that is done; a task that runs counts by its steps."""
    shares = []
    for task in found.tasks.values():
        step, steps = found.progress(task.name) or (0, 0)
        shares.append(1.0 if task.state == "finished" else step / steps if steps else 0.0)
    return sum(shares) / max(len(shares), 1)


def _line(found: "Sweep", task: "TaskState") -> str:
    """Describe a task's new state in one line."""
    parts = [f"{task.name}: {task.state}"]
    if task.state == "running":
        parts.append(f"attempt {task.attempt} on {task.node}")
    elif task.seconds is not None and task.state != "skipped":
        parts.append(f"after {_minutes(task)} minutes")
    done = f"({found.count('finished')} of {len(found.tasks)} tasks finished)"
    return f"{', '.join(parts)} {done}" + (f": {task.message}" if task.message else "")
