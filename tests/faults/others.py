"""Sweeps, audits, uploads and exports under faults: done again, they come to what they come to without."""

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from probe.cli import dispatch
from probe.errors import RunError
from probe.runs import open_run
from probe.runs.store.remote import download, upload
from probe.sweep import read_sweep
from probe.sweep.journal import is_sweep
from tests.faults.trainings import look_at_run
from tests.faults.wire import Wire
from tests.runs.stores import tree
from tests.trainers.written import same, without_events

KILLED = ("killed", "killed at a time", "killed in a write", "killed twice")


def command(folder: Path, *words: str) -> None:
    """Run a command of Probe in a folder."""
    with chdir(folder):
        status = dispatch(words)
    if status:
        raise RunError(f"The command {words[0]} ended with {status}.")


class Export:
    """The figures of a run as files."""

    name = "export"
    kinds = (*KILLED, "disk full", "read-only")
    empty, wire = True, None

    def __init__(self, run: Path) -> None:
        self._run = run

    def place(self, folder: Path) -> Path:
        """Return the folder of the figures."""
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "figures"

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the command."""
        words = ("export", str(self._run), "--format", "html,csv,tex", "--out", str(place))
        return command, (place.parent, *words)

    def look(self, place: Path) -> None:
        """Check that each file that is in sight has its end."""
        for path in place.glob("[!.]*"):
            text = path.read_text()
            match path.suffix:
                case ".html":
                    assert text.endswith("</html>"), f"{path.name} is cut off"
                case ".json":
                    json.loads(text)
                case ".csv":
                    header, *rows = text.splitlines()
                    assert text.endswith("\n"), f"{path.name} is cut off"
                    assert rows or header
                case ".tex":
                    assert re.search(r"\\end\{\w+\}\n$", text), f"{path.name} is cut off"

    def compare(self, place: Path, whole: Path) -> None:
        """Compare names, and the contents of tables."""
        assert {path.name for path in place.glob("[!.]*")} == {path.name for path in whole.glob("[!.]*")}
        for path in whole.glob("*.csv"):
            assert path.read_bytes() == (place / path.name).read_bytes(), path.name
        self.look(place)


class Report:
    """The report of a run as one file, over an older one."""

    name = "report"
    kinds = (*KILLED, "disk full", "read-only")
    empty, wire = True, None

    def __init__(self, run: Path) -> None:
        self._run = run

    def place(self, folder: Path) -> Path:
        """Return the folder of the report."""
        (folder / "reports").mkdir(parents=True, exist_ok=True)
        return folder / "reports"

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the command."""
        return command, (place, "report", str(self._run), "--out", str(place / "report.html"))

    def look(self, place: Path) -> None:
        """Check that there is the whole report or none."""
        for path in place.glob("[!.]*"):
            assert path.name == "report.html"
            assert path.read_text().rstrip().endswith("</html>")

    def compare(self, place: Path, whole: Path) -> None:
        """Check that the report is there."""
        assert [path.name for path in place.glob("[!.]*")] == ["report.html"]
        self.look(place)


