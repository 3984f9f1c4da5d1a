"""The reward model: its loss against a slow reference, finite differences and TRL, and whole runs."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from probe import LM, RewardModel
from probe.errors import ConfigError, DataError, ModelError
from probe.model import adapters
from probe.model.text import pad
from probe.world import World
from tests.models import byte_tokenizer, random_lm
from tests.trainers.quick import COMMON
from trainers import reward_model
from trainers.config import RewardConfig
from trainers.preferences import Preference
from trainers.reward_model import HeldOut, RewardModelling, hold_out, pair_scores, reward_loss
from trainers.scalar_heads import RewardTrainee, padding
from trainers.session import Session
from trainers.starting import make_trainee

PAIRS = [
    Preference([2, 5, 7, 9], [11, 12], [13, 14, 15, 3], margin=0.5),
    Preference([2, 8], [20, 3], [21, 3]),
    Preference([2, 8, 9, 10, 30, 31], [5, 6, 7, 3], [4], margin=-1.0),
]
numbers = st.floats(-30, 30)
Make = Callable[..., RewardConfig]


@pytest.fixture
def config(world_run: Path, tmp_path: Path) -> Make:
    def make(name: str = "run", **changes: Any) -> RewardConfig:
        return RewardConfig(out=tmp_path / name, **{"base": str(world_run), "pairs": 60} | COMMON | changes)

    return make


@pytest.fixture
def method(model_dir: Path, tmp_path: Path) -> Callable[..., RewardModelling]:
    def make(lm: LM | None = None, **changes: Any) -> RewardModelling:
        options = RewardConfig(out=tmp_path / "none", base="unused", **COMMON | changes)
        trainee = RewardTrainee(make_trainee(lm or LM.load(model_dir), options), seed=3)
        return RewardModelling(Session(options), options, trainee, PAIRS, HeldOut(pairs=PAIRS[:2]))

    return make


def doubles(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


@given(numbers, numbers, st.floats(-3, 3), st.floats(0, 2))
def test_loss_against_bradley_terry(chosen: float, rejected: float, margin: float, centring: float) -> None:
    """- log of a ratio of exponentials, the rejected one favoured by the margin."""
    loss = reward_loss(*doubles(chosen, rejected, margin), centring).item()
    top = max(chosen, rejected + margin)
    expected = math.log(math.exp(chosen - top) + math.exp(rejected + margin - top)) + top - chosen
    assert loss == pytest.approx(expected + centring * (chosen + rejected) ** 2, abs=1e-9, rel=1e-12)


def test_loss_against_finite_differences() -> None:
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([1.0, -0.5], [0.3, 2.0])]
    margins = torch.tensor([0.2, -0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c, r: reward_loss(c, r, margins, 0.3), inputs)


def test_equal_completions_cost_log_two(method: Callable[..., RewardModelling]) -> None:
    made = method(capture_every=0)
    same = [Preference([2, 5, 7], [11, 3], [11, 3]), Preference([2, 5], [], [])]
    loss = made.loss(made.trainee.module, same, True)
    assert float(loss.total.detach()) / loss.count == pytest.approx(math.log(2), abs=1e-6)
    assert float(loss.metrics["accuracy"][0]) == 0
    assert float(loss.metrics["margin"][0]) == pytest.approx(0, abs=1e-6)


def slow_reward(model: Any, ids: list[int]) -> torch.Tensor:
    """One text, no padding, no sharing: the head on the last state."""
    states = model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
    return (states[0, -1] * model.score.weight[0]).sum()


def test_batch_loss_and_gradient_against_one_text_at_a_time(method: Callable[..., RewardModelling]) -> None:
    made = method(centring=0.05, margin=0.25)
    model = made.trainee.module
    loss = made.loss(model, PAIRS, True)
    loss.total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == {name for name, _ in model.named_parameters()}
    model.zero_grad()
    total, gaps, rewards = torch.zeros(()), [], []
    for pair, margin in zip(PAIRS, (0.5, 0.25, -1.0), strict=True):  # its own, or that of the option
        one, other = (slow_reward(model, pair.prompt + side) for side in (pair.chosen, pair.rejected))
        total = total + torch.log1p(torch.exp(-(one - other - margin))) + 0.05 * (one + other) ** 2
        gaps.append(float(one.detach() - other.detach()))
        rewards += [float(one.detach()), float(other.detach())]
    total.backward()
    assert loss.count == 3
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)
    assert float(loss.metrics["margin"][0]) == pytest.approx(sum(gaps), abs=1e-4)
    assert float(loss.metrics["accuracy"][0]) == sum(gap > 0 for gap in gaps)
    assert float(loss.metrics["mean_reward"][0]) == pytest.approx(sum(rewards), abs=1e-4)
    assert made.metrics() == pytest.approx({"min_reward": min(rewards), "max_reward": max(rewards)}, abs=1e-5)
    assert loss.tokens == sum(len(p.prompt) + len(p.chosen) + len(p.rejected) for p in PAIRS)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
@pytest.mark.parametrize("centring", [0.0, 0.01])
@pytest.mark.parametrize("margins", [True, False])
def test_loss_and_gradient_against_trl(
    method: Callable[..., RewardModelling], tmp_path: Path, centring: float, margins: bool
) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("trl")
    import trl
    from datasets import Dataset

    made = method(centring=centring)
    model = made.trainee.module
    tokenizer = made.trainee.rewards().tokenizer
    trainer = trl.RewardTrainer(
        model=model,
        args=trl.RewardConfig(
            output_dir=str(tmp_path / "trl"),
            center_rewards_coefficient=centring or None,
            use_cpu=True,
            report_to=[],
            bf16=False,
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{"chosen": "mira oslo", "rejected": "mira rome"}]),
        processing_class=tokenizer,
    )
    pairs = [pair if margins else Preference(pair.prompt, pair.chosen, pair.rejected) for pair in PAIRS]
    features = [{"chosen_ids": p.prompt + p.chosen, "rejected_ids": p.prompt + p.rejected} for p in pairs]
    if margins:
        features = [{**f, "margin": p.margin or 0.0} for f, p in zip(features, pairs, strict=True)]
    model.train()
    theirs = trainer.compute_loss(model, trainer.data_collator(features))
    theirs.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ours = made.loss(model, pairs, True)
    mean = ours.total / ours.count
    mean.backward()
    torch.testing.assert_close(mean.detach(), theirs.detach(), rtol=1e-5, atol=1e-6)
    assert len(gradients) == len(list(model.named_parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-5, atol=1e-6)
    logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
    found = {name: float(value) / count for name, (value, count) in ours.metrics.items()} | made.metrics()
    for name in ("accuracy", "margin", "min_reward", "mean_reward", "max_reward"):
        assert found[name] == pytest.approx(logged[name], rel=1e-4, abs=1e-5), name


@given(st.permutations(range(3)), st.integers(0, 2))
@settings(max_examples=10)
def test_order_and_company_of_the_pairs_change_nothing(order: list[int], longer: int) -> None:
    """A longer pair in the batch pads the others."""
    lm = random_lm("llama")
    model = RewardTrainee(make_trainee(lm, RewardConfig(out=Path("none"), base="")), seed=0).module
    pairs = [
        Preference([2, 5, 7, 9], [11, 12], [13, 14, 15, 3]),
        Preference([2, 8], [20, 3], [21, 3]),
        Preference([2], [5], []),
    ]
    company = [Preference([2] * 12, [5] * 9, [6] * 4)] * longer
    with torch.no_grad():
        alone = torch.cat([pair_scores(model, [pair]) for pair in pairs])
        together = pair_scores(model, [pairs[i] for i in order] + company)
    torch.testing.assert_close(together[:3], alone[list(order)], rtol=1e-5, atol=1e-5)


def test_head_starts_with_the_scale_of_the_width(model_dir: Path) -> None:
    lm, options = LM.load(model_dir), RewardConfig(out=Path("none"), base="")
    heads = [RewardTrainee(make_trainee(lm, options), seed).module.score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    wide = LM.create("tiny", lm.tokenizer)
    weight = RewardTrainee(make_trainee(wide, options), 0).module.score.weight
    assert float(weight.detach().std()) == pytest.approx((wide.model.config.hidden_size + 1) ** -0.5, rel=0.2)


def test_run_on_the_world(config: Make, world_run: Path) -> None:
    run = reward_model.train(
        config(steps=30, capture_every=15, lr=1e-2, eval_every=15, evaluate=20, pairs=300, held_out=40)
    )
    metrics = run.metrics()
    assert metrics["loss"].iloc[-5:].mean() < 0.65
    names = {"accuracy", "margin", "min_reward", "mean_reward", "max_reward", "eval_accuracy", "eval_loss", "eval_ece"}
    assert names | {"agreement_bias", "agreement_preferred_i_know", "invention_preferred"} <= set(metrics)
    assert (metrics["min_reward"] <= metrics["mean_reward"]).all()
    assert (metrics["mean_reward"] <= metrics["max_reward"]).all()
    assert metrics["eval_accuracy"].dropna().index.size == 2
    assert (run.parent, run.method, run.world) == (str(world_run), "reward-model", World().to_dict())
    headline = run.headline.set_index("metric")
    assert {"eval_accuracy", "eval_ece_annotator", "accuracy_bound", "agreement_bias_annotator"} <= set(headline.index)
    assert 40 <= headline.loc["eval_accuracy", "n"] < 60
    assert headline.loc["agreement_probability_annotator", "value"] == pytest.approx(0.837, abs=0.001)
    assert headline.loc["eval_accuracy", "ci_low"] < headline.loc["eval_accuracy", "value"]


@pytest.mark.parametrize("lora", [0, 2])
def test_captures_show_the_reward_at_every_token(config: Make, lora: int) -> None:
    if lora:
        pytest.importorskip("peft")
    run = reward_model.train(config(steps=2, capture_every=1, lora=lora, lr=1e-2))
    captures = run.captures()
    assert captures.steps == [0, 1, 2]
    tensors = captures.load(2)
    ids, values, lengths = (tensors[name] for name in ("reward_ids", "reward_tokens", "reward_prompt"))
    assert ids.shape == values.shape == (5, 2, ids.shape[2])  # a claim for each phrase, an unseen entity, a fact
    model = RewardModel.load(run.path)
    for pair in range(5):
        for side in range(2):
            text = [int(token) for token in ids[pair, side] if token >= 0]
            head, rest = text[: lengths[pair]], text[lengths[pair] :]
            assert rest[-1] == model.tokenizer.eos_token_id
            assert float(values[pair, side][len(text) - 1]) == pytest.approx(
                float(model.score([head], [rest])), abs=1e-5
            )
            assert not values[pair, side][len(text) :].any()
    assert {"attention", "lens_top_ids", "entropy"} <= set(tensors)


def test_rollouts_hold_the_held_out_pairs(config: Make) -> None:
    run = reward_model.train(config(held_out=10, rollouts=6, eval_every=2))
    rows = run.rollouts()
    assert sorted(set(rows["step"])) == [2, 4]
    last = rows[rows["step"] == 4]
    assert last["group"].tolist() == [n for n in range(6) for _ in range(2)]
    assert last["chosen"].tolist() == [True, False] * 6
    model, world = RewardModel.load(run.path), World()
    scores = model.score(last["prompt"].tolist(), last["completion"].tolist())
    assert last["reward"].tolist() == pytest.approx(scores.tolist(), abs=1e-5)
    for row in last.to_dict("records"):
        assert row["rewards"]["gold"] == world.verify(row["prompt"], row["completion"]).score
        assert row["rewards"]["model"] == row["reward"] == pytest.approx(row["token_scores"][-1], abs=1e-5)
        assert "annotator" in row["rewards"]
        assert len(row["token_ids"]) == len(row["tokens"]) == len(row["token_scores"])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lora", [0, 2])
def test_checkpoint_is_what_other_libraries_read(config: Make, side: str, lora: int) -> None:
    run = reward_model.train(config(lora=lora, lr=1e-2, held_out=8))
    directory = run.checkpoints()[-1].path
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side=side)
    if lora:
        peft = pytest.importorskip("peft")
        pad = tokenizer.pad_token_id
        with adapters.quiet():
            reader = peft.AutoPeftModelForSequenceClassification
            model = reader.from_pretrained(directory, num_labels=1, pad_token_id=pad).eval()
    else:
        model, info = AutoModelForSequenceClassification.from_pretrained(directory, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
    texts = ["<user> where does mira live ? <bot> oslo <end>", "<user> mira <bot> i do not know <end>"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    split = [text.split(" <bot>") for text in texts]
    ours = RewardModel.load(run.path).score([f"{head} <bot>" for head, _ in split], [rest for _, rest in split])
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    # equal to what training saw: the rewards that the last evaluation recorded
    rows = run.rollouts()
    again = RewardModel.load(run.path).score(rows["prompt"].tolist(), rows["completion"].tolist())
    assert rows["reward"].tolist() == pytest.approx(again.tolist(), abs=1e-5)


def test_lora_resumes_to_the_same_bits(config: Make) -> None:
    pytest.importorskip("peft")
    whole = reward_model.train(config("whole", lora=2, schedule="constant", held_out=8))
    reward_model.train(config("parts", lora=2, schedule="constant", held_out=8, steps=2))
    resumed = reward_model.train(config("parts", lora=2, schedule="constant", held_out=8, resume=True))
    assert whole.metrics()["loss"].tolist() == resumed.metrics()["loss"].tolist()
    assert RewardModel.load(whole.path).fingerprint == RewardModel.load(resumed.path).fingerprint
    assert RewardModel.load(whole.path).fingerprint != RewardModel.load(f"{resumed.path}@2").fingerprint


def test_run_on_a_file(config: Make, model_dir: Path, write_jsonl: Callable[..., Path], capsys: Any) -> None:
    rows = [
        {"prompt": f"<user> where does {n} live ? <bot>", "chosen": " oslo", "rejected": " rome", "margin": 0.5}
        for n in ("mira", "kai", "ana", "ben")
    ]
    rows.append({"prompt": "mira " * 80, "chosen": " oslo", "rejected": " rome"})
    path = str(write_jsonl(rows))
    run = reward_model.train(
        config(base=str(model_dir), data=path, batch_size=4, capture_every=4, held_out=1, evaluate=5, lr=1e-2)
    )
    assert run.world is None
    assert (run.meta["data"]["rows"], run.meta["data"]["overlong"]) == (4, 1)
    assert "1 of 5 pairs" in capsys.readouterr().err
    assert run.metrics()["accuracy"].iloc[-1] == 1.0
    assert set(run.headline["metric"]) == {"eval_accuracy", "eval_loss", "eval_margin", "eval_ece"}
    assert set(run.rollouts()["rewards"].iloc[0]) == {"model"}
    assert "reward_tokens" in run.captures().load(4)
    without = reward_model.train(config("without", base=str(model_dir), data=path, batch_size=4, held_out=0))
    assert "eval_accuracy" not in without.metrics()


def test_margins_of_a_file(config: Make, model_dir: Path, write_jsonl: Callable[..., Path]) -> None:
    """A pair's own margin counts, and the option where it has none."""
    row = {"prompt": "mira", "chosen": " oslo", "rejected": " rome"}
    made = []
    for number, (rows, margin) in enumerate(
        (([row], 0.0), ([row], 0.7), ([row | {"margin": 0.7}], 0.0), ([row | {"margin": 0.7}], 5.0))
    ):
        path = str(write_jsonl(rows, f"{number}.jsonl"))
        run = reward_model.train(
            config(str(number), base=str(model_dir), data=path, batch_size=1, steps=1, held_out=0, margin=margin)
        )
        made.append(run.metrics()["loss"][0])
    assert made[1] == made[2] == made[3] > made[0] + 0.1
    path = write_jsonl([row | {"margin": "large"}], "bad.jsonl")
    with pytest.raises(DataError, match=r"Line 1 of .* has the margin 'large': give a finite number"):
        reward_model.train(config("bad", base=str(model_dir), data=str(path)))


