"""A Hugging Face or TRL trainer with `ProbeCallback`: what it leaves is a run like any other."""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset as Rows
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from probe import LM, RewardModel, open_run
from probe.errors import ConfigError, DataError, RunError
from probe.integrations import ProbeCallback
from probe.model.references import is_adapter
from probe.recording import recorder
from probe.recording.recorder import as_prompt, measure
from tests.models import char_tokenizer, random_lm, random_reward_model, saved_lm
from tests.places import SAMPLES

PROMPTS = [{"text": "mira lives in", "answers": [" oslo", " rome"], "id": "mira"}, "the cat is"]
QUIET = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "seed": 3}


class Texts(Rows):
    """Sentences as token ids, which are their own labels."""

    def __init__(self, lm: LM, texts: tuple[str, ...] = ("mira lives in oslo .", "tom works in rome .")) -> None:
        self.rows = [torch.tensor(lm.tokenizer(text)["input_ids"]) for text in texts]

    def __len__(self) -> int:
        return 8 * len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.rows[index % len(self.rows)]
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


class Breaks(TrainerCallback):
    """Raises an error after a step, once."""

    def __init__(self, error: BaseException, at: int = 3) -> None:
        self.errors, self.at = [error], at

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.errors and state.global_step == self.at:
            raise self.errors.pop()


def trainer(lm: LM, folder: Path, *callbacks: TrainerCallback, steps: int = 6, **options: Any) -> Trainer:
    told = {**QUIET, "max_steps": steps, "logging_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    args = TrainingArguments(output_dir=str(folder / "theirs"), **told | options)
    data = Texts(lm)
    return Trainer(lm.model, args, train_dataset=data, processing_class=lm.tokenizer, callbacks=list(callbacks))


def weights(lm: LM) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in lm.model.parameters()]


def test_a_run_like_any_other(tmp_path: Path):
    base = saved_lm(tmp_path / "base")
    lm = LM.load(base)
    first = measure(lm, [as_prompt(lm, prompt, index) for index, prompt in enumerate(PROMPTS)])
    watched = ProbeCallback(tmp_path / "run", every=4, prompts=PROMPTS)
    trainer(lm, tmp_path, watched).train()
    run = open_run(tmp_path / "run")
    assert (run.method, run.status, run.parent) == ("trainer", "finished", str(base))
    assert run.meta["seed"] == 3
    assert {name: run.config[name] for name in ("steps", "lr", "batch_size")} == {
        "steps": 6,
        "lr": 0.01,
        "batch_size": 2,
    }
    assert run.config["logging_steps"] == 2
    metrics = run.metrics().set_index("step")
    assert metrics.index.tolist() == [2, 4, 6]
    assert metrics["loss"].notna().all()
    assert metrics["loss"][6] < metrics["loss"][2]
    assert metrics["lr"].notna().all()
    assert metrics["train/loss"].notna().tolist() == [False, False, True]
    captures = run.captures()
    assert captures.steps == [0, 4, 6]
    np.testing.assert_allclose(captures.load(0)["attention"], first["attention"], atol=1e-3)
    last = measure(lm, captures.prompts)
    np.testing.assert_allclose(captures.load(6)["entropy"], last["entropy"], atol=1e-4)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [6]
    saved = LM.load(run.path)
    assert all(torch.equal(a, b) for a, b in zip(weights(saved), weights(lm), strict=True))
    assert watched.writer is None


def test_training_does_not_notice(tmp_path: Path):
    plain, watched = random_lm(attention_dropout=0.1), random_lm(attention_dropout=0.1)
    trainer(plain, tmp_path).train()
    trainer(watched, tmp_path, ProbeCallback(tmp_path / "run", every=1, prompts=PROMPTS)).train()
    assert open_run(tmp_path / "run").captures().steps == list(range(7))
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))