class Audit:
    """An audit of two models, with what it stores."""

    name = "audit"
    kinds = (*KILLED, "disk full", "read-only", "clock backwards")
    empty, wire = False, None

    def __init__(self, base: Path, aligned: Path) -> None:
        self._models = base, aligned

    def place(self, folder: Path) -> Path:
        """Return the working directory, with the two models."""
        if not (folder / "work").exists():
            for name, run in zip("ab", self._models, strict=True):
                shutil.copytree(run, folder / "work" / name)
        return folder / "work"

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the command."""
        return command, (place, "audit", "./a", "./b", "--only", "hallucination", "--n", "40", "--out", "out")

    def look(self, place: Path) -> None:
        """Check that every stored result can be read, and that the audit is there as a whole or not at all."""
        for path in place.rglob("*.json"):
            if "/." not in str(path.relative_to(place)) and not path.name.startswith("."):
                json.loads(path.read_text())

    def compare(self, place: Path, whole: Path) -> None:
        """Compare the numbers of the audit."""
        rows = [json.loads((path / "out" / "audit.json").read_text())["rows"] for path in (place, whole)]
        assert rows[0] == rows[1] != []
        assert (place / "out" / "audit.html").read_text().rstrip().endswith("</html>")


class Upload:
    """A run that is sent to a store which holds an older state of it."""

    empty = False

    def __init__(
        self, name: str, kinds: tuple[str, ...], run: Path, address: Callable[[Path], str], wire: Wire | None = None
    ) -> None:
        self.name, self.kinds, self._run, self._address, self.wire = name, kinds, run, address, wire

    def place(self, folder: Path) -> Path:
        """Return the folder with the run, and with the store if that is a folder."""
        work = folder / "work"
        if not work.exists():
            older = shutil.ignore_patterns("checkpoints", "captures", "rollouts.jsonl")
            shutil.copytree(self._run, work / "run", ignore=older)
            upload(work / "run", self._address(work))
            shutil.copytree(self._run, work / "run", dirs_exist_ok=True)
        return work

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the upload."""
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        return send, (str(place / "run"), self._address(place), environment)

    def look(self, place: Path) -> None:
        """Check that a reader of the store finds the older or the newer state, whole."""
        with TemporaryDirectory() as folder:
            made = download(self._address(place), Path(folder) / "copy")
            newer = tree(place / "run")
            older = {name for name in newer if not name.startswith(("checkpoints/", "captures/", "rollouts"))}
            found = tree(made)
            assert set(found) in (older, set(newer)), "neither the older nor the newer state"
            assert all(found[name] == newer[name] for name in found)

    def compare(self, place: Path, whole: Path) -> None:
        """Check that the newer state is in the store."""
        with TemporaryDirectory() as folder:
            assert tree(download(self._address(place), Path(folder) / "copy")) == tree(place / "run")


def send(run: str, address: str, environment: dict[str, str]) -> None:
    """Upload a run as the second attempt, in a process with other credentials than this one."""
    os.environ.update(environment)
    upload(run, address, attempt=2)


SPEC = """
out = "{out}"
[[train]]
name = "a"
method = "sft"
seeds = [0, 1]
options = {{base = "{base}", {options}}}
[[experiment]]
name = "hallucination"
of = ["a"]
options = {{n = 20}}
"""


class Sweep:
    """A sweep of two trainings and an experiment on each, each task a process of its own."""

    name = "sweep"
    kinds = ("killed at a time", "killed", "killed twice")
    empty, wire = True, None

    def __init__(self, base: Path, options: dict[str, Any]) -> None:
        self._base = base
        self._options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())

    def place(self, folder: Path) -> Path:
        """Return the folder of the sweep, beside its spec."""
        folder.mkdir(parents=True, exist_ok=True)
        spec = SPEC.format(out=folder / "sweep", base=self._base, options=self._options)
        (folder / "spec.toml").write_text(spec)
        return folder / "sweep"

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the command."""
        return command, (place.parent, "sweep", "spec.toml", "--serial")

    def look(self, place: Path) -> None:
        """Read its journal and its runs; there is no run without a journal."""
        if not is_sweep(place):
            assert [*place.glob("[!.]*")] == [], "its journal is gone"
        elif read_sweep(place) is not None:
            for run in place.glob("[!.]*"):
                if (run / "run.json").exists() and open_run(run).status != "running":
                    look_at_run(run, set())

    def compare(self, place: Path, whole: Path) -> None:
        """Compare the files of all runs and the numbers of all experiments.

        A training whose sweep was killed may have ended by itself, as if it were interrupted, with one checkpoint more.
        """
        for run in ("a-seed0", "a-seed1"):
            found, expected = (dict(without_events(folder / run)) for folder in (place, whole))
            saved = {each.name for each in (whole / run / "checkpoints").iterdir()}
            found = {
                name: found[name]
                for name in found
                if name.split("/")[0] != "checkpoints" or name.split("/")[1] in saved
            }
            kept = [{name: one[name] for name in one if not name.startswith("results/")} for one in (found, expected)]
            same(*kept)
            answers = [
                json.loads((folder / f".sweep/logs/hallucination-{run}.json").read_text()) for folder in (place, whole)
            ]
            assert answers[0]["summary"] == answers[1]["summary"]
