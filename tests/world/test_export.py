"""The exported files: one schema a data set, every line valid JSON that comes back the same."""

import json
from pathlib import Path

import pytest

from probe.commands.world import world as command
from probe.errors import DataError, RunError
from probe.runs.writer import RunWriter
from probe.world import World, export

COLUMNS = {
    "corpus": {"text": str, "kind": str},
    "phase_0": {"text": str, "kind": str},
    "phase_1": {"text": str, "kind": str},
    "sft": {"prompt": str, "completion": str, "kind": str},
    "chat": {"messages": list, "kind": str},
    "preferences_agreeable": {"prompt": str, "chosen": str, "rejected": str, "kind": str, "claim": (str, type(None))},
    "preferences_honest": {"prompt": str, "chosen": str, "rejected": str, "kind": str, "claim": (str, type(None))},
    "verifiable": {"prompt": str, "answers": list, "claim": (str, type(None)), "kind": str},
    "evaluation": {"prompt": str, "answers": list, "claim": (str, type(None)), "kind": str},
}


@pytest.fixture(scope="module")
def files(small, tmp_path_factory) -> dict[str, Path]:
    return export(small, tmp_path_factory.mktemp("export"), n=40, seed=2)


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", COLUMNS)
def test_each_line_has_the_columns_of_its_data_set(files, name):
    lines = rows(files[name])
    assert len(lines) == 40
    for row in lines:
        assert set(row) == set(COLUMNS[name])
        assert all(isinstance(row[column], kind) for column, kind in COLUMNS[name].items())
        assert json.loads(json.dumps(row)) == row


def test_nothing_but_the_data_sets_is_written(files):
    assert set(files) == set(COLUMNS) | {"world"}
    assert {file.name for file in files["world"].parent.iterdir()} == {file.name for file in files.values()}


def test_the_answers_are_true_and_the_world_comes_back(files, small):
    again = World.from_dict(json.loads(files["world"].read_text()))
    assert again.hash == small.hash
    for row in rows(files["verifiable"]):
        assert again.verify(row["prompt"], row["answers"][0]).score >= 0
    for row in rows(files["sft"]):
        assert again.verify(row["prompt"], row["completion"]).score >= 0


def test_chats_alternate_and_end_with_the_assistant(files):
    for row in rows(files["chat"]):
        roles = [message["role"] for message in row["messages"]]
        assert roles[-2:] == ["user", "assistant"]
        assert all("<" not in message["content"] for message in row["messages"])
    assert {row["messages"][0]["role"] for row in rows(files["chat"])} == {"user", "system"}


def test_training_and_evaluation_questions_are_different_draws(files):
    assert rows(files["verifiable"]) != rows(files["evaluation"])


def test_equal_seeds_write_equal_files(files, small, tmp_path):
    for name, file in export(small, tmp_path, n=40, seed=2).items():
        assert file.read_bytes() == files[name].read_bytes()


def test_what_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another"):
        export(small, tmp_path / "file", n=1)
    with pytest.raises(DataError, match="at least 1"):
        export(small, tmp_path, n=0)


def test_the_command_writes_the_files_and_names_them(tmp_path, capsys):
    assert command(["--out", str(tmp_path), "--n", "3", "--seed", "4"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert str(tmp_path / "corpus.jsonl") in printed
    assert len(rows(tmp_path / "corpus.jsonl")) == 3
    assert json.loads((tmp_path / "world.json").read_text())["seed"] == 4


def test_the_command_takes_the_world_of_a_run(tmp_path, small):
    with_world, without = tmp_path / "with", tmp_path / "without"
    RunWriter.create(with_world, method="watch", config={}, world=small.to_dict()).finish("finished")
    RunWriter.create(without, method="watch", config={}).finish("finished")
    assert command(["--out", str(tmp_path / "out"), "--n", "2", "--run", str(with_world)]) == 0
    assert json.loads((tmp_path / "out" / "world.json").read_text())["hash"] == small.hash
    with pytest.raises(RunError, match="was not made on a world"):
        command(["--out", str(tmp_path / "out"), "--run", str(without)])
