"""The logit lens of two models on a text that one of them writes."""

import numpy as np
import pandas as pd
import pytest

from probe.compare.both_lenses import LensPair, compare_lenses, read_lenses
from probe.compare.side_by_side import compare
from probe.errors import ConfigError, DataError
from probe.logits.lens import logit_lens
from probe.logits.targets import NOTHING
from tests.models import byte_tokenizer, random_lm

PROMPT = "mira lives in"


@pytest.mark.parametrize("author", ["base", "aligned"])
def test_each_lens_is_that_of_its_model_on_the_text_of_the_comparison(author: str):
    base, aligned = random_lm(), random_lm(seed=1)
    text = compare(base, aligned, PROMPT, max_new_tokens=3).shown(author)  # type: ignore[arg-type]
    found = compare_lenses(base, aligned, PROMPT, author, max_new_tokens=3, k=2)  # type: ignore[arg-type]
    assert list(found.ids) == text.ids
    assert found.prompt_length == text.prompt_length
    for lens, lm in ((found.base, base), (found.aligned, aligned)):
        alone = logit_lens(lm, text.ids, k=2, against=NOTHING)
        np.testing.assert_allclose(lens.top_logprobs, alone.top_logprobs, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(lens.next_logprobs, alone.next_logprobs, atol=1e-5, rtol=1e-4)
    assert found.kl is not None
    assert found.kl.shape == (3, len(text.ids))
    np.testing.assert_allclose(found.kl[-1, :-1], text.kl[1:], atol=1e-5, rtol=1e-4)
    assert (found.kl[0] > 0).all()


def test_a_model_against_itself_is_no_distance():
    lm = random_lm()
    assert compare_lenses(lm, lm, PROMPT).kl == pytest.approx(0, abs=1e-6)


def test_the_last_tokens_of_the_prompt_alone():
    base, aligned = random_lm(), random_lm(seed=1)
    whole, some = (compare_lenses(base, aligned, PROMPT, max_new_tokens=3, columns=columns) for columns in (None, 2))
    assert (whole.start, some.start) == (0, 2)
    assert some.sentence().startswith(f"Of the last {len(some.ids) - 2} tokens, the outputs of")
    assert whole.kl is not None
    np.testing.assert_allclose(some.kl, whole.kl[:, 2:], atol=1e-5, rtol=1e-4)
    both = [each.table().query("position >= 2").reset_index(drop=True) for each in (whole, some)]
    pd.testing.assert_frame_equal(*both, atol=1e-4, rtol=1e-3)
    for position in (None, 1, 3, 6):
        assert set(some.figures(position=position)) == {"lenses"}
    with pytest.raises(ConfigError, match="0 tokens were requested"):
        compare_lenses(base, aligned, PROMPT, columns=0)


def test_one_row_for_each_layer_and_token():
    found = compare_lenses(random_lm(), random_lm(seed=1), PROMPT, max_new_tokens=3)
    table = found.table()
    assert len(table) == 3 * len(found.ids)
    assert table.difference.isna().sum() == 3  # nothing follows the last token
    pd.testing.assert_series_equal(
        table.difference, table.aligned_next_logprob - table.base_next_logprob, check_names=False
    )


def test_models_of_different_depth_have_a_lens_each():
    found = compare_lenses(random_lm(), random_lm("gpt2", n_layer=3), PROMPT, max_new_tokens=3)
    assert found.kl is None
    assert (len(found.base.entropy), len(found.aligned.entropy)) == (3, 4)
    assert set(found.table()["model"]) == {"base", "aligned"}
    assert "different depths" in found.notes[0]
    assert found.sentence() == ""
    assert len(found.figure().data)


def test_a_text_of_one_token():
    found = read_lenses(random_lm(), random_lm(seed=1), [4], 1)
    assert found.kl is not None
    assert found.kl.shape == (3, 1)
    assert np.isnan(found.base.next_logprobs).all()


def test_different_tokenizers_are_refused():
    with pytest.raises(DataError, match="different tokenizers"):
        compare_lenses(random_lm(), random_lm("llama", byte_tokenizer()), PROMPT)


@pytest.mark.parametrize(
    ("kl", "since"),
    [
        ([[0.0, 0.1], [0.0, 0.9], [0.2, 1.2], [0.0, 2.0]], "from L1 on"),  # L0 has 0.9 of 2.0
        (
            [[0.0, 1.5], [0.0, 1.5], [0.2, 0.9], [0.0, 2.0]],
            "before the last layer their lenses differ by less than half of that",
        ),  # what was there before does not last
        ([[0.0, 1.0], [9.0, 1.5], [0.2, 1.9], [0.0, 2.0]], "from the embedding on"),
    ],
)
def test_the_sentence_names_the_layer_from_which_on_half_is_there(kl: list[list[float]], since: str):
    found = read_lenses(random_lm(), random_lm(seed=1), [4, 5], 1)
    says = LensPair(found.ids, 0, 1, found.base, found.aligned, np.array(kl)).sentence()
    assert says.startswith("The outputs of aligned and base differ most after")
    assert "token 1 (KL 2 nats)" in says
    assert says.endswith(f"{since}.")
