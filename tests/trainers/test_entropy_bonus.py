"""The entropy bonus of RLVR: its gradient against autograd, finite differences and TRL, and its adapted weight."""

from pathlib import Path
from typing import Any

import pytest
import torch

from probe import LM
from probe.errors import ConfigError
from probe.model.scoring import completion_logprobs, entropy
from tests.models import random_lm
from tests.trainers.quick import train
from tests.trainers.test_rlvr import (
    LONGEST,
    RANGES,
    config,
    groups,
    loss_and_gradient,
    shifted,
    trl_trainer,
)
from trainers.config import RLVRConfig
from trainers.entropy_control import EntropyControl, mean_entropy
from trainers.rlvr import NORMALISATIONS, with_advantages

TEMPERATURE = 0.7


def slow_entropies(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """[L] with gradient, one token at a time."""
    found = []
    for t in range(len(completion)):
        logits = model(input_ids=torch.tensor([prompt + completion[:t]])).logits[0, -1] / TEMPERATURE
        found.append(torch.distributions.Categorical(logits=logits).entropy())
    return torch.stack(found)


def test_gradient_of_the_entropy() -> None:
    """By finite differences and in closed form, - p (log p + H); a token of probability 0 has none."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: entropy(x.log_softmax(-1), differentiable=True), [logits])
    logprobs = logits.log_softmax(-1)
    value = entropy(logprobs, differentiable=True)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    expected = -logprobs.exp() * (logprobs + value[:, None])
    torch.testing.assert_close(gradient, expected.detach())
    assert not entropy(logprobs).requires_grad
    with torch.no_grad():
        logits[:, 2] = -torch.inf
    value = entropy(logits.log_softmax(-1), differentiable=True)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, 2].any()


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_every_way_of_scoring_has_it(name: str) -> None:
    """As trees, with repeated keys (bloom), and each completion alone."""
    prompts, completions = [[3, 5, 7], [4, 6]], [[[8, 9, 3], [5, 6]], [[7, 8, 9, 10, 11], [3]]]
    lm = random_lm(name)
    found = []
    for share in (True, False):
        lm.model.zero_grad()
        outputs = completion_logprobs(
            lm.model, prompts, completions, temperature=TEMPERATURE, share_prompt=share, entropy_gradient=True
        )
        (outputs.entropy * torch.arange(outputs.entropy.shape[1])).sum().backward()
        found.append([p.grad.clone() for p in lm.model.parameters() if p.grad is not None])
    lm.model.zero_grad()
    for prompt, several in zip(prompts, completions, strict=True):
        for ids in several:
            (slow_entropies(lm.model, prompt, ids) * torch.arange(len(ids))).sum().backward()
    expected = [p.grad for p in lm.model.parameters() if p.grad is not None]
    for fast, plain, slow in zip(*found, expected, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain, slow, rtol=1e-4, atol=1e-5)
    assert not completion_logprobs(lm.model, prompts, completions).entropy.requires_grad


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_bonus_against_entropies_of_single_tokens(
    model_dir: Path, tmp_path: Path, normalisation: str, masked: bool
) -> None:
    """What the bonus adds to loss and gradient, averaged as the other terms of the normalisation."""
    lm = LM.load(model_dir)
    examples = with_advantages(groups(lm.model, shifted(lm.model, 0.05, 1)), normalisation)
    options = {"normalisation": normalisation, "beta": 0.1, "updates": 2, "mask_truncated": masked}
    plain, with_bonus = (
        loss_and_gradient(lm, config(tmp_path, entropy_coef=coefficient, **options), examples)
        for coefficient in (0.0, 0.4)
    )
    lm.model.zero_grad()
    total, tokens, total_of_means, n = torch.zeros(()), 0, torch.zeros(()), 0
    for example in examples:
        for completion in example.group.completions:
            n += 1
            if masked and not completion.finished:
                continue
            entropies = slow_entropies(lm.model, example.group.prompt_ids, completion.ids)
            total, tokens = total + entropies.sum(), tokens + len(entropies)
            total_of_means = total_of_means + entropies.mean()
    means = {"dapo": total / tokens, "cispo": total / tokens, "dr_grpo": total / (n * LONGEST)}
    bonus = -0.4 * means.get(normalisation, total_of_means / n)
    bonus.backward()
    assert with_bonus[0] - plain[0] == pytest.approx(float(bonus.detach()), rel=1e-4)
    for ours, before, parameter in zip(with_bonus[1], plain[1], lm.model.parameters(), strict=True):
        torch.testing.assert_close(ours - before, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # TRL's own
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalisation", ["dapo", "cispo"])
def test_loss_and_gradient_against_trl(model_dir: Path, tmp_path: Path, normalisation: str, masked: bool) -> None:
    """Where both average over tokens."""
    epsilon, high = RANGES[normalisation]
    options = {"normalisation": normalisation, "epsilon": epsilon, "epsilon_high": high, "mask_truncated": masked}
    settings = config(tmp_path, beta=0.3, entropy_coef=0.4, **options)
    base, lm = LM.load(model_dir), LM.load(model_dir)
    lm.model.load_state_dict(shifted(base.model, 0.05, 1).state_dict())
    trainer, inputs = trl_trainer(lm, base, settings)
    theirs = trainer._compute_loss(lm.model, inputs)
    theirs.backward()
    expected = [parameter.grad.clone() for parameter in lm.model.parameters()]
    value, gradients, _ = loss_and_gradient(lm, settings, with_advantages(groups(lm.model, base.model), normalisation))
    assert value == pytest.approx(float(theirs.detach()), rel=1e-4, abs=1e-5)
    for ours, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # TRL's own
def test_adapted_weight_against_trl(model_dir: Path, tmp_path: Path) -> None:
    """The same entropies, above and below the target, give the same weights; TRL's are those of the next step."""
    settings = config(tmp_path, normalisation="dapo", beta=0.0, entropy_coef=0.01)
    lm = LM.load(model_dir)
    start = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    target = 5.9
    trainer, inputs = trl_trainer(
        lm, lm, settings, use_adaptive_entropy=True, entropy_target=target, entropy_coef_delta=0.02
    )
    ours, measured = EntropyControl(0.01, target, 0.02), []
    for scale in (1.0, 1.0, 4.0, 4.0, 4.0, 1.0, 4.0):
        lm.model.load_state_dict(start)
        with torch.no_grad():
            lm.model.get_output_embeddings().weight.mul_(scale)
        trainer._compute_loss(lm.model, inputs)
        measured.append(trainer._metrics["train"]["entropy"][-1])
        start_of_step, used = ours.coefficient, ours.next(measured[-1])
        assert trainer._metrics["train"]["entropy_coef"][-1] == pytest.approx(ours.coefficient)
        assert used == (0.0 if measured[-1] > target else start_of_step)
    assert min(measured) < target < max(measured)


def test_adapted_weight_by_hand() -> None:
    control = EntropyControl(0.0, 0.5, 0.4)
    assert [control.next(value) for value in (0.4, 0.5, 0.6, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.2)] == (
        pytest.approx([0.0, 0.4, 0.0, 0.4, 0.8, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    )
    fixed = EntropyControl(0.3, 0.0, 0.4)
    assert [fixed.next(value) for value in (0.1, 9.0)] == [0.3, 0.3]
    assert mean_entropy([[1.0, 2.0, 6.0], [], [3.0]]) == 3.0
    assert mean_entropy([]) == 0.0


@pytest.mark.slow
def test_a_target_holds_the_entropy(configs: Any) -> None:
    """The reward makes the policy sure of itself: without a bonus the entropy falls far below the target."""
    make, target = configs("rlvr"), 3.5
    options: dict[str, Any] = {"steps": 40, "warmup": 0, "lr": 1e-2, "schedule": "constant", "beta": 0.0}
    free = train(make("free", **options)).metrics()
    held = train(make("held", entropy_target=target, entropy_coef_delta=0.05, **options)).metrics()
    assert free["entropy"].tail(8).mean() < 0.6 * target
    assert held["entropy"].tail(8).mean() > 0.85 * target
    assert "entropy_coef" not in free
    assert held["entropy_coef"].iloc[0] == 0
    assert held["entropy_coef"].max() > 0.05


def test_a_resumed_run_has_its_weight(configs: Any) -> None:
    make = configs("rlvr")
    options: dict[str, Any] = {"entropy_target": 99.0, "schedule": "constant", "steps": 6}
    whole = train(make("whole", **options)).metrics()
    train(make("parts", **options | {"steps": 3}))
    parts = train(make("parts", resume=True, **options)).metrics()
    assert whole["entropy_coef"].tolist() == pytest.approx([0.0, 0.005, 0.01, 0.015, 0.02, 0.025])
    assert parts["entropy_coef"].tolist() == whole["entropy_coef"].tolist()
    assert parts["loss"].tolist() == whole["loss"].tolist()


def test_options() -> None:
    options: dict[str, Any] = {"out": Path("x"), "base": "y", "normalisation": "dr_grpo"}
    assert RLVRConfig(**options).price
    assert RLVRConfig(**options, entropy_coef=0.1).price is RLVRConfig(**options, entropy_target=0.1).price is None
    for name, value, expected in (
        ("entropy_coef", -0.1, "0 or more"),
        ("entropy_target", -0.1, "0 or more"),
        ("entropy_coef_delta", 0.0, "a number above 0"),
    ):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is {value}; expected {expected}"):
            RLVRConfig(**options, **{name: value})
