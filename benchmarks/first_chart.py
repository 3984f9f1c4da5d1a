"""Seconds until the first chart of a page in Chromium, compared with a minimal Streamlit page with one chart.

Times are from opening the address to the drawn chart: on a server that has just started, then with a new browser
profile (nothing cached), and at that profile's second visit. The two servers take turns. Pages of SmolLM2-135M-Instruct
and an adapter (`make real-model` downloads the base; without it their rows are missing) are opened `READY_S` after the
start of a server, which imports the libraries for models meanwhile, and again by a second profile.
"""

import os
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
from benchmarks.pages import CHECKPOINT
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
REAL = "base=SmolLM2-135M-Instruct&aligned=real-agreeable"
DEEP = {
    "Side by side": "compare",
    "Attention": "attention",
    "Logits": "logits",
    "Interventions": "interventions",
    "Autoregression": "autoregression",
}
"""Pages of the real pair."""
REPEATS, STARTS, READY_S = 9, 3, 8
TARGET, REAL_TARGET = "<= 1.3", "8 s, then 2 s"


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
        rows += real_rows(browser, script) if CHECKPOINT.is_dir() else []
        browser.close()
    return rows, []


def real_rows(browser: Browser, script: Path) -> list[Row]:
    """Measure the pages of the real pair, on the first visit and on the second, each on servers of its own."""
    os.environ["PROBE_MODELS"] = str(CHECKPOINT.parent)
    rows = []
    for name, path in DEEP.items():
        times = []
        for _ in range(STARTS):
            with bare(script) as simple, probe(SAMPLES) as ours:
                time.sleep(READY_S)
                times.append(
                    [(visits(browser, simple, 1)[0], visits(browser, f"{ours}/{path}?{REAL}", 1)[0]) for _ in range(2)]
                )
        for state, pairs in zip(("first visit", "second visit"), zip(*times, strict=True), strict=True):
            rows.append(row(f"{name} of a real pair", state, list(pairs), REAL_TARGET))
    return rows


def row(name: str, state: str, times: list[tuple[float, float]], target: str = TARGET) -> Row:
    """Measure pairs of seconds, of the minimal page and of Probe's."""
    return summary(f"first chart of {name}, {state}", "bare Streamlit", "Probe", times, target)


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
