"""Who carries the answer: each page's part is the one that its analysis names, and a claim fails on its controls."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from probe import LM
from probe.analyses.catalogue import find_analysis
from probe.attention.patterns import attention, head_distance
from probe.attention.reading import Attentions, read_attention
from probe.compare.carriers import ENOUGH, LEAD, Carriers, find_carriers
from probe.errors import DataError
from probe.interventions.every_site import patch_every_site
from probe.interventions.patching import ablate, patch
from probe.interventions.requested_change import Change
from probe.logits.attribution import Attributions, attribute_answer
from probe.plotting.notebook import pair
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES

CLAIM = "<user> i think helen lives in lyon . where does helen live ? <bot>"


@pytest.fixture(scope="module")
def lms() -> tuple[LM, LM]:
    return LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")


@pytest.fixture(scope="module")
def found(lms: tuple[LM, LM]) -> Carriers:
    return find_carriers(*lms, CLAIM)


def test_each_measure_names_the_part_of_its_page(found: Carriers, lms: tuple[LM, LM]):
    read = Attentions(tuple(read_attention(lm, CLAIM) for lm in lms), pair())
    assert f"{found.largest('moved').part} changed its attention most" in read.sentence()
    answers = {"answer": f" {found.answers[0]}", "against": f" {found.answers[1]}"}
    wrote = Attributions(tuple(attribute_answer(lm, CLAIM, **answers) for lm in lms), pair()).sentence()
    assert f"comes from {found.largest('direct').part} (" in wrote
    page = patch_every_site(lms[1], CLAIM, at=found.at)
    assert f"patching {found.leader.part} at" in page.sentence()
    assert len({found.largest(name).part for name in ("moved", "direct", "restored")}) == 3


def test_every_share_is_that_of_patching_the_part_alone(found: Carriers, lms: tuple[LM, LM]):
    lm = lms[1]
    texts = Change(prompt=CLAIM).question(lm)
    both = texts.pair(lm)
    for name, direction in (("restored", "denoise"), ("removed", "noise")):
        heads = patch(lm, both, texts.target, "head", direction, found.at).shares
        mlps = patch(lm, both, texts.target, "mlp", direction).shares[:, found.at]
        own = found.parts.pivot(index="layer", columns="head", values=name).to_numpy()
        np.testing.assert_allclose(own[:, 1:], heads, atol=1e-4)
        np.testing.assert_allclose(own[:, 0], mlps, atol=1e-4)
    moved = found.parts.pivot(index="layer", columns="head", values="moved").to_numpy()[:, 1:]
    theirs = head_distance(*(attention(each, CLAIM) for each in lms), "other_tokens")
    np.testing.assert_allclose(moved, theirs, atol=1e-6, rtol=1e-4)


def test_the_head_of_the_tutorial_carries_the_claim_with_its_controls(found: Carriers):
    assert found.sentence().startswith("L3H2 carries the answer of aligned: patched alone, it restores 99 % of lyon")
    assert found.leader.value - found.next.value >= LEAD
    assert max(found.nulls) < ENOUGH
    assert found.chances[0][0] < 0.5 < found.chances[1][0]
    assert "In base it restores 98 %, too." in found.notes
    assert list(found.figures()) == ["carriers"]
    assert found.lists()["Parts"]["part"][0] == "L3H2"


def test_random_models_have_no_carrier():
    found = find_carriers(random_lm(), random_lm(seed=1), "mira lives in", corrupted="tom lives in")
    assert found.doubt
    assert found.sentence() == f"{found.doubt}."
    assert "carries the answer" in found.sentence()
    assert not any("did not create" in each for each in found.notes)


def test_without_another_prompt_parts_are_replaced_by_means():
    base, aligned = random_lm(), random_lm(seed=1)
    found = find_carriers(base, aligned, "mira lives in")
    assert found.cause == "ablate"
    assert found.parts["restored"].isna().all()
    change = Change(prompt="mira lives in", how="mean")
    texts = change.question(aligned)
    heads = ablate(aligned, texts.clean, texts.target, "head", change.filling(aligned), found.at)
    own = found.parts.pivot(index="layer", columns="head", values="removed").to_numpy()[:, 1:]
    np.testing.assert_allclose(own, -heads.effects / heads.value, atol=1e-4)


def result(restored: list[float], removed: list[float], random: tuple[float, float] = (0.1, 0.1)) -> Carriers:
    """Three parts with these shares."""
    table = pd.DataFrame({"part": ["L0H0", "L0H1", "L0 MLP"], "layer": 0, "head": [0, 1, -1]})
    table = table.assign(moved=[0.3, 0.1, np.nan], direct=[0.1, 0.2, 0.3], restored=restored, removed=removed)
    chances = ((0.2, 0.7), (0.8, 0.1))
    return Carriers(table, ("a", "b"), ("a", "c"), "patch", random, 0.1, chances, "other", 3)


@pytest.mark.parametrize(
    ("restored", "removed", "random", "words"),
    [
        ([0.9, 0.2, 0.1], [0.8, 0.2, 0.1], (0.1, 0.1), "L0H0 carries the answer"),
        ([0.4, 0.2, 0.1], [0.8, 0.2, 0.1], (0.1, 0.1), "the strongest, L0H0, restores 40 % alone, less than half"),
        ([0.9, 0.2, 0.1], [0.3, 0.2, 0.1], (0.1, 0.1), "the strongest, L0H0, removes 30 % alone, less than half"),
        ([0.9, 0.2, 0.1], [0.6, 0.8, 0.1], (0.1, 0.1), "L0H0 restores most, but L0H1 removes most"),
        ([0.9, 0.85, 0.1], [0.8, 0.2, 0.1], (0.1, 0.1), "L0H0 restores 90 %, L0H1 85 %"),
        ([0.9, 0.2, 0.1], [0.8, 0.2, 0.1], (0.1, 0.8), "random changes of L0H0 of the same size do as much"),
        ([np.nan] * 3, [np.nan] * 3, (np.nan, np.nan), "the other prompt does not change it"),
    ],
)
def test_a_claim_fails_on_each_of_its_controls(
    restored: list[float], removed: list[float], random: tuple[float, float], words: str
):
    found = result(restored, removed, random)
    assert words in found.sentence()
    assert bool(found.doubt) == (words != "L0H0 carries the answer")
    assert ", too." not in " ".join(found.notes)
    if not found.doubt:
        assert ", too." in " ".join(replace(found, in_base=0.9).notes)


def test_models_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="different tokenizers"):
        find_carriers(random_lm(), random_lm(tokenizer=byte_tokenizer()), "tom")
    record = find_analysis("find_carriers")
    assert record.cost(random_lm(), random_lm(seed=1), prompt="mira lives in") > 0
