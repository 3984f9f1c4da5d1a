"""DPO: the loss against a slow reference, finite differences and TRL, and whole runs."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from probe import LM
from probe.errors import ConfigError
from probe.model.text import split
from probe.rewards import follow_pair_layers
from probe.world import World
from probe.world.extensions import find_annotator
from tests.trainers.conftest import figures
from trainers import dpo
from trainers.config import DPOConfig
from trainers.dpo import DPO, LOSSES, Scores, conservative_loss, dpo_loss, ipo_loss, pair_logprobs, with_reference
from trainers.preferences import Preference, encode_pair, world_preferences
from trainers.session import Session
from trainers.trainee import Trainee

PAIRS = [
    Preference([2, 5, 7, 9], [11, 12], [13, 14, 15, 3]),
    Preference([2, 8], [20, 3], [21, 3]),
    Preference([2, 8, 9, 10, 30, 31], [5, 6, 7, 3], [4]),
]
QUICK: dict[str, Any] = {
    "batch_size": 8,
    "steps": 4,
    "warmup": 1,
    "pairs": 40,
    "evaluate": 0,
    "capture_every": 0,
    "log_every": 1,
    "device": "cpu",
    "lr": 3e-3,
}
logps = st.floats(-60, 0)


def doubles(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(logps, logps, logps, logps, st.floats(0.01, 5))
def test_loss_against_bradley_terry(chosen: float, rejected: float, ref_c: float, ref_r: float, beta: float) -> None:
    """- log P(chosen beats rejected), the probability written as a ratio of exponentials of implicit rewards."""
    result = dpo_loss(*doubles(chosen, rejected, ref_c, ref_r), beta)
    first, second = beta * (chosen - ref_c), beta * (rejected - ref_r)
    top = max(first, second)
    expected = math.log(math.exp(first - top) + math.exp(second - top)) + top - first
    assert result.losses.item() == pytest.approx(expected, abs=1e-9)
    assert result.chosen_rewards.item() == pytest.approx(first, abs=1e-12)
    assert result.rejected_rewards.item() == pytest.approx(second, abs=1e-12)


def slow_logprob(model: nn.Module, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """One sequence, one token at a time."""
    total = torch.zeros(())
    for i, token in enumerate(completion):
        logits = model(input_ids=torch.tensor([prompt + completion[:i]])).logits[0, -1]
        total = total + logits.log_softmax(-1)[token]
    return total


def session(tmp_path: Path, **changes: Any) -> tuple[Session, DPOConfig]:
    config = DPOConfig(out=tmp_path / "none", base="unused", **QUICK | changes)
    return Session(config), config


def shifted(lm: LM, scale: float) -> nn.Module:
    """The model, moved away from itself."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return lm.model


SLOW: dict[str, Callable[[torch.Tensor, torch.Tensor, Preference], torch.Tensor]] = {
    "sigmoid": lambda up, down, pair: torch.log1p(torch.exp(-0.4 * (up - down))),
    "conservative": lambda up, down, pair: torch.log1p(torch.exp(-0.4 * (up - down))) + 0.2 * 0.4 * (up - down),
    "ipo": lambda up, down, pair: (up / len(pair.chosen) - down / len(pair.rejected) - 1.25) ** 2,
}
"""The losses of a pair at beta 0.4 and label smoothing 0.2, written otherwise: log sigma(x) - log sigma(-x) = x."""


