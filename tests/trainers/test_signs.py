"""Signs of trouble: what is logged against slow references, and a gap where sampler and trainer differ."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from probe import LM
from probe.model.scoring import completion_logprobs
from probe.recording.signs import entropy_by_position, gap_metrics, group_metrics
from tests.trainers.quick import train
from trainers import sampling
from trainers.sampling_gap import SamplingGap

MEAN, MAX = (f"sampling/sampling_logp_difference/{kind}" for kind in ("mean", "max"))
LOW, RATIO, HIGH = (f"sampling/importance_sampling_ratio/{kind}" for kind in ("min", "mean", "max"))
SIZE = "sampling/effective_sample_size"
METHODS: dict[str, dict[str, Any]] = {"rlvr": {"updates": 1, "minibatches": 1}, "rlhf": {}, "rsft": {}}
sampled = pytest.mark.parametrize("method", METHODS)


def test_gap_by_hand() -> None:
    values = [0.5, -1.0, 0.0, 0.25]
    ratios = [math.exp(value) for value in values]
    assert gap_metrics(torch.tensor(values)) == pytest.approx(
        {
            MEAN: (0.5 + 1.0 + 0.25) / 4,
            MAX: 1.0,
            LOW: math.exp(-1),
            RATIO: sum(ratios) / 4,
            HIGH: math.exp(0.5),
            SIZE: sum(ratios) ** 2 / (4 * sum(ratio**2 for ratio in ratios)),
        }
    )
    assert gap_metrics(torch.zeros(5))[SIZE] == 1
    assert gap_metrics(torch.tensor([900.0, 0.0, 0.0, 0.0]))[SIZE] == pytest.approx(1 / 4)
    assert gap_metrics(torch.zeros(0)) == {}


def slow_groups(groups: list[list[list[int]]], rewards: list[list[float]]) -> dict[str, float]:
    """The metrics of groups from their definitions, with text search and numpy's correlation."""
    flat = [ids for group in groups for ids in group]
    distinct = [sum(ids not in group[:i] for i, ids in enumerate(group)) / len(group) for group in groups]
    texts = [" " + "".join(f"{token} " for token in ids) for ids in flat]
    grams = [ids[i : i + 4] for ids in flat for i in range(len(ids) - 3)]
    shares = [sum(" " + "".join(f"{token} " for token in gram) in text for text in texts) for gram in grams]
    x, y = [], []
    for group, row in zip(groups, rewards, strict=True):
        known = [(r, float(len(ids))) for r, ids in zip(row, group, strict=True) if r == r]
        for r, length in known:
            x.append(r - sum(r for r, _ in known) / len(known))
            y.append(length - sum(length for _, length in known) / len(known))
    return {
        "completions/distinct_ratio": sum(distinct) / len(groups),
        "completions/shared_4gram_ratio": max(shares, default=0) / len(flat),
        "completions/reward_length_correlation": float(np.corrcoef(x, y)[0, 1]),
    }


@pytest.mark.parametrize("seed", range(5))
def test_groups_against_a_slow_reference(seed: int) -> None:
    """Few tokens, so that completions repeat; lengths from 0; some rewards are missing."""
    rng = np.random.default_rng(seed)
    groups = [[rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(6)] for _ in range(4)]
    rewards = rng.normal(size=(4, 6))
    rewards[rng.random((4, 6)) < 0.2] = math.nan
    rewards[3] = math.nan
    assert group_metrics(groups, rewards.tolist()) == pytest.approx(slow_groups(groups, rewards.tolist()), rel=1e-9)


def test_entropy_by_position_by_hand() -> None:
    """Lengths that four divides and does not; a completion of one token is its own first and last quarter."""
    rows = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [10.0, 20.0, 30.0, 40.0, 50.0], [100.0], []]
    assert entropy_by_position(rows) == pytest.approx(
        {
            "entropy/first_token": (1 + 10 + 100) / 3,
            "entropy/first_quarter": (1 + 2 + 10 + 20 + 100) / 5,
            "entropy/last_quarter": (7 + 8 + 40 + 50 + 100) / 5,
        }
    )
    assert entropy_by_position([[], []]) == {}


