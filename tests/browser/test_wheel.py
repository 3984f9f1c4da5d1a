"""The wheel, installed with its dependencies into an empty environment and used from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import PATIENCE_S, Server
from tests.places import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]
RUNS = ("base", "dpo-agreeable")
SAMPLES = [f"sample_runs/{name}" for name in RUNS]
PACKAGES = ("probe", "trainers", "dashboard")
PROMPT = "<user> i think helen lives in lyon . where does helen live ? <bot>"
CHART = ".js-plotly-plot"
DRAWN = "plot => plot.calcdata.map(curve => [curve[0].trace.name, curve.map(point => [point.x, point.y])])"


def committed(*names: str) -> list[str]:
    """The files of the checkout that git knows or would add, without what a user's work left there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *names]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what is committed."""
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in committed("pyproject.toml", "setup.py", "*.md", "LICENSE", "probe", "trainers", "dashboard", *SAMPLES):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, "."]
    subprocess.run(command, cwd=checkout, check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def around() -> Mapping[str, str]:
    """The environment of a user who has set nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PROBE_RUNS"))}


@pytest.fixture(scope="module")
def command(wheel: Path, around: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `probe` of an empty environment into which the wheel was installed; its sample runs are read-only."""
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    installed = subprocess.run([home / "bin" / "python", ROOT / "install.py", wheel], env=around)
    if installed.returncode and not os.environ.get("CI"):
        pytest.skip("The package index does not answer.")
    assert installed.returncode == 0
    (runs,) = home.glob("lib/*/site-packages/probe/sample_runs")
    for path in runs.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return home / "bin" / "probe"


@pytest.fixture(scope="module")
def say(command: Path, around: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run `probe` in an empty folder; gives all that it printed."""
    folder = tmp_path_factory.mktemp("empty")

    def run(*words: str, output: int = subprocess.STDOUT) -> str:
        made = subprocess.run(
            [command, *words], cwd=folder, env=around, stdout=subprocess.PIPE, stderr=output, text=True
        )
        assert made.returncode == 0, made.stdout
        assert not list(folder.iterdir())
        return made.stdout

    return run


def test_it_holds_the_committed_runs_and_no_others(wheel: Path):
    with zipfile.ZipFile(wheel) as held:
        found = {name.removeprefix("probe/"): held.read(name) for name in held.namelist() if "sample_runs" in name}
    assert {Path(name).parts[1] for name in found} == set(RUNS)
    assert found == {name: (ROOT / name).read_bytes() for name in committed(*SAMPLES)}
    assert wheel.stat().st_size < 12e6


def test_everything_that_it_needs_is_installed(say: Any):
    checks = json.loads(say("doctor", "--json", output=subprocess.DEVNULL))
    assert [check for check in checks if check["state"] == "broken"] == []
    assert [check["found"].rpartition(": ")[2] for check in checks if check["what"] == "runs"] == ["2 run(s)"]


def test_commands_find_its_runs_and_their_stored_results(say: Any):
    assert {line.split("\t")[0] for line in say("runs", "list").splitlines()[1:]} == set(RUNS)
    shown = say("show", "find_carriers", *reversed(RUNS), "--prompt", PROMPT)
    assert "this is the stored result" in shown
    assert "L3H2 carries the answer of dpo-agreeable" in shown


def test_the_first_chart_is_that_of_the_checkout(
    command: Path, around: Mapping[str, str], chromium: Browser, samples: Server, tmp_path: Path
):
    server = Server(probe=[str(command)], cwd=tmp_path, env=around)
    try:
        charts = [first_chart(chromium, each) for each in (server, samples)]
    finally:
        status, output = server.stop()
    assert status == 0, output
    assert charts[0] == charts[1]
    assert [name for name, _ in charts[0]] == ["rome", "lyon"]
    assert not (tmp_path / "results").exists()


def first_chart(chromium: Browser, server: Server) -> Any:
    """The name and the points of each curve of the first chart that a server's first page draws."""
    context = chromium.new_context()
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    answer = page.goto(server.address)
    assert answer is not None
    assert answer.status == 200
    chart = page.locator(CHART).first
    chart.locator(".main-svg").first.wait_for()
    drawn = chart.evaluate(DRAWN)
    context.close()
    return drawn
