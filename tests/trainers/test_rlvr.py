"""RLVR: the loss against a slow reference and TRL, invariances, edge cases, and whole runs."""

import copy
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from probe import LM
from probe.errors import ConfigError, RunError, TrainingStopped
from tests.trainers.quick import COMMON, SAMPLED
from trainers import loop, rlvr
from trainers.config import RLVRConfig
from trainers.record import file_hash
from trainers.rlvr import NORMALISATIONS, RLVR, WeightedGroup, with_advantages
from trainers.sampling import Completion, CompletionGroup
from trainers.trainee import Trainee

END = 3
PROMPTS = [[2, 5, 7, 9], [2, 8]]
COMPLETIONS = [[[11, 12, END], [13, 14, 15, 16, 17], [4, END]], [[20, END], [21, 22, 23, 24, 25], [26, 27, 28, END]]]
REWARDS = [[1.0, -1.0, 0.25], [0.0, 1.0, 0.5]]
LONGEST = 5


def config(tmp_path: Path, **changes: Any) -> RLVRConfig:
    options = {"batch_size": 2, "group": 3, "max_new_tokens": LONGEST, "temperature": 0.7} | changes
    return RLVRConfig(out=tmp_path / "none", base="unused", **COMMON | options)


def shifted(model: nn.Module, scale: float, seed: int) -> Any:
    """A copy of the model, moved away from it."""
    moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return moved


