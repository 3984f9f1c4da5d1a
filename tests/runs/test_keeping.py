"""Runs that a reader marks, renames, deletes and restores, in Python and by the command."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe import cli
from probe.errors import ConfigError, RunError
from probe.runs import Run, list_runs
from probe.runs.run_filter import RunFilter
from probe.runs.run_marks import MARKS, NOTE, TAG, TAGS, Marks, read_marks, write_marks
from probe.runs.trash import (
    TRASH,
    dependents,
    empty_trash,
    find_trashed,
    rename_run,
    restore_run,
    trash_run,
    trashed_runs,
)
from tests.runs.conftest import Make


@pytest.fixture
def root(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    make("base", config={"lr": 0.003}).finish()
    make("dpo", method="dpo", parent="runs/base", config={"lr": 0.001, "base": "runs/base"}).finish()
    return tmp_path


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=TAG)


@given(st.booleans(), st.booleans(), st.lists(TEXTS, max_size=TAGS, unique=True), TEXTS)
def test_marks_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, pinned: bool, archived: bool, tags: list[str], note: str
):
    run = tmp_path_factory.mktemp("run")
    marks = Marks(pinned, archived, tuple(tags), note)
    write_marks(run, marks)
    assert read_marks(run) == marks


def test_no_marks_leave_no_file(root: Path):
    write_marks(root / "base", Marks(tags=("paper",)))
    assert (root / "base" / MARKS).exists()
    write_marks(root / "base", Marks())
    assert not (root / "base" / MARKS).exists()


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("[1, 2]", Marks()),
        ('{"pinned": "yes", "archived": 1, "tags": "a", "note": 3}', Marks()),
        ('{"pinned": true, "tags": ["a", 2, "b"], "note": null}', Marks(pinned=True, tags=("a", "b"))),
        (json.dumps({"tags": ["x" * 99] * 99}), Marks(tags=("x" * TAG,) * TAGS)),
        (json.dumps({"note": "y" * 9999}), Marks(note="y" * NOTE)),
        ('{"note": "\\u001b[31mred\\nnext"}', Marks(note="\ufffd[31mred\nnext")),
        ('{"pinned": tr', Marks()),
        (" " * 2**17, Marks()),
    ],
)
def test_damaged_marks_count_as_none(root: Path, text: str, marks: Marks):
    (root / "base" / MARKS).write_text(text)
    assert Run(root / "base").marks == marks


def test_a_link_in_place_of_marks_is_neither_read_nor_followed(root: Path, tmp_path: Path):
    secret = tmp_path / "secret.json"
    secret.write_text('{"note": "secret"}')
    (root / "base" / MARKS).symlink_to(secret)
    assert read_marks(root / "base") == Marks()
    write_marks(root / "base", Marks(note="mine"))
    assert secret.read_text() == '{"note": "secret"}'
    assert read_marks(root / "base").note == "mine"


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        (Marks(tags=("x" * (TAG + 1),)), f"has {TAG + 1} characters: give at most {TAG}"),
        (Marks(tags=tuple(map(str, range(TAGS + 1)))), f"would have {TAGS + 1} tags: keep at most {TAGS}"),
        (Marks(note="x" * (NOTE + 1)), "The note has 2,001 characters: shorten it to 2,000"),
    ],
)
def test_too_long_marks_are_refused(root: Path, marks: Marks, says: str):
    with pytest.raises(ConfigError, match=says):
        write_marks(root / "base", marks)
    assert read_marks(root / "base") == Marks()


def test_tags_are_added_and_removed_once():
    marks = Marks(tags=("a", "b")).with_tags(["b", "  c  d "], ["a"])
    assert marks.tags == ("b", "c d")


def test_archived_runs_are_left_out_of_lists_but_open_by_name(root: Path):
    write_marks(root / "base", Marks(archived=True))
    assert [run.name for run in list_runs()] == ["dpo"]
    assert {run.name for run in list_runs(archived=True)} == {"base", "dpo"}
    assert Run(root / "base").method == "pretrain"


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (RunFilter(), ["base", "dpo"]),
        (RunFilter(name="D"), ["dpo"]),
        (RunFilter(name="*e"), ["base"]),
        (RunFilter(text="lr=0.001"), ["dpo"]),
        (RunFilter(text="PAPER best"), ["dpo"]),
        (RunFilter(text="paper worst"), []),
        (RunFilter(text="base"), ["base"]),  # not those that started from it
        (RunFilter(tags=["paper"]), ["dpo"]),
        (RunFilter(tags=["paper", "other"]), []),
        (RunFilter(method="pretrain"), ["base"]),
        (RunFilter(status="killed"), []),
    ],
)
def test_filter(root: Path, only: RunFilter, names: list[str]):
    write_marks(root / "dpo", Marks(tags=("paper",), note="the best one"))
    runs = sorted(list_runs(), key=lambda run: run.name)
    assert [run.name for run in runs if only.keeps(run.name, run.method, run.status, run)] == names


def test_rename(root: Path):
    write_marks(root / "dpo", Marks(note="kept"))
    assert rename_run(root / "dpo", "dpo final") == root / "dpo final"
    assert Run(root / "dpo final").marks.note == "kept"
    assert not (root / "dpo").exists()


@pytest.mark.parametrize(
    ("run", "name", "says"),
    [
        ("dpo", "base", "`base` exists already"),
        ("dpo", "../dpo", "cannot name a run"),
        ("dpo", ".dpo", "cannot name a run"),
        ("dpo", "", "cannot name a run"),
        ("base", "basis", "`base` keeps its name, since the records of dpo say that they were made with it"),
    ],
)
def test_a_rename_that_would_break_something(root: Path, run: str, name: str, says: str):
    with pytest.raises(ConfigError, match=says):
        rename_run(root / run, name)
    assert {path.name for path in root.iterdir()} == {"base", "dpo"}


def test_delete_and_restore(root: Path):
    before = {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    assert dependents(root / "base") == ["dpo"]
    assert dependents(root / "base", root / "dpo") == []
    trashed = trash_run(root / "base")
    assert trashed_runs() == [trashed]
    assert (trashed.name, trashed.home) == ("base", root / "base")
    assert abs((datetime.now(UTC) - trashed.deleted).total_seconds()) < 60
    assert [run.name for run in list_runs()] == ["dpo"]
    assert restore_run(find_trashed("base")) == root / "base"
    assert {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()} == before
    assert trashed_runs() == []


def test_two_deleted_runs_of_one_name(root: Path, make: Make):
    first = trash_run(root / "dpo")
    make("dpo", method="sft").finish()
    second = trash_run(root / "dpo")
    assert {each.path for each in trashed_runs()} == {first.path, second.path}
    make("dpo", method="rlhf").finish()
    with pytest.raises(ConfigError, match="`dpo` exists again"):
        restore_run(second)
    trash_run(root / "dpo")
    assert restore_run(second) == root / "dpo"
    assert Run(root / "dpo").method == "sft"


@pytest.mark.parametrize("deed", ["rename", "delete"])
def test_a_run_that_is_being_written_stays(root: Path, make: Make, deed: str):
    make("live")
    with pytest.raises(ConfigError, match="`live` is being trained: stop it first"):
        rename_run(root / "live", "other") if deed == "rename" else trash_run(root / "live")
    assert (root / "live").is_dir()


def test_the_trash_of_a_stranger(root: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "20260101T000000-x").mkdir()
    (elsewhere / "20260101T000000-x" / "run.json").write_text('{"schema": 1, "method": "dpo"}')
    (root / TRASH).symlink_to(elsewhere)
    assert trashed_runs() == []
    with pytest.raises(RunError, match="is a link to another folder"):
        trash_run(root / "dpo")
    (root / TRASH).unlink()
    (root / TRASH).mkdir()
    for name in ("20260101T000000-link", "no date", "20269999T000000-x"):
        os.symlink(elsewhere / "20260101T000000-x", root / TRASH / name)
    (root / TRASH / "20269999T000000-y").mkdir()
    (root / TRASH / "20269999T000000-y" / "run.json").write_text('{"schema": 1, "method": "dpo"}')
    assert trashed_runs() == []


def test_empty_trash_follows_no_link(root: Path, tmp_path_factory: pytest.TempPathFactory):
    kept = tmp_path_factory.mktemp("kept") / "file"
    kept.write_bytes(b"x" * 5000)
    (root / "dpo" / "link").symlink_to(kept.parent)
    size = sum(file.stat().st_size for file in (root / "dpo").rglob("*") if file.is_file())
    trash_run(root / "dpo")
    assert empty_trash(trashed_runs()) == size
    assert kept.exists()
    assert trashed_runs() == []


def test_a_damaged_run_can_be_deleted(root: Path):
    (root / "dpo" / "run.json").write_text("{")
    trash_run(root / "dpo")
    assert [each.name for each in trashed_runs()] == ["dpo"]


def test_command(root: Path, capsys: pytest.CaptureFixture[str]):
    def said(*words: str) -> str:
        assert cli.main(["runs", *words]) == 0
        return capsys.readouterr().out

    assert said("mark", "dpo", "base", "--tag", "paper", "--pin") == (
        "`dpo` is pinned, tagged paper.\n`base` is pinned, tagged paper.\n"
    )
    assert said("mark", "base", "--unpin", "--untag", "paper", "--archive").endswith("`base` is archived.\n")
    assert "base" not in said("list").replace("runs/base", "")
    assert json.loads(said("list", "--tag", "paper", "--json"))[0]["pinned"] is True
    assert {row["name"] for row in json.loads(said("list", "--archived", "--json"))} == {"base", "dpo"}
    assert said("mark", "base", "--unarchive") == "`base` is without marks.\n"
    assert "dpo-2" in said("rename", "dpo", "dpo-2")
    assert "is in the trash" in said("delete", "dpo-2")
    assert said("trash").splitlines()[1].startswith("dpo-2\t")
    assert "`dpo-2` is back" in said("restore", "dpo-2")
    said("delete", "dpo-2")
    assert said("trash", "--empty", "--older-than", "1").startswith("Deleted 0 runs")
    assert said("trash", "--empty").startswith("Deleted 1 runs for good")
    assert said("trash") == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("mark dpo", "needs to know what to change"),
        ("mark dpo --pin --unpin", "needs to know what to change"),
        ("mark --pin", "No run was named"),
        ("mark dop --pin", "did you mean `dpo`?"),
        ("restore dpo", "There is no run `dpo` in the trash: it holds no run."),
    ],
)
def test_command_refuses(root: Path, words: str, says: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["runs", *words.split()]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
