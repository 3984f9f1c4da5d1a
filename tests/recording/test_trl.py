"""What `ProbeCallback` records of TRL's trainers: rollouts of those that sample, rewards of RewardTrainer."""

import os
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from probe import LM, RewardModel, open_run
from probe.integrations import ProbeCallback
from probe.model.references import is_adapter
from probe.recording import trl_rollouts
from probe.recording.recorder import measure
from probe.recording.reward_tokens import split_pair
from tests.model.test_adapters import adapter
from tests.models import random_lm, random_reward_model, saved_lm
from tests.recording.vllm_server import serve
from tests.trainers.children import CONTEXT

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
QUIET = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "seed": 3}
QUIET |= {"bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "learning_rate": 1e-2}
PROMPTS = ["where does mira lives ?", "the cat is"]
SAMPLERS = ["GRPO", "RLOO"]


def short(completions: Sequence[str], **_: Any) -> list[float]:
    return [-len(text) / 10 for text in completions]


def some(completions: Sequence[str], **_: Any) -> list[float | None]:
    """Does not apply to each third completion."""
    return [None if n % 3 == 0 else float(n) for n in range(len(completions))]


class Follow(TrainerCallback):
    """Notes the advantages that a trainer logs, by step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.advantages = trainer, dict[int, list[float]]()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.advantages[state.global_step] = list(self.trainer._logs["advantages"])


def sampler(trl: Any, kind: str, base: Path, prompts: Sequence[Any] = PROMPTS, **options: Any) -> Any:
    """A trainer that samples 4 completions of 2 prompts in each of 4 steps."""
    from datasets import Dataset

    lm, fresh, model = LM.load(base), options.pop("peft_config", None), options.pop("model", None)
    sizes = {"max_steps": 4, "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
    told = {"beta": 0.1, "temperature": 0.8, "reward_weights": [1.0, 0.5]}
    args = getattr(trl, f"{kind}Config")(output_dir=str(base.with_name("theirs")), **QUIET | sizes | told | options)
    return getattr(trl, f"{kind}Trainer")(
        model=model or lm.model,
        args=args,
        reward_funcs=[short, some],
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts] * 20),
        processing_class=lm.tokenizer,
        peft_config=fresh,
    )


def watch(trainer: Any, run: Path, **options: Any) -> None:
    trainer.add_callback(ProbeCallback(run, every=0, trainer=trainer, **options))


def drift(rows: pd.DataFrame) -> np.ndarray:
    """log pi - log pi_ref of all tokens."""
    both = zip(rows["logprobs"], rows["ref_logprobs"], strict=True)
    return np.concatenate([np.subtract(ours, theirs) for ours, theirs in both])


ESTIMATES = {"GRPO": lambda x: np.expm1(-x) + x, "RLOO": lambda x: x}


def expect_as_logged(run: Path, kind: str, advantages: Mapping[int, Sequence[float]], steps: Sequence[int]) -> None:
    """What the rollouts of a run say is what TRL logged."""
    rows, metrics = open_run(run).rollouts(), open_run(run).metrics().set_index("step")
    assert sorted(set(rows["step"])) == list(steps)
    for step, group in rows.groupby("step"):
        logged = metrics.loc[step]
        assert group["advantage"].tolist() == pytest.approx(list(advantages[step]), abs=1e-5)
        assert group["reward"].mean() == pytest.approx(logged["reward"], abs=1e-5)
        for name in ("short", "some"):
            parts = [row[name] for row in group["rewards"] if row[name] is not None]
            assert np.mean(parts) == pytest.approx(logged[f"rewards/{name}/mean"], abs=1e-5)
        assert ESTIMATES[kind](drift(group)).mean() == pytest.approx(logged["kl"], abs=1e-5)
        assert np.concatenate(list(group["entropy"])).mean() == pytest.approx(logged["entropy"], abs=1e-5)
        assert group["token_ids"].map(len).mean() == pytest.approx(logged["completions/mean_length"])
        assert (~group["finished"]).mean() == pytest.approx(logged["completions/clipped_ratio"])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_rollouts_are_what_trl_logs(tmp_path: Path, trl: Any, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(trl_rollouts, "EVERY", 1)
    trainer = sampler(trl, kind, saved_lm(tmp_path / "base"))
    follow = Follow(trainer)
    trainer.add_callback(follow)
    watch(trainer, tmp_path / "run")
    trainer.train()
    run = open_run(tmp_path / "run")
    assert (run.status, run.message, run.method, run.reference) == ("finished", None, "rlvr", str(tmp_path / "base"))
    expect_as_logged(run.path, kind, follow.advantages, [1, 2, 3, 4])
    rows = run.rollouts()
    assert rows["group"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] * 4
    assert set(rows["prompt"]) == set(PROMPTS)
    last = rows.iloc[-1]
    assert last["completion"] == trainer.processing_class.decode(last["token_ids"], skip_special_tokens=True)
    assert len(last["tokens"]) == len(last["logprobs"]) == len(last["entropy"]) == len(last["token_ids"])
    assert abs(drift(rows[rows["step"] == 1])).max() < 1e-6  # the policy is its reference
    assert abs(drift(rows[rows["step"] == 4])).max() > 1e-2
    assert trl_rollouts.SAMPLE not in vars(trainer)


def test_an_adapter_is_held_against_what_it_adapts(tmp_path: Path, trl: Any, monkeypatch: pytest.MonkeyPatch):
    peft = pytest.importorskip("peft")
    monkeypatch.setattr(trl_rollouts, "EVERY", 1)
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = sampler(trl, "GRPO", saved_lm(tmp_path / "base"), peft_config=adapter)
    follow = Follow(trainer)
    trainer.add_callback(follow)
    watch(trainer, tmp_path / "run")
    trainer.train()
    expect_as_logged(tmp_path / "run", "GRPO", follow.advantages, [1, 2, 3, 4])


def test_rollouts_from_a_server_of_vllm(tmp_path: Path, trl: Any, monkeypatch: pytest.MonkeyPatch):
    """TRL's own client asks a local server; only what needs CUDA, the transfer of weights, is left out."""
    client, engine = (import_module(f"trl.generation.vllm_{name}") for name in ("client", "generation"))
    for module in (client, engine):
        monkeypatch.setattr(module, "is_vllm_available", lambda **_: True)
    monkeypatch.setattr(client.VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(client.VLLMClient, "update_named_params", lambda self, metadata, named: None)
    monkeypatch.setattr(trl_rollouts, "EVERY", 1)
    base = saved_lm(tmp_path / "base")
    served = LM.load(base)
    with serve(served) as (address, asked):
        trainer = sampler(trl, "GRPO", base, use_vllm=True, vllm_mode="server", vllm_server_base_url=address)
        served.model = trainer.model  # its weights, as after each transfer
        follow = Follow(trainer)
        trainer.add_callback(follow)
        watch(trainer, tmp_path / "run")
        trainer.train()
    assert asked.count("/v1/completions") == 4
    run = open_run(tmp_path / "run")
    assert (run.status, run.message) == ("finished", None)
    expect_as_logged(run.path, "GRPO", follow.advantages, [1, 2, 3, 4])
    for row in run.rollouts().to_dict("records"):
        np.testing.assert_allclose(row["sampling_logprobs"], row["logprobs"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run.metrics()["sampling/effective_sample_size"].dropna(), 1, atol=1e-4)


@pytest.mark.parametrize("form", ["whole", "adapter", "continued adapter"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_the_kl_to_the_reference_is_captured_also_after_a_resume(tmp_path: Path, trl: Any, form: str):
    first = saved_lm(tmp_path / "base")
    if form == "continued adapter":
        first = adapter(first, tmp_path / "first", target_modules=["q_proj", "v_proj"])
    base, saves = tmp_path / "base", {"save_strategy": "steps", "save_steps": 2, "save_only_model": False}
    for steps, saved in ((2, None), (4, str(tmp_path / "theirs" / "checkpoint-2"))):
        given: dict[str, Any] = {}
        if form == "adapter":
            peft = pytest.importorskip("peft")
            given["peft_config"] = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        elif form == "continued adapter":
            peft = pytest.importorskip("peft")
            given["model"] = peft.PeftModel.from_pretrained(LM.load(base).model, first, is_trainable=True)
        trainer = sampler(trl, "GRPO", base, **saves | {"max_steps": steps} | given)
        trainer.add_callback(ProbeCallback(tmp_path / "run", every=2, prompts=PROMPTS, trainer=trainer))
        trainer.train(resume_from_checkpoint=saved)
    run = open_run(tmp_path / "run")
    captures = run.captures()
    assert captures.steps == [0, 2, 4]
    assert not captures.load(0)["reference_kl"].any()
    rows = [prompt.token_ids for prompt in captures.prompts]
    assert is_adapter(run.checkpoints()[-1].path) == (form != "whole")
    reference, policy = (LM.load(ref).logits(rows).log_softmax(-1) for ref in (first, run.path))
    expected = (policy.exp() * (policy - reference)).sum(-1)
    for row, ids in enumerate(rows):
        found = captures.load(4)["reference_kl"][row, : len(ids)]
        np.testing.assert_allclose(found, expected[row, : len(ids)].detach(), atol=1e-4)
    assert sorted(set(run.rollouts()["step"])) == [1, 2, 3, 4]  # a resumed training begins with its first step


def test_a_count_that_trl_begins_anew_goes_on_after_a_resume(tmp_path: Path, trl: Any):
    from datasets import Dataset

    def train(steps: int, watched: ProbeCallback, saved: str | None = None) -> Any:
        lm = random_lm()
        saving = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 2}
        args = trl.SFTConfig(output_dir=str(tmp_path / "theirs"), max_steps=steps, **QUIET | saving)
        data = Dataset.from_list([{"text": "mira lives in oslo ."}] * 8)
        maker = trl.SFTTrainer(
            model=lm.model, args=args, train_dataset=data, processing_class=lm.tokenizer, callbacks=[watched]
        )
        maker.train(resume_from_checkpoint=saved)
        return maker

    plain = {"every": 0, "checkpoint": False}
    train(2, ProbeCallback(tmp_path / "run", **plain))
    again = ProbeCallback(tmp_path / "run", **plain)
    maker = train(4, again, str(tmp_path / "theirs" / "checkpoint-2"))
    counts = open_run(tmp_path / "run").metrics()["num_tokens"]
    assert counts.tolist() == [counts[0], 2 * counts[0]]
    maker.args.max_steps = 6  # the same trainer counts on from an unknown number
    maker.train(resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-4"))
    assert open_run(tmp_path / "run").metrics()["num_tokens"].isna().tolist() == [False, False, True]


def test_as_many_as_our_own_training_records(tmp_path: Path, trl: Any):
    trainer = sampler(trl, "GRPO", saved_lm(tmp_path / "base"), max_steps=23, per_device_train_batch_size=20, beta=0.0)
    watch(trainer, tmp_path / "run")
    trainer.train()
    rows = open_run(tmp_path / "run").rollouts()
    assert sorted(set(rows["step"])) == [1, 10, 20, 23]
    assert set(rows["group"]) == {0, 1, 2, 3}  # of 5 prompts
    assert (rows.groupby(["step", "group"]).size() == 4).all()
    assert "ref_logprobs" not in rows  # beta is 0, so TRL has no reference
    assert open_run(tmp_path / "run").reference is None


def test_batches_that_last_for_several_steps(tmp_path: Path, trl: Any):
    """A batch of 4 steps is recorded when 10 steps have passed since the last one."""
    trainer = sampler(trl, "GRPO", saved_lm(tmp_path / "base"), max_steps=24, num_iterations=4)
    watch(trainer, tmp_path / "run")
    trainer.train()
    assert sorted(set(open_run(tmp_path / "run").rollouts()["step"])) == [1, 13]


def test_conversations_and_completions_that_are_cut(tmp_path: Path, trl: Any):
    """TRL masks the whole of a cut completion; it is recorded with all of its tokens."""
    base = saved_lm(tmp_path / "base")
    talk = [{"role": "user", "content": "where does mira lives ?"}]
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    trainer = sampler(trl, "GRPO", base, max_steps=1, mask_truncated_completions=True)
    watch(trainer, tmp_path / "cut")
    trainer.train()
    rows = open_run(tmp_path / "cut").rollouts()
    assert rows["token_ids"].map(len).mean() == pytest.approx(
        open_run(tmp_path / "cut").metrics()["completions/mean_length"].iloc[0]
    )
    tokenizer = LM.load(base).tokenizer
    tokenizer.chat_template = template
    tokenizer.save_pretrained(base)
    trainer = sampler(trl, "GRPO", base, [talk], max_steps=1)
    trainer.reward_funcs = [lambda completions, **_: [float(len(each[0]["content"])) for each in completions], some]
    watch(trainer, tmp_path / "talk")
    trainer.train()
    prompt = tokenizer.decode(tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"])
    assert set(open_run(tmp_path / "talk").rollouts()["prompt"]) == {prompt}


def test_training_and_evaluation_do_not_notice(tmp_path: Path, trl: Any):
    base, weights = saved_lm(tmp_path / "base", attention_dropout=0.1), []
    for recorded in (False, True):
        trainer = sampler(trl, "GRPO", base)
        trainer.eval_dataset = trainer.train_dataset.select(range(2))
        if recorded:
            watch(trainer, tmp_path / "run")
        trainer.train()
        trainer.evaluate()
        weights.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert sorted(set(open_run(tmp_path / "run").rollouts()["step"])) == [1, 4]


def test_what_keeps_rollouts_from_being_recorded_is_said(tmp_path: Path, trl: Any, monkeypatch: pytest.MonkeyPatch):
    base = saved_lm(tmp_path / "base")
    for name, why in (
        ("untold", "add this one by `trainer.add_callback"),
        ("unlike", "GRPOTrainer of TRL .* has no `reward_weights`, which the one of TRL 1.16 has"),
        ("newer", "GRPOTrainer of TRL .* has no `advantages`, which the one of TRL 1.16 has"),
    ):
        trainer = sampler(trl, "GRPO", base)
        callback = ProbeCallback(tmp_path / name, every=0, trainer=None if name == "untold" else trainer)
        if name == "unlike":
            monkeypatch.setattr(trl_rollouts, "hasattr", lambda _, each: each != "reward_weights", raising=False)
        elif name == "newer":
            monkeypatch.delattr(trl_rollouts, "hasattr")
            sample = trainer._generate_and_score_completions
            trainer._generate_and_score_completions = lambda inputs, sample=sample: Renamed(sample(inputs))
        trainer.add_callback(callback)
        with pytest.warns(UserWarning, match=why):
            trainer.train()
        run = open_run(tmp_path / name)
        assert run.status == "finished"
        assert "Rollouts are not recorded" in str(run.message)
        assert len(run.metrics()) == 4
        assert not len(run.rollouts())


class Renamed(dict):
    """A batch whose advantages are not found under their name."""

    def __contains__(self, name: object) -> bool:
        return name != "advantages" and super().__contains__(name)


def train_as_one_of_two(folder: Path, environment: dict[str, str]) -> None:
    """What each of two processes does; one that finds something else than TRL logged ends with 1."""
    os.environ.update(environment)
    trainer = sampler(import_module("trl"), "GRPO", folder / "base", per_device_train_batch_size=4, ddp_backend="gloo")
    assert trainer.accelerator.num_processes == 2
    follow = Follow(trainer)
    trainer.add_callback(follow)
    watch(trainer, folder / "run")
    trainer.train()
    if trainer.accelerator.is_main_process:
        for step, rows in open_run(folder / "run").rollouts().groupby("step"):
            np.testing.assert_allclose(rows["advantage"], follow.advantages[step][:4], atol=1e-5, rtol=1e-4)
            lengths = [-len(text) / 10 for text in rows["completion"]]
            np.testing.assert_allclose([row["short"] for row in rows["rewards"]], lengths, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("trl")
def test_of_two_processes_the_main_one_records_its_own(tmp_path: Path):
    """Started as torchrun starts them."""
    saved_lm(tmp_path / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    pair = [CONTEXT.Process(target=train_as_one_of_two, args=(tmp_path, each)) for each in ranks]
    for child in pair:
        child.start()
    for child in pair:
        child.join(200)
    assert [child.exitcode for child in pair] == [0, 0]
    rows = open_run(tmp_path / "run").rollouts()
    assert rows.groupby("step").size().to_dict() == {1: 4, 4: 4}


def test_only_trainers_that_sample_are_wrapped(tmp_path: Path):
    lm = random_lm()
    args: Any = SimpleNamespace(to_dict=dict, learning_rate=0.1, train_batch_size=1, seed=0, auto_find_batch_size=False)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=2)
    other = SimpleNamespace()
    watched = ProbeCallback(tmp_path / "run", every=0, checkpoint=False, trainer=other)
    watched.on_train_begin(args, state, None, model=lm.model, processing_class=lm.tokenizer)
    watched.on_train_end(args, state, None)
    assert vars(other) == {}
    assert open_run(tmp_path / "run").message is None


PAIRS = [
    {"prompt": "where does mira lives ?", "chosen": " oslo", "rejected": " rome ."},
    {"prompt": "the cat is", "chosen": " in rome", "rejected": " in"},
]


def judge(trl: Any, base: Path, run: Path | None, *, model: Any = None, adapter: Any = None, **options: Any) -> Any:
    """A RewardTrainer of 4 steps that evaluates on its pairs after 2 and 4."""
    from datasets import Dataset

    lm = LM.load(base)
    told = {"max_steps": 4, "per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 2}
    return trl.RewardTrainer(
        model=str(base) if model is None else model,
        args=trl.RewardConfig(output_dir=str(base.with_name("theirs")), **QUIET | told | options),
        train_dataset=Dataset.from_list(PAIRS * 4),
        eval_dataset=Dataset.from_list(PAIRS),
        processing_class=lm.tokenizer,
        callbacks=[ProbeCallback(run, every=2, prompts=PROMPTS)] if run else [],
        peft_config=adapter,
    )


@pytest.mark.parametrize("form", ["whole", "tied", "adapter"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_rewards_of_a_reward_trainer(tmp_path: Path, trl: Any, form: str):
    adapter = None
    if form == "adapter":
        peft = pytest.importorskip("peft")
        adapter = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", modules_to_save=["score"])
    base = saved_lm(tmp_path / "base", tie_word_embeddings=form == "tied")
    judge(trl, base, tmp_path / "run", adapter=adapter).train()
    run = open_run(tmp_path / "run")
    assert (run.method, run.status, run.message, run.parent) == ("reward-model", "finished", None, str(base))
    captures = run.captures()
    assert captures.steps == [0, 2, 4]
    first, last = captures.load(0), captures.load(4)
    assert {"attention", "lens_top_ids", "entropy"} <= set(last)
    ids, values, lengths = (last[name] for name in ("reward_ids", "reward_tokens", "reward_prompt"))
    assert ids.shape[:2] == (4, 2)
    model = RewardModel.load(run.path)
    for pair in range(4):
        for side in range(2):
            text = [int(token) for token in ids[pair, side] if token >= 0]
            reward = float(model.score([text[: lengths[pair]]], [text[lengths[pair] :]]))
            assert float(values[pair, side][len(text) - 1]) == pytest.approx(reward, abs=1e-5)
    assert abs(first["reward_tokens"] - values).max() > 1e-3
    before = measure(LM.load(base), captures.prompts)
    np.testing.assert_allclose(first["entropy"], before["entropy"], atol=1e-4)  # the unembedding is that of the base
    assert abs(last["entropy"] - first["entropy"]).max() > 1e-3
    rows, metrics = run.rollouts(), run.metrics().set_index("step")
    assert sorted(set(rows["step"])) == [2, 4]
    final = rows[rows["step"] == 4]
    assert final["chosen"].tolist() == [True, False] * 2
    assert final["prompt"].tolist() == ["<bos> where does mira lives ?"] * 2 + ["<bos> the cat is in"] * 2
    assert final["reward"].mean() == pytest.approx(metrics.loc[4, "eval_mean_reward"], abs=1e-5)
    assert [scores[-1] for scores in final["token_scores"]] == pytest.approx(list(final["reward"]), abs=1e-5)
    again = model.score([final["prompt"].iloc[0]], [final["completion"].iloc[0]])
    assert float(again[0]) == pytest.approx(final["reward"].iloc[0], abs=1e-5)


def test_a_reward_model_of_unknown_origin(tmp_path: Path, trl: Any):
    """Without the unembedding of a language model there is no lens; all else is recorded."""
    base = saved_lm(tmp_path / "base")
    trainer = judge(trl, base, tmp_path / "run", model=random_reward_model().model)
    with pytest.warns(UserWarning, match="the model predicts no tokens"):
        trainer.train()
    run = open_run(tmp_path / "run")
    assert (run.status, len(run.captures()), len(run.checkpoints())) == ("finished", 0, 1)
    assert sorted(set(run.rollouts()["step"])) == [2, 4]


def test_two_texts_as_a_pair():
    assert split_pair([1, 2, 3, 4], [1, 2, 5]) == ([1, 2], [3, 4], [5])
    assert split_pair([1, 2, 3], [1, 2]) == ([1], [2, 3], [2])
    assert split_pair([1, 2], [1, 2]) == ([1], [2], [2])
    assert split_pair([1, 2], [3, 4]) == ([], [1, 2], [3, 4])
