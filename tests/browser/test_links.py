"""Links and files of others in Chromium: what they name waits for a click, and nothing is fetched from elsewhere."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from probe.experiments.result import read_figure
from probe.plotting.export import to_html
from tests.browser.pages import eventually, figure, open_page, settle
from tests.models import saved_lm
from tests.plotting.test_offline import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_a_link_waits_for_the_person(page: Page, server: Any, tmp_path: Path):
    """The same words for what is there and what is not; a click opens it, and so does typing it."""
    there = saved_lm(tmp_path / "m0d3l")
    said = []
    for path in (there, there.with_name("n0n3")):
        page.goto(f"{server.url}/logits?base={quote(f'{path}', safe='')}")
        note = page.get_by_test_id("stCaptionContainer").filter(has_text="none of the run directories")
        expect(note.first).to_be_visible()
        expect(page.get_by_role("button", name=re.compile("^Open ")).first).to_be_visible()
        settle(page)
        said.append(page.get_by_test_id("stMain").inner_text().replace(path.name, ""))
    assert said[0] == said[1]
    page.goto(f"{server.url}/logits?base={quote(f'{there}', safe='')}")
    page.get_by_role("button", name=re.compile("^Open ")).click()
    figure(page, "lens")
    open_page(page, server, "logits")
    page.get_by_role("combobox", name="Base model").fill(str(there))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("base=.*m0d3l"))
    figure(page, "lens")
    settle(page)
    assert page.get_by_role("button", name=re.compile("^Open ")).count() == 0


@pytest.mark.slow
def test_the_first_address_that_a_server_is_asked_for_is_found(page: Page, start: Any, runs: Path):
    """Streamlit knows the pages only once the entrypoint has run, and says of others that they do not exist."""
    open_page(page, start(runs), "interventions?base=base&aligned=dpo-agreeable")
    expect(page.get_by_role("dialog")).to_have_count(0)


CHOSEN = [("compare", "Token", "5"), ("logits", "Token", "3")]
"""Pages, and a token that a reader chooses there."""


@pytest.mark.slow
def test_a_page_asks_for_nothing_that_is_not_there(context: BrowserContext, server: Any):
    """Nor at an address of its own, where Streamlit looks for the server below it first."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    for path in ("", "overview", "compare?base=base"):
        open_page(page, server, path)
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page).to_have_url(re.compile("/overview"))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(("path", "label", "token"), CHOSEN, ids=[path for path, *_ in CHOSEN])
def test_back_brings_the_chosen_token_again(page: Page, server: Any, path: str, label: str, token: str):
    """So do the menu and, for somebody else, the link."""
    open_page(page, server, path)
    box = page.get_by_label(label, exact=True).first
    before = box.input_value()
    assert before != token
    box.fill(token)
    box.press("Enter")
    expect(page).to_have_url(re.compile(rf"position={token}\b"))
    settle(page)
    link = page.url
    go_to(page, "interventions")
    page.go_back()
    expect(page).to_have_url(re.compile(rf"/{path.partition('?')[0]}\?.*position={token}\b"))
    expect(box).to_have_value(token)
    go_to(page, "interventions")
    go_to(page, path.partition("?")[0])
    expect(box).to_have_value(token)
    page.goto("about:blank")
    page.goto(link)
    expect(box).to_have_value(token)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_choice_holds_although_its_page_was_left_at_once(page: Page, server: Any, busy: bool):
    """The run with the choice is broken off before it draws; or never begins, if the server was in another one."""
    held: list[Any] = []
    holds = False

    def meet(browser: WebSocketRoute) -> None:
        far = browser.connect_to_server()
        browser.on_message(lambda message: held.append(lambda: far.send(message)) if holds else far.send(message))

    page.route_web_socket("**/_stcore/stream", meet)
    open_page(page, server, "logits")
    box = page.get_by_label("Token", exact=True).first
    holds = True
    if busy:
        page.keyboard.press("r")
    box.fill("3")
    box.press("Enter")
    expect(page).to_have_url(re.compile(r"position=3\b"))
    page.get_by_test_id("stSidebarNav").locator("a[href$='/interventions']").click()
    eventually(page, lambda: len(held) == 2 + busy)
    holds = False
    for send in held:
        send()
    expect(page).to_have_url(re.compile("/interventions"))
    settle(page)
    page.go_back()
    expect(page).to_have_url(re.compile(r"/logits\?.*position=3\b"))
    expect(box).to_have_value("3")


def go_to(page: Page, path: str) -> None:
    """Open a page by the menu."""
    link = page.get_by_test_id("stSidebarNav").locator(f"a[href$='/{path}']")
    title = link.inner_text().splitlines()[-1]
    link.click()
    expect(page).to_have_url(re.compile(f"/{path}"))
    expect(page.get_by_test_id("stMain").get_by_role("heading", name=title, level=5)).to_be_visible()
    settle(page)
    expect(page.locator("h3").first).to_be_visible()
    settle(page)


HOSTILE_LINKS = {
    "compare": "base=" + "x" * 5000,
    "logits": "base=someone/model%23value&log_position=1e400",
    "training": "rollout=1e400&step=nan&runs=%00&smoothing=-inf",
    "rewards": "rew_model=~nobody-of-this-name&rew_n=1e400&rew_each=inf&rew_kinds=nobody&rew_steps=-1e400",
    "sycophancy": "sycophancy.n=1e400&sycophancy.data=%2F&also=%1B%5D0%3Bx",
    "interventions": "int_layer=-1e400&int_at=inf&int_alpha=%E2%80%AE",
    "train": "method=%3Cimg%20src%3Dx%3E&job=..%2F..",
}


@pytest.mark.parametrize("path", HOSTILE_LINKS)
def test_a_hostile_link_is_answered_by_the_page(page: Page, server: Any, path: str):
    page.goto(f"{server.url}/{path}?{HOSTILE_LINKS[path]}")
    expect(page.get_by_test_id("stMain").locator("h3, [data-testid=stCaptionContainer]").first).to_be_visible()
    settle(page)
    assert page.get_by_test_id("stException").count() == 0
    assert page.get_by_text("did not foresee").count() == 0


def test_an_exported_figure_of_a_stranger_fetches_nothing(context: BrowserContext, tmp_path: Path):
    (tmp_path / "figure.json").write_text(json.dumps(HOSTILE))
    (tmp_path / "figure.html").write_bytes(to_html(read_figure(tmp_path / "figure.json"), {"figure": "x"}))
    asked: list[str] = []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "figure.html").as_uri())
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible()
    page.wait_for_timeout(500)
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert page.locator(".js-plotly-plot a[href]").count() == 0
    expect(page.locator(".js-plotly-plot .gtitle")).to_contain_text("<a href=")
