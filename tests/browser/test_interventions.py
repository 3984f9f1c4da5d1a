"""The Interventions page in Chromium: clicks on the grid, on a token and on a dose choose; the URL keeps the choice."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import agree, bottom, expect_theme, figure, open_page, repeat

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
OPEN = "interventions?prompt=" + quote("<user> i think helen lives in lyon . where does helen live ? <bot>")


def test_the_sentence_and_both_sides_are_seen_without_scrolling(page: Page, server: Any):
    sentence = open_page(page, server, OPEN)
    expect(sentence).to_contain_text("patching")
    for name in ("grid", "nulls"):
        assert bottom(figure(page, name)) <= 800
    expect_theme(figure(page, "grid"), "light")


@pytest.mark.slow
def test_clicks_choose_the_site(page: Page, server: Any):
    sentence = open_page(page, server, OPEN + "&int_kind=resid")
    agree(page)
    marks = figure(page, "grid").locator("g.points path")
    expect(marks).to_have_count(3 * 15)
    repeat(page, lambda: marks.nth(7).click(force=True), lambda: "int_layer=-1" in page.url)
    expect(sentence).to_contain_text("patching the embedding at oslo [7] restores 100 %")
    chip = page.get_by_role("option", name="helen").first
    repeat(page, lambda: chip.click(), lambda: "int_token=4" in page.url)
    expect(sentence).to_contain_text(re.compile(r"at helen \[4\] restores \u22120 %|at helen \[4\] restores 0 %"))


def test_a_click_on_a_dose_chooses_it(page: Page, server: Any):
    sentence = open_page(page, server, OPEN + "&int_do=steer")
    agree(page)
    expect(sentence).to_contain_text("by \u22120.50 after block 0")
    dots = figure(page, "dose").locator("g.points path.point")
    repeat(page, lambda: dots.last.click(force=True), lambda: "int_alpha=1" in page.url)
    expect(sentence).to_contain_text("by +1.00 after block 0")
