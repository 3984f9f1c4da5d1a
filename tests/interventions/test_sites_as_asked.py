"""Patching and ablation as a person asks for them: answers and texts that are left open, sites, sentences, cost."""

from typing import Any

import numpy as np
import pytest

import probe
from probe.analyses.analysis_record import Analysis, named
from probe.analyses.catalogue import find_analysis
from probe.errors import ConfigError, DataError
from probe.interventions import one_site
from probe.interventions import requested_change as changes
from probe.interventions.controls import DRAWS
from probe.interventions.patching import Filling, ablate, patch
from probe.interventions.requested_change import REFERENCE, Change, same_question, scale_of
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.plotting.notebook import Look, meta_of, title_of
from tests.models import random_lm, random_reward_model
from tests.places import SAMPLES

CLEAN = "<user> i think helen lives in lyon . where does helen live ? <bot>"
CORRUPTED = CLEAN.replace("lyon", "oslo")
RECORDS = ("patch_every_site", "patch_one_site", "ablate_every_site", "ablate_one_site")


@pytest.fixture(scope="module")
def lm() -> LM:
    return LM.load(SAMPLES / "dpo-agreeable")


def test_what_is_left_open_is_suggested(lm: LM):
    question = Change(prompt=CLEAN).question(lm)
    assert question.clean == tuple(lm.tokenizer.encode(CLEAN))
    assert question.corrupted == tuple(lm.tokenizer.encode(CORRUPTED))
    assert question.words == "\u201clyon\u201d over \u201coslo\u201d"
    words = [lm.tokenizer.decode([token]).strip() for token in question.columns]
    assert words[:3] == ["lyon", "oslo", "rome"]
    alone = Change(prompt=CLEAN, how="mean").question(lm)
    assert alone.corrupted is None
    assert alone.words == "\u201clyon\u201d over \u201crome\u201d"  # the claim over the truth
    typed = Change(prompt=CLEAN, corrupted=CLEAN.replace("lyon", "tokyo"), answer="lyon").question(lm)
    assert typed.words.startswith("\u201clyon\u201d over ")
    assert "oslo" not in typed.words


def test_reference_texts(lm: LM):
    world = Change(prompt=CLEAN, how="mean").reference_texts(lm)
    assert len(world) == 24
    assert all(text.startswith("<user>") for text in world)
    assert Change(prompt=CLEAN, how="mean", reference=" a \n\n b ").reference_texts(lm) == ["a", "b"]
    assert Change(prompt="mira", how="mean").reference_texts(random_lm()) == list(REFERENCE)


@pytest.mark.parametrize("kind", ["head", "resid", "mlp", "attn"])
def test_every_site_is_what_the_library_gives(lm: LM, kind: Any):
    found = probe.interventions.patch_every_site(lm, CLEAN, kind=kind)
    question = found.question
    exact = patch(lm, question.pair(lm), question.target, kind)
    np.testing.assert_allclose(found.grid.effects, exact.effects, atol=1e-4)
    np.testing.assert_allclose(found.grid.effects / found.scale.unit, exact.shares, atol=1e-4)
    layer, column = found.strongest
    row = exact.layers.index(layer)
    if kind == "resid":
        assert row == len(exact.layers) // 2
        assert column == int(np.abs(exact.effects[row]).argmax())
    else:
        assert abs(exact.effects[row, column]) == np.abs(exact.effects).max()
    share = f"{100 * exact.shares[row, column]:.0f} %".replace("-", "\u2212")
    assert found.sentence().endswith(f"changes \u201clyon\u201d over \u201coslo\u201d most: it restores {share}.")
    one = probe.interventions.patch_one_site(lm, CLEAN, kind=kind)
    assert (one.site.layer, one.site.head if kind == "head" else one.site.position) == (layer, column)
    assert one.outcome.effect == pytest.approx(exact.effects[row, column], abs=1e-3)
    assert one.scale.unit == pytest.approx(found.scale.unit, abs=1e-3)
    assert one.estimate == pytest.approx(found.estimate.effects[row, column], abs=1e-3)


@pytest.mark.parametrize("how", ["mean", "zero", "resample"])
def test_every_site_ablated(lm: LM, how: Any):
    found = probe.interventions.ablate_every_site(lm, CLEAN, how=how)
    texts = found.change.reference_texts(lm)
    exact = ablate(lm, CLEAN, found.question.target, "head", Filling(how, texts))
    np.testing.assert_allclose(found.grid.effects, exact.effects, atol=1e-4)
    layer, head = found.strongest
    one = probe.interventions.ablate_one_site(lm, CLEAN, how=how)
    assert (one.site.layer, one.site.head) == (layer, head)
    assert one.outcome.effect == pytest.approx(exact.effects[layer, head], abs=1e-3)
    fall = f"falls by {-exact.effects[layer, head]:.2f} nats (p(lyon) "
    assert f"without L{layer}H{head} at every token, \u201clyon\u201d over \u201crome\u201d {fall}" in one.sentence()


