"""Reference evaluation in whole runs: what it logs, captures and adds to the headline, and what a world gives it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probe
from probe import LM
from probe.rewards.answers import preference_rewards, verifier_reward
from probe.rewards.optimum import kl_to_optimal
from probe.rewards.shift import shift_curve, shift_samples
from probe.world import AGREEABLE, World
from tests.trainers.quick import make_config, train
from trainers.reference import DIALOGUES, QUESTIONS, world_optimum


@pytest.fixture(scope="module")
def base(world_run: Path) -> LM:
    return LM.load(world_run)


@pytest.fixture(scope="module")
def world(base: LM) -> World:
    found = probe.world.of(base)
    assert found is not None
    return found


def test_questions_come_in_equal_shares_and_are_always_the_same(base: LM, world: World) -> None:
    first, second = (
        world_optimum(base, world, ("fact", "opinion_false"), lambda a: a.judge(verifier_reward(world)), 0.3)
        for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert first.answers.prompts == second.answers.prompts
    assert len(first.answers.prompts) == QUESTIONS
    assert sum("i know" in p or "i think" in p or "i guess" in p for p in first.answers.prompts) == QUESTIONS / 2
    assert first.rewards.shape == first.answers.logprobs.shape


def test_a_reward_that_does_not_apply_leaves_its_questions_out(base: LM, world: World) -> None:
    def judge(prompts: list[str], completions: list[str]) -> list[float | None]:
        return [None if prompt.startswith("quick") else 1.0 for prompt in prompts]

    found = world_optimum(base, world, ("fact", "sum_quick"), lambda answers: answers.judge(judge), None)
    assert found is not None
    assert len(found.answers.prompts) == QUESTIONS / 2
    assert world_optimum(base, world, ("sum_quick",), lambda answers: answers.judge(judge), None) is None
    assert world_optimum(base, world, (), lambda answers: answers.judge(judge), None) is None


@pytest.fixture(scope="module")
def dpo_run(world_run: Path, tmp_path_factory: pytest.TempPathFactory) -> probe.Run:
    options: dict[str, Any] = {"steps": 6, "batch_size": 16, "pairs": 200, "lr": 3e-3, "warmup": 1, "beta": 0.5}
    options |= {"pairs_from": "candidates"}
    options |= {"eval_every": 3, "capture_every": 3, "evaluate": 4, "log_every": 2, "device": "cpu"}
    return train(make_config("dpo", base=str(world_run), out=tmp_path_factory.mktemp("dpo") / "run", **options))


def test_dpo_logs_its_distance_to_the_optimum(dpo_run: probe.Run, base: LM, world: World) -> None:
    table = dpo_run.metrics().set_index("step")
    assert table["kl_to_optimal"].dropna().index.tolist() == [0, 3, 6]
    assert table.loc[0, "kl_to_reference"] == pytest.approx(0, abs=1e-9)
    assert (table["answer_mass"].dropna() <= 1).all()
    made = world_optimum(base, world, DIALOGUES, lambda a: preference_rewards(a, world, AGREEABLE, a.mask * 1.0), 0.5)
    assert made is not None
    start, trained = made.answers.logprobs, made.answers.score(LM.load(dpo_run.path))
    for step, policy in ((0, start), (6, trained)):
        found = kl_to_optimal(policy, start, made.rewards, 0.5)
        assert table.loc[step, "kl_to_optimal"] == pytest.approx(found.mean, abs=1e-5)
        assert table.loc[step, "kl_to_reference"] == pytest.approx(found.reference_kl.mean(), abs=1e-5)
        assert table.loc[step, "answer_mass"] == pytest.approx(found.mass.mean(), abs=1e-5)
    assert table.loc[6, "kl_to_reference"] > 1e-3


def test_the_expected_rewards_are_sums_over_the_answers(base: LM, world: World) -> None:
    """Of the reward that is optimised and of the gold one: each answer's probability, renormalised, times its score."""
    found = world_optimum(base, world, ("fact", "stranger"), lambda a: preference_rewards(a, world, AGREEABLE), 0.5)
    assert found is not None
    measured, sums = found.distance(base), {"reward": 0.0, "gold": 0.0}
    for p, (prompt, answers) in enumerate(zip(found.answers.prompts, found.answers.answers, strict=True)):
        weights = np.exp(found.answers.logprobs[p, : len(answers)])
        for a, answer in enumerate(answers):
            share = weights[a] / weights.sum() / len(found.answers.prompts)
            sums["reward"] += share * found.rewards[p, a]
            sums["gold"] += share * world.verify(prompt, answer).score
    assert measured["expected_reward"] == pytest.approx(sums["reward"])
    assert measured["expected_gold"] == pytest.approx(sums["gold"])
    assert sums["reward"] != pytest.approx(sums["gold"], abs=0.01)


