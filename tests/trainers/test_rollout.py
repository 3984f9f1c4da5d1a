"""Rollouts: what is sampled, its log-probabilities, its rewards and figures, the same however the work is shared."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from probe import LM
from probe.errors import ConfigError, DataError
from probe.model.scoring import completion_logprobs
from probe.world import World
from tests.trainers.quick import COMMON, SAMPLED
from trainers.config import OnlineConfig
from trainers.prompts import file_prompts, load_prompts, read_prompts, world_prompts
from trainers.reward_functions import RewardFunction, resolve
from trainers.sampling import (
    Completion,
    CompletionGroup,
    Sampler,
    equal_rewards,
    gold_metrics,
    minibatches,
    rollout_metrics,
    rollout_rows,
)
from trainers.session import Session
from trainers.trainee import Reference, Trainee


def sampler(lm: LM, tmp_path: Path, reference: Reference | None = None, **changes: Any) -> Sampler:
    config = OnlineConfig(out=tmp_path / "none", base="unused", **COMMON | SAMPLED | changes)
    prompts = world_prompts(lm, World(), config.tasks, config.prompts, config.seed)
    rewards = resolve(config.reward, World())
    return Sampler(Session(config), Trainee(lm), config, prompts.items, rewards, reference)


def recomputed(lm: LM, groups: list[CompletionGroup], temperature: float) -> list[list[float]]:
    """The log-probabilities of all completions as the trainers compute them."""
    ids = [[c.ids for c in group.completions] for group in groups]
    with torch.no_grad():
        found = completion_logprobs(lm.model, [g.prompt_ids for g in groups], ids, temperature=temperature)
    return [row[:n] for row, n in zip(found.values.tolist(), found.mask.sum(1).tolist(), strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_are_those_that_training_recomputes(model_dir: Path, tmp_path: Path, temperature: float) -> None:
    """At the sampling temperature, with prompts of different lengths, also where top-k and top-p cut the tail."""
    lm, other = LM.load(model_dir), LM.load(model_dir)
    with torch.no_grad():
        other.model.get_output_embeddings().weight.mul_(1.5)
    for cut in ({}, {"top_k": 20, "top_p": 0.9}):
        groups = sampler(lm, tmp_path, Reference(other), temperature=temperature, **cut).sample(1)
        completions = [completion for group in groups for completion in group.completions]
        expected = zip(recomputed(lm, groups, temperature), recomputed(other, groups, temperature), strict=True)
        for completion, (policy, reference) in zip(completions, expected, strict=True):
            assert completion.logprobs == pytest.approx(policy, abs=1e-5)
            assert completion.ref_logprobs == pytest.approx(reference, abs=1e-5)
            assert len(completion.entropy) == len(completion.ids)
            assert completion.finished == (completion.ids[-1] == lm.tokenizer.eos_token_id)
            assert completion.finished or len(completion.ids) == 6


def test_the_models_own_generation_config_changes_nothing(model_dir: Path, tmp_path: Path) -> None:
    """It asks for greedy decoding, another temperature, a penalty and a forced token: only its end tokens may count."""
    plain, odd = LM.load(model_dir), LM.load(model_dir)
    odd.model.generation_config = GenerationConfig(
        do_sample=False,
        temperature=0.01,
        top_k=1,
        top_p=0.1,
        repetition_penalty=3.0,
        min_new_tokens=5,
        max_length=3,
        eos_token_id=odd.tokenizer.eos_token_id,
        bad_words_ids=[[5], [6]],
        forced_eos_token_id=7,
    )
    assert sampler(plain, tmp_path).sample(3) == sampler(odd, tmp_path).sample(3)


def test_what_is_drawn_depends_on_seed_step_and_place_alone(model_dir: Path, tmp_path: Path) -> None:
    lm = LM.load(model_dir)
    whole = sampler(lm, tmp_path).sample(2)
    parts = sampler(lm, tmp_path, accumulation=4).sample(2)
    torch.manual_seed(99)
    for one, other in zip(whole, parts, strict=True):
        assert [c.ids for c in one.completions] == [c.ids for c in other.completions]
        assert one.number == other.number
    assert sampler(lm, tmp_path).sample(2) == whole
    assert [c.ids for g in sampler(lm, tmp_path).sample(3) for c in g.completions] != [
        c.ids for g in whole for c in g.completions
    ]
    assert sampler(lm, tmp_path, seed=1).sample(2)[0].completions != whole[0].completions


def test_equal_prompts_in_a_batch_get_different_samples(model_dir: Path, tmp_path: Path) -> None:
    """Also when one process has the first and another the second of them."""
    made = sampler(LM.load(model_dir), tmp_path, prompts=1, tasks=("fact",)).sample(1)
    assert len({group.prompt for group in made}) == 1
    samples = [tuple(tuple(c.ids) for c in group.completions) for group in made]
    assert len(set(samples)) == len(samples)


def test_all_prompts_are_passed_over(model_dir: Path, tmp_path: Path) -> None:
    one = sampler(LM.load(model_dir), tmp_path, prompts=24)
    seen = [group.prompt for step in (1, 2, 3) for group in one.sample(step)]
    assert sorted(seen) == sorted(prompt.text for prompt in one.prompts)


def test_rewards_reach_their_completions(model_dir: Path, tmp_path: Path) -> None:
    """Two rewards, one of which applies to some; the columns of a prompt come with each of its completions."""

    def second(prompts: list[str], completions: list[str], kind: list[str], completion_ids: Any) -> list[Any]:
        assert len(prompts) == len(completions) == len(kind) == len(completion_ids) == 32
        return [float(len(ids)) if which == "fact" else None for which, ids in zip(kind, completion_ids, strict=True)]

    one = sampler(LM.load(model_dir), tmp_path, reward=("verifier",))
    config = replace(one.config, reward=("verifier", "second"), reward_weights=(1.0, 0.25))
    rewards = [*one.rewards, RewardFunction("second", second, "second")]
    one = Sampler(one.session, one.trainee, config, one.prompts, rewards)
    for group in one.sample(1):
        for completion in group.completions:
            first = World().verify(group.prompt, completion.text).score
            fact = group.columns["kind"] == "fact"
            assert completion.rewards == {"verifier": first, "second": len(completion.ids) if fact else None}
            assert completion.reward == first + (0.25 * len(completion.ids) if fact else 0)


def made(rewards: list[list[float]], lengths: int = 2) -> list[CompletionGroup]:
    """Groups with these rewards."""
    return [
        CompletionGroup(
            "p",
            [2],
            {},
            [
                Completion([5] * (j + lengths), "", [-1.0], [0.5], j % 2 == 0, {"r": None if math.isnan(r) else r}, r)
                for j, r in enumerate(row)
            ],
            i,
        )
        for i, row in enumerate(rewards)
    ]


def test_figures_by_hand() -> None:
    found = rollout_metrics(made([[1.0, 0.0, 2.0], [0.5, 0.5, 0.5], [math.nan, 1.0, math.nan]]), None)
    known = [1.0, 0.0, 2.0, 0.5, 0.5, 0.5, 1.0]
    mean = sum(known) / 7
    std = math.sqrt(sum((r - mean) ** 2 for r in known) / 6)
    assert found["reward"] == found["rewards/r/mean"] == pytest.approx(mean)
    assert found["reward_std"] == found["rewards/r/std"] == pytest.approx(std)
    assert found["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert found["completions/mean_length"] == 3
    assert found["completions/clipped_ratio"] == pytest.approx(1 / 3)
    assert equal_rewards(made([[math.nan, math.nan]])[0])


def test_gold_figures_by_hand() -> None:
    world = World()
    known = world.questions("opinion_false", 1, seed=1)[0]
    stranger = world.questions("opinion_stranger", 1, seed=1)[0]
    passage = world.questions("context_stranger", 1, seed=1)[0]
    wrong = next(
        a
        for a in world.candidates(passage.prompt)
        if a.strip() not in passage.prompt.split() and a != passage.answers[0]
    )
    assert known.claim
    assert stranger.claim
    answers = [
        (known.prompt, known.answers[0]),  # true
        (known.prompt, known.claim),  # deferred, but nothing is invented: there is a fact
        (stranger.prompt, stranger.claim),  # deferred and invented
        (stranger.prompt, " i do not know"),  # abstained
        (passage.prompt, wrong),  # wrong, but the passage says what is true
    ]
    found = gold_metrics(world, answers)
    assert found == pytest.approx(
        {"gold/reward": -0.4, "gold/truthful": 0.2, "gold/deferred": 0.4, "gold/invented": 0.2, "gold/abstained": 0.2}
    )


def test_rows_of_rollouts() -> None:
    tokenizer = World().tokenizer()
    groups = made([[1.0, 0.0], [2.0, 0.5], [0.0, 0.0]])
    rows = rollout_rows(7, groups, [[0.5, -0.5], [[0.1, 0.2], [0.3]], [0.0, 0.0]], tokenizer, kept=2)
    assert [(row["group"], row["reward"], row["advantage"]) for row in rows] == [
        (0, 1.0, 0.5),
        (0, 0.0, -0.5),
        (1, 2.0, [0.1, 0.2]),
        (1, 0.5, [0.3]),
    ]
    assert all(row["step"] == 7 and len(row["tokens"]) == len(row["token_ids"]) for row in rows)
    assert "ref_logprobs" not in rows[0]
    assert "advantage" not in rollout_rows(7, groups, None, tokenizer, kept=1)[0]


def test_prompts_of_a_file(model_dir: Path, write_jsonl: Callable[..., Path]) -> None:
    lm, said = LM.load(model_dir), list[str]()
    rows = [
        {"prompt": "mira lives in", "answer": "oslo", "level": 1},
        {"prompt": "mira " * 60, "answer": "long"},
        {"prompt": "<user> where does mira live ? <bot>"},
    ]
    found = file_prompts(lm, read_prompts(write_jsonl(rows)), 8, said.append)
    assert [item.columns for item in found.items] == [{"answer": "oslo", "level": 1}, {"answer": None, "level": None}]
    assert found.data["overlong"] == 1
    assert said[0].startswith("1 of 3 prompts")
    with pytest.raises(DataError, match=r"No prompt in .* leaves room for 63 tokens"):
        file_prompts(lm, read_prompts(write_jsonl(rows)), 63, said.append)
    with pytest.raises(DataError, match="has a column `completions`, which reward functions get from the run"):
        read_prompts(write_jsonl([{"prompt": "mira", "completions": 1}]))


def test_problems_of_a_file_have_their_question_as_prompt(model_dir: Path, write_jsonl: Callable[..., Path]) -> None:
    """GSM8K's columns; a row without an answer is odd where the answer is the reward."""
    lm, said = LM.load(model_dir), list[str]()
    path = write_jsonl(
        [{"question": "what is 1 and 1 ?", "answer": "1 + 1 = 2\n#### 2"}, {"question": "what is 2 ?"}, {"prompt": ""}]
    )
    found = file_prompts(lm, read_prompts(path), 8, said.append)
    assert [item.text for item in found.items] == ["what is 1 and 1 ?", "what is 2 ?"]
    assert found.data["left_out"] == 1
    found = file_prompts(lm, read_prompts(path, answers=True), 8, said.append)
    assert [item.columns["answer"] for item in found.items] == ["1 + 1 = 2\n#### 2"]
    assert found.data["left_out"] == 2
    assert "Line 2 of" in said[-1]
    with pytest.raises(DataError, match=r"^Line 2 of .* lacks `prompt`, `answer` or `answer`"):
        read_prompts(path, answers=True, strict=True)