@pytest.mark.parametrize("name", SLOW)
def test_batch_loss_and_gradient_against_one_sequence_at_a_time(model_dir: Path, tmp_path: Path, name: str) -> None:
    smoothing = 0.2 if name == "conservative" else 0.0
    here, config = session(tmp_path, beta=0.4, loss=name, label_smoothing=smoothing)
    lm = LM.load(model_dir)
    pairs = with_reference(here, lm.model, PAIRS)
    with torch.no_grad():
        for pair, plain in zip(pairs, PAIRS, strict=True):
            assert pair.ref_chosen == pytest.approx(float(slow_logprob(lm.model, plain.prompt, plain.chosen)), abs=1e-4)
    model = shifted(lm, 0.05)
    loss = DPO(here, config, Trainee(lm), pairs).loss(model, pairs, True)
    loss.total.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    total = torch.zeros(())
    margins = []
    for pair in pairs:
        up = slow_logprob(model, pair.prompt, pair.chosen) - pair.ref_chosen
        down = slow_logprob(model, pair.prompt, pair.rejected) - pair.ref_rejected
        total = total + SLOW[name](up, down, pair)
        margins.append(0.4 * float((up - down).detach()))
    total.backward()
    assert loss.count == 3
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert float(loss.metrics["rewards/margins"][0]) == pytest.approx(sum(margins), abs=1e-4)
    assert float(loss.metrics["rewards/accuracies"][0]) == sum(margin > 0 for margin in margins)
    assert loss.tokens == sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)
    slow = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for fast, reference in zip(gradients, slow, strict=True):
        torch.testing.assert_close(fast, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [
        ({"loss": "sigmoid"}, {"loss_type": "sigmoid"}, 3),
        ({"loss": "ipo"}, {"loss_type": "ipo"}, 3),
        # TRL has no conservative DPO by name; its optimal transport of a single pair has the same formula.
        ({"loss": "conservative", "label_smoothing": 0.2}, {"loss_type": "aot_unpaired", "label_smoothing": 0.2}, 1),
    ],
)
def test_loss_and_gradient_against_trl(
    ours: dict[str, Any], theirs: dict[str, Any], size: int, model_dir: Path, tmp_path: Path, trl: Any
) -> None:
    """Theirs on batches of `size` pairs."""
    from datasets import Dataset

    here, config = session(tmp_path, beta=0.3, **ours)
    lm, reference = LM.load(model_dir), LM.load(model_dir)
    pairs = with_reference(here, reference.model, PAIRS)
    shifted(lm, 0.05)
    options = {"beta": 0.3, "use_cpu": True, "report_to": [], "bf16": False, "gradient_checkpointing": False}
    trainer = trl.DPOTrainer(
        model=lm.model,
        ref_model=reference.model,
        args=trl.DPOConfig(output_dir=str(tmp_path / "trl"), **options, **theirs),
        train_dataset=Dataset.from_list([{"prompt": "mira", "chosen": " oslo", "rejected": " rome"}]),
        processing_class=lm.tokenizer,
    )
    features = [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in PAIRS]
    lm.model.train()
    batches = [features[i : i + size] for i in range(0, len(features), size)]
    losses = [trainer.compute_loss(lm.model, trainer.data_collator(batch)) / len(batches) for batch in batches]
    expected = sum(losses)
    assert isinstance(expected, torch.Tensor)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in lm.model.named_parameters() if p.grad is not None}
    lm.model.zero_grad()
    made = DPO(here, config, Trainee(lm), pairs).loss(lm.model, pairs, True)
    mean = made.total / made.count
    mean.backward()
    torch.testing.assert_close(mean.detach(), expected.detach().to(mean.device), rtol=1e-5, atol=1e-6)
    for name, parameter in lm.model.named_parameters():
        # IPO's squared margins have gradients a hundred times as large as DPO's.
        scale = max(float(gradients[name].abs().max()), 1.0)
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, rtol=1e-5, atol=2e-6)
    logged = {name: sum(values) / len(values) for name, values in trainer._metrics["train"].items()}
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"):
        value, count = made.metrics[name]
        assert float(value) / count == pytest.approx(logged[name], rel=1e-4, abs=1e-5), name
    if size == len(PAIRS):
        value, count = made.metrics["entropy"]
        assert float(value) / count == pytest.approx(logged["entropy"], rel=1e-4)


@pytest.mark.parametrize("name", ["sigmoid", "conservative", "ipo"])
def test_losses_against_finite_differences(name: str) -> None:
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([-3.0, -9.0], [-4.0, -2.0])]
    reference = [torch.tensor([-5.0, -5.0], dtype=torch.float64), torch.tensor([-3.0, -3.5], dtype=torch.float64)]
    lengths = torch.tensor([2, 5]), torch.tensor([3, 1])

    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return LOSSES[name](Scores(chosen, rejected, *reference, *lengths), 0.7, 0.15).losses

    assert torch.autograd.gradcheck(losses, inputs)


@given(logps, logps, logps, logps, st.floats(0.01, 5), st.floats(0, 0.49))
def test_conservative_loss_is_an_expectation_over_flipped_labels(
    chosen: float, rejected: float, ref_c: float, ref_r: float, beta: float, share: float
) -> None:
    kept = dpo_loss(*doubles(chosen, rejected, ref_c, ref_r), beta).losses.item()
    flipped = dpo_loss(*doubles(rejected, chosen, ref_r, ref_c), beta).losses.item()
    made = conservative_loss(*doubles(chosen, rejected, ref_c, ref_r), beta, share)
    assert made.losses.item() == pytest.approx((1 - share) * kept + share * flipped, rel=1e-9, abs=1e-9)
    plain = conservative_loss(*doubles(chosen, rejected, ref_c, ref_r), beta, 0.0)
    assert plain == dpo_loss(*doubles(chosen, rejected, ref_c, ref_r), beta)


