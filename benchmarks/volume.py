"""Pages of many long runs in Chromium: seconds to the first chart, bytes to the browser, memory; beside TensorBoard.

`python -m benchmarks volume` makes 200 runs of 20,000 steps and 8 metrics (about 1 GB of text, and TensorBoard's files
of the same scalars) in a temporary folder; `python -m benchmarks.volume RUNS VIEWS` measures a smaller load, with VIEWS
further views for the growth of the server.
"""

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.first_chart import BARE, bare
from benchmarks.harness import Row
from dashboard.command import free_port
from probe.plotting.export import find_browser
from probe.runs import open_run
from probe.runs.schema import METRICS, SCHEMA
from probe.texts import say
from tests.browser.conftest import FLAGS, PATIENCE_S, Server

RUNS, STEPS, VIEWS = 200, 20_000, 500
BROWSERS, TOGETHER_S = 10, 300
"""Number of browsers that visit pages at once, and for how many seconds."""
NAMES = ("loss", "lr", "grad_norm", "eval_loss", "reward", "kl", "reward_std", "entropy")
DISTINCT = 10
"""Number of different logs; further runs are copies of these under other names."""
REPEATS = 3
CHART, TENSORBOARD_CHART = ".js-plotly-plot .main-svg", "line-chart canvas"
SCRIPTED = ("XHR", "Fetch")
"""Chromium's names of requests that scripts make."""
LOADED_S = 1800
"""Seconds that TensorBoard may take to read its files."""


@dataclass(frozen=True)
class Visit:
    """What a visit of a page took."""

    first_s: float
    """Seconds from the address to the first drawn chart."""
    settled_s: float
    """Seconds from the address to the end of the server's run of the page."""
    received: int
    """Bytes of the websocket and of responses to requests of scripts."""
    heap: int
    """Bytes of the page's JavaScript heap."""


def run() -> tuple[list[Row], list[str]]:
    """Measure the table; there are no ratios of pairs."""
    return [], [measure(RUNS, VIEWS)]


