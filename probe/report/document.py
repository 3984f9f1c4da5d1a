"""A document as one HTML file: sections of text, tables, code and interactive figures, also for printing.

It needs no network and cannot access one: plotly.js is inside, a Content-Security-Policy allows only the two scripts of
the file by their hashes, and all content is inserted as text, never as markup. Figures are drawn from their data in the
theme of the reader's system, and light on paper, where each section begins on a new page.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, tostring

from probe.plotting.offline import offline
from probe.texts import visible

if TYPE_CHECKING:
    import plotly.graph_objects as go

FOLDER = Path(__file__).parent
NEEDS_CODE = frozenset({"splom", "parcoords", "scatterpolargl", "scattergl"})
"""Kinds of traces for which plotly.js generates code, which the policy of the file forbids."""
SOLID = frozenset({"cone", "isosurface", "mesh3d", "scatter3d", "streamtube", "surface", "volume"})
"""Kinds of three-dimensional traces, to which the same applies."""
FLAT = {"scattergl": "scatter", "scatterpolargl": "scatterpolar"}
"""Kind of trace to an equivalent kind that needs no generated code."""


class HtmlReport:
    """A document that is written from top to bottom; all content is shown literally."""

    def __init__(self, title: str, facts: Mapping[str, object]) -> None:
        """Begin with the title.

        Args:
            title: title of the document.
            facts: origin of the document, for its head.
        """
        self.title, self.facts = title, facts
        self.main = Element("main")
        self._header = SubElement(self.main, "header")
        self._place = self._section = self._header
        _text(self._header, "h1", title)
        self._contents: list[tuple[str, str]] = []
        self._count = 0

    def section(self, title: str, *, page: bool = True) -> None:
        """Begin a section; on paper it begins a page unless `page` is False."""
        name = f"section-{len(self._contents) + 1}"
        self._contents.append((name, title))
        self._section = SubElement(self.main, "section", {"id": name} | ({"class": "page"} if page else {}))
        self._place = self._section
        _text(self._place, "h2", title)

    def heading(self, text: str) -> None:
        """Begin a subsection."""
        self._place = self._section
        _text(self._place, "h3", text)

    def fold(self, text: str, *, unfolded: bool = False) -> None:
        """Begin a subsection that a click on its heading unfolds; on paper it is unfolded.

        Args:
            text: text of the heading.
            unfolded: whether it is unfolded initially.
        """
        self._place = SubElement(self._section, "details", {"open": ""} if unfolded else {})
        _text(SubElement(self._place, "summary"), "h3", text)

    def say(self, text: str, kind: str = "") -> None:
        """Write a paragraph; text between backticks is code, and `kind` is a class of the style sheet."""
        _prose(SubElement(self._place, "p", {"class": kind} if kind else {}), text)

    def answers(self, sentences: Sequence[tuple[str, str]]) -> None:
        """Write sentences that answer the document's question, each after its subject."""
        steps = SubElement(self._place, "ul", {"class": "answers"})
        for about, sentence in sentences:
            item = SubElement(steps, "li")
            _text(item, "strong", about)
            _prose(SubElement(item, "span"), f" {sentence}")

    def table(
        self, columns: Sequence[object], rows: Iterable[Sequence[object]], *, kind: str = "", caption: str = ""
    ) -> None:
        """Write a table; a tuple as a cell is a text, a smaller text below it, and a text shown on hover."""
        frame = SubElement(self._place, "div", {"class": "table"})
        table = SubElement(frame, "table", {"class": kind} if kind else {})
        if caption:
            _text(table, "caption", caption)
        head = SubElement(SubElement(table, "thead"), "tr")
        for name in columns:
            _cell(head, "th", name)
        body = SubElement(table, "tbody")
        for row in rows:
            line = SubElement(body, "tr")
            for cell in row:
                _cell(line, "td", cell)

    def code(self, lines: Sequence[str]) -> None:
        """Write lines to type in a terminal; each remains one line when copied."""
        block = SubElement(self._place, "pre")
        for line in lines:
            _text(block, "code", line)

    def figure(self, chart: "go.Figure", title: str, height: int | None = None) -> None:
        """Write a figure with its title; kinds of traces that cannot be drawn here are named instead."""
        frame = SubElement(self._place, "figure")
        _text(frame, "figcaption", title)
        content, left_out = _content(chart)
        if left_out:
            _text(frame, "p", f"Not drawn in this file: {', '.join(left_out)}. A notebook or the dashboard draws it.")
        if not content["data"]:
            return
        tall = height or content["layout"].get("height") or 450
        content["layout"]["height"] = tall
        self._count += 1
        name = f"figure-{self._count}"
        SubElement(frame, "div", {"class": "chart", "id": name, "style": f"min-height: {int(tall)}px"})
        data = SubElement(frame, "script", {"type": "application/json", "id": f"{name}-data"})
        data.text = _json(content)

    def html(self) -> str:
        """Return the text of the HTML file."""
        style, script = (FOLDER / "document.css").read_text(), (FOLDER / "document.js").read_text()
        plotly = _plotly()
        policy = (
            f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; style-src 'unsafe-inline'; "
            "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
        )
        page = Element("html", lang="en")
        head = SubElement(page, "head")
        SubElement(head, "meta", charset="utf-8")
        SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": policy})
        SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
        SubElement(head, "meta", {"name": "color-scheme", "content": "light dark"})
        SubElement(head, "meta", name="provenance", content=visible(json.dumps(self.facts, default=str)))
        _text(head, "title", self.title)
        SubElement(head, "style").text = style
        body = SubElement(page, "body")
        self._list_contents()
        body.append(self.main)
        themes = SubElement(body, "script", {"type": "application/json", "id": "themes"})
        themes.text = _json(_themes())
        SubElement(body, "script").text = plotly
        SubElement(body, "script").text = script
        return "<!doctype html>\n" + tostring(page, encoding="unicode", method="html")

    def _list_contents(self) -> None:
        for old in self._header.findall("nav"):
            self._header.remove(old)
        steps = SubElement(SubElement(self._header, "nav"), "ol")
        for name, title in self._contents:
            _text(SubElement(steps, "li"), "a", title).set("href", f"#{name}")


