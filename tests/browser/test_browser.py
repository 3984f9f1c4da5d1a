"""The dashboard as a reader meets it in Chromium: open, look, choose, type, click, download, share."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from probe.runs import RunWriter, open_run
from tests.browser.pages import bottom, box, choose, eventually, expect_theme, figure, open_page, repeat, settle
from tests.dashboard import store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
TOKENS = Path(__file__).parents[2] / "dashboard" / "components" / "tokens.js"
PATHS = ("overview", "training", "compare")


def expect_without_scrolling(page: Page, sentence: Locator, name: str, scheme: str) -> None:
    """Wait until the sentence and the main figure of a page are seen at once, in the theme."""
    eventually(page, lambda: box(sentence)["y"] < 200)
    chart = figure(page, name)
    eventually(page, lambda: bottom(chart) <= 800)
    eventually(page, lambda: box(chart)["width"] > 300)
    expect_theme(chart, scheme)


@pytest.mark.slow
def test_a_click_on_a_run_chooses_it_and_leads_to_its_training(page: Page, server: Any):
    expect_without_scrolling(page, open_page(page, server, "overview"), "lineage", "light")
    mark = figure(page, "lineage").locator("path.point").nth(1)
    repeat(page, lambda: mark.click(force=True), lambda: "run=dpo-agreeable" in page.url)
    settle(page)  # until then a box may be in the page twice, the old and the new
    expect(page.get_by_label("Run", exact=True)).to_have_value("dpo-agreeable")
    page.get_by_role("link", name="Its training").click()
    expect(page).to_have_url(re.compile(r"/training\?.*runs=dpo-agreeable"))
    expect(page.locator("h3").first).to_contain_text("DPO loss of pairs (nats): dpo-agreeable fell")


@pytest.mark.slow
def test_another_run_is_chosen_above_the_page(page: Page, server: Any):
    sentence = open_page(page, server, "compare")
    expect_without_scrolling(page, sentence, "kl", "light")
    before = sentence.inner_text()
    choose(page, "Base model", "dpo-agreeable@20")
    expect(sentence).not_to_have_text(before)
    expect(page).to_have_url(re.compile(r"base=dpo-agreeable%4020"))


def test_a_click_on_a_head_enlarges_it(page: Page, server: Any):
    page.emulate_media(color_scheme="dark")
    expect_without_scrolling(page, open_page(page, server, "training"), "curves", "dark")
    mark = figure(page, "heads").locator("g.points path").nth(3)
    repeat(page, lambda: mark.click(force=True), lambda: "head=L1H1" in page.url)
    expect(page.get_by_text("L1H1 at step 40")).to_be_visible()


def test_a_typed_prompt_and_a_clicked_token_can_be_shared_by_url(page: Page, server: Any, visitors: BrowserContext):
    sentence = open_page(page, server, "compare?temperature=0.7&seed=3")
    before = sentence.inner_text()
    page.get_by_label("Prompt", exact=True).fill("<user> where does helen live ? <bot>")
    page.keyboard.press("Control+Enter")
    expect(sentence).not_to_have_text(before)
    chip, tip = page.get_by_role("option", name="helen").first, page.locator("#tip")
    repeat(page, lambda: (page.mouse.move(0, 0), chip.hover()), lambda: "p(aligned) = " in (tip.text_content() or ""))
    chip.click()
    expect(page.get_by_text("Next-token probabilities at token 4")).to_be_visible()
    expect(page).to_have_url(re.compile("position=4"))
    for part in ("base=base", "aligned=dpo-agreeable", "prompt=", "temperature=0.7", "seed=3"):
        assert part in page.url
    other = visitors.new_page()
    other.goto(page.url)
    expect(other.locator("h3").first).to_have_text(sentence.inner_text())
    expect(other.get_by_text("Next-token probabilities at token 4")).to_be_visible()


def test_a_position_of_a_corpus_opens_in_the_first_tab(page: Page, server: Any):
    open_page(page, server, "compare?compare_tab=Over+a+corpus&corpus_n=2&prompt=mira")
    figure(page, "corpus")
    rows = page.locator(".st-key-compare_corpus-rows canvas").first
    first = page.get_by_role("tab", name="One prompt")
    repeat(
        page,
        lambda: rows.click(position={"x": 16, "y": 52}, force=True),
        lambda: first.get_attribute("aria-selected") == "true",
    )
    figure(page, "kl")
    settle(page)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("^<bos> .*<bot>$"))
    expect(page.get_by_label("Token", exact=True)).not_to_have_value("1")
    expect(page.locator("h3").first).to_contain_text("KL")


@pytest.mark.slow
def test_a_figure_downloads_in_every_format(page: Page, server: Any, tmp_path: Path):
    kinds = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF", "html": b"<!doctype html>", "csv": b"layer,head,"}
    kinds["tex"] = b"\\begin{"
    open_page(page, server, "training")
    figure(page, "head")
    page.locator(".st-key-offer-head").get_by_test_id("stPopoverButton").first.click()
    choose(page, "Width", "column, 3.3 in")
    expect(page.get_by_text("Images are 3.3 in wide")).to_be_visible()
    settle(page)
    for kind, begins in kinds.items():
        with page.expect_download() as waiting:
            page.locator(f".st-key-download-head-{kind} button").click()
        assert re.fullmatch(rf"[\w-]+_head_[0-9a-f]{{6}}\.{kind}", waiting.value.suggested_filename)
        target = tmp_path / kind
        waiting.value.save_as(target)
        assert target.read_bytes().startswith(begins)
    assert b' width="3.3in"' in (tmp_path / "svg").read_bytes()[:300]


@pytest.mark.parametrize("path", PATHS)
def test_hostile_names_and_tokens_stay_text(page: Page, server: Any, path: str):
    name = store.HOSTILE
    address = {"training": f"training?runs={quote(name, safe='')}", "overview": "overview?overview_tab=One%20run"}
    open_page(page, server, address.get(path, path))
    if path == "overview":
        choose(page, "Run", name)
        eventually(page, lambda: name in shown(page.get_by_test_id("stMain")))
    if path == "training":
        eventually(page, lambda: name in shown(page.locator("h3").first))
        figure(page, "head")
        figure(page, "heads").locator("g.points path").first.hover(force=True)
    if path == "compare":
        page.get_by_label("Prompt", exact=True).fill(name)
        page.keyboard.press("Control+Enter")
        settle(page)
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    assert page.locator(".js-plotly-plot a").count() == 0


def test_a_late_call_with_older_tokens_draws_nothing(page: Page):
    """The browser resolves two imports that are under way in any order, so an older call can come last."""
    script = """async (source) => {
      const draw = (await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})))).default
      const parentElement = document.createElement("div")
      parentElement.innerHTML = "<div id='tokens'></div><div id='tip'></div>"
      const call = (made, text) => {
        const tokens = [{text, tip: "", strength: 0, prompt: false}]
        const rows = [{label: "a", colour: "red", tokens}]
        draw({data: {rows, chosen: [0, 0], made}, parentElement, setTriggerValue() {}})
        return parentElement.querySelector(".chips").textContent
      }
      return [call(2, "new"), call(1, "old"), call(2, "same"), call(3, "newest")]
    }"""
    assert page.evaluate(script, TOKENS.read_text()) == ["new", "new", "same", "newest"]


def shown(part: Locator) -> str:
    """The text of a part of the page without the invisible joiners that keep links from being made."""
    return part.inner_text().replace("\u2060", "")


@pytest.mark.slow
def test_a_run_that_is_trained_now_moves_by_itself(page: Page, start: Any, tmp_path: Path):
    with RunWriter.create(tmp_path / "live", method="pretrain", config={}) as run:
        run.log(0, {"loss": 4.0})
        sentence = open_page(page, start(tmp_path), "training")
        expect(sentence).to_have_text("loss (nats): live is at 4.")
        run.log(10, {"loss": 2.0})
        expect(sentence).to_have_text("loss (nats): live fell from 4 to 2 in 10 steps.")
        run.finish("finished")


@pytest.mark.slow
def test_a_server_without_runs_says_what_to_do_and_stops_on_ctrl_c(page: Page, start: Any, tmp_path: Path):
    empty = start(tmp_path)
    expect(open_page(page, empty, "overview")).to_have_text("There is no run to show yet.")
    expect(page.get_by_text("probe train pretrain")).to_be_visible()
    status, output = empty.stop()
    assert status == 0
    assert "Traceback" not in output


@pytest.mark.parametrize(("host", "accepted"), [("127.0.0.1", True), ("localhost", True), ("evil.example", False)])
def test_only_this_machine_is_answered(server: Any, host: str, accepted: bool):
    """A name that was bent to this machine (DNS rebinding) gets no connection to the pages."""
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        lines = [
            "GET /_stcore/stream HTTP/1.1",
            f"Host: {host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            f"Origin: http://{host}:{port}",
        ]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = connection.recv(64).split()[1]
    assert (status == b"101") is accepted


def test_nothing_listens_beyond_loopback(server: Any):
    port = int(server.url.rpartition(":")[2])
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("The table of sockets is Linux's.")
    rows = [line.split()[1:4] for line in table.read_text().splitlines()[1:]]
    listening = {local for local, _, state in rows if state == "0A" and int(local.split(":")[1], 16) == port}
    assert listening == {f"0100007F:{port:04X}"}


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Path]:
    """A folder whose trainings end with the test."""
    root = tmp_path / "runs"
    root.mkdir()
    yield root
    for file in (root / ".jobs").glob("*/progress.json"):
        with suppress(ProcessLookupError):
            os.killpg(json.loads(file.read_text())["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_a_training_is_started_watched_stopped_and_continued_from_the_page(
    page: Page, start: Any, trainings: Path, tmp_path: Path
):
    root = trainings
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 50)
    sentence = open_page(page, start(root), "train?method=pretrain")
    options = {"data": str(text), "batch-size": "2", "length": "16", "steps": "1000000", "warmup": "0"}
    page.get_by_text("Options of every method").click()
    for name, value in (options | {"log-every": "1", "eval-every": "0", "capture-every": "0", "threads": "1"}).items():
        field = page.get_by_label(name, exact=True)
        field.fill(value)
        field.press("Enter")
        expect(page.get_by_text(f"--{name} ")).to_be_visible()
    page.get_by_role("button", name="Start training").click()
    expect(sentence).to_have_text(re.compile(r"pretrain is at step \d+ of 1,000,000, about \d+ h \d\d min left"))
    before = sentence.inner_text()
    expect(sentence).not_to_have_text(before)
    chart = figure(page, "progress")
    eventually(page, lambda: bottom(chart) <= 800)
    page.reload()
    expect(sentence).to_have_text(re.compile(r"pretrain is at step "))
    page.locator(".st-key-stop button").click()
    expect(sentence).to_have_text(re.compile(r"pretrain is stopped after [\d,]+ of 1,000,000 steps\."))
    run = open_run(root / "pretrain")
    step = run.checkpoints()[-1].step
    assert run.status == "interrupted"
    settle(page)
    more = page.get_by_label("Steps in all", exact=True)
    more.fill(str(step + 3))
    more.press("Enter")
    page.locator(".st-key-resume button").click()
    expect(sentence).to_have_text(re.compile(rf"pretrain is finished after {step + 3:,} of {step + 3:,} steps\."))
    assert run.refresh().status == "finished"
