"""Two models on one prompt, against slow explicit sums."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.compare.side_by_side import Comparison, Continuation, Expectation, compare, read_both
from probe.errors import ConfigError, DataError
from probe.logits.lens import kl
from tests.models import ARCHITECTURES, byte_tokenizer, random_lm, word_tokenizer

PROMPT = "mira lives in"


def explicit(lm, ids):
    return lm.model(torch.tensor([ids])).logits[0].log_softmax(-1).tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_number_equals_an_explicit_sum(name):
    base, aligned = random_lm(name), random_lm(name, seed=1)
    result = compare(base, aligned, PROMPT, max_new_tokens=5, k=3)
    for author, side in (("base", result.base), ("aligned", result.aligned)):
        assert side.author == author
        p, q = explicit(aligned, side.ids), explicit(base, side.ids)
        assert math.isnan(side.kl[0])
        assert math.isnan(side.base.logprobs[0])
        for j in range(1, len(side.ids)):
            ours, theirs = p[j - 1], q[j - 1]
            divergence = sum(math.exp(a) * (a - b) for a, b in zip(ours, theirs, strict=True))
            assert side.kl[j] == pytest.approx(divergence, abs=1e-5)
            assert side.aligned.logprobs[j] == pytest.approx(ours[side.ids[j]], abs=1e-5)
            assert side.base.logprobs[j] == pytest.approx(theirs[side.ids[j]], abs=1e-5)
            assert side.base.entropy[j] == pytest.approx(-sum(math.exp(b) * b for b in theirs), abs=1e-5)
            best = sorted(range(len(ours)), key=lambda token, ours=ours: -ours[token])[:3]
            assert side.aligned.top_ids[j].tolist() == best
            assert side.aligned.top_logprobs[j].tolist() == pytest.approx([ours[token] for token in best], abs=1e-5)


def test_continuations_are_those_of_each_model():
    base, aligned = random_lm(), random_lm(seed=1)
    result = compare(base, aligned, PROMPT, max_new_tokens=5)
    for side, lm in ((result.base, base), (result.aligned, aligned)):
        drawn = lm.generate(PROMPT, max_new_tokens=5, temperature=0)
        assert side.ids == drawn.prompt_ids[0] + drawn.ids[0]
        assert side.text == drawn.text[0]
        assert side.prompt_length == 4
        assert side.tokens[:4] == ["<bos>", "mira", "lives", "in"]
    sampled = compare(base, aligned, PROMPT, max_new_tokens=5, temperature=1.0, seed=3)
    assert sampled.base.text == base.generate(PROMPT, max_new_tokens=5, seed=3).text[0]


def test_a_model_against_itself_is_no_distance():
    lm = random_lm()
    result = compare(lm, lm, PROMPT, temperature=1.0, seed=5, max_new_tokens=4)
    assert result.base.ids == result.aligned.ids
    assert np.nanmax(result.base.kl) == pytest.approx(0, abs=1e-6)


def test_tables_are_tidy_and_complete():
    base, aligned = random_lm(), random_lm(seed=1)
    result = compare(base, aligned, PROMPT, max_new_tokens=3, k=2)
    tokens = result.table()
    length = len(result.base.ids) + len(result.aligned.ids)
    assert len(tokens) == length
    assert set(tokens.author) == {"base", "aligned"}
    assert tokens.part.tolist()[:5] == ["prompt"] * 4 + ["continuation"]
    spread = tokens.aligned_logprob - tokens.base_logprob
    np.testing.assert_allclose(tokens.difference, spread, atol=1e-6, rtol=1e-4)
    top = result.top_table()
    assert len(top) == 2 * 2 * (length - 2)
    assert (top.predicted != "").all()


def test_models_of_different_depth_and_kind_are_compared():
    result = compare(random_lm(), random_lm("gpt2", n_layer=3), PROMPT, max_new_tokens=3)
    assert np.isfinite(result.base.kl[1:]).all()


def test_no_hooks_are_needed():
    base, aligned = random_lm(), random_lm(seed=1)
    compare(base, aligned, PROMPT, max_new_tokens=3)
    assert base._bridge is None
    assert aligned._bridge is None


def test_a_text_of_one_token_has_nothing_before_it():
    lm = random_lm()
    side = read_both(lm, random_lm(seed=1), [4], 1, "base")
    assert np.isnan(side.kl).all()
    assert side.table().shape[0] == 1


def test_different_tokenizers_are_refused():
    base, aligned = random_lm(), random_lm("llama", byte_tokenizer())
    with pytest.raises(DataError, match="different tokenizers"):
        compare(base, aligned, PROMPT)
    other = word_tokenizer()
    other.add_tokens(["extra"])
    with pytest.raises(DataError, match="different tokenizers"):
        compare(base, random_lm("llama", other), PROMPT)


def test_mistakes_of_the_prompt_and_of_options():
    lm = random_lm()
    with pytest.raises(ConfigError, match="temperature"):
        compare(lm, lm, PROMPT, temperature=-1)
    with pytest.raises(DataError, match="chat template"):
        compare(lm, lm, [{"role": "user", "content": "tom"}])


def test_divergence_over_the_common_tokens_of_padded_vocabularies():
    p = torch.randn(2, 5).log_softmax(-1)
    q = torch.randn(2, 5).log_softmax(-1)
    longer = torch.cat([q, torch.full((2, 3), -50.0)], dim=-1)
    torch.testing.assert_close(kl(p, longer), kl(p, q))
    certain = torch.tensor([[0.0, -torch.inf]])
    torch.testing.assert_close(kl(certain, certain), torch.zeros(1))


def continuation(author: str, ids: list[int], text: str) -> Continuation:
    length = len(ids)
    nothing = np.zeros((1, length))
    side = Expectation(np.log(np.full(length, 0.5)), np.zeros(length), nothing, nothing, nothing)
    kl = np.linspace(0, 1, length)
    return Continuation(author, ids, [f"t{token}" for token in ids], 2, text, side, side, kl)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "aligned", "where", "says"),
    [
        ([1, 2, 3], [1, 2, 4], 2, "the continuations diverge at token 2 (KL 1.00 nats), where they differ most"),
        (
            [1, 2, 3, 5],
            [1, 2, 3, 4],
            3,
            "dpo answers \u201ct4\u201d with 50 % where base answers \u201ct5\u201d with 50 %",
        ),
        ([1, 2, 3], [1, 2, 3, 4], 3, "base ends before token 3, where they differ most."),
        ([1, 2, 3, 4], [1, 2, 3, 4], 3, "Both models say \u201ctext\u201d"),
        ([1, 2], [1, 2], 1, "write nothing"),
    ],
)
def test_where_two_models_part(base: list[int], aligned: list[int], where: int, says: str):
    found = Comparison("p", continuation("base", base, "text"), continuation("aligned", aligned, "text"))
    found = replace(found, names=("base", "dpo"))
    assert found.divergence == where
    assert says in found.sentence()
    assert found.sentence("base").endswith(".")


def test_two_equal_models_do_not_differ():
    ids = [1, 2, 3]
    same = [
        replace(continuation(author, ids, "text"), kl=np.array([np.nan, 0.0, 1e-6])) for author in ("base", "aligned")
    ]
    says = Comparison("p", *same).sentence()
    assert says == "Both models say \u201ctext\u201d, and predict alike at every token (KL below 0.001 nats)."