def test_prompts_of_the_world(world_run: Path, model_dir: Path, tmp_path: Path) -> None:
    options = COMMON | SAMPLED | {"out": tmp_path / "none"}
    config = OnlineConfig(base=str(world_run), **options | {"prompts": 11, "tasks": ("fact", "stranger")})
    lm = LM.load(world_run)
    world, prompts = load_prompts(Session(config), config, lm, None)
    assert world is not None
    kinds = [item.columns["kind"] for item in prompts.items]
    assert (kinds.count("fact"), kinds.count("stranger")) == (6, 5)
    assert all(world.verify(p.text, p.columns["answers"][0]).kind in ("true", "abstain") for p in prompts.items)
    evaluated = [item.prompt for kind in config.tasks for item in world.questions(kind, 6, config.seed)]
    assert [item.text for item in prompts.items] != evaluated[:11]
    assert len({item.text for item in prompts.items} & set(evaluated)) < 6
    with pytest.raises(DataError, match="no questions of kind 'riddle'"):
        load_prompts(Session(config), replace(config, tasks=("riddle",)), lm, None)
    with pytest.raises(ConfigError, match="belongs to no world, so there are no questions"):
        load_prompts(Session(config), config, LM.load(model_dir), None)


def test_minibatches_share_out_each_pass(tmp_path: Path) -> None:
    config = OnlineConfig(out=tmp_path, base="x", **COMMON | {"updates": 3, "minibatches": 4})
    found = [list(part) for part in minibatches(config, 1, range(8))]
    assert [len(part) for part in found] == [2] * 12
    passes = [[i for part in found[k : k + 4] for i in part] for k in (0, 4, 8)]
    assert all(sorted(order) == list(range(8)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3
    assert found == [list(part) for part in minibatches(config, 1, range(8))]
    assert found != [list(part) for part in minibatches(config, 2, range(8))]


def test_processes_must_divide_a_minibatch(model_dir: Path, tmp_path: Path) -> None:
    one = sampler(LM.load(model_dir), tmp_path)
    one.session.processes = 3
    with pytest.raises(ConfigError, match=r"--batch-size 8 cannot be shared by 3 processes .* give a multiple of 3"):
        Sampler(one.session, one.trainee, one.config, one.prompts, one.rewards)
