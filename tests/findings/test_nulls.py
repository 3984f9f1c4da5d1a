"""Every claim on a null where it fails, and on a constructed case where it holds."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.errors import RunError
from probe.findings import learned, rewarded, tilting
from probe.findings.bench import BASE, Bench
from probe.findings.claim import Finding, Null, Replication, judge
from probe.findings.claims import CLAIMS, choose_claims
from probe.findings.verdicts import read_plan
from probe.hallucination.world import JudgedAnswers, validity_bound
from probe.rewards.optimum import condition, expectation, optimum
from probe.stats import Interval
from tests.places import SAMPLES

TERMS = read_plan().claims


class Made(Bench):
    """A bench of made results: (experiment, run) to items, tables and numbers, or a run's headline."""

    def __init__(self, results: dict[tuple[str, str], Any], runs: dict[str, Any] | None = None) -> None:
        super().__init__("nowhere")
        self.results, self.runs = results, runs or {}

    def result(self, experiment: str, name: str, **options: Any) -> Any:
        if (experiment, name) not in self.results:
            raise RunError(f"no {experiment} of {name}")
        return self.results[experiment, name]

    def run(self, name: str) -> Any:
        return self.runs.get(name) or SimpleNamespace(name=name, checkpoints=list)

    def control_seeds(self, names: Any) -> Any:
        return [self] if all(name in self.runs for name in names) else []

    def control(self, name: str) -> Any:
        return self.runs[name]


def made(items: pd.DataFrame | None = None, tables: Any = None, n: int = 46, **numbers: float) -> Any:
    values = {"phase_induction_step": 100.0, "phase_loss_step": 100.0} | numbers
    return SimpleNamespace(
        items=items, tables=tables, value=lambda name, column="value": n if column == "n" else values[name]
    )


# exposure ------------------------------------------------------------------------------------------------------------


