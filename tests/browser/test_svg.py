"""An exported SVG in Chromium: its text is drawn with the font inside, also where this machine has no font at all."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from playwright.sync_api import Page

from probe.plotting import export
from probe.plotting.export import FONTS
from probe.plotting.paper import Paper

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
WIDTHS = "[...document.querySelectorAll('text')].map(text => text.getComputedTextLength())"


def fonts_of(page: Page, file: Path) -> list[dict[str, Any]]:
    """The fonts that the letters of an SVG are drawn with, as Chromium tells of each of its texts."""
    page.goto(file.as_uri())
    page.evaluate("document.fonts.ready")
    tools = page.context.new_cdp_session(page)
    for domain in ("DOM", "CSS"):
        tools.send(f"{domain}.enable")
    root = tools.send("DOM.getDocument")["root"]["nodeId"]
    texts = tools.send("DOM.querySelectorAll", {"nodeId": root, "selector": "text"})["nodeIds"]
    return [font for text in texts for font in tools.send("CSS.getPlatformFontsForNode", {"nodeId": text})["fonts"]]


@pytest.mark.parametrize("family", FONTS)
def test_the_text_is_drawn_with_the_font_inside(context: Any, tmp_path: Path, family: str):
    figure = go.Figure(go.Scatter(x=[0, 1], y=[-0.5, 2.5]))
    figure.update_layout(xaxis_title="log-probability → Δ, β ≤ 1", yaxis_title="naïve, 95 %")
    file = export.save(figure, tmp_path / "a.svg", font=family, width="single")
    page = context.new_page()
    fonts = fonts_of(page, file)
    assert len(fonts) > 6
    assert {(font["familyName"], font["isCustomFont"]) for font in fonts} == {(FONTS[family], True)}
    assert len(file.read_bytes()) < 60_000
    assert len(export.render(figure, None, "svg", paper=Paper(font="Fira Sans"))) < 30_000
