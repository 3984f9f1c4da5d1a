"""PPO: a whole update against passes of one token at a time, invariances, edge cases, and whole runs."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from probe import LM, Run
from probe.errors import ConfigError, ModelError
from probe.runs.schema import CHECKSUMS
from tests.models import ARCHITECTURES, random_lm
from tests.trainers import slow_ppo
from tests.trainers.conftest import figures
from tests.trainers.quick import COMMON, SAMPLED
from trainers import rlhf
from trainers.config import RLHFConfig
from trainers.rlhf import RLHF, Collector, Experience, Trace, explained_variance, objective_metrics
from trainers.sampling import Completion, CompletionGroup
from trainers.scalar_heads import VALUE_HEAD, HeadedTrainee, ModelWithHead, ScalarHead, ValueHead, width_of
from trainers.session import Session
from trainers.trainee import Trainee

END = 3
PROMPTS = [[2, 5, 7, 9], [2, 8]]
COMPLETIONS = [[[11, 12, END], [13, 14, 15, 16, 17], []], [[20, END], [21, 22, 4, 5, 6], [7, 8, 9, END]]]
REWARDS = [[1.0, -1.0, 0.25], [0.0, 2.0, 0.5]]
HARD: dict[str, Any] = {"temperature": 0.7, "gamma": 0.9, "lam": 0.8, "vf_coef": 0.3, "missing_eos_penalty": 0.5}


class Setting:
    """A small random policy with a value head, a reference beside it, and what they need."""

    def __init__(self, tmp_path: Path, name: str = "llama", **options: Any) -> None:
        self.lm = random_lm(name)
        self.reference = moved(self.lm.model, 0.05, 1)
        head = ScalarHead(width_of(self.lm.model), torch.Generator().manual_seed(2))
        chosen = COMMON | {"batch_size": 2, "group": 3, "max_new_tokens": 5} | options
        self.config = RLHFConfig(out=tmp_path / "none", base="unused", **chosen)
        self.session = Session(self.config)
        trainee = HeadedTrainee(Trainee(self.lm), head)
        self.module = trainee.module
        self.method = RLHF(self.session, self.config, trainee, None, None)  # type: ignore[arg-type]  # draws nothing

    def groups(self) -> list[CompletionGroup]:
        """The completions above as the policy would have sampled them."""
        made = []
        for number, (prompt, several, rewards) in enumerate(zip(PROMPTS, COMPLETIONS, REWARDS, strict=True)):
            completions = []
            for ids, reward in zip(several, rewards, strict=True):
                reference = [x for x, _ in self.slow(ModelWithHead(self.reference, self.module.head), prompt, ids)]
                end = bool(ids) and ids[-1] == END
                logprobs = [math.nan] * len(ids)  # the sampler's, which are not read
                completions.append(
                    Completion(ids, "", logprobs, [0.5] * len(ids), end, {"r": reward}, reward, numbers(reference))
                )
            made.append(CompletionGroup("", prompt, {}, completions, number))
        return made

    def examples(self, groups: list[CompletionGroup] | None = None) -> list[Experience]:
        return Collector(self.session, self.module, self.config).collect(groups or self.groups(), self.config.beta)

    def slow(self, module: ModelWithHead, prompt: list[int], ids: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """log pi and V of each token, from a pass over what comes before it."""
        found = []
        for t, token in enumerate(ids):
            made = module.model(torch.tensor([prompt + ids[:t]]), output_hidden_states=True)
            logprobs = (made.logits[0, -1] / self.config.temperature).log_softmax(-1)
            found.append((logprobs[token], module.head(made.hidden_states[-1][0, -1])))
        return found

    def run(self, examples: list[Experience]) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
        """Mean loss, its gradient and its metrics."""
        self.module.zero_grad()
        loss = self.method.loss(self.module, examples, True)
        (loss.total / max(loss.count, 1)).backward()
        gradients = {name: p.grad.clone() for name, p in self.module.named_parameters() if p.grad is not None}
        metrics = {name: float(total) / max(count, 1) for name, (total, count) in loss.metrics.items()}
        return loss.total.item() / max(loss.count, 1), gradients, metrics


def moved(module: Any, scale: float, seed: int) -> Any:
    """A copy with other weights nearby."""
    other, generator = copy.deepcopy(module), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return other


def numbers(values: list[torch.Tensor]) -> list[float]:
    return [value.item() for value in values]


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm()) <= 2e-4 * float(gradient.norm()) + 1e-6, name


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_update_token_by_token(name: str, tmp_path: Path) -> None:
    """From whole texts to loss, metrics and gradient, every number by itself; the policy has moved since it sampled."""
    setting = Setting(tmp_path, name, **HARD)
    config, old = setting.config, copy.deepcopy(setting.module)
    examples = setting.examples()
    setting.module.load_state_dict(moved(setting.module, 0.02, 4).state_dict())
    loss, gradients, metrics = setting.run(examples)

    rows, raw = [], []
    for group, rewards in zip(setting.groups(), REWARDS, strict=True):
        for completion, reward in zip(group.completions, rewards, strict=True):
            before = setting.slow(old, group.prompt_ids, completion.ids)
            logprobs, values = numbers([x for x, _ in before]), numbers([v for _, v in before])
            score = reward if completion.finished else reward - 0.5
            assert completion.ref_logprobs is not None
            r = slow_ppo.rewards(logprobs, completion.ref_logprobs, score, config.beta)
            raw.append(slow_ppo.advantages(r, values, 0.9, 0.8))
            rows.append((group.prompt_ids, completion.ids, logprobs, values))
    setting.module.zero_grad()
    total, tokens = torch.zeros(()), 0
    count = {"policy": 0, "value": 0}
    sums = dict.fromkeys(("policy", "value", "kl", "ratio"), 0.0)
    for (prompt, ids, logprobs, values), a, white in zip(rows, raw, slow_ppo.whitened(raw), strict=True):
        for t, (logprob, value) in enumerate(setting.slow(setting.module, prompt, ids)):
            policy, bound = slow_ppo.policy_loss(logprob.item(), logprobs[t], white[t], config.epsilon)
            error, cut = slow_ppo.value_loss(value.item(), values[t], a[t] + values[t], config.epsilon_value)
            ratio = math.exp(logprob.item() - logprobs[t])
            # the gradient of a bounded term is 0, of a ratio it is the ratio times that of log pi
            total = total + policy + 0.3 * error
            total = total + (0 if bound else -white[t] * ratio) * (logprob - logprob.detach())
            total = total + 0.3 * (0 if cut else value.item() - a[t] - values[t]) * (value - value.detach())
            tokens, count["policy"], count["value"] = tokens + 1, count["policy"] + bound, count["value"] + cut
            drift = logprob.item() - logprobs[t]
            for key, x in (("policy", policy), ("value", error), ("kl", drift**2 / 2), ("ratio", ratio)):
                sums[key] += x
    (total / tokens).backward()
    expected = {key: p.grad.clone() for key, p in setting.module.named_parameters() if p.grad is not None}
    assert count["policy"]
    assert count["value"]
    assert loss == pytest.approx(total.item() / tokens, rel=1e-4, abs=1e-5)
    assert metrics["loss/policy_avg"] == pytest.approx(sums["policy"] / tokens, rel=1e-4, abs=1e-5)
    assert metrics["loss/value_avg"] == pytest.approx(sums["value"] / tokens, rel=1e-4)
    assert metrics["policy/approxkl_avg"] == pytest.approx(sums["kl"] / tokens, rel=1e-3)
    assert metrics["val/ratio"] == pytest.approx(sums["ratio"] / tokens, rel=1e-4)
    assert metrics["policy/clipfrac_avg"] == pytest.approx(count["policy"] / tokens)
    assert metrics["val/clipfrac_avg"] == pytest.approx(count["value"] / tokens)
    assert_equal_gradients(gradients, expected)


def test_the_first_update_is_the_policy_gradient(tmp_path: Path) -> None:
    """The ratio is 1, nothing is clipped, and the gradient is that of - mean(A log pi)."""
    setting = Setting(tmp_path, vf_coef=0.0)
    examples = setting.examples()
    _, gradients, metrics = setting.run(examples)
    assert metrics["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert metrics["policy/clipfrac_avg"] == metrics["val/clipfrac_avg"] == 0
    assert metrics["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
    assert metrics["loss/policy_avg"] == pytest.approx(0, abs=1e-6)  # whitened advantages add up to nothing
    setting.module.zero_grad()
    terms = [
        advantage * logprob
        for example in examples
        for completion, trace in zip(example.group.completions, example.traces, strict=True)
        for advantage, (logprob, _) in zip(
            trace.advantages, setting.slow(setting.module, example.group.prompt_ids, completion.ids), strict=True
        )
    ]
    (-torch.stack(terms).mean()).backward()
    expected = {key: p.grad.clone() for key, p in setting.module.model.named_parameters() if p.grad is not None}
    assert any(gradient.any() for gradient in expected.values())
    assert_equal_gradients({key[6:]: g for key, g in gradients.items() if key.startswith("model.")}, expected)
    assert not gradients["head.weight"].any()


def test_order_and_padding_change_nothing(tmp_path: Path) -> None:
    """A third group with a longer prompt and longer completions changes how everything is padded, and adds its part."""
    setting = Setting(tmp_path, **HARD | {"max_new_tokens": 12})
    made = setting.groups()
    long = [replace(c, ids=c.ids * 2, ref_logprobs=(c.ref_logprobs or []) * 2) for c in made[0].completions]
    all_groups = [*made, replace(made[0], prompt_ids=[2, *range(4, 24)], completions=long, number=2)]
    turned = [replace(g, completions=g.completions[::-1]) for g in all_groups[::-1]]
    by_one = replace(setting.config, batch_size=3, accumulation=3)
    session = Session(by_one)
    ways = [
        setting.examples(all_groups),
        setting.examples(turned)[::-1],
        Collector(session, setting.module, by_one).collect(all_groups, 0.3),
    ]
    for way in ways[1:]:
        for ours, theirs in zip(ways[0], way, strict=True):
            mine, other = (sorted(e.traces, key=lambda t: t.score) for e in (ours, theirs))
            for a, b in zip(mine, other, strict=True):
                for name in ("kl", "rewards", "values", "advantages", "returns"):
                    assert getattr(a, name) == pytest.approx(getattr(b, name), abs=2e-5), name
    setting.module.load_state_dict(moved(setting.module, 0.02, 4).state_dict())
    alone = [setting.run([example]) for example in ways[0]]
    sizes = [sum(len(c.ids) for c in example.group.completions) for example in ways[0]]
    for way in (ways[0], ways[0][::-1]):
        loss, gradients, _ = setting.run(way)
        assert loss * sum(sizes) == pytest.approx(
            sum(x * n for (x, _, _), n in zip(alone, sizes, strict=True)), rel=1e-4
        )
        total = {
            name: torch.stack([g[name] * n for (_, g, _), n in zip(alone, sizes, strict=True)]).sum(0) / sum(sizes)
            for name in gradients
        }
        assert_equal_gradients(gradients, total)


def test_the_sampling_policy_is_read_without_dropout(tmp_path: Path) -> None:
    """Whatever mode the module was left in: GPT-2 has dropout, and peft hands its models over in training mode."""
    setting = Setting(tmp_path, "gpt2")
    expected = setting.examples()
    setting.module.train()
    assert setting.examples() == expected


def test_the_score_sits_on_the_last_token_less_the_penalty_for_no_end(tmp_path: Path) -> None:
    setting = Setting(tmp_path, **HARD)
    for example in setting.examples():
        for completion, trace in zip(example.group.completions, example.traces, strict=True):
            assert trace.score == completion.reward - (0 if completion.finished else 0.5)
            expected = [-setting.config.beta * x for x in trace.kl]
            if expected:
                expected[-1] += trace.score
            assert trace.rewards == pytest.approx(expected)


def test_a_completion_without_a_reward_teaches_nothing(tmp_path: Path) -> None:
    """The others learn as if it were not there."""
    setting = Setting(tmp_path)
    made = setting.groups()
    first, *rest = made[0].completions
    with_it = [replace(made[0], completions=[replace(first, reward=math.nan, rewards={"r": None}), *rest]), made[1]]
    without = [replace(made[0], completions=rest), made[1]]
    loss, gradients, metrics = setting.run(setting.examples(with_it))
    expected = setting.run(setting.examples(without))
    assert loss == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert metrics == pytest.approx(expected[2], rel=1e-4, abs=1e-6)
    assert_equal_gradients(gradients, expected[1])
    objective = objective_metrics(setting.examples(with_it))
    assert objective == pytest.approx(objective_metrics(setting.examples(without)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("empty", [True, False])
def test_nothing_to_learn_from_gives_zero(empty: bool, tmp_path: Path) -> None:
    """Completions without tokens, and completions without rewards."""
    setting = Setting(tmp_path)
    change: dict[str, Any] = {"ids": [], "ref_logprobs": []} if empty else {"reward": math.nan}
    made = [replace(g, completions=[replace(c, **change) for c in g.completions]) for g in setting.groups()]
    loss, gradients, metrics = setting.run(setting.examples(made))
    assert loss == 0
    assert gradients
    assert not any(gradient.any() for gradient in gradients.values())
    assert all(value == 0 for value in metrics.values())


def test_the_objective_is_what_the_tokens_earned(tmp_path: Path) -> None:
    setting = Setting(tmp_path, **HARD)
    examples = setting.examples()
    found, beta = objective_metrics(examples), setting.config.beta
    traces = [trace for example in examples for trace in example.traces]
    kl = sum(sum(trace.kl) for trace in traces) / 6
    lost = 0.3 * 0 + (REWARDS[0][2] - 0.5) / 6  # the score of the completion without tokens has no place
    assert found["objective/kl"] == pytest.approx(kl)
    assert found["objective/scores"] == pytest.approx(sum(map(sum, REWARDS)) / 6 - 3 * 0.5 / 6)
    assert found["objective/rlhf_reward"] == pytest.approx(found["objective/scores"] - beta * kl - lost)
    assert found["objective/entropy"] == pytest.approx(sum(0.5 * len(trace.kl) for trace in traces) / 6)


def test_the_value_head_starts_at_zero_and_learns_as_much_faster_as_it_is_told() -> None:
    """A step of Adam moves every weight by the learning rate: what the head says moves by scale x rate x |states|."""
    states = torch.rand(3, 8) + 0.5
    for scale in (1.0, 10.0):
        head = ValueHead(8, scale)
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        assert not head(states).any()
        (-head(states).sum()).backward()
        optimizer.step()
        torch.testing.assert_close(head(states), scale * 1e-3 * states.sum(1), rtol=1e-4, atol=1e-6)
        other = ValueHead(8)
        other.load_state_dict(head.state_dict())
        assert torch.equal(other(states), head(states))


def test_explained_variance_is_one_for_perfect_values_and_zero_for_constant_ones() -> None:
    def trace(values: list[float], returns: list[float]) -> Trace:
        return Trace(0.0, [], values, [], [], [], returns)

    returns = [[1.0, 4.0], [2.0]]
    for offset in (0.0, 3.0):
        shifted = [trace([x + offset for x in row], row) for row in returns]
        assert explained_variance(shifted) == pytest.approx(1)
        assert explained_variance([trace([offset] * len(row), row) for row in returns]) == pytest.approx(0)
    assert explained_variance([trace([-x for x in row], row) for row in returns]) == pytest.approx(-3)
    assert math.isnan(explained_variance([trace([1.0, 2.0], [5.0, 5.0])]))
    assert math.isnan(explained_variance([]))


def test_a_run_raises_what_was_rewarded(configs: Any) -> None:
    """Towards even token ids: the score rises well beyond its noise, the values approach the returns, the KL grows."""
    options = {"updates": 2, "minibatches": 1, "batch_size": 16, "group": 8, "adaptive_kl": 0.0, "beta": 0.01}
    run = rlhf.train(configs("rlhf")(steps=12, lr=1e-2, warmup=0, **options))
    rows = run.metrics()
    assert rows["objective/scores"].iloc[-1] > rows["objective/scores"].iloc[0] + 0.2
    assert rows["objective/kl"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert rows["objective/kl"].iloc[-1] > 0.1
    assert rows["val/explained_variance"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert rows["loss/value_avg"].iloc[-1] < rows["loss/value_avg"].iloc[0] / 3
    assert rows["objective/rlhf_reward"].to_numpy() == pytest.approx(
        rows["objective/scores"] + rows["objective/non_score_reward"]
    )
    assert {"gold/reward", "rewards/even/mean", "completions/clipped_ratio", "entropy", "val/ratio"} <= set(rows)


def test_a_strong_kl_holds_the_policy_at_its_reference(configs: Any) -> None:
    options = {"steps": 6, "lr": 1e-2, "warmup": 0, "adaptive_kl": 0.0}
    weak, strong = (rlhf.train(configs("rlhf")(f"beta{beta}", beta=beta, **options)) for beta in (0.0, 10.0))
    assert strong.metrics()["objective/kl"].iloc[-1] < weak.metrics()["objective/kl"].iloc[-1] / 2


def test_adaptive_kl_follows_its_target(configs: Any) -> None:
    """At the reference the KL is 0, so the first step lowers beta by 2 %; far above the target it rises by as much."""
    run = rlhf.train(configs("rlhf")(steps=6, lr=1e-2, warmup=0, adaptive_kl=1e-4, beta=0.3))
    found = run.metrics()["objective/kl_coef"].tolist()
    assert found[:2] == pytest.approx([0.3, 0.3 * 0.98])
    assert found[-1] == pytest.approx(found[-2] * 1.02)
    last = load_file(run.checkpoints()[-1].path / "method.safetensors")["beta"]
    assert last.item() == pytest.approx(found[-1] * 1.02)


def test_a_checkpoint_is_an_ordinary_model_with_a_head_beside_it(configs: Any) -> None:
    run = rlhf.train(configs("rlhf")(steps=3))
    directory = run.checkpoints()[-1].path
    head = load_file(directory / VALUE_HEAD)["weight"]
    assert head.shape == (1, 32)
    assert head.any()
    lm = LM.load(run.path)
    assert not any("head" in name and "lm_head" not in name for name in lm.model.state_dict())
    assert LM.load(directory).fingerprint == lm.fingerprint
    (directory / VALUE_HEAD).unlink()
    (directory / CHECKSUMS).unlink()
    with pytest.raises(ModelError, match=r"has no readable value_head\.safetensors"):
        rlhf.train(configs("rlhf")(steps=5, resume=True))


def test_rollouts_tell_what_each_token_was_worth(configs: Any) -> None:
    run = rlhf.train(configs("rlhf")(steps=4, rollouts_every=2, rollouts_kept=2))
    rows = run.rollouts().to_dict("records")
    assert sorted({row["step"] for row in rows}) == [1, 2, 4]
    assert len(rows) == 3 * 2 * 4
    betas = dict(zip(run.metrics()["step"], run.metrics()["objective/kl_coef"], strict=True))
    for row in rows:
        lengths = {len(row[name]) for name in ("advantage", "values", "token_rewards", "returns", "kl", "entropy")}
        assert lengths == {len(row["token_ids"])}
        assert sum(row["token_rewards"]) == pytest.approx(row["reward"] - betas[row["step"]] * sum(row["kl"]), abs=1e-5)
        assert len({*row["advantage"]}) > 1 or len(row["token_ids"]) == 1


def lora_runs(configs: Any) -> tuple[Run, Run]:
    """One whole, one in two parts."""
    options: dict[str, Any] = {"lora": 4, "lr": 1e-2, "schedule": "constant", "warmup": 0}
    whole = rlhf.train(configs("rlhf")("whole", steps=6, **options))
    rlhf.train(configs("rlhf")("parts", steps=3, **options))
    return whole, rlhf.train(configs("rlhf")("parts", steps=6, resume=True, **options))


def test_lora_trains_an_adapter_and_resumes_to_the_same_bits(configs: Any, world_run: Path) -> None:
    whole, resumed = lora_runs(configs)
    assert figures(whole).equals(figures(resumed))
    assert whole.metrics()["objective/kl"].iloc[0] == pytest.approx(0, abs=1e-5)
    assert whole.metrics()["objective/kl"].iloc[-1] != pytest.approx(0, abs=1e-3)
    base, trained = LM.load(world_run), LM.load(whole.path)
    changed = {
        name for name, p in trained.model.state_dict().items() if not torch.equal(p, base.model.state_dict()[name])
    }
    assert changed
    assert not any("norm" in name or "embed" in name or "lm_head" in name for name in changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -1.0}, "--beta is -1.0; expected 0 or more"),
        ({"gamma": 1.5}, "--gamma is 1.5; expected a number from 0 to 1"),
        ({"lam": -0.1}, "--lam is -0.1; expected a number from 0 to 1"),
        ({"epsilon": 1.0}, "--epsilon is 1.0; expected a number between 0 and 1"),
        ({"vf_coef": -0.1}, "--vf-coef is -0.1; expected 0 or more"),
        ({"value_rate": 0.0}, "--value-rate is 0.0; expected a number above 0"),
        ({"missing_eos_penalty": -1.0}, "--missing-eos-penalty is -1.0; expected 0 or more"),
        ({"adaptive_kl": 0.5, "beta": 0.0}, "--beta is 0.0; expected above 0, where --adaptive-kl starts"),
        ({"adaptive_gain": 5.0}, "--adaptive-gain is 5.0; expected below 5"),
        ({"updates": 0}, "--updates is 0; expected at least 1"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RLHFConfig(out=tmp_path, base="base", **COMMON | SAMPLED | changes)
