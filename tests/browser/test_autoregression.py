"""The page Autoregression in Chromium: its figures at first sight, its choices in the URL, its tabs."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SLOW_S = 120


def open_page(page: Page, server: Any, query: str = "") -> Locator:
    """Open the page and wait for its sentence and its end; gives the sentence."""
    page.goto(f"{server.url}/autoregression{query}")
    expect(page.locator("h3").first).to_be_visible()
    settle(page)
    return page.locator("h3").first


def settle(page: Page) -> None:
    """Wait until the script has run to its end."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def figure(page: Page, name: str) -> Locator:
    """The chart called `name`, once it is drawn."""
    chart = page.locator(f".st-key-figure-{name} .js-plotly-plot")
    expect(chart.locator(".main-svg").first).to_be_visible()
    return chart


def eventually(page: Page, holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SLOW_S
    while not holds():
        assert time.monotonic() < end
        page.wait_for_timeout(100)


def bottom(chart: Locator) -> float:
    """The lower edge in pixels; far away if it is not drawn."""
    box = chart.bounding_box()
    return box["y"] + box["height"] if box else 1e9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sentence_and_both_figures_are_seen_without_scrolling(page: Page, server: Any, scheme: str):
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    sentence = open_page(page, server, "?lag_texts=4")
    expect(sentence).to_contain_text("looks back")
    for name in ("lags", "context"):
        chart = figure(page, name)
        eventually(page, lambda chart=chart: bottom(chart) <= 800)
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 23)"}[scheme]
    expect(figure(page, "lags").locator(".main-svg").first).to_have_css("background-color", paper)


def test_choices_are_in_the_url_and_a_tab_opens(page: Page, server: Any):
    sentence = open_page(page, server, "?lag_texts=4")
    before = sentence.inner_text()
    page.get_by_role("combobox", name="Texts").click()
    page.get_by_role("option", name="opinion", exact=True).click()
    expect(page).to_have_url(re.compile("lag_on=opinion"))
    expect(sentence).not_to_have_text(before)
    page.get_by_role("combobox", name="Influence by").click()
    page.get_by_role("option", name="Jacobian", exact=True).click()
    expect(page).to_have_url(re.compile("lag_measure=Jacobian"))
    axis = page.locator(".st-key-figure-lags .ytitle").filter(has_text="per unit of embedding")
    expect(axis).to_be_visible()
    settle(page)
    page.get_by_role("tab", name="What or where (E23)").click()
    expect(figure(page, "paths")).to_contain_text("head")
    assert "lag_tab=" in page.url
    address = page.url
    sentence = open_page(page, server, address[address.index("?") :])
    figure(page, "paths")
    expect(page.get_by_role("combobox", name="Influence by")).to_have_value("Jacobian")
