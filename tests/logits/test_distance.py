"""How far apart two models are, after each token and after each layer."""

import numpy as np
import pytest

from probe.compare.both_lenses import read_lenses
from probe.compare.side_by_side import read_both
from probe.errors import DataError
from probe.logits.distance import compare_layers
from probe.model.rewards import reward_lm
from tests.models import byte_tokenizer, random_lm, random_reward_model

TEXT = "mira lives in oslo ."


def test_two_models_are_compared_as_on_the_compare_page():
    """KL of the outputs against `read_both`, whose columns belong to the token that follows, and of the lenses."""
    base, aligned = random_lm(), random_lm(seed=1)
    ids = base.tokenizer.encode(TEXT)
    found, known = compare_layers(base, aligned, TEXT), read_both(base, aligned, ids, len(ids), "aligned")
    assert found.kl is not None
    np.testing.assert_allclose(found.token_kl[:-1], known.kl[1:], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.kl, read_lenses(base, aligned, ids, len(ids)).kl, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.kl[-1], found.token_kl, atol=1e-6, rtol=1e-4)
    assert found.token_kl.max() > 0.1
    most = int(found.token_kl.argmax())
    assert f"after \u201c{found.tokens[most]}\u201d [{most}], by {found.token_kl[most]:.2g} nats" in found.sentence()
    part = compare_layers(base, aligned, TEXT, position=3, columns=2)
    np.testing.assert_allclose(part.kl, found.kl[:, part.start : part.start + 2], atol=1e-5, rtol=1e-4)
    assert part.start <= 3 < part.start + 2
    assert len(part.token_kl) == len(ids)
    rows = part.tables()["kl-layers"]
    row = rows[(rows.layer == 1) & (rows.position == 3)]
    assert row.kl.item() == part.kl[1, 3 - part.start]
    assert set(part.figures()) == {"kl", "kl-layers"}


def test_models_of_different_depth_are_compared_along_the_text_alone():
    deeper = compare_layers(random_lm(), random_lm(num_hidden_layers=3), TEXT)
    assert deeper.kl is None
    assert set(deeper.figures()) == set(deeper.tables()) == {"kl"}
    assert "different depths" in deeper.notes[0]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: random_lm(tokenizer=byte_tokenizer()), "different tokenizers"),
        (lambda: reward_lm(random_reward_model()), "one number"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(other, says):
    with pytest.raises(DataError, match=says):
        compare_layers(random_lm(), other(), TEXT)
