"""How long pages are in Chromium at 1280 x 800: two screens at most before the first tab, or to the end."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from dashboard.pages import page_names
from tests.browser.pages import PAGES, WITHOUT_FIGURE, agree, eventually, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
LIMIT = 2 * 800
FOLDED = """() => {
  const main = document.querySelector("[data-testid=stMain]")
  const bar = [...main.querySelectorAll("[role=tablist]")].find(each => each.checkVisibility())
  const content = main.querySelector("[data-testid=stMainBlockContainer]").getBoundingClientRect()
  return (bar ? bar.getBoundingClientRect().top : content.bottom) + main.scrollTop
}"""
"""Pixels from the top of a page to its first tab, or to its end."""


def test_every_page_is_measured():
    assert {address.partition("?")[0] or "start" for address in PAGES.values()} == set(page_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_two_screens_at_most_before_a_tab(page: Page, samples: Any, name: str):
    open_page(page, samples, PAGES[name])
    if name not in WITHOUT_FIGURE:
        agree(page)
    heights = [0.0]

    def is_drawn() -> bool:
        page.wait_for_timeout(500)
        heights.append(page.evaluate(FOLDED))
        return heights[-1] == heights[-2]

    expect(page.locator("[data-testid=stSkeleton]:visible")).to_have_count(0)
    settle(page)
    eventually(page, is_drawn)
    assert heights[-1] <= LIMIT
