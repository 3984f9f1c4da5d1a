"""The tabs of Side by side: over a corpus, weights, the line between two models, gradient."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import probe
from dashboard import models
from dashboard.models import Results
from probe.model.lm import LM
from probe.numbers import in_unit
from probe.questions.sets import SETS
from probe.terms import term
from probe.world import of
from tests.dashboard import store
from tests.dashboard.experiments import press
from tests.dashboard.pages import Show, again, chart, heading, names, offered, open_tab, read, unescape, values
from tests.model.test_adapters import adapter
from tests.models import byte_tokenizer, random_lm
from trainers.gradient import side_by_side

PAGE = "compare/page.py"
CORPUS, WEIGHTS, LINE, GRADIENT = "Over a corpus", "Weights", "The line between them", "Gradient"
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two Hugging Face folders of one architecture with one tokenizer, and a file of texts."""
    root, tokenizer = tmp_path_factory.mktemp("plain"), byte_tokenizer()
    tokenizer.chat_template = CHAT
    for seed, name in enumerate(("first", "second")):
        random_lm("llama", tokenizer, seed=seed, max_position_embeddings=1024).save(root / name)
    rows = [{"prompt": "where does mira live ?", "completion": " oslo", "kind": kind} for kind in ("home", "work")]
    rows += [{"prompt": [{"role": "user", "content": "the cat"}], "completion": " lives", "kind": "home"}]
    (root / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "bad.jsonl").write_text('{"nothing": 1}')
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def plain(show: Show, folders: dict[str, str]):
    """Opens a tab on the two folders."""

    def at(tab: str, **query: Any) -> AppTest:
        models = {"base": folders["first"], "aligned": folders["second"], "prompt": "where does mira live ?"}
        return show(Path(folders["first"]).parent, page=PAGE, compare_tab=tab, **models, **query)

    return at


def numbers(app: AppTest, name: str) -> np.ndarray:
    """All values that a figure draws."""
    axes = [trace.get(axis) for trace in chart(app, name)["data"] for axis in ("x", "y", "z")]
    arrays = [values(each).ravel() for each in axes if isinstance(each, dict)]
    return np.concatenate([np.array([]), *arrays])


def sound(app: AppTest, *figures: str) -> None:
    """A page without errors, with these figures and finite values in them."""
    assert not app.exception
    assert not app.error
    assert names(app) == list(figures)
    for name in figures:
        found = numbers(app, name)
        assert np.isfinite(found).any()
        assert not np.isinf(found).any()


def test_a_corpus_of_the_world_is_ranked(show: Show, runs: Path):
    app = show(runs, page=PAGE, compare_tab=CORPUS, corpus_n="3", corpus_kind="opinion_false")
    sound(app, "corpus")
    base, aligned = LM.load(runs / "base"), LM.load(runs / "dpo-agreeable")
    texts = probe.compare.shared_texts(base, aligned, n=3)
    shift = probe.compare.compare_corpus(base, aligned, texts, True)
    rows = shift.tokens[shift.tokens["kind"] == "opinion_false"]
    assert f"KL(dpo-agreeable \u2225 base) is {shift.kl.value:.2f}" in heading(app)
    assert f"the kind {shift.kinds['kind'][0]} changed most" in heading(app)
    assert list(app.dataframe[0].value["text"]) == list(rows["row"])
    app.segmented_control(key="corpus_list").set_value("Promoted and suppressed").run()
    assert not app.error
    assert app.dataframe[0].value["token"][0] == shift.listed("difference")["token"].iloc[0]
    assert "The choice of texts alone changes some token by" in read(app)
    assert {"PNG", "tokens.csv", "promoted.tex"} <= set(map(unescape, offered(app)))
    for listed in ("Texts", "Kinds", "Tokens read"):
        app.segmented_control(key="corpus_list").set_value(listed).run()
        assert not app.error
        assert len(app.dataframe[0].value)


