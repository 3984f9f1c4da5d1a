"""Pretraining: the loss, the rows, bits per byte, and whole runs on the world, a text and documents."""

import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe import LM
from probe.errors import ConfigError, DataError
from probe.runs.schema import CHECKSUMS
from probe.world import World
from tests.models import char_tokenizer, random_lm
from trainers import pretrain
from trainers.config import PretrainConfig
from trainers.loop import learning_rate
from trainers.pretrain import (
    PADDING,
    cut_rows,
    file_corpus,
    hold_out,
    pretrain_loss,
    row_tensors,
    tokenize,
    train_tokenizer,
    world_corpus,
)

TEXT = "".join(f"the {animal} sat on the mat, said {n}.\n" for n in range(40) for animal in ("cat", "dög", "bird"))


def test_loss_counts_every_token_but_padding() -> None:
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 0, 6, PADDING], [3, PADDING, PADDING, PADDING]])
    expected = sum(
        torch.logsumexp(logits[b, t], 0) - logits[b, t, targets[b, t]]
        for b in range(2)
        for t in range(4)
        if targets[b, t] != PADDING
    )
    torch.testing.assert_close(pretrain_loss(logits, targets), expected)


def test_loss_of_nothing_but_padding_is_zero_with_a_zero_gradient() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = pretrain_loss(logits, torch.full((1, 3), PADDING))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_rows_are_read_shifted_and_padding_is_no_target() -> None:
    inputs, targets = row_tensors(np.array([[5, 6, 7, PADDING]]), torch.device("cpu"))
    assert inputs.tolist() == [[5, 6, 7]]
    assert targets.tolist() == [[6, 7, PADDING]]


@pytest.mark.parametrize("front", [[9], []])
def test_every_token_is_a_target_once(front: list[int]) -> None:
    ids = np.arange(100, 123)
    rows = cut_rows(ids, front, 6)
    targets = [int(t) for row in rows for t in row[1:] if t != PADDING]
    assert targets == ids.tolist() if front else targets == ids.tolist()[1:]
    assert all(row[0] == 9 for row in rows) if front else all(row[0] in ids for row in rows)


def test_few_documents_are_cut_and_many_are_dealt() -> None:
    train, held = hold_out(["x" * 100])
    assert (len(train[0]), len(held[0])) == (95, 5)
    (train,), (held,) = hold_out(["twelve chars\n" * 100])
    assert held == "twelve chars\n" * 5
    assert train + held == "twelve chars\n" * 100
    documents = [f"document {i}" for i in range(40)]
    train, held = hold_out(documents)
    assert held == ["document 19", "document 39"]
    assert sorted(train + held) == sorted(documents)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_tokenizer_gives_the_text_back(kind: str) -> None:
    tokenizer = train_tokenizer([TEXT], kind, 300, 64)  # type: ignore[arg-type]
    ids = tokenizer.encode(TEXT)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT
    assert len(tokenizer) <= 300
    whole = tokenize([TEXT, "the cat"], tokenizer)
    assert whole.tolist().count(tokenizer.eos_token_id) == 2


def test_long_documents_are_tokenized_in_parts_without_a_seam() -> None:
    tokenizer = train_tokenizer([TEXT], "bpe", 300, 64)
    long = TEXT * 40
    assert len(long) > 2 * 65536
    expected = tokenizer(long, add_special_tokens=False, verbose=False)["input_ids"]
    assert tokenize([long], tokenizer).tolist() == [*expected, tokenizer.eos_token_id]


def test_vocabulary_too_small_for_bytes() -> None:
    with pytest.raises(ConfigError, match="--vocab-size is 100; expected at least 260"):
        train_tokenizer([TEXT], "bpe", 100, 64)


def test_batches_of_the_world_depend_on_the_step_alone() -> None:
    world = World()
    sizes = {"length": 32, "batch_size": 4, "seed": 3}
    one, other = (world_corpus(world, world.tokenizer(), **sizes) for _ in range(2))
    in_order = [np.stack(one.batch(step)) for step in (1, 2, 3)]
    np.testing.assert_array_equal(np.stack(other.batch(3)), in_order[2])
    np.testing.assert_array_equal(np.stack(other.batch(1)), in_order[0])
    assert not np.array_equal(in_order[0], in_order[1])


