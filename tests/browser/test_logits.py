"""The Logits page in Chromium: the main figure is seen at once, and clicks on lens and map choose token and part."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
SLOW_S = 120


def open_page(page: Page, server: Any, path: str) -> Locator:
    """Open a page and wait until its script has run; gives its sentence."""
    page.goto(f"{server.url}/{path}")
    expect(page.locator("h3").first).to_be_visible()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    return page.locator("h3").first


def chart(page: Page, name: str) -> Locator:
    """The figure called `name`, once it is drawn."""
    found = page.locator(f".st-key-figure-{name} .js-plotly-plot")
    expect(found.locator(".main-svg").first).to_be_visible()
    return found


def repeat(page: Page, act: Callable[[], object], holds: Callable[[], bool]) -> None:
    """Do something until it has its effect: a page that is still being drawn moves under the mouse."""
    end = time.monotonic() + SLOW_S
    while not holds():
        assert time.monotonic() < end
        act()
        for _ in range(50):
            if holds():
                return
            page.wait_for_timeout(100)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sentence_lens_and_curves_are_seen_without_scrolling(page: Page, server: Any, scheme: str):
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    sentence = open_page(page, server, "logits")
    expect(sentence).to_contain_text("its favourite")
    for name in ("log-lens", "log-layers"):
        box = chart(page, name).bounding_box()
        assert box
        assert box["y"] + box["height"] <= 800


def test_clicks_choose_the_token_and_the_part(page: Page, server: Any):
    sentence = open_page(page, server, "logits?log_position=5")
    marks = chart(page, "log-lens").locator("path.point")
    repeat(page, lambda: marks.nth(3).click(force=True), lambda: "log_position=3" in page.url)
    expect(page.get_by_label("After token", exact=True)).to_have_value("3")
    parts = chart(page, "log-parts").locator("path.point")
    repeat(
        page,
        lambda: parts.nth(6).click(force=True),
        lambda: re.search(r"log_part=L\d(H\d|\+MLP|%20MLP)", page.url) is not None,
    )
    expect(page.get_by_text("What L", exact=False).first).to_be_visible()
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("h3").first).to_have_text(sentence.inner_text())
    other.close()