def test_a_position_of_a_corpus_is_the_same_in_the_first_tab(runs: Path):
    """The KL that the corpus has at a position is what Side by side shows at the next token of the text up to there."""
    base, aligned = LM.load(runs / "base"), LM.load(runs / "dpo-agreeable")
    texts = probe.compare.shared_texts(base, aligned, n=2)
    shift = probe.compare.compare_corpus(base, aligned, texts, answers=False)
    for index in (0, 7):
        for name, title, column in (("tokens", "Positions", "kl"), ("texts", "Texts", "kl_max")):
            analysis, rows = shift.lists()[title].attrs["opens"]
            assert analysis == "compare"
            both = probe.compare.compare(base, aligned, rows[index]["prompt"], max_new_tokens=1)
            expected = shift.tables()[name].iloc[index][column]
            assert both.aligned.kl[rows[index]["position"]] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_corpus_file_of_a_plain_pair(plain, folders: dict[str, str]):
    app = plain(CORPUS)
    sound(app, "corpus")
    assert any(f"the kind {name} changed most" in heading(app) for name in SETS)
    sound(plain(CORPUS, corpus_file=folders["texts.jsonl"]), "corpus")
    app = plain(CORPUS, corpus_file=folders["bad.jsonl"])
    assert "lacks `text` or `messages` or `prompt`" in heading(app)


def test_weights_are_mapped_and_a_lora_is_told_by_its_rank(show: Show, runs: Path, tmp_path: Path):
    app = show(runs, page=PAGE, compare_tab=WEIGHTS)
    sound(app, "weights", "weight-heads")
    assert "the weights changed by" in heading(app)
    assert "effective directions" in heading(app)
    assert app.dataframe[0].value["relative"].is_monotonic_decreasing
    app.segmented_control(key="weights_list").set_value("Heads").run()
    assert {"qk_relative", "ov_rank"} <= set(app.dataframe[0].value)
    base = LM.load(runs / "base")
    adapter(base.directory, tmp_path / "lora")
    app = show(runs, page=PAGE, compare_tab=WEIGHTS, aligned=str(tmp_path / "lora"))
    ranks = probe.compare.weight_change(base, LM.load(tmp_path / "lora")).matrices["rank"]
    assert f"at most {ranks.max()} of its" in heading(app)
    assert f"{(ranks > 0).sum()} of " in heading(app)
    app = show(runs, page=PAGE, compare_tab=WEIGHTS, base="base", aligned="base")
    assert heading(app) == "No weight of base (aligned) differs from that of base."


def test_weights_of_a_plain_pair_and_of_other_sizes(plain, folders: dict[str, str]):
    sound(plain(WEIGHTS), "weights", "weight-heads")
    tokenizer = LM.load(folders["first"]).tokenizer
    random_lm("llama", tokenizer, num_hidden_layers=3).save(Path(folders["first"]).parent / "deep")
    app = plain(WEIGHTS)
    app.selectbox(key="aligned").set_value(str(Path(folders["first"]).parent / "deep"))
    again(app)
    assert "cannot be compared" in heading(app)
    assert not app.error


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_an_experiment_along_the_line_is_measured_once(
    show: Show, runs: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
):
    query = {"line_experiment": "Sycophancy", "line.sycophancy.n": "4", "line_spacing": "0.5"}
    app = show(runs, page=PAGE, compare_tab=LINE, **query)
    assert "Press the button to run an experiment on the straight line" in heading(app)
    press(app, "follow_line-run")
    sound(app, "line")
    base, aligned = LM.load(runs / "base"), LM.load(runs / "dpo-agreeable")
    path = probe.compare.follow_line(base, aligned, n=4)
    (first, *_) = path.most_moved()
    half = path.table().set_index(["metric", "alpha"])["value"][first, 0.5]
    assert f"{in_unit(term(first, 'sycophancy').unit, half, None, None)} at 0.5" in heading(app)
    table = app.dataframe[0].value
    assert set(table["name in files"]) == set(path.table().query("chord == chord")["metric"])
    assert len(list((elsewhere / "results" / "line").glob("sycophancy-*/result.json"))) == 5
    monkeypatch.setattr("probe.compare.path.interpolate", lambda *_: pytest.fail("it is kept"))
    app.multiselect(key="line_metrics").set_value(["deferral"]).run()
    sound(app, "line")
    assert len(chart(app, "line")["data"]) == 5
    assert "at alpha" in heading(app)
    sentence = heading(app)
    monkeypatch.setattr(models, "RESULTS", Results())  # as a server that starts again
    app = show(runs, page=PAGE, compare_tab=LINE, line_metrics=[term("deferral", "sycophancy").label], **query)
    sound(app, "line")
    assert heading(app) == sentence


