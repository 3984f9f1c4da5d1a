"""States at the tokens of completions: whatever the layout, what the plain model gives one text at a time."""

import pytest
import torch

from probe.errors import DataError
from probe.model.scoring import can_branch, last_states, token_states
from tests.models import MODELS, OTHERS, random_lm

PROMPTS = [[2, 5, 7, 9], [2, 8], [2, 8, 9, 10, 12, 13, 5]]
GROUPS = [[[11, 12], [13, 14, 15, 3]], [[20, 3], []], [[5, 6, 7, 3], [4], [9, 9]]]
FLAT = [(prompt, ids) for prompt, group in zip(PROMPTS, GROUPS, strict=True) for ids in group]


def slow_states(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """The states [T d] of one text without padding."""
    return model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]  # type: ignore[operator]


@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
@pytest.mark.parametrize("share", [True, False])
@torch.no_grad()
def test_states_against_one_text_at_a_time(name: str, share: bool) -> None:
    model = random_lm(name).model
    last = last_states(model, PROMPTS, GROUPS, share_prompt=share)
    at, mask = token_states(model, PROMPTS, GROUPS, share_prompt=share)
    assert mask.sum(-1).tolist() == [len(ids) for _, ids in FLAT]
    assert can_branch(model) == (name not in ("mistral", "bloom", "gemma2"))
    for row, (prompt, ids) in enumerate(FLAT):
        expected = slow_states(model, prompt + ids)
        torch.testing.assert_close(last[row], expected[-1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(at[row, : len(ids)], expected[len(prompt) :], rtol=1e-5, atol=1e-5)
        assert not at[row, len(ids) :].any()


def test_gradients_do_not_depend_on_the_layout() -> None:
    model = random_lm("llama").model
    made = []
    for share in (True, False):
        model.zero_grad()
        last_states(model, PROMPTS, GROUPS, share_prompt=share).square().sum().backward()
        made.append([p.grad.clone() for p in model.base_model.parameters() if p.grad is not None])
    assert len(made[0]) == len(list(model.base_model.parameters()))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_head_is_not_run() -> None:
    model = random_lm("llama").model
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("the unembedding was run"))
    assert last_states(model, [[2]], [[[5]]]).shape == (1, 32)


@torch.no_grad()
def test_nothing_and_too_much() -> None:
    model = random_lm("llama").model
    assert last_states(model, [[2, 3]], [[[], []]]).shape == (2, 32)
    assert token_states(model, [[2, 3]], [[[], []]])[0].shape == (2, 0, 32)
    with pytest.raises(DataError, match="no tokens"):
        last_states(model, [[]], [[[3]]])
    with pytest.raises(DataError, match=r"has 50 tokens and the model reads at most 48"):
        last_states(model, [[2] * 20], [[[3] * 30]])
