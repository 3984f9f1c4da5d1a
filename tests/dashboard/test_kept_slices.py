"""Slices on the page of an experiment: kept, applied, compared, renamed, removed."""

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.pages.experiments import kept_slices
from probe.experiments.slices import DIFFER, ZEROS, Slice, keep_slice, read_slices, slices_file
from tests.dashboard.experiments import button, table
from tests.dashboard.pages import Everyone, Show, again, names, read

PAGE = "experiments/page.py"
CLAIMS = Slice("claims", ("opinion_false",))
SILENT = Slice("silent", show=ZEROS, metric="echoes", model="base")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without slices."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tabs(app: AppTest) -> list[str]:
    """Titles of the page's tabs."""
    return [tab.label for tab in app.tabs]


def test_a_filter_is_kept_under_a_name_and_applied_by_choosing_it(show: Show, echoed: Path):
    app = show(echoed, page=PAGE, state={"echo-keep": True})
    assert "Slices" not in tabs(app)
    assert not app.text_input(key="echo~text").value
    assert "Name" not in [box.label for box in app.text_input], "there is nothing to keep yet"
    app.selectbox(key="echo~metric").select("length").run()
    app.multiselect(key="echo~kind").set_value(["stranger"]).run()
    app.selectbox(key="echo~show").select(DIFFER).run()
    assert "Filter: kind stranger; models differ in length." in read(app)
    listed = list(table(app, "prompt")["item"])
    app.text_input(key="echo~slice_name").set_value(" odd strangers ")
    button(app, "FormSubmitter:echo-keep-form-Keep").click()
    again(app)
    assert not app.error
    assert read_slices("echo") == [Slice("odd strangers", ("stranger",), show=DIFFER, metric="length")]
    assert app.selectbox(key="echo~slice").value == "odd strangers"
    assert "Kept as \u201codd strangers\u201d." in read(app)
    assert "Slices" in tabs(app)

    fresh = show(echoed, page=PAGE)
    assert fresh.selectbox(key="echo~slice").value is None
    fresh.selectbox(key="echo~slice").select("odd strangers").run()
    assert list(table(fresh, "prompt")["item"]) == listed
    assert fresh.selectbox(key="echo~metric").value == "length"
    fresh.multiselect(key="echo~kind").set_value([]).run()
    assert fresh.selectbox(key="echo~slice").value is None
    fresh.selectbox(key="echo~slice").select("odd strangers").run()
    fresh.selectbox(key="echo~slice").set_value(None).run()
    assert len(table(fresh, "prompt")) == 24
    assert fresh.selectbox(key="echo~show").value == "all"


def test_slices_are_compared_in_their_tab(show: Show, echoed: Path):
    keep_slice("echo", CLAIMS)
    keep_slice("echo", SILENT)
    app = show(echoed, page=PAGE, **{"echo~tab": "Slices", "echo~slice_metric": "length"})
    assert not app.exception
    assert names(app)[-1] == "echo-slices"
    shown = table(app, "slice")
    assert set(shown["slice"]) == {"claims", "silent*"}
    length = shown[(shown["metric"] == "length") & (shown["slice"] == "claims")].set_index("model")
    numbers = show(echoed, page=PAGE)
    assert length["all items"].to_dict() == {
        name: table(numbers, "base").set_index("metric").loc["length", name] for name in ("base", "dpo-agreeable")
    }
    assert list(length["n"]) == [12, 12]
    said = read(app)
    assert "* The slice silent is selected by the outcome" in said.replace("`", "")
    assert "Left out, since they follow from it: echoes." in said
    assert "Exploratory: " in said
    app.multiselect(key="echo~slices").set_value(["claims"]).run()
    assert set(table(app, "slice")["slice"]) == {"claims"}
    assert "selected by the outcome" not in read(app)


def test_a_slice_is_renamed_and_removed(show: Show, echoed: Path):
    keep_slice("echo", CLAIMS)
    app = show(echoed, page=PAGE, **{"echo~tab": "Slices"})
    button(app, "echo-slice-rename").click()
    again(app)
    assert "is no name for a slice" in read(app)
    app.text_input(key="echo~slice_new_name").set_value("false claims")
    button(app, "echo-slice-rename").click()
    again(app)
    assert [each.name for each in read_slices("echo")] == ["false claims"]
    assert "false claims" in set(table(app, "slice")["slice"])
    button(app, "echo-slice-remove").click()
    again(app)
    assert read_slices("echo") == []
    assert "Slices" not in tabs(app)
    assert not app.exception


def test_who_may_only_read_changes_no_slice(show: Show, echoed: Path, work: Path):
    keep_slice("echo", CLAIMS)
    access.uninstall()
    app = show(echoed, page=PAGE, state={"echo-keep": True}, **{"echo~kind": "stranger"})
    assert not [box for box in app.text_input if box.label == "Name"]
    app.selectbox(key="echo~slice").select("claims").run()
    assert set(table(app, "prompt")["kind"]) == {"opinion_false"}
    for key in ("echo-slice-rename", "echo-slice-remove"):
        access.install(Everyone(8501))
        app = show(echoed, page=PAGE, **{"echo~tab": "Slices"})
        assert not button(app, key).disabled
        access.uninstall()  # a page that was drawn before
        app.text_input(key="echo~slice_new_name").set_value("mine")
        button(app, key).click()
        again(app)
        assert "This page only reads" in read(app)
        assert button(app, key).disabled
    assert read_slices("echo") == [CLAIMS]


def test_a_slice_of_a_model_that_is_not_compared_says_so(show: Show, echoed: Path):
    keep_slice("echo", Slice("other", show="answered wrong", model="sft"))
    app = show(echoed, page=PAGE)
    app.selectbox(key="echo~slice").select("other").run()
    assert "asks for answers of sft" in read(app).replace("`", "")
    app = show(echoed, page=PAGE, **{"echo~tab": "Slices"})
    assert "asks for answers of sft" in read(app).replace("`", "")
    assert not app.exception


def test_a_damaged_file_hides_nothing_else(show: Show, echoed: Path, work: Path):
    (work / slices_file("echo")).parent.mkdir(parents=True)
    (work / slices_file("echo")).write_text("{")
    app = show(echoed, page=PAGE, **{"echo~metric": "length"})
    assert "correct or delete the file" in read(app)
    assert len(table(app, "prompt"))
    assert not app.exception


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "**b** [y](javascript:alert(2))", ":streamlit: $z$"])
def test_names_and_texts_of_slices_are_shown_literally(show: Show, echoed: Path, name: str):
    keep_slice("echo", Slice(name, ("stranger",), text="a"))
    app = show(echoed, page=PAGE, **{"echo~tab": "Slices"})
    assert not app.exception
    assert name in set(table(app, "slice")["slice"].str.rstrip("*"))
    for part in [*app.markdown, *app.caption, *app.error]:
        markup = re.sub(r"`[^`]*`|\\.", "", part.value)  # without code and escaped characters
        assert not re.search(r"<img|\]\(javascript|:streamlit:|\*\*b", markup), part.value


def test_a_comparison_is_computed_once(show: Show, echoed: Path, monkeypatch: pytest.MonkeyPatch):
    keep_slice("echo", Slice("a", text="a"))
    show(echoed, page=PAGE, **{"echo~tab": "Slices"})
    monkeypatch.setattr(kept_slices, "compare_slices", lambda *_: pytest.fail("it is kept"))
    app = show(echoed, page=PAGE, **{"echo~tab": "Slices"})
    assert not app.exception
    assert len(table(app, "slice"))
