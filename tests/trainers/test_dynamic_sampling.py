"""Dynamic sampling of RLVR: which groups are drawn anew, how often, and that nothing else changes."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from probe import LM, Run
from probe.errors import ConfigError
from probe.world import World
from tests.trainers.conftest import figures
from tests.trainers.quick import COMMON, SAMPLED, train
from trainers.config import RLVRConfig
from trainers.loop import draw
from trainers.prompts import world_prompts
from trainers.reward_functions import RewardFunction
from trainers.sampling import REDRAWING, CompletionGroup, Sampler, equal_rewards
from trainers.session import Session, derive_seed
from trainers.trainee import Reference, Trainee


def rare(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Equal rewards for most groups: only a quarter of the texts has another one."""
    return [float(zlib.crc32(f"{a}{b}".encode()) % 16 == 0) for a, b in zip(prompts, completions, strict=True)]


def unlike(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """A reward of its own for each text."""
    return [float(zlib.crc32(text.encode())) for text in completions]


def constant(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [0.5] * len(completions)


def sampler(model_dir: Path, tmp_path: Path, reward: Callable[..., Any], **changes: Any) -> Sampler:
    lm, config = LM.load(model_dir), RLVRConfig(out=tmp_path / "none", base="unused", **COMMON | SAMPLED | changes)
    prompts = world_prompts(lm, World(), config.tasks, config.prompts, config.seed)
    reference = Reference(LM.load(model_dir))
    return Sampler(Session(config), Trainee(lm), config, prompts.items, [RewardFunction("r", reward, "r")], reference)


def slow(one: Sampler, step: int, place: int, redraws: int) -> CompletionGroup:
    """The group of one place, drawn alone until its rewards differ."""
    config = one.config
    for attempt in range(redraws + 1):
        seed = derive_seed(config.seed, attempt, REDRAWING) if attempt else config.seed
        index = draw(len(one.prompts), config.batch_size, step, seed)[place]
        (group,) = one._score(one._sample_groups(step, [(place, index)], attempt))
        if len({completion.reward for completion in group.completions}) > 1:
            break
    assert group.prompt == one.prompts[index].text
    return group


@pytest.mark.parametrize("redraws", [0, 1, 3])
def test_each_place_against_drawing_it_alone(model_dir: Path, tmp_path: Path, redraws: int) -> None:
    one = sampler(model_dir, tmp_path, rare)
    found = one.sample(2, redraws=redraws)
    assert [group.number for group in found] == list(range(8))
    expected = [slow(one, 2, place, redraws) for place in range(8)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.prompt == theirs.prompt
        assert [c.ids for c in ours.completions] == [c.ids for c in theirs.completions]
        assert [c.reward for c in ours.completions] == [c.reward for c in theirs.completions]
        assert all(len(c.ref_logprobs or ()) == len(c.ids) for c in ours.completions)
        assert ours.draws == 1 or redraws
    if redraws:
        assert {1, 2} <= {group.draws for group in found}
        assert all(equal_rewards(group) == (group.draws > redraws and equal_rewards(group)) for group in found)
        before = one.sample(2)
        assert sum(map(equal_rewards, found)) < sum(map(equal_rewards, before))
        kept = [(a, b) for a, b in zip(before, found, strict=True) if not equal_rewards(a)]
        assert kept
        assert all(a == b for a, b in kept)


def test_the_bound_holds(model_dir: Path, tmp_path: Path) -> None:
    found = sampler(model_dir, tmp_path, constant).sample(1, redraws=3)
    assert [group.draws for group in found] == [4] * 8
    assert all(map(equal_rewards, found))


def test_however_the_work_is_shared(model_dir: Path, tmp_path: Path) -> None:
    whole = sampler(model_dir, tmp_path, rare).sample(3, redraws=2)
    parts = sampler(model_dir, tmp_path, rare, accumulation=4).sample(3, redraws=2)
    assert [(g.number, g.draws, [c.ids for c in g.completions]) for g in whole] == [
        (g.number, g.draws, [c.ids for c in g.completions]) for g in parts
    ]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].path / "model.safetensors")


def test_nothing_changes_where_all_groups_differ(configs: Any) -> None:
    """To the last bit, with several updates and a KL."""
    make = configs("rlvr")
    runs = [train(make(f"run{n}", reward=(f"{__name__}:unlike",), dynamic_sampling=n)) for n in (0, 3)]
    logged = figures(runs[1])
    assert (logged.pop("sampling/discarded_groups").dropna() == 0).all()
    pd.testing.assert_frame_equal(figures(runs[0]), logged, check_exact=True)
    assert all(torch.equal(tensor, weights(runs[1])[name]) for name, tensor in weights(runs[0]).items())


def test_a_run_logs_what_it_discards(configs: Any) -> None:
    """Groups that were drawn anew are of all that were sampled; fewer groups without a signal are left."""
    make = configs("rlvr")
    plain = train(make("plain", reward=(f"{__name__}:rare",))).metrics()
    run = train(make("drawn", reward=(f"{__name__}:rare",), dynamic_sampling=2)).metrics()
    assert "sampling/discarded_groups" not in plain
    assert (run["sampling/discarded_groups"].dropna() > 0.1).all()
    assert run["frac_reward_zero_std"].iloc[0] < plain["frac_reward_zero_std"].iloc[0]
    never = train(make("never", reward=(f"{__name__}:constant",), dynamic_sampling=2, steps=2)).metrics()
    assert never["sampling/discarded_groups"].dropna().tolist() == pytest.approx([2 / 3, 2 / 3])


def test_the_equivalent_beta_is_gone() -> None:
    options: dict[str, Any] = {"out": Path("x"), "base": "y", "normalisation": "dr_grpo"}
    assert RLVRConfig(**options).price
    assert RLVRConfig(**options, dynamic_sampling=1).price is None
    with pytest.raises(ConfigError, match="--dynamic-sampling is -1; expected 0 or more"):
        RLVRConfig(**options, dynamic_sampling=-1)
