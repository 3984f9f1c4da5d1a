"""The scheduler of a sweep: it gives tasks that are ready to an engine and records outcomes until no task is left."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from probe.errors import ConfigError
from probe.runs.addresses import is_run
from probe.runs.directories import SWEEP
from probe.runs.reader import Run
from probe.runs.storage import hold_lock, is_empty, unlock, write_atomic
from probe.sweep.attempt import Attempt, Ended, Order, Store, shared_environment, with_threads
from probe.sweep.journal import Journal, Sweep, answer_file, is_sweep, read_sweep
from probe.sweep.spec import Spec, Task, check_commands, read_spec


class Engine(Protocol):
    """Interface of what runs attempts at tasks: `Serial` or `ray_engine.OnRay`."""

    def has_room(self) -> bool:
        """Return whether the engine can take another attempt now."""

    def check(self, task: Task) -> None:
        """Check that a task can run here at all.

        Raises:
            ConfigError: no machine has the CPUs or GPUs that it needs.
        """

    def start(self, order: Order) -> None:
        """Accept an attempt, which begins as soon as there is room for it."""

    def begun(self) -> dict[str, str]:
        """Return the attempts that have begun since the last call: task -> machine."""

    def steps(self) -> dict[str, int]:
        """Return the steps of each task whose run is on another machine."""

    def poll(self) -> list[Ended]:
        """Return the attempts that have ended since the last call."""

    def stop(self) -> None:
        """Ask all attempts to end, as `Attempt.stop` does."""

    def close(self) -> None:
        """End all attempts, and everything that the engine has started."""


class Serial:
    """Engine without Ray: it runs one attempt at a time on this machine."""

    def __init__(self) -> None:
        self._attempt: Attempt | None = None
        self._begun: dict[str, str] = {}

    def has_room(self) -> bool:
        """Return whether no attempt is running."""
        return self._attempt is None

    def check(self, task: Task) -> None:
        """Accept every task: it can use the whole machine."""

    def start(self, order: Order) -> None:
        """Start an attempt."""
        self._attempt = Attempt(order)
        self._begun[order.task.name] = self._attempt.node

    def begun(self) -> dict[str, str]:
        """See `Engine`."""
        begun, self._begun = self._begun, {}
        return begun

    def steps(self) -> dict[str, int]:
        """Return an empty dictionary: all runs are on this machine."""
        return {}

    def poll(self) -> list[Ended]:
        """See `Engine`."""
        ended = self._attempt.poll() if self._attempt is not None else None
        if ended is None:
            return []
        self._attempt = None
        return [ended]

    def stop(self) -> None:
        """See `Engine`."""
        if self._attempt is not None:
            self._attempt.stop()

    def close(self) -> None:
        """See `Engine`."""
        if self._attempt is not None:
            self._attempt.close()


POLL_S = 0.2
"""Seconds between two polls of the engine."""
BROKEN = ("failed", "interrupted", "skipped")
"""States of a task that keep the tasks that need it from starting."""


def run_sweep(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    address: str | None = None,
    cpus: int | None = None,
    serial: bool = False,
    store: Store | None = None,
    stop: Callable[[], bool] = lambda: False,
    tick: Callable[[Sweep], object] = lambda sweep: None,
) -> Sweep:
    """Run the unfinished tasks of a sweep.

    With Ray (`pip install "probe-lm[sweep]"`) several tasks run at once, on this machine or on a cluster; without it
    they run one after the other. The results are the same.

    Args:
        spec: a TOML file, its content as a dictionary, or the result of `read_spec`.
        address: address of a Ray cluster, `auto` or HOST:PORT; None starts Ray on this machine only.
        cpus: CPUs that tasks on this machine share; None takes all.
        serial: run one task after the other, without Ray.
        store: store through which machines share runs; by default the spec's.
        stop: function that is called several times a second; once it returns True, running tasks are asked to end and
            no others start.
        tick: called with the sweep several times a second.

    Raises:
        ConfigError: the spec cannot be run, or differs from the spec of a finished run; nothing was started.
        RunError: another process runs this sweep, or the folder cannot be written.
        MissingToolError: a cluster is named and Ray is not installed.
    """
    spec = spec if isinstance(spec, Spec) else read_spec(spec)
    if serial and (address is not None or cpus is not None):
        raise ConfigError("A serial sweep has no cluster and no CPUs to share: leave out `address` and `cpus`.")
    if store is None and spec.store is not None:
        from probe.sweep.copies import InStore

        store = InStore(spec.store)
    check_commands(spec)
    earlier = check_unchanged(spec, store)
    journal = Journal(earlier)
    with hold_lock(earlier.folder) as lock:
        journal.begin(spec)
        for task in spec.tasks:
            _look(task, earlier, journal, store)
        if not earlier.finished:
            with closing(make_engine(address, cpus, serial)) as engine:
                _drive(spec, journal, engine, store, stop, tick)
        unlock(lock)
    return earlier


def make_engine(address: str | None, cpus: int | None, serial: bool) -> Engine:
    """Make the engine: Ray if it is installed or asked for, else one task after the other."""
    if serial or (address is None and cpus is None and find_spec("ray") is None):
        return Serial()
    from probe.sweep.ray_engine import OnRay

    return OnRay(address, cpus)


def check_unchanged(spec: Spec, store: Store | None = None) -> Sweep:
    """Check that the spec fits the content of its folder; return the sweep that is stored there, or a new one.

    Raises:
        ConfigError: a finished run was made with other options, or the folder of a run holds something else.
        ProbeError: the store cannot be reached.
    """
    sweep = read_sweep(spec.out) if is_sweep(spec.out) else Sweep(spec.out)
    if (spec.out / SWEEP).is_symlink():
        raise ConfigError(f"`{spec.out / SWEEP}` is a link to another folder, which is not written to: delete it.")
    for task in spec.tasks:
        if task.kind != "train":
            continue
        made = sweep.made.get(task.name)
        if made is None and store is not None and store.newest(task.run):
            raise ConfigError(
                f"The store has a run `{task.name}` that this sweep did not make: choose another folder there, or start"
                f" in the directory with `{spec.out / SWEEP}`."
            )
        if not task.run.exists() or is_empty(task.run):
            continue
        if made is None or not is_run(task.run):
            raise ConfigError(
                f"`{task.run}` holds something that this sweep did not make: choose another `out`, or move it away."
            )
        names = [name for name in {**made, **task.recipe} if made.get(name) != task.recipe.get(name)]
        if Run(task.run).status != "finished":  # --resume refuses other values, and keeps those that are left out
            names = [name for name in names if name not in task.recipe]
        if names:
            raise ConfigError(
                f"The run `{task.name}` was made with {_options(made, names)}, and the spec now says"
                f" {_options(task.recipe, names)}: put that back, or give the entry `{task.entry}` another name."
            )
    return sweep


def _options(recipe: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {recipe[name]}" if name in recipe else f"no {name}" for name in names)


def _drive(
    spec: Spec,
    journal: Journal,
    engine: Engine,
    store: Store | None,
    stop: Callable[[], bool],
    tick: Callable[[Sweep], object],
) -> None:
    sweep, tasks, given = journal.sweep, {task.name: task for task in spec.tasks}, dict[str, int]()
    for task in spec.tasks:
        engine.check(task)
    lost, numbers = dict.fromkeys(tasks, 0), dict[Path, int]()
    stopping, environment = False, shared_environment()
    while True:
        if not stopping and stop():
            stopping = True
            engine.stop()
        for name, task in () if stopping else tasks.items():
            if sweep.tasks[name].state not in ("waiting", "lost") or name in given:
                continue
            if store is not None and any(tasks[other].run == task.run for other in given):
                continue  # with a store, only one task at a time continues a run
            needs = {each: sweep.tasks[each].state for each in task.needs}
            broken = next((each for each, state in needs.items() if state in BROKEN), None)
            if broken is not None:
                journal.write("end", task=name, state="skipped", message=f"It needs `{broken}`, which is not finished.")
            elif engine.has_room() and set(needs.values()) <= {"finished"}:
                given[name] = sweep.tasks[name].attempt + 1
                journal.write("submit", task=name, attempt=given[name])
                order = Order(task, given[name], spec.out / SWEEP, Path.cwd(), with_threads(environment, task))
                if store is not None:
                    numbers[task.run] = max(numbers.get(task.run, 0), store.newest(task.run)) + 1
                    order = replace(order, store=store, number=numbers[task.run])
                engine.start(order)
        for name, node in engine.begun().items():
            if name in given:
                journal.write("start", task=name, node=node)
        for name, step in engine.steps().items():
            sweep.tasks[name].step = step
        for ended in engine.poll():
            del given[ended.task]
            state, message = ended.state, ended.message
            if sweep.tasks[ended.task].state != "running":  # it ended before its start was seen
                journal.write("start", task=ended.task, node=ended.node)
            if ended.answer:  # it may have run on another machine
                write_atomic(answer_file(sweep.folder, ended.task), ended.answer.encode())
            if state == "lost":
                lost[ended.task] += 1
                if lost[ended.task] > tasks[ended.task].retries:
                    state, message = "failed", f"It was lost {lost[ended.task]} times. {message}"
            journal.write("end", task=ended.task, state=state, message=message)
        tick(sweep)
        if not given and (stopping or not sweep.count("waiting", "lost")):
            return
        time.sleep(POLL_S)


def _look(task: Task, sweep: Sweep, journal: Journal, store: Store | None) -> None:
    """Update a task's state from the disk: a run may have been finished or deleted since the journal was written."""
    state = sweep.tasks[task.name]
    if task.kind != "train":
        if state.state == "finished" and any(sweep.tasks[name].state != "finished" for name in task.needs):
            state.state = "waiting"  # the run that it measures is trained again
        return
    done = is_run(task.run) and Run(task.run).status == "finished"
    if done and state.state != "finished":
        journal.write("end", task=task.name, state="finished")
    elif not done and state.state == "finished" and store is None:  # with a store it may be on another machine
        state.state = "waiting"
