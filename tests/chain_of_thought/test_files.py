"""The experiment `chain_of_thought` on files: reading, answers, and models of known behaviour."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from probe.chain_of_thought.experiment import run
from probe.chain_of_thought.files import (
    OPENING,
    THINK,
    Examiner,
    compile_pattern,
    faithfulness,
    filler_for,
    final_answer,
    is_number,
    other_answer,
    plain_answer,
    read_problems,
    shift_number,
    solve_problems,
    steps_of,
    suggest_answers,
)
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.ticks import ignore
from tests.models import random_lm
from tests.places import DATA

FILE = DATA / "chain_problems.jsonl"


class Scripted(LM):
    """Writes what a function of the prompt says."""

    def __init__(self, write: Callable[[str], str]) -> None:
        like = random_lm("llama", max_position_embeddings=4096)
        super().__init__(like.model, like.tokenizer)
        self.write = write

    def generate(self, prompts: Any, n: int = 1, **options: Any) -> Any:  # type: ignore[override]
        """The texts alone."""
        return SimpleNamespace(text=[self.write(prompt) for prompt in prompts for _ in range(n)])


def test_files() -> None:
    assert [problem.answer for problem in read_problems(FILE)] == ["7", "10", "24", "1000", "20", "9"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Line 2"),
        ('{"question": "a"}', "Line 2"),
        ('{"question": "a", "answer": null}', "Line 2"),
        ('{"question": "", "answer": "3"}', "Line 2"),
        ('{"question": "a", "answer": "steps ####"}', "Line 2"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"question": "a", "answer": 1}) + "\n" + line + "\n")
    with pytest.raises(DataError, match=said):
        read_problems(file, strict=True)
    rows = read_problems(file)
    assert [problem.answer for problem in rows] == ["1"]
    assert rows.left_out[0].startswith("Line 2 of")


def test_other_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_problems(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_problems(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="not a regular expression"):
        compile_pattern("(")


def test_answers() -> None:
    """Money, thousands, fractions, texts; the last number of a reasoning, the first behind an opening; a pattern."""
    assert [plain_answer(text) for text in ("$1,200.", "7.0", "-0", " Paris!", "1,5", "1e3x")] == [
        "1200",
        "7",
        "0",
        "paris",
        "15",
        "1e3x",
    ]
    assert final_answer("3 + 4 = 7. So 7 pens, not 8", None, True) == "8"
    assert final_answer(" 7 pens, and 8", None, True, first=True) == "7"
    assert final_answer("no idea", None, True) == ""
    assert final_answer("Paris.\nBut", None, False, first=True) == "paris"
    assert final_answer("answer is B) or answer is (C)", compile_pattern(r"answer is \(?(\w)"), False) == "c"
    assert is_number("-3.5")
    assert not is_number("c")
    assert other_answer("7", [], 3) == "10"
    assert other_answer("a", ["a", "b"], 3) == "b"
    assert other_answer("a", ["a"], 3) == ""


def test_steps() -> None:
    text = "She has 3.5 pens.  Then 4 more!\n\nSo 7.5 in all"
    steps = steps_of(text)
    assert "".join(steps) == text
    assert [step.strip() for step in steps] == ["She has 3.5 pens.", "Then 4 more!", "So 7.5 in all"]
    assert shift_number("3 + 4 = 7.", 2) == "3 + 4 = 9."
    assert shift_number("1,200 apples", 1) == "1201 apples"
    assert shift_number("no number", 1) is None


def measured(write: Callable[[str], str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    examiner = Examiner(Scripted(write), read_problems(FILE), None, 100)
    rows, reasonings = solve_problems(examiner, 3, 1.0, 0, ignore)
    faithfulness(examiner, rows, reasonings, 0, ignore)
    return rows, suggest_answers(examiner, 1.0, 0, ignore)


def reasoning(prompt: str) -> str:
    """Writes the truth as the last of two steps, from where it stands."""
    truth = next(p.answer for p in read_problems(FILE) if p.question in prompt)
    return "We think." if "number" in prompt else f" First a number 1.\nSo it is {truth}."


def test_a_model_that_answers_before_it_reasons() -> None:
    """Null: one answer whatever stands before: no gain, areas of 0, and no pull of a suggestion."""
    rows, biased = measured(lambda prompt: " 7" if prompt.endswith(OPENING) else reasoning(prompt))
    assert {row["early_aoc"] for row in rows} == {0.0}
    assert {row["mistakes_aoc"] for row in rows} == {0.0}
    assert {row["steps_gain"] for row in rows} == {0.0}
    assert [row["accuracy_direct"] for row in rows] == [1, 0, 0, 0, 0, 0]
    drops = [row[f"bias_drop_{form}"] for row in biased for form in ("direct", "steps")]
    pulls = [row[f"bias_{form}"] for row in biased for form in ("direct", "steps")]
    assert set(drops) | set(pulls) == {0.0}


def test_a_model_that_reads_its_reasoning() -> None:
    """It answers the last number written, so each cut and each mistake changes the answer, and it needs its steps."""

    def write(prompt: str) -> str:
        if not prompt.endswith(OPENING):
            return reasoning(prompt)
        behind = re.split(r"A:|step\.", prompt.removesuffix(OPENING))[-1]
        return " " + (re.findall(r"\d[\d,]*", behind) or ["nothing"])[-1]

    rows, _ = measured(write)
    assert {row["accuracy_steps"] for row in rows} == {1.0}
    assert {row["pass@2"] for row in rows} == {1.0}
    assert {row["accuracy_direct"] for row in rows} == {0.0}
    assert {row["accuracy_filler"] for row in rows} == {0.0}
    assert {row["early_aoc"] for row in rows} == {0.75}  # agreement 0, 0, 1 at 0, a half, 1
    assert {row["mistakes_aoc"] for row in rows} == {0.75}


def test_a_model_that_believes_the_user() -> None:
    def write(prompt: str) -> str:
        claim = re.search(r"I think the answer is (\S+),", prompt)
        return f" {claim[1]}" if claim and prompt.endswith(OPENING) else " 0" if prompt.endswith(OPENING) else " Hm."

    _, biased = measured(write)
    assert {row["bias_direct"] for row in biased} == {1.0}
    assert {row["bias_steps"] for row in biased} == {1.0}
    assert {row["bias_unsaid"] for row in biased} == {1.0}
    assert all(row["bias"] != row["expected"] for row in biased)


def test_filler_has_as_many_tokens() -> None:
    for name in ("llama", "gpt2"):
        lm = random_lm(name)
        text = "mira lives in oslo . the cat lives"
        counts = [len(lm.tokenizer.encode(t, add_special_tokens=False)) for t in (text, filler_for(lm, text))]
        assert abs(counts[0] - counts[1]) <= 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_any_model(name: str) -> None:
    """Random weights: everything is measured, nothing is right beyond chance, and all figures are drawn."""
    lm = random_lm(name, **({"n_positions": 512} if name == "gpt2" else {"max_position_embeddings": 512}))
    found = run(lm, data=FILE, n=3, samples=2, tokens=6)
    assert found.value("accuracy_steps", "ci_low") <= 0.1
    assert found.value("bias_direct", "ci_low") <= 0 <= found.value("bias_direct", "ci_high")
    assert {"accuracy", "pass_at_k", "bias"} <= set(found.figures)
    assert "step_following" not in set(found.summary["metric"])
    assert THINK in found.items["prompt"].iloc[0]
    assert run(lm, data=FILE, n=3, samples=2, tokens=6).items.equals(found.items)


def test_a_question_that_fills_the_context(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"question": "why " * 60, "answer": 1}))
    with pytest.raises(DataError, match="leaves no room"):
        run(random_lm("llama", max_position_embeddings=64), data=file, n=1, samples=1, tokens=4)
