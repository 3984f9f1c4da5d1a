"""Commands that take a file and a model: the file is read, and refused, before a model is looked for.

The model does not exist, so that looking for it would be the error that is told.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from probe.cli import main

NOWHERE = "no-such-folder/no-such-model"
DATA = Path(__file__).parent / "data"
BROKEN = {
    "hallucination": ("a.csv", 'Question,Best Answer,Correct Answers,Incorrect Answers\nq,a,a,b\nq,"a,a,b\nq,a,a,b\n'),
    "sycophancy": ("a.jsonl", '{"question": "q"}\n'),
    "in_context": ("a.tsv", "text\tlabel\na\t1\nb\t1\n"),
    "chain_of_thought": ("a.jsonl", '{"question": "q", "answer": null}\n'),
    "retrieval": ("a.jsonl", "{}\n"),
    "continual": ("a.jsonl", '{"body": "q"}\n'),
}
"""Experiment to a file that it cannot use."""
OTHERS: list[tuple[str, list[str]]] = [
    ("hallucination", ["--preamble", "none.txt", "--data", str(DATA / "hallucination_questions.csv")]),
    ("sycophancy", ["--judge", "x", "--data", str(DATA / "sycophancy_questions.jsonl")]),
    ("in_context", ["--text-field", "other", "--data", str(DATA / "in_context_reviews.jsonl")]),
    ("chain_of_thought", ["--pattern", "(", "--data", str(DATA / "chain_problems.jsonl")]),
    ("continual", ["--old", "none.jsonl", "--data", "good.jsonl"]),
]
"""Experiment to further options that are wrong in themselves, or with their file."""
METHODS: dict[str, Any] = {
    "pretrain": {"body": "q"},
    "sft": {"prompt": "q"},
    "reward-model": {"prompt": "q", "chosen": "a", "rejected": "a"},
    "dpo": {"prompt": "q", "chosen": "a", "rejected": "a"},
    "rlhf": {"text": "q"},
    "rsft": {"prompt": ""},
    "rlvr": {"prompt": 3},
    "continual": {"body": "q"},
}
"""Method to a row that it cannot use."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text('{"prompt": "a", "completion": "b", "text": "c"}\n')
    (tmp_path / "row.jsonl").write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d", "text": "e"}\n'
    )


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.startswith("probe: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", BROKEN)
def test_an_experiment_refuses_its_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, text = BROKEN[name]
    Path(file).write_text(text)
    for data in (file, "missing.jsonl"):
        error = refused(capsys, "experiment", name, "--model", NOWHERE, "--data", data)
        assert data in error
        assert NOWHERE not in error
    good = DATA / "retrieval" if name == "retrieval" else "good.jsonl"
    if name in ("retrieval", "continual"):
        assert NOWHERE in refused(capsys, "experiment", name, "--model", NOWHERE, "--data", str(good))


@pytest.mark.parametrize(("name", "words"), OTHERS)
def test_what_else_is_wrong_with_files(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert NOWHERE not in refused(capsys, "experiment", name, "--model", NOWHERE, *words)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_refuses_its_file(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.jsonl").write_text(json.dumps(METHODS[method]))
    train = ["train", method, "--base", NOWHERE, "--out", "run"]
    reward = ["--reward", "final_answer"] if method in ("rlhf", "rsft", "rlvr") else []
    for data in ("a.jsonl", "missing.jsonl"):
        error = refused(capsys, *train, "--data", data)
        assert data in error
        assert NOWHERE not in error
    assert NOWHERE not in refused(capsys, *train, "--data", "good.jsonl", "--probe-prompts", "none.txt")
    if reward:
        assert "lacks `answer`" in refused(capsys, *train, "--data", "good.jsonl", *reward)
        error = refused(capsys, *train, "--data", "good.jsonl", "--reward", "none.py:judge")
        assert "there is no file `none.py`" in error
    assert NOWHERE in refused(capsys, *train, "--data", "row.jsonl")
    assert not Path("run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_training_refuses_one_odd_row_if_it_is_strict(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("row.jsonl").open("a") as file:
        file.write(json.dumps(METHODS[method]) + "\n")
    train = ["train", method, "--base", NOWHERE, "--out", "run", "--data", "row.jsonl"]
    assert "Line 2 of `row.jsonl`" in refused(capsys, *train, "--strict")
    assert NOWHERE in capsys_after_notes(capsys, *train)


def capsys_after_notes(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The last line that is told; what is left out may be told before."""
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_an_experiment_tells_and_strict_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.jsonl").write_text((DATA / "chain_problems.jsonl").read_text() + "{}\n")
    words = ["experiment", "chain_of_thought", "--model", NOWHERE, "--data", "a.jsonl"]
    assert main(words) == 2
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith("probe: note: 1 of 7 rows read from `a.jsonl` cannot be used and is left out")
    assert "Line 7 of" in note
    assert NOWHERE in error
    assert "Line 7 of `a.jsonl`" in refused(capsys, *words, "--strict")
