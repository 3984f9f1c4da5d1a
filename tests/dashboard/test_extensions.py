"""Analyses of packages and plugins: they appear, they follow the choices, and none of them breaks a page."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import probe
from dashboard.extension_pages import extension_pages, own_analyses
from probe import plugins
from probe.model.lm import LM
from tests.dashboard.pages import Show, chart, names, offered, unescape
from tests.extensions import install, on_the_path

ANALYSES = """
from dashboard.extension_pages import draw_own, show_problems
from dashboard.models import warm
from dashboard.state import ask

warm()
ask()
show_problems()
draw_own("attention")
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


def said(app: AppTest) -> str:
    parts = [*app.subheader, *app.markdown, *app.caption, *app.error, *app.warning]
    return "\n".join(unescape(str(part.value)) for part in parts)


def test_the_packages_analysis_follows_the_choices(target: Path, script: Any, show: Show, runs: Path):
    with on_the_path(target):
        app = script(ANALYSES, base="base", prompt="where does mira live ?")
        assert not app.exception
        assert not app.error
        assert "Words that the prompt has" in said(app)
        name = "words_of_prompt-chart-base"
        assert names(app) == [name, name.replace("base", "dpo-agreeable")]
        assert chart(app, name)["data"][0]["x"] == ["where", "does", "mira", "live", "?"]
        assert {"PNG", "SVG", "PDF", "HTML", "CSV", "TEX"} <= set(offered(app))
        app.text_area(key="prompt").set_value("a b").run()
        assert chart(app, name)["data"][0]["x"] == ["a", "b"]
        whole = show(runs, page="attention/page.py", prompt="where does mira live ?")
        assert not whole.exception
        assert not whole.error
        assert [each for each in names(whole) if each.startswith("words_of")] == names(app)
        assert not [each for each in names(show(runs, page="logits/page.py")) if each.startswith("words_of")]


def test_the_packages_page_is_in_the_navigation(target: Path, show: Show, runs: Path, monkeypatch: pytest.MonkeyPatch):
    """With its form, sentence, figure, table, definition, Python lines and downloads."""
    with on_the_path(target):
        seen: list[Mapping[str, Any]] = []
        navigation = st.navigation
        monkeypatch.setattr(st, "navigation", lambda pages, **rest: seen.append(pages) or navigation(pages, **rest))
        app = show(runs, page="sample_notes", prompt="where does mira live ?", logit_gap_top="2")
        assert not app.exception
        assert not app.error
        titles = {group: [page.title for page in pages] for group, pages in seen[-1].items()}
        assert titles["Extensions"] == ["Sample notes"]
        assert seen[-1]["Extensions"][0].url_path == "sample_notes"
        assert "base and dpo-agreeable differ by" in said(app)
        assert names(app) == ["logit_gap-gap"]
        assert len(app.dataframe[0].value) == 2
        assert app.number_input(key="logit_gap_top").label == "top"
        app.session_state["details-logit_gap"] = True
        app.toggle(key="logit_gap_largest").set_value(True).run()
        assert len(chart(app, "logit_gap-gap")["data"][0]["x"]) == 1
        assert {"PNG", "logit_gap-table.csv", "logit_gap-table.tex"} <= set(map(unescape, offered(app)))
        code = next(each.value for each in app.code)
        assert "find_analysis('logit_gap').function(base, aligned, prompt='where does mira live ?', top=2)" in code
        assert "result.figures(largest=True)" in code


@pytest.mark.parametrize(
    ("gives", "expected"),
    [
        ("1 / 0", "The analysis `mine` fails with ZeroDivisionError: division by zero in line 4 of mine.py: fix it."),
        ("{}", "`Mine` gave a dict: let it return a figure, a table or a sentence."),
        ("lm.logits([])", "no"),
    ],
)
def test_an_analysis_that_is_wrong_is_a_sentence(
    registry: None, script: Any, gives: str, expected: str, tmp_path: Path
):
    code = f"import probe\n@probe.analysis('attention', title='Mine')\ndef mine(lm):\n    return {gives}\n"
    (tmp_path / "mine.py").write_text(code)
    plugins.load(tmp_path / "mine.py")

    @probe.analysis("attention", title="Next")
    def after(prompt: str) -> str:
        return f"All of {prompt}."

    app = script(ANALYSES, base="base", prompt="a b")
    assert not app.exception
    assert expected in said(app)
    assert "All of a b." in said(app)  # the one after it is drawn


