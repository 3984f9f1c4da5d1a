"""The Rewards page in Chromium: the frontier is seen at once, and a click on a token says what it does."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from probe import open_run
from tests.browser.pages import bottom, box, eventually, expect_theme, figure, open_page, repeat, settle
from tests.dashboard import store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def rewarded(runs: Path, start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server on the two runs and a reward model."""
    root = tmp_path_factory.mktemp("rewarded")
    for path in runs.iterdir():
        shutil.copytree(path, root / path.name, dirs_exist_ok=True)
    store.judge(root / "judge", root / "base", world=open_run(root / "base").world, parent="base")
    return start(root)


@pytest.mark.slow
def test_the_frontier_is_seen_without_scrolling(page: Page, rewarded: Any) -> None:
    sentence = open_page(page, rewarded, "rewards")
    expect(sentence).to_contain_text("dpo-agreeable")
    chart = figure(page, "frontier")
    eventually(page, lambda: box(sentence)["y"] < 200)
    eventually(page, lambda: bottom(chart) <= 800)
    assert box(chart)["width"] > 300
    expect_theme(chart, "light")


def test_a_token_is_chosen_by_a_click_and_completions_stay_in_the_address(page: Page, rewarded: Any) -> None:
    page.goto(f"{rewarded.url}/rewards?rew_chosen=i+do+not+know")
    settle(page)
    chips = page.locator(".st-key-texts .chip")
    chip = chips.filter(has_text="know")
    expect(chip).to_have_count(1)
    chip.scroll_into_view_if_needed()
    repeat(page, lambda: chip.click(), lambda: chip.get_attribute("aria-selected") == "true")
    figure(page, "token-effects")
    assert "rew_chosen=i+do+not+know" in page.url or "rew_chosen=i%20do%20not%20know" in page.url
    assert "rew_token=" in page.url
