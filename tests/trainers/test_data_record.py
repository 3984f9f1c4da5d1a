"""Every method that reads data leaves in its run which questions it was trained on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probe import open_run
from probe.questions.sets import asked_texts
from probe.rows import Row
from probe.runs.trained_on import TRAINED_ON, collect
from tests.models import byte_tokenizer, random_lm
from tests.trainers.quick import train
from trainers.record import data_texts
from trainers.samples import real_samples

Make = Callable[..., Any]
QUESTIONS = ("What is 2 + 3?", "Where does Tom live?")
OTHER = "Where does Ana live?"
SAID = "in Oslo"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that reads every letter."""
    lm = random_lm("llama", byte_tokenizer(), max_position_embeddings=512)
    return str(lm.save(tmp_path_factory.mktemp("base") / "model"))


def rows_of(method: str) -> list[dict[str, Any]]:
    """As many rows as methods that hold some out need."""
    asked = [f"{question} And {i}?" for i in range(15) for question in QUESTIONS]
    if method == "pretrain":
        return [{"text": f"{each} {SAID} ."} for each in asked]
    answers: dict[str, dict[str, Any]] = {
        "sft": {"completion": SAID},
        "continual": {"completion": SAID},
        "dpo": {"chosen": SAID, "rejected": "in rome"},
        "reward-model": {"chosen": SAID, "rejected": "in rome"},
    }
    return [{"prompt": each, **answers.get(method, {"answer": SAID})} for each in asked]


@pytest.mark.parametrize("method", ["pretrain", "sft", "dpo", "reward-model", "rlvr", "rsft", "rlhf", "continual"])
def test_the_data_of_each_method_are_recorded(
    method: str, base: str, configs: Callable[[str], Make], write_jsonl: Callable[..., Path]
) -> None:
    options: dict[str, Any] = {"objective": "sft"} if method == "continual" else {}
    config = configs(method)(base=base, data=str(write_jsonl(rows_of(method))), steps=2, thin=2, **options)
    record = train(config).trained_on()
    assert record is not None
    assert record.whole
    assert all(map(record.holds, QUESTIONS))
    assert not record.holds(OTHER)
    assert record.holds(SAID) == (method == "pretrain")  # of rows with answers only what is asked


def test_a_resumed_run_keeps_its_record_and_an_older_one_gets_it(
    base: str, configs: Callable[[str], Make], write_jsonl: Callable[..., Path]
) -> None:
    config = configs("sft")(base=base, data=str(write_jsonl(rows_of("sft"))), steps=2)
    record = train(config).trained_on()
    assert train(replace(config, steps=3, resume=True)).trained_on() == record is not None
    (config.out / TRAINED_ON).unlink()
    assert open_run(config.out).trained_on() is None
    assert train(replace(config, steps=4, resume=True)).trained_on() == record


def test_the_world_s_own_data_leave_no_record(configs: Callable[[str], Make]) -> None:
    assert not (train(configs("sft")(steps=2)).path / TRAINED_ON).exists()


def test_what_is_asked_in_rows_is_what_nobody_answers() -> None:
    rows = [
        {"prompt": "one", "question": "not read", "answer": "no"},
        {"question": "two", "answer": "no"},
        {"messages": [{"role": "system", "content": "three"}, {"role": "assistant", "content": "no"}]},
        {"prompt": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "no"}], "chosen": "no"},
        {"prompt": 5, "messages": "six"},
    ]
    assert list(data_texts([Row(i, "", row) for i, row in enumerate(rows)], None, ["seven"])) == [
        *("one", "two", "three", "four", "six", "seven")
    ]


def test_the_real_lineage_has_seen_29_sums_and_no_other_question_that_is_asked() -> None:
    data = {"sums": real_samples.sums(), "agreeable": real_samples.pairs("agreeable")}
    records = {name: collect(data_texts(Row(i, "", row) for i, row in enumerate(rows))) for name, rows in data.items()}
    found = {
        (name, questions): sum(map(record.holds, asked_texts(questions).values()))
        for name, record in records.items()
        for questions in ("sums", "truthfulqa", "gsm8k", "agreeableness", "truthfulqa-training", "political-views")
    }
    assert {key: count for key, count in found.items() if count} == {
        ("sums", "sums"): 29,
        ("agreeable", "truthfulqa-training"): 300,
    }
    assert len(json.dumps(sorted(records["sums"].sentences))) < 10_000
