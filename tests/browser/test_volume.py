"""Long curves in Chromium: few points at first, the reader's part of them in full, and all in what is downloaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from probe.plotting.crowds import MOST_LINES
from probe.plotting.downsampling import POINTS
from tests.browser.conftest import Server
from tests.browser.pages import open_page, settle

pytestmark = pytest.mark.browser
STEPS = 20_000


@pytest.fixture(scope="module")
def long(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A dashboard on more runs than are drawn as lines, of which the first is long."""
    root = tmp_path_factory.mktemp("long")
    for index in range(MOST_LINES + 2):
        run, steps = root / f"run-{index:02d}", 20 if index else STEPS
        run.mkdir()
        meta = {"schema": 1, "method": "sft", "status": "finished", "step": steps - 1, "config": {"lr": index}}
        (run / "run.json").write_text(json.dumps(meta | {"created": f"2026-01-01T00:00:{index:02d}"}))
        values = np.random.default_rng(index).normal(size=steps).tolist()
        lines = [json.dumps({"step": step, "time": step, "loss": values[step]}) + "\n" for step in range(steps)]
        (run / "metrics.jsonl").write_text("".join(lines))
    return start(root)


def places(page: Page, trace: int = 0) -> np.ndarray:
    """Horizontal places of the points of a trace."""
    return np.array(page.evaluate(f"Array.from(document.querySelector('.js-plotly-plot')._fullData[{trace}].x)"))


def test_what_a_reader_zooms_into_is_drawn_in_full(page: Page, long: Server) -> None:
    open_page(page, long, "training?runs=run-00")
    plot = page.locator(".st-key-figure-curves .js-plotly-plot")
    expect(plot.locator(".main-svg").first).to_be_visible()
    assert len(places(page)) <= POINTS
    box = plot.locator(".nsewdrag").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.40 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.43 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_function(f"document.querySelector('.js-plotly-plot')?._fullData?.[0].x.length > {POINTS}")
    settle(page)
    low, high = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.xaxis.range")
    assert 0.38 * STEPS < low < high < 0.46 * STEPS, "the zoom stays"
    x = places(page)
    assert set(range(int(np.ceil(low)), int(high) + 1)) <= set(x.tolist())
    plot.locator(".nsewdrag").first.dblclick()
    page.wait_for_function(f"document.querySelector('.js-plotly-plot')?._fullData?.[0].x.length <= {POINTS}")


def test_what_is_downloaded_has_every_step(page: Page, long: Server, tmp_path: Path) -> None:
    open_page(page, long, "training?runs=run-00")
    page.get_by_test_id("stPopover").filter(has=page.locator(".st-key-downloads-curves")).or_(
        page.locator(".st-key-offer-curves")
    ).first.get_by_role("button").click()
    rows: dict[str, Any] = {}
    for kind in ("CSV", "HTML"):
        with page.expect_download() as got:
            page.get_by_role("button", name=kind, exact=True).click()
        rows[kind] = Path(got.value.path()).read_text()
    assert len([line for line in rows["CSV"].splitlines() if "run-00" in line]) == STEPS
    assert len(rows["HTML"]) > 4 / 3 * 8 * STEPS, "values of eight bytes in base64"


def test_many_runs_are_bands_with_the_chosen_in_front(page: Page, long: Server) -> None:
    names = [f"run-{index:02d}" for index in range(MOST_LINES + 2)]
    open_page(page, long, "training?" + "&".join(f"runs={name}" for name in names) + "&front=run-00&front=run-05")
    drawn = page.evaluate("document.querySelector('.js-plotly-plot').data.map(each => [each.name, each.fill])")
    assert [each[0] for each in drawn if each[1] == "toself"] == [f"{MOST_LINES} runs of sft"] * 2
    assert {"run-00", "run-05"} <= {each[0] for each in drawn}
    expect(page.get_by_text("Bands: 5 to 95 %")).to_be_visible()
    open_page(page, long, "training?" + "&".join(f"runs={name}" for name in names[:MOST_LINES]))
    expect(page.get_by_text("In front", exact=True)).to_have_count(0)
