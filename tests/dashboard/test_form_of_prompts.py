"""The page of an experiment over a file says in which form its prompts were sent, and what the other one changes."""

from pathlib import Path

import pytest

from probe.experiments.forms import FORMS
from probe.experiments.registry import find_experiment
from probe.experiments.store import obtain
from probe.model.lm import LM
from tests.dashboard.pages import Show, read
from tests.experiments.test_forms import TEMPLATE
from tests.models import byte_tokenizer, random_lm
from tests.places import DATA


def test_a_file_that_was_asked_in_two_forms_has_a_tab_of_them(
    show: Show, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    model, data = tmp_path / "chatty", DATA.absolute() / "hallucination_questions.csv"
    tiny = random_lm("gpt2", byte_tokenizer(), n_positions=1024)
    tiny.tokenizer.chat_template = TEMPLATE
    tiny.save(model)
    lm = LM.load(model)
    result = obtain(find_experiment("hallucination"), lm, data=data, only="mc")
    choices = {"hallucination.data": str(data), "hallucination.only": "mc", "hallucination~tab": "Form of the prompts"}
    app = show(runs, page="hallucination/page.py", base=str(model), aligned="", **choices)
    assert not app.exception
    assert "chatty was asked in the plain form. In the chat form, asked of " in read(app)
    (table,) = (each.value for each in app.dataframe if "other \u2212 sent" in each.value)
    rows = result.tables[FORMS]
    assert len(table) == len(rows)
    assert set(table["sent"]) == {"plain"}
    first, shown = rows.iloc[0], table.iloc[0]
    assert shown["plain"].startswith(f"{100 * first['value']:.0f} %")
    assert shown["chat"].startswith(f"{100 * first['other']:.0f} %")
    assert shown["n"] == first["n"]
