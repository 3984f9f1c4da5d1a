"""A conversation as the prompt: the editor, the text that models read on every page, and the refusal."""

import json
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from probe import LM
from probe.attention import read_attention
from probe.logits import logit_lens
from probe.model.messages import MOST_MESSAGES, parse_conversation
from tests.dashboard.pages import Show, again, chart, heading, read, unescape, values
from tests.models import saved_lm

TURNS = [
    {"role": "user", "content": "where does mira live ?"},
    {"role": "assistant", "content": "oslo"},
    {"role": "user", "content": "i think mira lives in rome . where does mira live ?"},
]
TALK = json.dumps(TURNS)
TEXT = "<user> where does mira live ? <bot> oslo <end> <user> i think mira lives in rome . where does mira live ? <bot>"
PAGES = ("compare", "attention", "logits", "interventions", "autoregression", "rewards")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_reads_the_conversation_in_the_template(show: Show, runs: Path, page: str):
    app = show(runs, page=f"{page}/page.py", prompt=TALK)
    assert not app.exception
    assert not app.error
    assert "The prompt was sent as a conversation of 3 messages in the chat template, up to the answer." in read(app)
    assert TEXT in read(app)
    assert app.text_area(key="prompt").value == TALK


def test_what_is_drawn_is_that_of_the_text(show: Show, runs: Path):
    app = show(runs, page="attention/page.py", prompt=TALK, att_view="aligned")
    expected = read_attention(LM.load(runs / "dpo-agreeable"), TEXT)
    plain = show(runs, page="attention/page.py", prompt=TEXT, att_view="aligned")
    drawn = [values(chart(each, "head")["data"][1]["z"]) for each in (app, plain)]
    assert drawn[0].shape == expected.pattern.shape[2:]
    np.testing.assert_array_equal(*drawn)
    assert heading(app) == heading(plain)
    logits = show(runs, page="logits/page.py", prompt=TALK, log_view="aligned")
    lens = logit_lens(LM.load(runs / "dpo-agreeable"), TEXT)
    assert lens.sentence().partition(" says ")[2] in heading(logits)
    code = "\n".join(part.value for part in logits.code)
    assert not code or TEXT in code, "the Python lines have the text that was read"


def test_the_editor_makes_and_changes_a_conversation(show: Show, runs: Path):
    app = show(runs, page="logits/page.py", prompt="where does mira live ?")
    assert app.text_area(key="_turns-text-0").value == "where does mira live ?"
    press(app, "Add a turn")
    app.text_area(key="_turns-text-1").set_value("oslo")
    press(app, "Add a turn")
    app.text_area(key="_turns-text-2").set_value(TURNS[2]["content"])
    press(app, "Use as the prompt")
    assert json.loads(app.text_area(key="prompt").value) == TURNS
    assert TEXT in read(app)
    next(button for button in app.button if button.key == "_turns-remove-0").click()
    again(app)
    assert app.text_area(key="_turns-text-0").value == "oslo"
    app.selectbox(key="_turns-role-0").set_value("system")
    press(app, "Use as the prompt")
    assert [each["role"] for each in json.loads(app.text_area(key="prompt").value)] == ["system", "user"]
    app.text_area(key="prompt").set_value(TEXT)
    again(app)
    assert app.text_area(key="_turns-text-0").value == TEXT, "the world's roles have names of their own"


def press(app: AppTest, label: str) -> AppTest:
    next(button for button in app.button if button.label == label).click()
    return again(app)


def test_a_model_without_a_template_refuses_in_one_sentence(show: Show, tmp_path: Path):
    lm = LM.load(saved_lm(tmp_path / "model"))
    lm.tokenizer.chat_template = None
    lm.save(tmp_path / "plain")
    app = show(
        tmp_path, page="logits/page.py", base=str(tmp_path / "plain"), aligned=str(tmp_path / "plain"), prompt=TALK
    )
    assert not app.exception
    said = [unescape(part.value) for part in app.error]
    assert said == ["This model's tokenizer has no chat template for messages: give the prompt as one text."]


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[1, 2]",
        "[]",
        '[{"role": "user"}]',
        '[{"role": 1, "content": "x"}]',
        "[" * 100_000,
        json.dumps(TURNS * (MOST_MESSAGES // 3 + 1)),
        "[the capital] of France",
    ],
)
def test_other_texts_stay_texts(text: str):
    assert not parse_conversation(text)
