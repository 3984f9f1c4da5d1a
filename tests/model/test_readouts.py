"""Scalar models as LMs: the same numbers as the model they came from, hooked and plain, on every architecture."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig

from probe import LM
from probe.errors import ConfigError, ModelError
from probe.logits.readout import residual_names, unembed
from probe.logits.targets import target_of, value
from probe.model.rewards import VALUE_HEAD, analysable, reward_lm, value_lm
from tests.models import ARCHITECTURES, random_lm, random_reward_model

PROMPT, COMPLETION = "mira lives in", " oslo ."


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_logit_is_the_reward_at_every_token(name: str):
    rewards = random_reward_model(name)
    lm = reward_lm(rewards)
    assert lm.readout == "reward"
    ids = lm.tokenizer.encode(PROMPT), lm.tokenizer.encode("oslo .", add_special_tokens=False)
    logits = lm.logits([[*ids[0], *ids[1]]])
    assert logits.shape[-1] == 1
    scores, _ = rewards.token_scores([ids[0]], [ids[1]])
    torch.testing.assert_close(logits[0, -2:, 0].detach(), scores[0], atol=1e-5, rtol=1e-5)
    assert float(logits[0, -1, 0].detach()) == pytest.approx(float(rewards.score([ids[0]], [ids[1]])), abs=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooks_and_lens_work_on_a_random_reward_model(name: str):
    lm = reward_lm(random_reward_model(name))
    plain = lm.logits(PROMPT)
    hooked, cache = lm.run_with_cache(PROMPT, residual_names(lm))
    torch.testing.assert_close(hooked, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(unembed(lm, cache[residual_names(lm)[-1]]), plain, atol=1e-4, rtol=1e-4)


def test_it_shares_the_parameters_of_the_random_reward_model():
    rewards = random_reward_model("llama")
    lm = reward_lm(rewards)
    before = lm.logits(PROMPT)
    with torch.no_grad():
        rewards.model.model.layers[0].mlp.down_proj.weight.mul_(2)
    after = lm.logits(PROMPT)
    assert float((after - before).abs().max().detach()) > 1e-3
    torch.testing.assert_close(lm.run_with_cache(PROMPT, [])[0], after)
    assert isinstance(rewards.model.score, torch.nn.Linear)


def test_a_value_head_reads_the_state_before_the_unembedding(tmp_path: Path):
    directory = random_lm().save(tmp_path / "policy")
    weight, scale = torch.randn(1, 32), torch.tensor(3.0)
    save_file({"weight": weight, "scale": scale}, directory / VALUE_HEAD)
    lm = analysable(directory, "value")
    policy = LM.load(directory)
    ids = torch.tensor([policy.tokenizer.encode(PROMPT)])
    states = policy.model.model(ids).last_hidden_state
    torch.testing.assert_close(lm.logits(PROMPT)[..., 0], 3.0 * (states @ weight[0]), atol=1e-5, rtol=1e-5)
    assert policy.model.lm_head.weight.shape[0] == len(policy.tokenizer)
    assert lm.readout == "value"


def test_a_reference_tells_what_is_read_out(tmp_path: Path):
    rewards = random_reward_model("llama")
    rewards.model.save_pretrained(tmp_path / "reward")
    rewards.tokenizer.save_pretrained(tmp_path / "reward")
    policy = random_lm().save(tmp_path / "policy")
    assert analysable(tmp_path / "reward").readout == "reward"
    assert analysable(policy).readout == "tokens"
    with pytest.raises(ModelError, match=r"holds a LlamaForCausalLM, which gives texts no score"):
        analysable(policy, "reward")
    with pytest.raises(ModelError, match="holds a LlamaForSequenceClassification"):
        analysable(tmp_path / "reward", "tokens")
    with pytest.raises(ModelError, match=r"has no value head .* give a checkpoint of"):
        analysable(policy, "value")


def test_a_scalar_model_writes_nothing():
    with pytest.raises(ConfigError, match="scores texts and writes none"):
        reward_lm(random_reward_model("llama")).generate(PROMPT)


def test_a_decoder_without_causal_counterpart_is_refused():
    rewards = random_reward_model("llama")
    rewards.model.config = CLIPTextConfig()
    with pytest.raises(ModelError, match="CLIPTextConfig has no causal language model"):
        reward_lm(rewards)


def test_a_value_head_of_another_width_is_refused(tmp_path: Path):
    directory = random_lm().save(tmp_path / "policy")
    save_file({"weight": torch.zeros(1, 8), "scale": torch.tensor(1.0)}, directory / VALUE_HEAD)
    with pytest.raises(ModelError, match="reads states of width 8 and the model has 32"):
        value_lm(LM.load(directory))


def test_the_target_of_a_scalar_model_is_its_scalar():
    lm = reward_lm(random_reward_model("llama"))
    ids = lm.tokenizer.encode(PROMPT)
    target = target_of(lm, ids)
    assert (target.answer, target.against, target.name) == (0, None, "reward")
    assert float(value(lm.logits([ids]), target).detach()) == float(lm.logits([ids])[0, -1, 0].detach())


def test_a_reference_can_ask_for_its_readout(tmp_path: Path):
    directory = random_lm().save(tmp_path / "policy")
    save_file({"weight": torch.ones(1, 32), "scale": torch.tensor(1.0)}, directory / VALUE_HEAD)
    assert analysable(f"{directory}#value").readout == "value"
    assert analysable(f"{directory}#tokens").readout == "tokens"
    odd = random_lm().save(tmp_path / "a#value")
    assert analysable(odd).readout == "tokens"
    with pytest.raises(ModelError, match=r"asks for the readout 'x': give one of tokens, reward, value, or none"):
        analysable(f"{directory}#x")
