"""The analyses of rewards on the sample runs: their sentences say what their tables hold."""

import pandas as pd
import pytest

from probe.errors import DataError
from probe.model.lm import LM
from probe.model.rewards import analysable
from probe.plotting.notebook import title_of
from probe.rewards import compare_best_of_n, compare_rewards, follow_pairs, follow_rewards, separate_causes
from probe.rewards.captured_pairs import pair_rewards
from probe.rewards.factorial import factorial
from probe.rewards.frontiers import QUESTIONS
from probe.rewards.shift import shift_curve
from probe.runs import open_run
from probe.world import of
from tests.places import SAMPLES


@pytest.fixture(scope="module")
def base() -> LM:
    return LM.load(SAMPLES / "base")


def test_best_of_n_is_further_from_its_bound_than_from_the_frontier(base: LM):
    found = compare_best_of_n(base, reward=SAMPLES / "reward-agreeable")
    points = found.tables()["best-of-n"]
    assert (points["bound"] >= points["kl"] - 1e-9).all()
    last = points.iloc[-1]
    assert f"says {last['bound']:.2f} nats and the exact KL is {last['kl']:.2f}" in found.sentence()
    true = compare_best_of_n(base, reward=SAMPLES / "reward-agreeable", by="gold")
    pd.testing.assert_frame_equal(true.points[["n", "kl", "gold"]], compare_best_of_n(base).points[["n", "kl", "gold"]])
    with pytest.raises(DataError, match="There is no reward `proxy` here"):
        compare_best_of_n(base, by="proxy")
    with pytest.raises(DataError, match="dpo-agreeable writes tokens and reads no reward"):
        compare_best_of_n(base, reward=SAMPLES / "dpo-agreeable")


def test_causes_stand_beside_the_trainings_of_the_base(base: LM):
    world = of(base)
    assert world
    found = separate_causes(base, n=8, trainings=(SAMPLES / "dpo-agreeable", SAMPLES / "sft"))
    assert factorial(base, world, n=8, name="model").sentence in found.sentence()
    cells = found.tables()["one-cause"]
    assert set(cells["run"].dropna()) == {"dpo-agreeable (5 seeds)"} or set(cells["run"].dropna()) == {"dpo-agreeable"}
    assert "of 1 for repeating a false claim" in found.sentence()


def test_what_was_captured_over_training_is_said_at_both_ends():
    pairs = follow_pairs(analysable(SAMPLES / "reward-agreeable"))
    table = pair_rewards(open_run(SAMPLES / "reward-agreeable"))
    assert table is not None
    counts = table.assign(right=table["margin"] > 0).groupby("step")["right"].sum()
    assert (
        f"in {counts.iloc[-1]} of {table['pair'].nunique()} captured pairs at step {counts.index[-1]}"
        in pairs.sentence()
    )
    policy = LM.load(SAMPLES / "rlhf")
    found, curve = follow_rewards(policy), shift_curve(open_run(SAMPLES / "rlhf"))
    pd.testing.assert_frame_equal(found.tables()["shift-curve"], curve)
    assert found.sentence().count(" from ") == len(found.measures) == 4
    with pytest.raises(DataError, match="rlhf captured no rewards of pairs"):
        follow_pairs(policy)
    with pytest.raises(DataError, match="base captured no reward shift"):
        follow_rewards(LM.load(SAMPLES / "base"))


def test_answers_before_and_after_are_said_as_their_table_has_them(base: LM):
    policy = LM.load(SAMPLES / "rlhf")
    found = compare_rewards(base, policy, reward=SAMPLES / "reward-agreeable", kinds=("fact", "stranger"))
    assert found.beta == open_run(SAMPLES / "rlhf").config["beta"]
    rows = found.lists()["Before and after"].set_index("name in files")
    assert rows.loc["proxy", "aligned \u2212 base"].lstrip("+\u2212") in found.sentence()
    assert found.samples["prompt"].nunique() == QUESTIONS
    facts = found.lists("fact")["Before and after"]
    assert not facts.equals(found.lists()["Before and after"])
    assert f"{2 * QUESTIONS} answers to {QUESTIONS // 2} prompts" in title_of(found.figures("fact")["distributions"])
    with pytest.raises(DataError, match="No prompt is of the kind 'pressure'"):
        found.sentence("pressure")
    asked = compare_rewards(base, policy, "<user> where does mira live ? <bot>", kinds=(), n=4)
    assert asked.sentence().startswith("On this prompt aligned differs from base: its own answers have ")
    with pytest.raises(DataError, match="give a prompt"):
        compare_rewards(base, policy, kinds=())
