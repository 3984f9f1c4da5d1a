"""Rewards before and after: samples against plain transformers and the exact answer sets, the summary against loops."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import probe
from probe import LM, RewardModel
from probe.errors import ConfigError, DataError, RunError
from probe.model.presets import ModelConfig
from probe.recording.reward_shift import RewardShift
from probe.rewards import shift as reward_shift
from probe.rewards.shift import Drawing, captured_samples, compare_samples, draw, proxy_rewards, samples, summary
from probe.world import World
from tests.models import ARCHITECTURES, byte_tokenizer, random_lm

PROMPTS = ["mira lives in", "where does tom works ?", "the cat", "the cat"]
FIVE, TWO = Drawing(n=3, max_new_tokens=5, seed=7), Drawing(n=6, max_new_tokens=2, seed=3)


def classifier(policy: LM) -> RewardModel:
    config: Any = policy.model.config
    config.num_labels, config.pad_token_id = 1, policy.tokenizer.pad_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return RewardModel(AutoModelForSequenceClassification.from_config(config).eval(), policy.tokenizer)


@torch.no_grad()
def slow_logp(lm: LM, prompt: str, ids: list[int]) -> float:
    """Sum of log-probabilities of a completion, by the plain model."""
    head = lm.tokenizer(prompt)["input_ids"]
    logprobs = lm.model(input_ids=torch.tensor([[*head, *ids]])).logits[0].log_softmax(-1)
    return float(sum(logprobs[len(head) - 1 + j, token] for j, token in enumerate(ids)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_samples_against_plain_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, aligned = random_lm(name, seed=0), random_lm(name, seed=1)
    model, ticks = classifier(base), []
    table = samples(base, aligned, PROMPTS, model, FIVE, beta=0.5, tick=ticks.append)
    assert len(table) == 2 * len(PROMPTS) * 3
    assert ticks == [0.5, 1.0]
    for row in table.iloc[[0, 4, 13, 20]].to_dict("records"):
        writer = base if row["model"] == "base" else aligned
        drawn = writer.generate([row["text"]], n=3, max_new_tokens=5, seed=7)
        ids = drawn.ids[row["sample"]]
        assert row["completion"] == drawn.text[row["sample"]]
        assert row["length"] == len(ids)
        first, second = (slow_logp(lm, row["text"], ids) for lm in (base, aligned))
        assert (row["logp_base"], row["logp_aligned"]) == (
            pytest.approx(first, abs=1e-4),
            pytest.approx(second, abs=1e-4),
        )
        assert row["implicit"] == pytest.approx(0.5 * (second - first), abs=1e-4)
        alone = float(model.score([row["text"]], [row["completion"]])[0])
        assert row["proxy"] == pytest.approx(alone, abs=1e-5)
    twice = table[table["text"] == "the cat"].groupby(["model", "prompt"])["completion"].apply(list)
    assert twice["base", 2] != twice["base", 3]
    monkeypatch.setattr(reward_shift, "TOGETHER", 1)  # a prompt at a time
    parts = samples(base, aligned, PROMPTS, model, FIVE, beta=0.5)
    pd.testing.assert_frame_equal(parts, table, atol=1e-4)


def test_what_one_model_answers_is_drawn_once_for_all_others() -> None:
    base, first, second = (random_lm(seed=seed) for seed in (0, 1, 2))
    model = classifier(base)
    before = draw(base, PROMPTS, FIVE)
    assert before.logprobs.shape == (4, 3)
    assert before.logprobs[1, 2] == pytest.approx(slow_logp(base, PROMPTS[1], before.drawn[0].ids[5]), abs=1e-4)
    judged = proxy_rewards(before, model)
    assert judged[2, 1] == pytest.approx(float(model.score([PROMPTS[2]], [before.completions[7]])[0]), abs=1e-5)
    for other in (first, second):
        after = draw(other, PROMPTS, FIVE)
        kinds = ["a", "a", "b", "b"]
        table = compare_samples(base, other, before, after, (judged, proxy_rewards(after, model)), 0.5, kinds)
        whole = samples(base, other, PROMPTS, model, FIVE, 0.5, kinds)
        pd.testing.assert_frame_equal(table, whole)
    assert "proxy" not in compare_samples(base, first, before, draw(first, PROMPTS, FIVE))
    with pytest.raises(DataError, match="4 prompts with 3 samples and 2 with 3 cannot be compared"):
        compare_samples(base, first, before, draw(first, PROMPTS[:2], FIVE))


def test_what_is_known_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    base, aligned = (random_lm("llama", seed=seed) for seed in (1, 2))
    prompts = ["one two", "tom", "one two"]
    plain = [draw(lm, prompts, TWO) for lm in (base, aligned)]
    table = compare_samples(base, aligned, *plain)
    pairs = {(tuple(d.prompt_ids[i // d.n]), tuple(ids)) for p in plain for d in p.drawn for i, ids in enumerate(d.ids)}
    read: list[int] = []
    score = LM.logprobs

    def counted(self: LM, heads: Any, groups: Any, **options: Any) -> Any:
        read.append(sum(map(len, groups)))
        return score(self, heads, groups, **options)

    half = sorted(pairs)[::2]
    known = []
    for lm in (base, aligned):
        values = [score(lm, [list(head)], [[list(ids)]]).values.double().sum().item() for head, ids in half]
        known.append(dict(zip(half, values, strict=True)))
    monkeypatch.setattr(LM, "logprobs", counted)
    again = [draw(lm, prompts, TWO, known=its) for lm, its in zip((base, aligned), known, strict=True)]
    found = compare_samples(base, aligned, *again, known=(known[0], known[1]))
    for column in ("logp_base", "logp_aligned"):
        np.testing.assert_allclose(found[column], table[column], rtol=1e-5, atol=2e-6)
    assert 0 < sum(read) <= 2 * (len(pairs) - len(half))
    read.clear()
    every = [dict.fromkeys(pairs, -1.5)] * 2
    assert (compare_samples(base, aligned, *again, known=(every[0], every[1]))["logp_aligned"] == -1.5).sum() >= 18
    assert not read


def test_the_mean_implicit_reward_is_the_kl() -> None:
    """Of one-token samples, where the KL is a sum over the vocabulary."""
    base, aligned = random_lm(seed=0), random_lm(seed=1)
    table = samples(base, aligned, PROMPTS[:1], drawing=Drawing(n=3000, max_new_tokens=1))
    p, q = (lm.logits([PROMPTS[0]])[0, -1].detach().log_softmax(-1).double() for lm in (aligned, base))
    means = table.groupby("model")["implicit"].agg(["mean", "sem"])
    for side, exact in (("aligned", (p.exp() * (p - q)).sum()), ("base", (q.exp() * (p - q)).sum())):
        assert abs(means.loc[side, "mean"] - float(exact)) < 4 * means.loc[side, "sem"]
    assert means.loc["aligned", "mean"] > 0 > means.loc["base", "mean"]


def test_gold_and_verdicts_are_those_of_the_world() -> None:
    world = World(seed=0)
    small = ModelConfig(layers=1, width=16, heads=2, mlp=16, context=64)
    base, aligned = (LM.create(small, world.tokenizer(), seed=seed) for seed in (0, 1))
    asked = world.questions("fact", 2, seed=0)
    prompts = [item.prompt for item in asked] + ["chain z0 z1"]
    table = samples(base, aligned, prompts, drawing=Drawing(world, 4, 2), kinds=["fact", "fact", "markov"])
    assert "proxy" not in table
    assert table.loc[table["kind"] == "markov", "gold"].isna().all()
    for row in table[table["kind"] == "fact"].to_dict("records"):
        verdict = world.verify(row["text"], row["completion"])
        assert (row["gold"], row["verdict"]) == (verdict.score, verdict.kind)
    found = summary(table).set_index("measure")
    assert found.loc["gold", "prompts"] == 2
    assert found.loc["length", "prompts"] == 3


def made_up(prompts: int = 12, n: int = 5, seed: int = 0) -> pd.DataFrame:
    """Proxy rewards with an effect of the prompt and one of the model; some do not apply."""
    rng = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        level = rng.normal(scale=3)
        for model, shift in (("base", 0.0), ("aligned", 0.7)):
            for sample in range(n):
                value = level + shift + rng.normal()
                rows.append((model, prompt, "ab"[prompt % 2], sample, value if prompt else math.nan, "true"))
    return pd.DataFrame(rows, columns=["model", "prompt", "kind", "sample", "proxy", "verdict"])


def test_the_summary_against_loops() -> None:
    table = made_up()
    found = summary(table).set_index("measure")
    assert found.index.tolist() == ["proxy", "verdict: true"]
    row = found.loc["proxy"]
    gaps, wins = [], []
    for prompt in range(1, 12):
        ours, theirs = (
            table.loc[(table["prompt"] == prompt) & (table["model"] == model), "proxy"].tolist()
            for model in ("aligned", "base")
        )
        gaps.append(sum(ours) / 5 - sum(theirs) / 5)
        wins.append(sum((a > b) + 0.5 * (a == b) for a in ours for b in theirs) / 25)
    assert row["difference"] == pytest.approx(np.mean(gaps))
    assert row["win"] == pytest.approx(np.mean(wins))
    assert row["prompts"] == 11
    assert row["samples"] == 110
    # pairing: the spread between prompts is no part of the difference's interval
    assert row["difference_high"] - row["difference_low"] < 0.6 * (row["base_high"] - row["base_low"])
    assert found.loc["verdict: true", "difference"] == 0
    kinds = summary(table, ["proxy"], by="kind")
    assert kinds["kind"].tolist() == ["a", "b"]
    assert kinds["prompts"].tolist() == [5, 6]


def test_intervals_count_prompts_and_cover() -> None:
    """Samples of a prompt share its effect: an interval over prompts covers, one over samples would not."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(100):
        effect = rng.normal(loc=0.5, size=30)  # the models differ by another amount on every prompt
        rows = [
            (model, p, s, (effect[p] if model == "aligned" else 0.0) + 0.1 * rng.normal())
            for p in range(30)
            for model in ("base", "aligned")
            for s in range(4)
        ]
        found = summary(pd.DataFrame(rows, columns=["model", "prompt", "sample", "proxy"])).iloc[0]
        hits += found["difference_low"] <= 0.5 <= found["difference_high"]
    assert 86 <= hits <= 100, hits


