"""The Interventions page through the entrypoint: its numbers are those of the library, its choices change them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard import models
from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import keep_result
from probe.interventions import requested_change as change
from probe.interventions.controls import intervene
from probe.interventions.patching import Filling, ablate, agreement, attribute, pair_of, patch
from probe.interventions.sites import Site, activations, hooks_of
from probe.interventions.steered_answers import WORLD_TEXTS
from probe.interventions.steering import Controls, Dosing, contrast, dose_response
from probe.logits.targets import target_of
from probe.model.lm import LM
from probe.world import World
from probe.world.language import plain_prompt
from tests.dashboard.pages import Show, chart, heading, names, offered, read, values
from tests.models import random_reward_model

VIEW = "interventions/page.py"
CLEAN = "<user> i think helen lives in lyon . where does helen live ? <bot>"
CORRUPTED = CLEAN.replace("lyon", "oslo")


@pytest.fixture
def lm(runs: Path) -> LM:
    return LM.load(runs / "dpo-agreeable")


def button(app: AppTest, words: str) -> object:
    """The button whose label holds some words."""
    return next(part for part in app.button if words in part.label)


def test_patching_heads_is_what_opens(show: Show, runs: Path, lm: LM):
    app = show(runs, page=VIEW, prompt=CLEAN)
    assert not app.exception
    assert not app.error
    pair = pair_of(lm, CLEAN, CORRUPTED)
    target = target_of(lm, pair.clean, " lyon", " oslo")
    grid = patch(lm, pair, target, "head")
    np.testing.assert_allclose(values(chart(app, "grid")["data"][0]["z"]), grid.shares, atol=1e-4)
    layer, head = (int(at) for at in np.unravel_index(np.abs(grid.shares).argmax(), grid.shares.shape))
    share = f"{100 * grid.shares[layer, head]:.0f} %".replace("-", "\u2212")
    assert heading(app).startswith(
        f"dpo-agreeable: patching L{layer}H{head} at every token restores {share} of \u201clyon\u201d over "
        "\u201coslo\u201d; 3 other heads "
    )
    estimate = attribute(lm, pair, target, ["head"])["head"]
    found = agreement(grid.effects, estimate.effects)
    assert f"Pearson {found.pearson:.2f}, Spearman {found.spearman:.2f}" in read(app)
    assert "hooks verified" in "\n".join(part.proto.body for part in app.get("markdown") if "badge" in part.proto.body)
    assert names(app) == ["grid", "answers", "nulls", "estimate", "agreement"]
    source_of = [activations(lm, pair.clean, hooks_of(lm, ["head"]))]
    outcome = intervene(lm, pair.corrupted, [Site("head", layer, head)], source_of, target, [target.answer])
    after = chart(app, "answers")["data"][1]
    assert values(after["y"])[0] == pytest.approx(float(np.exp(outcome.after[0])), abs=1e-5)
    buttons = offered(app)
    assert [buttons.count(kind) for kind in ("PNG", "SVG", "PDF", "HTML", "CSV")] == [5] * 5


@pytest.mark.slow
@pytest.mark.parametrize("do", ["patch", "ablate"])
def test_every_way_has_its_grid(show: Show, runs: Path, lm: LM, do: str):
    app = show(runs, page=VIEW, prompt=CLEAN, int_do=do)
    ids = lm.tokenizer.encode(CLEAN)
    for label, kind in (("heads", "head"), ("resid", "resid"), ("MLP", "mlp"), ("attn", "attn")):
        app.segmented_control(key="int_kind").select(label).run()
        for how in (
            ("noise", "denoise") if do == "patch" else ("zero", "mean", "resample")[: 3 if kind == "head" else 1]
        ):
            app.segmented_control(key="int_how").select(how).run()
            assert not app.exception
            assert not app.error
            if do == "patch":
                target = target_of(lm, ids, " lyon", " oslo")
                expected = patch(lm, pair_of(lm, CLEAN, CORRUPTED), target, kind, how).shares  # type: ignore[arg-type]
            else:
                target, texts = target_of(lm, ids, " lyon", " rome"), change.Change(prompt=CLEAN).reference_texts(lm)
                expected = ablate(lm, CLEAN, target, kind, Filling(how, texts)).effects  # type: ignore[arg-type]
            np.testing.assert_allclose(values(chart(app, "grid")["data"][0]["z"]), expected, atol=1e-3)
            assert {"noise": "removes", "denoise": "restores"}.get(how, "without") in heading(app)


def test_a_site_comes_from_the_url_and_changes_the_sentence(show: Show, runs: Path):
    app = show(runs, page=VIEW, prompt=CLEAN, int_kind="resid", int_layer="-1", int_token="7")
    assert "patching the embedding at oslo [7]" in heading(app)
    assert "restores 100 % of" in heading(app)
    app.number_input(key="int_token").set_value(3).run()
    assert "restores 0 % of" in heading(app)
    app.segmented_control(key="int_kind").select("heads").run()
    app.number_input(key="int_at").set_value(14).run()
    assert re.search(r"patching L\dH\d at <bot> \[14\]", heading(app))


def test_only_what_a_kind_of_sites_has_is_asked(show: Show, runs: Path):
    app = show(runs, page=VIEW, prompt=CLEAN)
    assert {part.key for part in app.number_input} == {"int_layer", "int_head", "int_at"}
    app.segmented_control(key="int_kind").select("MLP").run()
    assert {part.key for part in app.number_input} == {"int_layer", "int_token"}
    app.segmented_control(key="int_do").select("ablate").run()
    assert {part.key for part in app.number_input} == {"int_layer", "int_token"}
    assert app.text_area(key="int_reference").label == "Reference texts, one per line"


def test_another_model_and_another_prompt(show: Show, runs: Path):
    app = show(runs, page=VIEW, prompt=CLEAN)
    app.segmented_control(key="int_model").select("base").run()
    assert heading(app).startswith("base: ")
    app.text_area(key="prompt").set_value("<user> where does helen live ? <bot>").run()
    assert "\u201crome\u201d over" in heading(app)


def test_typed_texts_and_answers(show: Show, runs: Path):
    app = show(runs, page=VIEW, prompt=CLEAN, int_corrupted=CLEAN.replace("lyon", "tokyo"), int_answer="lyon")
    app.text_input(key="int_against").set_value("rome").run()
    assert "\u201clyon\u201d over \u201crome\u201d" in heading(app)
    app.text_input(key="int_corrupted").set_value("<user> where ? <bot>").run()
    assert not app.exception
    assert heading(app).startswith("The clean text has 15 tokens and the corrupted one 5: replace words")
    app.text_input(key="int_corrupted").set_value(CLEAN).run()
    assert "are the same" in heading(app)


def test_a_prompt_without_a_counterpart_asks_for_one(show: Show, runs: Path):
    app = show(runs, page=VIEW, prompt="helen lives in")
    assert heading(app) == (
        "Type a corrupted prompt to patch from, with as many tokens as the prompt and another answer, or choose ablate."
    )
    assert not names(app)
    assert "are typed under Texts" in read(app)
    app.segmented_control(key="int_do").select("ablate").run()
    assert "without L" in heading(app)
    assert "lyon" not in heading(app)


def test_typed_reference_texts_are_used(show: Show, runs: Path, lm: LM):
    texts = ["helen lives in rome .", "magda lives in oslo ."]
    app = show(runs, page=VIEW, prompt=CLEAN, int_do="ablate", int_reference="\n".join(texts))
    target = target_of(lm, lm.tokenizer.encode(CLEAN), " lyon", " rome")
    expected = ablate(lm, CLEAN, target, "head", Filling("mean", texts)).effects
    np.testing.assert_allclose(values(chart(app, "grid")["data"][0]["z"]), expected, atol=1e-3)


@pytest.mark.usefixtures("new_server")
def test_what_takes_long_is_offered_with_its_cost(show: Show, runs: Path, lm: LM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(change, "seconds_a_token", lambda lm: 2.0 / 15)
    monkeypatch.setattr(models, "is_quick", lambda seconds: seconds < 1)
    app = show(runs, page=VIEW, prompt=CLEAN)
    pair = pair_of(lm, CLEAN, CORRUPTED)
    target = target_of(lm, pair.clean, " lyon", " oslo")
    guess = attribute(lm, pair, target, ["head"])["head"]
    np.testing.assert_allclose(values(chart(app, "grid")["data"][0]["z"]), guess.shares, atol=1e-4)
    assert "agreement" not in names(app)
    assert [len(values(trace["x"])) for trace in chart(app, "nulls")["data"]] == [1, 0, 0]
    layer, head = (int(at) for at in np.unravel_index(np.abs(guess.shares).argmax(), guess.shares.shape))
    assert f"patching L{layer}H{head} at every token restores " in heading(app)
    share = f"{100 * guess.shares[layer, head]:.0f} %".replace("-", "\u2212")
    assert f"One backward pass estimates the effect of this site as {share}." in read(app)
    assert "Without null controls it is unknown whether an equally large change elsewhere has the same effect." in read(
        app
    )
    hover = chart(app, "grid")["data"][1]["hovertemplate"]
    assert "estimated share, restored" in hover
    assert not any("(p = " in part.value for part in (*app.caption, *app.markdown))
    button(app, "Draw null controls (about 60 s)").click().run()  # type: ignore[attr-defined]
    assert not app.exception
    assert len(values(chart(app, "nulls")["data"][2]["x"])) == 15
    assert not any("null controls" in part.label for part in app.button)
    notes = [part.value.replace("\\", "") for part in (*app.caption, *app.markdown)]
    told = [note for note in notes if note.startswith("The effect against")]
    assert "3 other heads, too few for a p-value: larger than" in told[0]
    assert "against 15 random directions: " in told[0]
    assert float(re.search(r"p = (\d\.\d+)", told[0])[1]) >= 1 / 16 - 1e-3  # type: ignore[index]
    button(app, "Run every site (about 8 s)").click().run()  # type: ignore[attr-defined]
    assert not app.exception
    shares = patch(lm, pair, target, "head").shares
    np.testing.assert_allclose(values(chart(app, "grid")["data"][0]["z"]), shares, atol=1e-4)
    app.number_input(key="int_head").set_value(0).run()
    assert "agreement" in names(app)  # what was computed stays
    assert not any("Run every" in part.label for part in app.button)


def test_steering_shows_doses_controls_and_the_prompt(show: Show, runs: Path, lm: LM):
    app = show(runs, page=VIEW, prompt=CLEAN, int_do="steer", int_after="0")
    assert not app.exception
    assert not app.error
    world = World(seed=0)
    items = world.questions("opinion_false", WORLD_TEXTS, 1)
    direction = contrast(lm, [item.prompt for item in items], [plain_prompt(item.prompt) for item in items], 0)
    asked = world.questions("opinion_false", WORLD_TEXTS, 2)
    targets = [target_of(lm, lm.tokenizer.encode(item.prompt), item.claim, item.answers[0]) for item in asked]
    found = dose_response(lm, [item.prompt for item in asked], targets, direction, Dosing((-0.5,)), Controls(0))
    curves = {trace.get("name"): trace for trace in chart(app, "dose")["data"] if trace.get("name")}
    at = list(values(curves["this direction"]["x"])).index(-0.5)
    assert values(curves["this direction"]["y"])[at] == pytest.approx(found.values.mean(), abs=1e-4)
    share = 100 * float((found.values > 0).mean())
    assert f"the false claim wins in {share:.0f} % of 20 questions" in heading(app)
    assert "of unrelated questions right" in heading(app)
    assert names(app) == ["dose", "steered"]
    app.selectbox(key="int_alpha").set_value(0.25).run()
    assert "by +0.25 after block 0" in heading(app)


def test_steering_by_typed_texts(show: Show, runs: Path):
    app = show(
        runs,
        page=VIEW,
        prompt=CLEAN,
        int_do="steer",
        int_positive="helen lives in lyon .\nmagda lives in lyon .",
        int_negative="helen lives in oslo .",
        int_steered="where does helen live ?\nhelen lives in",
        int_answer="lyon",
        int_against="oslo",
    )
    assert not app.exception
    assert re.search(r"moves the target by [+\u2212]\d+\.\d\d nats \(random directions [+\u2212]\d", heading(app))
    assert any("logit(lyon)" in note["text"] for note in chart(app, "dose")["layout"]["annotations"])


@pytest.mark.usefixtures("new_server")
def test_a_new_prompt_gets_its_estimate_and_not_the_stored_result_of_another_one(
    show: Show, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("base", "dpo-agreeable"):
        shutil.copytree(runs / name, tmp_path / name)
    analysis, lm = find_analysis("patch_every_site"), LM.load(tmp_path / "dpo-agreeable")
    keep_result(analysis, {"prompt": CLEAN}, analysis.run(lm, prompt=CLEAN), 9.0, lm)
    monkeypatch.setattr(change, "seconds_a_token", lambda lm: 2.0 / 15)
    monkeypatch.setattr(models, "is_quick", lambda seconds: seconds < 1)
    app = show(tmp_path, page=VIEW, prompt=CLEAN)
    assert "agreement" in names(app)
    app = show(tmp_path, page=VIEW, prompt=CLEAN.replace("lyon", "rome"))
    assert not app.exception
    assert not app.error
    assert "This is the stored result with" not in read(app)
    assert "grid" in names(app)
    assert "agreement" not in names(app)


@pytest.mark.usefixtures("new_server")
def test_long_steering_is_offered(show: Show, runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "is_quick", lambda *seconds: False)
    app = show(runs, page=VIEW, prompt=CLEAN, int_do="steer")
    assert heading(app).startswith("Press the button to steer a model")
    assert not names(app)
    button(app, "Run it").click().run()  # type: ignore[attr-defined]
    assert "dose" in names(app)
    assert "range of only 4 random directions is too narrow" in read(app)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"int_do": "ablate"},
        {"int_do": "ablate", "int_reference": "helen lives in oslo ."},
        {"int_kind": "resid", "int_how": "noise"},
    ],
)
def test_the_python_lines_run(show: Show, runs: Path, query: dict, capsys: pytest.CaptureFixture[str]):
    app = show(runs, page=VIEW, prompt=CLEAN, **query)
    told = []
    for block in app.code:
        known: dict = {}
        exec(block.value, known)
        assert len(known["result"].table()) > 3
        told.append(capsys.readouterr().out.strip().replace("model: ", "dpo-agreeable: ", 1))
    assert len(told) == 2
    assert heading(app) in told


def test_a_reward_model_is_changed_like_any_other(show: Show, runs: Path, tmp_path: Path):
    folder, rewards = tmp_path / "reward", random_reward_model()
    rewards.model.save_pretrained(folder)
    rewards.tokenizer.save_pretrained(folder)
    query = {"prompt": "mira lives in oslo", "int_corrupted": "mira lives in rome", "aligned": str(folder)}
    query |= {"int_positive": "tom lives in oslo", "int_negative": "tom lives in rome", "int_steered": "ana lives in"}
    query |= {"int_reference": "the cat is in paris"}
    for do, words in (("patch", "the gap in reward"), ("ablate", "the reward"), ("steer", "moves the reward by")):
        app = show(runs, page=VIEW, int_do=do, **query)
        assert not app.exception
        assert not app.error
        assert words in heading(app)
        assert "nats" not in heading(app)
        assert "answers" not in names(app)
        for block in app.code:
            exec(block.value, {})


def test_texts_without_a_difference_say_so(show: Show, runs: Path):
    text = "helen lives in lyon ."
    app = show(runs, page=VIEW, prompt=CLEAN, int_do="steer", int_positive=text, int_negative=text)
    assert not app.exception
    assert heading(app).startswith("Both sets have the same mean residual")


def test_nothing_chosen_says_what_to_do(show: Show, tmp_path: Path):
    app = show(tmp_path, page=VIEW)
    assert not app.exception
    assert heading(app) == "Choose a model above to intervene in it."
