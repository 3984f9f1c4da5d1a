"""The chat template of a real model: on at first, said in words, off where the text is to be read as it stands."""

from pathlib import Path

import pytest

from dashboard.pages import page_file
from dashboard.state import CHAT
from tests.dashboard.pages import Show, again, read
from tests.models import random_lm

TEMPLATE = "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
SENT = "The prompt was sent in the chat template, as a user's message."
PLAIN = "The prompt was sent as plain text, without the chat template."
PROMPT = "where does mira live ?"


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of no world, with a chat template."""
    lm = random_lm()
    lm.tokenizer.chat_template = TEMPLATE
    return str(lm.save(tmp_path_factory.mktemp("chat") / "chatty"))


@pytest.mark.parametrize("page", CHAT)
def test_a_real_model_is_sent_its_template_at_first(show: Show, runs: Path, chatty: str, page: str):
    models = {"base": chatty, "aligned": chatty, "prompt": PROMPT, "int_do": "ablate"}
    app = show(runs, page=page_file(page), **models)
    assert not app.exception
    assert not app.error
    assert app.toggle(key=CHAT[page]).value
    assert SENT in read(app)
    app.toggle(key=CHAT[page]).set_value(False)
    assert PLAIN in read(again(app))
    again(app)
    assert not app.toggle(key=CHAT[page]).value
    app = show(runs, page=page_file(page), **models, **{CHAT[page]: "false"})
    assert not app.toggle(key=CHAT[page]).value
    assert PLAIN in read(app)


def test_autoregression_says_that_it_reads_plain_text(show: Show, runs: Path, chatty: str):
    app = show(runs, page="autoregression/page.py", base=chatty, aligned=chatty, prompt=PROMPT)
    assert not app.error
    assert read(app).count(PLAIN) == 1
    assert "The prompt was sent" not in read(show(runs, page="autoregression/page.py", lag_texts="2"))


def test_a_system_message_of_the_template_is_said(show: Show, runs: Path, tmp_path: Path):
    lm = random_lm()
    lm.tokenizer.chat_template = "<|system|> where {% for m in messages %}<|user|> {{ m['content'] }} {% endfor %}"
    ref = str(lm.save(tmp_path / "systematic"))
    app = show(runs, page="compare/page.py", base=ref, aligned=ref, prompt=PROMPT)
    assert f"{SENT[:-1]} after the system message that the template adds." in read(app)


@pytest.mark.parametrize("page", CHAT)
def test_a_text_with_special_tokens_is_read_as_it_stands(show: Show, runs: Path, chatty: str, page: str):
    text = "<bos> <user> where does mira live ? <bot>"
    app = show(runs, page=page_file(page), base=chatty, aligned=chatty, prompt=text, int_do="ablate")
    assert not app.error
    assert not app.toggle(key=CHAT[page]).value
    assert PLAIN in read(app)


@pytest.mark.parametrize("page", [page for page in CHAT if page != "interventions"])
def test_prompts_of_a_world_hold_its_markers_themselves(show: Show, runs: Path, page: str):
    app = show(runs, page=page_file(page))
    assert not app.toggle(key=CHAT[page]).value
    assert "The prompt was sent" not in read(app)


def test_another_model_brings_its_own_form(show: Show, runs: Path, chatty: str):
    app = show(runs, page="compare/page.py", base=chatty, aligned=chatty, prompt=PROMPT)
    assert app.toggle(key="chat").value
    for key in ("base", "aligned"):
        app.selectbox(key=key).set_value("base")
    app.selectbox(key="base").options.append(chatty)
    app.run()
    assert not app.exception
    assert not app.toggle(key="chat").value
