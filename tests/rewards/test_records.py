"""The analyses of rewards on the sample runs: their sentences say what their tables hold."""

from dataclasses import replace

import pandas as pd
import pytest

from probe.errors import DataError
from probe.model.lm import LM
from probe.model.rewards import analysable
from probe.plotting.notebook import title_of
from probe.rewards import (
    compare_best_of_n,
    compare_rewards,
    compare_trainings,
    fit_overoptimisation,
    follow_pairs,
    follow_rewards,
    place_policies,
    separate_causes,
)
from probe.rewards.answers import verifier_reward
from probe.rewards.captured_rewards import pair_rewards
from probe.rewards.factorial import factorial
from probe.rewards.frontiers import QUESTIONS, ask, field_of, fit, place, read_evaluations
from probe.rewards.over_trainings import summarise_run
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
    with pytest.raises(DataError, match="dpo-agreeable writes tokens and outputs no reward"):
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
    alike = replace(found, names=("one", "one")).lists()["Before and after"]
    assert list(alike)[1:3] == ["one", "one (aligned)"]
    asked = compare_rewards(base, policy, "<user> where does mira live ? <bot>", kinds=(), n=4)
    assert asked.sentence().startswith("On this prompt aligned differs from base: its own answers have ")
    with pytest.raises(DataError, match="give a prompt"):
        compare_rewards(base, policy, kinds=())


def test_policies_stand_where_they_are_placed_one_by_one(base: LM):
    world = of(base)
    assert world
    found = place_policies(base, policies=(SAMPLES / "rlhf", SAMPLES / "reward-agreeable"), policy=SAMPLES / "rlhf")
    field = field_of(base, world, ask(world), {"gold": verifier_reward(world)})
    row = place(field.answers.score(LM.load(SAMPLES / "rlhf")), field, "gold").row()
    stood = found.tables()["standings"].set_index("run").loc["rlhf"]
    assert stood["excess"] == pytest.approx(row["excess"])
    assert found.sentence().startswith("rlhf lowers the true reward by ")
    assert any(note.startswith("reward-agreeable is not shown: ") for note in found.notes)
    missing = place_policies(base, policies=(SAMPLES / "nobody",))
    assert len(missing.places) == 1
    assert missing.sentence().startswith("No run came from this base model")
    with pytest.raises(DataError, match="Choose at least one kind"):
        place_policies(base, kinds=())


def test_fits_are_of_what_runs_logged_and_of_best_of_n(base: LM):
    among = (SAMPLES / "rlhf", SAMPLES / "sft", SAMPLES / "base")
    found = fit_overoptimisation(base, reward=SAMPLES / "reward-agreeable", among=among)
    assert list(found.points) == ["rlhf", "best of N"]  # the run that the reward model trained
    points = read_evaluations(open_run(SAMPLES / "rlhf"))
    alone = fit(points["d"].iloc[1:], points["gold"].iloc[1:], "rl", float(points["gold"].iloc[0]))
    assert found.fits["rlhf", "gold"].a == alone.a
    assert found.fits["best of N", "gold"].form == "bon"
    assert "best of N: the true reward falls by" in found.sentence()
    assert list(fit_overoptimisation(base, among=among).points) == ["rlhf", "sft"]  # trained from the base
    nothing = fit_overoptimisation(base, among=among, runs=())
    assert nothing.sentence().startswith("No run is chosen that logged its reward and KL")
    assert nothing.figures() == {}
    with pytest.raises(DataError, match="There is no run `rlvr` among those"):
        fit_overoptimisation(base, among=among, runs=("rlvr",))


def test_trainings_end_where_their_last_evaluation_says(base: LM):
    recipe = ("base", "reward-agreeable", "rlhf")
    names = [f"{name}{seed}" for name in recipe for seed in ("", "-seed1", "-seed2")]
    found = compare_trainings(base, among=tuple(SAMPLES / name for name in names))
    ends = [summarise_run(open_run(SAMPLES / name)).set_index("metric")["value"] for name in names[6:]]
    mean = found.means.set_index(["run", "metric"])["value"]["rlhf", "expected_gold"]
    assert mean == pytest.approx(sum(end["expected_gold"] for end in ends) / 3)
    assert "for rlhf." in found.sentence()
    assert found.lists()["Policies"]["seeds"].tolist() == [3]
    with pytest.raises(DataError, match="No policy of this base was trained with several seeds"):
        compare_trainings(base, among=(SAMPLES / "base", SAMPLES / "rlhf"))
