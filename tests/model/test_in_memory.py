"""What is kept of a model: as long as nothing changes what it gives."""

from itertools import count

import torch

from probe.model.in_memory import keep, kept
from tests.models import random_lm


def test_a_result_is_made_once_until_weights_change_by_whatever_way():
    lm, numbers = random_lm(), count()

    def ask() -> int:
        return keep(lm, "number", lambda: next(numbers))

    assert (ask(), ask(), kept(lm, "number")) == (0, 0, 0)
    weights = next(lm.model.parameters())
    weights.data[0, 0] += 0.5  # which raises no counter of versions
    assert kept(lm, "number") is None
    assert ask() == 1
    with torch.no_grad():
        weights.mul_(2)
    assert (ask(), ask()) == (2, 2)


def test_under_hooks_everything_is_made_anew():
    lm, numbers = random_lm(), count()
    assert keep(lm, "number", lambda: next(numbers)) == 0
    with lm.hooks([("blocks.0.hook_resid_post", lambda tensor, hook: 0 * tensor)]):
        assert keep(lm, "number", lambda: next(numbers)) == 1
        assert kept(lm, "number") is None
    assert keep(lm, "number", lambda: next(numbers)) == 0