def test_captured_samples_of_a_run(tmp_path: Path) -> None:
    policy, reference = random_lm(seed=1), random_lm(seed=0)
    lm = random_lm(seed=0)
    instrument = RewardShift(reference.logits, proxy=classifier(policy), beta=2.0, samples=3)
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS[:3], every=1, instruments=[instrument]) as recorder:
        for step in range(3):
            recorder.step(step)
            with torch.no_grad():
                for a, b in zip(lm.model.parameters(), policy.model.parameters(), strict=True):
                    a.lerp_(b, 0.5)
        with recorder.writer.checkpoint(2) as directory:
            lm.save(directory)
    run = probe.open_run(tmp_path / "run")
    table = captured_samples(run)
    assert table.groupby("model")["step"].unique().to_dict() == {"base": [0], "aligned": [2]}
    found = summary(table).set_index("measure")
    assert found.loc["implicit", "base"] == pytest.approx(0, abs=1e-5)  # nothing has changed at step 0
    assert found.loc["implicit", "prompts"] == 3
    assert "gold" not in found.index
    assert captured_samples(run, (0, 1))["step"].unique().tolist() == [0, 1]
    with pytest.raises(DataError, match="give two different ones of"):
        captured_samples(run, (0, 9))
    with probe.watch(lm, tmp_path / "plain", prompts=PROMPTS[:1]) as recorder:
        recorder.step(0)
    with pytest.raises(RunError, match="holds a reward shift"):
        captured_samples(probe.open_run(tmp_path / "plain"))


def test_what_cannot_be_compared() -> None:
    base = random_lm()
    with pytest.raises(DataError, match="have different tokenizers"):
        samples(base, random_lm("gpt2", byte_tokenizer()), PROMPTS)
    with pytest.raises(DataError, match="give at least one prompt, and one kind for each"):
        samples(base, base, [])
    with pytest.raises(DataError, match="4 prompts and 1 kinds"):
        samples(base, base, PROMPTS, kinds=["x"])
    with pytest.raises(ConfigError, match="n is 0 and beta is 1"):
        samples(base, base, PROMPTS, drawing=Drawing(n=0))
    table = made_up()
    with pytest.raises(DataError, match="samples of both models"):
        summary(table[table["model"] == "base"])
    with pytest.raises(DataError, match="no measure 'gold'"):
        summary(table, ["gold"])
