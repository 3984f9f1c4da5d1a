"""The Logits page in Chromium: the main figure is seen at once, and clicks on lens and map choose token and part."""

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import SCHEMES, bottom, figure, open_page, repeat, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sentence_lens_and_curves_are_seen_without_scrolling(page: Page, server: Any, scheme: str):
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    sentence = open_page(page, server, "logits")
    expect(sentence).to_contain_text("its favourite")
    for name in ("lens", "layers"):
        assert bottom(figure(page, name)) <= 800


@pytest.mark.slow
def test_clicks_choose_the_token_and_the_part(page: Page, server: Any):
    sentence = open_page(page, server, "logits?log_position=5")
    marks = figure(page, "lens").locator("path.point")
    repeat(page, lambda: marks.nth(3).click(force=True), lambda: "log_position=3" in page.url)
    settle(page)
    expect(page.get_by_label("Token", exact=True)).to_have_value("3")
    parts = figure(page, "parts").locator("path.point")
    repeat(
        page,
        lambda: parts.nth(9).click(force=True),
        lambda: re.search(r"log_part=L\d(H\d|\+MLP|%20MLP)", page.url) is not None,
    )
    expect(page.get_by_text("What L", exact=False).first).to_be_visible()
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("h3").first).to_have_text(sentence.inner_text())
    other.close()


@pytest.mark.slow
def test_a_link_opens_the_tab_of_its_choices_and_they_last(page: Page, server: Any):
    open_page(page, server, "logits?log_measure=margin")
    tabs = page.get_by_test_id("stMain").get_by_role("tab")
    expect(tabs.filter(has_text="Over training")).to_have_attribute("aria-selected", "true")
    figure(page, "training-layers")
    assert page.locator(".st-key-figure-parts").count() == 0  # nothing of a hidden tab is computed
    tabs.filter(has_text="Distance").click()
    figure(page, "kl")
    expect(page).to_have_url(re.compile(r"log_tab=Distance"))
    tabs.filter(has_text="Over training").click()
    figure(page, "training-layers")
    settle(page)
    expect(page.get_by_role("combobox", name="Colour")).to_have_value("margin")
    expect(page).to_have_url(re.compile(r"log_measure=margin"))
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("h3").first).to_be_visible()
    settle(other)
    expect(other.get_by_role("combobox", name="Colour")).to_have_value("margin")
    other.close()


@pytest.mark.slow
def test_turns_become_the_prompt_and_the_address(page: Page, server: Any):
    sentence = open_page(page, server, "logits")
    before = sentence.inner_text()
    page.get_by_role("button", name="Turns").click()
    page.get_by_role("button", name="Add a turn").click()
    page.get_by_label("Text of turn 2", exact=True).fill("oslo")
    page.get_by_role("button", name="Add a turn").click()
    page.get_by_label("Text of turn 3", exact=True).fill("where does mira live ?")
    page.get_by_role("button", name="Use as the prompt").click()
    expect(page.get_by_text("The prompt was sent as a conversation of 3 messages")).to_be_visible()
    expect(page).to_have_url(re.compile("prompt=.*assistant"))
    expect(sentence).not_to_have_text(before)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("h3").first).to_have_text(sentence.inner_text())
    other.close()
