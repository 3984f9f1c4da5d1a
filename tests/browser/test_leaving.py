"""Pages that are left while they compute: the work ends, who waits sees what for, and no old sentence stays."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_S, Server

PLUGIN = """
import os
import time
from pathlib import Path

import probe

PLACE = Path(os.environ["HELD"])


@probe.analysis("compare", title="Endless reading")
def read(base, aligned):
    (PLACE / "read").touch()
    while True:  # ends inside of the model, when the page is left
        base.logits("mira")


@probe.analysis("logits", title="Held work")
def hold(base, aligned):
    (PLACE / "held").touch()
    while not (PLACE / "go").exists():  # looks at nothing in between
        time.sleep(0.01)
    return "done"
"""


def wait_for(file: Path) -> None:
    """Wait until a computation has begun."""
    end = time.monotonic() + PATIENCE_S
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} never began"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_page_that_is_left_computes_no_longer_and_who_waits_is_told_what_for(
    page: Page,
    start: Callable[..., Server],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    plugin = tmp_path / "held.py"
    plugin.write_text(PLUGIN)
    monkeypatch.setenv("PROBE_PLUGINS", os.pathsep.join(filter(None, [os.environ.get("PROBE_PLUGINS"), str(plugin)])))
    monkeypatch.setenv("HELD", str(tmp_path))
    server = start(runs)
    choices = "base=base&aligned=dpo-agreeable&prompt=mira+lives+in"
    page.goto(f"{server.url}/compare?{choices}")
    wait_for(tmp_path / "read")
    page.get_by_role("link", name="Attention", exact=True).click()
    expect(
        page.get_by_role("heading", name="changed its attention most")
    ).to_be_visible()  # nothing else ends the endless reading
    expect(page.get_by_text("Endless reading")).to_have_count(0)

    other = page.context.new_page()
    other.goto(f"{server.url}/logits?{choices}")
    wait_for(tmp_path / "held")
    page.get_by_role("link", name="Side by side", exact=True).click()  # what it says is kept
    sentence = page.get_by_role("heading", name="dpo-agreeable answers")
    expect(sentence).to_be_visible()
    page.get_by_role("tab", name="Weights", exact=True).click()
    expect(page.get_by_text("Waiting for another computation").first).to_contain_text("Held work (base, dpo-agreeable)")
    expect(sentence).to_have_count(0)
    (tmp_path / "read").unlink()
    (tmp_path / "go").touch()
    expect(other.get_by_text("done", exact=True)).to_be_visible()
    wait_for(tmp_path / "read")
    page.close()  # a page that is closed computes no longer
    other.goto(f"{server.url}/attention?{choices.replace('mira', 'oscar')}")
    expect(other.get_by_role("heading", name="changed its attention most")).to_be_visible()
