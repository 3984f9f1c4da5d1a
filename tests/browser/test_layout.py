"""What pages draw in Chromium at 1280 and at 1024 pixels: no text lies on another one, and none is cut."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import BOTH, PAGES, agree, box, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
TEXT_BOXES = Path(__file__).with_name("text_boxes.js").read_text()
SLACK = 1
"""Pixels of each side of a text that count for nothing."""
WIDE, NARROW = 1280, 1024
"""Pixels of a window whose charts stand beside each other, and of one whose charts stand in one column."""
CUT = """(slack) => {
  const pen = document.createElement("canvas").getContext("2d")
  const wrong = []
  for (const field of document.querySelectorAll("[data-testid=stMain] [data-testid=stColumn] input")) {
    const text = ["number", "text"].includes(field.type) && field.getAttribute("role") !== "combobox"
    if (!field.offsetWidth || !text) continue
    const style = getComputedStyle(field)
    pen.font = style.font
    const room = field.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
    const needs = pen.measureText(field.type === "number" ? field.value : field.value.slice(0, 8)).width
    if (needs > room + slack) wrong.push(`${field.getAttribute("aria-label")}: "${field.value}" has ${room} pixels`)
  }
  return wrong
}"""
"""Fields that do not show their number, or the first letters of their text."""


def drawn(page: Page, width: int = WIDE) -> None:
    """Wait until every figure is drawn, in a window that is as high as the page."""
    settle(page)
    agree(page)
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": height + 50})
    expect(page.locator("[data-testid=stSkeleton]:visible")).to_have_count(0)
    expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()
    settle(page)
    page.wait_for_timeout(1000)  # a chart that has just got its width is drawn again


def wrong_texts(page: Page) -> list[str]:
    """Texts of the figures that lie on another one or are cut."""
    return page.evaluate(f"({TEXT_BOXES})({SLACK})")


@pytest.mark.slow
def test_a_narrow_page_has_one_column_of_charts_and_whole_fields(page: Page, samples: Any):
    """Every page: test_every_page.py."""
    page.set_viewport_size({"width": NARROW, "height": 800})
    open_page(page, samples, PAGES["compare"])
    drawn(page, NARROW)
    charts = page.locator(".js-plotly-plot:visible")
    edges = {round(box(charts.nth(index))["x"]) for index in range(charts.count())}
    assert charts.count() > 1
    assert len(edges) == 1
    assert page.evaluate(f"({CUT})({SLACK})") == []
    assert wrong_texts(page) == []
    for title in ("Base model", "Aligned model"):
        picker = page.get_by_role("combobox", name=title, exact=True)
        assert box(picker)["width"] > 100


@pytest.mark.parametrize("width", [760, WIDE])
def test_a_closed_sidebar_leaves_no_empty_column(page: Page, samples: Any, width: int):
    page.set_viewport_size({"width": width, "height": 800})
    open_page(page, samples, "sweep")
    closed = page.get_by_test_id("stExpandSidebarButton")
    if not closed.is_visible():  # Streamlit closes it by itself on the narrowest pages
        page.get_by_test_id("stSidebar").hover()
        page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
    expect(closed).to_be_visible()
    page.wait_for_function("document.querySelector('[data-testid=stMain]').getBoundingClientRect().x === 0")


def test_words_on_dark_and_light_cells_stand_out(page: Page, samples: Any):
    page.emulate_media(color_scheme="dark")
    open_page(page, samples, PAGES["logits"])
    drawn(page)
    colours = page.locator(".heatmap-label text").evaluate_all(
        "all => [...new Set(all.map(e => getComputedStyle(e).fill))]"
    )
    assert sorted(colours) == ["rgb(14, 17, 23)", "rgb(255, 255, 255)"]


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
    wrong = wrong_texts(page)
    assert any("lies on" in each for each in wrong)
    assert any("is cut" in each for each in wrong)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["overview", f"retrieval?{BOTH}"])
def test_the_table_of_numbers_fits(page: Page, samples: Any, path: str):
    open_page(page, samples, path)
    table = page.get_by_test_id("stMain").get_by_test_id("stDataFrame").first
    expect(table.locator("canvas").first).to_be_visible()
    inner = table.locator(".dvn-scroll-inner > div").first
    scroller = table.locator(".dvn-scroller").first
    assert scroller.evaluate("node => node.scrollWidth - node.clientWidth") <= 1
    assert box(inner)["width"] > 500
    assert not [name for name in table.locator("[role=gridcell]").all_text_contents() if name.endswith("\u2026")]
