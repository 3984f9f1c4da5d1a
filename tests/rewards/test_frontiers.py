"""Policies on one frontier: what trainings log, sums over answers by hand, and the geometry of the distance."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from probe import stats
from probe.errors import DataError, ModelError
from probe.model import scoring as states
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.model.rewards import reward_lm
from probe.model.scoring import last_states
from probe.rewards import frontiers as reward_frontier
from probe.rewards.answers import AnswerSet, verifier_reward
from probe.rewards.frontiers import (
    KINDS,
    QUESTIONS,
    SEED,
    Field,
    Memory,
    ask,
    field_of,
    model_reward,
    place,
    read_evaluations,
)
from probe.rewards.optimum import condition, optimum
from probe.stats import bootstrap_means
from probe.world import World
from tests.models import ARCHITECTURES, random_lm
from tests.rewards.test_tokens import classifier
from trainers.reference import QUESTIONS as TRAINED_QUESTIONS
from trainers.reference import SEED as TRAINED_SEED
from trainers.reference import world_optimum


def small_field(prompts: int = 6, answers: int = 5, seed: int = 0) -> Field:
    """Made-up log-probabilities and two rewards; the last question has an answer fewer."""
    rng = np.random.default_rng(seed)
    ref = log_softmax(1.5 * rng.normal(size=(prompts, answers)), axis=1) - 0.1
    ref[-1, -1] = -np.inf
    groups = [[f" a{i}" for i in range(answers - (p == prompts - 1))] for p in range(prompts)]
    ids = [[[i] for i in range(len(group))] for group in groups]
    made = AnswerSet([f"q{p}" for p in range(prompts)], groups, [[p] for p in range(prompts)], ids, ref)
    proxy, gold = (np.where(made.mask, rng.normal(size=ref.shape), 0.0) for _ in range(2))
    return Field(made, ["x"] * prompts, {"proxy": proxy, "gold": gold})


def model(world: World, seed: int) -> LM:
    return LM.create(ModelConfig(layers=2, width=32, heads=2, mlp=64, context=64), world.tokenizer(), seed=seed)


def test_a_field_is_what_trainings_measure_themselves_on(world: World) -> None:
    base, policy = model(world, 0), model(world, 1)
    assert (QUESTIONS, SEED) == (TRAINED_QUESTIONS, TRAINED_SEED)
    known = world_optimum(base, world, KINDS, lambda answers: answers.rewards(verifier_reward(world)), None, n=12)
    assert known
    field = field_of(base, world, ask(world, KINDS, n=12), {"gold": verifier_reward(world)})
    found, expected = place(field.answers.score(policy), field, "gold"), known.distance(policy)
    assert found.distance.mean == pytest.approx(expected["kl_to_optimal"], abs=1e-9)
    row = found.row()
    assert row["kl"] == pytest.approx(expected["kl_to_reference"], abs=1e-9)
    assert row["gold"] == pytest.approx(expected["expected_gold"], abs=1e-9)
    assert row["mass"] == pytest.approx(expected["answer_mass"], abs=1e-9)
    assert field.kinds == ["fact"] * 3 + ["opinion_true"] * 3 + ["opinion_false"] * 3 + ["stranger"] * 3


def test_rewards_are_sums_over_answers_and_intervals_are_over_questions() -> None:
    field, rng = small_field(), np.random.default_rng(5)
    policy = np.where(field.answers.mask, rng.normal(size=field.answers.mask.shape), -np.inf)
    row = place(policy, field, "proxy").row()
    rewards, gains = [], []
    for p in range(6):
        mine, ref = (np.exp(x[p]) / np.exp(x[p]).sum() for x in (policy, field.answers.logprobs))
        rewards.append((mine * field.rewards["gold"][p]).sum())
        gains.append(((mine - ref) * field.rewards["gold"][p]).sum())
    assert row["gold"] == pytest.approx(np.mean(rewards))
    found = row["gain_gold"], row["gain_gold_low"], row["gain_gold_high"]
    assert found == pytest.approx(stats.bootstrap_mean(gains), nan_ok=True)
    assert math.isnan(row["gain_gold_low"])  # six questions are too few


def test_the_distance_is_the_kl_spent_beyond_the_frontier_at_equal_reward() -> None:
    field, rng = small_field(), np.random.default_rng(2)
    better = condition(field.answers.logprobs + 1.3 * field.rewards["proxy"] + 0.3 * rng.normal(size=(6, 5)))
    found = place(better, field, "proxy")
    nearest = optimum(field.answers.logprobs, field.rewards["proxy"], found.distance.beta)
    assert nearest.reward.mean() == pytest.approx(found.distance.reward.mean(), abs=1e-9)
    spent = found.distance.reference_kl.mean() - nearest.kl.mean()
    assert found.distance.mean == pytest.approx(spent, abs=1e-9)
    assert spent > 1e-3
    curve = field.frontier("proxy")
    least = np.interp(found.distance.reward.mean(), curve["reward"], curve["kl"])
    assert found.distance.reference_kl.mean() - least == pytest.approx(spent, abs=1e-3)
    at = place(better, field, "proxy", beta=0.7)
    assert at.distance.beta == 0.7
    assert at.distance.mean >= found.distance.mean


def test_the_reference_gains_nothing_and_best_of_n_stays_below_its_bound() -> None:
    field = small_field()
    row = place(field.answers.logprobs, field, "gold").row()
    assert row["kl"] == pytest.approx(0, abs=1e-12)
    assert row["gain_proxy"] == pytest.approx(0, abs=1e-12)
    table = field.best_of_n("proxy", [1, 2, 3, 16])
    assert (table["kl"] <= table["bound"] + 1e-12).all()
    assert table["bound"].iloc[1] == pytest.approx(math.log(2) - 0.5)
    assert table["proxy"].is_monotonic_increasing
    draws = np.random.default_rng(0)
    for p in range(2):  # gold of the best of 3 by proxy, sampled
        known = field.answers.mask[p]
        shares = np.exp(condition(field.answers.logprobs)[p, known])
        drawn = draws.choice(known.sum(), p=shares, size=(200_000, 3))
        best = drawn[np.arange(len(drawn)), field.rewards["proxy"][p, known][drawn].argmax(1)]
        one = Field(field.answers.take(np.arange(6) == p), ["x"], {k: v[p : p + 1] for k, v in field.rewards.items()})
        assert one.best_of_n("proxy", [3]).loc[0, "gold"] == pytest.approx(
            field.rewards["gold"][p, known][best].mean(), abs=0.01
        )


def test_what_runs_logged() -> None:
    metrics = pd.DataFrame(
        {"step": [0, 5, 10], "loss": 1.0, "kl_to_reference": [0, np.nan, 0.25], "expected_reward": [1.0, np.nan, 2.0]}
    )
    found = read_evaluations(metrics)
    assert found["step"].tolist() == [0, 10]
    assert found["d"].tolist() == [0, 0.5]
    assert found["reward"].tolist() == [1.0, 2.0]
    assert found["gold"].isna().all()
    assert len(read_evaluations(metrics[["step", "loss"]])) == 0


def test_what_cannot_be_placed(world: World) -> None:
    with pytest.raises(DataError, match="No kind of question was chosen"):
        ask(world, [])
    with pytest.raises(DataError, match="no questions of kind 'x'"):
        ask(world, ["x"])
    with pytest.raises(DataError, match="No question was asked"):
        field_of(model(world, 0), world, [], {})
    with pytest.raises(DataError, match="no reward `judge` here: ask for one of proxy, gold"):
        small_field().frontier("judge")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reward_model_is_the_same_reward_as_a_scalar_lm(name: str) -> None:
    model = classifier(name)
    prompts, texts = ["mira lives in", "the cat", "mira lives in"], [" oslo", "", " rome ."]
    scores = model_reward(model)(prompts, texts)
    assert scores == pytest.approx(model.score(prompts, texts).tolist(), abs=1e-6)
    assert model_reward(reward_lm(model))(prompts, texts) == pytest.approx(scores, abs=1e-5)
    assert max(scores) - min(scores) > 0.1
    with pytest.raises(ModelError, match="writes tokens and scores no text"):
        model_reward(random_lm(name))(prompts, texts)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_repeated_texts_are_read_once_and_remembered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(name)
    prompts = ["mira lives in", "the cat", "mira lives in", "the cat", "mira", "mira lives in", "where does tom"]
    texts = [" oslo", "", " oslo", " the dog .", " lives <end>", " rome", " works ?"]
    expected = model.score(prompts, texts).tolist()
    lm, memory, read = reward_lm(model), Memory(), []
    monkeypatch.setattr(reward_frontier, "BITE", 6)  # a prompt at a time
    assert model_reward(lm)(prompts, texts) == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(states, "last_states", lambda *args: read.append(sum(map(len, args[2]))) or last_states(*args))
    judge = model_reward(lm, memory)
    first = judge(prompts[:4], texts[:4])
    assert sum(read) == 3
    assert len(memory) == 6  # by texts and by ids
    assert first == pytest.approx(expected[:4], abs=1e-5)
    assert judge(prompts[2:], texts[2:]) == pytest.approx(expected[2:], abs=1e-5)
    assert sum(read) == 6
    assert judge(prompts, texts)[:4] == first
    assert sum(read) == 6


def test_what_no_reward_model_has_a_part_in_is_shared(world: World) -> None:
    base, judge = model(world, 0), verifier_reward(world)

    def proxy(prompts: list[str], completions: list[str]) -> list[float]:
        return [len(text) / 3 + hash_of(prompt) for prompt, text in zip(prompts, completions, strict=True)]

    asked = ask(world, KINDS, n=12)
    whole = field_of(base, world, asked, {"proxy": proxy, "gold": judge})
    part = field_of(base, world, asked, {"gold": judge})
    more = part.with_reward("proxy", proxy)
    assert list(more.rewards) == ["proxy", "gold"]
    for name in more.rewards:
        np.testing.assert_array_equal(more.rewards[name], whole.rewards[name])
    assert more.kinds == whole.kinds
    pd.testing.assert_frame_equal(more.best_of_n("gold", draws=part.draws("gold")), whole.best_of_n("gold"))
    assert list(part.rewards) == ["gold"]
    with pytest.raises(DataError, match="no finite number"):
        part.with_reward("proxy", lambda prompts, _: [float("nan")] * len(prompts))


def hash_of(text: str) -> float:
    return sum(map(ord, text)) % 7 / 7


def test_intervals_of_many_means_are_those_of_each() -> None:
    rng = np.random.default_rng(4)
    rows = [rng.normal(size=40), rng.exponential(size=40) - 5, np.full(40, 0.3), rng.integers(0, 2, 40)]
    for found, row in zip(bootstrap_means(rows, seed=2), rows, strict=True):
        assert tuple(found) == pytest.approx(tuple(stats.bootstrap_mean(row, seed=2)), abs=1e-12, nan_ok=True)
    assert bootstrap_means(rows)[0] != pytest.approx(bootstrap_means(rows, seed=2)[0], abs=1e-6)
    narrow, wide = bootstrap_means(rows, level=0.5)[0], bootstrap_means(rows)[0]
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    (alone,) = bootstrap_means([[2.0]])
    assert alone.value == 2.0
    assert math.isnan(alone.low)
    assert bootstrap_means([]) == []
    with pytest.raises(DataError, match="one value for each item"):
        bootstrap_means([rng.normal(size=30), rng.normal(size=5)])
    with pytest.raises(DataError, match="flat list of finite numbers"):
        bootstrap_means([[1.0, float("nan")]])
