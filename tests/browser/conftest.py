"""Chromium on the real server: `probe dashboard` as a process of its own, on a small run store."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from probe.plotting.export import find_browser
from tests.dashboard import store
from tests.places import SAMPLES

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--process-per-site",  # pages of one profile share what was compiled of Streamlit's code ...
    "--js-flags=--no-flush-bytecode",  # ... and keep it: a second page costs half the time
]
PATIENCE_S = 120
"""How long anything may take: far more than it does, because a busy machine must not fail a test."""
expect.set_options(timeout=1000 * PATIENCE_S)
Start = Callable[..., str]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the runs `base` and `dpo-agreeable`."""
    return store.build(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Chromium; with CI=true a missing one is a failure."""
    path = find_browser()
    if path is None and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed.")
    assert path, "Chromium is not installed, and CI asks for it: `apt install chromium`."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Server:
    """One `probe dashboard`, and what it printed."""

    def __init__(self, *roots: Path, probe: Sequence[str] = (sys.executable, "-m", "probe.cli"), **place: Any) -> None:
        command = [*probe, "dashboard", "--port", "0", "--no-browser", *(["--runs"] if roots else []), *map(str, roots)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **place)
        assert self.process.stdout
        first = self.process.stdout.readline()
        found = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=[\w-]+", first)
        assert found, first + self.process.stdout.read()
        self.address, self.url = found[0], found[1]
        port = int(self.url.rpartition(":")[2])
        for _ in range(10 * PATIENCE_S):
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.1)

    def admit(self, context: BrowserContext) -> None:
        """Open the printed address, so that the pages of a profile may do more than read."""
        context.request.get(self.address)

    def stop(self) -> tuple[int, str]:
        """Ctrl-C; gives the exit status and what was printed since the start."""
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output


@pytest.fixture(scope="session")
def start(chromium: Browser) -> Iterator[Callable[..., Server]]:
    """Start further servers, which end with the tests; open profiles may do more than read on them."""
    started: list[Server] = []

    def run(*roots: Path) -> Server:
        started.append(Server(*roots))
        for context in chromium.contexts:
            started[-1].admit(context)
        return started[-1]

    run.started = started  # type: ignore[attr-defined]
    yield run
    outputs = [each.stop()[1] for each in running(run)]
    assert not [each for each in outputs if complaints(each)]


def running(start: Any) -> list[Server]:
    """The servers that were started and have not ended."""
    return [each for each in start.started if each.process.poll() is None]


@pytest.fixture(scope="session")
def server(runs: Path, start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A dashboard on the two runs, and on a second root with a hostile one."""
    hostile = tmp_path_factory.mktemp("hostile")
    store.hostile(hostile)
    started = start(runs, hostile)
    yield started
    status, output = started.stop()
    assert not complaints(output), output
    assert status == 0


def complaints(output: str) -> list[str]:
    """What a server printed beside its address: warnings, tracebacks, anything but bars of loading and its goodbye.

    Triton, which a PyTorch for CUDA brings, counts what it leaves behind at the end of Python 3.12.
    """
    lines = [line.rpartition("\r")[2].strip() for line in output.splitlines()]
    usual = r"Loading weights:|Stopping\.\.\.|nanobind:|- (leaked|\.\.\. skipped) |See https://nanobind\."
    return [line for line in lines if line and not re.match(usual, line)]


@pytest.fixture(scope="session")
def samples(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A dashboard on a copy of the sample runs with the results that come with them."""
    return start(shutil.copytree(SAMPLES, tmp_path_factory.mktemp("samples") / "runs"))


@pytest.fixture
def context(chromium: Browser, start: Any) -> Iterator[BrowserContext]:
    """A fresh profile at 1280 x 800 that has opened the printed address of every server."""
    fresh = chromium.new_context(viewport={"width": 1280, "height": 800})
    fresh.set_default_timeout(1000 * PATIENCE_S)
    for each in running(start):
        each.admit(fresh)
    yield fresh
    fresh.close()


@contextmanager
def open_profile(chromium: Browser) -> Iterator[BrowserContext]:
    """Open a profile for several tests: what Chromium has read of Streamlit's code it need not read again.

    Its first page stays open, and with it the process that has compiled the code.
    """
    shared = chromium.new_context(viewport={"width": 1280, "height": 800})
    shared.set_default_timeout(1000 * PATIENCE_S)
    keeping = shared.new_page()
    keeping.route("**", lambda route: route.fulfill(body=""))
    keeping.goto("http://127.0.0.1")
    yield shared
    shared.close()


def leave(profile: BrowserContext, start: Any) -> None:
    """Close the pages of a test, and forget what they stored."""
    tools = profile.new_cdp_session(profile.pages[0])
    for each in running(start):
        tools.send("Storage.clearDataForOrigin", {"origin": each.url, "storageTypes": "local_storage"})
    for each in profile.pages[1:]:
        each.close()


@pytest.fixture(scope="session")
def profile(chromium: Browser, start: Any) -> Iterator[BrowserContext]:
    """The profile that pages share; it has opened the printed address of every server."""
    with open_profile(chromium) as shared:
        for each in running(start):
            each.admit(shared)
        yield shared


@pytest.fixture(scope="session")
def elsewhere(chromium: Browser) -> Iterator[BrowserContext]:
    """The profile of `visitors`."""
    with open_profile(chromium) as shared:
        yield shared


@pytest.fixture
def visitors(elsewhere: BrowserContext, start: Any) -> Iterator[BrowserContext]:
    """A profile of people who got a link: it has opened no printed address, and nothing is stored in it."""
    elsewhere.clear_cookies()
    yield elsewhere
    leave(elsewhere, start)


@pytest.fixture
def page(profile: BrowserContext, server: Server, start: Any) -> Iterator[Page]:
    """A page that may not ask for anything beyond the server, break, or open a dialog; nothing is stored before it."""
    opened = profile.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.on(
        "request",
        lambda request: (
            None if request.url.startswith(("http://127.0.0.1", "data:", "blob:")) else wrong.append(request.url)
        ),
    )
    yield opened
    leave(profile, start)
    assert not wrong