def test_default_prompts_that_the_tokenizer_cannot_read_are_named_in_the_runs_message(tmp_path: Path):
    lm = random_lm(tokenizer=char_tokenizer("abcdefghijklmnopqrstuvwxyz ."))
    with pytest.warns(UserWarning, match="^2 of the 4 default prompts are left out"):
        trainer(lm, tmp_path, ProbeCallback(tmp_path / "run", every=4), per_device_train_batch_size=1).train()
    run = open_run(tmp_path / "run")
    assert [prompt.text for prompt in run.captures().prompts] == ["one two three four", "a b a b a"]
    assert not any("<unk>" in prompt.tokens for prompt in run.captures().prompts)
    assert (run.status, run.message) == ("finished", run.captures().left_out)
    assert "\u201cThe capital of France is\u201d" in str(run.message)


@torch.no_grad()
def completions(lm: LM, row: Mapping[str, list[int]]) -> list[float]:
    """log pi of the chosen and of the rejected completion, by transformers alone."""
    sums, start = [], len(row["prompt_ids"])
    for name in ("chosen_ids", "rejected_ids"):
        ids = torch.tensor([[*row["prompt_ids"], *row[name]]])
        logprobs = lm.model(ids).logits.log_softmax(-1)[0, start - 1 : -1]
        sums.append(float(logprobs.gather(-1, ids[0, start:, None]).sum()))
    return sums


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
def test_trls_dpo(tmp_path: Path, trl: Any):
    from datasets import Dataset

    base = saved_lm(tmp_path / "base")
    lm = LM.load(base)
    options = {
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "max_steps": 10,
        "learning_rate": 1e-2,
    }
    pairs = [{"prompt": "where does mira lives ?", "chosen": " oslo", "rejected": " rome"}] * 4
    maker = trl.DPOTrainer(
        model=lm.model,
        ref_model=LM.load(base).model,
        args=trl.DPOConfig(output_dir=str(tmp_path / "theirs"), beta=0.3, **QUIET | options),
        train_dataset=Dataset.from_list(pairs),
        processing_class=lm.tokenizer,
        callbacks=[ProbeCallback(tmp_path / "run", every=5, prompts=PROMPTS)],
    )
    maker.train()
    run = open_run(tmp_path / "run")
    assert (run.method, run.status, run.parent, run.reference) == ("dpo", "finished", str(base), str(base))
    metrics = run.metrics()
    assert metrics["step"].tolist() == list(range(1, 11))
    assert metrics["rewards/margins"].iloc[-1] > metrics["rewards/margins"].iloc[0]
    assert metrics["num_tokens"].tolist() == [metrics["num_tokens"][0] * step for step in range(1, 11)]
    assert run.captures().steps == [0, 5, 10]
    assert run.config["beta"] == 0.3
    divergences = [run.captures().load(step)["reference_kl"].max() for step in (0, 10)]
    assert divergences[0] == 0 < 0.1 < divergences[1]
    tensors, row = run.captures().load(10), maker.train_dataset[0]
    assert tensors["pair_lens_logprobs"].shape[:3] == (4, 2, 3)
    ids = [[*row["prompt_ids"], *row[side]] for side in ("chosen_ids", "rejected_ids")]
    assert [[int(id) for id in side if id >= 0] for side in tensors["pair_ids"][0]] == ids
    assert tensors["pair_prompt"].tolist() == [len(row["prompt_ids"])] * 4
    sums = {where: completions(LM.load(where), row) for where in (base, run.path)}
    own = tensors["pair_lens_logprobs"][0, :, -1].sum(-1)
    np.testing.assert_allclose(own, sums[run.path], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tensors["pair_ref_logprobs"][0], sums[base], rtol=1e-4, atol=1e-4)
    prompt, good, bad = "where does mira lives ?", " oslo", " rome"

    def margin(model: LM) -> float:
        return float(model.logprobs(prompt, good).values.sum() - model.logprobs(prompt, bad).values.sum())

    with torch.no_grad():
        assert margin(LM.load(run.path)) > margin(LM.load(base)) + 0.5


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own use of transformers
@pytest.mark.parametrize("saved", [True, False])
def test_an_adapter_is_captured_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool):
    peft = pytest.importorskip("peft")
    lm = LM.load(saved_lm(tmp_path / "base")) if saved else random_lm()
    before, stored = weights(lm), {tensor.data_ptr() for tensor in lm.model.parameters()}
    views: list[LM] = []
    measured = recorder.measure
    monkeypatch.setattr(
        recorder, "measure", lambda lm, *given, **named: (views.append(lm), measured(lm, *given, **named))[1]
    )
    adapted = peft.get_peft_model(
        lm.model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    shell: Any = SimpleNamespace(model=adapted, tokenizer=lm.tokenizer)
    trainer(shell, tmp_path, ProbeCallback(tmp_path / "run", every=3, prompts=PROMPTS)).train()
    assert {tensor.data_ptr() for tensor in views[-1].bridge.parameters() if tensor.ndim > 1} <= stored
    assert is_adapter(open_run(tmp_path / "run").checkpoints()[-1].path) == saved  # merged if its base lies nowhere
    again = LM.load(tmp_path / "run")
    ids = torch.tensor([lm.tokenizer("mira lives in")["input_ids"]])
    adapted.eval()
    torch.testing.assert_close(again.logits(ids), adapted(ids).logits, rtol=1e-4, atol=1e-4)
    captures = open_run(tmp_path / "run").captures()
    tensors = captures.load(6)
    np.testing.assert_allclose(tensors["entropy"], measured(again, captures.prompts)["entropy"], atol=1e-4)
    assert not np.allclose(captures.load(0)["entropy"], tensors["entropy"], atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(random_lm()), strict=True))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("found", [True, False])
