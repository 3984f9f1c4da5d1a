"""Neurons in captures: those of the single-text analysis, what happens without a neuron, and where there are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, OPTConfig, OPTForCausalLM

import probe
from probe import LM
from probe.logits.attribution import attribute
from probe.logits.targets import Target
from probe.recording.recorder import as_prompt, measure
from probe.runs import open_run
from probe.runs.schema import NEURONS, ProbePrompt
from tests.models import ARCHITECTURES, random_lm, word_tokenizer

WORDS = [
    {"id": "two", "text": "mira lives in oslo .", "answers": ["rome", "oslo", "in"]},
    {"id": "one", "text": "tom works", "answers": ["rome"]},
    {"id": "none", "text": "mira"},
]


def prompts_of(lm: LM) -> list[ProbePrompt]:
    return [as_prompt(lm, prompt, index) for index, prompt in enumerate(WORDS)]


def captured(lm: LM) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in measure(lm, prompts_of(lm)).items()}


def opt() -> LM:
    """Runs its MLPs on all tokens of the batch in one axis."""
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=len(tokenizer), word_embed_proj_dim=32, pad_token_id=0, init_std=0.25, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LM(OPTForCausalLM(config).eval(), tokenizer)


@torch.no_grad()
@pytest.mark.parametrize("name", [*ARCHITECTURES, "phi3", "bloom", "opt"])
def test_they_are_those_of_the_analysis_of_one_text(name: str):
    lm = opt() if name == "opt" else random_lm(name)
    tensors = captured(lm)
    assert tensors["neuron_ids"].shape == tensors["neuron_attribution"].shape == (3, 2, NEURONS)
    for index, prompt in enumerate(prompts_of(lm)):
        if not prompt.answer_ids:
            assert np.isnan(tensors["neuron_attribution"][index]).all()
            continue
        first, second = (*prompt.answer_ids, None)[:2]
        found = attribute(lm, prompt.token_ids, Target(prompt.length - 1, first, second))
        for layer in range(2):
            table = found.neuron_table(layer, NEURONS)
            np.testing.assert_allclose(tensors["neuron_attribution"][index, layer], table["value"], atol=1e-4)
            values = found.neurons[layer, tensors["neuron_ids"][index, layer]]  # ties may stand in another order
            np.testing.assert_allclose(values, table["value"], atol=1e-4)
            assert len(set(tensors["neuron_ids"][index, layer])) == NEURONS
            size = np.abs(tensors["neuron_attribution"][index, layer])
            assert (np.diff(size) <= 0).all()
            assert size[0] > 0.01


@torch.no_grad()
def test_a_neuron_adds_what_is_lost_without_it():
    """Without a neuron the last stream lacks what it wrote; the final norm's scale is held."""
    lm = random_lm()
    tensors, prompt = captured(lm), prompts_of(lm)[0]
    neuron, value = (int(tensors["neuron_ids"][0, 1, 0]), float(tensors["neuron_attribution"][0, 1, 0]))
    kept: dict[str, torch.Tensor] = {}
    norm, down = lm.model.model.norm, lm.model.model.layers[1].mlp.down_proj

    def difference() -> float:
        with norm.register_forward_pre_hook(lambda _, states: kept.setdefault("whole", states[0])):
            lm.model(torch.tensor([prompt.token_ids]))
        stream = kept.pop("whole")[0, -1]
        kept.setdefault("scale", stream.square().mean().add(norm.variance_epsilon).sqrt())
        logits = lm.model.lm_head(stream / kept["scale"] * norm.weight)
        return float(logits[prompt.answer_ids[0]] - logits[prompt.answer_ids[1]])

    before = difference()
    down.weight.data[:, neuron] = 0
    assert before - difference() == pytest.approx(value, abs=1e-4)


def test_narrow_mlps_have_fewer():
    tensors = captured(random_lm(intermediate_size=4))
    assert tensors["neuron_ids"].shape == (3, 2, 4)
    np.testing.assert_array_equal(np.sort(tensors["neuron_ids"], axis=-1), np.broadcast_to(np.arange(4), (3, 2, 4)))


def test_experts_have_no_neurons(tmp_path: Path):
    """Heads and MLPs sum to the logit, and an MLP of experts is not W_out of its neurons."""
    tokenizer = word_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=4, max_position_embeddings=48, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LM(MixtralForCausalLM(config).eval(), tokenizer)
    with probe.watch(lm, tmp_path / "run", prompts=WORDS) as recorder:
        recorder.capture(0)
    tensors = open_run(tmp_path / "run").captures().load(0)
    assert "attribution" in tensors
    assert "neuron_ids" not in tensors
    assert "neuron_attribution" not in tensors


def test_neurons_that_do_not_sum_to_the_mlp_are_left_out():
    """Something is added to what W_out gives: the MLP's share is more than its neurons'."""
    lm = random_lm()
    lm.model.model.layers[1].mlp.register_forward_hook(lambda module, given, out: out + 1)
    assert lm.bridge is not None
    tensors = captured(lm)
    assert "attribution" in tensors
    assert "neuron_ids" not in tensors
