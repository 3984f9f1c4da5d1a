"""What nobody foresaw: one sentence with a report, on every page, whatever a link brings; never Streamlit's red box."""

import re
import shutil
import sys
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import access, command
from dashboard.components.rollouts import CHOICES as ROLLOUT_CHOICES
from dashboard.error_report import report, sentence
from dashboard.markdown import report_failure
from dashboard.pages import page_file, page_names
from tests.dashboard.pages import Show, every_tab, read, unescape

ROOT = Path(__file__).parents[2] / "dashboard"
PAGES = [page_file(name) for name in page_names()]
SOURCES = {path: path.read_text() for path in ROOT.rglob("*.py")}
KEYS = sorted(
    {key for text in SOURCES.values() for key in re.findall(r'key="(\w+)",[^)]*?bind="query-params"', text, re.DOTALL)}
    | {key for text in SOURCES.values() for key in re.findall(r'number_input\([^)]*?key="(\w+)"', text, re.DOTALL)}
    | {
        "also",
        "with_base",
        "with_aligned",
        "with_prompt",
        "lag_texts",
        "lag_length",
        "sycophancy~tab",
        "sycophancy~item",
    }
    | {
        *ROLLOUT_CHOICES,
        "log_new",
        "log_tab",
        "rew_tab",
        "rew_form",
        "att_tab",
        "att_weighted",
        "training_tab",
        "x",
        "overview_tab",
    }
    | {"sycophancy~kind", "sycophancy~metric", "sycophancy.n", "sycophancy.seed", "sycophancy.form", "sycophancy.lead"}
    | {"hallucination.n", "hallucination~text", "in_context.shots", "continual.lr", "chain_of_thought.pattern"}
)
"""Parameters of the URL that a widget is bound to: all whose name stands in the source, and some that are made."""
VALUES = [
    "",
    "x" * 5000,
    "-1",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "-inf",
    "1e9",
    "99999999999999999999",
    "0.5",
    "-0",
    "true",
    "<img src=x onerror=alert(1)>",
    "[y](javascript:alert(2)) :streamlit: $z$",
    "\0",
    "a\0b",
    "\x1b[31mred\x07\r",
    "\u202egnp.exe",
    "\u2066\u2069",
    "../../../etc/passwd",
    "~nobody-of-this-name",
    "L0H0",
    "L99H99",
    "L1e9H-1",
    "(((",
    "{text",
    "\U0001f9ea\u0301",
    "1,2,3",
    ",",
    "None",
]
WHOLE = ["base", "aligned", "prompt", "run", "runs", "step", "rollout", "rollout_token", "position", "seed"]
"""Parameters that get every value, one after the other."""


def broken(app: AppTest) -> str:
    """The red box, or the sentence of an error that nobody foresaw."""
    boxes = [each.value for each in app.exception]
    told = [unescape(each.value) for each in app.error if "did not foresee" in each.value]
    return "; ".join([*boxes, *told, *(each.value for each in app.code if "The message is in" in each.value)])


@pytest.mark.parametrize("page", PAGES)
def test_a_page_answers_whatever_a_link_brings(show: Show, runs: Path, page: str):
    """Every parameter at once with a value drawn for it: an error of one is seen as long as no other comes first."""
    draw = Random(page)
    for _ in range(4):
        query = {key: draw.choice(VALUES) for key in KEYS if key not in ("base", "aligned")}
        for app in every_tab(show(runs, page=page, link=True, **query)):
            assert not broken(app), (query, broken(app))
            assert app.subheader or app.caption or app.error, query


@pytest.mark.parametrize("page", ["overview", "training", "logits", "compare"])
def test_a_run_that_is_deleted_while_it_is_shown_is_a_sentence(show: Show, runs: Path, tmp_path: Path, page: str):
    root = shutil.copytree(runs, tmp_path / "runs")
    query = {"base": "base", "aligned": "dpo-agreeable", "runs": "dpo-agreeable"}
    app = show(root, page=f"{page}/page.py", **query)
    assert not broken(app), broken(app)
    shutil.rmtree(root / "dpo-agreeable")
    for tab in every_tab(app.run()):
        assert not broken(tab), broken(tab)
    said = read(app)
    assert app.error or "dpo-agreeable" not in said or "dpo-agreeable is neither a run nor a folder here" in said


@pytest.mark.slow
@pytest.mark.parametrize(("page", "key"), list(product(["compare/page.py"], ["base", "aligned", "prompt", "position"])))
def test_a_parameter_takes_any_value(show: Show, runs: Path, page: str, key: str):
    for value in VALUES:
        app = show(runs, page=page, link=True, **{key: value})
        assert not broken(app), (value, broken(app))


def test_a_callback_that_fails_is_a_sentence(show: Show, runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dashboard.state.choose_example", lambda _: 1 / 0)
    app = show(runs, page="compare/page.py")
    example = app.selectbox(key="example")
    example.set_value(example.options[0]).run()
    assert not app.exception
    assert "ZeroDivisionError" in read(app)
    assert app.get("plotly_chart")  # the page follows


def secret() -> None:
    import streamlit as st

    from dashboard.markdown import guard, guard_callback

    @guard_callback
    def press() -> None:
        raise KeyError("secret")

    if st.session_state.get("again"):
        st.session_state["again"] = False
        with guard():
            st.rerun()
    st.button("Press", on_click=press)
    with guard():
        if st.session_state.get("stop"):
            st.stop()
        {}["secret"]
    st.text("goes on")

    @guard_callback
    def part() -> None:
        raise RecursionError("secret")

    st.fragment(part)()


def test_the_report_tells_where_and_no_values(capsys: pytest.CaptureFixture[str]):
    app = AppTest.from_function(secret).run()
    assert not app.exception
    assert [part.value for part in app.text] == ["goes on"]
    assert len(app.error) == len(app.code) == 2
    told = app.code[0].value
    assert told.startswith("KeyError\n")
    assert ", in secret" in told
    assert re.search(r"^streamlit \d", told, re.MULTILINE)
    for text in (told, app.error[0].value):
        assert "secret" not in text.replace("in secret", "")
        assert str(Path.home()) not in text
        assert str(ROOT.parent) not in text
    assert "KeyError: 'secret'" in capsys.readouterr().err
    app.button[0].click().run()
    assert not app.exception
    assert len(app.error) == 3


@pytest.mark.parametrize(("state", "texts"), [("again", ["goes on"]), ("stop", [])])
def test_what_ends_or_repeats_a_run_passes(state: str, texts: list[str]):
    app = AppTest.from_function(secret)
    app.session_state[state] = True
    app.run()
    assert not app.exception
    assert [part.value for part in app.text] == texts


def test_a_report_without_a_trace():
    assert "no known place" in sentence(ValueError("x"))
    assert "no known place" in report(ValueError("x"))


def test_what_fails_outside_of_a_page_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch):
    """The server hands to `report_failure` what no page guards: the navigation, the entrypoint itself."""
    given: dict[str, Any] = {}

    class App:
        def __init__(self, script: Path, **named: Any) -> None:
            given.update(named)

        def run(self, config: dict[str, Any]) -> None:
            given["config"] = config

    monkeypatch.setattr(st, "App", App)
    monkeypatch.setattr(sys, "argv", [])
    command.serve(access.Gate(8501))
    assert given["config"]["server.port"] == 8501
    assert given["on_script_error"] is report_failure

    def broken() -> None:
        from dashboard.markdown import report_failure

        report_failure(KeyError("secret"))

    app = AppTest.from_function(broken, default_timeout=60).run()
    assert "did not foresee" in unescape(app.error[0].value)
    assert "secret" not in app.code[0].value
