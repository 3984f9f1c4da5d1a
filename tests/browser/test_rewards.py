"""The Rewards page in Chromium: the frontier is seen at once, and a click on a token says what it does."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect
from transformers import LlamaForSequenceClassification

from probe import LM, open_run
from probe.runs import RunWriter

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SLOW_S = 120


@pytest.fixture(scope="module")
def rewarded(runs: Path, start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server on the two runs and a reward model."""
    root = tmp_path_factory.mktemp("rewarded")
    for path in runs.iterdir():
        shutil.copytree(path, root / path.name, dirs_exist_ok=True)
    base = LM.load(root / "base")
    config: Any = base.model.config
    config.num_labels = 1
    world = open_run(root / "base").world
    with RunWriter.create(root / "judge", method="reward-model", config={}, world=world, parent="base") as run:
        with run.checkpoint(0) as folder:
            LlamaForSequenceClassification(config).save_pretrained(folder)
            base.tokenizer.save_pretrained(folder)
        run.finish("finished")
    return start(root)


def box(part: Locator) -> dict[str, float]:
    """Where a part of the page is and how large, in pixels; nowhere if it is not drawn."""
    return part.bounding_box() or {"x": 1e9, "y": 1e9, "width": 0, "height": 0}  # type: ignore[return-value]


def eventually(page: Page, holds: Callable[[], bool], seconds: float = SLOW_S) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        page.wait_for_timeout(100)


def settle(page: Page) -> None:
    """Wait until the script has run to its end."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_frontier_is_seen_without_scrolling(page: Page, rewarded: Any, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{rewarded.url}/rewards")
    expect(page.locator("h3").first).to_contain_text("dpo-agreeable")
    settle(page)
    chart = page.locator(".st-key-figure-frontier .js-plotly-plot")
    expect(chart.locator(".main-svg").first).to_be_visible()
    eventually(page, lambda: box(page.locator("h3").first)["y"] < 150)
    eventually(page, lambda: box(chart)["y"] + box(chart)["height"] <= 800)
    assert box(chart)["width"] > 300
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 23)"}[scheme]
    expect(chart.locator(".main-svg").first).to_have_css("background-color", paper)


def test_a_token_is_chosen_by_a_click_and_completions_stay_in_the_address(page: Page, rewarded: Any) -> None:
    page.goto(f"{rewarded.url}/rewards?rew_chosen=i+do+not+know")
    settle(page)
    chips = page.locator(".st-key-rew-tokens .chip")
    expect(chips.filter(has_text="know")).to_have_count(1)
    chips.filter(has_text="know").scroll_into_view_if_needed()
    end = time.monotonic() + SLOW_S
    while chips.filter(has_text="know").get_attribute("aria-selected") != "true":  # a page being drawn moves
        chips.filter(has_text="know").click()
        settle(page)
        page.wait_for_timeout(300)
        assert time.monotonic() < end
    faint = page.locator(".st-key-figure-token-effects .js-plotly-plot")
    expect(faint).to_be_visible()
    assert "rew_chosen=i+do+not+know" in page.url or "rew_chosen=i%20do%20not%20know" in page.url
    assert "rew_rejected=" in page.url
