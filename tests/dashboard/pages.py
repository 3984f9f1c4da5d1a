"""What the tests of all pages read off a page: its text as a reader sees it, its figures as Plotly gets them."""

import base64
import functools
import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Block, Element, Markdown
from streamlit.util import calc_hash

from dashboard import access
from dashboard.markdown import split_finding
from probe.analyses.catalogue import page_key

manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)
"""AppTest looks through all installed packages whenever it opens a page: a third of a second, here only once."""
Show = Callable[..., AppTest]
"""The fixture that opens a page."""
FEW: Mapping[str, str | list[str]] = {
    "parts_n": "2",
    "parts_kinds": ["Blocks"],
    "first_n": "8",
    "first_count": "2",
    "corpus_n": "2",
    "line.sycophancy.n": "2",
    "lag_profile_resamples": "1",
    "lag_linear_orders": "1, 2",
    "lag_linear_positions": "2",
}
"""The query that keeps what pages compute short."""


class Everyone(access.Gate):
    """AppTest has no server, so no request brings the cookie that `Gate` looks for."""

    def admits(self, cookies: Mapping[str, str]) -> bool:
        return True


def unescape(text: str) -> str:
    """What Markdown shows of text that `plain` escaped."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("\u2060", "")


def turn_to(app: AppTest, page: str) -> AppTest:
    """Choose the page of a file; before its first run AppTest takes the file's name for the end of the address."""
    app._page_hash = calc_hash(page_key(page))
    return app


def again(app: AppTest, timeout: float | None = None) -> AppTest:
    """Run the page again; `AppTest` itself knows no values beyond the options that were offered."""
    for box in app.selectbox:
        if box.value is not None and box.value not in box.options:
            box.options.append(box.value)
    return app.run(timeout=timeout)


def open_tab(app: AppTest, title: str) -> AppTest:
    """Open a tab of a page."""
    (bar,) = app.get("tab_container")
    app.session_state[bar.proto.tab_container.query_param_key] = title
    return again(app)


def every_tab(app: AppTest) -> Iterator[AppTest]:
    """The page with each of its tabs open, the one that is open first; as it is, where it has none."""
    yield app
    for title in [tab.label for tab in app.tabs if tab.label != opened(app)]:
        yield open_tab(app, title)


def opened(app: AppTest) -> str | None:
    """The tab that a page shows."""
    bars = app.get("tab_container")
    return app.session_state[bars[0].proto.tab_container.query_param_key] if bars else None


def read(app: AppTest) -> str:
    """Everything that a page says as text, Markdown escapes resolved."""
    parts = [*app.subheader, *app.markdown, *app.caption, *app.text, *app.error, *app.warning]
    return "\n".join(unescape(str(part.value)) for part in parts)


def heading(app: AppTest) -> str:
    """The sentence that opens the page, with what stands below its heading if it is long."""
    head, rest = (
        unescape(str(part.value)) if part else "" for part in (app.subheader[0], _below(app.main, app.subheader[0]))
    )
    wholes = [head[:-1] + end for end in ("; " + rest.removeprefix("Also: "), ". " + rest)]
    return next((whole for whole in wholes if rest and split_finding(whole) == (head, rest)), head)


def _below(block: Block, part: Element) -> Element | None:
    """The text that follows a part of the page in its container, if one does."""
    nodes = list(block.children.values())
    for node, following in zip(nodes, [*nodes, None][1:], strict=True):
        if node is part:
            return following if isinstance(following, Markdown) else None
        if isinstance(node, Block) and (found := _below(node, part)):
            return found
    return None


def linked(app: AppTest, title: str) -> dict[str, str]:
    """What a link to another page brings: the parameters of its address."""
    query = next(link.proto.query_string for link in app.get("page_link") if link.proto.label == title)
    return dict(urllib.parse.parse_qsl(query))


def names(app: AppTest) -> list[str]:
    """Names of the figures, downwards."""
    return [part.proto.id.rpartition("figure-")[2] for part in app.get("plotly_chart")]


def chart(app: AppTest, name: str) -> dict:
    """The figure called `name`."""
    assert name in names(app), names(app)
    return json.loads(app.get("plotly_chart")[names(app).index(name)].proto.spec)


def offered(app: AppTest) -> list[str]:
    """What the page offers to download, with the downloads of every figure open."""
    for name in names(app):
        app.session_state[f"downloads-{name}"] = True
    return [part.proto.label for part in again(app).get("download_button")]


def values(array: dict | list) -> np.ndarray:
    """An array of a figure, which Plotly may have packed."""
    if isinstance(array, list):
        return np.array(array, dtype=float)
    flat = np.frombuffer(base64.b64decode(array["bdata"]), dtype=array["dtype"])
    return flat.reshape([int(size) for size in str(array["shape"]).split(",")]) if "shape" in array else flat


def shown(app: AppTest) -> Iterator[tuple[str, str]]:
    """(where, text) of all that a reader reads: Markdown, plain text, labels, tables, figures, tokens."""
    for kind in ("title", "header", "subheader", "markdown", "caption", "error", "warning", "info", "text"):
        yield from ((kind, str(part.value)) for part in getattr(app, kind))
    for kind in ("button", "selectbox", "number_input", "text_input", "text_area", "toggle", "multiselect", "slider"):
        yield from ((f"label of a {kind}", str(part.label)) for part in getattr(app, kind))
    for kind in ("selectbox", "multiselect"):
        yield from ((f"option of a {kind}", str(option)) for part in getattr(app, kind) for option in part.options)
    for part in app.dataframe:
        yield from (("table", str(name)) for name in part.value)
        cells = (cell for name in part.value for cell in part.value[name])
        yield from (("table", cell) for cell in cells if isinstance(cell, str))
    for name in names(app):
        yield from ((f"figure {name}", text) for text in _strings(chart(app, name)))
    for part in token_rows(app):
        yield from (("tokens", text) for text in _strings(part))


def token_rows(app: AppTest) -> list[dict]:
    """What the browser gets to draw rows of tokens."""
    parts = [part.proto for part in app.get("bidi_component")]
    return [json.loads(part.json) for part in parts if part.component_name == "probe_tokens"]


def literal_backticks(app: AppTest) -> list[tuple[str, str]]:
    """Texts that show a backtick as a letter: escaped in Markdown, as it is elsewhere."""
    markdown = ("title", "header", "subheader", "markdown", "caption", "error", "warning", "info", "label", "option")
    return [(where, text) for where, text in shown(app) if ("\\`" if where.startswith(markdown) else "`") in text]


def not_numbers(app: AppTest) -> list[tuple[str, str]]:
    """Texts that say `nan` to a reader."""
    return [(where, text) for where, text in shown(app) if re.search(r"(?<![\w.])nan(?!\w)", text, re.IGNORECASE)]


def _strings(part: object) -> Iterator[str]:
    """All texts in a JSON value, without packed arrays and templates."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for key, value in part.items():
            if key not in ("bdata", "template"):
                yield from _strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from _strings(value)