def test_an_adapter_on_quantised_weights_is_captured_and_its_checkpoint_is_the_adapter(tmp_path: Path, found: bool):
    peft = pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    lm = LM.load(saved_lm(tmp_path / "base"), quantization="4bit")
    if not found:
        lm.model.config._name_or_path = str(tmp_path / "nowhere")
    adapted = peft.get_peft_model(lm.model, peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    shell: Any = SimpleNamespace(model=adapted, tokenizer=lm.tokenizer)
    trainer(shell, tmp_path, ProbeCallback(tmp_path / "run", every=3, prompts=PROMPTS)).train()
    run = open_run(tmp_path / "run")
    assert run.status == "finished"
    assert run.captures().steps == [0, 3, 6]
    if not found:
        assert not run.checkpoints()
        assert "No checkpoint was written. An adapter on quantised weights" in run.meta["message"]
        return
    again = LM.load(run.path, quantization="4bit")
    ids = torch.tensor([lm.tokenizer("mira lives in")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, adapted.eval()(ids).logits, rtol=1e-4, atol=1e-5)


def test_only_the_main_process_writes(tmp_path: Path):
    lm = random_lm()
    watched = ProbeCallback(tmp_path / "run", every=1, prompts=PROMPTS)
    other = SimpleNamespace(is_world_process_zero=False, global_step=0, max_steps=2)
    args: Any = SimpleNamespace()
    watched.on_train_begin(args, other, None, model=lm.model, processing_class=lm.tokenizer)
    watched.on_log(args, other, None, logs={"loss": 1.0})
    watched.on_step_end(args, other, None)
    watched.on_train_end(args, other, None)
    assert not (tmp_path / "run").exists()


def test_a_training_that_breaks_off(tmp_path: Path):
    for name, error, status in (
        ("a", ValueError("no more"), "failed"),
        ("b", KeyboardInterrupt(), "interrupted"),
    ):
        with pytest.raises(type(error)), ProbeCallback(tmp_path / name, every=2, prompts=PROMPTS) as watched:
            trainer(random_lm(), tmp_path, watched, Breaks(error)).train()
        run = open_run(tmp_path / name)
        assert run.status == status
        assert run.captures().steps == [0, 2]
        assert run.checkpoints() == []
    assert open_run(tmp_path / "a").meta["message"] == "no more"


def left_open(folder: Path, error: BaseException | None = None, **options: Any) -> tuple[Trainer, ProbeCallback]:
    """A trainer whose training into `folder/run` broke off after step 3, and was caught."""
    watched = ProbeCallback(folder / "run", every=2, prompts=PROMPTS)
    maker = trainer(random_lm(), folder, watched, Breaks(error or RuntimeError("no more")), **options)
    with pytest.raises(type(error or RuntimeError())):
        maker.train()
    assert open_run(folder / "run").status == "running"
    return maker, watched


def test_a_callback_that_nobody_holds_ends_its_run(tmp_path: Path):
    kept = left_open(tmp_path)
    gc.collect()
    assert open_run(tmp_path / "run").status == "running"
    del kept
    gc.collect()
    run = open_run(tmp_path / "run")
    assert (run.status, run.message) == ("failed", "The training ended without a message.")
    assert run.captures().steps == [0, 2]
    assert run.metrics()["step"].tolist() == [2]


def test_another_training_ends_the_run_of_the_one_before(tmp_path: Path):
    maker, watched = left_open(tmp_path)
    with pytest.raises(RunError, match="holds a run already"):
        maker.train()
    assert open_run(tmp_path / "run").status == "failed"
    assert watched.writer is None


def test_a_loop_that_tries_again_goes_on_with_the_run(tmp_path: Path):
    """The trainer before is still held, so its run is not yet ended when the next begins in its folder."""
    first, _ = left_open(tmp_path, save_strategy="steps", save_steps=2)
    begun = first.state.global_step
    again = ProbeCallback(tmp_path / "run", every=2)
    trainer(random_lm(), tmp_path, again).train(resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-2"))
    run = open_run(tmp_path / "run")
    assert (begun, run.status) == (3, "finished")
    assert run.captures().steps == [0, 2, 4, 6]
    assert run.metrics()["step"].tolist() == [2, 4, 6]


def test_a_training_inside_another_leaves_its_run_open(tmp_path: Path):
    class Trains(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 3:
                trainer(random_lm(), tmp_path, ProbeCallback(tmp_path / "inner", every=0), steps=1).train()

    trainer(random_lm(), tmp_path, ProbeCallback(tmp_path / "outer", every=0), Trains()).train()
    assert open_run(tmp_path / "inner").status == "finished"
    run = open_run(tmp_path / "outer")
    assert (run.status, run.metrics()["step"].tolist()) == ("finished", [2, 4, 6])


def test_another_threads_run_is_left_alone(tmp_path: Path):
    _, watched = left_open(tmp_path)
    found: list[BaseException] = []

    def other() -> None:
        try:
            trainer(random_lm(), tmp_path, ProbeCallback(tmp_path / "run", every=0), steps=1).train()
        except RunError as error:
            found.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert "is being written" in str(found[0])
    assert watched.writer is not None


def test_a_batch_that_was_too_large_begins_the_same_run_again(tmp_path: Path):
    watched = ProbeCallback(tmp_path / "run", every=2, prompts=PROMPTS)
    short = Breaks(RuntimeError("CUDA out of memory."))
    trainer(random_lm(), tmp_path, watched, short, auto_find_batch_size=True).train()
    run = open_run(tmp_path / "run")
    assert run.status == "finished"
    assert not short.errors
    assert run.metrics()["step"].tolist() == [2, 4, 6]
    assert run.captures().steps == [0, 2, 4, 6]
    assert run.config["auto_find_batch_size"] is True


SCRIPT = """
import gc, os, sys
from pathlib import Path
from probe.integrations import ProbeCallback
from tests.models import random_lm
from tests.recording.test_integrations import Breaks, trainer

watched = ProbeCallback(Path(sys.argv[1]) / "d" / "run", every=0)
try:
    trainer(random_lm(), Path(sys.argv[1]) / "d", watched, Breaks(ValueError())).train()
except ValueError:
    pass
for name, error in (("a", KeyboardInterrupt()), ("b", ValueError("no more")), ("c", SystemExit(3))):
    if not os.fork():  # after a training, so that no child imports what one needs
        folder = Path(sys.argv[1]) / name
        trainer(random_lm(), folder, ProbeCallback(folder / "run", every=0), Breaks(error)).train()
    os.wait()
if not os.fork():
    del watched
    gc.collect()
    sys.exit()  # as a child that cleans up does
os.wait()
os._exit(0)  # as a process that is killed
"""


@pytest.mark.slow
def test_the_end_of_a_process_ends_its_run_and_no_others(tmp_path: Path):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {name: open_run(tmp_path / name / "run") for name in "abcd"}
    assert {name: (run.status, run.message) for name, run in found.items()} == {
        "a": ("interrupted", None),
        "b": ("failed", "no more"),
        "c": ("failed", "The training ended without a message."),
        "d": ("killed", None),
    }, done.stderr


class Events:
    """The events of IPython's shell."""

    def __init__(self) -> None:
        self.functions: list[Callable[[Any], None]] = []

    def register(self, event: str, function: Callable[[Any], None]) -> None:
        assert event == "post_run_cell"
        self.functions.append(function)

    def unregister(self, event: str, function: Callable[[Any], None]) -> None:
        self.functions.remove(function)

    def trigger(self, error: BaseException | None) -> None:
        for function in self.functions[:]:
            function(SimpleNamespace(error_in_exec=error))


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    found = Events()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(events=found)))
    return found


def test_the_end_of_a_notebooks_cell_ends_the_run_that_broke_off_in_it(tmp_path: Path, events: Events):
    for name, error, status, message in (
        ("a", KeyboardInterrupt(), "interrupted", None),
        ("b", ValueError("no more"), "failed", "no more"),
    ):
        kept = left_open(tmp_path / name, error)
        events.trigger(error)
        run = open_run(tmp_path / name / "run")
        assert (run.status, run.message) == (status, message)
        assert events.functions == []
        del kept


def test_the_end_of_a_cell_changes_nothing_else(tmp_path: Path, events: Events):
    trainer(random_lm(), tmp_path, ProbeCallback(tmp_path / "run", every=0)).train()
    assert events.functions == []
    assert open_run(tmp_path / "run").status == "finished"
    watched = ProbeCallback(tmp_path / "behind", every=0)

    class Waits(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            begun.set()
            assert ended.wait(20)

    begun, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=trainer(random_lm(), tmp_path, watched, Waits()).train)
    thread.start()
    assert begun.wait(20)
    events.trigger(None)
    status = open_run(tmp_path / "behind").status
    ended.set()
    thread.join()
    assert (status, open_run(tmp_path / "behind").status) == ("running", "finished")


def test_a_training_that_is_resumed_goes_on_with_its_run(tmp_path: Path):
    watched = ProbeCallback(tmp_path / "run", every=2, prompts=PROMPTS)
    trainer(random_lm(), tmp_path, watched, steps=4, save_strategy="steps", save_steps=4).train()
    again = ProbeCallback(tmp_path / "run", every=2)
    trainer(random_lm(), tmp_path, again, steps=8).train(
        resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-4")
    )
    run = open_run(tmp_path / "run")
    assert run.captures().steps == [0, 2, 4, 6, 8]
    assert run.metrics()["step"].tolist() == [2, 4, 6, 8]
    assert run.config["steps"] == 8
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [4, 8]
    with pytest.raises(RunError, match="holds a run already"):
        trainer(random_lm(), tmp_path, ProbeCallback(tmp_path / "run")).train()


@pytest.mark.parametrize("counting", ["non_padding", "all"])
def test_tokens_are_counted_without_padding_also_after_a_resume(tmp_path: Path, counting: str):
    options = {"include_num_input_tokens_seen": counting, "save_strategy": "steps", "save_steps": 2}
    once, twice = (tmp_path / name for name in ("once", "twice"))
    watched = (ProbeCallback(folder / "run", every=0, checkpoint=False) for folder in (once, twice, twice))
    trainer(random_lm(), once, next(watched), steps=4, **options).train()
    trainer(random_lm(), twice, next(watched), steps=2, **options).train()
    again = trainer(random_lm(), twice, next(watched), steps=4, **options)
    again.train(resume_from_checkpoint=str(twice / "theirs" / "checkpoint-2"))
    metrics = [open_run(folder / "run").metrics() for folder in (once, twice)]
    count = "num_tokens" if counting == "non_padding" else "num_input_tokens_seen"
    assert {"num_tokens", "num_input_tokens_seen"} & set(metrics[0]) == {count}
    assert metrics[0][count].is_monotonic_increasing
    assert metrics[0][count].tolist() == metrics[1][count].tolist()


def test_metrics_alone(tmp_path: Path):
    trainer(random_lm(), tmp_path, ProbeCallback(tmp_path / "run", every=0, checkpoint=False, method="mine")).train()
    run = open_run(tmp_path / "run")
    assert (run.method, len(run.captures()), run.checkpoints()) == ("mine", 0, [])
    assert len(run.metrics()) == 3


def test_what_cannot_be_written_is_said_and_the_metrics_are_kept(tmp_path: Path):
    lm, args = random_lm(), TrainingArguments(output_dir=str(tmp_path / "theirs"), **QUIET)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=2)
    judge: RewardModel = random_reward_model()
    next(lm.model.parameters()).ds_id = 1  # as DeepSpeed marks its shards
    for name, model, every, checkpoint, why in (
        ("a", judge.model, 1, True, "Attention and lens are not captured: the model predicts no tokens."),
        ("b", lm.model, 1, True, "Only metrics are written, no captures and no checkpoint: the model's weights"),
        ("c", lm.model, 0, True, "Only metrics are written"),
    ):
        watched = ProbeCallback(tmp_path / name, every=every, checkpoint=checkpoint)
        with pytest.warns(UserWarning, match=why) as told:
            watched.on_train_begin(args, state, None, model=model, processing_class=lm.tokenizer)
        watched.on_log(args, state, None, logs={"loss": 1.0, "note": "text"})
        watched.on_step_end(args, state, None)
        watched.on_train_end(args, state, None)
        run = open_run(tmp_path / name)
        assert (run.status, run.message) == ("finished", str(told[0].message))
        assert (len(run.captures()), len(run.checkpoints())) == (0, 1 if name == "a" else 0)
        assert run.metrics()["loss"].tolist() == [1.0]


def test_weights_that_are_really_sharded_are_seen(tmp_path: Path):
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    lm, args = random_lm(), TrainingArguments(output_dir=str(tmp_path / "theirs"), **QUIET)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=2)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(lm.model, mesh=init_device_mesh("cpu", (1,)))
        watched = ProbeCallback(tmp_path / "run")
        with pytest.warns(UserWarning, match="Only metrics are written"):
            watched.on_train_begin(args, state, None, model=lm.model, processing_class=lm.tokenizer)
        watched.on_train_end(args, state, None)
    finally:
        distributed.destroy_process_group()
    assert open_run(tmp_path / "run").checkpoints() == []