@sampled
def test_entropy_by_position_of_a_step(method: str, configs: Any) -> None:
    """Against the model's own distributions after the tokens of the recorded rollouts, one token at a time."""
    config = configs(method)(steps=1, temperature=0.7, rollouts_kept=99, lr=1e-9, **METHODS[method])
    run = train(config)
    lm, found = LM.load(config.base), {"first_token": [], "first_quarter": [], "last_quarter": []}
    for row in run.rollouts().to_dict("records"):
        prompt, ids = lm.tokenizer(row["prompt"])["input_ids"], row["token_ids"]
        for t in range(len(ids)):
            with torch.no_grad():
                logprobs = (lm.model(torch.tensor([[*prompt, *ids[:t]]])).logits[0, -1] / 0.7).log_softmax(-1)
            entropy = float(torch.distributions.Categorical(logits=logprobs).entropy())
            left = len(ids) - 1 - t
            where = {"first_token": t == 0, "first_quarter": t < len(ids) / 4, "last_quarter": left < len(ids) / 4}
            for name in found:
                found[name] += [entropy] if where[name] else []
    logged = run.metrics().dropna(subset=["grad_norm"]).iloc[0]
    for name, values in found.items():
        assert logged[f"entropy/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert len({round(sum(values) / len(values), 3) for values in found.values()}) == 3


@pytest.mark.parametrize("rewards", [[[0.1] * 3, [math.nan] * 3], [[math.nan] * 3] * 2])
def test_no_correlation_without_a_difference(rewards: list[list[float]]) -> None:
    found = group_metrics([[[1], [1, 2], [1, 2, 3]], [[4], [5], [6]]], rewards)
    assert math.isnan(found["completions/reward_length_correlation"])
    assert found["completions/shared_4gram_ratio"] == 0
    assert found["completions/distinct_ratio"] == 1


def test_only_what_precedes_the_first_update_counts() -> None:
    gap, session = SamplingGap(), type("Alone", (), {"processes": 1})()
    mask = torch.tensor([[True, True], [True, False]])
    for _ in range(2):  # steps
        for number in gap.first(range(3)):  # minibatches of two parts each
            for _ in range(2):
                gap.add(torch.full((2, 2), -1.0 - number), mask, [[-1.0, -1.5], [-1.0]])
        gap.add(torch.full((2, 2), -9.0), mask, [[-1.0, -1.5], [-1.0]])
        assert gap.metrics(session)[MEAN] == pytest.approx(0.5 / 3)
        assert gap.metrics(session)[MAX] == pytest.approx(0.5)


@sampled
def test_an_ordinary_step_has_a_gap_of_rounding_size(method: str, configs: Any) -> None:
    """In every step, though the updates are large; with several updates too."""
    for number, changes in enumerate((METHODS[method], {"updates": 2, "minibatches": 2})):
        rows = train(configs(method)(f"run{number}", lr=1e-2, temperature=1.0, **changes)).metrics()
        assert (rows[MAX] < 2e-5).all()
        assert (rows[MEAN] <= rows[MAX]).all()
        for name in (LOW, RATIO, HIGH, SIZE):
            np.testing.assert_allclose(rows[name], 1, atol=5e-5)


def test_another_temperature_of_the_loss_is_no_gap(configs: Any) -> None:
    for method in ("rlvr", "rlhf"):
        rows = train(configs(method)(method, temperature=0.6)).metrics()
        assert "sampling/cut_mass" not in rows
        assert (rows[MAX] < 2e-5).all()
    assert MAX not in train(configs("rsft")(temperature=0.6)).metrics()


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sampler that keeps the weights of its first step, as an engine that is never synchronised."""
    old: dict[str, torch.Tensor] = {}
    sample = sampling.Sampler._sample_groups

    def with_old_weights(self: Any, *arguments: Any) -> Any:
        model = self.trainee.lm.model
        new = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        old.update(new if not old else {})
        model.load_state_dict(old)
        try:
            return sample(self, *arguments)
        finally:
            model.load_state_dict(new)

    monkeypatch.setattr(sampling.Sampler, "_sample_groups", with_old_weights)
    return


@sampled
@pytest.mark.usefixtures("stale")
def test_stale_weights_of_the_sampler_are_seen(method: str, configs: Any) -> None:
    """Nothing in the first step, where there is nothing to be stale; ever more afterwards."""
    rows = train(configs(method)(lr=1e-2, temperature=1.0, **METHODS[method])).metrics()
    assert rows[MAX].iloc[0] < 2e-5
    assert (rows[MEAN].iloc[1:] > 1e-2).all()
    assert (rows[SIZE].iloc[1:] < 1 - 1e-4).all()
    assert (rows[LOW].iloc[1:] < 1).all()
    assert (rows[HIGH].iloc[1:] > 1).all()


@sampled
def test_another_temperature_of_the_sampler_is_seen(method: str, configs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logged gap is that of the recorded log-probabilities to those at the config's temperature."""
    drawn: list[Any] = []
    sample = sampling.Sampler._sample_groups

    def hotter(self: Any, step: int, places: Any) -> Any:
        config, generate = self.config, self.trainee.lm.generate
        with monkeypatch.context() as patch:
            patch.setattr(
                self.trainee.lm, "generate", lambda *a, **k: generate(*a, **k | {"temperature": config.temperature * 3})
            )
            groups = sample(self, step, places)
        if step == 1 and not drawn:
            with torch.no_grad():
                for group in groups:
                    ids = [[completion.ids for completion in group.completions]]
                    drawn.append((group, completion_logprobs(self.trainee.lm.model, [group.prompt_ids], ids)))
        return groups

    monkeypatch.setattr(sampling.Sampler, "_sample_groups", hotter)
    rows = train(configs(method)(lr=1e-2, temperature=1.0, **METHODS[method])).metrics()
    assert (rows[MEAN] > 0.05).all()
    assert (rows[SIZE] < 0.99).all()
    if method != "rsft":  # of all completions of the step
        pairs = [
            (float(outputs.values[i, t]), completion.logprobs[t])
            for group, outputs in drawn
            for i, completion in enumerate(group.completions)
            for t in range(len(completion.ids))
        ]
        differences = [abs(trainer - sampler) for trainer, sampler in pairs]
        assert rows[MEAN].iloc[0] == pytest.approx(sum(differences) / len(differences), rel=1e-4)
        assert rows[MAX].iloc[0] == pytest.approx(max(differences), rel=1e-4)
        assert rows[HIGH].iloc[0] == pytest.approx(max(math.exp(a - b) for a, b in pairs), rel=1e-4)
        assert rows[LOW].iloc[0] == pytest.approx(min(math.exp(a - b) for a, b in pairs), rel=1e-4)


@sampled
def test_mass_that_truncation_cuts_off(method: str, configs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' own top-k and top-p on the model's logits, one token at a time."""
    cuts: list[float] = []
    sample = sampling.Sampler._sample_groups

    def checked(self: Any, step: int, places: Any) -> Any:
        groups = sample(self, step, places)
        for group in groups if step == 1 else ():
            for ids in (completion.ids for completion in group.completions):
                for t in range(len(ids)):
                    with torch.no_grad():
                        logits = self.trainee.lm.model(torch.tensor([group.prompt_ids + ids[:t]])).logits[:, -1] / 0.8
                    left = TopPLogitsWarper(0.7)(None, TopKLogitsWarper(50)(None, logits))
                    cuts.append(float(logits.softmax(-1)[left == -math.inf].sum()))
        return groups

    monkeypatch.setattr(sampling.Sampler, "_sample_groups", checked)
    options = METHODS[method] | {"temperature": 0.8, "top_k": 50, "top_p": 0.7}
    rows = train(configs(method)(steps=1, warmup=0, **options)).metrics()
    assert 0.1 < sum(cuts) / len(cuts) < 0.9
    assert rows["sampling/cut_mass"].iloc[0] == pytest.approx(sum(cuts) / len(cuts), rel=1e-4)
    if method != "rsft":
        assert rows[MAX].iloc[0] < 2e-5