def test_what_an_analysis_may_return(registry: None, script: Any):
    table = pd.DataFrame({"x": [1, 2], "y": [3, 4]})

    @probe.analysis("attention", title="A")
    def nothing() -> None: ...

    @probe.analysis("attention", title="B")
    def alone() -> go.Figure:
        return go.Figure([go.Scatter(x=[1, 2], y=[3, 4], name="t"), go.Table()])

    @probe.analysis("attention", title="C")
    def rows() -> pd.DataFrame:
        return table

    @probe.analysis("attention", title="D")
    def several(prompt: str) -> tuple[str, go.Figure, go.Figure, pd.DataFrame]:
        return f"{prompt} it is.", go.Figure(go.Bar(x=[1])), go.Figure(go.Bar(x=[2])), table

    app = script(ANALYSES, prompt="here")
    assert not app.exception
    assert not app.error
    assert names(app) == ["alone-chart", "several-chart", "several-chart-2"]
    assert "here it is." in said(app)
    assert len(app.dataframe) == 2


def test_an_analysis_is_computed_once_for_each_choice(registry: None, script: Any):
    calls: list[tuple[str, str]] = []

    @probe.analysis("attention")
    def counted(lm: LM, prompt: str) -> str:
        calls.append((Path(lm.ref).name, prompt))
        return "counted"

    app = script(ANALYSES, base="dpo-agreeable", aligned="dpo-agreeable", prompt="a")
    app.run()
    app.text_area(key="prompt").set_value("b").run()
    assert [prompt for _, prompt in calls] == ["a", "b"]


def test_an_analysis_of_models_that_are_not_chosen(registry: None, tmp_path: Path, monkeypatch: Any):
    @probe.analysis("attention")
    def of_the_pair(base: LM, aligned: LM) -> str:
        """Read both."""
        return "read"

    (tmp_path / "none").mkdir()
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "none"))
    app = AppTest.from_string(ANALYSES, default_timeout=60)
    app.run()
    assert not app.exception
    assert "Choose two models above to read both." in said(app)


def test_packages_that_are_wrong(registry: None, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "bad.py").write_text("import no_such_module")
    monkeypatch.setenv("PROBE_PLUGINS", str(tmp_path / "bad.py"))
    with pytest.warns(plugins.ExtensionWarning):
        assert extension_pages() == []
    assert "No module named 'no_such_module'" in said(script(ANALYSES))


def test_a_plugin_that_changes_is_seen(registry: None, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "mine.py"
    code = "import probe\n@probe.analysis('attention', title={})\ndef mine():\n    return {}\n"
    file.write_text(code.format("'One'", "'first.'"))
    monkeypatch.setenv("PROBE_PLUGINS", str(file))
    assert "first." in said(script(ANALYSES))
    file.write_text(code.format("'Other'", "'second now.'"))
    app = script(ANALYSES)
    assert [each.title for each in own_analyses("attention")] == ["Other"]
    assert "second now." in said(app)
    assert "first." not in said(app)


def test_titles_are_text(registry: None, script: Any):
    @probe.analysis("attention", title="<b>x</b> [y](javascript:alert(1))")
    def hostile() -> str:
        return "<img src=x onerror=alert(1)> :streamlit: *a*"

    app = script(ANALYSES)
    assert not app.exception
    title = next(part.value for part in app.markdown if part.value.startswith("####"))
    assert title.startswith(r"#### \<b\>x\<\/b\> \[y\]\(javascript")
    assert app.subheader[0].value.startswith(r"\<img src\=x")


def test_choices_are_told_again_until_a_page_was_drawn(registry: None, show: Show, runs: Path):
    """The browser may not have heard of them where its first run was broken off; later it may be typing."""
    broken = [True]

    @probe.analysis("autoregression", title="Broken off")
    def end() -> None:
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
