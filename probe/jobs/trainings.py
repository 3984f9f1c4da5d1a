"""Trainings as jobs: their methods and names, the runs that they write, and those that were started in a terminal."""

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ConfigError, RunError
from probe.jobs import control
from probe.jobs.job import FOLDER, LIVE, Job, is_time, jobs_in, read_job
from probe.options import option
from probe.plugins import OPTION, code_options
from probe.runs.addresses import is_run
from probe.runs.directories import NAME, host_options, is_shipped, roots, run_directories, settings
from probe.runs.directories import find as locate
from probe.runs.reader import Run
from probe.runs.storage import holds
from probe.world.extensions import annotator_name, annotators, verifiers

TRAIN = "train"
"""Command of a training, and its `Job.kind`."""
STATES = {"finished": "finished", "interrupted": "stopped", "running": "running"}
"""State of the job by the status of a run; any other is `failed`."""


def writable_roots() -> list[Path]:
    """Return the folders beside whose runs jobs are recorded: `./runs`, or those of $PROBE_RUNS.

    The sample runs that come with Probe and runs of a store are left out: nothing is written there.
    """
    local = [root for root in roots() if not is_shipped(root)]
    own = [] if settings() and local else [Path.cwd() / "runs"]
    return list(dict.fromkeys([*own, *local]))


def list_jobs(among: Sequence[Path] | None = None) -> list[Job]:
    """List the jobs beside the runs of some folders and the trainings that run in a terminal, the newest first.

    Args:
        among: folders of runs; by default those of `writable_roots`.
    """
    jobs: dict[Path, Job] = {}
    for root in writable_roots() if among is None else among:
        jobs |= {job.folder: job for job in jobs_in(root)}
        for path in run_directories(root) if root.is_dir() else []:
            folder = path.parent / FOLDER / path.name
            run = _read(path)
            if run and run.status == "running" and run.method != "watch" and folder not in jobs:
                words = (TRAIN, run.method, "--out", str(path))
                jobs[folder] = Job(folder, path.name, words, _heard(run))
    return sorted(jobs.values(), key=lambda job: -job.started)


def find_training(out: Path) -> Job | None:
    """Return the last training that was started as a job for a run directory, or None."""
    job = read_job(out.parent / FOLDER / out.name)
    return job if job is not None and job.kind == TRAIN else None


def run_of(job: Job) -> Run | None:
    """Return the run of a training, which has the job's name, if there is one that can be read."""
    return _read(job.root / job.name) if job.kind == TRAIN else None


def status_of(job: Job) -> str:
    """Return the state of a job; of a training that was continued without it, in a terminal, that of its run."""
    run = run_of(job)
    if run is None or (job.status in LIVE and run.status != "running"):
        return job.status
    is_newer = _heard(run) > (job.ended or job.started) or not job.folder.exists()
    return STATES.get(run.status, "failed") if is_newer or run.status == "running" else job.status


def describe_methods() -> list[dict[str, Any]]:
    """Return all methods with their options, from `probe train --describe`; this takes some seconds.

    Raises:
        RunError: the trainers cannot be started.
    """
    line = control.command([TRAIN, "--describe"])
    process = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    if process.returncode:
        last = next(reversed(process.stderr.strip().splitlines()), "no reason given")
        raise RunError(f"The training methods cannot be listed ({last}): try `probe train --help` in a terminal.")
    return json.loads(process.stdout.splitlines()[-1])


def check_name(root: Path, name: str) -> Path:
    """Check the name of a new run, and return its directory.

    Raises:
        ConfigError: the name is invalid or taken.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"`{name}` cannot name a run: use letters, digits and any of . _ - + = , @ and blanks.")
    out = root / name
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`{name}` exists already in `{root}`: choose another name, or continue that run.")
    return out


def start_training(method: str, out: Path, words: Sequence[str], methods: Collection[str]) -> Job:
    """Start `probe train METHOD --out OUT WORDS` as a job.

    Args:
        method: training method.
        out: directory of the run.
        words: further options.
        methods: known methods.

    Raises:
        ConfigError: the method is unknown, or the training is already running.
        RunError: see `probe.jobs.start`.
    """
    if method not in methods:
        raise ConfigError(f"There is no method `{method}` to train `{out.name}` with, only {', '.join(methods)}.")
    job = find_training(out)
    if job and status_of(job) in LIVE:
        raise ConfigError(f"`{out.name}` is being trained already: stop it first, or choose another name.")
    link = {"page": TRAIN, "job": out.name}
    return control.start(
        out.parent, out.name, [TRAIN, method, "--out", str(out), *words], title=f"Train {out.name}", link=link
    )


def resume_training(job: Job, methods: Collection[str], words: Sequence[str] = ()) -> Job:
    """Continue a run from its last checkpoint, by what its directory says.

    Args:
        job: the training.
        methods: known methods.
        words: further options.

    Raises:
        ConfigError: the run names custom code or an address, which only a person can allow, or its method is unknown.
        RunError: there is no run.
    """
    run = run_of(job)
    if run is None:
        raise RunError(f"`{job.name}` cannot be continued: there is no run in `{job.root / job.name}`.")
    if line := line_to_type(run):
        raise ConfigError(
            f"`{job.name}` names code of its own or an address: read the code, or see whether you trust the host,"
            f" then type `{line}`."
        )
    return start_training(run.method, job.root / job.name, ["--resume", *words], methods)


def stop_job(job: Job) -> None:
    """Stop a job; a training that runs without one, in a terminal of this machine, by the lock of its run.

    Raises:
        RunError: see `probe.jobs.stop`.
    """
    run = run_of(job)
    if job.status in LIVE or run is None:
        control.stop(job)
        return
    pid = run.meta.get("pid") if run.status == "running" else None
    if run.meta.get("host") != socket.gethostname() or not holds(pid, run.path):
        raise RunError(f"`{job.name}` cannot be stopped from here: press Ctrl-C where it was started.")
    control.interrupt(int(pid or 0), job.name)


def line_to_type(run: Run) -> str:
    """Return the command that continues a run that names code or an address, since only a person can allow their use.

    The result is empty for a run that names none: a button can continue it.
    """
    named = code_options(run.config) | host_options(run.config)
    words = [word for name, values in named.items() for word in (option(name), *values)]
    if _lacks_extension(run):
        words += [OPTION, "FILE.py"]
    line = ["probe", TRAIN, run.method, "--out", os.path.relpath(run.path), "--resume", *words]
    return shlex.join(line) if words else ""


def _lacks_extension(run: Run) -> bool:
    """Return whether a run uses an annotator or reward of a plugin that this process has not loaded."""
    registry = {*annotators(), *verifiers()}
    annotator, data = run.config.get("annotator"), run.meta.get("data")
    rewards = data.get("rewards") if isinstance(data, dict) else None
    names = [name for name, own in rewards.items() if own] if isinstance(rewards, dict) else []
    judges = [name for name in names if name.replace("-", "_").isidentifier() and not _is_model(name)]
    if isinstance(annotator, str):
        judges.append(annotator_name(annotator))
    return bool({*judges} - registry) if isinstance(annotator, str | None) else False


def _is_model(name: str) -> bool:
    """Return whether a reward is a model on this machine."""
    try:
        return Path(name).expanduser().exists() or bool(locate(name))
    except RunError:
        return False


def _read(path: Path) -> Run | None:
    try:
        return Run(path) if is_run(path) else None
    except RunError:
        return None


def _heard(run: Run) -> float:
    """Return when a run was last written, in seconds since 1970."""
    beat = run.meta.get("heartbeat")
    return float(beat) if is_time(beat) else 0.0
