"""Pages and panels of packages and plugins: they appear, they follow the choices, and none of them breaks a page."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import probe
from dashboard.extension_pages import extension_pages, extension_problems, panels
from probe import plugins
from probe.model.lm import LM
from tests.dashboard.pages import Show, chart, names, offered, unescape
from tests.extensions import install, on_the_path

PANELS = """
from dashboard.extension_pages import draw_panels, show_problems
from dashboard.models import warm
from dashboard.state import ask

warm()
ask()
show_problems()
draw_panels("attention")
"""
PAGES = """
import streamlit as st
from dashboard.extension_pages import extension_pages
from dashboard.state import ask

page = st.navigation(extension_pages())
ask()
page.run()
"""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def script(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """Run a script on the run store, with shared choices."""
    monkeypatch.setenv("PROBE_RUNS", str(runs))

    def run(text: str, **query: str) -> AppTest:
        app = AppTest.from_string(text, default_timeout=60)
        for name, value in query.items():
            app.query_params[name] = value
        return app.run()

    yield run
    st.cache_data.clear()
    st.cache_resource.clear()


def said(app: AppTest) -> str:
    parts = [*app.subheader, *app.markdown, *app.caption, *app.error, *app.warning]
    return "\n".join(unescape(str(part.value)) for part in parts)


def test_the_packages_panel_follows_the_choices(target: Path, script: Any, show: Show, runs: Path):
    with on_the_path(target):
        app = script(PANELS, base="base", prompt="where does mira live ?")
        assert not app.exception
        assert not app.error
        assert "Words that the prompt has" in said(app)
        (name,) = names(app)
        assert name == "panel-attention-words-that-the-prompt-has"
        assert chart(app, name)["data"][0]["x"] == ["where", "does", "mira", "live", "?"]
        assert offered(app) == ["PNG", "SVG", "PDF", "HTML", "CSV", "TEX"]
        app.text_area(key="prompt").set_value("a b").run()
        assert chart(app, name)["data"][0]["x"] == ["a", "b"]
        whole = show(runs, page="attention/page.py", prompt="where does mira live ?")
        assert not whole.exception
        assert not whole.error
        assert names(whole)[-1] == name
        assert name not in names(show(runs, page="logits/page.py"))


def test_the_packages_page_is_in_the_navigation(
    target: Path, script: Any, show: Show, runs: Path, monkeypatch: pytest.MonkeyPatch
):
    with on_the_path(target):
        app = script(PAGES)
        assert not app.exception
        assert "2 runs are known." in said(app)
        seen: list[Mapping[str, Any]] = []
        navigation = st.navigation
        monkeypatch.setattr(st, "navigation", lambda pages, **rest: seen.append(pages) or navigation(pages, **rest))
        app = show(runs)
        assert not app.exception
        titles = {group: [page.title for page in pages] for group, pages in seen[-1].items()}
        assert titles["Extensions"] == ["Sample notes"]
        assert seen[-1]["Extensions"][0].url_path == "sample-notes"


@pytest.mark.parametrize(
    ("gives", "expected"),
    [
        ("1 / 0", "The panel `Mine` fails with ZeroDivisionError: division by zero in line 4 of mine.py: fix it."),
        ("{}", "`Mine` gave a dict: let it return a figure, a table or a sentence."),
        ("base.logits([])", "no"),
    ],
)
def test_a_panel_that_is_wrong_is_a_sentence(registry: None, script: Any, gives: str, expected: str, tmp_path: Path):
    code = f"import probe\n@probe.panel('attention', title='Mine')\ndef mine(base):\n    return {gives}\n"
    (tmp_path / "mine.py").write_text(code)
    plugins.load(tmp_path / "mine.py")

    @probe.panel("attention", title="Next")
    def after(prompt: str) -> str:
        return f"All of {prompt}."

    app = script(PANELS, prompt="a b")
    assert not app.exception
    assert len(app.error) == 1
    assert expected in said(app)
    assert "All of a b." in said(app)  # the one after it is drawn


def test_what_panels_may_return(registry: None, script: Any):
    table = pd.DataFrame({"x": [1, 2], "y": [3, 4]})

    @probe.panel("attention", title="A")
    def nothing() -> None:
        st.markdown("drawn by itself")

    @probe.panel("attention", title="B")
    def alone() -> go.Figure:
        return go.Figure([go.Scatter(x=[1, 2], y=[3, 4], name="t"), go.Table()])

    @probe.panel("attention", title="C")
    def rows() -> pd.DataFrame:
        return table

    @probe.panel("attention", title="D")
    def several(shared: Any) -> tuple[str, go.Figure, go.Figure, pd.DataFrame]:
        return f"{shared.base} it is.", go.Figure(go.Bar(x=[1])), go.Figure(go.Bar(x=[2])), table

    app = script(PANELS, base="base")
    assert not app.exception
    assert not app.error
    assert names(app) == ["panel-attention-b", "panel-attention-d", "panel-attention-d-2"]
    assert "drawn by itself" in said(app)
    assert "base it is." in said(app)
    assert len(app.dataframe) == 1


def test_a_panel_is_computed_once_for_each_choice(registry: None, script: Any):
    calls: list[tuple[str, str]] = []

    @probe.panel("attention")
    def counted(aligned: LM, prompt: str) -> str:
        calls.append((Path(aligned.ref).name, prompt))
        return "counted"

    app = script(PANELS, aligned="dpo-agreeable", prompt="a")
    app.run()
    app.text_area(key="prompt").set_value("b").run()
    assert [prompt for _, prompt in calls] == ["a", "b"]


def test_a_panel_of_a_model_that_is_not_chosen(registry: None, script: Any, tmp_path: Path, monkeypatch: Any):
    @probe.panel("attention")
    def of_the_base(base: LM) -> str:
        return "read"

    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    app = script(PANELS.replace("warm()", "import os"), prompt="a")
    assert not app.exception
    app = AppTest.from_string(PANELS, default_timeout=60)
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "none"))
    app.run()
    assert not app.exception
    assert "No base model is chosen: choose one above." in said(app)


def test_pages_that_are_wrong(registry: None, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    @probe.page("Broken", icon="no icon")
    def broken() -> None:
        raise KeyError("x")

    @probe.page("Attention")
    def taken() -> None: ...

    @probe.page("broken")
    def again() -> None: ...

    (tmp_path / "bad.py").write_text("import no_such_module")
    monkeypatch.setenv("PROBE_PLUGINS", str(tmp_path / "bad.py"))
    with pytest.warns(plugins.ExtensionWarning):
        pages = extension_pages()
    assert len(pages) == 1
    found = "\n".join(extension_problems())
    assert "The page `Attention` of " in found
    assert "The page `broken` of " in found
    assert "No module named 'no_such_module'" in found
    app = script(PAGES)
    assert not app.exception
    assert "The page `Broken` fails with KeyError: 'x' in line " in said(app)
    assert "No module named 'no_such_module'" in said(app)


def test_a_plugin_that_changes_is_seen(registry: None, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "mine.py"
    code = "import probe\n@probe.panel('attention', title={})\ndef mine():\n    return {}\n"
    file.write_text(code.format("'One'", "'first.'"))
    monkeypatch.setenv("PROBE_PLUGINS", str(file))
    assert "first." in said(script(PANELS))
    file.write_text(code.format("'Other'", "'second now.'"))
    app = script(PANELS)
    assert [panel.extension.title for panel in panels("Attention")] == ["Other"]
    assert "second now." in said(app)
    assert "first." not in said(app)


def test_titles_are_text(registry: None, script: Any):
    @probe.panel("attention", title="<b>x</b> [y](javascript:alert(1))")
    def hostile() -> str:
        return "<img src=x onerror=alert(1)> :streamlit: *a*"

    app = script(PANELS)
    assert not app.exception
    title, sentence = (part.value for part in app.subheader)
    assert title.startswith(r"\<b\>x\<\/b\> \[y\]\(javascript")
    assert sentence.startswith(r"\<img src\=x")


def test_choices_are_told_again_until_a_page_was_drawn(registry: None, show: Show, runs: Path):
    """The browser may not have heard of them where its first run was broken off; later it may be typing."""
    broken = [True]

    @probe.panel("autoregression", title="Broken off")
    def end(shared: Any) -> None:
        if broken[0]:
            st.stop()

    asked = {"base": "base", "aligned": "dpo-agreeable", "prompt": "mira"}
    app = show(runs, page="autoregression/page.py", **asked)
    told = []
    for broken[0] in (True, False, False):
        app.run()
        boxes = [app.selectbox(key="base"), app.selectbox(key="aligned"), app.text_area(key="prompt")]
        assert [box.value for box in boxes] == list(asked.values())
        told.append([box.proto.set_value for box in boxes])
    assert told == [[True] * 3, [True] * 3, [False] * 3]
