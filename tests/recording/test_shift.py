"""The reward shift: its tensors against direct computation, reward models and worlds in it, and the tables of a run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

import probe
from probe.errors import ConfigError, RunError
from probe.model.lm import LM
from probe.model.rewards import RewardModel
from probe.recording.recorder import as_prompt
from probe.recording.reward_shift import RewardShift
from probe.rewards.evaluation import gold_scores
from probe.rewards.shift import shift_curve, shift_samples, shift_steps, shift_tokens
from probe.runs.schema import ProbePrompt
from probe.world import World
from tests.models import CONTEXT, byte_tokenizer, random_lm

TEXTS = ("mira lives in", "where does tom", "the cat is in the")


def prompts_of(lm: LM, texts: tuple[str, ...] = TEXTS) -> list[ProbePrompt]:
    return [as_prompt(lm, text, index) for index, text in enumerate(texts)]


def classifier(lm: LM) -> RewardModel:
    config = LlamaConfig(
        vocab_size=len(lm.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return RewardModel(LlamaForSequenceClassification(config).eval(), lm.tokenizer)


@pytest.fixture(scope="module")
def policy() -> LM:
    return random_lm("llama", seed=1)


@pytest.fixture(scope="module")
def reference() -> LM:
    return random_lm("llama", seed=2)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "mamba"])
def test_tensors_against_one_sequence_at_a_time(name: str) -> None:
    policy, reference = random_lm(name, seed=1), random_lm(name, seed=2)
    prompts = prompts_of(policy)
    found = RewardShift(reference.logits, beta=0.5, samples=3, max_new_tokens=6, seed=8)(policy, prompts)
    assert {key: tuple(value.shape[:2]) for key, value in found.items()} == dict.fromkeys(
        ("shift_ids", "shift_logratio", "shift_kl", "shift_implicit"), (3, 3)
    )
    ended = 0
    for p, prompt in enumerate(prompts):
        for s in range(3):
            ids = [int(i) for i in found["shift_ids"][p, s] if i >= 0]
            ended += ids[-1] == policy.tokenizer.eos_token_id
            row = torch.tensor([prompt.token_ids + ids])
            with torch.no_grad():
                pi, ref = (m.model(input_ids=row).logits[0].double().log_softmax(-1) for m in (policy, reference))
            for j, token in enumerate(ids):
                at = prompt.length - 1 + j
                assert found["shift_logratio"][p, s, j] == pytest.approx(
                    float(pi[at, token] - ref[at, token]), abs=1e-4
                )
                assert found["shift_kl"][p, s, j] == pytest.approx(
                    float((pi[at].exp() * (pi[at] - ref[at])).sum()), abs=1e-4
                )
            assert not found["shift_kl"][p, s, len(ids) :].any()
            assert not found["shift_logratio"][p, s, len(ids) :].any()
    torch.testing.assert_close(found["shift_implicit"], 0.5 * found["shift_logratio"])
    assert name != "llama" or 0 < ended < 9  # samples of different lengths are among them


def test_a_policy_that_is_the_reference_has_not_shifted(policy: LM) -> None:
    found = RewardShift(policy.logits)(policy, prompts_of(policy))
    assert found["shift_logratio"].abs().max() < 1e-5
    assert found["shift_kl"].abs().max() < 1e-5


def test_every_capture_draws_alike_and_parts_change_nothing(
    policy: LM, reference: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument, prompts = RewardShift(reference.logits, samples=4), prompts_of(policy)
    torch.manual_seed(0)
    first = instrument(policy, prompts)
    torch.manual_seed(1)
    monkeypatch.setattr("probe.recording.reward_shift.ROOM", 1)
    second = instrument(policy, prompts)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-5, rtol=1e-5)
    other = RewardShift(reference.logits, samples=4, seed=1)(policy, prompts)
    assert not torch.equal(other["shift_ids"][..., :2], first["shift_ids"][..., :2])


def test_a_reward_model_is_read_at_every_token(policy: LM, reference: LM) -> None:
    prompts, model = prompts_of(policy), classifier(policy)
    found = RewardShift(reference.logits, proxy=model, samples=2, max_new_tokens=6)(policy, prompts)
    for p, prompt in enumerate(prompts):
        for s in range(2):
            ids = [int(i) for i in found["shift_ids"][p, s] if i >= 0]
            scores = [float(model.score([prompt.token_ids], [ids[: j + 1]])[0]) for j in range(len(ids))]
            np.testing.assert_allclose(found["shift_proxy_tokens"][p, s, : len(ids)], scores, atol=1e-5, rtol=1e-4)
            assert found["shift_proxy"][p, s] == pytest.approx(scores[-1], abs=1e-5)
        before = model.score([prompt.token_ids[:-1]], [prompt.token_ids[-1:]])[0]
        assert found["shift_proxy_start"][p] == pytest.approx(float(before), abs=1e-5)


def test_a_reward_model_with_another_vocabulary_reads_text(policy: LM, reference: LM) -> None:
    model = classifier(random_lm("llama", byte_tokenizer()))
    found = RewardShift(reference.logits, proxy=model, samples=2)(policy, prompts_of(policy))
    assert "shift_proxy_tokens" not in found
    text = policy.tokenizer.decode([i for i in found["shift_ids"][1, 0].tolist() if i >= 0], skip_special_tokens=True)
    assert found["shift_proxy"][1, 0] == pytest.approx(float(model.score([TEXTS[1]], [text])[0]), abs=1e-5)


def test_what_does_not_apply_is_nan_and_a_full_context_has_no_samples(policy: LM, reference: LM) -> None:
    long = ProbePrompt(
        id="long", text="long", token_ids=[5] * CONTEXT, tokens=["x"] * CONTEXT, answers=[], answer_ids=[]
    )
    prompts = [*prompts_of(policy), long]

    def proxy(texts: list[str], completions: list[str]) -> list[float | None]:
        return [None if text == TEXTS[0] else 2.0 for text in texts]

    found = RewardShift(reference.logits, proxy=proxy, samples=2)(policy, prompts)
    assert found["shift_proxy"].isnan().tolist() == [[True, True], [False, False], [False, False], [True, True]]
    assert (found["shift_ids"][3] == -1).all()
    assert not found["shift_kl"][3].any()
    assert RewardShift(reference.logits)(policy, [long]) == {}


def test_gold_is_the_verdict_where_something_is_asked() -> None:
    world = World(seed=0)
    item = world.questions("fact", 1)[0]
    chain = next(prompt["text"] for prompt in world.probe_prompts() if prompt["kind"] == "markov")
    asked = [item.prompt, item.prompt, item.prompt, chain, "the cat"]
    assert gold_scores(world, asked, [item.answers[0], " i do not know", " x", " z0", " sat"]) == [1, 0, -1, None, None]


@pytest.mark.parametrize(("option", "value"), [("samples", 0), ("max_new_tokens", 0), ("beta", -1.0)])
def test_impossible_numbers_are_refused(policy: LM, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option}={value}"):
        RewardShift(policy.logits, **{option: value})


@pytest.fixture(scope="module")
def run(policy: LM, reference: LM, tmp_path_factory: pytest.TempPathFactory) -> probe.Run:
    """A policy that moves away from its reference, watched."""
    lm = LM(random_lm("llama", seed=2).model, policy.tokenizer)
    instrument = RewardShift(reference.logits, proxy=classifier(policy), beta=2.0, samples=3)
    path = tmp_path_factory.mktemp("runs") / "watched"
    with probe.watch(lm, path, prompts=list(TEXTS), every=1, instruments=[instrument]) as recorder:
        for step in range(3):
            recorder.step(step)
            with torch.no_grad():
                for a, b in zip(lm.model.parameters(), policy.model.parameters(), strict=True):
                    a.lerp_(b, 0.3)
        with recorder.writer.checkpoint(2) as directory:
            lm.save(directory)
    return probe.open_run(path)


def test_tables_of_a_run(run: probe.Run) -> None:
    assert shift_steps(run) == [0, 1, 2]
    tokens, samples = shift_tokens(run), shift_samples(run)
    assert len(samples) == 3 * 3 * 3
    assert samples["length"].sum() == len(tokens)
    sums = (
        tokens.groupby(["step", "prompt", "sample"])[["logratio", "kl", "implicit", "proxy_gain"]].sum().reset_index()
    )
    joined = samples.merge(sums, on=["step", "prompt", "sample"], suffixes=("", "_sum"))
    for name in ("logratio", "kl", "implicit"):
        np.testing.assert_allclose(joined[name], joined[f"{name}_sum"])
    start = run.captures().load(2)["shift_proxy_start"]
    last = joined[joined["step"] == 2]
    np.testing.assert_allclose(last["proxy"] - start[last["prompt"]], last["proxy_gain"], atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(joined["implicit"], 2.0 * joined["logratio"])
    assert samples["gold"].isna().all()
    first = tokens[(tokens["step"] == 2) & (tokens["prompt"] == 0) & (tokens["sample"] == 0)]
    assert " ".join(first["token"]) == samples.loc[samples["step"] == 2, "completion"].iloc[0]
    assert shift_tokens(run, [1])["step"].unique().tolist() == [1]


def test_the_curve_of_a_run(run: probe.Run) -> None:
    curve = shift_curve(run).set_index(["measure", "step"])
    assert set(curve.index.get_level_values("measure")) == {"proxy", "kl", "logratio", "implicit"}
    assert curve.loc[("kl", 0), "value"] == pytest.approx(0, abs=1e-6)
    assert curve.loc[("kl", 2), "value"] > curve.loc[("kl", 1), "value"] > 0.01
    assert (curve["n"] == 9).all()
    assert curve.loc[("kl", 2), "ci_low"] < curve.loc[("kl", 2), "value"] < curve.loc[("kl", 2), "ci_high"]
    assert len(shift_curve(run, ["prompt"])) == 3 * len(curve)


def test_a_run_without_a_reward_shift_says_what_to_do(policy: LM, tmp_path: Path) -> None:
    with probe.watch(policy, tmp_path / "plain", prompts=list(TEXTS)) as recorder:
        recorder.step(0)
    with pytest.raises(RunError, match="holds a reward shift"):
        shift_samples(probe.open_run(tmp_path / "plain"))
    assert math.isfinite(recorder.seconds)