def today() -> str:
    """Return today's date in UTC."""
    return datetime.now(UTC).date().isoformat()


def _text(parent: Element, tag: str, text: object, kind: str = "") -> Element:
    element = SubElement(parent, tag, {"class": kind} if kind else {})
    element.text = visible(text)
    return element


def _prose(element: Element, text: object) -> None:
    """Write a text into an element; text between backticks is code."""
    first, *rest = re.split("`([^`]+)`", visible(text))
    element.text = first
    for code, tail in zip(rest[::2], rest[1::2], strict=True):
        _text(element, "code", code).tail = tail


def _cell(parent: Element, tag: str, cell: object) -> None:
    first, second, hover = (*cell, "", "")[:3] if isinstance(cell, tuple) else (cell, "", "")
    element = _text(parent, tag, first)
    if second:
        _text(element, "small", second)
    if hover:
        element.set("title", visible(hover))


def _content(chart: "go.Figure") -> tuple[dict[str, Any], list[str]]:
    """Return the data that draw a figure without network and generated code, and the kinds of traces left out."""
    from probe.plotting.theme import DARK, LIGHT, apply

    light, dark = (offline(json.loads(_figure_json(apply(chart, theme)))) for theme in (LIGHT, DARK))
    drawn, left_out = [], []
    for trace in light["data"]:
        kind = FLAT.get(trace.get("type", "scatter"), trace.get("type", "scatter"))
        if kind in NEEDS_CODE | SOLID:
            left_out.append(kind)
        else:
            drawn.append(trace | {"type": kind})
    change = {name: value for name, value in dark["layout"].items() if value != light["layout"].get(name)}
    return {"data": drawn, "layout": light["layout"], "dark": change}, list(dict.fromkeys(left_out))


def _figure_json(chart: "go.Figure") -> str:
    import plotly.io

    return plotly.io.to_json(chart, engine="json", validate=False)


def _themes() -> dict[str, Any]:
    from probe.plotting.theme import DARK, LIGHT, template

    return {theme.name: template(theme).to_plotly_json() for theme in (LIGHT, DARK)}


def _json(value: Any) -> str:
    """Return a value as JSON that cannot close a script element."""
    return json.dumps(value).replace("<", "\\u003c")


@cache
def _plotly() -> str:
    """Return plotly.js with a browser's line ends, over which the hash is computed."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
