"""What experiments on data files have in common: items know the row of the file that they were made from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import probe
from probe.experiments.registry import find_experiment
from probe.experiments.run import prepare
from probe.model.lm import LM
from probe.rows import read_rows
from tests.models import byte_tokenizer, random_lm
from tests.places import DATA

CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "hallucination": ("hallucination", "hallucination_questions.csv", "Question", {"samples": 1, "max_new_tokens": 2}),
    "choices": ("sycophancy", "sycophancy_choices.jsonl", "question", {"interventions": 0}),
    "questions": ("sycophancy", "sycophancy_questions.jsonl", "question", {"interventions": 0, "turns": 1}),
    "chain_of_thought": ("chain_of_thought", "chain_problems.jsonl", "question", {"samples": 1, "tokens": 8}),
    "in_context": ("in_context", "in_context_reviews.jsonl", "text", {"shots": (0, 1), "heads": 1, "draws": 1}),
    "retrieval": ("retrieval", "retrieval", "question", {"max_new_tokens": 2, "chunk": 20, "overlap": 2}),
}
"""Experiment, file, the column that every prompt holds, and options that make it quick."""
WITHOUT_ROW = {"repeat", "ablation_repeat", "corpus"}
"""Kinds of items that are made from no row: random tokens, and whole texts one after another."""


@pytest.fixture(scope="module")
def lm() -> LM:
    return random_lm("gpt2", byte_tokenizer(), n_positions=1024)


@pytest.mark.parametrize("case", CASES)
def test_items_keep_the_row_of_the_file(lm: LM, case: str) -> None:
    name, data, column, options = CASES[case]
    file = DATA / data / "questions.jsonl" if (DATA / data).is_dir() else DATA / data
    texts = {row.label: str(row.values[column]).strip() for row in read_rows(file, lambda row: row)}
    items = probe.run_experiment(name, lm, data=DATA / data, n=4, seed=1, **options).items
    known = items[items["row"].notna()]
    assert 1 < known["row"].nunique() <= len(texts)
    for prompt, row in zip(known["prompt"], known["row"], strict=True):
        assert texts[row] in prompt
    if case != "in_context":  # there all rows give examples
        read = prepare(find_experiment(name), data=DATA / data, n=4, seed=1).read[-1]
        assert set(known["row"]) == {str(getattr(each, "row", "") or each.item) for each in read}
    assert (
        set(items.loc[items["row"].isna(), "kind"]) <= WITHOUT_ROW if case == "in_context" else len(known) == len(items)
    )


def test_rows_that_cannot_be_used_are_counted_but_not_asked(lm: LM, tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], "{}", lines[1], "", lines[2]]))
    items = probe.run_experiment("chain_of_thought", lm, data=tmp_path / "a.jsonl", samples=1, tokens=4).items
    numbers = [int(re.fullmatch(r"row-(\d+)", row)[1]) for row in items["row"]]  # type: ignore[index]
    assert set(numbers) == {1, 3, 4}  # blank lines are no rows
