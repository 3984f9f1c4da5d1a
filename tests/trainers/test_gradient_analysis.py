"""The analysis of a step's gradient: whose answers, whose rewards, and that its numbers are those of `side_by_side`."""

import pandas as pd
import pytest

from probe.errors import DataError
from probe.model.lm import LM
from probe.model.rewards import analysable
from probe.world import of
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES
from trainers.gradient import side_by_side
from trainers.gradient_analysis import TYPED, VERIFIER, compare_gradients, sources_of_rewards

PROMPT = "<user> i think helen lives in lyon . where does helen live ? <bot>"


@pytest.fixture(scope="module")
def pair() -> tuple[LM, LM]:
    return LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")


def test_without_more_the_models_answer_and_the_verifier_rewards(pair: tuple[LM, LM]):
    base, aligned = pair
    found, world = compare_gradients(base, aligned, PROMPT), of(base)
    assert world is not None
    own = [lm.generate([PROMPT], max_new_tokens=12, temperature=0.0).text[0].strip() for lm in (aligned, base)]
    assert list(found.answers[:2]) == own
    rewards = [world.verify(PROMPT, f" {answer}").score for answer in found.answers]
    expected = side_by_side(base, PROMPT, [f" {answer}" for answer in found.answers], rewards, base)
    pd.testing.assert_frame_equal(found.table(), expected.table())
    assert found.lists()["Answers"]["reward"].tolist() == rewards
    assert found.sentence().startswith(f"In a step of base on {len(rewards)} answers pretrain, sft and rsft only push")


def test_who_rewards_and_who_steps_can_be_chosen(pair: tuple[LM, LM]):
    typed = compare_gradients(*pair, PROMPT, answers="oslo\nrome\noslo", rewards="0.5, 2", policy="aligned")
    assert typed.answers == ("oslo", "rome")
    assert typed.lists()["Answers"]["reward"].tolist() == [0.5, 2.0]
    judged = compare_gradients(*pair, PROMPT, answers=["lyon", "rome"], reward=str(SAMPLES / "reward-honest"))
    judge = analysable(SAMPLES / "reward-honest", "reward")
    assert judge.readout == "reward"
    first, second = judged.lists()["Answers"]["reward"]
    assert first < second  # helen lives in rome
    assert list(typed.figures("own scale")) == ["gradient"]
    assert {VERIFIER, TYPED} <= set(sources_of_rewards(*pair))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"answers": "oslo"}, "Give at least two answers"),
        ({"answers": "oslo\nrome", "rewards": "1"}, "give a number for each"),
        ({"answers": "oslo\nrome", "rewards": "1 one"}, "give a number for each"),
        ({"answers": "oslo\nrome", "rewards": "1 1"}, "two of them different ones"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(pair: tuple[LM, LM], options: dict[str, str], expected: str):
    with pytest.raises(DataError, match=expected):
        compare_gradients(*pair, PROMPT, **options)


def test_without_a_world_the_first_answer_is_the_good_one():
    base, aligned = (random_lm("llama", byte_tokenizer(), seed=seed) for seed in (0, 1))
    found = compare_gradients(base, aligned, "where?", answers="oslo\nrome")
    assert found.lists()["Answers"]["reward"].tolist() == [1.0, 0.0]
    with pytest.raises(DataError, match="no world that verifies"):
        compare_gradients(base, aligned, "where?", answers="oslo\nrome", reward=VERIFIER)