def test_a_file_of_a_link_waits_and_is_refused_in_a_sentence(plain, elsewhere: Path):
    file = elsewhere / "bad.jsonl"
    file.write_text('{"nothing": 1}')
    app = plain(LINE, line_experiment="Hallucination", link=True, **{"line.hallucination.data": str(file)})
    assert heading(app) == "The references below have not been opened."
    press(app, f"open-{file}")
    assert "has no text `question`" in heading(app)
    assert not app.error
    assert "follow_line-run" not in {button.key for button in app.button}


@pytest.mark.slow
def test_a_line_of_a_plain_pair_needs_no_file(plain, elsewhere: Path):
    app = plain(LINE, **{"line.sycophancy.n": "2"})
    press(app, "follow_line-run")
    sound(app, "line")
    assert heading(app).startswith("agreement from first (alpha 0) to second (alpha 1)")


def test_every_method_weighs_the_tokens_of_one_prompt(show: Show, runs: Path):
    app = show(runs, page=PAGE, compare_tab=GRADIENT)
    sound(app, "gradient")
    table = app.dataframe[0].value.set_index("method")
    assert list(table.index) == ["pretrain", "sft", "rsft", "dpo", "rlhf", "rlvr"]
    assert (table.loc[["pretrain", "sft", "rsft"], "tokens lowered"] == 0).all()
    assert (table.loc[["dpo", "rlhf", "rlvr"], "tokens lowered"] > 0).all()
    prompt = app.text_area(key="prompt").value
    app.segmented_control(key="gradient_list").set_value("Answers").run()
    answers, world = app.dataframe[0].value, of(LM.load(runs / "base"))
    assert world
    rewards = [world.verify(prompt, f" {answer}").score for answer in answers["answer"]]
    assert list(answers["reward"]) == rewards
    texts = [f" {answer}" for answer in answers["answer"]]
    found = side_by_side(LM.load(runs / "base"), prompt, texts, rewards).table()
    most = found.iloc[int(found["weight"].abs().to_numpy().argmax())]
    assert f"({most['weight']:+.2g})".replace("-", "\u2212") in heading(app)
    assert "the world's verifier" in app.selectbox(key="gradient_reward").options
    app.selectbox(key="gradient_reward").set_value("typed").run()
    app.text_input(key="gradient_rewards").set_value("1").run()
    assert "give a number for each" in read(app)
    app.text_input(key="gradient_rewards").set_value(" ".join("1" for _ in texts)).run()
    assert "two of them different ones" in heading(app)
    app.text_area(key="gradient_answers").set_value("oslo").run()
    assert "Give at least two answers" in heading(app)


def test_gradient_of_a_plain_pair_in_its_chat_template(plain):
    app = plain(GRADIENT, gradient_answers="oslo\nrome")
    sound(app, "gradient")
    assert "The prompt was sent in the chat template" in read(app)
    app.segmented_control(key="gradient_policy").set_value("aligned")
    again(app)
    sound(app, "gradient")


@pytest.mark.parametrize("tab", [CORPUS, LINE, GRADIENT])
def test_reward_models_have_weights_and_say_what_they_lack(show: Show, runs: Path, tmp_path: Path, tab: str):
    shutil.copytree(runs, tmp_path / "runs")
    for seed, name in enumerate(("judge", "critic")):
        store.judge(tmp_path / "runs" / name, runs / "base", seed=seed, spread=0.3)
    app = show(tmp_path / "runs", page=PAGE, compare_tab=tab, base="judge", aligned="critic")
    assert not app.error
    assert "output one number and write nothing" in heading(app)
    open_tab(app, WEIGHTS)
    sound(app, "weights", "weight-heads")
