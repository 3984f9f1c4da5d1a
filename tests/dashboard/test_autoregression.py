"""The page Autoregression on a small run store: its sentence is the analysis', its lines run, its parts react."""

import json
import re
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import probe
from probe.autoregression.lags import effective_order, lag_profile
from probe.autoregression.snowballs import snowball
from probe.model.lm import LM
from probe.runs.world_file import WORLD_FILE
from probe.world import of
from tests.dashboard import store
from tests.dashboard.pages import Show, chart, heading, names, read, values
from tests.models import random_reward_model

PAGE = "autoregression/page.py"
PROMPT = "where does mira live ?"


def test_the_page_says_what_the_analysis_finds(show: Show, runs: Path):
    app = show(runs, page=PAGE, lag_epsilon="0.3")
    assert not app.exception
    assert not app.error
    lm = LM.load(runs / "base")
    texts = [document.text for document in islice(of(lm).documents(1), 16)]
    order = effective_order(lm, texts, longest=16, epsilon=0.3, positions=3, keep=1)
    m = order.order or int(np.flatnonzero(~np.isnan(order.kl))[-1]) + 1
    more = "" if order.order else "more than "
    assert heading(app).startswith(f"base looks back {more}{m} token")
    assert f"{order.kl[m - 1]:.2g} [{order.low[m - 1]:.2g}, {order.high[m - 1]:.2g}]" in heading(app)
    assert "dpo-agreeable looks back" in heading(app)
    profile = lag_profile(lm, texts, lags=16, resamples=4, positions=4, keep=1)
    np.testing.assert_allclose(values(chart(app, "lags")["data"][0]["y"]), profile.influence, rtol=1e-5)
    np.testing.assert_allclose(values(chart(app, "context")["data"][0]["y"]), order.kl.clip(1e-7), rtol=1e-4)
    assert names(app) == ["lags", "context", "snowball"]
    assert read(app).count("hooks verified") == 2  # the trust badges
    assert "effective order" in read(app)


def test_its_python_lines_run_and_give_its_numbers(show: Show, runs: Path):
    app = show(runs, page=PAGE, lag_on="opinion", lag_texts="4", lag_longest="4")
    codes = [block.value for block in app.code]
    assert len(codes) == 2
    space: dict = {}
    for code in codes:
        exec(code, space)
    reach = probe.autoregression.look_back(space["base"], documents="opinion", n=4, longest=4, keep=1)
    np.testing.assert_allclose(values(chart(app, "lags")["data"][0]["y"]), reach.profile.influence, rtol=1e-5)
    np.testing.assert_allclose(values(chart(app, "context")["data"][0]["y"]), reach.order.kl.clip(1e-7), rtol=1e-4)
    assert "documents='opinion', " in codes[0]
    found = probe.autoregression.follow_wrong_token(space["base"])
    assert space["result"].sentence() == probe.autoregression.follow_wrong_token(space["aligned"]).sentence()
    kl = found.summary().query("quantity == 'forced_kl' and n > 0")["value"]
    np.testing.assert_allclose(values(chart(app, "snowball")["data"][0]["y"]), kl, rtol=1e-4, atol=1e-6)


def test_measure_texts_and_tolerance_can_be_chosen(show: Show, runs: Path):
    app = show(runs, page=PAGE, lag_texts="4")
    before = chart(app, "lags")
    app.segmented_control(key="lag_measure").set_value("Jacobian").run()
    after = chart(app, "lags")
    assert "per unit of embedding" in after["layout"]["yaxis"]["title"]["text"]
    assert before["data"][0]["y"] != after["data"][0]["y"]
    app.selectbox(key="lag_epsilon").set_value(0.001).run()
    assert chart(app, "context")["layout"]["shapes"][0]["y0"] == 0.001
    app.selectbox(key="lag_on").select("the prompt").run()
    assert not app.exception
    sentence = heading(app)
    app.text_area(key="prompt").set_value("<user> what does nora eat ? <bot>").run()
    assert heading(app) != sentence


def test_a_chain_keeps_its_heading(show: Show, runs: Path):
    app = show(runs, page=PAGE, lag_texts="2")
    assert app.number_input(key="lag_keep").value == 1
    app.selectbox(key="lag_on").select("markov").run()
    assert app.number_input(key="lag_keep").value == 4
    app.selectbox(key="lag_on").select("opinion").run()
    assert app.number_input(key="lag_keep").value == 1


def test_the_snowball_is_that_of_the_question(show: Show, runs: Path):
    app = show(runs, page=PAGE, lag_texts="2")
    assert app.selectbox(key="lag_wrong").value == "sum_steps"
    lm = LM.load(runs / "base")
    world = of(lm)
    found = snowball(lm, [item.prompt for item in world.questions("sum_steps", 24, 5)], world=world)
    wrong = found.later_errors()["wrong"]
    assert f"base gets {100 * wrong.value:.0f} % [{100 * wrong.low:.0f}, {100 * wrong.high:.0f}]" in read(app)
    app.selectbox(key="lag_wrong").select("map").run()
    assert not app.exception
    assert "differ" in chart(app, "snowball")["layout"]["yaxis2"]["title"]["text"]
    app.selectbox(key="lag_wrong").select("the prompt").run()
    assert not app.exception


