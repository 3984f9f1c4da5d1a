"""Circuits from weights: dense matrices, transformer_lens raw and folded, and heads wired to order."""

import numpy as np
import pytest
import torch
from transformer_lens import FactoredMatrix
from transformer_lens.model_bridge import TransformerBridge

from probe.attention.circuits import (
    CircuitsBeside,
    Composition,
    Partners,
    composition,
    copying_score,
    effective_rank,
    random_composition,
    read_circuits,
    spectra,
)
from probe.errors import ConfigError, DataError, ModelError
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.plotting.notebook import alone
from tests.models import ARCHITECTURES, random_lm, random_reward_model

NORMED_QUERIES = ("qwen3",)
"""Architectures with norms on queries and keys, whose gains transformer_lens does not fold."""


def lens_folded(name: str) -> TransformerBridge:
    """The same random model with its norms folded by transformer_lens."""
    bridge = random_lm(name).bridge
    bridge.enable_compatibility_mode(disable_warnings=True, center_unembed=False)
    return bridge


def repeated(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """[D H d dh] from [D K d dh]: grouped heads written out."""
    return weight.repeat_interleave(heads // weight.shape[1], dim=1)


def factors(bridge: TransformerBridge) -> tuple[FactoredMatrix, FactoredMatrix]:
    """QK and OV of every head as transformer_lens writes them."""
    heads = bridge.W_Q.shape[1]
    qk = FactoredMatrix(bridge.W_Q, repeated(bridge.W_K, heads).transpose(-1, -2))
    return qk, FactoredMatrix(repeated(bridge.W_V, heads), bridge.W_O)


def dense(lm: LM, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """[D H d d] M^T N and L of every head with the norms folded in, entry by entry from the weights of the modules."""
    forms, maps = [], []
    bridge, width = lm.bridge, lm.bridge.cfg.d_model
    centre = torch.eye(width) - 1 / width if name in ("gpt2", "gpt_neox") else torch.eye(width)
    for block in bridge.blocks:
        gain = torch.diag(block.ln1.original_component.weight) @ centre
        M, N, V = (repeated(w[None], 4)[0].mT @ gain for w in (block.attn.W_Q, block.attn.W_K, block.attn.W_V))
        if name in NORMED_QUERIES:
            own = block.attn.original_component
            M, N = M * own.q_norm.weight[:, None], N * own.k_norm.weight[:, None]
        forms.append(M.mT @ N)
        maps.append(centre @ block.attn.W_O.mT @ V)
    return torch.stack(forms), torch.stack(maps)


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_spectra_are_those_of_the_dense_matrices(name):
    lm = random_lm(name)
    found = spectra(lm)
    r = found.qk.shape[-1]
    for mine, matrices in zip((found.qk, found.ov), dense(lm, name), strict=True):
        values = torch.linalg.svdvals(matrices)
        np.testing.assert_allclose(mine, values[..., :r], atol=1e-4)
        assert values[..., r:].max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_spectra_are_those_of_transformer_lens(name):
    found = spectra(random_lm(name))
    qk, ov = factors(lens_folded(name))
    np.testing.assert_allclose(found.ov, ov.S, atol=1e-4)
    if name not in NORMED_QUERIES:
        np.testing.assert_allclose(found.qk, qk.S, atol=1e-4)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(np.array([[2.0, 2, 2, 0], [5, 0, 0, 0], [0, 0, 0, 0]])) == pytest.approx([3, 1, 1])
    found = spectra(random_lm())
    table = found.rank_table()
    share = found.ov[1, 2] / found.ov[1, 2].sum()
    assert table.loc[6, "ov_rank"] == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-5)
    assert table.loc[6, "qk_norm"] == pytest.approx(np.sqrt((found.qk[1, 2] ** 2).sum()), rel=1e-5)
    rows = found.table()
    assert rows[(rows["name"] == "L1H2") & (rows["map"] == "OV")]["value"].tolist() == found.ov[1, 2].tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_copying_is_that_of_the_eigenvalues_from_tokens_to_tokens(name):
    lm = random_lm(name)
    _, maps = dense(lm, name)
    gain = lm.bridge.ln_final.original_component.weight
    W_out, W_emb = lm.model.get_output_embeddings().weight, lm.model.get_input_embeddings().weight
    whole = (W_out * gain) @ maps @ W_emb.T
    values = torch.linalg.eigvals(whole.double())
    np.testing.assert_allclose(copying_score(lm), values.real.sum(-1) / values.abs().sum(-1), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_copying_is_that_of_transformer_lens(name):
    bridge = lens_folded(name)
    _, ov = factors(bridge)
    values = (bridge.W_E @ ov @ bridge.W_U).eigenvalues
    np.testing.assert_allclose(copying_score(random_lm(name)), values.real.sum(-1) / values.abs().sum(-1), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("sign", [1, -1])
def test_a_head_that_passes_on_what_it_reads_copies(sign):
    lm = random_lm("llama", num_key_value_heads=4, tie_word_embeddings=True)
    block = lm.model.model.layers[1]
    for gain in (block.input_layernorm.weight, lm.model.model.norm.weight):
        gain.fill_(1.0)
    block.self_attn.o_proj.weight[:, 8:16] = sign * block.self_attn.v_proj.weight[8:16].T
    found = copying_score(lm)
    assert found[1, 1] == pytest.approx(sign, abs=1e-5)
    assert np.abs(np.delete(found.ravel(), 5)).max() < 0.9


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_composition_is_that_of_transformer_lens(name, kind):
    found = composition(random_lm(name), kind)
    if name not in NORMED_QUERIES or kind == "V":
        theirs = lens_folded(name).all_composition_scores(kind).scores
        np.testing.assert_allclose(found.scores[0, :, 1], theirs[0, :, 1], atol=1e-5, rtol=1e-4)
    assert np.isnan(found.scores[1]).all()
    assert np.isnan(found.scores[:, :, 0]).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_composition_is_that_of_the_dense_matrices(name):
    lm = random_lm(name, **({"num_hidden_layers": 3} if name != "gpt2" else {"n_layer": 3}))
    forms, maps = dense(lm, name)
    reading = {"Q": forms.mT, "K": forms, "V": maps}  # what stands left of L in h^T M^T N h, as a map of what is read
    for kind, A in reading.items():
        found = composition(lm, kind).scores
        for earlier, h, later, i in np.ndindex(3, 4, 3, 4):
            if later <= earlier:
                assert np.isnan(found[earlier, h, later, i])
                continue
            L = maps[earlier, h]
            expected = (A[later, i] @ L).norm() / A[later, i].norm() / L.norm()
            assert found[earlier, h, later, i] == pytest.approx(float(expected), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_a_pair_that_was_wired_together_comes_first(kind):
    """Head L1H2 is made to read, by one of its maps, the directions that L0H1 writes."""
    lm = random_lm("llama", num_key_value_heads=4)
    first, second = (layer.self_attn for layer in lm.model.model.layers)
    part = {"Q": second.q_proj, "K": second.k_proj, "V": second.v_proj}[kind]
    part.weight[16:24] = first.o_proj.weight[:, 8:16].T
    found = composition(lm, kind)
    best = found.table().iloc[0]
    assert (best["writer"], best["reader"]) == ("L0H1", "L1H2")
    assert best["score"] > 1.4 * found.table()["score"].iloc[1]
    assert best["score"] == found.scores[0, 1, 1, 2]
    assert best["excess"] == pytest.approx(best["score"] - found.baseline[0])
    assert best["z"] == pytest.approx(best["excess"] / found.baseline[1])
    assert len(found.table()) == 4 * 4


def test_the_baseline_is_that_of_random_maps():
    """The mean square of the score is 1 / d, and a random model's pairs scatter as the baseline says."""
    mean, spread = random_composition(32, 8, pairs=200)
    assert np.sqrt(mean**2 + spread**2) == pytest.approx(32**-0.5, rel=0.01)
    assert (mean, spread) == random_composition(32, 8, pairs=200)
    assert (mean, spread) != random_composition(32, 8, pairs=200, seed=1)
    found = composition(random_lm("llama", num_key_value_heads=4, num_hidden_layers=4), "K")
    scores = found.scores[~np.isnan(found.scores)]
    assert found.baseline == random_composition(32, 8)
    assert abs(scores.mean() - mean) < 3 * spread / np.sqrt(len(scores)) + 0.01
    assert scores.std() == pytest.approx(spread, rel=0.3)


def test_ticks_reach_one_and_may_stop_the_work():
    shares = []
    composition(random_lm(), tick=shares.append)
    assert shares == [0.5, 1.0]

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        composition(random_lm(), tick=stop)


def test_a_reward_model_has_circuits_but_no_copying():
    lm = reward_lm(random_reward_model())
    assert spectra(lm).qk.shape == (2, 4, 8)
    assert composition(lm, "V").scores.shape == (2, 4, 2, 4)
    with pytest.raises(DataError, match="outputs a reward"):
        copying_score(lm)


def test_bad_requests_are_refused():
    with pytest.raises(ConfigError, match="'Q', 'K' or 'V'"):
        composition(random_lm(), "O")
    with pytest.raises(ModelError):
        spectra(random_lm("mamba"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_norm_behind_the_heads_is_folded_into_what_they_write(name):
    lm = random_lm(name)
    found, score = spectra(lm), copying_score(lm)
    token_map = lm.model.lm_head.weight * (1 + lm.model.model.norm.weight)
    for layer, block in enumerate(lm.model.model.layers):
        attn, gain = block.self_attn, 1 + block.input_layernorm.weight
        for head in range(4):
            O = attn.o_proj.weight[:, 8 * head : 8 * head + 8]  # noqa: E741
            V = attn.v_proj.weight[8 * (head // 2) :][:8]
            L = (1 + block.post_attention_layernorm.weight)[:, None] * O @ V * gain
            np.testing.assert_allclose(found.ov[layer, head], torch.linalg.svdvals(L)[:8], atol=1e-4)
            roots = torch.linalg.eigvals((token_map @ L @ lm.model.model.embed_tokens.weight.T).double())
            assert score[layer, head] == pytest.approx(float(roots.real.sum() / roots.abs().sum()), abs=1e-4)


@torch.no_grad()
def test_tokens_of_bloom_enter_the_stream_through_a_norm():
    lm = random_lm("bloom")
    bridge, body = lm.bridge, lm.model.transformer
    embeddings = body.word_embeddings_layernorm(body.word_embeddings.weight)
    centre = torch.eye(32) - 1 / 32
    block = bridge.blocks[1]
    for head in range(4):
        V, O = block.attn.W_V[head] * body.h[1].input_layernorm.weight[:, None], block.attn.W_O[head]  # noqa: E741
        read = (lm.model.lm_head.weight * body.ln_f.weight) @ centre
        roots = torch.linalg.eigvals((read @ O.T @ V.T @ centre @ embeddings.T).double())
        expected = float(roots.real.sum() / roots.abs().sum())
        assert copying_score(lm)[1, head] == pytest.approx(expected, abs=1e-4)


def test_partners_of_a_head_are_earlier_writers_and_later_readers():
    excess = np.full((3, 2, 3, 2), np.nan, dtype=np.float32)
    for writer in range(3):
        for reader in range(writer + 1, 3):
            excess[writer, :, reader] = 10 * writer + reader
    excess[0, 1, 1, 0] = 77.0
    excess[1, 0, 2, 1] = -5.0
    found = Partners((1, 0), (Composition("Q", excess, (0.0, 2.0)),))
    np.testing.assert_array_equal(found.grid(found.compositions[0]), [[1, 77], [np.nan, np.nan], [12, -5]])
    assert found.sentence() == (
        "In model, L1H0 reads L0H1 most strongly, through its queries: +77.00 above random maps;"
        " the median of its 4 pairs is +6.50."
    )
    assert found.table()[["way", "other"]].iloc[1].tolist() == ["is read by", "L2H0"]


def test_what_the_weights_say_of_a_head_is_said_of_it():
    lm = random_lm()
    found = read_circuits(lm, head="L1H2")
    qk, ov = found.spectra.qk_rank[1, 2], found.spectra.ov_rank[1, 2]
    assert f"effective rank {qk:.1f} (QK) and {ov:.1f} (OV) of 8" in found.sentence()
    assert set(found.figures()) == {"spectra", "copying"}
    scalar = read_circuits(reward_lm(random_reward_model()), head="L1H2")
    assert scalar.copying is None
    assert set(scalar.figures()) == {"spectra"}
    assert "no output tokens" in CircuitsBeside((scalar,), alone()).notes[1]
