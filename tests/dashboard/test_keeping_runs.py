"""Runs in order on the page Runs: searched, pinned, tagged, noted, renamed, archived, deleted and brought back."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.pages.overview.reports import FOLDER, written_reports
from probe.runs.run_marks import Marks, read_marks, write_marks
from probe.runs.trash import TRASH
from tests.dashboard import store
from tests.dashboard.experiments import press
from tests.dashboard.pages import Show, heading, read


@pytest.fixture
def own(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the two runs that a test may change, below the working directory."""
    shutil.copytree(runs, tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own"


def listed(app: AppTest) -> list[str]:
    return list(app.dataframe[0].value["run"])


def label(app: AppTest, key: str, start: str) -> str:
    """The key of the text box or choice in an open form, which names its runs."""
    return next(part.key for part in app.get(key) if part.key and part.key.startswith(start))


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"search": "dpo"}, ["dpo-agreeable"]),
        ({"search": "best one"}, ["dpo-agreeable"]),
        ({"of_method": "pretrain"}, ["base"]),
        ({"of_status": "finished"}, ["base", "dpo-agreeable"]),
        ({"tag": "paper"}, ["dpo-agreeable"]),
        ({"of_method": "no such", "of_status": "neither", "tag": "none"}, ["base", "dpo-agreeable"]),
    ],
)
def test_search_and_filters(show: Show, own: Path, query: dict[str, str], names: list[str]):
    write_marks(own / "dpo-agreeable", Marks(tags=("paper",), note="the best one"))
    app = show(own, **query)
    assert listed(app) == names
    assert "%" in heading(app) or len(names) == 1


def test_a_search_that_finds_nothing(show: Show, own: Path):
    app = show(own, search="no such run")
    assert "No run fits: shorten the search, or choose any method, status and tag." in read(app)
    assert not app.exception
    app.text_input(key="search").set_value("").run()
    assert listed(app) == ["base", "dpo-agreeable"]


def test_pinned_runs_come_first(show: Show, own: Path):
    app = show(own, run="dpo-agreeable", overview_tab="One run")
    app.button(key="one-pin").click().run()
    assert read_marks(own / "dpo-agreeable").pinned
    assert listed(show(own)) == ["\u2605 dpo-agreeable", "base"]
    app.button(key="one-pin").click().run()
    assert not read_marks(own / "dpo-agreeable").pinned


def test_tags_and_notes(show: Show, own: Path):
    app = show(own, run="base", overview_tab="One run")
    app.multiselect(key=label(app, "multiselect", "one-tags")).set_value(["paper", "second  try"])
    app.button(key="one-save-tags").click().run()
    app.text_area(key=label(app, "text_area", "one-note")).set_value("<b>bold</b> *x*")
    app.button(key="one-save-note").click().run()
    assert read_marks(own / "base") == Marks(tags=("paper", "second try"), note="<b>bold</b> *x*")
    assert "Tagged paper, second try. <b>bold</b> *x*" in read(app)
    table = show(own).dataframe[0].value.set_index("run")
    assert table.loc["base", "tags"] == "paper, second try"
    assert table.loc["base", "note"] == "<b>bold</b> *x*"


def test_a_tag_that_is_too_long_is_refused_in_a_sentence(show: Show, own: Path):
    app = show(own, run="base", overview_tab="One run")
    app.multiselect(key=label(app, "multiselect", "one-tags")).set_value(["x" * 41])
    app.button(key="one-save-tags").click().run()
    assert "has 41 characters: give at most 40" in read(app)
    assert read_marks(own / "base") == Marks()


def test_rename(show: Show, own: Path):
    app = show(own, run="dpo-agreeable", overview_tab="One run")
    app.text_input(key=label(app, "text_input", "one-name")).set_value("best")
    app.button(key="one-save-name").click().run()
    assert (own / "best").is_dir()
    assert "best" in app.selectbox(key="run").options
    app = show(own, run="base", overview_tab="One run")
    app.text_input(key=label(app, "text_input", "one-name")).set_value("basis")
    app.button(key="one-save-name").click().run()
    assert "`base` keeps its name" in read(app)
    assert (own / "base").is_dir()


def test_archive_and_bring_back(show: Show, own: Path):
    app = show(own, run="dpo-agreeable", overview_tab="One run")
    app.button(key="one-archive").click().run()
    assert listed(show(own)) == ["base"]
    app = show(own)
    app.button(key=f"back-{own / 'dpo-agreeable'}").click().run()
    assert listed(app) == ["base", "dpo-agreeable"]


def test_delete_and_restore(show: Show, own: Path):
    app = show(own, run="base", overview_tab="One run")
    assert "Runs that were made with it: dpo-agreeable." in read(app)
    app.button(key="one-delete").click().run()
    assert not (own / "base").exists()
    app = show(own)
    assert listed(app) == ["dpo-agreeable"]
    app.button(key=next(each.key for each in app.button if str(each.key).startswith("restore-"))).click().run()
    assert listed(app) == ["base", "dpo-agreeable"]


def test_the_last_run_is_deleted_for_good(show: Show, own: Path):
    for name in ("base", "dpo-agreeable"):
        app = show(own, run=name, overview_tab="One run")
        app.button(key="one-delete").click().run()
    assert "There is no run to show yet." in read(app)
    app.button(key="empty-trash").click().run()
    assert not any((own / TRASH).iterdir())


@pytest.mark.slow
def test_a_report_is_written_by_a_job_and_downloaded(show: Show, own: Path, monkeypatch: pytest.MonkeyPatch):
    store.hostile(own)
    app = press(show(own), "report-0")
    (file,) = FOLDER.glob("*.html")
    text = file.read_text()
    assert "<title>Report on 3 runs</title>" in text
    (download,) = [each for each in app.get("download_button") if each.proto.label.endswith(r"\.html")]
    assert file.name in download.proto.label.replace("\\", "")
    monkeypatch.setattr(access, "may_write", lambda: False)
    app.run()
    assert len(app.get("download_button")) >= 1
    assert not any(str(each.key).startswith("report-") for each in app.button)


def test_only_files_of_the_folder_count_as_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert written_reports() == []
    FOLDER.mkdir(parents=True)
    (tmp_path / "secret.html").write_text("secret")
    (FOLDER / "link.html").symlink_to(tmp_path / "secret.html")
    (FOLDER / "folder.html").mkdir()
    (FOLDER / "own.html").write_text("own")
    assert [file.name for file, _, _ in written_reports()] == ["own.html"]
    FOLDER.rename(tmp_path / "elsewhere")
    FOLDER.symlink_to(tmp_path / "elsewhere")
    assert written_reports() == []


def test_who_may_only_read_changes_nothing(show: Show, own: Path, monkeypatch: pytest.MonkeyPatch):
    write_marks(own / "base", Marks(archived=True, note="n"))
    app = show(own, run="dpo-agreeable", overview_tab="One run")
    assert app.button(key="one-pin")
    monkeypatch.setattr(access, "may_write", lambda: False)
    app.run()
    assert not app.exception
    assert app.selectbox(key="run").value == "dpo-agreeable"
    keys = [str(each.key) for each in app.button]
    assert not any(key.startswith(("one-", "table-", "back-", "restore-", "empty-")) for key in keys)