def test_captures_hold_the_reward_shift(dpo_run: probe.Run) -> None:
    samples = shift_samples(dpo_run)
    assert samples["step"].unique().tolist() == [0, 3, 6]
    judged = samples[samples["kind"].isin(["fact", "opinion_false", "stranger"])]
    assert judged[["proxy", "gold"]].notna().all().all()
    assert samples.loc[samples["kind"] == "sum_quick", "proxy"].isna().all()  # the annotators judge dialogues
    curve = shift_curve(dpo_run).set_index(["measure", "step"])["value"]
    assert curve["kl", 0] == pytest.approx(0, abs=1e-5)
    assert curve["kl", 6] > 1e-4
    np.testing.assert_allclose(samples["implicit"], 0.5 * samples["logratio"], atol=1e-5, rtol=1e-4)


def test_a_method_that_does_not_sample_writes_the_samples_of_its_captures(dpo_run: probe.Run) -> None:
    rollouts, captures = dpo_run.rollouts(), dpo_run.captures()
    assert sorted(set(rollouts["step"])) == captures.steps
    for step in captures.steps:
        tensors = captures.load(step)
        rows = rollouts[rollouts["step"] == step].reset_index()
        assert len(rows) == tensors["shift_ids"].shape[0] * tensors["shift_ids"].shape[1]
        for at, row in rows.iterrows():
            group, sample = divmod(int(at), tensors["shift_ids"].shape[1])
            assert row["prompt"] == captures.prompts[group].text
            assert row["group"] == group
            ids = tensors["shift_ids"][group, sample]
            assert row["token_ids"] == ids[ids >= 0].tolist()
            gap = np.subtract(row["logprobs"], row["ref_logprobs"])
            np.testing.assert_allclose(gap, tensors["shift_logratio"][group, sample][ids >= 0], atol=1e-5, rtol=1e-4)
            np.testing.assert_allclose(row["kl"], tensors["shift_kl"][group, sample][ids >= 0], atol=1e-6, rtol=1e-4)
            assert len(row["tokens"]) == len(row["entropy"]) == len(row["token_ids"])


def test_the_headline_has_reward_and_kl(dpo_run: probe.Run) -> None:
    rows = dpo_run.headline.set_index("metric")
    assert {"gold_reward", "proxy_reward", "kl", "kl_mass"} <= set(rows.index)
    assert rows.loc["kl", "value"] > 1e-5


def test_pairs_of_a_file_and_a_model_without_a_world(
    model_dir: Path, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    pairs = [{"prompt": "mira lives", "chosen": " in oslo", "rejected": " in rome"}] * 8
    options: dict[str, Any] = {"steps": 2, "batch_size": 8, "capture_every": 1, "eval_every": 1, "device": "cpu"}
    run = train(make_config("dpo", base=str(model_dir), out=tmp_path / "run", data=str(write_jsonl(pairs)), **options))
    assert "kl_to_optimal" not in run.metrics()
    tensors = run.captures().load(2)
    assert "shift_kl" in tensors
    assert "shift_gold" not in tensors
    assert "shift_proxy" not in tensors
    assert run.headline.empty
