"""Starting, stopping, continuing and reordering jobs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

from probe.errors import ConfigError, RunError
from probe.jobs.job import FOLDER, LIVE, LOG, QUEUE, RECORD, STOP, Job, jobs_in, read_job, sign, write
from probe.runs.directories import NAME
from probe.runs.storage import disk, hold_lock, holds
from probe.ticks import JOB

SHARED = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}
"""Environment of processes that share the cores: how long torch's threads wait busily for work (iterations, ms).

By default they do so for so long that two processes on two cores took over three times as long together as one after
the other (docs/jobs.md)."""
_CHILDREN: dict[Path, subprocess.Popen[bytes]] = {}
"""Processes started by this one, by the folder of their job."""
_STARTING = Lock()


def command(words: Sequence[str]) -> list[str]:
    """Return the words that run `probe` with this Python.

    It imports nothing from the working directory, which may contain copied runs.
    """
    return [sys.executable, "-P", "-m", "probe.cli", *words]


def name_of(title: str) -> str:
    """Return the name of a job for its title: the letters that a name can have, at most 80."""
    plain = "-".join(re.findall(r"[\w.+=,@-]+", title.lower())).lstrip(".")[:80]
    return plain or "job"


def start(
    root: Path, name: str, words: Sequence[str], *, title: str = "", link: Mapping[str, str] | None = None
) -> Job:
    """Start a command of Probe as a job; one that runs or waits already is returned, and not started again.

    The job waits until a core is free: each job takes one, and as many run at once as the machine has.

    Args:
        root: folder of runs beside which the job is recorded.
        name: name of the job; an earlier one of this name that has ended is replaced.
        words: words of the command after `probe`.
        title: what the job does, for people; by default its name.
        link: page that shows the result (`page`), and the choices on it.

    Raises:
        ConfigError: the name is invalid, or a job of this name is alive and runs another command.
        RunError: the folder cannot be written, or the process cannot be started.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"`{name}` cannot name a job: use letters, digits and any of . _ - + = , @ and blanks.")
    folder = root / FOLDER / name
    with _STARTING:
        before = read_job(folder)
        if before is not None and before.status in LIVE:
            if before.words == tuple(words):
                return before
            raise ConfigError(f"`{name}` is running already: stop it first, or choose another name.")
        return _launch(folder, list(words), title or name, dict(link or {}), os.getcwd())


def _launch(folder: Path, words: list[str], title: str, link: dict[str, str], directory: str) -> Job:
    if folder.parent.is_symlink():
        raise RunError(f"`{folder.parent}` is a link to another folder, which is not written to: delete the link.")
    job = Job(folder, title, tuple(words), time.time(), directory, link, sign(folder, directory, words))
    record = {"title": title, "words": words, "started": job.started, "directory": directory, "link": link}
    with disk(folder):
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)  # a copied folder may hold anything
        folder.mkdir(parents=True)
        with hold_lock(folder) as handle:
            write(folder / RECORD, record | {"signature": job.signature})
            with (folder / LOG).open("xb") as log:
                child = subprocess.Popen(
                    command(words),
                    cwd=directory,
                    env=SHARED | os.environ | {JOB: str(folder.resolve())},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=() if handle is None else (handle,),  # the lock lives as long as the process
                )
        if handle is not None:
            os.close(handle)
    _CHILDREN[folder.resolve()] = child
    Thread(target=child.wait, daemon=True).start()  # else the system keeps an entry for a process that has ended
    return job


def resume(job: Job) -> Job:
    """Continue a job that was stopped or failed: its command runs again, which goes on from what is stored.

    A training is continued by its run (`probe.jobs.trainings.resume_training`).

    Raises:
        ConfigError: the job is alive, or this user did not start it in this folder.
        RunError: as `start`.
    """
    if not job.is_ours:
        raise ConfigError(f"`{job.name}` was not started here, and a copied command is not run: type it in a terminal.")
    with _STARTING:
        if job.status in LIVE:
            raise ConfigError(f"`{job.name}` is running already: stop it first.")
        return _launch(job.folder, [*job.words], job.title, dict(job.link), job.directory)


def stop(job: Job) -> None:
    """Ask a job to end (SIGINT): what it has done is kept; asked twice, it ends at once.

    Raises:
        RunError: its process cannot be identified with certainty, or is on another machine.
    """
    child = _CHILDREN.get(job.folder.resolve())
    pid = child.pid if child is not None and child.poll() is None else job.progress.pid
    if (child is None or pid != child.pid) and not holds(pid, job.folder):
        raise RunError(f"`{job.name}` cannot be stopped from here: press Ctrl-C where it was started.")
    with suppress(OSError):
        write(job.folder / STOP, {"time": time.time()})
    interrupt(pid, job.name)


def interrupt(pid: int, name: str) -> None:
    """Send SIGINT to a process that is known to be the job's.

    Raises:
        RunError: the signal cannot be sent.
    """
    try:
        os.kill(pid, signal.SIGINT)
    except OSError as error:
        raise RunError(f"`{name}` cannot be stopped ({error.strerror}).") from error


def move(job: Job, places: int) -> None:
    """Move a waiting job by some places among those that wait beside the same runs: -1 is one earlier.

    Raises:
        RunError: the folder cannot be written.
    """
    waiting = sorted((each for each in jobs_in(job.root) if each.status == "waiting"), key=lambda each: each.order)
    names = [each.name for each in waiting]
    if job.name not in names:
        return
    at = names.index(job.name)
    waiting.insert(min(max(at + places, 0), len(waiting) - 1), waiting.pop(at))
    orders = sorted(each.order for each in waiting)
    with disk(job.folder):
        for each, order in zip(waiting, orders, strict=True):
            write(each.folder / QUEUE, {"order": order})


def remove(job: Job) -> None:
    """Forget a job that has ended: its log and its record are deleted, its result stays.

    Raises:
        ConfigError: it is alive, or was copied from elsewhere.
        RunError: the folder cannot be deleted.
    """
    if job.status in LIVE:
        raise ConfigError(f"`{job.name}` is {job.status}: stop it first.")
    if not job.is_ours:
        raise ConfigError(f"`{job.name}` was not started here: delete `{job.folder}` by hand if it is not needed.")
    with disk(job.folder):
        shutil.rmtree(job.folder)
