"""What the tests of all pages do in Chromium: open a page, wait until it is drawn, find its figures, try again."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Error, Locator, Page, expect

SLOW_S = 120
"""How long anything may take: far more than it does, because a busy machine must not fail a test."""
BOTH = "base=base&aligned=dpo-agreeable"
PAGES = {
    "start": "",
    "overview": "overview",
    "findings": "findings",
    "scorecard": "scorecard",
    "training of one run": "training?runs=base",
    "training of all methods": "training?" + "&".join(f"runs={run}" for run in ("base", "icl", "rlvr", "rlhf", "sft")),
    "diagnosis": "diagnosis",
    "compare": f"compare?{BOTH}",
    "audit": f"audit?{BOTH}",
    "attention": f"attention?{BOTH}",
    "logits": f"logits?{BOTH}",
    "patching": f"interventions?{BOTH}",
    "ablation": f"interventions?{BOTH}&int_do=ablate",
    "steering": f"interventions?{BOTH}&int_do=steer",
    "autoregression": f"autoregression?{BOTH}",
    "traits": f"traits?{BOTH}",
    "probes": f"probes?{BOTH}",
    "features": f"features?{BOTH}",
    "rewards": f"rewards?{BOTH}",
    "sycophancy": f"sycophancy?{BOTH}&also=rlvr",
    "hallucination": f"hallucination?{BOTH}&also=rlvr",
    "in-context learning": "in_context?base=base&aligned=icl&also=rlvr&also=dpo-agreeable",
    "chain of thought": f"chain_of_thought?{BOTH}&also=rlvr",
    "retrieval": f"retrieval?{BOTH}&also=rlvr",
    "continual learning": "continual?base=base&aligned=base",
    "new run": "train",
    "sweep": "sweep",
    "your experiments": "experiments",
}
"""Every page, of as many models as the shipped results allow."""
WITHOUT_FIGURE = ("new run", "sweep", "your experiments")
"""Those that draw one only when a reader asks for something."""
TABLES = ("All measures", "Does it carry over?")
"""Tabs that show a table and no figure."""
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 23)"}
"""Background of the figures in each theme."""
SCHEMES = ["light", pytest.param("dark", marks=pytest.mark.slow)]
"""Both themes, for tests that look at a page as it opens."""


def open_page(page: Page, server: Any, path: str = "") -> Locator:
    """Open a page and wait for its sentence and its end; gives the sentence."""
    page.goto(f"{server.url}/{path}")
    expect(page.locator("h3").first).to_be_visible()
    settle(page)
    return page.locator("h3").first


def settle(page: Page) -> None:
    """Wait until the script has run to its end and the browser has loaded the code of every element."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)


def agree(page: Page) -> None:
    """Press every button that offers what would take long; how many there are depends on the machine.

    A figure or a button comes in any case; a busy machine may draw both after the first run has ended.
    """
    offers = page.get_by_role("button", name=re.compile(r"^Run .*\(about "))
    expect(offers.or_(page.locator(".js-plotly-plot:visible")).first).to_be_visible()
    settle(page)
    for left in reversed(range(offers.count())):
        offers.first.click()
        expect(offers).to_have_count(left, timeout=5000 * SLOW_S)  # as long as all of it takes
        settle(page)


def choose(page: Page, label: str, option: str) -> None:
    """Pick from a list. It is scrolled to before it is opened: an open list closes when its page scrolls."""
    control = page.get_by_role("combobox", name=label, exact=True)
    control.scroll_into_view_if_needed()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    control.click()
    page.get_by_role("option", name=option, exact=True).click()


def figure(page: Page, name: str) -> Locator:
    """The chart called `name`, once it is drawn.

    While a live chart is drawn anew, Streamlit keeps the last one in the page, hidden, until the run has ended.
    """
    chart = page.locator(f".st-key-figure-{name} .js-plotly-plot").last
    expect(chart.locator(".main-svg").first).to_be_visible()
    return chart


def expect_theme(chart: Locator, scheme: str) -> None:
    """Wait until a chart is drawn in the light or the dark theme."""
    expect(chart.locator(".main-svg").first).to_have_css("background-color", PAPER[scheme])


def box(part: Locator) -> dict[str, float]:
    """Where a part of the page is and how large, in pixels; nowhere if it is not drawn."""
    return part.bounding_box() or {"x": 1e9, "y": 1e9, "width": 0, "height": 0}  # type: ignore[return-value]


def bottom(part: Locator) -> float:
    """The lower edge in pixels; far away if it is not drawn."""
    return box(part)["y"] + box(part)["height"]


def eventually(page: Page, holds: Callable[[], bool], seconds: float = SLOW_S) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        page.wait_for_timeout(100)


def repeat(page: Page, act: Callable[[], object], holds: Callable[[], bool]) -> None:
    """Do something until it has its effect: a page that is still being drawn moves under the mouse."""
    end = time.monotonic() + SLOW_S
    while True:
        try:
            act()
            return eventually(page, holds, 10)
        except (AssertionError, Error):  # what was to be clicked may be drawn anew at that moment
            assert time.monotonic() < end
