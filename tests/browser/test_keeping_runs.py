"""Rows of the table of runs, which only a browser can select."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from probe.runs.run_marks import read_marks
from tests.browser.conftest import Server
from tests.browser.pages import box, eventually, open_page, repeat, settle

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_runs_of_selected_rows_are_pinned_and_deleted(
    page: Page, start: Callable[..., Server], runs: Path, tmp_path: Path
):
    shutil.copytree(runs, tmp_path / "own")
    server = start(tmp_path / "own")
    server.admit(page.context)
    open_page(page, server, "overview")
    settle(page)
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    pin = page.get_by_role("button", name="Pin", exact=False).first

    def select_first_row() -> None:
        place = box(table)
        page.mouse.click(place["x"] + 18, place["y"] + 52)

    repeat(page, select_first_row, pin.is_visible)
    pin.click()
    eventually(page, lambda: read_marks(tmp_path / "own" / "base").pinned)
    settle(page)
    page.get_by_role("button", name="Delete", exact=False).first.click()
    expect(page.get_by_text("Runs that were made with it: dpo-agreeable.")).to_be_visible()
    page.get_by_role("button", name="Move to trash").click()
    eventually(page, lambda: not (tmp_path / "own" / "base").exists())
    page.get_by_role("button", name="Trash: 1", exact=False).click()
    page.get_by_role("button", name="Restore").click()
    eventually(page, lambda: (tmp_path / "own" / "base").exists())