def slow_logprobs(model: nn.Module, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    """[L] of one sequence, one token at a time."""
    found = []
    for i, token in enumerate(completion):
        logits = model(input_ids=torch.tensor([prompt + completion[:i]])).logits[0, -1] / temperature
        found.append(logits.log_softmax(-1)[token])
    return torch.stack(found)


@torch.no_grad()
def groups(old: nn.Module, reference: nn.Module | None, temperature: float = 0.7) -> list[CompletionGroup]:
    """The completions above as `old` would have sampled them."""
    made = []
    for number, (prompt, several, rewards) in enumerate(zip(PROMPTS, COMPLETIONS, REWARDS, strict=True)):
        completions = [
            Completion(
                ids=ids,
                text="",
                logprobs=slow_logprobs(old, prompt, ids, temperature).tolist(),
                entropy=[0.0] * len(ids),
                finished=ids[-1] == END,
                rewards={"r": reward},
                reward=reward,
                ref_logprobs=slow_logprobs(reference, prompt, ids, temperature).tolist() if reference else None,
            )
            for ids, reward in zip(several, rewards, strict=True)
        ]
        made.append(CompletionGroup("", prompt, {}, completions, number))
    return made


def method(lm: LM, settings: RLVRConfig) -> RLVR:
    return RLVR(settings, Trainee(lm), None, None)  # type: ignore[arg-type]  # the loss needs no sampler


def loss_and_gradient(
    lm: LM, settings: RLVRConfig, examples: list[WeightedGroup]
) -> tuple[float, list[torch.Tensor], Any]:
    lm.model.zero_grad()
    loss = method(lm, settings).loss(lm.model, examples, True)
    (loss.total / max(loss.count, 1)).backward()
    gradients = [parameter.grad.clone() for parameter in lm.model.parameters() if parameter.grad is not None]
    return float(loss.total.detach()) / max(loss.count, 1), gradients, loss


def trl_trainer(lm: LM, base: LM, settings: RLVRConfig, **options: Any) -> tuple[Any, Any]:
    """TRL's trainer of `lm` with our settings, and what it makes of the completions above; skips without TRL.

    Args:
        lm: policy.
        base: reference.
        settings: our options.
        options: further ones of TRL.
    """
    if not os.environ.get("CI"):
        pytest.importorskip("trl")
    import trl
    from datasets import Dataset

    name = settings.normalisation
    rows = [{"prompt": str(i)} for i in range(2) for _ in range(3)]
    trainer = trl.GRPOTrainer(
        model=lm.model,
        reward_funcs=lambda **_: [reward for several in REWARDS for reward in several],
        args=trl.GRPOConfig(
            output_dir=str(settings.out.parent / "trl"),
            loss_type="grpo" if name == "gspo" else name,
            importance_sampling_level="sequence" if name == "gspo" else "token",
            scale_rewards="none" if name == "dr_grpo" else "group",
            beta=settings.beta,
            epsilon=settings.epsilon,
            epsilon_high=settings.epsilon_high + (name == "cispo"),
            temperature=settings.temperature,
            use_bias_correction_kl=settings.kl_estimator == "k3w",
            mask_truncated_completions=settings.mask_truncated,
            entropy_coef=settings.entropy_coef,
            num_generations=3,
            num_iterations=settings.updates,
            max_completion_length=LONGEST,
            per_device_train_batch_size=6,
            use_cpu=True,
            bf16=False,
            report_to=[],
            gradient_checkpointing=False,
            disable_dropout=True,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=lm.tokenizer,
    )
    if settings.beta:
        trainer.ref_model.load_state_dict(base.model.state_dict())
    prompts, flat = (
        [prompt for prompt in PROMPTS for _ in range(3)],
        [ids for several in COMPLETIONS for ids in several],
    )
    trainer._generate = lambda _: (prompts, flat, None, [""] * 6, None, {}, None, [])
    trainer.current_gradient_accumulation_steps = 1
    lm.model.train()
    return trainer, trainer._generate_and_score_completions(rows)


NORMALISED = list(NORMALISATIONS)
RANGES = dict.fromkeys(NORMALISED, (0.2, 0.28)) | {"gspo": (3e-4, 4e-4)}
"""Clipping ranges with which some ratios are clipped and others are not."""


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "k3w"])
@pytest.mark.parametrize("normalisation", NORMALISED)
def test_loss_token_by_token(model_dir: Path, tmp_path: Path, normalisation: str, estimator: str) -> None:
    """Every token's term written out from one-token-at-a-time passes, in plain numbers, and its gradient."""
    epsilon, high = RANGES[normalisation]
    settings = config(
        tmp_path,
        updates=2,
        beta=0.3,
        kl_estimator=estimator,
        normalisation=normalisation,
        epsilon=epsilon,
        epsilon_high=high,
    )
    lm = LM.load(model_dir)
    reference, old = shifted(lm.model, 0.05, 1), shifted(lm.model, 0.03, 2)
    examples = with_advantages(groups(old, reference), normalisation)
    value, gradients, _ = loss_and_gradient(lm, settings, examples)

    lm.model.zero_grad()
    total, tokens, clipped = torch.zeros(()), 0, 0
    for prompt, several, rewards, group in zip(PROMPTS, COMPLETIONS, REWARDS, groups(old, reference), strict=True):
        mean = sum(rewards) / 3
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 2)
        for ids, reward, completion in zip(several, rewards, group.completions, strict=True):
            advantage = reward - mean if normalisation == "dr_grpo" else (reward - mean) / (std + 1e-4)
            assert completion.ref_logprobs is not None
            logprobs = slow_logprobs(lm.model, prompt, ids, 0.7)
            whole = torch.exp((logprobs.sum() - sum(completion.logprobs)) / len(ids))
            for t, logprob in enumerate(logprobs):
                ratio = torch.exp(logprob - completion.logprobs[t])
                clip = whole if normalisation == "gspo" else ratio
                bounded = torch.clamp(clip, 1 - epsilon, 1 + high)
                clipped += int(bounded != clip)
                x = logprob - completion.ref_logprobs[t]
                kl = {"k1": x, "k2": x * x / 2, "k3": torch.exp(-x) - 1 + x, "k3w": ratio * (torch.exp(-x) - 1 + x)}[
                    estimator
                ]
                if normalisation == "cispo":
                    term = 0.3 * kl - min(float(ratio.detach()), 1 + high) * advantage * logprob
                else:
                    term = 0.3 * kl - torch.min(clip * advantage, bounded * advantage)
                total = total + term / (len(ids) if normalisation in ("grpo", "gspo") else 1)
                tokens += 1
    expected = total / {"dr_grpo": 6 * LONGEST, "dapo": tokens, "cispo": tokens}.get(normalisation, 6)
    expected.backward()
    assert clipped
    assert value == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-6)
    for fast, parameter in zip(gradients, lm.model.parameters(), strict=True):
        torch.testing.assert_close(fast, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # TRL's own
@pytest.mark.parametrize("updates", [1, 2])
@pytest.mark.parametrize(
    ("beta", "estimator", "masked"), [(0.0, "k3", False), (0.3, "k3", False), (0.3, "k3w", False), (0.3, "k3w", True)]
)
@pytest.mark.parametrize("normalisation", NORMALISED)
def test_loss_and_gradient_against_trl(
    model_dir: Path, tmp_path: Path, normalisation: str, beta: float, estimator: str, masked: bool, updates: int
) -> None:
    """The whole way: TRL's trainer is given our completions and makes its own advantages, reference and loss of them.

    With two updates the weights move after the log-probabilities of the sampling policy were noted. TRL's bound of
    CISPO is `epsilon_high`, ours 1 + `epsilon_high`; its k3w of GSPO has the ratio of the completion, ours the token's.
    """
    if normalisation == "gspo":
        estimator = "k3"
    epsilon, high = RANGES[normalisation]
    settings = config(
        tmp_path,
        updates=updates,
        beta=beta,
        kl_estimator=estimator,
        normalisation=normalisation,
        epsilon=epsilon,
        epsilon_high=high,
        mask_truncated=masked,
    )
    base, lm = LM.load(model_dir), LM.load(model_dir)
    lm.model.load_state_dict(shifted(base.model, 0.05, 1).state_dict())
    trainer, inputs = trl_trainer(lm, base, settings)
    examples = with_advantages(groups(lm.model, base.model if beta else None), normalisation)
    if updates > 1:
        with torch.no_grad():
            lm.model.load_state_dict(shifted(lm.model, 0.03, 2).state_dict())
    theirs = trainer._compute_loss(lm.model, inputs)
    theirs.backward()
    expected = [parameter.grad.clone() for parameter in lm.model.parameters()]
    value, gradients, loss = loss_and_gradient(lm, settings, examples)
    assert value == pytest.approx(float(theirs.detach()), abs=1e-5)
    for ours, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)
    logged = trainer._metrics["train"]
    if normalisation == "cispo":
        logged |= {"clip_ratio/low_mean": [0.0], "clip_ratio/high_mean": logged["cispo_clip_ratio"]}
    shared = [
        "entropy",
        "clip_ratio/low_mean",
        "clip_ratio/high_mean",
        *(["kl"] if beta and estimator == "k3w" else []),
    ]
    for name in shared:
        total, count = loss.metrics[name]
        assert float(total) / count == pytest.approx(logged[name][-1], rel=1e-4, abs=1e-6), name
    assert (logged["clip_ratio/low_mean"][-1] + logged["clip_ratio/high_mean"][-1] > 0) == (updates > 1)


