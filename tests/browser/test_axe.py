"""Pages under axe-core: nothing of impact serious or critical (test_every_page.py looks at all of them)."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from dashboard.pages import page_names
from tests.browser.pages import open_page

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
    """What axe-core finds of the page as it is, a line each."""
    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {' '.join(node['target'][-1].split())} {node['html'][:200]}"
        for rule in found
        if rule["impact"] in SEVERE
        for node in rule["nodes"]
        if not (rule["id"] in NOT_OURS and page.locator(node["target"][-1]).first.evaluate(IN_NAVIGATION))
    ]


def test_what_nobody_could_use_is_found(page: Page, samples: Any):
    """The measure itself; and the navigation has every page."""
    open_page(page, samples)
    links = page.get_by_test_id("stSidebarNavLink")
    addresses = [str(link.get_attribute("href")).rpartition("/")[2] or "start" for link in links.all()]
    assert sorted(addresses) == sorted(page_names())
    page.evaluate("document.querySelector('[data-testid=stMain]').append(document.createElement('button'))")
    assert any(each.startswith("button-name (critical)") for each in violations(page))
