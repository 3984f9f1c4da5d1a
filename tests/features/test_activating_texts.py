"""Top texts: activations against transformers' own modules, the largest against all of them, controls by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from probe.errors import ConfigError, DataError, ModelError
from probe.features.activating_texts import SHOWN, commonest, histogram, sharpest, top_texts, usual_unit
from probe.features.autoencoder import Autoencoder
from probe.features.feature_files import Features
from probe.features.streamed_states import Piece, states_of
from probe.features.unit_activations import Leaders, UnitPlace, find_unit, neuron_weights, random_axes, read_units
from probe.features.variables import best_variables
from probe.logits.parts import direction_tokens
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.world import World
from tests.models import random_lm, random_reward_model

PIECES = [Piece([5, 6, 7, 8, 9], "a"), Piece([10, 4, 12], "b"), Piece([6, 5, 13, 14], "c")]
TEXTS = ["mira lives in rome .", "tom works at the cat", "where does ana lives ? oslo", "the dog is in paris ."]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text} {end}"}) + "\n" for text in TEXTS for end in ("one", "two .")))
    return path


def random_features(lm: LM, block: int = 1, size: int = 12) -> Features:
    return Features(Autoencoder.random(1, lm.bridge.cfg.d_model, size).requires_grad_(False), block)


def entering(lm: LM, ids: list[int], name: str) -> torch.Tensor:
    """Input of a module of the plain model."""
    kept = []
    handle = lm.model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach()))
    lm.model(torch.tensor([ids]))
    handle.remove()
    return kept[0].reshape(len(ids), -1)


MODULES = {
    "llama": ("model.layers.1.mlp.down_proj", "model.layers.1.self_attn.o_proj"),
    "gpt2": ("transformer.h.1.mlp.c_proj", "transformer.h.1.attn.c_proj"),
    "gpt_neox": ("gpt_neox.layers.1.mlp.dense_4h_to_h", "gpt_neox.layers.1.attention.dense"),
    "opt": ("model.decoder.layers.1.fc2", "model.decoder.layers.1.self_attn.out_proj"),
}
"""Modules that read the neurons and the mixed values of the heads in the second block."""


@pytest.mark.parametrize("name", MODULES)
def test_activations_are_those_of_transformers(name: str):
    lm = random_lm(name)
    mlp, out = MODULES[name]
    axes = random_axes(lm.bridge.cfg.d_model, 3)
    heads, width = lm.bridge.cfg.n_heads, lm.bridge.cfg.d_model
    weight = lm.model.get_submodule(out).weight
    rows = (weight if name == "gpt2" else weight.T).reshape(heads, -1, width)  # GPT-2 has its weights the other way
    features = random_features(lm)
    places = [UnitPlace("neuron", 1, 7), UnitPlace("head", 1, 2), UnitPlace("feature", 1, 5)]
    for place in places:
        found = {v.piece.row: v for group, _ in read_units([lm], place, features, PIECES, axes) for v in group}
        for piece in PIECES:
            if place.kind == "neuron":
                wanted = entering(lm, piece.ids, mlp)[:, 7]
            elif place.kind == "head":
                z = entering(lm, piece.ids, out).reshape(len(piece.ids), heads, -1)[:, 2]
                wanted = (z @ rows[2]).norm(dim=-1)
            else:
                wanted = features.model.encode(states_of([lm], [piece.ids], 1)[0])[:, 5]
            torch.testing.assert_close(found[piece.row].own[:, 0], wanted.detach(), rtol=1e-4, atol=1e-5)
            states = states_of([lm], [piece.ids], 1)[0][:, 0]
            torch.testing.assert_close(found[piece.row].random, states @ axes, rtol=1e-4, atol=1e-5)


def test_leaders_are_the_largest_of_all():
    drawn = torch.Generator().manual_seed(0)
    pieces = [Piece(torch.randint(4, 20, (5,), generator=drawn).tolist(), str(at)) for at in range(30)]
    values = torch.randn(30, 5, 4, generator=drawn)
    values[:, 0] = 99  # the first token is left out
    leaders = Leaders(6)
    for number in range(30):
        leaders.add(number, values[number])
    best = values[:, 1:].max(1)
    order = best.values.argsort(dim=0, descending=True)[:6]
    assert torch.equal(leaders.pieces, order)
    assert torch.equal(leaders.positions, best.indices.gather(0, order) + 1)
    tokens = leaders.tokens(pieces, 1)
    for (rank, unit), number in np.ndenumerate(order.numpy()):
        at = int(leaders.positions[rank, unit]) + 1
        assert tokens[rank, unit] == (pieces[number].ids[at] if at < 5 else -1)


def test_the_commonest_token_and_its_share():
    ids, shares = commonest(np.array([[3, -1], [3, -1], [4, -1], [-1, -1]]))
    assert ids.tolist() == [3, -1]
    assert shares.tolist() == [0.5, 0]


def test_the_variable_that_a_unit_tells_is_found_on_tokens_it_was_not_chosen_by():
    rng = np.random.default_rng(0)
    truth = {"rare": rng.random(400) < 0.1, "common": rng.random(400) < 0.6}
    values = np.stack([truth["rare"] * 2.0 + rng.random(400), truth["common"] * 1.0, rng.random(400)], 1)
    table = best_variables(values, truth, seed=1)
    assert table["variable"][:2].tolist() == ["rare", "common"]
    assert table["f1"][:2].tolist() == [1, 1]
    second = np.random.default_rng(1).permutation(400)[200:]
    for at, name in enumerate(table["variable"]):
        share = truth[name][second].mean()
        assert table["constant"][at] == pytest.approx(2 * share / (1 + share))
    assert table["f1"][2] < table["constant"][2] + 0.1


def test_equal_values_stand_or_fall_together():
    truth = np.arange(40) % 2 == 0
    table = best_variables(np.zeros((40, 1)), {"even": truth, "odd": ~truth})
    assert table["f1"][0] == pytest.approx(table["constant"][0])


def test_promoted_tokens_go_through_norm_and_unembedding():
    lm = random_lm("gpt2")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(3))
    norm = lm.model.transformer.ln_f
    logits = lm.model.lm_head((direction - direction.mean()) * norm.weight).detach()
    found = direction_tokens(lm, direction, "a direction", 4)
    assert found.ids.tolist() == logits.topk(4).indices.tolist()
    np.testing.assert_allclose(found.suppressed_values, -(-logits).topk(4).values, rtol=1e-4, atol=1e-5)
    rows = torch.stack([direction * 0.01 + torch.eye(32)[0], direction])
    assert sharpest(lm, rows) in (0, 1)


@pytest.mark.parametrize("unit", ["L1N7", "l0 h3", "F5"])
def test_top_texts_are_those_with_the_largest_activation(unit: str, corpus: Path):
    lm = random_lm()
    features = random_features(lm)
    found = top_texts(lm, features=features, unit=unit, data=corpus, n=16)
    assert found.unit == unit.replace(" ", "").upper()
    place = find_unit(lm, unit, features)
    pieces = [
        Piece(lm.tokenizer.encode(row["text"]), row["text"]) for row in map(json.loads, corpus.read_text().splitlines())
    ]
    axes = random_axes(lm.bridge.cfg.d_model, seed=1)
    largest = [float(v.own[1:].max()) for group, _ in read_units([lm], place, features, pieces, axes) for v in group]
    wanted = sorted((each for each in largest if each > 0), reverse=True)[:SHOWN]
    shown = found.tables()["texts"]
    np.testing.assert_allclose(shown["activation"], wanted, rtol=1e-4, atol=1e-5)
    assert found.largest == pytest.approx(max(largest), rel=1e-4)
    assert int(found.activations["tokens"].sum()) == found.tokens == sum(len(piece.ids) - 1 for piece in pieces)
    assert len(found.promoted) == 16
    assert found.variable.empty
    assert "of 100 random directions come as far" in found.sentence()
    assert set(found.figures()) == {"activations", "promoted"}
    chips = found.chips()
    assert [sum(not chip.prompt for chip in row.tokens) for row in chips.rows] == [1] * len(shown)


def test_zeros_have_a_bar_of_their_own():
    table = histogram(np.array([0, 0, 0, 1.0, 2.0]))
    assert table.iloc[0].tolist() == [0, 0, 3]
    assert int(table["tokens"].sum()) == 5


def test_a_reward_model_has_neurons_and_promotes_no_tokens(corpus: Path):
    found = top_texts(reward_lm(random_reward_model()), unit="L0N3", data=corpus, n=16)
    assert found.promoted.empty
    assert set(found.figures()) == {"activations"}
    assert set(found.lists()) == {"Top texts", "What they share"}


def test_in_a_world_the_unit_has_a_variable():
    world = World(seed=0)
    lm = LM.create("tiny", world.tokenizer())
    lm.world = world
    found = top_texts(lm, unit="L0N1", n=20)
    assert found.variable["variable"].iloc[0].partition(":")[0] in ("relation", "value", "unseen person")
    assert "Of the world's variables it tells" in found.sentence()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("what", "names no unit: give a neuron"),
        ("L9N0", "Block 9 was requested in a model of 2 blocks"),
        ("L1N48", "There is no neuron 48 in block 1: it has 48"),
        ("L1H4", "L1H4 was requested"),
        ("F12", "There is no feature 12: these are 12"),
        ("L" + "9" * 50 + "N1", "names no unit"),
    ],
)
def test_a_unit_that_does_not_exist_is_one_sentence(name: str, said: str):
    lm = random_lm()
    with pytest.raises(ConfigError, match=said):
        find_unit(lm, name, random_features(lm))


def test_a_feature_without_a_fit_and_neurons_of_experts_are_refused():
    lm = random_lm("mixtral")
    with pytest.raises(ConfigError, match="no features of this model were found"):
        find_unit(lm, "F3", None)
    with pytest.raises(ModelError, match="have no single W_out: choose a head or a feature"):
        neuron_weights(lm, 0)
    assert usual_unit(lm) == "L1H0"


def test_a_silent_feature_is_refused(corpus: Path):
    lm = random_lm()
    features = random_features(lm)
    features.model.threshold.fill_(1e6)
    with pytest.raises(DataError, match="F0 is active at none of"):
        top_texts(lm, features=features, unit="F0", data=corpus, n=16)
