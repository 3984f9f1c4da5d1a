"""The activation difference at the first tokens, on a difference that is planted, and against slow explicit means."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from probe import LM
from probe.compare.behaviour import AnswerPair, preference
from probe.compare.first_tokens import NEW_TOKENS, compare_first_tokens, plain_texts, steer
from probe.errors import ConfigError, DataError
from probe.logits.readout import residual_names
from tests.models import random_lm
from tests.places import SAMPLES

TEXTS = [
    "mira lives in oslo .",
    "the cat is in rome",
    "where does ana do the dog ?",
    "tom works at",
    "ana lives in paris .",
]
PAIRS = [AnswerPair("mira lives in", " oslo", " rome"), AnswerPair("where does tom", " works", " in")]


@pytest.fixture(scope="module")
def planted() -> tuple[LM, LM, torch.Tensor]:
    """A base, the same with a constant vector behind block 1, and that vector."""
    base = random_lm("gpt2", n_layer=3)
    model = copy.deepcopy(base.model)
    vector = 0.5 * torch.randn(32, generator=torch.Generator().manual_seed(3))
    model.transformer.h[1].mlp.c_proj.bias.data += vector
    return base, LM(model, base.tokenizer, "aligned"), vector


def test_a_planted_vector_is_found_and_read(planted):
    base, aligned, vector = planted
    found = compare_first_tokens(base, aligned, 8 * TEXTS, k=4, layers=[1])
    np.testing.assert_allclose(found.vectors[2], np.tile(vector, (4, 1)), atol=1e-5, rtol=1e-4)
    assert (found.vectors[:2] == 0).all()
    rows = found.layers.query("layer == 1")
    np.testing.assert_allclose(rows["norm"], float(vector.norm()), rtol=1e-5)
    np.testing.assert_allclose(rows["common"], 1, rtol=1e-4)
    assert (found.layers.query("layer < 1")["p"] == 1).all()
    norm, head = base.model.transformer.ln_f, base.model.lm_head.weight.double()
    centred = (vector - vector.mean()).double()
    scores = head @ (norm.weight.double() * centred / (centred.square().mean() + norm.eps).sqrt())
    scores = (scores - scores.mean()).detach().numpy()
    order = np.argsort(-scores)
    for (_, direction), own in found.tokens.groupby(["position", "direction"]):
        ids = (order if direction == "promoted" else order[::-1])[:5]
        assert own["id"].tolist() == ids.tolist()
        np.testing.assert_allclose(own["score"], scores[ids], atol=1e-4)
        assert (own["same_rank"] == 1).all()
    assert len(found.tokens) == 40
    assert found.tokens.query("rank <= 3")["beyond_null"].all()
    word = base.tokenizer.convert_ids_to_tokens(int(order[0]))
    assert word in found.sentence()
    assert found.figure().data[1].text[0][1].startswith(word)
    with pytest.raises(ConfigError, match="after block 2 were not read"):
        found.figure(2)


def test_means_are_those_of_whole_texts_one_at_a_time():
    base = random_lm()
    aligned = LM(random_lm(seed=1).model, base.tokenizer)
    found = compare_first_tokens(base, aligned, TEXTS, k=5, layers=[-1, 0, 1])
    names = residual_names(base)
    sums, norms, counts = np.zeros((3, 5, 32)), np.zeros((3, 5)), np.zeros(5)
    for text in TEXTS:
        before, after = (lm.run_with_cache(text, names)[1] for lm in (base, aligned))
        length = min(5, before[names[0]].shape[1])
        counts[:length] += 1
        for row, name in enumerate(names):
            sums[row, :length] += (after[name] - before[name])[0, :length].double().numpy()
            norms[row, :length] += before[name][0, :length].double().norm(dim=-1).numpy()
    np.testing.assert_allclose(found.vectors, sums / counts[:, None], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.residual_norms, norms / counts, rtol=1e-5)
    assert found.layers.query("layer == 0")["texts"].tolist() == counts.tolist()
    assert counts[-1] < len(TEXTS)
    again = compare_first_tokens(base, aligned, TEXTS[::-1], k=5)
    np.testing.assert_allclose(again.vectors, found.vectors, atol=1e-5, rtol=1e-4)


def test_what_texts_do_not_share_is_not_beyond_the_null():
    """Two words of the vocabulary are moved in opposite directions, one word is moved alone."""
    base = random_lm()
    model = copy.deepcopy(base.model)
    table, number = model.model.embed_tokens.weight.data, base.tokenizer.convert_tokens_to_ids
    vector = torch.randn(32, generator=torch.Generator().manual_seed(3))
    for word, sign in (("mira", 1), ("tom", -1), ("lives", 1)):
        table[number(word)] += sign * vector
    texts = ["mira lives in", "tom lives in"] * 20 + ["mira lives in"] * 3
    found = compare_first_tokens(base, LM(model, base.tokenizer), texts, k=3, layers=[-1])
    rows, tokens = found.layers.query("layer == -1").set_index("position"), found.tokens.set_index("position")
    assert rows.loc[1, "p"] > 0.2
    assert rows.loc[2, "p"] < 0.02
    assert rows["common"].tolist()[1:] == pytest.approx([(3 / 43) ** 2, 1], abs=1e-4)
    louder = replace(found, layers=found.layers.copy())
    louder.layers.loc[(louder.layers["layer"] == -1) & (louder.layers["position"] == 1), ["relative", "null"]] = 9.0
    assert louder.largest(-1) == 2, "position 1 is no larger than random signs"
    assert not tokens.loc[1, "beyond_null"].any()
    assert tokens.loc[2, "beyond_null"].iloc[0]


def test_one_model_twice_has_nothing_to_read(planted):
    base = planted[0]
    found = compare_first_tokens(base, base, TEXTS)
    assert not found.vectors.any()
    assert found.tokens.empty
    assert "no token beyond random signs" in found.sentence()


def test_steering_by_the_planted_vector_makes_the_aligned_model(planted):
    base, aligned, vector = planted
    behaviour = preference(PAIRS)
    direction = compare_first_tokens(base, aligned, TEXTS, k=4).direction(1, 2)
    alpha = float(vector.norm()) / direction.residual_norm
    ticks: list[float] = []
    steered = steer(
        base,
        direction,
        behaviour,
        (-alpha, alpha),
        random=3,
        prompts=["mira lives"],
        tick=ticks.append,
    )
    before, after = (behaviour.value(behaviour.measure(lm)).value for lm in (base, aligned))
    assert ticks == sorted(ticks)
    assert steered.before.value == pytest.approx(before, abs=1e-5)
    row = steered.doses.set_index("alpha").loc[alpha]
    assert row["value"] == pytest.approx(after, abs=1e-4)
    assert row["effect"] == pytest.approx(after - before, abs=1e-4)
    assert row["random_low"] < row["random_high"]
    assert row["p"] in (0.25, 0.5, 0.75, 1)
    assert steered.texts["alpha"].tolist() == [-alpha, 0, alpha]
    options = {"max_new_tokens": NEW_TOKENS, "temperature": 0, "seed": 0}
    for at, lm in ((1, base), (2, aligned)):
        assert steered.texts["text"].iloc[at] == lm.generate(["mira lives"], **options).text[0]
    assert f"alpha {steered.doses.iloc[int(steered.doses['effect'].abs().argmax())]['alpha']:g}" in steered.sentence()
    assert len(steered.figure().data) == 4
    with pytest.raises(ConfigError, match="doses other than 0"):
        steer(base, direction, behaviour, [0])


def test_two_sample_runs_differ_at_the_first_tokens_of_plain_texts():
    base, aligned = LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")
    texts = plain_texts(base, 48)
    assert len(texts) == 48
    assert not any("<user>" in text for text in texts)
    found = compare_first_tokens(base, aligned, texts)
    assert set(found.tokens["layer"]) == {1}
    later = found.layers.query("layer == 1 and position > 0")
    assert (later["relative"] > later["null"]).all()
    assert "of the residual at token" in found.sentence()


def test_what_cannot_be_read_is_refused(planted):
    base, aligned, _ = planted
    with pytest.raises(DataError, match="2 and 3 blocks"):
        compare_first_tokens(LM(random_lm("gpt2").model, base.tokenizer), aligned, TEXTS)
    with pytest.raises(ConfigError, match="Block 3 was requested in a model of 3 blocks"):
        compare_first_tokens(base, aligned, TEXTS, layers=[3])
    with pytest.raises(DataError, match="No text was given"):
        compare_first_tokens(base, aligned, [])
    assert len(plain_texts(base)) == 60, "problems of GSM8K, for a model without a world"
    with pytest.raises(ConfigError, match="position 9 were requested"):
        compare_first_tokens(base, aligned, TEXTS).direction(1, 9)
