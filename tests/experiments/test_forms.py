"""What the form of the prompts alone changes: the table holds what two whole runs in either form give."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import probe
from probe.experiments import forms
from probe.experiments.forms import FORMS, form_notes
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import perform
from probe.model.lm import LM
from tests.experiments.test_data_files import CASES
from tests.models import byte_tokenizer, random_lm
from tests.places import DATA

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
MARK = "<assistant>"
SENT = {"hallucination": "plain", "in_context": "plain"}
"""Experiments that send prompts plain, unless they are told otherwise."""


@pytest.fixture(scope="module")
def chat() -> LM:
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=2048)
    lm.tokenizer.chat_template = TEMPLATE
    lm.ref = "chatty"
    return lm


def asked(case: str, lm: LM, **more: Any) -> Result:
    name, data, _, options = CASES[case]
    return probe.run_experiment(name, lm, data=DATA / data, seed=1, **(options | more))


@pytest.mark.parametrize("case", CASES)
def test_the_table_holds_both_forms_and_their_paired_difference(
    chat: LM, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are asked again, so that each number is that of a whole run."""
    name = CASES[case][0]
    form = SENT.get(name, "chat")
    other = {"chat": "plain", "plain": "chat"}[form]
    sent = asked(case, chat)
    monkeypatch.setattr("probe.experiments.run.compare_forms", lambda experiment, lm, arguments, sent, *_: sent)
    whole = asked(case, chat, form=other)
    facts = sent.meta["models"][0]["facts"]
    assert (facts["form"], facts["other_form"]) == (form, other)
    asked_rows = sent.items[sent.items["row"].notna()]
    main = asked_rows[asked_rows["kind"] != "vector"]
    assert main["prompt"].str.contains(MARK).all() == (form == "chat")
    table = sent.tables[FORMS].set_index("metric")
    assert len(table) >= 1
    one, two = (each.summary.set_index("metric") for each in (sent, whole))
    for metric, row in table.iterrows():
        if metric in one.index and row["n"] == one.loc[metric, "n"] == two.loc[metric, "n"]:
            assert row["value"] == pytest.approx(one.loc[metric, "value"])
            assert row["other"] == pytest.approx(two.loc[metric, "value"])
    compared = [m for m in table.index if m in one.index and table.loc[m, "n"] == one.loc[m, "n"]]
    assert compared


def test_some_rows_are_asked_again_and_they_are_among_those_that_were_asked(
    chat: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "QUESTIONS", 2)
    result = asked("hallucination", chat, only="mc", n=4)
    table = result.tables[FORMS].set_index("metric")
    assert table.loc["mc1", "n"] == 2
    again = asked("hallucination", chat, only="mc", n=2, form="chat")
    assert set(again.items["row"]) <= set(result.items["row"])
    assert table.loc["mc2", "other"] == pytest.approx(again.items["mc2"].mean())
    shared = result.items.set_index("row").loc[again.items["row"]]
    assert table.loc["mc2", "value"] == pytest.approx(shared["mc2"].mean())
    gaps = again.items["mc2"].to_numpy() - shared["mc2"].to_numpy()
    assert table.loc["mc2", "difference"] == pytest.approx(np.mean(gaps))


def test_the_sentence_says_the_form_and_the_change(chat: LM) -> None:
    result = asked("hallucination", chat, only="mc")
    (note,) = form_notes(result, find_experiment("hallucination"))
    assert note.startswith("chatty was asked in the plain form. In the chat form, asked of ")
    assert " instead of " in note
    assert note.endswith(".")


def test_a_model_without_a_template_has_one_form() -> None:
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=1024)
    result = asked("choices", lm)
    assert result.meta["models"][0]["facts"]["form"] == "plain"
    assert FORMS not in result.tables
    assert form_notes(result, None) == ["model was asked in the plain form."]


def test_a_form_that_does_not_fit_is_left_out_with_its_reason(tmp_path: Path) -> None:
    lm = random_lm("gpt2", byte_tokenizer(), n_positions=64)
    lm.tokenizer.chat_template = "x" * 80 + TEMPLATE
    file = tmp_path / "a.jsonl"
    row = '{"question": "why", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "b": 0}}\n'
    file.write_text(row * 3)
    result = probe.run_experiment("hallucination", lm, data=file, only="mc")
    assert result.meta["models"][0]["facts"]["other_form"].startswith("left out: A text has ")
    (note,) = form_notes(result, None)
    assert "; the other form is left out: A text has " in note


def test_an_experiment_of_ones_own_that_takes_a_form_is_compared_too(chat: LM, registry: None, tmp_path: Path) -> None:
    @probe.experiment("lengths")
    def lengths(lm: LM, *, data: str, n: int = 3, form: str = "plain") -> pd.DataFrame:
        count = 3.0 if form == "chat" else 1.0
        return pd.DataFrame({"row": [f"row-{i}" for i in range(n)], "length": count})

    (tmp_path / "data.txt").write_text("x")
    result = probe.run_experiment("lengths", chat, data=str(tmp_path / "data.txt"))
    row = result.tables[FORMS].iloc[0]
    assert (row["metric"], row["value"], row["other"], row["difference"]) == ("length", 1, 3, 2)


def test_an_experiment_of_ones_own_may_mean_something_else_by_a_form(chat: LM, registry: None, tmp_path: Path) -> None:
    @probe.experiment("shapes")
    def shapes(lm: LM, *, data: str, form: str = "round") -> pd.DataFrame:
        return pd.DataFrame({"row": ["row-1"], "length": [float(len(form))]})

    (tmp_path / "data.txt").write_text("x")
    for form in ("round", "plain"):  # it takes no n, so nothing says how much would be asked again
        result = probe.run_experiment("shapes", chat, data=str(tmp_path / "data.txt"), form=form)
        assert FORMS not in result.tables
        assert result.summary["value"].tolist() == [5.0]


def test_the_other_form_is_spared_where_nobody_reads_it(chat: LM) -> None:
    name, data, _, options = CASES["hallucination"]
    result = perform(find_experiment(name), chat, data=DATA / data, seed=1, both_forms=False, **options)
    assert FORMS not in result.tables
    (note,) = form_notes(result, find_experiment(name))
    assert "in the plain form; the other form is left out: it was not asked" in note
    whole = asked("hallucination", chat)
    pd.testing.assert_frame_equal(result.items, whole.items)