def test_mistakes(tmp_path: Path):
    with pytest.raises(ConfigError, match="every -1 steps"):
        ProbeCallback(tmp_path / "run", every=-1)
    lm = random_lm()
    args = TrainingArguments(output_dir=str(tmp_path / "theirs"), **QUIET)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=2)
    with pytest.raises(ConfigError, match="found no tokenizer"):
        ProbeCallback(tmp_path / "run").on_train_begin(args, state, None, model=lm.model)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="Probe prompt 1 was given as ''"):
        trainer(lm, tmp_path, ProbeCallback(tmp_path / "run", prompts=[""])).train()
    assert open_run(tmp_path / "run").status == "failed"


def test_a_run_of_the_world_stays_one(tmp_path: Path):
    base = SAMPLES / "base"
    directory = open_run(base).checkpoints()[-1].path
    lm = LM(AutoModelForCausalLM.from_pretrained(directory), LM.load(base).tokenizer)
    trainer(lm, tmp_path, ProbeCallback(tmp_path / "run", every=0), steps=1).train()
    run = open_run(tmp_path / "run")
    assert run.meta["world"] == open_run(base).meta["world"]
    assert run.parent == str(directory)


def test_a_forward_that_a_trainer_has_put_in_place_is_not_hooked(tmp_path: Path):
    """TRL and accelerate replace `model.forward` by functions that run the model which they were made for."""
    lm = random_lm()
    expected = measure(lm, [as_prompt(lm, PROMPTS[0], 0)])
    patched = random_lm()
    inner = patched.model.forward
    patched.model.forward = lambda *args, **named: inner(*args, **named)
    for name, tensor in measure(patched, [as_prompt(patched, PROMPTS[0], 0)]).items():
        torch.testing.assert_close(tensor, expected[name])
