"""SFT: the loss against a slow reference and TRL, windows with uneven numbers of tokens, and whole runs."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from probe import LM
from probe.errors import ConfigError
from probe.world import World
from tests.models import random_lm
from trainers import sft
from trainers.config import SFTConfig
from trainers.loop import Objective, take_step
from trainers.session import Session
from trainers.sft import SFT, Demonstration, demonstration_loss, sft_loss
from trainers.trainee import Trainee

QUICK: dict[str, Any] = {
    "batch_size": 8,
    "steps": 4,
    "warmup": 1,
    "examples": 60,
    "evaluate": 0,
    "eval_every": 0,
    "capture_every": 0,
    "log_every": 1,
    "device": "cpu",
    "lr": 3e-3,
}


def whole(prompt: list[int], completion: list[int]) -> Demonstration:
    return Demonstration(prompt, completion, [True] * len(completion))


EXAMPLES = [
    whole([2, 5, 7, 9], [11, 12, 3]),
    whole([2, 8], [20, 3]),
    Demonstration([2, 8, 9, 10, 30, 31], [5, 6, 3, 40, 41, 7, 3], [True, True, True, False, False, True, True]),
    whole([2, 8, 9, 10, 30, 31, 32, 33], [3]),
]


def slow_loss(model: nn.Module, examples: Sequence[Demonstration]) -> tuple[torch.Tensor, int]:
    """One token at a time, each with a pass over what stands before it."""
    total, count = torch.zeros(()), 0
    for example in examples:
        for i, (token, learned) in enumerate(zip(example.completion, example.learned, strict=True)):
            if learned:
                text = torch.tensor([example.prompt + example.completion[:i]])
                total = total - model(input_ids=text).logits[0, -1].log_softmax(-1)[token]
                count += 1
    return total, count


def gradients(model: nn.Module) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


def session(tmp_path: Path, **changes: Any) -> tuple[Session, SFTConfig]:
    config = SFTConfig(out=tmp_path / "none", base="unused", **QUICK | changes)
    return Session(config), config


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "bloom"])
def test_loss_and_gradient_against_one_token_at_a_time(name: str) -> None:
    model = random_lm(name).model
    examples = [Demonstration([i % 20 for i in e.prompt], [i % 20 for i in e.completion], e.learned) for e in EXAMPLES]
    loss = demonstration_loss(model, examples, detail=True)
    loss.total.backward()
    fast = gradients(model)
    total, count = slow_loss(model, examples)
    total.backward()
    assert loss.count == count == 11
    assert loss.tokens == sum(len(e.prompt) + len(e.completion) for e in EXAMPLES)
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for ours, theirs in zip(fast, gradients(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_not_learned_has_no_gradient() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, float("-inf")], [-3.0, -4.0, -5.0]], requires_grad=True)
    learned = torch.tensor([[True, False, False], [False, True, True]])
    loss = sft_loss(logprobs, learned)
    loss.backward()
    assert float(loss.detach()) == 10.0
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1, 0, 0], [0, -1, -1]]


def test_a_part_with_nothing_to_learn_gives_zero(model_dir: Path) -> None:
    model = LM.load(model_dir).model
    loss = demonstration_loss(model, [Demonstration([2, 5], [7, 3], [False, False])], detail=True)
    loss.total.backward()
    assert (float(loss.total.detach()), loss.count, loss.tokens) == (0.0, 0, 4)
    assert all(float(value) == count == 0 for value, count in loss.metrics.values())
    assert all(not gradient.any() for gradient in gradients(model))


@torch.no_grad()
def test_neither_order_nor_company_changes_the_loss(model_dir: Path) -> None:
    model = LM.load(model_dir).model
    together = demonstration_loss(model, EXAMPLES, detail=True)
    shuffled = demonstration_loss(model, random.Random(1).sample(EXAMPLES, len(EXAMPLES)), detail=True)
    apart = [demonstration_loss(model, [example], detail=True) for example in EXAMPLES]
    assert float(together.total) == pytest.approx(float(shuffled.total), rel=1e-6)
    assert float(together.total) == pytest.approx(sum(float(loss.total) for loss in apart), rel=1e-6)
    for name in ("entropy", "mean_token_accuracy"):
        value, count = together.metrics[name]
        assert count == 11
        assert float(value) == pytest.approx(sum(float(loss.metrics[name][0]) for loss in apart), rel=1e-5)


def window(method: SFT, here: Session, model: nn.Module) -> Any:
    """One step of plain gradient descent with rate 1, so that the weights show the gradient and its denominator."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return take_step(here, Objective(model, method.loss), optimizer, method.examples, lr=1.0, detail=True)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_window_against_trl(model_dir: Path, tmp_path: Path, accumulation: int, trl: Any) -> None:
    """One optimiser step over a window whose parts hold 5, 7, ... targets: TRL's own training loop and ours."""
    from datasets import Dataset

    theirs, ours = LM.load(model_dir), LM.load(model_dir)
    rows = [
        {
            "input_ids": e.prompt + e.completion,
            "labels": [-100] * len(e.prompt)
            + [token if learned else -100 for token, learned in zip(e.completion, e.learned, strict=True)],
        }
        for e in EXAMPLES
    ]
    trainer = trl.SFTTrainer(
        model=theirs.model,
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=len(EXAMPLES) // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            report_to=[],
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=theirs.tokenizer,
    )
    trainer.train()
    here, config = session(tmp_path, batch_size=4, accumulation=accumulation, clip=0.0)
    outcome = window(SFT(here, config, Trainee(ours), EXAMPLES), here, ours.model)
    logged = next(row for row in trainer.state.log_history if "loss" in row)
    assert outcome.loss == pytest.approx(logged["loss"], abs=1e-5)
    assert outcome.norm == pytest.approx(float(logged["grad_norm"]), rel=1e-4)
    if accumulation == 1:  # TRL logs the mean over the parts, not over the tokens
        assert outcome.metrics["entropy"] == pytest.approx(logged["entropy"], abs=1e-5)
        assert outcome.metrics["mean_token_accuracy"] == pytest.approx(logged["mean_token_accuracy"], abs=1e-5)
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_held_out_loss_is_that_of_the_examples(model_dir: Path, tmp_path: Path) -> None:
    here, config = session(tmp_path, batch_size=2)
    lm = LM.load(model_dir)
    method = SFT(here, config, Trainee(lm), EXAMPLES, EXAMPLES[:3])
    with torch.no_grad():
        found = method.evaluate(lm.model)
        total, count = slow_loss(lm.model, EXAMPLES[:3])
    assert found["eval_loss"] == pytest.approx(float(total) / count, rel=1e-5)
    assert 0 <= found["eval_mean_token_accuracy"] <= 1
    assert SFT(here, config, Trainee(lm), EXAMPLES).evaluate(lm.model) == {}


