"""KL to the reference on the fixed prompts: its value, what it costs, and that training does not notice."""

from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import probe
from probe import LM
from probe.errors import DataError
from probe.logits.trained import kl_over_training
from probe.recording.recorder import ReferenceKL, as_prompt
from probe.runs import open_run
from probe.runs.schema import ProbePrompt
from tests.models import ARCHITECTURES, random_lm

WORDS = ["mira lives in oslo .", "tom works", "mira"]


def prompts_of(lm: LM) -> list[ProbePrompt]:
    return [as_prompt(lm, prompt, index) for index, prompt in enumerate(WORDS)]


def probabilities(lm: LM, ids: list[int]) -> np.ndarray:
    """[T V] of one text alone, by transformers."""
    with torch.no_grad():
        return scipy.special.softmax(lm.model(torch.tensor([ids])).logits[0].double().numpy(), axis=-1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_the_kl_of_both_models(name: str):
    policy, reference = random_lm(name), random_lm(name, seed=1)
    prompts = prompts_of(policy)
    found = ReferenceKL(reference.logits)(policy, prompts)["reference_kl"].numpy()
    assert found.shape == (3, max(prompt.length for prompt in prompts))
    for index, prompt in enumerate(prompts):
        p, q = (probabilities(lm, prompt.token_ids) for lm in (policy, reference))
        expected = [scipy.stats.entropy(p[t], q[t]) for t in range(prompt.length)]
        np.testing.assert_allclose(found[index, : prompt.length], expected, rtol=1e-4, atol=1e-5)
        assert min(expected) > 0.1
        assert not found[index, prompt.length :].any()


def test_the_reference_is_asked_once_for_the_same_prompts():
    policy, reference, calls = random_lm(), random_lm(seed=1), []

    def logits(rows: list[list[int]]) -> torch.Tensor:
        calls.append(rows)
        return reference.logits(rows)

    instrument, prompts = ReferenceKL(logits), prompts_of(policy)
    first, again = (instrument(policy, prompts)["reference_kl"] for _ in range(2))
    assert torch.equal(first, again)
    assert len(calls) == 1
    instrument(policy, prompts[:1])
    assert calls[1] == [prompts[0].token_ids]


def test_a_capture_says_how_far_training_has_moved(tmp_path: Path):
    """The model's own logits as the reference: where it stood at the first capture."""
    lm, start = random_lm(), random_lm()
    lm.model.train()
    with probe.watch(lm, tmp_path / "run", prompts=WORDS, every=1, instruments=[ReferenceKL(lm.logits)]) as recorder:
        recorder.step(0)
        lm.model.lm_head.weight.data *= 1.5
        recorder.step(1)
        assert lm.model.training
    run = open_run(tmp_path / "run")
    captures = run.captures()
    assert not captures.load(0)["reference_kl"].any()
    assert str(captures.load(1)["reference_kl"].dtype) == "float32"
    table = kl_over_training(run, prompt=1)
    ids = captures.prompts[1].token_ids
    assert list(table.columns) == ["step", "position", "token", "kl"]
    assert table["token"].tolist() == 2 * captures.prompts[1].tokens
    p, q = probabilities(lm, ids), probabilities(start, ids)
    expected = [scipy.stats.entropy(p[t], q[t]) for t in range(len(ids))]
    np.testing.assert_allclose(table[table["step"] == 1]["kl"], expected, rtol=1e-4)


def test_a_vocabulary_that_is_padded_longer():
    """Some checkpoints have more rows than tokens: the common tokens count."""
    policy, reference = random_lm(), random_lm(seed=1)
    prompt = prompts_of(policy)[0]

    def padded(rows: list[list[int]]) -> torch.Tensor:
        logits = reference.logits(rows)
        return torch.cat([logits, torch.full((*logits.shape[:-1], 3), 2.0)], dim=-1)

    plain, longer = (ReferenceKL(logits)(policy, [prompt])["reference_kl"] for logits in (reference.logits, padded))
    torch.testing.assert_close(plain, longer)


def test_a_run_without_a_reference(tmp_path: Path):
    with probe.watch(random_lm(), tmp_path / "run", prompts=WORDS) as recorder:
        recorder.capture(0)
    with pytest.raises(DataError, match=r"`run` hold no KL to a reference.*ReferenceKL"):
        kl_over_training(open_run(tmp_path / "run"))
