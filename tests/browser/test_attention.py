"""The Attention page in Chromium: heads and queries chosen by clicking, tabs and choices in the URL."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import PAGES, bottom, box, eventually, expect_theme, figure, open_page, repeat, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_clicks_choose_the_head_its_query_and_its_partners(page: Page, server: Any):
    """The sentence and the mosaic are seen without scrolling."""
    sentence = open_page(page, server, "attention?att_head=L0H0")
    expect(sentence).to_contain_text("changed its attention most")
    chart = figure(page, "heads")
    expect(chart.locator("g.points path")).to_have_count(3 * 4)
    assert bottom(chart) <= 800
    expect_theme(chart, "light")
    mark = figure(page, "heads").locator("g.points").nth(1).locator("path").nth(3)
    repeat(page, lambda: mark.click(force=True), lambda: "att_head=L1H1" in page.url)
    expect(page.get_by_text("L1H1: bilinear, softmax, linear")).to_be_visible()
    cell = figure(page, "stages").locator("g.points").first.locator("path").nth(7)
    repeat(page, lambda: cell.click(force=True), lambda: "att_query=3" in page.url)
    bar = figure(page, "written").locator("g.point path").nth(5)
    repeat(page, lambda: bar.click(force=True), lambda: "att_query=5" in page.url)
    page.get_by_role("tab", name="What moved").click()
    expect(page).to_have_url(re.compile("att_tab=What"))
    expect(page.get_by_text(re.compile(r"L1H1 ranks \d of 4"))).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile(r"L1H1 ranks \d of 4"))).to_be_visible()


def test_a_tab_below_the_fold_comes_into_view_once_it_is_chosen(page: Page, server: Any):
    open_page(page, server, PAGES["attention"])
    bar, main = page.get_by_test_id("stTabs"), page.get_by_test_id("stMain")
    start = box(bar)["y"]
    assert start > 400  # far down, so that its content is not seen
    assert main.evaluate("node => node.scrollTop") == 0
    tab = page.get_by_role("tab", name="What moved")
    tab.click()
    expect(page.get_by_role("tabpanel", name="What moved")).to_be_visible()
    settle(page)
    eventually(page, lambda: box(bar)["y"] < 200)
    settle(page)
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -2000)
    eventually(page, lambda: main.evaluate("node => node.scrollTop") == 0)
    page.wait_for_timeout(500)
    assert main.evaluate("node => node.scrollTop") == 0  # a reader who scrolls is left alone
