"""The Attention page in Chromium: heads and queries chosen by clicking, tabs and choices in the URL."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import bottom, expect_theme, figure, open_page, repeat

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
