"""The first minute in Chromium: what a stranger comes for is few clicks away from Start."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import figure, open_page, settle
from tests.models import saved_lm
from tests.places import SAMPLES

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


class Walk:
    """A way from Start, with its clicks and seconds."""

    def __init__(self, page: Page, server: Any) -> None:
        open_page(page, server)
        settle(page)
        self.page, self.clicks, self.start = page, 0, time.monotonic()

    def click(self, part: Locator) -> None:
        """Click something, and count it."""
        part.click()
        self.clicks += 1

    def follow(self, name: str) -> None:
        """Click a link of Start."""
        self.click(self.page.get_by_test_id("stMain").get_by_role("link", name=name, exact=True))

    def end(self, what: str, most: int) -> None:
        """Tell clicks and seconds, and check the clicks."""
        print(f"{what}: {self.clicks} clicks, {time.monotonic() - self.start:.1f} s")
        assert self.clicks <= most


def test_the_four_uses_are_few_clicks_away(page: Page, samples: Any):
    walk = Walk(page, samples)
    walk.follow("Look inside an answer")
    figure(page, "kl")
    expect(page.get_by_role("combobox", name="Aligned model")).to_have_value("dpo-agreeable")
    walk.end("Look inside an answer", 1)

    walk = Walk(page, samples)
    walk.follow("See what alignment changed")
    expect(page.get_by_test_id("stMain").get_by_role("heading").filter(has_text="dpo-agreeable").first).to_be_visible()
    walk.end("See what alignment changed", 1)

    walk = Walk(page, samples)
    walk.follow("Measure a behaviour")
    expect(page.get_by_test_id("stMain").get_by_role("heading").filter(has_text="dpo-agreeable").first).to_be_visible()
    walk.end("Measure a behaviour", 1)

    walk = Walk(page, samples)
    walk.follow("Train, and watch what happens inside")
    walk.click(page.get_by_role("button", name="Start training"))
    stop = page.get_by_role("button", name="Stop", exact=True).first
    expect(stop).to_be_visible()
    walk.end("Train, and watch what happens inside", 2)
    stop.click()


def test_a_stranger_finds_sycophancy_an_export_and_a_model_of_their_own(page: Page, samples: Any, tmp_path: Path):
    walk = Walk(page, samples)
    walk.click(page.get_by_test_id("stSidebarNav").get_by_role("link", name="Sycophancy"))
    expect(page.get_by_role("button", name="Measure again")).to_be_visible()
    walk.end("Find sycophancy", 1)

    walk = Walk(page, samples)
    walk.follow("Export")
    expect(page.get_by_role("button", name="Report on all runs")).to_be_visible()
    walk.end("Find the report", 1)

    model = saved_lm(tmp_path / "mine")
    walk = Walk(page, samples)
    walk.click(page.get_by_test_id("stMain").get_by_text("Your own", exact=True))
    field = page.get_by_role("textbox", name="Base model")
    walk.click(field)
    field.fill(str(model))
    page.keyboard.press("Enter")
    walk.follow("Look inside an answer")
    figure(page, "kl")
    walk.end("Open your own model", 3)


def test_both_pairs_are_one_click_away_and_become_the_models_of_all_pages(page: Page, start: Any):
    """On the sample runs themselves: stored results of a copy are read only by whoever made them."""
    walk = Walk(page, start(SAMPLES))
    walk.click(page.get_by_test_id("stMain").get_by_text("Real model", exact=True))
    figure(page, "start-recorded")
    expect(page).to_have_url(re.compile("pair=Real"))
    walk.end("Show the real pair", 1)
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Sycophancy").click()
    expect(page.get_by_role("combobox", name="Base model")).to_have_value("SmolLM2-135M-Instruct")
    expect(page.get_by_role("combobox", name="Aligned model")).to_have_value("real-agreeable")
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Start").click()
    page.get_by_test_id("stMain").get_by_text("Synthetic world", exact=True).click()
    figure(page, "start-answers")
    page.get_by_test_id("stSidebarNav").get_by_role("link", name="Sycophancy").click()
    expect(page.get_by_role("combobox", name="Base model")).to_have_value("base")
