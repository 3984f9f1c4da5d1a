"""A server with models that have no end in its folders: it shows the others, and a signal ends it."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_S
from tests.dashboard.test_strangers_models import add_strangers


@pytest.mark.slow
def test_a_template_without_an_end_stops_neither_readers_nor_the_end(
    page: Page, runs: Path, start: Callable[..., Any], tmp_path: Path
):
    root = Path(shutil.copytree(runs, tmp_path / "runs"))
    add_strangers(root)
    server = start(root)
    hostile = [page.context.new_page() for _ in range(2)]
    for each in hostile:
        each.goto(f"{server.url}/compare?base=base&aligned=frozen&chat=true")
    for name in ("compare?base=base&aligned=dpo-agreeable", "runs", "train", ""):
        page.goto(f"{server.url}/{name}")
        expect(page.locator("h3").first).to_be_visible()
        expect(page.get_by_test_id("stAlert")).to_have_count(0)
    for each in hostile:
        expect(each.get_by_text("takes more than 2 seconds of computing")).to_be_visible()
        each.reload()
    server.process.send_signal(signal.SIGTERM)
    output, _ = server.process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in output