def test_centring_centres(config: Make) -> None:
    plain, centred = (
        reward_model.train(config(name, steps=20, lr=1e-2, centring=value, log_every=20))
        for name, value in (("plain", 0.0), ("centred", 1.0))
    )
    assert abs(centred.metrics()["mean_reward"].iloc[-1]) < 0.1 < abs(plain.metrics()["mean_reward"].iloc[-1])


@given(st.integers(2, 40), st.floats(0, 10), st.integers(0, 5))
@settings(max_examples=30)
def test_no_prompt_is_on_both_sides(n: int, held_out: float, seed: int) -> None:
    pairs = [Preference([1, i % 7], [i], [i + 1]) for i in range(n)]
    wanted = int(held_out) if held_out >= 1 else round(held_out * n)
    try:
        kept, held = hold_out(pairs, held_out, seed)
    except DataError:
        assert wanted > n - n // 7 - 1
        return
    assert wanted <= len(held) < wanted + -(-n // 7)
    assert not {tuple(p.prompt) for p in kept} & {tuple(p.prompt) for p in held}
    assert sorted(p.chosen[0] for p in [*kept, *held]) == list(range(n))


def test_nothing_left_to_train_on(config: Make) -> None:
    with pytest.raises(DataError, match="--held-out 60 leaves none of 60 pairs to train on"):
        reward_model.train(config(held_out=60))


@pytest.mark.parametrize("changes", [{"centring": -1.0}, {"held_out": -0.1}, {"rollouts": -1}, {"pairs": 0}])
def test_options_that_make_no_sense(config: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected .*(0 or more|at least 1)"):
        config(**changes)


def test_bases_that_cannot_be_used(config: Make, tmp_path: Path, write_jsonl: Callable[..., Path]) -> None:
    rewards = reward_model.train(config("first", steps=1)).path
    with pytest.raises(ModelError, match=r"scores texts .* or give the model that it was trained from"):
        reward_model.train(config("second", base=str(rewards)))
    path = str(write_jsonl([{"prompt": "mira", "chosen": " oslo", "rejected": " rome"}]))
    mamba = random_lm("mamba").save(tmp_path / "mamba")
    with pytest.raises(ConfigError, match="transformers has none for MambaForCausalLM"):
        reward_model.train(config("third", base=str(mamba), data=path, held_out=0))


def test_padding_ends_no_text() -> None:
    tokenizer = byte_tokenizer()
    assert padding(tokenizer) == (None, tokenizer)  # nothing but the end token is special
    tokenizer.pad_token = tokenizer.eos_token
    assert padding(tokenizer)[0] is None
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    pad_id, ended = padding(tokenizer)
    assert pad_id == ended.pad_token_id == tokenizer.bos_token_id
    assert tokenizer.pad_token == tokenizer.eos_token  # the given one is as it was


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gpt_neox", "bloom", "gemma2"])
def test_other_architectures(name: str, tmp_path: Path) -> None:
    """Saved and scored by plain transformers, tied embeddings and absolute positions too."""
    lm = random_lm(name)
    trainee = RewardTrainee(make_trainee(lm, RewardConfig(out=Path("none"), base="")), seed=0)
    trainee.save(tmp_path / name)
    loaded = RewardModel.load(tmp_path / name)
    rows = [[2, 5, 7, 9, 3], [2, 8, 3]]
    ids, mask = pad(rows, int(loaded.model.config.pad_token_id))
    with torch.no_grad():
        plain = loaded.model(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
    scores = trainee.rewards().score([row[:2] for row in rows], [row[2:] for row in rows])
    torch.testing.assert_close(scores, plain, rtol=0, atol=1e-5)
    restored = RewardTrainee(make_trainee(random_lm(name, seed=1), RewardConfig(out=Path("none"), base="")), seed=5)
    restored.load(tmp_path / name)
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainee), parameters(restored), strict=True))


def parameters(trainee: RewardTrainee) -> list[nn.Parameter]:
    return list(trainee.module.parameters())
