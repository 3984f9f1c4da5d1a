"""Passes of which some tokens are read: numbers and gradients there are those of whole passes, at fewer operations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from probe.errors import ConfigError
from probe.model import read_places
from probe.model.read_places import blocks_of, feed_forward_only
from probe.model.scoring import completion_logprobs, last_states
from tests.models import MODELS, MORE, OTHERS, RECURRENT, random_lm
from trainers.blocks import recompute_blocks

PROMPTS, COMPLETIONS = [[3, 5, 7], [4, 6]], [[[8, 9, 3], [5, 6]], [[7, 8, 9, 10, 11], [3, 4], []]]
IDS, PLACES = torch.tensor([[3, 5, 7, 8], [4, 6, 9, 2]]), torch.tensor([6, 1, 6])
WHOLE = {"bloom", "opt", "mixtral", "mamba"}
"""Architectures whose last block is run whole: a part with two inputs, none of that name, experts, another state."""


def states(model: nn.Module) -> Tensor:
    """The states of all tokens, flattened."""
    return model.base_model(input_ids=IDS).last_hidden_state.flatten(0, 1)  # type: ignore[operator]


def operations(run: Callable[[], object]) -> int:
    """Number of floating-point operations of `run`."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def read(model: nn.Module) -> Tensor:
    """The states of all tokens, of which those at `PLACES` are read."""
    with feed_forward_only(model, PLACES):
        return states(model)


@pytest.mark.parametrize("name", [*MODELS, *OTHERS, *MORE, *RECURRENT])
@torch.no_grad()
def test_what_is_read_is_what_a_whole_pass_gives(name: str) -> None:
    model = random_lm(name).model
    expected, found = states(model), read(model)
    torch.testing.assert_close(found[PLACES], expected[PLACES])
    assert torch.equal(states(model), expected)
    fewer = operations(lambda: read(model)) < operations(lambda: states(model))
    assert fewer == (name not in WHOLE)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_gradients_are_those_of_whole_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends of prompts that several completions share are read more than once."""

    def gradients() -> tuple[list[Tensor], int]:
        model = random_lm(name).model

        def backward() -> None:
            logprobs = completion_logprobs(model, PROMPTS, COMPLETIONS).values
            (logprobs.square().sum() + last_states(model, PROMPTS, COMPLETIONS).square().sum()).backward()

        backward()  # the ways of scoring are checked once
        model.zero_grad()
        count = operations(backward)
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], count

    found, fewer = gradients()
    monkeypatch.setattr(read_places, "_last_feed_forward", lambda model: None)
    expected, count = gradients()
    assert fewer < count
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_block_that_others_read_or_change_is_run_whole() -> None:
    """Hooks see all tokens; dropout draws as many numbers; a block that is run once more has no hooks then."""

    def whole(model: nn.Module) -> bool:
        return torch.equal(read(model), states(model))

    plain, hooked, recomputed = (random_lm().model for _ in range(3))
    assert not whole(plain)
    handle = blocks_of(hooked)[-1].mlp.register_forward_hook(lambda *_: None)
    assert whole(hooked)
    handle.remove()
    assert not whole(hooked)
    recompute_blocks(recomputed)
    assert whole(recomputed)
    dropping = random_lm("gpt2", resid_pdrop=0.5).model
    assert not whole(dropping)
    torch.manual_seed(0)
    found = read(dropping.train())
    torch.manual_seed(0)
    assert torch.equal(found, states(dropping))


def test_a_model_without_blocks_is_run_whole() -> None:
    model = random_lm().model
    model.config.num_hidden_layers += 1
    with pytest.raises(ConfigError, match="blocks of LlamaForCausalLM cannot be found"):
        blocks_of(model)
    with feed_forward_only(model, PLACES):
        pass
