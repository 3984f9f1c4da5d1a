"""What effects are measured on: read from the logits by hand."""

import pytest
import torch

from probe.analyses.catalogue import find_analysis
from probe.errors import DataError
from probe.logits.targets import (
    NOTHING,
    Target,
    asked_target,
    likely_tokens,
    same_target,
    spelled_token,
    target_of,
    value,
)
from probe.model.text import pieces
from probe.plotting.notebook import Look, title_of
from tests.models import ARCHITECTURES, byte_tokenizer, random_lm

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
        ({"position": 4}, r"Position 4 was requested in a text of 4 tokens: give 0 to 3"),
        ({"position": -1}, r"Position -1 was requested"),
        ({"answer": 27}, r"token 27 was requested and the model has 27: give one of 0 to 26"),
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


def test_what_a_reader_leaves_open_is_the_likeliest_token_and_its_rival():
    lms = [random_lm(seed=seed) for seed in (0, 1)]
    ids = lms[0].tokenizer.encode(TEXT)
    best = [lm.logits([ids])[0, 3].topk(2).indices.tolist() for lm in lms]
    alone = asked_target(lms[1], ids, position=3)
    assert (alone.answer, alone.against) == tuple(best[1])
    found = same_target(lms, prompt=TEXT, position=3)
    assert found["answer"] == best[1][0]
    assert found["against"] == (best[0][0] if best[0][0] != best[1][0] else best[1][1])
    assert likely_tokens(lms, ids, 3)[:2] == [found["answer"], found["against"]]
    against = same_target(lms, prompt=TEXT, position=3, answer=lms[1].tokenizer.decode(best[1][0]))["against"]
    assert against == found["against"]
    assert same_target(lms, prompt=TEXT, answer="rome", against=NOTHING) == {}
    assert asked_target(lms[0], ids, "rome", NOTHING).against is None
    with pytest.raises(DataError, match="Position 9"):
        asked_target(lms[0], ids, position=9)


def test_a_token_is_named_as_it_is_shown():
    """By its piece where there is such a token, else by the text that the piece spells."""
    tokenizer = byte_tokenizer()
    for token in range(len(tokenizer)):
        (piece,) = pieces(tokenizer, [token])
        named = spelled_token(tokenizer, piece)
        assert named == token or pieces(tokenizer, [named]) == [piece]  # several tokens may look alike
    assert spelled_token(tokenizer, "no\u00b7such\u21b5word") == "no such\nword"


def test_the_rival_is_never_the_answer():
    lms = [random_lm(), random_lm()]
    ids = lms[0].tokenizer.encode(TEXT)
    first, second = lms[0].logits([ids])[0, -1].topk(2).indices.tolist()
    assert same_target(lms, prompt=TEXT) == {"answer": first, "against": second}
    assert same_target(lms, prompt=TEXT, answer=second)["against"] == first


def test_models_of_other_tokens_are_asked_about_their_own():
    """An id of one is another word of the other: each figure names the answer of its model."""
    lms = [random_lm(tokenizer=byte_tokenizer()), random_lm()]
    assert same_target(lms, prompt=TEXT) == {}
    looks = [Look("a", "#111111"), Look("b", "#222222")]
    for name in ("logit_lens", "attribute_answer", "follow_writing"):
        record = find_analysis(name)
        values = record.settled({"prompt": TEXT}, *lms)
        results = [record.run(lm, **values) for lm in lms]
        (both,) = record.together(results, looks)
        drawn = both.figures()
        titles = [title_of(chart) for chart in drawn.values()]
        assert sum(title.endswith(": a") or ": a:" in title for title in titles) >= 1, titles
        assert both.sentence()
        assert both.lists()


def test_a_model_beside_itself_has_its_own_columns():
    record, lm = find_analysis("attribute_answer"), random_lm()
    (both,) = record.together([record.run(lm, prompt=TEXT)] * 2, [Look("a", "#111111")] * 2)
    assert list(both.lists()["Parts"].columns) == ["part", "a (1)", "a (2)", "change"]
    assert not both.lists()["Parts"]["change"].any()
