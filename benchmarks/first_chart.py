"""Seconds until the first chart of a page in Chromium, compared with a minimal Streamlit page with one chart.

Times are from opening the address to the drawn chart: on a server that has just started, then with a new browser
profile (nothing cached), and at that profile's second visit. The two servers take turns.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

from benchmarks.harness import Row, summary
from dashboard.command import free_port
from probe.plotting.export import find_browser
from tests.browser.conftest import FLAGS, PATIENCE_S, Server

SAMPLES = Path(__file__).resolve().parent.parent / "sample_runs"
BARE = """
import plotly.graph_objects as go
import streamlit as st

st.plotly_chart(go.Figure(go.Scatter(y=[1, 3, 2])))
"""
PAGES = {"Start": "", "Side by side": "compare?base=base&aligned=dpo-agreeable", "Runs": "overview"}
REPEATS, STARTS = 9, 3
TARGET = "<= 1.3"


def run() -> tuple[list[Row], list[str]]:
    """Measure a row for each page and state; on a busy machine only the ratios are meaningful."""
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        runs = Path(shutil.copytree(SAMPLES, Path(folder) / "runs"))
        script = Path(folder) / "bare.py"
        script.write_text(BARE)
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        rows = []
        for name, path in PAGES.items():
            times = []
            for _ in range(STARTS):
                with bare(script) as simple, probe(runs) as ours:
                    times.append((visits(browser, simple, 1)[0], visits(browser, f"{ours}/{path}", 1)[0]))
            rows.append(row(name, "server just started", times))
        with bare(script) as simple, probe(runs) as ours:
            for name, path in PAGES.items():
                visits(browser, f"{ours}/{path}", 1)  # loads the models
                pairs = [(visits(browser, simple, 2), visits(browser, f"{ours}/{path}", 2)) for _ in range(REPEATS)]
                for index, state in enumerate(("fresh profile", "second visit")):
                    rows.append(row(name, state, [(a[index], b[index]) for a, b in pairs]))
        browser.close()
    return rows, []


def row(name: str, state: str, times: list[tuple[float, float]]) -> Row:
    """Measure pairs of seconds, of the minimal page and of Probe's."""
    return summary(f"first chart of {name}, {state}", "bare Streamlit", "Probe", times, TARGET)


def visits(browser: Browser, url: str, count: int) -> list[float]:
    """Measure the seconds to a drawn chart for the visits of one new profile."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    times = []
    for _ in range(count):
        page = context.new_page()
        start = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=1000 * PATIENCE_S)
        times.append(time.perf_counter() - start)
        page.close()
    context.close()
    return times


@contextmanager
def probe(runs: Path) -> Iterator[str]:
    """Run the dashboard, and yield its address."""
    server = Server(runs)
    try:
        yield server.url
    finally:
        server.stop()


@contextmanager
def bare(script: Path) -> Iterator[str]:
    """Run a Streamlit app, and yield its address."""
    port = free_port(0)
    options = {"server.port": port, "server.address": "127.0.0.1", "server.headless": True, "logger.level": "error"}
    options |= {"server.fileWatcherType": "none", "browser.gatherUsageStats": False}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "streamlit", "run", str(script), *words]
    process = subprocess.Popen(command, cwd=script.parent, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