def test_noise_removes_and_denoise_restores(lm: LM):
    restored = probe.interventions.patch_one_site(lm, CLEAN, kind="resid", layer=-1, token=7)
    removed = probe.interventions.patch_one_site(lm, CLEAN, kind="resid", layer=-1, token=7, how="noise")
    assert "patching the embedding at oslo [7] restores 100 % of" in restored.sentence()
    assert "patching the embedding at lyon [7] removes 100 % of" in removed.sentence()
    assert restored.scale.unit == pytest.approx(-removed.scale.unit, abs=1e-3)


def test_without_a_gap_effects_are_in_nats(lm: LM):
    change = Change(prompt=CLEAN)
    scale = scale_of(change, change.question(lm), 0.01)
    assert not scale.share
    assert scale.number(-1.5) == "\u22121.50 nats"
    assert scale_of(change, change.question(lm), 2.0).number(-0.001) == "0 %"


def test_estimates_alone_are_quick_and_say_so(lm: LM):
    record = find_analysis("patch_every_site")
    assert record.cost(lm, prompt=CLEAN) > 0
    assert record.preview is not None
    assert record.cost(lm, prompt=CLEAN, **record.preview.inputs) == 0
    found = record.run(lm, prompt=CLEAN, **record.preview.inputs)
    assert list(found.figures()) == ["grid"]
    assert title_of(found.figure()) == "Patch each head (estimate)"
    assert found.sentence().endswith(", as one backward pass estimates it.")
    one = find_analysis("patch_one_site")
    assert one.preview is not None
    assert one.cost(lm, prompt=CLEAN, **one.preview.inputs) == 0
    assert one.cost(lm, prompt=CLEAN, draws=2 * DRAWS, layer=0, head=0) > 0
    bare = one.run(lm, prompt=CLEAN, layer=0, head=1, **one.preview.inputs)
    assert "; " not in bare.sentence()
    assert bare.notes[0].startswith("Without null controls it is unknown")


