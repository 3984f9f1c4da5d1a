"""What `ProbeCallback` adds to the log of another trainer, against slow computations and Probe's own trainers."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from probe import LM, open_run
from probe.diagnosis import diagnose
from probe.integrations import ProbeCallback
from probe.recording import trl_rollouts
from probe.recording.block_metrics import SAMPLE
from tests.models import random_lm, saved_lm
from tests.recording.test_integrations import QUIET, Texts
from tests.recording.test_trl import SAMPLERS, sampler, watch
from tests.trainers.quick import quick_config, short_run, small_model, train
from tests.trainers.test_block_metrics import PARTS, columns
from tests.trainers.test_signs import slow_groups

KINDS = ("grad_norm", "update_ratio")


class ByHand(TrainerCallback):
    """Gradients before clipping and weights around each update, in double precision."""

    def __init__(self) -> None:
        self.slopes: list[dict[str, Tensor]] = []
        self.weights: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def see(self, model: Any) -> None:
        named = model.named_parameters()
        self.slopes.append({name: each.grad.double().clone() for name, each in named if each.grad is not None})

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights.append((copies(model), {}))
        if len(self.slopes) < len(self.weights):  # nothing is clipped
            self.see(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights[-1][1].update(copies(model))


class Followed(Trainer):
    """A trainer that keeps its gradients before it clips them."""

    hand: ByHand

    def _clip_grad_norm(self, model: Any) -> Any:
        self.hand.see(model)
        return super()._clip_grad_norm(model)


def copies(model: Any) -> dict[str, Tensor]:
    return {name: each.detach().double().clone() for name, each in model.named_parameters() if each.requires_grad}


def follow(model: Any, lm: LM, folder: Path, **options: Any) -> tuple[Any, ByHand]:
    """Train 4 steps; return the metrics of the run by step, and what was seen by hand."""
    settings = {**QUIET, "max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    args = TrainingArguments(output_dir=str(folder / "theirs"), **settings | options)
    hand = ByHand()
    callbacks = [ProbeCallback(folder / "run", every=0, checkpoint=False), hand]
    made = Followed(model, args, train_dataset=Texts(lm), processing_class=lm.tokenizer, callbacks=callbacks)
    made.hand = hand
    made.train()
    return open_run(folder / "run").metrics().dropna(subset=["grad_norm"]).set_index("step"), hand


def expect_parts(metrics: Any, hand: ByHand, patterns: dict[str, str]) -> None:
    """The logged parts are those of the slow computation, and add up to the logged norm."""
    for kind in KINDS:
        assert columns(metrics, kind) == [f"{kind}/{part}" for part in patterns]
    for step, row in metrics.iterrows():
        slopes, (old, new) = hand.slopes[step - 1], hand.weights[step - 1]
        for part, pattern in patterns.items():
            names = [name for name in slopes if re.search(pattern, name)]
            norm = math.sqrt(sum(float(slopes[name].square().sum()) for name in names))
            assert row[f"grad_norm/{part}"] == pytest.approx(norm, rel=1e-4, abs=1e-9)
            first = {name: slice(0, max(SAMPLE // max(old[name][0].numel(), 1), 1)) for name in names}
            change = sum(float((new[n] - old[n])[first[n]].square().sum()) for n in names)
            size = sum(float(old[n][first[n]].square().sum()) for n in names)
            assert change
            assert row[f"update_ratio/{part}"] == pytest.approx(math.sqrt(change / size), rel=1e-4)
    whole = np.sqrt(metrics[columns(metrics, "grad_norm")].pow(2).sum(axis=1))
    np.testing.assert_allclose(whole, metrics["grad_norm"], rtol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"max_grad_norm": 1e-3}, {"max_grad_norm": 0.0}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_parts_of_a_trainer_by_hand(tmp_path: Path, options: dict[str, Any]) -> None:
    """Gradients are those before clipping, of a whole accumulated batch."""
    lm = random_lm(tie_word_embeddings=False)
    metrics, hand = follow(lm.model, lm, tmp_path, **options)
    assert metrics.index.tolist() == [2, 4]
    expect_parts(metrics, hand, PARTS)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_parts_of_an_adapter_by_hand(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lm = random_lm()
    model = peft.get_peft_model(lm.model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    metrics, hand = follow(model, lm, tmp_path, logging_steps=1)
    assert all("lora_" in name for name in hand.slopes[0])
    expect_parts(metrics, hand, {part: PARTS[part] for part in ("blocks.0", "blocks.1")})


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"logging_steps": 3}, [3]),
        ({"logging_steps": 3, "logging_first_step": True}, [1, 3]),
        ({"logging_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}, [8, 16]),
    ],
    ids=str,
)
def test_steps_that_are_logged_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], steps: list[int]
) -> None:
    lm = random_lm()
    metrics, _ = follow(lm.model, lm, tmp_path, **options)
    assert metrics["update_ratio/blocks.0"].dropna().index.tolist() == steps


def test_an_optimiser_that_moves_nothing_is_found(tmp_path: Path) -> None:
    lm = random_lm()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    args = TrainingArguments(output_dir=str(tmp_path / "theirs"), **QUIET, max_steps=12, logging_steps=1)
    callback = ProbeCallback(tmp_path / "run", every=0, checkpoint=False)
    made = Trainer(lm.model, args, train_dataset=Texts(lm), optimizers=(optimizer, None), callbacks=[callback])
    made.processing_class = made.callback_handler.processing_class = lm.tokenizer
    made.train()
    run = open_run(tmp_path / "run")
    assert (run.metrics()["update_ratio/blocks.0"].dropna() == 0).all()
    assert (run.metrics()["grad_norm/blocks.0"].dropna() > 0).all()
    (finding,) = diagnose(run).findings
    assert finding.fault.name == "nothing_is_trained"


def test_gradients_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    """A trainer that has applied and dropped its gradients before the optimiser's step, as DeepSpeed does."""

    class Elsewhere(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            model.zero_grad(set_to_none=True)

    lm = random_lm()
    args = TrainingArguments(output_dir=str(tmp_path / "theirs"), **QUIET, max_steps=4, logging_steps=1)
    callbacks = [Elsewhere(), ProbeCallback(tmp_path / "run", every=0, checkpoint=False)]
    Trainer(lm.model, args, train_dataset=Texts(lm), processing_class=lm.tokenizer, callbacks=callbacks).train()
    metrics = open_run(tmp_path / "run").metrics()
    assert metrics["grad_norm"].notna().any()
    assert not any(columns(metrics, kind) for kind in KINDS)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
@pytest.mark.parametrize("kind", SAMPLERS)
def test_samples_of_trl_against_a_slow_reference(tmp_path: Path, trl: Any, kind: str) -> None:
    """A row has the means over the batches since the one before; entropies are those of recorded completions."""
    base = saved_lm(tmp_path / "base")
    trainer = sampler(trl, kind, base, logging_steps=2)
    batches: list[dict[str, float]] = []
    sample = trainer._generate_and_score_completions

    def follow_batch(inputs: Any) -> Any:
        batch = sample(inputs)
        masks, logs = batch["completion_mask"].bool(), trainer._logs["rewards"]
        ids = [row[mask].tolist() for row, mask in zip(batch["completion_ids"], masks, strict=True)]
        parts = [list(logs[name])[-8:] for name in ("short", "some")]
        rewards = [a + 0.5 * (0 if math.isnan(b) else b) for a, b in zip(*parts, strict=True)]
        batches.append(slow_groups([ids[:4], ids[4:]], [rewards[:4], rewards[4:]]))
        return batch

    trainer._generate_and_score_completions = follow_batch
    watch(trainer, tmp_path / "run")
    trainer.train()
    run = open_run(tmp_path / "run")
    metrics = run.metrics().dropna(subset=["grad_norm"]).set_index("step")
    assert len(batches) == 4
    for row, pair in ((metrics.loc[2], batches[:2]), (metrics.loc[4], batches[2:])):
        for name in batches[0]:
            assert row[name] == pytest.approx(np.mean([batch[name] for batch in pair]), rel=1e-6)
    lm, found = LM.load(base), {"first_token": [], "first_quarter": [], "last_quarter": []}
    first = run.rollouts().query("step == 1")
    assert len(first) == 8
    for row in first.to_dict("records"):
        prompt, ids = lm.tokenizer(row["prompt"])["input_ids"], row["token_ids"]
        with torch.no_grad():
            logprobs = (lm.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1] / 0.8).log_softmax(-1)
        entropy = (-(logprobs.exp() * logprobs).sum(-1)).tolist()
        quarter = -(-len(ids) // 4)
        found["first_token"] += entropy[:1]
        found["first_quarter"] += entropy[:quarter]
        found["last_quarter"] += entropy[-quarter:]
    for name, values in found.items():
        assert metrics.loc[2, f"entropy/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_trl_has_what_our_own_training_logs(tmp_path: Path, trl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_rollouts, "EVERY", 1)
    trainer = sampler(trl, "GRPO", saved_lm(tmp_path / "base"))
    watch(trainer, tmp_path / "run")
    trainer.train()
    theirs = set(open_run(tmp_path / "run").metrics())
    world = short_run(tmp_path / "world", small_model(tmp_path / "small"))
    ours = set(train(quick_config("rlvr", world, tmp_path / "ours", updates=1, minibatches=1)).metrics())
    of_the_world = {name for name in ours if name.startswith(("gold/", "rewards/", "objective/"))}
    of_the_sampler = {
        name for name in ours if name.startswith("sampling/")
    }  # TRL shows no log-probabilities of its own
    of_the_loop = {"tokens_per_second", "step_time"}
    assert ours - theirs - of_the_world - of_the_sampler - of_the_loop == set()