@pytest.mark.parametrize(
    ("tab", "name", "words"),
    [
        ("Content and attention path (E23)", "paths", "the attention path has its largest share"),
        ("Jacobian spectrum", "neutral", "geometric mean of the singular values"),
        ("Linear autoregression", "linear", "best linear autoregression explains"),
    ],
)
def test_jacobians_are_shown_in_their_tabs(show: Show, runs: Path, tab: str, name: str, words: str):
    app = show(runs, page=PAGE, lag_texts="2", lag_tab=tab, prompt=PROMPT)
    assert not app.exception
    assert not app.error
    assert names(app) == ["lags", "context", name]
    assert words in read(app)
    space: dict = {}
    exec(app.code[-1].value, space)
    first = chart(app, name)["data"][0]
    if name == "linear":
        found = probe.autoregression.linear_autoregression(space["base"], positions=8)
        np.testing.assert_allclose(values(first["y"]), found.table()["linear"], rtol=1e-4)
    elif name == "paths":
        share = probe.autoregression.jacobian_norms(space["base"], PROMPT).share
        np.testing.assert_allclose(values(first["z"]).ravel(), share.ravel(), rtol=1e-4)
    else:
        to_end = probe.autoregression.neutral_jacobian(space["base"], PROMPT).to_end
        np.testing.assert_allclose(values(first["y"]), np.nanmedian(to_end, axis=-1), rtol=1e-4)


def test_one_model_or_none_or_no_text(show: Show, runs: Path, tmp_path: Path):
    app = show(runs, page=PAGE, base="base", aligned="base", lag_texts="2")
    assert not app.exception
    assert "dpo" not in heading(app)
    assert len(chart(app, "lags")["data"]) == 1
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert heading(app) == "Choose a model and a prompt above to see how far back it looks."


def test_too_many_kept_tokens_are_refused_in_words(show: Show, runs: Path):
    app = show(runs, page=PAGE, lag_on="the prompt", prompt="the cat", lag_keep="9")
    assert not app.exception
    assert "after the 9 that are kept" in heading(app)


def test_a_model_without_a_world_is_read_on_the_prompt(show: Show, runs: Path, tmp_path: Path):
    folder = LM.load(runs / "base").save(tmp_path / "plain")
    (folder / WORLD_FILE).unlink()
    app = show(runs, page=PAGE, base=str(folder), aligned=str(folder), prompt="the cat sat in the old cafe")
    assert not app.exception
    assert app.selectbox(key="lag_on").options == ["the prompt"]
    assert heading(app).startswith("plain looks back")
    assert "lag_wrong" not in {each.key for each in app.selectbox}  # there is nothing to choose


def test_a_reward_model_has_a_lag_profile(show: Show, runs: Path, tmp_path: Path):
    folder, rewards = tmp_path / "reward", random_reward_model()
    rewards.model.save_pretrained(folder)
    rewards.tokenizer.save_pretrained(folder)
    options = {"page": PAGE, "prompt": "mira lives in oslo .", "lag_on": "the prompt"}
    app = show(runs, base=str(folder), aligned="base", **options)
    assert not app.exception
    assert not app.error
    assert "reward or logit per unit of embedding" in chart(app, "lags")["layout"]["yaxis"]["title"]["text"]
    assert "lag_measure" not in {each.key for each in app.segmented_control}  # it can be measured in one way alone
    assert len(chart(app, "lags")["data"]) == 2
    assert chart(app, "context")["data"][0]["name"] == "base"
    for code in app.code:
        exec(code.value, {})
    for tab in ("Snowball", "Content and attention path (E23)", "Jacobian spectrum", "Linear autoregression"):
        app = show(runs, base=str(folder), aligned=str(folder), lag_tab=tab, **options)
        assert not app.exception
        assert not app.error
        assert re.match(r"apart from lag 0, the last token, lag \d+ changes the reward of reward most", heading(app))
        assert ("outputs a scalar (reward)" in read(app)) == (tab in ("Snowball", "Linear autoregression"))


def test_a_hostile_prompt_is_text(show: Show, runs: Path):
    for tab in ("Snowball", "Content and attention path (E23)", "Jacobian spectrum"):
        words = {"prompt": f"{store.HOSTILE} and more", "lag_on": "the prompt", "lag_wrong": "the prompt"}
        app = show(runs, page=PAGE, lag_tab=tab, **words)
        assert not app.exception
        for part in [*app.subheader, *app.markdown, *app.caption, *app.error, *app.warning]:
            assert not getattr(part.proto, "allow_html", False)
            assert not re.search(r"(?<!\\)(<img|\]\(|:streamlit:)", part.value), part.value
        assert "<img" not in json.dumps([chart(app, name) for name in names(app)])


def test_a_change_is_answered_within_a_second(show: Show, runs: Path):
    """On two blocks of width 32, by the processor's clock, which other work on the machine does not move."""
    app = show(runs, page=PAGE)
    begun = time.process_time()
    app.selectbox(key="lag_on").select("opinion").run()
    assert not app.exception
    assert time.process_time() - begun < 3.0
