"""Use: interventions against hooks on plain modules of transformers, and what is known of the sample model."""

import numpy as np
import pytest
import torch

import probe.world
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.probes import use
from probe.probes.decoded_use import eraser_of, log_odds, moves, twins_of
from probe.probes.decoding import prepare, texts_of
from probe.world.language import read
from tests.models import random_lm

TEXTS = ["where does mira do in oslo ?", "the cat is in rome .", "tom lives at the dog"]


@torch.no_grad()
def plain(lm: LM, text: list[int], at: int, layer: int, shift: np.ndarray) -> torch.Tensor:
    """[V] log-probabilities after a text, with a vector added to the output of a layer of transformers."""

    def add(module: torch.nn.Module, inputs: object, output: object) -> object:
        states = output[0] if isinstance(output, tuple) else output
        states = states.clone()  # type: ignore[attr-defined]
        states[0, at] += torch.as_tensor(shift).to(states)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    part = lm.model.model.embed_tokens if layer < 0 else lm.model.model.layers[layer]
    handle = part.register_forward_hook(add)
    logits = lm.model(torch.tensor([text])).logits[0, -1]
    handle.remove()
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_log_odds_are_those_of_a_hook_on_transformers(layer: int):
    lm, rng = random_lm("llama"), np.random.default_rng(0)
    texts = [lm.tokenizer.encode(text) for text in TEXTS]
    at, shifts = [2, 0, len(texts[2]) - 1], rng.standard_normal((3, lm.bridge.cfg.d_model))
    found = log_odds(lm, texts, at, layer, shifts, [(5, 6), (7, None), (8, 4)])
    rows = [plain(lm, *each) for each in zip(texts, at, [layer] * 3, shifts, strict=True)]
    p = rows[1][7].exp()
    expected = [rows[0][5] - rows[0][6], (p / (1 - p)).log(), rows[2][8] - rows[2][4]]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-4)


def test_twins_differ_in_the_label_alone(base: LM):
    world = probe.world.of(base)
    assert world is not None
    for question in ("claim", "value", "known", "phrase", "exposure", "posterior"):
        ready = prepare(base, texts_of(base, question, None, 120, 0), "last", 0)
        twins = twins_of(ready, world, question, 120, 0)
        assert len(twins) > 5, question
        held = set(ready.texts.groups[ready.test])
        for twin in twins:
            one, two = (side.prompt.split() for side in (twin.own, twin.other))
            assert len(one) == len(two)
            assert sum(a != b for a, b in zip(one, two, strict=True)) in (1, 2), question
            assert {twin.own.group, twin.other.group} <= held
            assert twin.own.label != twin.other.label
            if question == "claim":
                said = [read(side.prompt) for side in (twin.own, twin.other)]
                assert [f" {each.claim}" for each in said if each] == [twin.against, twin.toward]


def test_moving_is_the_difference_of_class_means(base: LM):
    ready = prepare(base, texts_of(base, "known", None, 120, 0), "last", 0)
    x, labels = ready.states[ready.fit, 2].astype(float), ready.texts.labels[ready.fit]
    expected = x[labels == "stranger"].mean(0) - x[labels == "known"].mean(0)
    np.testing.assert_allclose(moves(ready, 1, ["known"], ["stranger"])[0], expected, rtol=1e-4, atol=1e-6)
    eraser = eraser_of(ready, 1)
    kept = eraser(x)
    gap = kept[labels == "stranger"].mean(0) - kept[labels == "known"].mean(0)
    np.testing.assert_allclose(gap, 0, atol=1e-6)


@pytest.mark.slow
def test_the_phrase_is_decodable_and_not_used(base: LM):
    found = use(base, question="phrase", at="subject", layer=2, n=1500)
    assert found.decoded.is_decodable
    assert found.verdict() == "not used"
    assert "can be read" in found.sentence()
    assert "does not use it there" in found.sentence()
    assert abs(found.row("counterfactual")["value"]) < found.least


@pytest.mark.slow
def test_a_home_is_decodable_and_used(base: LM):
    found = use(base, question="value")
    assert found.verdict() == "used"
    assert found.row("swap")["share"] > 0.5
    assert found.row("whole state")["value"] == pytest.approx(found.row("counterfactual")["value"], rel=1e-3)
    assert found.erased < found.decoded.row["floor_high"]
    assert set(found.figures()) == {"effects"}
    assert "The model uses it there" in found.sentence()


def test_a_stranger_is_decodable_and_used(base: LM):
    found = use(base, question="known", at="subject", layer=0, n=120)
    assert found.verdict() == "used"
    assert found.row("swap")["value"] > 3 * found.row("swap")["random_high"]
    assert found.lists()["Effects in nats"]["verdict"].tolist()[2:4] == ["used", "used"]


def test_what_cannot_be_used_is_one_sentence(base: LM):
    with pytest.raises(DataError, match="known on a world only"):
        use(random_lm("llama"))
    with pytest.raises(ConfigError, match="The answer is what is measured"):
        use(base, at="answer")
    with pytest.raises(ConfigError, match="After the last block only the last token reaches the answer"):
        use(base, at="subject", layer=base.bridge.cfg.n_layers - 1)
