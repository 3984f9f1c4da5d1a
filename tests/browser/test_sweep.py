"""Parallel coordinates of a sweep in Chromium: a drag along an axis keeps all lines that cross it there."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Start
from tests.browser.pages import eventually, open_page, settle
from tests.browser.test_layout import NARROW, wrong_texts
from tests.dashboard.test_sweep import compared

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
AXIS = "document.querySelector('.js-plotly-plot')._fullData[0].dimensions[0]"
"""The axis of the option `beta`: its ticks, the places where lines cross it, and what is selected on it."""


def test_a_drag_over_a_tick_selects_all_lines_through_it(page: Page, start: Start, tmp_path: Path):
    compared(tmp_path / "betas")
    page.set_viewport_size({"width": NARROW, "height": 1400})
    open_page(page, start(tmp_path), "sweep")
    page.locator(".parcoords .y-axis").first.wait_for()
    settle(page)
    area = page.locator(".parcoords .y-axis").first.locator(".axis-brush .background").bounding_box()
    assert area is not None
    across = area["x"] + area["width"] / 2
    page.mouse.move(across, area["y"] + 2)
    page.mouse.down()
    page.mouse.move(across, area["y"] + 0.45 * area["height"], steps=8)
    page.mouse.up()
    eventually(page, lambda: page.evaluate(f"{AXIS}.constraintrange !== undefined"))
    low, high = page.evaluate(f"{AXIS}.constraintrange")
    crossings = page.evaluate(f"Array.from({AXIS}.values)")
    assert [low <= each <= high for each in crossings] == [False, False, True, True]
    assert wrong_texts(page) == []
