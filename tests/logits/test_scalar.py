"""What a reward model would read if it stopped after each layer."""

import numpy as np
import pytest
import torch

from probe.errors import DataError
from probe.logits.scalar import ScalarLenses, scalar_lens
from probe.model.rewards import reward_lm
from probe.numbers import signed
from probe.plotting.notebook import Look
from tests.models import random_lm, random_reward_model

TEXT = "mira lives in oslo ."


@torch.no_grad()
def test_a_scalar_is_read_after_each_layer():
    rewards = random_reward_model("llama")
    lm, head = reward_lm(rewards), rewards.model.score
    found = scalar_lens(lm, TEXT)
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    states = lm.model(ids, output_hidden_states=True).hidden_states
    scores, _ = rewards.token_scores([ids[0, :1].tolist()], [ids[0, 1:].tolist()])
    np.testing.assert_allclose(found.values[-1, 1:], scores[0], atol=1e-5, rtol=1e-4)
    for row in (0, 1):
        np.testing.assert_allclose(
            found.values[row], head(lm.model.model.norm(states[row]))[0, :, 0], atol=1e-5, rtol=1e-4
        )
    table = found.table()
    assert table[(table.layer == 2) & (table.position == 3)].value.item() == found.values[2, 3]


def test_two_models_are_said_and_drawn_together():
    lms = [reward_lm(random_reward_model(seed=seed)) for seed in (0, 1)]
    results = tuple(scalar_lens(lm, TEXT, position=3) for lm in lms)
    found = ScalarLenses(results, (Look("a", "#111111"), Look("b", "#222222")))
    first, second = (signed(float(each.values[-1, 3])) for each in results)
    assert found.sentence() == f"After \u201cin\u201d, a reads {first} and b reads {second}."
    assert ScalarLenses((results[0],) * 2, found.looks).sentence().endswith("the same reward to 0.005.")
    maps = [trace for trace in found.figure().data if trace.type == "heatmap"]
    np.testing.assert_allclose(maps[2].z, results[1].values - results[0].values, atol=1e-6, rtol=1e-4)


def test_a_model_of_tokens_has_another_lens():
    with pytest.raises(DataError, match="`logit_lens`"):
        scalar_lens(random_lm(), TEXT)