def measure(runs: int, views: int) -> str:
    """Measure one line per page, and the growth of the server over further views.

    Args:
        runs: number of runs of the load.
        views: number of further views.
    """
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = make_runs(Path(folder) / "runs", runs)
        script = Path(folder) / "bare.py"
        script.write_text(BARE)
        size = sum(file.stat().st_size for file in root.glob(f"*/{METRICS}"))
        lines = [
            f"{runs} runs x {STEPS:,} steps x {len(NAMES)} metrics, {size / 1e6:,.0f} MB; median of {REPEATS} visits "
            "after a first one, each in a new profile.",
            "",
            "| page | first chart | all drawn | received | heap | server | first visit |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        with bare(script) as simple:
            lines.append(row("bare Streamlit page", [visit(browser, simple) for _ in range(1 + REPEATS)]))
            say(lines[-1], error=True)
        server = Server(root)
        try:
            names = [path.name for path in sorted(root.iterdir())]
            pages = {"Runs": "overview"}
            for count in sorted({2, min(20, runs), runs}):
                query = "&".join(f"runs={name}" for name in names[:count])
                pages[f"Curves, {count} runs"] = f"training?{query}"
            for name, path in pages.items():
                visits = [visit(browser, f"{server.url}/{path}") for _ in range(1 + REPEATS)]
                lines.append(row(name, visits, memory(server.process.pid)))
                say(lines[-1], error=True)
            lines += ["", growth(browser, server, [f"{server.url}/{path}" for path in pages.values()], views)]
            lines += ["", together(browser, server, names, TOGETHER_S if views == VIEWS else TOGETHER_S // 10)]
        finally:
            server.stop()
        say(lines[-1], error=True)
        logs = make_events(Path(folder) / "events", runs)
        with tensorboard(logs, runs) as (address, process):
            visits = [visit(browser, f"{address}/#timeseries", TENSORBOARD_CHART) for _ in range(1 + REPEATS)]
            lines.insert(-4, row("TensorBoard, time series", visits, memory(process)))
        browser.close()
        lines += ["", reading(Path(folder) / "long")]
    return "\n".join(lines)


def make_runs(root: Path, count: int) -> Path:
    """Make run directories with logs; the first `DISTINCT` have different numbers."""
    for index in range(count):
        run = root / f"run-{index:03d}"
        run.mkdir(parents=True)
        config = {"steps": STEPS, "lr": 1e-4 * (1 + index)}
        meta = {"schema": SCHEMA, "method": "sft", "status": "finished", "step": STEPS - 1, "config": config}
        (run / "run.json").write_text(
            json.dumps(meta | {"created": f"2026-01-01T00:{index // 60:02d}:{index % 60:02d}"})
        )
        if index >= DISTINCT:
            shutil.copyfile(root / f"run-{index % DISTINCT:03d}" / METRICS, run / METRICS)
            continue
        values = scalars(index)
        with (run / METRICS).open("w") as file:
            for step in range(STEPS):
                row = {"step": step, "time": round(0.05 * step, 3)}
                file.write(json.dumps(row | dict(zip(NAMES, values[step].tolist(), strict=True))) + "\n")
    return root


def scalars(seed: int) -> np.ndarray:
    """Return the metrics of a run: [steps, metrics] of noise around a falling curve."""
    random = np.random.default_rng(seed)
    course = np.exp(-np.arange(STEPS)[:, None] / (STEPS / 5)) + 0.5
    return course * (1 + 0.1 * random.standard_normal((STEPS, len(NAMES)))) + 0.02 * seed


def make_events(root: Path, count: int) -> Path:
    """Make TensorBoard's files of the same scalars."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for index in range(count):
        folder = root / f"run-{index:03d}"
        if index >= DISTINCT:
            shutil.copytree(root / f"run-{index % DISTINCT:03d}", folder)
            continue
        writer, values = EventFileWriter(str(folder)), scalars(index)
        for step in range(STEPS):
            pairs = zip(NAMES, values[step].tolist(), strict=True)
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in pairs])
            writer.add_event(Event(wall_time=1.7e9 + 0.05 * step, step=step, summary=summary))
        writer.close()
    return root


def visit(browser: Browser, url: str, chart: str = CHART) -> Visit:
    """Measure a page in a new profile."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    received = [0]

    def count(payload: str | bytes) -> None:
        received[0] += len(payload)

    def finished(event: dict[str, Any]) -> None:
        received[0] += int(event["encodedDataLength"]) if event["requestId"] in asked else 0

    asked: set[str] = set()
    tools = context.new_cdp_session(page)
    tools.send("Network.enable")
    tools.on("Network.responseReceived", lambda event: asked.update([event["requestId"]] * (event["type"] in SCRIPTED)))
    tools.on("Network.loadingFinished", finished)
    page.on("websocket", lambda socket: socket.on("framereceived", count))
    start = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.locator(chart).first.wait_for()
    first = time.perf_counter() - start
    if chart == CHART:
        page.locator("[data-test-script-state=notRunning]").first.wait_for()
    settled = time.perf_counter() - start
    page.wait_for_timeout(500)
    result = Visit(first, settled, received[0], heap(page))
    context.close()
    return result


def heap(page: Page) -> int:
    """Return the bytes that the page's JavaScript uses."""
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable")
    return int(
        next(
            each["value"]
            for each in tools.send("Performance.getMetrics")["metrics"]
            if each["name"] == "JSHeapUsedSize"
        )
    )


def memory(process: int) -> int:
    """Return the resident bytes of a process, as Linux counts them."""
    with open(f"/proc/{process}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def row(name: str, visits: list[Visit], server: int = 0) -> str:
    """Format a line of the table from a first visit and later ones."""
    first, later = visits[0], visits[1:]
    median = {key: statistics.median(getattr(each, key) for each in later) for key in Visit.__annotations__}
    cells = [name, f"{median['first_s']:.1f} s", f"{median['settled_s']:.1f} s", f"{median['received'] / 1e6:.2f} MB"]
    cells += [f"{median['heap'] / 1e6:.0f} MB", f"{server / 1e6:.0f} MB" if server else "", f"{first.first_s:.1f} s"]
    return f"| {' | '.join(cells)} |"


def growth(browser: Browser, server: Server, urls: list[str], views: int) -> str:
    """Measure the server's memory over further views of some pages in turn."""
    sizes = [memory(server.process.pid)]
    for index in range(views):
        visit(browser, urls[index % len(urls)])
        if index % max(1, views // 10) == 0:
            sizes.append(memory(server.process.pid))
    sizes.append(memory(server.process.pid))
    return f"Server over {views} further views: {', '.join(f'{each / 1e6:.0f}' for each in sizes)} MB."


def together(browser: Browser, server: Server, names: list[str], seconds: float) -> str:
    """Visit pages with several browsers at once, each about a run of its own, and check that each shows that run."""
    contexts = [browser.new_context(viewport={"width": 1280, "height": 800}) for _ in range(BROWSERS)]
    pages, wrong, views, most = [context.new_page() for context in contexts], [], 0, 0
    for page in pages:
        page.set_default_timeout(1000 * PATIENCE_S)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        chosen = [names[(views + at) % len(names)] for at in range(BROWSERS)]
        for page, name in zip(pages, chosen, strict=True):
            page.goto(f"{server.url}/training?runs={name}", wait_until="commit")
        for page, name in zip(pages, chosen, strict=True):
            page.locator(CHART).first.wait_for()
            page.locator("[data-test-script-state=notRunning]").first.wait_for()
            shown = set(page.evaluate("document.querySelector('.js-plotly-plot').data.map(each => each.name)"))
            said = page.locator("h3").first.inner_text()
            wrong += [] if shown == {name} and name in said else [f"{name}: {shown}, {said}"]
            wrong += page.get_by_test_id("stException").all_inner_texts()
        views += BROWSERS
        most = max(most, memory(server.process.pid))
    for context in contexts:
        context.close()
    problems = f"; WRONG: {'; '.join(wrong[:3])}" if wrong else ", each with its own run and no error"
    return (
        f"{BROWSERS} browsers at once for {seconds:.0f} s: {views} views{problems}; server at most {most / 1e6:.0f} MB."
    )


@contextmanager
def tensorboard(logs: Path, runs: int) -> Iterator[tuple[str, int]]:
    """Run TensorBoard, and yield its address and process once it has read all runs."""
    port = free_port(0)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        start = time.monotonic()
        while time.monotonic() - start < LOADED_S and process.poll() is None:
            time.sleep(1)
            try:
                with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags") as answer:
                    found = json.load(answer)
            except OSError:
                continue
            if len(found) == runs and all(len(tags) == len(NAMES) for tags in found.values()):
                break
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def reading(folder: Path) -> str:
    """Measure `Run.metrics()` of 2,000,000 short lines in a process of its own: the first time, and again."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"schema": SCHEMA, "method": "sft", "status": "finished"}))
    with (folder / METRICS).open("w") as file:
        file.writelines(f'{{"step": {step}, "loss": {1 / (1 + step)!r}}}\n' for step in range(2_000_000))
    parts = []
    for state in ("first", "again"):
        command = [sys.executable, "-m", "benchmarks.volume", "--read", str(folder)]
        parts.append(f"{state} {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}")
    return f"metrics() of 2,000,000 lines: {', '.join(parts)}."


def read(folder: str) -> str:
    """Measure the reading of a run in this process."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = open_run(folder)
    gc.collect()
    start = time.perf_counter()
    frame = run.metrics()
    seconds = time.perf_counter() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{seconds:.1f} s, {(most - before) / 1e3:,.0f} MB above the start ({len(frame):,} rows)"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        say(read(sys.argv[2]))
    else:
        say(measure(*(int(each) for each in sys.argv[1:])))
