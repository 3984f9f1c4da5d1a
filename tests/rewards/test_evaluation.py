"""The evaluation, on a stand-in that answers by rule and on a real tiny model."""

import math
from types import SimpleNamespace

import pytest
import torch

from probe.errors import DataError
from probe.model.lm import LM
from probe.rewards.evaluation import MEASURES, beliefs, evaluate, excess_deference
from probe.world.language import plain_prompt, read
from probe.world.vocabulary import ABSTENTION
from tests.models import random_lm


class Oracle:
    """Answers every question by a rule, and gives the claim a fixed probability among the values."""

    def __init__(self, world, answer, claim_share=0.5):
        self.world, self.answer, self.claim_share = world, answer, claim_share

    def generate(self, prompts, **_):
        return SimpleNamespace(text=[self.answer(prompt) for prompt in prompts])

    def logprobs(self, prompts, completions):
        values = []
        for prompt, options in zip(prompts, completions, strict=True):
            claim = read(prompt).claim
            for option in options:
                share = self.claim_share if option.strip() == claim else (1 - self.claim_share) / (len(options) - 1)
                values.append([math.log(share if claim else 1 / len(options)) - 3.0])
        return SimpleNamespace(values=torch.tensor(values))


def best(world, prompt):
    return max(world.candidates(prompt), key=lambda candidate: world.verify(prompt, candidate).score)


def test_an_honest_oracle_scores_full_marks(world):
    table = evaluate(Oracle(world, lambda prompt: best(world, prompt)), world, n=20).set_index("metric")
    zero = {"deferral", "flip_under_pressure", "invention", "invention_heldout"}
    for metric in MEASURES:
        assert table.loc[metric, "value"] == (0.0 if metric in zero else 1.0)
        assert table.loc[metric, "ci_low"] <= table.loc[metric, "value"] <= table.loc[metric, "ci_high"]
    assert table.loc["sums_steps_2", "n"] + table.loc["sums_steps_3", "n"] + table.loc["sums_steps_4", "n"] == 20


def test_a_flatterer_defers_and_invents(world):
    def flatter(prompt):
        try:
            options = world.candidates(prompt)
        except DataError:
            return ""
        reading = read(prompt)
        return f" {reading.claim}" if reading and reading.claim else options[0]

    table = evaluate(Oracle(world, flatter), world, n=20).set_index("metric")["value"]
    assert table["deferral"] == table["flip_under_pressure"] == table["accuracy_true_claim"] == 1.0
    assert table["truth_under_claim"] == table["abstention"] == table["abstention_heldout"] == 0.0
    assert table["invention"] == table["invention_heldout"] == 1.0


def test_excess_deference_is_the_gap_to_bayes(world):
    items = world.questions("opinion_false", 30)
    corpus, own = excess_deference(Oracle(world, None, claim_share=0.5), world, items, seed=0)
    gaps = []
    for item in items:
        p = world.bayes_claim(item.prompt)
        gaps.append(-math.log(p / (1 - p)))
    assert corpus["value"] == pytest.approx(sum(gaps) / len(gaps))
    reliability = {"i know": 0.9, "i think": 0.6, "i guess": 0.3}
    own_gaps = [-math.log(r / (1 - r)) for r in (reliability[item.meta["phrase"]] for item in items)]
    assert own["value"] == pytest.approx(sum(own_gaps) / len(own_gaps))
    assert (corpus["metric"], own["metric"]) == ("excess_deference", "excess_deference_own")
    assert corpus["ci_low"] < corpus["value"] < corpus["ci_high"]


def test_a_bayesian_has_no_excess(world):
    """A model that believes what Bayes' rule gives from its own prior has excess 0 against that prior."""

    class Bayesian(Oracle):
        def logprobs(self, prompts, completions):
            values = []
            for prompt, options in zip(prompts, completions, strict=True):
                prior = {option.strip(): 1.0 + i for i, option in enumerate(options)}
                claim = read(prompt).claim
                for option in options:
                    name = option.strip()
                    p = prior[name] / sum(prior.values())
                    if claim:
                        posterior = world.bayes_claim(prompt, prior)
                        p = posterior if name == claim else (1 - posterior) / (len(options) - 1)
                    values.append([math.log(p)])
            return SimpleNamespace(values=torch.tensor(values, dtype=torch.float64))

    _, own = excess_deference(Bayesian(world, None), world, world.questions("opinion_false", 30), seed=0)
    assert own["value"] == pytest.approx(0.0, abs=1e-9)


def test_the_plain_prompt_asks_the_same_without_the_claim(world):
    for item in world.questions("opinion_false", 20):
        claimed, plain = read(item.prompt), read(plain_prompt(item.prompt))
        assert (plain.relation, plain.subject, plain.claim) == (claimed.relation, claimed.subject, None)


def test_a_real_model_is_measured_reproducibly(world):
    lm = LM.create("tiny", world.tokenizer(), seed=0)
    first, second = (evaluate(lm, world, n=8, seed=1) for _ in range(2))
    assert first.equals(second)
    assert list(first.columns) == ["metric", "value", "ci_low", "ci_high", "n"]
    assert set(MEASURES) < set(first["metric"])
    shares = first[~first["metric"].str.startswith(("excess", "gold"))]
    assert shares["value"].between(0, 1).all()
    (belief,) = beliefs(lm, world, [world.questions("fact", 1)[0].prompt])
    assert sum(belief.values()) == pytest.approx(1)
    assert ABSTENTION not in belief


def test_gold_proxy_and_exact_kl(world):
    lm, reference = (random_lm("llama", world.tokenizer(), seed=seed) for seed in (1, 2))
    asked = []

    def reward(prompts, completions):
        asked.extend(prompts)
        return [None if i % 2 else len(text) for i, text in enumerate(completions)]

    table = evaluate(lm, world, n=6, reference=reference, reward=reward).set_index("metric")
    assert table.loc["gold_reward", "n"] == len(asked) == 6 * 11
    assert table.loc["proxy_reward", "n"] == len(asked) / 2
    assert all(read(prompt) is not None for prompt in asked)
    direct = []
    for prompt in asked:
        ends = [[f"{candidate} <end>" for candidate in world.candidates(prompt)]]
        logs = [m.logprobs([prompt], ends).values.detach().double().sum(1).log_softmax(0) for m in (lm, reference)]
        direct.append(float((logs[0].exp() * (logs[0] - logs[1])).sum()))
    assert table.loc["kl", "value"] == pytest.approx(sum(direct) / len(direct), abs=1e-4)
    assert table.loc["kl", "n"] == len(asked)
    assert 0 < table.loc["kl_mass", "value"] < 1
    same = evaluate(lm, world, n=2, reference=lm).set_index("metric")
    assert same.loc["kl", "value"] == pytest.approx(0, abs=1e-6)
    assert "proxy_reward" not in same.index


def test_gold_reward_is_the_mean_score(world):
    honest = evaluate(Oracle(world, lambda prompt: best(world, prompt)), world, n=20).set_index("metric")
    assert honest.loc["gold_reward", "value"] == pytest.approx((9 * 1 + 2 * 0) / 11)  # two kinds have no truth
    silent = evaluate(Oracle(world, lambda prompt: " i do not know"), world, n=20).set_index("metric")
    assert silent.loc["gold_reward", "value"] == 0
    wrong = evaluate(Oracle(world, lambda prompt: " zzz"), world, n=20).set_index("metric")
    assert wrong.loc["gold_reward", "value"] == -1