def test_learning_rate_rises_and_falls() -> None:
    config = PretrainConfig(out=Path("x"), steps=110, warmup=10, lr=1.0, final_lr=0.1)
    rates = [learning_rate(step, config) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[-1] == pytest.approx(0.1)
    assert rates[59] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert all(a >= b for a, b in pairwise(rates[9:]))


@pytest.mark.parametrize(
    ("steps", "warmup", "made"), [(1, 9, 1), (2, 2, 2), (2, 9, 2), (5, 10, 2), (20, 10, 10), (19, 10, 9)]
)
def test_every_training_reaches_its_learning_rate(steps: int, warmup: int, made: int) -> None:
    config = PretrainConfig(out=Path("x"), steps=steps, warmup=warmup, lr=1.0)
    rates = [learning_rate(step, config) for step in range(1, steps + 1)]
    assert rates[:made] == pytest.approx([(k + 1) / made for k in range(made)])
    assert max(rates) == 1.0


def test_world_run(pretraining: Callable[..., PretrainConfig]) -> None:
    config = pretraining(steps=12, lr=1e-2, eval_every=6, capture_every=6, log_every=4, save_every=6)
    run = pretrain.train(config)
    metrics = run.metrics()
    assert run.status == "finished"
    assert run.world is not None
    assert run.world["hash"] == World().hash
    assert metrics["step"].tolist() == [1, 4, 6, 8, 12]
    named = {"loss", "lr", "grad_norm", "tokens_per_second", "step_time", "num_tokens", "entropy"}
    assert named | {"mean_token_accuracy", "eval_loss", "eval_bpb", "loss/question", "loss/sum_steps"} <= set(metrics)
    last = metrics.iloc[-1]
    assert last["loss"] < metrics["loss"][0] - 0.3
    assert last["eval_bpb"] == pytest.approx(_bits_per_byte(run.checkpoints()[-1].path, config), rel=1e-5)
    assert run.captures().steps == [0, 6, 12]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [6, 12]
    files = {path.name for path in run.checkpoints()[0].path.iterdir()}
    assert {Path(name).suffix for name in files - {CHECKSUMS}} <= {".safetensors", ".json", ".jinja"}
    assert run.parent == config.base


def _bits_per_byte(checkpoint: Path, config: PretrainConfig) -> float:
    """Slowly, one row at a time, from the definition."""
    lm, world = LM.load(checkpoint), World()
    corpus = world_corpus(world, lm.tokenizer, length=config.length, batch_size=8, seed=config.seed)
    nats = 0.0
    for row in corpus.held_out:
        ids = torch.tensor(row[row != PADDING].astype(np.int64))
        logprobs = lm.logits(ids).detach().log_softmax(-1)[0]
        nats -= float(logprobs[:-1].gather(-1, ids[1:, None]).sum())
    return nats / math.log(2) / corpus.held_out_bytes


def test_entropy_and_accuracy_from_their_definitions(pretraining: Callable[..., PretrainConfig]) -> None:
    config = pretraining(steps=1)
    row = pretrain.train(config).metrics().iloc[0]
    lm, world = LM.load(config.base), World()  # type: ignore[arg-type]
    corpus = world_corpus(world, lm.tokenizer, length=32, batch_size=8, seed=0)
    inputs, targets = row_tensors(corpus.batch(1), torch.device("cpu"))
    with torch.no_grad():
        mask, logits = targets != PADDING, lm.model(input_ids=inputs).logits
    entropy = torch.distributions.Categorical(logits=logits[mask]).entropy().mean()
    assert row["entropy"] == pytest.approx(float(entropy), rel=1e-5)
    assert row["mean_token_accuracy"] == pytest.approx(float((logits.argmax(-1) == targets)[mask].float().mean()))
    assert row["num_tokens"] == int(mask.sum())
    assert row["loss"] == pytest.approx(float(pretrain_loss(logits, targets)) / int(mask.sum()), rel=1e-6)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_text_file_run(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "book.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    run = pretrain.train(
        PretrainConfig(
            out=tmp_path / "run",
            data=str(path),
            preset="icl",
            tokenizer=kind,  # type: ignore[arg-type]
            vocab_size=320,
            length=48,
            batch_size=4,
            steps=6,
            eval_every=3,
            capture_every=6,
            log_every=3,
        )
    )
    metrics = run.metrics()
    assert metrics["eval_loss"].iloc[-1] < metrics["eval_loss"].dropna().iloc[0]
    assert run.world is None
    assert run.meta["data"]["source"] == str(path)
    assert run.captures().prompts[0].text.startswith("the ")
    lm = LM.load(run.path)
    assert lm.generate("the cat", max_new_tokens=3, seed=0).text[0] is not None
    assert lm.tokenizer.decode(lm.tokenizer.encode("the dög"), skip_special_tokens=True) == "the dög"


@pytest.mark.parametrize("dropout", [False, True])
def test_text_run_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: bool) -> None:
    from tests.models import random_lm
    from tests.trainers.test_loop import assert_same, stop_at

    path = tmp_path / "book.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    options: dict[str, Any] = {"data": str(path), "preset": "icl", "vocab_size": 300, "length": 48, "batch_size": 4}
    options |= {"steps": 5, "capture_every": 0, "log_every": 1, "eval_every": 2}
    if dropout:
        options["base"] = str(random_lm("gpt2", resid_pdrop=0.3, embd_pdrop=0.3).save(tmp_path / "gpt2"))
    whole = pretrain.train(PretrainConfig(out=tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        pretrain.train(PretrainConfig(out=tmp_path / "parts", **options))
    assert_same(whole, pretrain.train(PretrainConfig(out=tmp_path / "parts", resume=True, **options)))


def test_long_held_out_texts_are_measured_in_part(tmp_path: Path, model_dir: Path) -> None:
    tokenizer = LM.load(model_dir).tokenizer
    path = tmp_path / "book.txt"
    path.write_text("x")
    corpus = file_corpus(path, ["mira " * 99], ["ü " * 40_000] * 2, tokenizer, length=32, batch_size=4, seed=0)
    assert corpus.held_out_bytes == 75_000
    assert (corpus.held_out != PADDING).sum() - len(corpus.held_out) == 25_000 + 1


def test_documents_run_continues_a_model(tmp_path: Path, model_dir: Path, write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl(
        [{"text": f"mira lives in oslo . <user> {'hello ' * (i % 5)} <bot>", "id": i} for i in range(60)]
    )
    run = pretrain.train(
        PretrainConfig(
            out=tmp_path / "run", base=str(model_dir), data=str(path), length=32, batch_size=4, steps=3, capture_every=0
        )
    )
    assert run.parent == str(model_dir)
    assert run.meta["data"]["documents"] == 60
    assert "loss/fact" not in run.metrics()
    assert LM.load(run.path).tokenizer.get_vocab() == LM.load(model_dir).tokenizer.get_vocab()


def test_probe_prompts_of_ones_own(tmp_path: Path, pretraining: Callable[..., PretrainConfig]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("where does\n\n<user> mira\n", encoding="utf-8")
    run = pretrain.train(pretraining(steps=1, capture_every=1, probe_prompts=file))
    assert [prompt.text for prompt in run.captures().prompts] == ["where does", "<user> mira"]
    file.write_text("mira " * 100, encoding="utf-8")
    with pytest.raises(DataError, match="A probe prompt has 101 tokens and the model reads 64"):
        pretrain.train(pretraining("other", steps=1, capture_every=1, probe_prompts=file))
    assert not (tmp_path / "other").exists()


def test_prompts_of_the_world_that_the_tokenizer_cannot_read_are_left_out_and_said(
    tmp_path: Path, pretraining: Callable[..., PretrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    letters = char_tokenizer("abcdefghijklmnopqrstuvwxyz <>.?")
    base = random_lm(tokenizer=letters, max_position_embeddings=256).save(tmp_path / "letters")
    options: dict[str, Any] = {"base": str(base), "steps": 1, "capture_every": 1}
    run = pretrain.train(pretraining(**options))
    captures = run.captures()
    told = captures.left_out
    assert re.match(
        r"\d of the \d+ default prompts are left out of the captures: .*does not know .*\u201c=\u201d", told
    )
    assert " ".join(told.split()) in " ".join("".join(capsys.readouterr()).split())
    assert captures.prompts
    assert all(letters.unk_token_id not in prompt.token_ids for prompt in captures.prompts)
    pretrain.train(pretraining(**options | {"steps": 2, "resume": True}))
    assert run.captures().left_out == told
    file = tmp_path / "prompts.txt"
    file.write_text("where\n3 + 4\n", encoding="utf-8")
    with pytest.raises(
        DataError, match="does not know \u201c3\u201d, \u201c\\+\u201d, \u201c4\u201d of probe prompt 2, "
    ):
        pretrain.train(pretraining("other", **options, probe_prompts=file))


def test_evaluation_on_the_world_is_the_headline(pretraining: Callable[..., PretrainConfig]) -> None:
    run = pretrain.train(pretraining(steps=1, evaluate=10))
    headline = run.headline.set_index("metric")
    assert headline.loc["accuracy", "n"] == 10
    assert 0 <= headline.loc["deferral", "ci_low"] <= headline.loc["deferral", "ci_high"] <= 1


def test_row_longer_than_the_context(pretraining: Callable[..., PretrainConfig]) -> None:
    with pytest.raises(ConfigError, match="--length is 65 and the model reads at most 64"):
        pretrain.train(pretraining(length=65))


def test_decay_acts_on_matrices_only(model_dir: Path) -> None:
    from trainers.optimizer import Optimizer

    model = LM.load(model_dir).model
    groups = Optimizer(model, PretrainConfig(out=Path("x"), weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.ndim == 2 for p in groups[0]["params"])
    assert all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_trackers_get_the_metrics(pretraining: Callable[..., PretrainConfig]) -> None:
    pytest.importorskip("tensorboard")
    run = pretrain.train(pretraining(track="tensorboard"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run.path / "tracker" / "probe"))
    accumulator.Reload()
    logged = [event.value for event in accumulator.Scalars("loss")]
    assert logged == pytest.approx(run.metrics()["loss"].tolist(), rel=1e-6)
    assert json.loads((run.path / "run.json").read_text())["config"]["track"] == "tensorboard"
