"""What a model holds likely while it writes."""

import numpy as np
import pytest
import torch

from probe.errors import ConfigError, DataError
from probe.logits.targets import NOTHING
from probe.logits.writing import WrittenTrajectories, follow_writing
from probe.model.rewards import reward_lm
from probe.plotting.notebook import Look
from tests.models import random_lm, random_reward_model

TEXT = "mira lives in oslo ."


@torch.no_grad()
def test_writing_is_measured_step_by_step():
    lm = random_lm()
    found = follow_writing(lm, TEXT, answer="rome", against=NOTHING, n=5, temperature=1.0, seed=3, k=4)
    ids, rome = lm.tokenizer.encode(TEXT), lm.tokenizer.convert_tokens_to_ids("rome")
    assert 1 <= len(found.tokens) <= 5
    for step, token in enumerate(found.ids):
        logprobs = lm.model(torch.tensor([ids + found.ids[:step]])).logits[0, -1].log_softmax(-1)
        assert found.entropy[step] == pytest.approx(float(-(logprobs.exp() * logprobs).sum()), abs=1e-4)
        assert found.chosen[step] == pytest.approx(float(logprobs[token]), abs=1e-4)
        assert found.logprobs[step, 0] == pytest.approx(float(logprobs[rome]), abs=1e-4)
        assert found.ranks[step, 0] == int((logprobs > logprobs[rome]).sum())
        assert found.top_tokens[step].tolist() == lm.tokenizer.convert_ids_to_tokens(logprobs.topk(4).indices.tolist())
        assert found.margin[step] == pytest.approx(found.top_logprobs[step, 0] - found.top_logprobs[step, 1], abs=1e-6)


def test_greedy_writing_takes_the_favourites():
    found = follow_writing(random_lm(), TEXT, n=4)
    assert found.tokens == found.top_tokens[:, 0].tolist()
    np.testing.assert_allclose(found.chosen, found.top_logprobs[:, 0], atol=1e-6, rtol=1e-4)


def test_writing_begins_after_the_chosen_token():
    lm = random_lm()
    ids = lm.tokenizer.encode(TEXT)
    found = follow_writing(lm, TEXT, position=2, answer="rome", n=3)
    assert found.ids == lm.generate([ids[:3]], max_new_tokens=3, temperature=0).ids[0]
    assert found.prompt_tokens == lm.tokenizer.convert_ids_to_tokens(ids[:3])


def test_two_models_are_said_and_drawn_together():
    results = tuple(follow_writing(random_lm(seed=seed), TEXT, answer="rome", against="oslo", n=2) for seed in (0, 1))
    found = WrittenTrajectories(results, (Look("a", "#111111"), Look("b", "#222222")))
    assert (
        found.sentence()
        == "; ".join(
            f"{name} writes \u201c{' '.join(each.tokens)}\u201d" for name, each in zip("ab", results, strict=True)
        )
        + "."
    )
    assert set(found.tables()["written"]["model"]) == {"a", "b"}
    assert len(found.figure().data) == 2 * (2 + 2 + 1 + 1)


def test_tables_are_tidy():
    written = follow_writing(random_lm(), TEXT, answer="rome", against=NOTHING, n=3)
    assert len(written.table()) == len(written.tokens) * 5
    assert len(written.top_table()) == len(written.tokens) * 5


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda: follow_writing(random_lm(), TEXT, n=0), ConfigError, "0 tokens"),
        (lambda: follow_writing(random_lm(), TEXT, answer=-1), DataError, "token -1 was requested"),
        (lambda: follow_writing(reward_lm(random_reward_model()), TEXT), DataError, "one number"),
    ],
)
def test_what_is_not_possible_is_one_sentence(ask, error, says):
    with pytest.raises(error, match=says):
        ask()
