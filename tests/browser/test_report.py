"""A report in Chromium: opened without a network it draws all its figures, and on paper sections begin their pages."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from probe.report.run_report import report
from probe.runs import open_run
from tests.browser.pages import PAPER, SCHEMES
from tests.dashboard import store
from tests.places import SAMPLES

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two sample runs and a hostile one."""
    folder = tmp_path_factory.mktemp("report")
    runs = [open_run(SAMPLES / name) for name in ("base", "dpo-agreeable")] + [open_run(store.hostile(folder))]
    (folder / "report.html").write_text(report(runs, ["sycophancy"], methods={}), encoding="utf-8")
    return folder / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_report_opens_without_network_and_is_printed(chromium: Browser, written: Path, scheme: Any, tmp_path: Path):
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme, offline=True)
    page, wrong = context.new_page(), []  # type: tuple[Any, list[str]]
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    page.goto(written.as_uri())
    expect(page.locator("body[data-drawn]")).to_be_visible()
    charts = page.locator(".chart")
    assert charts.count() > 10
    first = charts.first.bounding_box()
    assert first
    assert first["y"] + first["height"] <= 800  # the first screen has it whole
    folded = page.locator("details:not([open])")
    assert folded.count() == 2  # of three runs one is unfolded
    assert page.locator("details:not([open]) .main-svg").count() == 0
    for _ in range(2):
        folded.first.locator("summary").click()
    expect(page.locator("details .chart:not(:has(.main-svg))")).to_have_count(0)
    assert page.locator(".chart .main-svg:first-child").count() == charts.count()
    page.locator("summary").last.click()
    for event, count in (("beforeprint", 0), ("afterprint", 1)):
        page.evaluate(f"dispatchEvent(new Event('{event}'))")
        expect(folded).to_have_count(count)
    assert page.locator(".chart .trace, .chart .bars, .chart .point").count() > charts.count()
    expect(charts.first.locator(".main-svg").first).to_have_css("background-color", PAPER[scheme])
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    hover = charts.first.locator("path.point").first
    hover.scroll_into_view_if_needed()
    hover.hover(force=True)
    expect(charts.first.locator(".hoverlayer .hovertext")).to_have_count(1)
    assert page.locator("img, iframe, a[href^=http], a[href^=javascript]").count() == 0
    file = tmp_path / "report.pdf"
    page.pdf(path=file, prefer_css_page_size=True, print_background=True)
    starts = section_starts(file.read_bytes())
    own = [f"section-{i + 1}" for i in range(page.locator("section").count()) if i]
    assert {name for name, (_, top) in starts.items() if top} >= set(own)
    pages = [starts[name][0] for name in own]
    assert len(pages) == len(set(pages)) > 5
    expect(charts.first.locator(".main-svg").first).to_have_css("background-color", PAPER[scheme])
    context.close()
    assert not wrong


def section_starts(pdf: bytes) -> dict[str, tuple[int, bool]]:
    """Of each section in a PDF that Chromium wrote, the object of its page, and whether it begins at its top."""
    number = re.search(rb"/Dests (\d+) 0 R", pdf)
    assert number
    table = re.search(rb"\n%s 0 obj\n<<(.*?)>>\nendobj" % number[1], pdf, re.DOTALL)
    assert table
    found = re.findall(rb"/(section-\d+) \[(\d+) 0 R /XYZ [\d.]+ ([\d.]+)", table[1])
    margin = 842 - 60  # points, of A4 from below, less the margin
    return {name.decode(): (int(page), float(y) > margin) for name, page, y in found}
