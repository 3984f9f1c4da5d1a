"""What effects are measured on: read from the logits by hand."""

import pytest
import torch

from probe.errors import DataError
from probe.logits.lens import Target, target_of, value
from tests.models import ARCHITECTURES, random_lm

TEXT = "mira lives in"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_difference_of_two_answers_at_a_position(name: str):
    lm = random_lm(name)
    ids = lm.tokenizer.encode(TEXT)
    target = target_of(lm, ids, "oslo", "rome", position=2)
    oslo, rome = (lm.tokenizer.convert_tokens_to_ids(word) for word in ("oslo", "rome"))
    logits = lm.logits([ids, ids]).detach()
    assert target == Target(2, oslo, rome, "oslo \u2212 rome")
    assert value(logits, target).tolist() == pytest.approx([float(logits[0, 2, oslo] - logits[0, 2, rome])] * 2)


def test_without_words_the_likeliest_token_alone():
    lm = random_lm()
    ids = lm.tokenizer.encode(TEXT)
    target = target_of(lm, ids)
    logits = lm.logits([ids]).detach()
    assert target.position == len(ids) - 1
    assert float(value(logits, target)) == float(logits[0, -1].max())
    assert target.name == lm.tokenizer.convert_ids_to_tokens(target.answer)


def test_the_value_has_gradients():
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    value(logits, Target(1, 2, 4)).sum().backward()
    expected = torch.zeros(1, 3, 5)
    expected[0, 1, 2], expected[0, 1, 4] = 1, -1
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": 4}, r"Position 4 was asked for in a text of 4 tokens: give 0 to 3"),
        ({"position": -1}, r"Position -1 was asked for"),
        ({"answer": 27}, r"token 27 was asked for and the model has 27: give one of 0 to 26"),
        ({"answer": ""}, "no tokens"),
    ],
)
def test_what_is_not_there_is_refused(options: dict, message: str):
    lm = random_lm()
    with pytest.raises(DataError, match=message):
        target_of(lm, lm.tokenizer.encode(TEXT), **options)


def test_a_target_of_another_text_is_refused():
    lm = random_lm()
    logits = lm.logits(TEXT)
    for position in (4, -1):
        with pytest.raises(DataError, match=f"at token {position} of a text of 4 tokens: give 0 to 3"):
            value(logits, Target(position, 0))
    with pytest.raises(DataError, match="has no tokens"):
        target_of(lm, [])
