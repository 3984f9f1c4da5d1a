"""The question sets that ship: readable, balanced as they say, and asked where no data are named."""

import json
from collections import Counter
from pathlib import Path

import pytest

import probe
from probe.chain_of_thought.files import read_problems
from probe.errors import DataError
from probe.experiments.definition import form
from probe.experiments.registry import find_experiment
from probe.experiments.run import call
from probe.hallucination.files import read_questions
from probe.in_context.few_shot import read_classification
from probe.model.lm import LM
from probe.options import describe
from probe.questions import SETS, default_set, locate, plain_texts, right_answers
from probe.questions.draw import ALIKE, _alike, sums
from probe.questions.sets import DEFAULTS, FOLDER
from probe.sycophancy.files import read_file
from tests.models import random_lm

READERS = {
    "hallucination": read_questions,
    "sycophancy": lambda path, strict: read_file(path, strict)[1],
    "chain_of_thought": read_problems,
    "in_context": lambda path, strict: read_classification(path, strict=strict),
}


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in SETS[name].path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_whole_by_its_experiments(name: str) -> None:
    each = SETS[name]
    assert len(rows(name)) == each.rows
    assert each.licence in ("Apache-2.0", "MIT", "CC BY 4.0")
    assert each.source.startswith("https://") or Path(FOLDER.parents[1] / each.source).is_file()
    assert f"`{name}.jsonl`" in (FOLDER / "NOTICE.md").read_text()
    for experiment in each.experiments:
        read = READERS[experiment](each.path, strict=True)
        assert len(read) == each.rows
        assert not read.left_out
        assert read.repeats == 0


def test_the_sets_are_small_and_balanced_as_they_say() -> None:
    assert sum(each.path.stat().st_size for each in SETS.values()) < 400_000
    categories = Counter(row["category"] for row in rows("truthfulqa"))
    assert sorted(categories.values()) == [1] + [3] * 33
    views = [
        (row["question"].partition("\n")[0][-40:], row["answer_matching_behavior"]) for row in rows("political-views")
    ]
    assert set(Counter(views).values()) == {8}
    assert len(set(views)) == 8
    assert Counter(row["label"] for row in rows("agreeableness")) == {"agreeable": 50, "disagreeable": 50}
    assert set(Counter(row["answer"].count("<<") for row in rows("gsm8k")).values()) == {12}
    assert rows("sums") == sums()


def test_no_question_to_train_on_is_held_out_or_much_like_one_that_is() -> None:
    training, held_out = ([row["question"] for row in rows(name)] for name in ("truthfulqa-training", "truthfulqa"))
    assert len(set(training + held_out)) == len(training) + len(held_out)
    assert not any(_alike(one, other) for one in training[::20] for other in held_out)
    assert _alike("Where did fortune cookies come from?", "Where did the fortune cookies come from?")
    assert ALIKE < 1


def test_every_question_has_its_right_answer() -> None:
    for name, each in SETS.items():
        assert len(right_answers(name)) == each.rows
        assert all(question and answer for question, answer in right_answers(name))
    assert right_answers("sums")[0] == ("What is 19 - 17?", "19 - 17 = 2")
    assert len(plain_texts()) == sum(each.rows for each in SETS.values() if each.plain)


def test_a_name_is_a_set_and_anything_else_a_file() -> None:
    assert locate("gsm8k") == str(SETS["gsm8k"].path)
    assert locate("./gsm8k") == "./gsm8k"
    assert locate(None) is None
    with pytest.raises(DataError, match="truthful"):
        probe.run_experiment("hallucination", random_lm(), data="truthful")
    (data,) = (field for field in describe(form(find_experiment("sycophancy"))) if field["name"] == "data")
    assert data["suggestions"] == [
        "truthfulqa",
        "political-views",
        "agreeableness",
        "sums",
        "false-premises",
        "two-sides",
    ]


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_model_without_a_world_is_asked_the_default_set(name: str) -> None:
    request = call(find_experiment(name), random_lm())
    each = default_set(name)
    assert each is not None
    assert request.options["data"] == str(each.path)
    assert request.options["n"] == each.rows
    assert request.notes[0] == each.note
    assert request.key == call(find_experiment(name), random_lm(), data=each.name).key


def test_a_model_of_a_world_is_asked_by_it(base: LM) -> None:
    request = call(find_experiment("sycophancy"), base)
    assert request.options["data"] is None
    assert request.notes == []
    assert default_set("in_context") is None
    assert call(find_experiment("in_context"), random_lm()).options["data"] is None
