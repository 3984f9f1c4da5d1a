"""The text of every figure in Chromium at 1280 pixels: no line lies on another one, and none is cut."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import BOTH, PAGES, TABLES, WITHOUT_FIGURE, agree, box, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
TEXT_BOXES = Path(__file__).with_name("text_boxes.js").read_text()
SLACK = 1
"""Pixels of each side of a text that count for nothing."""


def drawn(page: Page) -> None:
    """Wait until every figure is drawn, in a window that is as high as the page."""
    settle(page)
    agree(page)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": 1280, "height": height + 50})
    expect(page.locator("[data-testid=stSkeleton]:visible")).to_have_count(0)
    expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()
    settle(page)
    page.wait_for_timeout(1000)  # a chart that has just got its width is drawn again


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if name not in WITHOUT_FIGURE])
def test_text_of_figures_is_legible(page: Page, samples: Any, name: str):
    open_page(page, samples, PAGES[name])
    drawn(page)
    wrong = page.evaluate(f"({TEXT_BOXES})({SLACK})")
    tabs = page.get_by_test_id("stMain").get_by_role("tab")
    for tab in range(tabs.count()):
        if tabs.nth(tab).inner_text() in TABLES:
            continue
        page.set_viewport_size({"width": 1280, "height": 800})
        tabs.nth(tab).click()
        expect(tabs.nth(tab)).to_have_attribute("aria-selected", "true")
        drawn(page)
        wrong += page.evaluate(f"({TEXT_BOXES})({SLACK})")
    assert list(dict.fromkeys(wrong)) == []


def test_boxes_that_overlap_or_are_cut_are_found(page: Page, samples: Any):
    """The measure itself: on a figure whose labels were moved."""
    open_page(page, samples, "compare?base=base&aligned=dpo-agreeable")
    drawn(page)
    page.evaluate(
        """() => {
          const [first, second] = document.querySelectorAll(".st-key-figure-kl .xtick text")
          second.setAttribute("transform", first.getAttribute("transform") ?? "")
          second.setAttribute("x", first.getAttribute("x"))
          const title = document.querySelector(".st-key-figure-kl .ytitle")
          title.setAttribute("transform", "translate(-2000, 0)")
        }"""
    )
    wrong = page.evaluate(f"({TEXT_BOXES})({SLACK})")
    assert any("lies on" in each for each in wrong)
    assert any("is cut" in each for each in wrong)


@pytest.mark.parametrize("path", ["overview", f"sycophancy?{BOTH}", f"retrieval?{BOTH}"])
def test_the_table_of_numbers_fits(page: Page, samples: Any, path: str):
    open_page(page, samples, path)
    table = page.get_by_test_id("stMain").get_by_test_id("stDataFrame").first
    expect(table.locator("canvas").first).to_be_visible()
    inner = table.locator(".dvn-scroll-inner > div").first
    scroller = table.locator(".dvn-scroller").first
    assert scroller.evaluate("node => node.scrollWidth - node.clientWidth") <= 1
    assert box(inner)["width"] > 500
    assert not [name for name in table.locator("[role=gridcell]").all_text_contents() if name.endswith("\u2026")]
