"""Value heads and LoRA models through the analyses: a value head attends as its policy, an adapter as peft has it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from probe import LM
from probe.attention.circuits import composition, copying_score, spectra
from probe.attention.head_stages import stages
from probe.attention.long import attention_statistics
from probe.attention.patterns import attention
from probe.attention.scores import pattern_scores, repeat_scores
from probe.attention.tracing import rollout, value_norms
from probe.autoregression.jacobian import jacobian_norms, neutral_jacobian
from probe.autoregression.lags import effective_order, jacobian_profile, lag_profile
from probe.autoregression.snowballs import snowball
from probe.errors import ProbeError
from probe.interventions.patching import Filling, ablate, pair_of, patch
from probe.interventions.steering import Controls, Dosing, contrast, dose_response
from probe.logits.attribution import attribute
from probe.logits.lens import logit_lens
from probe.logits.parts import promoted_tokens
from probe.logits.scalar import scalar_lens
from probe.logits.targets import target_of
from probe.model.adapters import quiet
from probe.model.equations import read_network, recompose
from probe.model.hooked_gap import trust
from probe.model.memory import preflight
from probe.model.rewards import VALUE_HEAD, analysable
from probe.rewards.token_effects import attribute as attribute_reward
from tests.model.test_adapters import adapter
from tests.models import ARCHITECTURES, random_lm, saved_lm

TEXT = "mira lives in oslo . where does mira lives"
OTHER = TEXT.replace("oslo", "rome")

BODY: dict[str, Callable[[LM], Any]] = {
    "attention": lambda lm: attention(lm, TEXT).pattern,
    "scores": lambda lm: pattern_scores(attention(lm, TEXT)).values["induction"],
    "repeats": lambda lm: repeat_scores(lm, length=5, batch=2).values["prefix_matching"],
    "stages": lambda lm: stages(lm, TEXT, 1, 2).contribution,
    "rollout": lambda lm: rollout(attention(lm, TEXT), value_norms=value_norms(lm, TEXT)),
    "spectra": lambda lm: spectra(lm).ov,
    "composition": lambda lm: composition(lm, "V").scores,
    "streaming": lambda lm: attention_statistics(lm, TEXT).entropy,
    "jacobian": lambda lm: jacobian_norms(lm, TEXT).total,
    "neutral": lambda lm: neutral_jacobian(lm, TEXT).to_end,
    "preflight": lambda lm: preflight(lm, 40, ["blocks.0.attn.hook_pattern"]).cache,
}
"""What does not depend on what a model reads out."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy with a value head beside it."""
    directory = random_lm().save(tmp_path_factory.mktemp("rlhf") / "policy")
    weight = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    save_file({"weight": weight, "scale": torch.tensor(2.0)}, directory / VALUE_HEAD)
    return directory


@pytest.mark.parametrize("what", BODY)
def test_a_value_head_has_the_body_of_its_policy(policy: Path, what: str):
    own, other = (BODY[what](lm) for lm in (analysable(f"{policy}#value"), LM.load(policy)))
    np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-4)


def test_a_value_is_taken_apart_and_moved_like_a_logit(policy: Path):
    lm = analysable(f"{policy}#value")
    ids, expected = lm.tokenizer.encode(TEXT), lm.logits(TEXT)[0, :, 0].detach().numpy()
    target = target_of(lm, ids)
    assert attribute(lm, TEXT, target).sum == pytest.approx(expected[-1], abs=1e-4)
    np.testing.assert_allclose(scalar_lens(lm, TEXT).values[-1], expected, atol=1e-5, rtol=1e-4)
    assert attribute_reward(lm, ids[:4], ids[4:], steps=16).values == pytest.approx(expected, abs=1e-5)
    assert trust(lm, TEXT).sound
    other = float(lm.logits(OTHER)[0, -1, 0].detach())
    patched = patch(lm, pair_of(lm, TEXT, OTHER), target, "resid")
    assert patched.values[0, 4] == pytest.approx(expected[-1], abs=1e-4)  # the only word in which they differ
    assert patched.corrupted == pytest.approx(other, abs=1e-5)
    assert ablate(lm, TEXT, target, "head", Filling("zero")).value == pytest.approx(expected[-1], abs=1e-5)
    steered = dose_response(lm, [TEXT], [target], contrast(lm, [TEXT], [OTHER], 0), Dosing([0.0]), Controls(1))
    assert steered.values.item() == pytest.approx(expected[-1], abs=1e-5)
    profile = jacobian_profile(lm, TEXT, lags=3, of="logits").influence
    assert (profile > 0).all()


@pytest.mark.parametrize(
    "ask",
    [
        copying_score,
        lambda lm: lag_profile(lm, TEXT),
        lambda lm: effective_order(lm, TEXT),
        lambda lm: logit_lens(lm, TEXT),
        lambda lm: promoted_tokens(lm, TEXT, 0),
        lambda lm: snowball(lm, [TEXT]),
        lambda lm: attention(lm, TEXT, max_new_tokens=2),
    ],
)
def test_what_needs_a_vocabulary_says_so(policy: Path, ask: Callable[[LM], Any]):
    with pytest.raises(ProbeError, match="value"):
        ask(analysable(f"{policy}#value"))


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_adapter_is_looked_into_as_peft_runs_it(tmp_path: Path, name: str):
    base = saved_lm(tmp_path / "base", name)
    directory = adapter(base, tmp_path / "adapter")
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
        theirs = PeftModel.from_pretrained(plain, directory).eval()
    lm = analysable(directory)
    ids = lm.tokenizer.encode(TEXT)
    output = theirs(input_ids=torch.tensor([ids]), output_attentions=True)
    logits, logprobs = output.logits[0], output.logits[0].log_softmax(-1)
    pattern = torch.cat(output.attentions)
    np.testing.assert_allclose(attention(lm, TEXT).pattern, pattern, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(attention_statistics(lm, TEXT).sink, pattern[..., 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(recompose(read_network(lm), ids), logits, atol=1e-4, rtol=1e-4)
    target = target_of(lm, ids, "oslo", "rome")
    expected = float(logits[-1, target.answer] - logits[-1, target.against])
    assert attribute(lm, TEXT, target).sum == pytest.approx(expected, abs=1e-3)
    assert ablate(lm, TEXT, target, "mlp", Filling("zero")).value == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(
        logit_lens(lm, TEXT, answer="oslo").answer_logprobs[-1, :, 0], logprobs[:, target.answer], atol=1e-4
    )
    cut = theirs(input_ids=torch.tensor([[ids[0], *ids[-2:]]])).logits[0, -1].log_softmax(-1)
    read = effective_order(lm, TEXT, longest=2).readings
    row = read[(read.position == len(ids) - 1) & (read.m == 2)]
    assert row.kl.item() == pytest.approx(float((logprobs[-1].exp() * (logprobs[-1] - cut)).sum()), abs=1e-4)