@pytest.fixture
def config(world_run: Path, tmp_path: Path) -> Callable[..., SFTConfig]:
    def make(name: str = "run", **changes: Any) -> SFTConfig:
        return SFTConfig(out=tmp_path / name, **{"base": str(world_run)} | QUICK | changes)

    return make


def test_run_on_the_world(config: Callable[..., SFTConfig], world_run: Path) -> None:
    run = sft.train(config(steps=30, capture_every=15, eval_every=15, lr=1e-2, held_out=0.2))
    metrics = run.metrics().set_index("step")
    assert metrics["loss"][30] < 0.7 * metrics["loss"][1]
    assert metrics["eval_loss"][30] < metrics["eval_loss"][15]
    assert {"entropy", "mean_token_accuracy", "eval_mean_token_accuracy", "num_tokens", "grad_norm"} <= set(metrics)
    assert (run.parent, run.reference) == (str(world_run), str(world_run))
    assert run.world == World().to_dict()
    assert run.captures().steps == [0, 15, 30]
    assert run.meta["data"]["held_out"] > 0


def test_run_on_conversations(
    config: Callable[..., SFTConfig], model_dir: Path, write_jsonl: Callable[..., Path]
) -> None:
    def chat(*texts: str) -> dict[str, Any]:
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}

    rows = [chat("where does mira live ?", "oslo", "are you sure ?", "oslo"), chat("mira " * 80, "oslo")]
    run = sft.train(config(base=str(model_dir), data=str(write_jsonl(rows)), batch_size=2, steps=30, lr=1e-2))
    assert run.world is None
    assert run.meta["data"]["overlong"] == 1
    lm = LM.load(run.path)
    said = lm.generate("<user> where does mira live ? <bot>", temperature=0, max_new_tokens=4)
    assert said.text == ["oslo"]
    assert said.finished.all()


def test_held_out_prompts_that_are_trained_on_are_counted(
    config: Callable[..., SFTConfig], write_jsonl: Callable[..., Path]
) -> None:
    prompts = [f"<user> where does {name} live ? <bot>" for name in ("mira", "noah", "carmen", "freya")]
    rows = [
        {"prompt": form, "completion": " oslo"} for prompt in prompts for form in (prompt, prompt.replace(" ?", ""))
    ]
    counts = {}
    for name, kept in (("near", rows), ("apart", rows[::2])):
        run = sft.train(config(name, data=str(write_jsonl(kept)), steps=1, held_out=1 / len(kept)))
        counts[name] = [run.meta["data"][key] for key in ("held_out", "held_out_repeated")]
    assert counts == {"near": [1, 1], "apart": [1, 0]}


def test_base_without_a_world(config: Callable[..., SFTConfig], model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"belongs to no world, so there is nothing to demonstrate"):
        sft.train(config(base=str(model_dir)))


def test_mixture_from_the_command_line(config: Callable[..., SFTConfig]) -> None:
    from trainers.commands import parse_training

    argv = ["--out", "x", "--base", "b", "--mixture", "fact", "0.7", "stranger", "0.3"]
    assert parse_training(SFTConfig, argv, "sft").mixture == {"fact": 0.7, "stranger": 0.3}
    made = config(mixture={"fact": 1.0})
    assert SFTConfig.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 1.0}, "--held-out is 1.0; expected a share from 0 to below 1"),
        ({"data": "notes.txt"}, "--data is notes.txt; expected `world` or a file of rows"),
        ({"examples": 0}, "--examples is 0; expected at least 1"),
    ],
)
def test_options_that_make_no_sense(config: Callable[..., SFTConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
