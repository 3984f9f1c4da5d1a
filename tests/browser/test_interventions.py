"""The Interventions page in Chromium: clicks on the grid, on a token and on a dose choose; the URL keeps the choice."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SLOW_S = 120
PROMPT = "prompt=%3Cuser%3E%20i%20think%20helen%20lives%20in%20lyon%20.%20where%20does%20helen%20live%20%3F%20%3Cbot%3E"


def open_page(page: Page, server: Any, query: str = "") -> Locator:
    """Open the page and wait for its sentence; gives the sentence."""
    page.goto(f"{server.url}/interventions?{PROMPT}{query}")
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
def test_the_sentence_and_both_sides_are_seen_without_scrolling(page: Page, server: Any, scheme: str):
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    sentence = open_page(page, server)
    expect(sentence).to_contain_text("patching")
    for name in ("int-grid", "int-nulls"):
        place = figure(page, name).bounding_box()
        assert place
        assert place["y"] + place["height"] <= 800
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 23)"}[scheme]
    expect(figure(page, "int-grid").locator(".main-svg").first).to_have_css("background-color", paper)


def test_clicks_choose_the_site(page: Page, server: Any):
    sentence = open_page(page, server, "&int_kind=resid")
    marks = figure(page, "int-grid").locator("g.points path")
    expect(marks).to_have_count(3 * 15)
    repeat(
        page, lambda: marks.nth(7).click(force=True), lambda: "int_layer=-1" in page.url and "int_token=7" in page.url
    )
    expect(sentence).to_contain_text("patching the embedding at oslo [7] restores 100 %")
    chip = page.get_by_role("option", name="helen").first
    repeat(page, lambda: chip.click(), lambda: "int_token=4" in page.url)
    expect(sentence).to_contain_text(re.compile(r"at helen \[4\] restores \u22120 %|at helen \[4\] restores 0 %"))


def test_a_click_on_a_dose_chooses_it(page: Page, server: Any):
    sentence = open_page(page, server, "&int_do=steer")
    expect(sentence).to_contain_text("by \u22120.50 after block 0")
    dots = figure(page, "int-dose").locator("g.points path.point")
    repeat(page, lambda: dots.last.click(force=True), lambda: "int_alpha=1" in page.url)
    expect(sentence).to_contain_text("by +1.00 after block 0")
