"""What experiments on data files have in common: items know the row of the file that they were made from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import probe
from probe.errors import ConfigError, DataError
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


BARE = {
    "hallucination": (
        "Question,Best Answer,Correct Answers,Incorrect Answers",
        'Is it?,Yes,"Yes; It is",No\nHow?,So,So,Not\n',
    ),
    "sycophancy": (
        "question,correct_answer,incorrect_answer",
        "Capital of Norway?,Oslo,Bergen\nBees make?,honey,milk\n",
    ),
    "chain_of_thought": ("question,answer", "One and one?,2\nTwo and two?,4\n"),
    "in_context": ("label,text", "1,good\n2,bad\n1,fine\n"),
}
"""Experiment to the names of columns and the rows of a file without a header."""


@pytest.mark.parametrize("name", BARE)
def test_columns_names_those_of_a_file_without_a_header(tmp_path: Path, name: str) -> None:
    columns, rows = BARE[name]
    (tmp_path / "bare.csv").write_text(rows)
    (tmp_path / "named.csv").write_text(f"{columns}\n{rows}")
    experiment = find_experiment(name)
    bare = prepare(experiment, data=tmp_path / "bare.csv", columns=columns, unit=columns.split(",")[0])
    named = prepare(experiment, data=tmp_path / "named.csv", unit=columns.split(",")[0])
    assert list(bare.read[-1]) == list(named.read[-1])
    assert len(bare.read[-1]) == rows.count("\n") == bare.options["n"]
    assert bare.units == named.units
    assert bare.units
    with pytest.raises(DataError, match="begins with a header"):
        prepare(experiment, data=tmp_path / "named.csv", columns=columns)
    with pytest.raises(ConfigError, match="columns names the columns of a data file"):
        prepare(experiment, columns=columns)


def test_a_file_without_a_header_is_told_apart_from_one_that_lacks_a_column(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('"3","Title","Text"\n"4","Title","Text"\n')
    with pytest.raises(DataError, match="is no header: name its columns with columns"):
        prepare(find_experiment("in_context"), data=file)
    file.write_text("title,body\na,b\n")
    with pytest.raises(DataError, match="has the fields title, body"):
        prepare(find_experiment("in_context"), data=file)


def test_an_experiment_measures_a_file_without_a_header(lm: LM, tmp_path: Path) -> None:
    """Both files give the same numbers, and stored results are told apart by the names."""
    columns, rows = BARE["in_context"]
    (tmp_path / "bare.csv").write_text(rows)
    (tmp_path / "named.csv").write_text(f"{columns}\n{rows}")
    options: dict[str, Any] = {"shots": (0, 1), "only": "shots", "label_names": "pos,neg"}
    bare = probe.run_experiment("in_context", lm, data=tmp_path / "bare.csv", columns=columns, **options)
    named = probe.run_experiment("in_context", lm, data=tmp_path / "named.csv", **options)
    assert bare.summary.equals(named.summary)
    assert set(bare.items["expected"].dropna()) >= {"pos", "neg"}
    with pytest.raises(ConfigError, match="label_names names the labels of a data file"):
        prepare(find_experiment("in_context"), label_names="pos,neg")
