"""Words that a model does not know: named before any answer, with near ones and a prompt that it does know."""

from pathlib import Path
from typing import Any

import pytest

from dashboard.pages import page_file
from tests.dashboard.pages import Show, heading, names, read, unescape

ASKED = "What is the capital of France?"
PAGES = ["compare", "attention", "logits", "interventions", "autoregression", "rewards"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_takes_the_prompt_names_them_before_any_answer(show: Show, runs: Path, page: str):
    app = show(runs, page=page_file(page), prompt=ASKED)
    assert not app.exception
    assert not app.error
    assert names(app) == []
    assert "does not know \u201cWhat\u201d, \u201ccapital\u201d, \u201cFrance?\u201d" in heading(app)
    assert "\u201cWhat\u201d is near \u201cwhat\u201d, \u201cFrance?\u201d is near \u201cfrance\u201d." in read(app)
    assert "pet: cat, dog, " in read(app)
    example = next(button for button in app.button if button.key == "known-example")
    example.click().run()
    assert not app.exception
    assert not app.error
    assert unescape(example.label) == f"Ask \u201c{app.text_area(key='prompt').value}\u201d"
    assert "does not know" not in heading(app)
    assert names(app)


def test_the_completion_of_two_reward_models_is_checked_too(show: Show, readouts: Any):
    query = {"base": "judge", "aligned": "critic", "prompt": "<user> where does mira live ? <bot>"}
    app = show(readouts.root, page="compare/page.py", completion="in Oslo", **query)
    assert not app.error
    assert "does not know \u201cOslo\u201d" in heading(app)


@pytest.mark.parametrize("page", ["attention", "logits", "interventions"])
def test_a_model_that_can_spell_everything_reads_every_text(show: Show, readouts: Any, page: str):
    plain = readouts.kinds["plain folder"]
    query = {"base": plain, "aligned": plain, "int_do": "ablate"}
    app = show(readouts.root, page=page_file(page), prompt=ASKED, **query)
    assert not app.exception
    assert not app.error
    assert "does not know" not in heading(app)
    assert names(app)
