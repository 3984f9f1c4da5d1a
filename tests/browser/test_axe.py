"""Pages under axe-core: nothing of impact serious or critical (test_every_page.py looks at all of them)."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from dashboard.pages import page_names
from probe.jobs import control
from probe.runs.run_marks import Marks, write_marks
from tests.browser.conftest import Server
from tests.browser.pages import SCHEMES, open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
SEVERE = ("serious", "critical")
SECTIONS = "[data-testid=stSidebarNavItems]"
NOT_OURS = {
    "list": "Streamlit puts each section of the navigation into a `div` inside of the list.",
    "listitem": "So its items are no children of the list.",
}
"""Rules that the navigation itself breaks; Streamlit draws it and gives no way to change that."""
IN_NAVIGATION = f"element => element.closest('{SECTIONS}') !== null"


def violations(page: Page) -> list[str]:
    """What axe-core finds of the page, a line each; what fades while a part of the page runs is looked at again."""
    found = _look(page)
    for _ in range(3):
        if not found:
            break
        page.wait_for_timeout(700)
        again = _look(page)
        found = [line for line in found if line in again]
    return found


def _look(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {' '.join(_selector(node).split())} {node['html'][:200]}"
        for rule in found
        if rule["impact"] in SEVERE
        for node in rule["nodes"]
        if not (rule["id"] in NOT_OURS and page.locator(_selector(node)).first.evaluate(IN_NAVIGATION))
    ]


def _selector(node: dict[str, Any]) -> str:
    """Selector of an element; inside of a shadow root, that of the element there."""
    last = node["target"][-1]
    return str(last if isinstance(last, str) else last[-1])


def test_what_nobody_could_use_is_found(page: Page, samples: Any):
    """The measure itself; and the navigation has every page."""
    open_page(page, samples)
    links = page.get_by_test_id("stSidebarNavLink")
    addresses = [str(link.get_attribute("href")).rpartition("/")[2] or "start" for link in links.all()]
    assert sorted(addresses) == sorted(page_names())
    page.evaluate("document.querySelector('[data-testid=stMain]').append(document.createElement('button'))")
    assert any(each.startswith("button-name (critical)") for each in violations(page))


@pytest.fixture
def with_jobs(start: Callable[..., Server], runs: Path, tmp_path: Path) -> Iterator[Server]:
    """A dashboard beside one job that runs and one that failed."""
    root = Path(shutil.copytree(runs, tmp_path / "own"))
    write_marks(root / "base", Marks(pinned=True, tags=("paper",), note="first"))
    control.start(root, "refused", ["train", "dpo", "--out", str(root / "refused"), "--base", "nowhere"])
    words = [
        "train",
        "pretrain",
        "--out",
        str(root / "long"),
        "--steps",
        "100000",
        "--preset",
        "tiny",
        "--log-every",
        "1",
    ]
    live = control.start(root, "long", words, title="Train long")
    yield start(root)
    control.stop(live)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_jobs_and_forms_that_a_button_opens(page: Page, with_jobs: Server, scheme: Any):
    page.emulate_media(color_scheme=scheme)
    with_jobs.admit(page.context)
    open_page(page, with_jobs, "overview?run=base&overview_tab=One+run")
    expect(page.get_by_role("button", name="Jobs: 1 ended, 1 failed")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="Stop", exact=False).first).to_be_visible()
    assert violations(page) == []
    for name in ("Jobs: 1 ended, 1 failed", "Tags", "Note", "Rename", "Delete"):
        page.get_by_role("button", name=name, exact=False).first.click()
        expect(page.get_by_test_id("stPopoverBody").first).to_be_visible()
        assert violations(page) == [], name
        page.keyboard.press("Escape")
