"""Two numbers as answers on every page that sets one answer against another, with a tokenizer of single digits."""

from pathlib import Path

import numpy as np
import pytest

from probe.interventions.patching import pair_of, patch
from probe.logits.answer_tokens import answer_tokens, whole_logprobs
from probe.logits.attribution import attribute
from probe.logits.targets import target_of
from probe.model.lm import LM
from probe.numbers import signed
from probe.recording.recorder import watch
from tests.dashboard.pages import Show, chart, every_tab, heading, read, unescape, values
from tests.models import char_tokenizer, digit_tokenizer, random_lm

TEXT, OTHER = "7 + 8 =", "7 + 9 ="
SAID = "\u201c15\u201d and \u201c14\u201d begin alike: \u201c\u00b71\u201d is added to the prompt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm = random_lm(tokenizer=digit_tokenizer(), max_position_embeddings=96)
    return lm.save(tmp_path_factory.mktemp("digits") / "digits")


def test_logits_compare_the_digit_that_differs(show: Show, runs: Path, folder: Path) -> None:
    asked = {"log_answer": " 15", "log_against": " 14", "log_view": "aligned"}
    app = show(runs, page="logits/page.py", aligned=str(folder), prompt=TEXT, **asked)
    assert not app.exception
    assert not app.error
    lm = LM.load(folder)
    found = attribute(lm, TEXT, target_of(lm, TEXT, " 15", " 14"))
    assert f"5 \u2212 4 = {signed(found.total)} nats in digits" in read(app)
    assert SAID in read(app)
    first, second = whole_logprobs(lm, lm.tokenizer.encode(TEXT), answer_tokens(lm, [" 15", " 14"]))
    words = f"{signed(first)} for \u201c15\u201d (3) and {signed(second)} for \u201c14\u201d (3) with digits."
    assert words in read(app)
    cells = values(chart(app, "parts")["data"][0]["z"])
    np.testing.assert_allclose(cells[1:], np.concatenate([found.heads, found.mlps[:, None]], axis=1), atol=1e-4)
    for whole in every_tab(app):
        assert not whole.exception
        exec(compile(whole.code[0].value, "logits", "exec"), {})


@pytest.mark.parametrize(("answer", "against"), [(" 15", " 15"), (" 15", " 1")])
def test_logits_refuse_what_no_token_tells_apart(
    show: Show, runs: Path, folder: Path, answer: str, against: str
) -> None:
    asked = {"log_answer": answer, "log_against": against, "log_view": "aligned"}
    app = show(runs, page="logits/page.py", aligned=str(folder), prompt=TEXT, **asked)
    assert not app.exception
    assert "given twice" in heading(app) or "begins with the whole of" in heading(app)


def test_one_typed_answer_has_a_rival_that_is_not_its_beginning(show: Show, runs: Path, folder: Path) -> None:
    lm = LM.load(folder)
    likeliest = lm.tokenizer.decode([int(lm.logits(TEXT)[0, -1].argmax())])
    asked = {"log_answer": f"{likeliest}15", "log_view": "aligned"}
    app = show(runs, page="logits/page.py", aligned=str(folder), prompt=TEXT, **asked)
    assert not app.exception
    assert not app.error


def test_interventions_patch_behind_what_is_shared(show: Show, runs: Path, folder: Path) -> None:
    asked = {"int_corrupted": OTHER, "int_answer": "15", "int_against": "14"}
    app = show(runs, page="interventions/page.py", aligned=str(folder), prompt=TEXT, **asked)
    assert not app.exception
    assert not app.error
    lm = LM.load(folder)
    pair = pair_of(lm, TEXT, OTHER)
    grid = patch(lm, pair, target_of(lm, pair.clean, " 15", " 14"), "head")
    np.testing.assert_allclose(values(chart(app, "grid")["data"][0]["z"]), grid.shares, atol=1e-4)
    assert SAID in read(app)
    exec(compile(app.code[0].value, "interventions", "exec"), {})


def test_steering_says_which_tokens_it_compares(show: Show, runs: Path, folder: Path) -> None:
    asked = {"int_do": "steer", "int_steered": TEXT, "int_answer": "15", "int_against": "14"}
    asked |= {"int_positive": "good", "int_negative": "bad"}
    app = show(runs, page="interventions/page.py", aligned=str(folder), prompt=TEXT, **asked)
    assert not app.exception
    assert not app.error
    assert SAID in read(app)


def test_captures_say_it_and_their_curves_differ(show: Show, runs: Path, folder: Path, tmp_path: Path) -> None:
    with watch(LM.load(folder), tmp_path / "sums", prompts=[{"text": TEXT, "answers": [" 15", " 14"]}]) as recorder:
        recorder.step(0)
    app = show(runs, tmp_path, page="logits/page.py", log_run="sums", log_tab="Over training")
    assert not app.exception
    assert SAID in read(app)
    lines = [trace["y"] for trace in chart(app, "training")["data"] if trace.get("name") in ("15", "14")]
    assert len(lines) == 2
    assert values(lines[0]) != pytest.approx(values(lines[1]))
    app = show(runs, tmp_path, page="training/page.py", runs="sums", watched="sums", training_tab="Head and answers")
    assert not app.exception
    assert SAID in read(app)


def test_prompts_that_the_tokenizer_could_not_read_are_named_where_captures_are_shown(
    show: Show, runs: Path, tmp_path: Path
) -> None:
    lm = random_lm(tokenizer=char_tokenizer("abcdefghijklmnopqrstuvwxyz "))
    with pytest.warns(UserWarning, match="default prompts"), watch(lm, tmp_path / "letters") as recorder:
        recorder.step(0)
    for page, query in (
        ("logits/page.py", {"log_run": "letters", "log_tab": "Over training"}),
        ("training/page.py", {"runs": "letters", "watched": "letters", "training_tab": "Head and answers"}),
    ):
        app = show(runs, tmp_path, page=page, **query)
        assert not app.exception
        assert recorder.left_out in unescape(read(app))
