"""The cost that is said before a start: it is that of the whole, on a clock that moves with the questions."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import probe
from probe import plugins
from probe.commands.experiment import MANY, run, tell_cost
from probe.experiments import cost
from probe.experiments.forms import QUESTIONS
from probe.experiments.registry import find_experiment
from probe.experiments.run import call
from probe.in_context.few_shot import RELABELLED
from probe.model.lm import LM
from probe.rows import Selection, read_rows
from tests.models import byte_tokenizer, random_lm

A_QUESTION_S = 3.0
A_PATCH_S = 50.0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An experiment `clocked` on the rows of a file; gives how many rows each of its calls asked."""
    asked: list[int] = []
    patched: list[int] = []
    clock = SimpleNamespace(perf_counter=lambda: A_QUESTION_S * sum(asked) + A_PATCH_S * sum(patched))
    monkeypatch.setattr(cost, "time", clock)

    def rows_of(data: Path, strict: bool, selection: Selection, **_: object):
        return (read_rows(data, lambda row: row.values["question"], strict, selection=selection),)

    def clocked(
        lm, *, data: Path, n: int = 5, limit: int | None = None, seed: int = 0, form: str = "auto", patches: int = 0
    ):
        (rows,) = rows_of(data, False, Selection(n, seed, limit))
        asked.append(len(rows))
        patched.append(min(patches, len(rows)))
        return pd.DataFrame({"item": list(rows), "row": list(rows), "length": [len(each) for each in rows]})

    with plugins.aside():
        probe.experiment("clocked", read=rows_of, light={"patches": 0})(clocked)
        yield asked


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "questions.csv"
    path.write_text("question\n" + "".join(f"number {i}\n" for i in range(MANY + 20)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    lm = random_lm("gpt2", byte_tokenizer())
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize(("patches", "patched"), [(0, 0), (3, 3), (10, 10), (1000, MANY + 20)])
def test_the_estimate_is_the_time_of_all_questions_in_both_forms(
    asked: list[int], file: Path, folder: Path, patches: int, patched: int
) -> None:
    lm = LM.load(folder)
    request = call(find_experiment("clocked"), lm, data=file, patches=patches)
    assert cost.can_try(request.options)
    assert cost.estimate_seconds(request) == A_QUESTION_S * (MANY + 20) + A_PATCH_S * patched
    assert sum(asked) <= 1 + 2 * cost.TRIED
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert cost.estimate_seconds(request) >= A_QUESTION_S * (MANY + 20 + QUESTIONS) + A_PATCH_S * patched
    assert not cost.can_try({"n": cost.TRIED})
    assert not cost.can_try({"n": None})


def test_the_command_says_the_cost_before_it_starts_and_only_where_nothing_is_stored(
    asked: list[int],
    file: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--model", str(folder), "--data", str(file)]
    run(find_experiment("clocked"), words)
    assert f"this takes about 0:06:00, estimated from {cost.TRIED} of the rows" in capsys.readouterr().err
    assert asked == [1, cost.TRIED, cost.TRIED, MANY + 20]
    run(find_experiment("clocked"), words)
    assert "this takes" not in capsys.readouterr().err
    assert asked == [1, cost.TRIED, cost.TRIED, MANY + 20]
    run(find_experiment("clocked"), [*words, "--n", str(MANY)])
    assert "this takes" not in capsys.readouterr().err, "few rows are asked at once"


def test_tokens_give_the_time_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimate is that of the prompts that are then read, and a cheaper call is offered by name."""
    file = tmp_path / "a.csv"
    file.write_text("".join(f"{number % 2},text {number:04}\n" for number in range(3000)))
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=1024)
    options = {"data": file, "columns": "label,text", "shots": (0, 2), "only": "shots", "n": 40}
    request = call(find_experiment("in_context"), lm, **options)
    monkeypatch.setattr("probe.model.pace.seconds_a_token", lambda lm: 1.0)
    prompts = lambda k: len("Text: text 0000\nLabel: 1\n\n") * k + len("Text: text 0000\nLabel:")  # noqa: E731
    each = prompts(0) + prompts(2) * (1 + RELABELLED)
    assert cost.estimate_seconds(request) == 40 * each
    changes, seconds = cost.cheaper(call(find_experiment("in_context"), lm, **options | {"n": 3000}), 1e6) or ({}, 0)
    assert changes == {"shots": (0, 4), "n": cost.FEW}
    assert seconds == cost.FEW * (prompts(0) + prompts(4) * (1 + RELABELLED))
    assert cost.cheaper(request, cost.LONG_S - 1) is None
    tell_cost([call(find_experiment("in_context"), lm, **options | {"n": 3000, "only": "all"})])
    said = capsys.readouterr().err
    assert "estimated from the model's reading speed; `--only shots --shots 0 4 --n 100` takes about" in said


def test_the_cheaper_call_without_tokens_is_a_share_of_the_time(asked: list[int], file: Path, folder: Path) -> None:
    request = call(find_experiment("clocked"), LM.load(folder), data=file)
    assert cost.cheaper(request, 240.0) == ({"n": cost.FEW}, 240.0 * cost.FEW / (MANY + 20))
    assert not asked
