"""The dashboard without a mouse: Tab, arrows, Enter, Space and Escape lead on, and what has the focus shows it."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.pages import eventually, figure, open_page, settle

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
MOST = 60
"""Presses of a key from one place of a page to another."""
HIDDEN = """async () => {
  let element = document.activeElement
  while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement
  if (element === document.body) return null  // past the end of the page
  const about = element.outerHTML.slice(0, 200)
  const around = [element]
  while (around.length < 4 && around.at(-1).parentElement) around.push(around.at(-1).parentElement)
  const look = () => around.map((each) => {
    const style = getComputedStyle(each)
    const outline = style.outlineStyle === "none" ? "" : style.outline
    return [outline, style.boxShadow, style.borderColor, style.backgroundColor].join()
  }).join(";")
  const place = element.getBoundingClientRect()
  if (place.bottom <= 0 || place.top >= innerHeight) return "out of sight: " + about
  const drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
  await drawn()
  const focused = look()
  element.blur()
  await drawn()
  const plain = look()
  element.focus({ focusVisible: true, preventScroll: true })
  return focused === plain ? "no mark of the focus: " + about : null
}"""
"""What is wrong with the sight of the element that has the focus: it is out of the window, or looks as without it."""


def press_to(page: Page, goal: Locator, key: str = "Tab") -> None:
    """Press a key until a part of the page has the focus; everything on the way shows that it has it."""
    expect(goal).to_be_visible()
    seen = []
    for _ in range(MOST):
        page.keyboard.press(key)
        page.wait_for_timeout(50)  # the page scrolls to what has the focus
        problem = page.evaluate(HIDDEN)
        assert problem is None, problem
        seen.append(page.evaluate("document.activeElement.outerHTML.slice(0, 100)"))
        if goal.evaluate("element => element.matches(':focus')"):
            return
    raise AssertionError(f"{goal} was not reached: {seen}")


@pytest.mark.slow
def test_from_start_to_a_downloaded_figure(page: Page, server: Any, tmp_path: Path):
    open_page(page, server)
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")
    press_to(page, page.get_by_test_id("stSidebarNav").get_by_role("link", name="Side by side"))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/compare"))
    figure(page, "kl")
    settle(page)

    prompt = page.get_by_label("Prompt", exact=True)
    press_to(page, prompt)
    before = page.locator("h3").first.inner_text()
    page.keyboard.press("Control+A")
    page.keyboard.type("<user> where does helen live ? <bot>")
    page.keyboard.press("Control+Enter")
    expect(page.locator("h3").first).not_to_have_text(before)
    settle(page)

    token = page.locator("#tokens .line").first.get_by_role("option").first
    press_to(page, token)
    press_to(page, page.get_by_role("option", name="helen").first, "ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("position=4"))
    expect(page.get_by_text("Next-token probabilities at token 4")).to_be_visible()
    settle(page)
    chosen = page.get_by_role("option", name="helen").first
    eventually(page, lambda: chosen.evaluate("element => element.matches(':focus')"))

    button = page.locator(".st-key-offer-kl").get_by_role("button").first
    press_to(page, button)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("stPopoverBody").locator(":focus")).to_have_count(1)
    settle(page)
    press_to(page, page.locator(".st-key-download-kl-csv button"))
    with page.expect_download() as waiting:
        page.keyboard.press("Space")
    waiting.value.save_as(tmp_path / "kl.csv")
    assert (tmp_path / "kl.csv").read_text().startswith("author,")
    page.keyboard.press("Escape")
    expect(page.locator(".st-key-download-kl-csv button")).to_have_count(0)
    eventually(page, lambda: button.evaluate("element => element.matches(':focus')"))