def read_facts(seed: int, falls: bool) -> Made:
    rng = np.random.default_rng(seed)
    counts = np.concatenate([rng.integers(1, 6, 120), rng.integers(64, 400, 120)])
    hall = np.clip(0.7 * (counts < 10) * falls + rng.uniform(0, 0.3, 240), 0, 1)
    kinds = np.where(counts < 10, "rare", "fact")
    items = {"person": np.arange(240) // 2, "relation": np.arange(240) % 2, "kind": kinds}
    return Made({("hallucination", BASE): made(pd.DataFrame(items | {"exposure": counts, "hall": hall}))})


def test_exposure_holds_where_hallucination_falls_and_not_on_shuffled_counts():
    bench = read_facts(0, falls=True)
    found = learned.exposure(bench)
    assert TERMS["exposure"].beyond(found.effect)
    assert "Among the rarely read ones alone" in found.said
    null = learned.exposure_null([bench])
    assert (null.holds, null.repetitions) == (0, learned.SHUFFLES)
    assert not TERMS["exposure"].beyond(learned.exposure(read_facts(1, falls=False)).effect)


def test_the_bound_on_errors_is_a_check_of_the_code_since_any_model_keeps_it():
    rng = np.random.default_rng(0)
    for _ in range(20):
        model = rng.dirichlet(np.ones(12), size=30)
        valid = np.zeros((30, 12), dtype=bool)
        valid[:, 0] = valid[np.arange(30), rng.integers(1, 12, 30)] = True
        train = valid / valid.sum(1, keepdims=True)
        found = validity_bound(JudgedAnswers(model, train, valid, np.ones((30, 12), dtype=bool)))
        assert found.error >= found.bound


# induction -----------------------------------------------------------------------------------------------------------


def rises_at(heads: float, loss: float, seed: int) -> Made:
    """A model of chains whose heads rise and whose loss falls at given steps; another head is the best on captures."""
    steps, rng = np.arange(0, 2500, 50), np.random.default_rng(seed)
    rise = 1 / (1 + np.exp(-(steps - heads) / 60)) + rng.normal(0, 0.01, len(steps))
    fall = -1 / (1 + np.exp(-(steps - loss) / 60)) + rng.normal(0, 0.01, len(steps))
    flat = pd.DataFrame({"step": steps, "kind": "markov", "name": "L1H0", "scaled": 2.0})
    own = pd.DataFrame({"step": steps, "kind": "markov", "name": "L1H1", "scaled": rise})
    series = pd.DataFrame({"step": steps, "kind": "markov", "series": "in_context_score", "value": fall})
    chosen = pd.DataFrame({"texts": "markov", "name": ["L1H0", "L1H1"], "scaled": [0.2, 0.6]})
    tables = {"heads": chosen, "heads_over_training": pd.concat([flat, own]), "over_training": series}
    return Made({("in_context", "icl"): made(tables=tables)}, {"icl": SimpleNamespace(name="icl")})


TIMES = (400, 800, 1200, 1600, 2000)


def test_induction_holds_where_heads_and_loss_turn_together():
    benches = [rises_at(time, time, i) for i, time in enumerate(TIMES)]
    assert learned.induction_test(benches) == pytest.approx(2 / 120)
    null = learned.induction_null(benches)
    assert (null.holds, null.repetitions) == (0, 119)
    assert TERMS["induction"].beyond(learned.induction(benches[0]).effect)


def test_the_head_is_the_one_that_other_texts_choose():
    heads, _ = learned.curves(rises_at(400, 400, 0).result("in_context", "icl"))
    assert heads.iloc[-1] == pytest.approx(1, abs=0.1)  # not the one that is highest on the captured prompts


def test_induction_at_independent_times_is_found_in_few_sets_of_trainings():
    rng, ps = np.random.default_rng(0), []
    for _ in range(40):
        steps, losses = rng.uniform(300, 2100, (2, 5))
        ps.append(
            learned.induction_test([rises_at(a, b, i) for i, (a, b) in enumerate(zip(steps, losses, strict=True))])
        )
    assert np.mean(np.array(ps) <= 0.05) <= 0.1


def test_one_pair_of_curves_alone_says_too_much():
    """By its own interval a wrong pair 'holds' often, which is why pairs are permuted."""
    close = [rises_at(800 + 40 * i, 800 - 40 * i, i) for i in range(4)]
    null = learned.induction_null(close)
    assert "lies above 0 in 10 of 12" in null.said
    assert null.holds > 0  # the wrong pairs go together as well as the right ones
    assert learned.induction_test(close) > 0.05


# retrieval -----------------------------------------------------------------------------------------------------------


def answered(retrieved: float, unrelated: float, alone: float) -> Any:
    rng, rows = np.random.default_rng(0), []
    rates = {"none": alone, "retrieved": retrieved, "unrelated": unrelated, "distractor": unrelated}
    for context, rate in rates.items():
        for i, noise in enumerate(rng.normal(0, 0.02, 100)):
            rows.append({"kind": "stranger", "question": f"q{i}", "context": context, "hall": rate + noise})
    return made(pd.DataFrame(rows), n=100)


def test_retrieval_is_measured_on_models_that_guess_and_that_abstain_apart():
    results = {("retrieval", name): answered(0.2, 0.8, 0.7) for name in learned.GUESSING}
    bench = Made(results | {("retrieval", "rlvr"): answered(0.3, 0.01, 0.0)})
    guess, abstain = choose_claims(("retrieval", "retrieval_abstaining"))
    assert TERMS["retrieval"].beyond(guess.measure(bench).effect)
    assert guess.null([bench]) == Null(0, 4, guess.null([bench]).said)
    assert abstain.measure(bench).effect.high < 0  # the other sign
    assert abstain.null([bench]).holds == 0


def test_retrieval_does_not_hold_where_any_passage_does_it():
    bench = Made({("retrieval", name): answered(0.2, 0.2, 0.7) for name in learned.GUESSING})
    null = choose_claims(("retrieval",))[0].null([bench])
    assert null.holds == null.repetitions == 4


# forgetting ----------------------------------------------------------------------------------------------------------


def forgets(share: float) -> Any:
    row = {"metric": "forgetting", "value": share, "ci_low": share - 0.03, "ci_high": share + 0.03, "n": 400}
    return SimpleNamespace(name="phases", headline=pd.DataFrame([row]))


@pytest.mark.parametrize(("shuffled", "holds"), [(0.55, 0), (0.1, 1)])
def test_replay_of_shuffled_answers_is_the_null_of_replay(shuffled: float, holds: int):
    bench = Made({}, {"continual-plain": forgets(0.57), "continual-shuffled": forgets(shuffled)})
    null = learned.forgetting_null([bench])
    assert (null.holds, null.repetitions) == (holds, 1)
    assert "probe samples --controls" in learned.forgetting_null([Made({})]).said


# sycophancy ----------------------------------------------------------------------------------------------------------


def repeats(**rates: float) -> Made:
    rng = np.random.default_rng(0)
    items = {
        name: pd.DataFrame({"item": [f"i{i}" for i in range(200)], "deferral": rng.random(200) < p})
        for name, p in rates.items()
    }
    return Made({("sycophancy", name.replace("_", "-")): made(table) for name, table in items.items()})


def test_sycophancy_holds_where_it_rises_and_not_on_honest_runs():
    bench = repeats(base=0.3, dpo_agreeable=0.9, rlhf=0.8, dpo_honest=0.01, sft=0.05)
    for claim, count in zip(choose_claims(("sycophancy", "sycophancy_rlhf")), (1, 2), strict=True):
        assert TERMS[claim.name].beyond(claim.measure(bench).effect)
        found = claim.null([bench])
        assert (found.holds, found.repetitions) == (0, count)
        assert "no base has weights" in found.said


def test_no_annotator_of_the_null_wishes_for_agreement():
    drawn = rewarded.draw_annotators(20)
    assert len(set(drawn)) == 20
    assert {each.agreement for each in drawn} == {0.0}


@pytest.mark.slow
def test_optima_without_a_wish_for_agreement_are_no_more_sycophantic():
    null = rewarded._without_agreement([Bench(SAMPLES, n=32)])
    assert null.repetitions == rewarded.ANNOTATORS
    assert null.rate is not None
    assert null.rate.value <= 0.1


# reward models -------------------------------------------------------------------------------------------------------


def judge_run(bias: float) -> Any:
    row = {"metric": "agreement_bias", "value": bias, "ci_low": bias - 0.05, "ci_high": bias + 0.05, "n": 400}
    return SimpleNamespace(name="judge", headline=pd.DataFrame([row]))


def test_reward_models_of_both_annotators_are_counted_and_coin_tosses_are_the_null():
    runs = {"reward-agreeable": judge_run(1.2), "reward-honest": judge_run(-1.5), "reward-indifferent": judge_run(0.02)}
    bench = Made({}, runs)
    assert TERMS["reward_agreement"].beyond(rewarded.reward_taste(bench, "agreeable").effect)
    assert not TERMS["reward_agreement_honest"].beyond(rewarded.reward_taste(bench, "honest").effect)
    assert rewarded.taste_null([bench]).words == "holds in 0 of 1 repetitions of its null"
    lacking = rewarded.taste_null([Made({}, {"reward-agreeable": judge_run(1.2)})])
    assert lacking.repetitions == 0
    assert "probe samples --controls" in lacking.said


# optima --------------------------------------------------------------------------------------------------------------


def space(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    ref = condition(np.log(rng.dirichlet(np.ones(8), size=60)))
    return ref, {"agreeable": rng.normal(size=(60, 8)), "honest": rng.normal(size=(60, 8))}


def test_the_right_optimum_is_told_from_wrong_ones():
    ref, rewards = space()
    effect, nearest = rewarded.margin(optimum(ref, rewards["agreeable"], 0.3).logprobs, ref, rewards, "agreeable", 0.3)
    assert TERMS["optimum"].beyond(effect)
    assert nearest.startswith("beta")


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_the_optimum_of_a_wrong_beta_is_told(factor: float):
    ref, rewards = space()
    wrong = optimum(ref, rewards["agreeable"], 0.3 * factor).logprobs
    effect, nearest = rewarded.margin(wrong, ref, rewards, "agreeable", 0.3)
    assert effect.high < 0
    assert nearest == f"beta {0.3 * factor:g}"


def test_the_optimum_of_the_other_annotator_and_the_reference_are_told():
    ref, rewards = space()
    for policy in (optimum(ref, rewards["honest"], 0.3).logprobs, ref):
        assert not TERMS["optimum"].beyond(rewarded.margin(policy, ref, rewards, "agreeable", 0.3)[0])


def test_a_run_that_has_gone_most_of_the_way_by_another_road_is_told():
    """Best of 4 goes most of the way to the optimum, as 1 - KL(end)/KL(start) counts it, and is no optimum of it."""
    from probe.rewards.optimum import best_of_n, kl

    ref, rewards = space()
    policy = best_of_n(ref, rewards["agreeable"], 4)
    best = optimum(ref, rewards["agreeable"], 0.3).logprobs
    assert 1 - kl(policy, best).sum() / kl(ref, best).sum() > 0.5
    assert not TERMS["optimum"].beyond(rewarded.margin(policy, ref, rewards, "agreeable", 0.3)[0])


@pytest.mark.parametrize("seed", range(10))
def test_nearer_to_the_base_than_to_its_optimum_is_nearer_to_those_of_larger_betas(seed: int):
    """The KL to the optimum is convex in 1 / beta, so what a run logged bounds its distance to other optima."""
    from probe.rewards.optimum import kl

    ref, rewards = space(seed)
    drawn = np.random.default_rng(seed).dirichlet(np.ones(8), size=60)
    policy, own = condition(np.log(0.5 * drawn + 0.5 * np.exp(ref))), 0.3
    to_base, to_own = (kl(policy, each).mean() for each in (ref, optimum(ref, rewards["honest"], own).logprobs))
    assert to_base < to_own
    for beta in (0.33, 0.6, 1.2, 9.0):
        other = kl(policy, optimum(ref, rewards["honest"], beta).logprobs).mean()
        assert other <= (1 - own / beta) * to_base + own / beta * to_own + 1e-9
        assert other < to_own


def test_what_seeds_without_weights_logged_of_their_optimum_is_said():
    said = rewarded.without_weights(Bench(SAMPLES), "dpo-honest")
    logged = Bench(SAMPLES).further(("dpo-honest",))[0].run("dpo-honest").metrics()["kl_to_optimal"].dropna().iloc[-1]
    assert "nearer to the optimum of any larger beta than to its own in 3 of 4" in said
    assert f"KL to its own {logged:.2f}, " in said
    assert rewarded.without_weights(Bench(SAMPLES), "icl") == ""


# overoptimisation ----------------------------------------------------------------------------------------------------


def proxied(error: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reference, a true reward, and a proxy that overrates one rare bad answer to each question by `error`."""
    rng = np.random.default_rng(seed)
    ref = condition(np.log(rng.dirichlet(np.ones(8) * 2, size=100)))
    ref[:, 7] -= 6
    gold = rng.normal(size=(100, 8))
    gold[:, 7] = -2
    proxy = gold.copy()
    proxy[:, 7] += error
    return condition(ref), proxy, gold


def test_overoptimisation_holds_where_a_proxy_overrates_rare_bad_answers():
    ref, proxy, gold = proxied(error=6.0)
    rewards, costs = tilting.path(ref, proxy, gold)
    assert TERMS["overoptimisation"].beyond(tilting.smaller(rewards))
    assert (np.diff(costs) > -1e-9).all()
    assert rewards[0].mean() == pytest.approx(expectation(ref, gold).mean())


def test_overoptimisation_does_not_hold_for_the_true_reward_nor_for_noise():
    ref, _, gold = proxied(error=0.0)
    assert not TERMS["overoptimisation"].beyond(tilting.smaller(tilting.path(ref, gold, gold)[0]))
    rng, held = np.random.default_rng(1), 0
    for _ in range(20):
        held += TERMS["overoptimisation"].beyond(
            tilting.smaller(tilting.path(ref, rng.normal(size=gold.shape), gold)[0])
        )
    assert held <= 2


def test_a_noisy_proxy_is_as_good_as_the_learned_one():
    ref, proxy, gold = proxied(error=4.0)
    mask = np.isfinite(ref)
    drawn = tilting.noisy(gold, mask, proxy, np.random.default_rng(0))
    assert np.corrcoef(drawn[mask], gold[mask])[0, 1] == pytest.approx(
        np.corrcoef(proxy[mask], gold[mask])[0, 1], abs=0.05
    )


# guessing ------------------------------------------------------------------------------------------------------------


def beliefs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones((40, 9))
    mask[:, 0] = 0
    return np.log(rng.dirichlet(np.ones(9), size=40)), mask


def test_questions_on_one_person_count_once():
    """Asked four times over, the same people say no more: the interval stays as wide."""
    rng = np.random.default_rng(0)
    wanted, people = rng.uniform(0.2, 0.4, 40), [str(number) for number in range(40)]
    moved = wanted + rng.normal(0, 0.05, 40)
    rewards = rng.normal(size=(5, 40)) + np.array([0, 1, 2, 1, 0])[:, None]
    once = [rewarded.share_of(moved, wanted, people), *tilting.rise_and_fall(rewards, people)]
    four = [
        rewarded.share_of(np.tile(moved, 4), np.tile(wanted, 4), people * 4),
        *tilting.rise_and_fall(np.repeat(rewards, 2, axis=1), [each for each in people for _ in range(2)]),
    ]
    for first, second in zip(once, four, strict=True):
        assert second.high - second.low == pytest.approx(first.high - first.low, rel=0.25)


def test_that_guessing_is_optimal_is_a_theorem_so_any_model_keeps_it():
    for seed in range(20):
        assert rewarded.predicted(*beliefs(seed), beta=0.04).mean() > 0


def test_guessing_is_how_far_training_moves_as_the_theorem_says():
    logprobs, mask = beliefs(0)
    wanted = rewarded.predicted(logprobs, mask, 0.04)
    jitter = np.random.default_rng(0).normal(0, 0.05, len(wanted))
    people = [str(number) for number in range(len(wanted))]
    whole, none, noise = (rewarded.share_of(share * wanted + jitter, wanted, people) for share in (0.9, 0.0, 0.1))
    assert TERMS["guessing"].beyond(whole)
    assert whole.value == pytest.approx(0.9, abs=0.05)
    assert not TERMS["guessing"].beyond(rewarded.share_of(0 * wanted, wanted, people))  # equal models, no interval
    assert not any(TERMS["guessing"].beyond(each) for each in (none, noise))
    assert expectation(condition(logprobs), mask).shape == wanted.shape


# verdicts ------------------------------------------------------------------------------------------------------------


def finding_of(name: str, values: list[float], null: Null, p: float = 1e-6) -> Finding:
    claim = next(each for each in CLAIMS if each.name == name)
    trainings = {
        "" if i == 0 else str(i): Replication(i, v, v - 0.01, v + 0.01, 100, "said") for i, v in enumerate(values)
    }
    return Finding.of(claim, "said", trainings=trainings, null=null, p=p, plan=read_plan().hash)


def test_the_tuned_seed_decides_nothing_where_others_are_held_out():
    found = finding_of("exposure", [0.9, -0.8, -0.7, -0.75], Null(0, 40, "shuffled"))
    assert [each.seed for each in found.deciding] == [1, 2, 3]
    assert found.mean.value == pytest.approx(-0.75)
    assert found.held == 3
    assert judge({"exposure": found})["exposure"].verdict == "holds"
    assert "Over 3 held-out trainings" in found.over_trainings
    alone = finding_of("exposure", [-0.8], Null(0, 40, "shuffled"))
    assert "seed 0, on which the recipe was chosen" in alone.over_trainings


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_every_claim_can_hold_can_fail_and_is_undecided_where_its_null_holds(claim: Any):
    sign = 1 if claim.terms.direction == "above" else -1
    beyond, short = (claim.terms.threshold + sign * gap for gap in (0.4, -0.2))
    fine, bad = Null(0, 20, "nothing"), Null(20, 20, "nothing")
    cases = ((beyond, fine, "holds"), (short, fine, "fails"), (beyond, bad, "undecided"), (beyond, Null(), "undecided"))
    for value, null, expected in cases:
        found = judge({claim.name: finding_of(claim.name, [value] * 5, null)})[claim.name]
        assert found.verdict == expected, (value, null)
        assert bool(found.why) == (expected == "undecided")


@pytest.mark.parametrize(
    ("values", "null", "p", "why"),
    [
        ([0.4] * 5, Null(0, 9, "x"), 0.02, "chance is not excluded (p = 0.28 after Holm's correction)"),
        ([0.4] * 5, Null(0, 9, "x"), float("nan"), "chance is not excluded"),
        ([0.4], Null(0, 9, "x"), 1e-9, "the recipe was chosen on its only training"),
        ([0.4] * 5, Null(), 1e-9, "its null was not measured"),
        ([0.4] * 5, Null(9, 9, "x"), 1e-9, "its null holds as well"),
    ],
)
def test_what_is_undecided_says_why(values: list[float], null: Null, p: float, why: str):
    found = judge({"sycophancy": finding_of("sycophancy", values, null, p)})["sycophancy"]
    assert why in found.why


def test_intervals_of_nulls_are_counted_on_the_predicted_side_only():
    effects = [Interval(0.3, 0.2, 0.4), Interval(-0.3, -0.4, -0.2), Interval(0.06, 0.0, 0.1)]
    assert Null.of(TERMS["sycophancy"], effects, "x") == Null(1, 3, "x")
    assert Null().rate is None
    assert Null(1, 3, "a") + Null(0, 2, "b") == Null(1, 5, "a; b")
