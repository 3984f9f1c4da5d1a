"""The page Autoregression in Chromium: its figures at first sight, its choices in the URL, its tabs."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import bottom, choose, eventually, expect_theme, figure, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_choices_are_in_the_url_and_a_tab_opens(page: Page, server: Any):
    """The sentence and both figures are seen without scrolling."""
    sentence = open_page(page, server, "autoregression?lag_texts=4")
    expect(sentence).to_contain_text("looks back")
    for name in ("lags", "context"):
        chart = figure(page, name)
        eventually(page, lambda chart=chart: bottom(chart) <= 800)
    expect_theme(figure(page, "lags"), "light")
    before = sentence.inner_text()
    choose(page, "Texts", "opinion")
    expect(page).to_have_url(re.compile("lag_on=opinion"))
    expect(sentence).not_to_have_text(before)
    page.get_by_role("radio", name="Jacobian").click()
    expect(page).to_have_url(re.compile("lag_measure=Jacobian"))
    axis = page.locator(".st-key-figure-lags .ytitle").filter(has_text="per unit of embedding")
    expect(axis).to_be_visible()
    settle(page)
    page.get_by_role("tab", name="Content and attention path (E23)").click()
    expect(figure(page, "paths")).to_contain_text("head")
    assert "lag_tab=" in page.url
    address = page.url
    sentence = open_page(page, server, "autoregression" + address[address.index("?") :])
    figure(page, "paths")
    expect(page.get_by_role("radio", name="Jacobian")).to_be_checked()