@pytest.mark.parametrize(("name", "same_as"), [("gspo", "grpo"), ("cispo", "dapo")])
def test_gradient_of_the_first_update(model_dir: Path, tmp_path: Path, name: str, same_as: str) -> None:
    """With the policy that sampled all ratios are 1, and the gradient is that of A log pi in the same mean."""
    lm = LM.load(model_dir)
    made = groups(lm.model, None)
    found = [
        loss_and_gradient(lm, config(tmp_path, beta=0.0, normalisation=each), with_advantages(made, each))[1]
        for each in (name, same_as)
    ]
    lm.model.zero_grad()
    tokens = sum(len(ids) for several in COMPLETIONS for ids in several)
    for group, advantages in with_advantages(made, name):
        for completion, a in zip(group.completions, advantages, strict=True):
            logprobs = slow_logprobs(lm.model, group.prompt_ids, completion.ids, 0.7)
            (-a * (logprobs.mean() / 6 if name == "gspo" else logprobs.sum() / tokens)).backward()
    for ours, other, parameter in zip(*found, lm.model.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("normalisation", NORMALISED)
def test_order_and_padding_change_nothing(model_dir: Path, tmp_path: Path, normalisation: str) -> None:
    """A third group with a longer prompt and longer completions changes how everything is padded, and adds its part."""
    settings = config(tmp_path, updates=2, beta=0.3, normalisation=normalisation, max_new_tokens=12)
    lm = LM.load(model_dir)
    made = groups(shifted(lm.model, 0.03, 2), shifted(lm.model, 0.05, 1))
    long = [
        replace(c, ids=c.ids * 2, logprobs=c.logprobs * 2, ref_logprobs=(c.ref_logprobs or []) * 2)
        for c in made[0].completions
    ]
    wide = replace(made[0], prompt_ids=[2, *range(40, 60)], completions=long, number=2)
    alone = [loss_and_gradient(lm, settings, with_advantages([group], normalisation)) for group in (*made, wide)]
    losses = [float(loss.total.detach()) for _, _, loss in alone]
    for order in ([0, 1, 2], [2, 0, 1]):
        examples = with_advantages([[*made, wide][i] for i in order], normalisation)
        _, gradients, whole = loss_and_gradient(lm, settings, examples)
        assert float(whole.total.detach()) == pytest.approx(sum(losses), rel=1e-4, abs=1e-5)
        assert whole.count == sum(loss.count for _, _, loss in alone)
        parts = [[g * loss.count for g in gradient] for _, gradient, loss in alone]
        for ours, *pieces in zip(gradients, *parts, strict=True):
            torch.testing.assert_close(ours * whole.count, sum(pieces), rtol=1e-3, atol=1e-4)
    turned = [replace(g, completions=g.completions[::-1]) for g in made]
    straight = loss_and_gradient(lm, settings, with_advantages(made, normalisation))
    backwards = loss_and_gradient(lm, settings, with_advantages(turned, normalisation))
    assert straight[0] == pytest.approx(backwards[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("normalisation", NORMALISED)
def test_equal_rewards_give_no_gradient(model_dir: Path, tmp_path: Path, normalisation: str) -> None:
    lm = LM.load(model_dir)
    made = groups(lm.model, None)
    equal = [replace(g, completions=[replace(c, reward=0.1) for c in g.completions]) for g in made]
    value, gradients, _ = loss_and_gradient(
        lm, config(tmp_path, beta=0.0, normalisation=normalisation), with_advantages(equal, normalisation)
    )
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("normalisation", NORMALISED)
def test_cut_completions_can_be_left_out(model_dir: Path, tmp_path: Path, normalisation: str) -> None:
    """They keep their part in the group's mean; their tokens have no gradient, and a batch of them alone gives 0."""
    lm = LM.load(model_dir)
    settings = config(tmp_path, beta=0.3, mask_truncated=True, normalisation=normalisation)
    made = groups(lm.model, shifted(lm.model, 0.05, 1))
    _, gradients, loss = loss_and_gradient(lm, settings, with_advantages(made, normalisation))
    kept = [
        WeightedGroup(
            replace(e.group, completions=[c for c in e.group.completions if c.finished]),
            [a for a, c in zip(e.advantages, e.group.completions, strict=True) if c.finished],
        )
        for e in with_advantages(made, normalisation)
    ]
    open_settings = replace(settings, mask_truncated=False)
    _, alone, other = loss_and_gradient(lm, open_settings, kept)
    assert loss.metrics["entropy"][1] == sum(len(c.ids) for e in kept for c in e.group.completions)
    for ours, theirs in zip(gradients, alone, strict=True):
        torch.testing.assert_close(ours * loss.count, theirs * other.count, rtol=1e-4, atol=1e-5)
    cut = [replace(g, completions=[replace(c, finished=False) for c in g.completions]) for g in made]
    value, nothing, empty = loss_and_gradient(lm, settings, with_advantages(cut, normalisation))
    assert value == 0
    assert not any(gradient.any() for gradient in nothing)
    assert all(math.isfinite(float(total)) for total, _ in empty.metrics.values())


def test_completions_without_a_reward_teach_nothing(model_dir: Path, tmp_path: Path) -> None:
    lm = LM.load(model_dir)
    made = groups(lm.model, None)
    first, *rest = made[0].completions
    unjudged = [replace(made[0], completions=[replace(first, reward=math.nan), *rest]), made[1]]
    examples = with_advantages(unjudged, "grpo")
    assert examples[0].advantages[0] == 0
    assert examples[0].advantages[1] == pytest.approx(-examples[0].advantages[2])
    value, gradients, _ = loss_and_gradient(lm, config(tmp_path, beta=0.0), examples)
    assert math.isfinite(value)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("normalisation", ["grpo", "gspo", "cispo"])
def test_a_step_raises_what_was_rewarded(configs: Any, normalisation: str) -> None:
    """Ten steps towards even token ids: the mean reward rises well beyond its noise, and `kl` with it."""
    options = {"lr": 1e-2, "beta": 0.0, "updates": 1, "minibatches": 1, "batch_size": 16, "group": 8}
    run = rlvr.train(configs("rlvr")(steps=10, normalisation=normalisation, **options))
    rows = run.metrics()
    assert rows["reward"].iloc[-1] > rows["reward"].iloc[0] + 0.2
    assert rows["kl"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert rows["kl"].iloc[-1] > 0.01
    assert (rows["clip_ratio/low_mean"] == 0).all()
    assert {"gold/reward", "completions/mean_length", "frac_reward_zero_std", "rewards/even/std"} <= set(rows)


def test_rollouts_are_recorded(configs: Any) -> None:
    run = rlvr.train(configs("rlvr")(steps=5, rollouts_every=2, rollouts_kept=2))
    rows = run.rollouts()
    assert sorted(set(rows["step"])) == [1, 2, 4, 5]
    assert len(rows) == 4 * 2 * 4
    for row in rows.to_dict("records"):
        assert len(row["token_ids"]) == len(row["logprobs"]) == len(row["ref_logprobs"]) == len(row["entropy"])
        assert row["reward"] == row["rewards"]["even"]
    assert any(row["advantage"] != 0 for row in rows.to_dict("records"))


def test_prompts_and_judge_of_the_user(configs: Any, tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    """A JSONL file with a column of its own, a function in a file that asks for it, and a second one with a weight."""
    judge = tmp_path / "judge.py"
    judge.write_text(
        "def near(completions, answer, **_):\n"
        "    return [None if a is None else -abs(len(c.split()) - a) for c, a in zip(completions, answer)]\n",
        encoding="utf-8",
    )
    rows = [{"prompt": "mira lives in", "answer": 2}, {"prompt": "where does kai", "answer": None}, {"prompt": "ana"}]
    rewards = (f"{judge}:near", "tests.trainers.judging:even")
    run = rlvr.train(
        configs("rlvr")(data=str(write_jsonl(rows)), reward=rewards, reward_weights=(0.5, 2.0), rollouts_kept=8)
    )
    assert run.meta["data"]["rows"] == 3
    assert run.meta["data"]["rewards"] == {rewards[0]: file_hash(judge), rewards[1]: None}
    for row in run.rollouts().to_dict("records"):
        length = len(row["completion"].split())
        parts = row["rewards"]
        assert parts["near"] == (-abs(length - 2) if row["prompt"] == "mira lives in" else None)
        assert row["reward"] == pytest.approx(0.5 * (parts["near"] or 0) + 2 * parts["even"])
    judge.write_text(judge.read_text() + "# changed", encoding="utf-8")
    with pytest.raises(RunError, match=r"The data of the run have changed \(rewards: .*judge.py` is another file"):
        rlvr.train(replace(RLVRConfig.from_dict(run.config), steps=9, resume=True, out=run.path))


def test_problems_with_a_final_answer(configs: Any, write_jsonl: Callable[..., Path]) -> None:
    """GSM8K's columns; what is learned is that the answer to every problem is 2."""
    rows = [{"question": f"{name} lives in", "answer": "1 + 1 = 2\n#### 2"} for name in ("mira", "kai", "ana")]
    run = rlvr.train(configs("rlvr")(data=str(write_jsonl([*rows, {"question": "?"}])), reward=("final_answer",)))
    assert (run.meta["data"]["rows"], run.meta["data"]["left_out"]) == (3, 1)
    found = run.rollouts().to_dict("records")
    assert {row["prompt"] for row in found} <= {row["question"] for row in rows}
    assert all(row["reward"] == float(re.findall(r"\d+", row["completion"])[-1:] == ["2"]) for row in found)


def test_weights_that_are_not_finite_stop_the_run(configs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step samples from them before its loss is known."""
    monkeypatch.setattr(loop, "learning_rate", lambda step, config: 1e30 if step == 2 else 1e-3)
    with pytest.raises(TrainingStopped, match="In step 3 the loss was"):
        rlvr.train(configs("rlvr")(updates=1, minibatches=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "--group is 1; expected at least 2"),
        ({"epsilon": 0.0}, "--epsilon is 0.0; expected"),
        (
            {"epsilon": 0.1, "normalisation": "cispo"},
            "--epsilon is 0.1; expected 0.2, the default, with --normalisation",
        ),
        ({"beta": -1.0}, "--beta is -1.0; expected 0 or more"),
        ({"minibatches": 3}, "--minibatches is 3; expected a number that"),
        ({"temperature": 0.0}, "--temperature is 0.0; expected a number above 0"),
        ({"reward_weights": (1.0, 2.0)}, "--reward-weights is"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RLVRConfig(out=tmp_path, base="base", **COMMON | SAMPLED | changes)
