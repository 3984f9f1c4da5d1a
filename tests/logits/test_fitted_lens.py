"""Fitted lenses: distances by SciPy, gradients by finite differences, and models whose best lens is known."""

import json

import numpy as np
import pytest
import scipy.stats
import torch

from probe.errors import DataError
from probe.logits.fitted_lens import distance, fit_lens, fit_seconds, lens_texts, obtain_lens, residuals
from probe.logits.lens import logit_lens
from probe.logits.readout import unembed
from tests.models import OTHER, PEOPLE, PLACES, random_lm


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Return a file of random texts, in an empty folder that takes the results."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice([*PEOPLE, *PLACES, *OTHER], 12)) for _ in range(60)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return tmp_path / "texts.jsonl"


def zero_blocks(lm, keep_biases=False):
    """Let each block add nothing to the residual stream, or only a constant."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in lm.model.transformer.h:
            for writer in (block.attn.c_proj, block.mlp.c_proj):
                writer.weight.zero_()
                writer.bias.copy_(torch.randn(writer.bias.shape, generator=draws) * keep_biases)
    return lm


def test_the_distances_are_those_of_scipy(texts):
    lm = random_lm()
    found = fit_lens(lm, "tuned", texts)
    fit, held = lens_texts(lm, texts)
    states = residuals(lm, held).double()
    chances = [unembed(lm, row.float()).double().softmax(-1).detach().numpy() for row in states]
    np.testing.assert_allclose(
        found.kl_logit, [scipy.stats.entropy(chances[-1], row, axis=-1).mean() for row in chances], atol=1e-5, rtol=1e-4
    )
    mean = unembed(lm, residuals(lm, fit)[-1]).double().softmax(-1).mean(0).detach().numpy()
    unigram = scipy.stats.entropy(chances[-1], mean[None], axis=-1).mean()
    np.testing.assert_allclose(found.kl_unigram, unigram, atol=1e-5, rtol=1e-4)
    for row, (matrix, bias) in enumerate(zip(found.matrices, found.biases, strict=True)):
        mapped = torch.from_numpy(states[row].numpy() @ matrix.T + bias).float()
        own = unembed(lm, mapped).double().softmax(-1).detach().numpy()
        expected = scipy.stats.entropy(chances[-1], own, axis=-1).mean()
        np.testing.assert_allclose(found.kl[row], expected, atol=1e-5, rtol=1e-4)
    assert found.tokens == sum(map(len, held)) == states.shape[1]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_tuned_lens_is_nearer_to_the_output_on_held_out_texts(name, texts):
    lm = random_lm(name)
    found = fit_lens(lm, "tuned", texts)
    assert (found.kl[:-1] < found.kl_logit[:-1]).all()
    assert found.kl[-1] == found.kl_logit[-1] == 0
    assert "after every layer (KL" in found.sentence()


def test_the_gradient_is_that_of_finite_differences(texts):
    lm = random_lm()
    states = residuals(lm, lens_texts(lm, texts)[1])[:, :40]
    matrix = torch.eye(states.shape[-1], requires_grad=True)
    (slope,) = torch.autograd.grad(distance(lm, states[-1], states[1] @ matrix.mT), matrix)
    own = unembed(lm, states[-1]).double().softmax(-1).detach().numpy()
    direction = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0))
    ends = []
    for size in (-0.01, 0.01):
        moved = states[1] @ (matrix.detach() + size * direction).mT
        ends.append(scipy.stats.entropy(own, unembed(lm, moved).double().softmax(-1).detach().numpy(), axis=-1).mean())
    np.testing.assert_allclose(float((slope * direction).sum()), (ends[1] - ends[0]) / 0.02, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("kind", ["tuned", "Jacobian"])
def test_without_blocks_the_best_lens_is_the_identity(kind, texts):
    found = fit_lens(zero_blocks(random_lm("gpt2")), kind, texts)
    np.testing.assert_allclose(found.matrices, [np.eye(found.matrices.shape[-1])] * len(found.matrices), atol=1e-5)
    np.testing.assert_allclose(found.biases, 0, atol=1e-5)
    np.testing.assert_allclose(found.kl, 0, atol=1e-5)
    assert "after no layer nearer" in found.sentence()


def test_blocks_that_add_constants_are_undone(texts):
    """The best map adds the constants of the blocks that follow, so its distance is 0."""
    found = fit_lens(zero_blocks(random_lm("gpt2"), keep_biases=True), "tuned", texts)
    assert (found.kl_logit[:-1] > 0.1).all()
    assert (found.kl[:-1] < 0.02 * found.kl_logit[:-1]).all()


def test_the_rows_of_a_prompt_are_mapped(texts):
    lm = random_lm()
    lens = logit_lens(lm, "mira lives in oslo .", k=3, lens="tuned", data=texts)
    plain = logit_lens(lm, "mira lives in oslo .", k=3)
    states = residuals(lm, [lens.ids])
    fitted = obtain_lens(lm, "tuned", texts)
    mapped = states[1].numpy() @ fitted.matrices[1].T + fitted.biases[1]
    own = unembed(lm, torch.from_numpy(mapped)).log_softmax(-1).amax(-1).detach()
    np.testing.assert_allclose(lens.top_logprobs[1, :, 0], own, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(lens.top_logprobs[-1], plain.top_logprobs[-1])
    assert lens.sentence().endswith(fitted.sentence())
    assert list(lens.figures()) == ["lens", "layers", "distance"]
    assert [trace.name for trace in lens.figures()["distance"].data] == ["tuned lens", "logit lens", "unigram"]
    assert lens.tables()["distance"]["kl"].tolist() == fitted.kl.tolist()


def test_a_lens_is_fitted_once(texts):
    lm = random_lm()
    before = fit_seconds(lm, "tuned", texts)
    first = obtain_lens(lm, "tuned", texts)
    (file,) = texts.parent.rglob("fit_lens-*.safetensors")
    written = file.stat().st_mtime_ns
    second = obtain_lens(lm, "tuned", texts)
    assert file.stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.matrices, second.matrices)
    assert fit_seconds(lm, "tuned", texts) == 0 <= before


def test_texts_are_needed(texts):
    lm = random_lm()
    with pytest.raises(DataError, match="give a file of texts"):
        logit_lens(lm, "mira lives in oslo .", lens="tuned")
    texts.write_text(json.dumps({"text": "mira lives"}) + "\n")
    with pytest.raises(DataError, match="has 1 pieces of text"):
        fit_lens(lm, "tuned", texts)