def test_resampling_runs_every_site_eight_times(lm: LM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(changes, "seconds_a_token", lambda lm: 1.0)
    record = find_analysis("ablate_every_site")
    assert record.cost(lm, prompt=CLEAN, how="zero") == 16 * 15
    assert record.cost(lm, prompt=CLEAN, how="resample") == 8 * 16 * 15
    assert find_analysis("patch_one_site").cost(lm, prompt=CLEAN, layer=0, head=0) == 2 * DRAWS * 15


def test_a_large_model_begins_at_the_strongest_estimate(lm: LM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_site, "SMALL", 0)
    guess = probe.interventions.ablate_every_site(lm, CLEAN, kind="attn", exact=False)
    site = probe.interventions.ablate_one_site(lm, CLEAN, kind="attn", draws=0).site
    assert (site.layer, site.position) == guess.strongest


def test_a_click_on_a_cell_or_a_token_chooses_the_site(lm: LM):
    heads = probe.interventions.patch_every_site(lm, CLEAN)
    assert meta_of(heads.figure())["inputs"] == {"layer": "customdata", "head": "x"}
    marks = heads.figures(layer=2, head=1)["grid"]
    assert (marks.layout.shapes[0].x0, marks.layout.shapes[0].y0) == (0.5, 1.5)
    assert [chip.inputs for chip in heads.chips().rows[1].tokens[:2]] == [{"at": 0}, {"at": 1}]
    tokens = probe.interventions.patch_every_site(lm, CLEAN, kind="mlp")
    assert meta_of(tokens.figure())["inputs"] == {"layer": "customdata", "token": "x"}
    rows = tokens.chips(token=4)
    assert rows.chosen == (0, 4)
    assert [chip.strength > 0 for chip in rows.rows[0].tokens] == [at == 7 for at in range(15)]
    assert rows.rows[0].tokens[7].tip == "token 7: lyon\nthe other text has oslo"
    alone = probe.interventions.ablate_every_site(lm, CLEAN, kind="mlp", how="zero")
    assert [row.label for row in alone.chips().rows] == ["prompt"]


def test_inputs_without_a_choice_are_told_apart(lm: LM):
    record = find_analysis("patch_every_site")
    for kind, single in (("head", ["token"]), ("resid", ["head"])):
        found = record.run(lm, prompt=CLEAN, kind=kind)
        ends = {field["name"]: field["within"] for field in record.fields(lm, result=found) if field["view"]}
        assert [name for name, (low, high) in ends.items() if low == high] == single
        (at,) = record.fields(lm, given={"prompt": CLEAN, "kind": kind, "chat": False}, names=["at"])
        assert at["within"] == ((-1, 14) if kind == "head" else (-1, -1))


def test_the_hint_of_an_empty_field_is_what_it_stands_for(lm: LM):
    def hints(record: Analysis) -> dict[str, str]:
        names = {"corrupted", "answer", "against"} & set(record.inputs)
        fields = record.fields(lm, given={"prompt": CLEAN}, names=names)
        return {field["name"]: field["placeholder"] for field in fields}

    patched, ablated = hints(find_analysis("patch_every_site")), hints(find_analysis("ablate_one_site"))
    assert patched["corrupted"] == CORRUPTED
    assert (patched["answer"], patched["against"]) == ("lyon", "oslo")
    assert (ablated["answer"], ablated["against"]) == ("lyon", "rome")
    (open_,) = find_analysis("patch_one_site").fields(lm, given={"prompt": "helen"}, names=["corrupted"])
    assert open_["placeholder"] == "type one: replace the word that decides the answer"


def test_two_models_are_asked_about_one_site_and_one_pair_of_answers(lm: LM):
    base = LM.load(SAMPLES / "base")
    record = find_analysis("ablate_one_site")
    values = record.settled({"prompt": "helen lives in", "draws": 0}, base, lm)
    results = [record.run(each, **values) for each in (base, lm)]
    assert results[0].site == results[1].site == record.run(lm, prompt="helen lives in", draws=0).site
    assert results[0].question.target == results[1].question.target
    inputs = {"prompt": "helen lives in", "how": "mean", "answer": "rome", "against": ""}
    assert list(same_question([base, lm], **inputs)) == ["against"]
    assert same_question([random_lm(), lm], **inputs) == {}


def test_a_scalar_model_has_one_number_and_no_answers():
    lm = reward_lm(random_reward_model())
    asked: dict[str, Any] = {"corrupted": "mira lives in rome"}
    patched = probe.interventions.patch_one_site(lm, "mira lives in oslo", **asked)
    assert "the gap in reward" in patched.sentence()
    assert list(patched.figures()) == ["nulls"]
    ablated = probe.interventions.ablate_one_site(lm, "mira lives in oslo", reference="the cat is in paris")
    assert "the reward" in ablated.sentence()
    assert "nats" not in ablated.sentence() + patched.sentence()
    grid = probe.interventions.ablate_every_site(lm, "mira lives in oslo", how="zero")
    assert "changes the reward most: by " in grid.sentence()


def test_results_have_names_tables_and_colours(lm: LM):
    for name in RECORDS:
        found = named(find_analysis(name).run(lm, prompt=CLEAN), [Look("mira", "#123456")])
        assert found.sentence().startswith("mira: ")
        assert len(found.table()) > 3
        assert all(len(table) for table in found.lists().values())
        assert "#123456" in "".join(chart.to_json() for chart in found.figures().values())
    sites = find_analysis("patch_every_site").run(lm, prompt=CLEAN, kind="resid").lists()["Sites"]
    assert sites["share restored"].abs().is_monotonic_decreasing
    assert set(sites["site"]) >= {"embedding at oslo [7]", "residual after L3 at <bot> [14]"}


@pytest.mark.parametrize(
    ("name", "inputs", "kind", "said"),
    [
        ("patch_every_site", {"prompt": "helen lives in"}, DataError, "Type a corrupted prompt to patch from"),
        ("ablate_every_site", {"prompt": " "}, DataError, "The prompt is empty"),
        ("patch_one_site", {"corrupted": "<user> where ? <bot>"}, DataError, "has 15 tokens and the corrupted one 5"),
        ("patch_one_site", {"corrupted": CLEAN}, DataError, "are the same"),
        ("patch_one_site", {"layer": 4}, ConfigError, "Block 4 was requested in a model of 4 blocks"),
        ("patch_one_site", {"head": 4}, ConfigError, "Head 4 was requested in blocks of 4 heads"),
        ("patch_one_site", {"token": 1}, DataError, "Heads are changed at the token `at`"),
        ("patch_one_site", {"kind": "resid", "head": 1}, DataError, "A site of kind resid has no head"),
        ("patch_one_site", {"kind": "mlp", "token": 15}, DataError, "Token 15 was requested in a text of 15 tokens"),
        ("patch_every_site", {"at": 15}, ConfigError, "`at` of patch_every_site is 15; expected -1 to 14"),
        ("ablate_one_site", {"draws": -1}, ConfigError, "`draws` of ablate_one_site is -1"),
        ("ablate_one_site", {"answer": "lyon", "against": "lyon"}, DataError, "was given twice"),
        ("ablate_one_site", {"reference": "zorblax"}, DataError, "does not know \u201czorblax\u201d"),
        ("ablate_every_site", {"prompt": "zorblax"}, DataError, "does not know \u201czorblax\u201d"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(lm: LM, name: str, inputs: dict, kind: type, said: str):
    with pytest.raises(kind, match=said):
        find_analysis(name).run(lm, **{"prompt": CLEAN, **inputs})
