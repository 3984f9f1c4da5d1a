"""The Attention page in Chromium: heads and queries chosen by clicking, tabs and choices in the URL."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SLOW_S = 120


def open_page(page: Page, server: Any, query: str = "") -> Locator:
    """Open the page and wait for its sentence; gives the sentence."""
    page.goto(f"{server.url}/attention{query}")
    sentence = page.locator("h3").first
    expect(sentence).to_be_visible()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    return sentence


def figure(page: Page, name: str) -> Locator:
    """The chart called `name`, once it is drawn."""
    chart = page.locator(f".st-key-figure-{name} .js-plotly-plot")
    expect(chart.locator(".main-svg").first).to_be_visible()
    return chart


def repeat(page: Page, act: Callable[[], object], holds: Callable[[], bool]) -> None:
    """Do something until it has its effect: a page that is still being drawn moves under the mouse."""
    end = time.monotonic() + SLOW_S
    while True:
        act()
        for _ in range(100):
            if holds():
                return
            page.wait_for_timeout(100)
        assert time.monotonic() < end


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sentence_and_the_mosaic_are_seen_without_scrolling(page: Page, server: Any, scheme: str):
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    sentence = open_page(page, server)
    expect(sentence).to_contain_text("moved most")
    chart = figure(page, "att-heads")
    expect(chart.locator("g.points path")).to_have_count(3 * 4)
    place = chart.bounding_box()
    assert place
    assert place["y"] + place["height"] <= 800
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 23)"}[scheme]
    expect(chart.locator(".main-svg").first).to_have_css("background-color", paper)


def test_clicks_choose_the_head_its_query_and_its_partners(page: Page, server: Any):
    open_page(page, server, "?att_head=L0H0")
    mark = figure(page, "att-heads").locator("g.points").nth(1).locator("path").nth(3)
    repeat(page, lambda: mark.click(force=True), lambda: "att_head=L1H1" in page.url)
    expect(page.get_by_text("L1H1: bilinear, softmax, linear")).to_be_visible()
    cell = figure(page, "att-stages").locator("g.points").first.locator("path").nth(7)
    repeat(page, lambda: cell.click(force=True), lambda: "att_query=3" in page.url)
    bar = figure(page, "att-written").locator("g.point path").nth(5)
    repeat(page, lambda: bar.click(force=True), lambda: "att_query=5" in page.url)
    page.get_by_role("tab", name="What moved").click()
    expect(page).to_have_url(re.compile("att_tab=What"))
    expect(page.get_by_text(re.compile(r"L1H1 is number \d of 4"))).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile(r"L1H1 is number \d of 4"))).to_be_visible()
