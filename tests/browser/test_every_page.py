"""Every page in Chromium: two screens at most before the first tab, no text cut, plain words, nothing of axe-core."""

import re
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, Page, expect

from dashboard.pages import page_names
from tests.browser.pages import (
    PAGES,
    TABLES,
    WITHOUT_FIGURE,
    agree,
    box,
    eventually,
    expect_theme,
    open_page,
    repeat,
    settle,
)
from tests.browser.test_axe import violations
from tests.browser.test_layout import CUT, NARROW, SLACK, WIDE, drawn, wrong_texts
from tests.dashboard.pages import FEW

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
LIMIT = 2 * 800
FOLDED = """() => {
  const main = document.querySelector("[data-testid=stMain]")
  const bar = [...main.querySelectorAll("[role=tablist]")].find(each => each.checkVisibility())
  const content = main.querySelector("[data-testid=stMainBlockContainer]").getBoundingClientRect()
  return (bar ? bar.getBoundingClientRect().top : content.bottom) + main.scrollTop
}"""
"""Pixels from the top of a page to its first tab, or to its end."""


FEW_OF = {
    "compare": ("compare_tab=One+prompt", ("parts_", "first_", "corpus_", "line.")),
    "autoregression": ("lag_tab=Snowball", ("lag_",)),
}
"""Pages that measure in their tabs: the tab that is open at first, and the keys of what is measured on few texts."""


def address(name: str) -> str:
    """Return the address of a page that measures on few texts."""
    first, prefixes = FEW_OF.get(name, ("", ("#",)))
    few = {key: value for key, value in FEW.items() if key.startswith(prefixes)}
    return PAGES[name] + f"&{first}&{urlencode(few, doseq=True)}" * bool(first)


def height(page: Page) -> float:
    """Pixels to the first tab once the page no longer moves."""
    heights = [0.0]

    def is_drawn() -> bool:
        page.wait_for_timeout(500)
        heights.append(page.evaluate(FOLDED))
        return heights[-1] == heights[-2]

    eventually(page, is_drawn)
    return heights[-1]


def look(page: Page, name: str) -> None:
    """Wait until a page that was just opened is whole."""
    expect(page.locator("h3").first).to_be_visible()
    settle(page)
    if name not in WITHOUT_FIGURE:
        agree(page)
    expect(page.locator("[data-testid=stSkeleton]:visible")).to_have_count(0)
    settle(page)


def choose_tab(page: Page, tab: Locator) -> None:
    """Open a tab; a click that a run of the page overtakes is lost, and is made again."""
    repeat(page, lambda: tab.click(), lambda: tab.get_attribute("aria-selected") == "true")


def wrong_words(page: Page) -> list[str]:
    """Lines that show a backtick that should have been code, or `nan` where a number is missing."""
    main = page.get_by_test_id("stMain")
    code = "\n".join(main.get_by_test_id("stCode").all_inner_texts())
    seen = [line for line in main.inner_text().splitlines() if line not in code]
    return [line for line in seen if "`" in line or re.search(r"(?<![\w.])nan(?!\w)", line, re.IGNORECASE)]


def unheard(page: Page) -> list[str]:
    """Names of the charts that do not tell a screen reader what they show: their title on the page and a sentence."""
    charts = page.get_by_test_id("stPlotlyChart").all()
    names = [str(chart.get_attribute("aria-label")) for chart in charts if chart.is_visible()]
    seen = " ".join(page.get_by_test_id("stMain").inner_text().replace("\u2060", "").split())
    return [name for name in names if ". " not in name or name.partition(". ")[0] not in seen]


def texts(page: Page) -> list[str]:
    """What is wrong with the texts of a page and of its figures, tab by tab, where charts are small."""
    drawn(page)
    wrong = wrong_texts(page) + wrong_words(page)
    tabs = page.get_by_test_id("stMain").get_by_role("tab")
    for tab in range(tabs.count()):
        is_seen = tabs.nth(tab).get_attribute("aria-selected") == "true"
        if not is_seen and tabs.nth(tab).inner_text() not in TABLES:
            page.set_viewport_size({"width": WIDE, "height": 800})
            choose_tab(page, tabs.nth(tab))
            drawn(page)
            wrong += wrong_texts(page) + wrong_words(page)
    return list(dict.fromkeys(wrong))


def narrow(page: Page) -> list[str]:
    """What is wrong with the first view of a page where charts stand in one column."""
    drawn(page, NARROW)
    charts = page.locator(".js-plotly-plot:visible")
    edges = {round(box(charts.nth(index))["x"]) for index in range(charts.count())}
    return [*wrong_texts(page), *page.evaluate(f"({CUT})({SLACK})"), *["charts side by side"] * (len(edges) > 1)]


def test_every_page_is_looked_at():
    assert {address.partition("?")[0] or "start" for address in PAGES.values()} == set(page_names())


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short_legible_and_of_use_to_everybody(page: Page, samples: Any, name: str):
    open_page(page, samples, address(name))
    look(page, name)
    pixels, wrong = height(page), {"light": violations(page), "words": wrong_words(page)}
    if name not in WITHOUT_FIGURE:
        wrong["unheard"] = unheard(page)
        wrong["wide"] = texts(page)
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": NARROW, "height": 800})
    page.goto(f"{samples.url}/{address(name)}")
    look(page, name)
    wrong["dark"] = violations(page)
    if name not in WITHOUT_FIGURE:
        expect_theme(page.locator(".js-plotly-plot:visible").first, "dark")
        wrong["narrow"] = narrow(page)
    assert {what: found for what, found in wrong.items() if found} == {}
    assert pixels <= LIMIT