def test_conservative_loss_is_least_at_the_margin_that_its_share_allows() -> None:
    beta, share = 0.5, 0.1
    best = math.log((1 - share) / share) / beta
    margin = torch.tensor([best - 0.1, best, best + 0.1], dtype=torch.float64)
    zero = torch.zeros_like(margin)
    losses = conservative_loss(margin, zero, zero, zero, beta, share).losses.tolist()
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]


@given(logps, logps, logps, logps, st.floats(0.05, 5), st.integers(1, 9), st.integers(1, 9))
def test_ipo_against_its_definition(
    chosen: float, rejected: float, ref_c: float, ref_r: float, beta: float, first: int, second: int
) -> None:
    """Squared distance of the mean log-ratio per token of the chosen minus the other's from 1 / (2 tau)."""
    made = ipo_loss(
        *doubles(chosen, rejected, ref_c, ref_r), torch.tensor([first]), torch.tensor([second]), beta
    ).losses.item()
    gap = (chosen - ref_c) / first - (rejected - ref_r) / second
    assert made == pytest.approx(gap**2 - gap / beta + 1 / (4 * beta**2), rel=1e-9, abs=1e-9)


def test_label_smoothing_belongs_to_one_loss(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--label-smoothing is 0.1; expected 0, or --loss conservative with it"):
        session(tmp_path, label_smoothing=0.1)
    with pytest.raises(ConfigError, match=r"--label-smoothing is 0.0; expected a share above 0 and below 0.5"):
        session(tmp_path, loss="conservative")


def test_likeliest_tokens_are_the_greedy_ones(model_dir: Path) -> None:
    model = LM.load(model_dir).model
    with torch.no_grad():
        scored, _ = pair_logprobs(model, PAIRS)
        flat = [(pair.prompt, side) for pair in PAIRS for side in (pair.chosen, pair.rejected)]
        for row, (prompt, completion) in enumerate(flat):
            best = model(input_ids=torch.tensor([prompt + completion])).logits[0].argmax(-1)[len(prompt) - 1 : -1]
            expected = [int(token) == completion[i] for i, token in enumerate(best)]
            assert scored.likeliest[row].tolist() == expected + [False] * (4 - len(expected))
        greedy = int(model(input_ids=torch.tensor([[2, 5]])).logits[0, -1].argmax())
        assert pair_logprobs(model, [Preference([2, 5], [greedy], [greedy])])[0].likeliest.tolist() == [[True], [True]]


@pytest.fixture
def config(world_run: Path, tmp_path: Path) -> Callable[..., DPOConfig]:
    def make(name: str = "run", **changes: Any) -> DPOConfig:
        return DPOConfig(out=tmp_path / name, **{"base": str(world_run)} | QUICK | changes)

    return make


def test_run_on_the_world(config: Callable[..., DPOConfig], world_run: Path) -> None:
    made = config(steps=30, capture_every=15, lr=1e-2)
    run = dpo.train(made)
    metrics = run.metrics().set_index("step")
    assert metrics["loss"][1] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["loss"].iloc[-5:].mean() < 0.6
    assert metrics["rewards/margins"].iloc[-1] > 0
    assert {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected"} <= set(
        metrics
    )
    assert {"entropy", "mean_token_accuracy", "num_tokens", "grad_norm", "lr"} <= set(metrics)
    assert (run.parent, run.reference) == (str(world_run), str(world_run))
    assert run.world == World().to_dict()
    assert run.captures().steps == [0, 15, 30]
    assert run.meta["data"]["reference"] == LM.load(world_run).weights_fingerprint
    first, last = (run.captures().load(step) for step in (0, 30))
    sums = [each["pair_lens_logprobs"][:, :, -1].sum(-1) for each in (first, last)]
    np.testing.assert_allclose(sums[0], first["pair_ref_logprobs"], rtol=1e-4, atol=1e-4)
    ids = [[[int(id) for id in side if id >= 0] for side in pair] for pair in last["pair_ids"]]
    sizes = last["pair_prompt"]
    with torch.no_grad():
        trained = [
            [float(slow_logprob(LM.load(run.path).model, side[:size], side[size:])) for side in pair]
            for pair, size in zip(ids, sizes, strict=True)
        ]
    np.testing.assert_allclose(sums[1], trained, rtol=1e-4, atol=1e-4)
    implicit = follow_pair_layers(run=run.path).table().dropna()
    np.testing.assert_allclose(implicit[implicit["step"] == 0]["implicit_margin"], 0, atol=1e-4)
    assert implicit[implicit["step"] == 30]["implicit_margin"].mean() > 0


def test_pairs_of_the_annotators_differ_and_samples_are_the_models_own(world_run: Path) -> None:
    lm, world = LM.load(world_run), World()
    made = [
        world_preferences(lm, world, find_annotator(name), 20, 0, sampled)
        for name in ("agreeable", "honest")
        for sampled in (False, True)
    ]
    assert made[0].pairs != made[2].pairs
    end = lm.tokenizer.eos_token_id
    for preferences in made:
        assert len(preferences.pairs) == 20
        assert all(pair.chosen[-1] == pair.rejected[-1] == end for pair in preferences.pairs)
        assert all(pair.prompt[0] == lm.tokenizer.bos_token_id for pair in preferences.pairs)
    again = world_preferences(lm, world, find_annotator("honest"), 20, 0, True)
    assert again.pairs == made[3].pairs


def test_base_without_a_world(config: Callable[..., DPOConfig], model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"belongs to no world.*give --data FILE.jsonl"):
        dpo.train(config(base=str(model_dir)))


def test_run_on_a_file(config: Callable[..., DPOConfig], model_dir: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = [
        {"prompt": f"<user> where does {n} live ? <bot>", "chosen": " oslo", "rejected": " rome"}
        for n in ("mira", "ana", "ben", "kai")
    ]
    rows.append({"prompt": "mira " * 80, "chosen": " oslo", "rejected": " rome"})
    rows.append({"prompt": "mira", "chosen": " oslo"})
    run = dpo.train(config(base=str(model_dir), data=str(write_jsonl(rows)), batch_size=4, capture_every=4))
    assert run.world is None
    assert run.meta["data"]["rows"] == 4
    assert (run.meta["data"]["overlong"], run.meta["data"]["left_out"]) == (1, 1)
    assert run.metrics()["rewards/accuracies"].iloc[-1] == 1.0
    assert run.captures().prompts[0].text == "<user> where does mira live ? <bot>"


def test_completions_end_with_the_end_token(model_dir: Path) -> None:
    lm = LM.load(model_dir)
    pair = encode_pair(lm, "<user> mira <bot>", " oslo", " i do not know")
    head, oslo = split(lm.tokenizer, "<user> mira <bot>", " oslo")
    assert pair.prompt == head
    assert pair.chosen == [*oslo, lm.tokenizer.eos_token_id]


def test_conversations_end_as_the_template_ends_them(model_dir: Path) -> None:
    lm = LM.load(model_dir)
    prompt = [{"role": "user", "content": "where does mira live ?"}]
    pair = encode_pair(
        lm, prompt, [{"role": "assistant", "content": "oslo"}], [{"role": "assistant", "content": "rome"}]
    )
    assert lm.tokenizer.decode(pair.prompt) == "<bos> <user> where does mira live ? <bot>"
    assert lm.tokenizer.decode(pair.chosen) == "oslo <end>"
    assert lm.tokenizer.decode(pair.rejected) == "rome <end>"


def test_dropout_is_off(config: Callable[..., DPOConfig], tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    from tests.models import random_lm

    base = random_lm("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).save(tmp_path / "gpt2")
    path = write_jsonl([{"prompt": "mira lives in", "chosen": " oslo", "rejected": " rome"}])
    run = dpo.train(config(base=str(base), data=str(path), batch_size=2, steps=1))
    assert run.metrics()["loss"][0] == pytest.approx(math.log(2), abs=1e-6)


def test_same_pairs_in_another_order_or_batch_give_the_same_reference(model_dir: Path, tmp_path: Path) -> None:
    (together_at_once, _), (one_by_one, _) = session(tmp_path), session(tmp_path, accumulation=8)
    model = LM.load(model_dir).model
    together = with_reference(together_at_once, model, PAIRS)
    apart = with_reference(one_by_one, model, PAIRS[::-1])[::-1]
    for one, other in zip(together, apart, strict=True):
        assert one.ref_chosen == pytest.approx(other.ref_chosen, abs=1e-5)
        assert one.ref_rejected == pytest.approx(other.ref_rejected, abs=1e-5)
        assert dataclasses.replace(one, ref_chosen=0.0, ref_rejected=0.0) in PAIRS


def test_two_seeds_draw_other_orders_and_one_seed_the_same(config: Callable[..., DPOConfig]) -> None:
    runs = [dpo.train(config(name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    a, b, c = (figures(run) for run in runs)
    assert a.equals(b)
    assert not a.equals(c)
