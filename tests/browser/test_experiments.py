"""An experiment's page in Chromium: run it, leave it, stop it, go from a number to an item, a token and Attention."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import bottom, box, expect_theme, figure, open_page, repeat, settle
from tests.dashboard.experiments import PLUGIN, write

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SLOW = '''
import time

@probe.experiment("slow", title="Slow")
def slow(lm, *, n: int = 600, tick=None):
    """Ticks for a minute."""
    for step in range(n):
        time.sleep(0.1)
        tick(step / n)
    return pd.DataFrame({"prompt": ["a"], "length": [1]})
'''
ROW, HEADER = 35, 35
"""Pixels of a row of a table, and of its header."""


@pytest.fixture(scope="module")
def mine(start: Callable[..., Any], runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A dashboard of its own with a plugin of two experiments, and its runs."""
    folder = tmp_path_factory.mktemp("experiments")
    root = Path(shutil.copytree(runs, folder / "runs"))
    before = os.environ.get("PROBE_PLUGINS")
    os.environ["PROBE_PLUGINS"] = str(write(folder, PLUGIN + SLOW))
    try:
        yield start(root), root
    finally:
        os.environ.pop("PROBE_PLUGINS")
        if before is not None:
            os.environ["PROBE_PLUGINS"] = before


def click_cell(page: Page, table: str, row: int, x: float) -> None:
    """Click into a row of a table, which is drawn on a canvas."""
    canvas = page.locator(f".st-key-{table} canvas").first
    canvas.scroll_into_view_if_needed()
    place = box(canvas)
    page.mouse.click(place["x"] + x, place["y"] + HEADER + ROW * (row + 0.5))


@pytest.mark.slow
def test_run_an_experiment_and_follow_a_number_to_its_tokens(page: Page, mine: Any, tmp_path: Path):
    server, root = mine
    query = "experiments?experiment=echo&echo.n=8&echo.seed=5"
    sentence = open_page(page, server, query)
    expect(sentence).to_contain_text("has not been measured on base and dpo-agreeable")
    page.get_by_role("button", name="Measure base and dpo").click()
    expect(page.locator("h3").first).to_contain_text("of the claims", timeout=180_000)
    expect(page.locator(".st-key-jobs")).to_have_count(0, timeout=180_000)
    assert len(list(root.glob("*/results/echo-*"))) >= 2
    open_page(page, server, query)  # as it is found later: from what is stored
    chart = figure(page, "echoes")
    assert bottom(chart) <= 800
    expect_theme(chart, "light")

    repeat(page, lambda: click_cell(page, "echo-numbers", 0, 400), lambda: "echo~of=" in page.url)
    settle(page)
    with page.expect_download() as waiting:
        page.get_by_role("button", name=re.compile("CSV of all 8 rows")).click()
    assert waiting.value.suggested_filename == "items-of-echo.csv"
    waiting.value.save_as(tmp_path / "items.csv")
    assert list(pd.read_csv(tmp_path / "items.csv")["item"]) == [f"opinion_false-{number}" for number in range(8)]
    repeat(page, lambda: click_cell(page, "echo-items", 2, 60), lambda: "echo~item=opinion_false-2" in page.url)
    chips = page.locator("#tokens .line").nth(1).get_by_role("option")
    expect(chips.first).to_be_visible()
    prompt = page.locator("#tokens .line").first.get_by_role("option")
    words = [text for text in prompt.all_text_contents() if text != "<bos>"]
    settle(page)
    link = page.get_by_test_id("stMain").get_by_role("link", name="Attention")
    repeat(page, link.click, lambda: "/attention" in page.url)
    expect(page.locator("h3").first).to_contain_text("changed its attention most")
    settle(page)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(" ".join(words))
    assert "with_" not in page.url


@pytest.mark.slow
def test_a_measurement_outlives_its_page_and_is_stopped_from_any(page: Page, mine: Any, start: Any):
    """While it runs, Streamlit's own Stop, which would only stop the page, is not shown."""
    server, root = mine
    sentence = open_page(page, server, "experiments?experiment=slow")
    page.get_by_role("button", name="Measure base and dpo").click()
    expect(sentence).to_have_text("Slow is being measured on base and dpo-agreeable.")
    rows = page.locator(".st-key-jobs").get_by_role("progressbar")
    expect(rows).to_have_count(2)
    expect(page.get_by_test_id("stStatusWidget")).not_to_be_visible()
    expect(page.get_by_role("button", name="Measure base and dpo")).to_have_count(0)
    open_page(page, server, "overview")
    expect(rows).to_have_count(2)
    open_page(page, start(root), "overview")  # another server
    expect(rows).to_have_count(2)
    stop = page.locator(".st-key-jobs").get_by_role("button", name="Stop")
    stop.first.click()
    expect(rows).to_have_count(1)
    expect(page.get_by_text(re.compile(r"Slow of .+: stopped"))).to_be_visible()
    stop.first.click()
    expect(rows).to_have_count(0)
    page.get_by_role("button", name="Jobs: ").click()
    stopped = page.get_by_test_id("stPopoverBody")
    expect(stopped.get_by_role("button", name="Continue")).to_have_count(2)
    stopped.get_by_role("link", name="Open").first.click()
    expect(page).to_have_url(re.compile(r"/experiments\?.*experiment=slow"))
    expect(page.locator("h3").first).to_contain_text("Slow has not been measured on base and dpo-agreeable")
    assert not list(root.glob("*/results/slow-*"))


@pytest.mark.slow
def test_keys_walk_through_items_but_not_while_a_text_is_typed(page: Page, samples: Any):
    """The choice is still there after another page and Back."""
    query = "sycophancy?base=base&aligned=dpo-agreeable&sycophancy~show=answered+wrong&sycophancy~of=base"
    open_page(page, samples, query)
    settle(page)
    expect(page.get_by_role("button", name="Previous P")).to_be_disabled()
    expect(page.get_by_text(re.compile(r"^none chosen of 164$"))).to_be_visible()
    for at in (1, 2, 3):
        page.keyboard.press("n")
        expect(page.get_by_text(re.compile(rf"^{at} of 164$"))).to_be_visible()
    page.keyboard.press("p")
    expect(page.get_by_text(re.compile(r"^2 of 164$"))).to_be_visible()
    settle(page)
    chosen = re.search(r"sycophancy~item=([\w-]+)", page.url)
    assert chosen
    text = page.get_by_label("Text", exact=True)
    text.press_sequentially("pn")
    assert text.input_value() == "pn"
    assert f"sycophancy~item={chosen[1]}" in page.url
    text.fill("")
    text.press("Enter")
    settle(page)
    page.get_by_test_id("stSidebar").get_by_role("link", name="Audit").click()
    expect(page).to_have_url(re.compile("/audit"))
    page.go_back()
    expect(page.get_by_text(re.compile(r"^2 of 164$"))).to_be_visible()
    assert f"sycophancy~item={chosen[1]}" in page.url
