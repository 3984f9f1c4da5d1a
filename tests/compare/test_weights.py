"""The change of weights, against numpy's decomposition, planted changes and adapters."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probe import LM
from probe.compare.path import interpolate
from probe.compare.weights import WeightChange, weight_change
from probe.errors import ModelError
from probe.model.equations import read_network
from tests.model.test_adapters import adapter
from tests.models import MODELS, MORE, OTHERS, RECURRENT, random_lm, saved_lm

FAMILIES = [*MODELS, *OTHERS, *MORE, *RECURRENT]
RANKS = ["rank", "participation_rank", "entropy_rank"]


def changed(lm: LM, scale: float, seed: int = 5) -> LM:
    """The model with a random change of every parameter, of a size of its own."""
    model = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return LM(model, lm.tokenizer)


def of(change: WeightChange, name: str) -> dict:
    (row,) = change.table()[change.table()["name"] == name].to_dict("records")
    return row


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_against_itself_has_not_changed(family: str):
    lm = random_lm(family)
    change = weight_change(lm, LM(copy.deepcopy(lm.model), lm.tokenizer))
    table, heads = change.table(), change.heads
    assert table["name"].is_unique
    assert set(table["kind"]) <= {"q", "k", "v", "qkv", "o", "mlp", "norm", "embed", "unembed", "other"}
    assert (table["kind"] == "other").any() == (family == "mamba")
    assert len(table.query("kind == 'embed'")) == (2 if family in ("gpt2", "opt") else 1)
    assert set(table["block"].dropna()) == {0, 1}
    assert (table[["norm", "relative", "spectral", *RANKS]] == 0).all(axis=None)
    assert table["cosine"].isna().all()
    assert change.rounding == 0
    assert (change.blocks[["norm", "relative", "share"]] == 0).all(axis=None)
    assert bool(change.why_no_heads) == (family == "mamba") == heads.empty
    if not heads.empty:
        assert len(heads) == 8
        zeros = heads.filter(regex="_(norm|relative|spectral|rank)$").drop(columns=["qk_base_norm", "ov_base_norm"])
        assert (zeros == 0).all(axis=None)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba"])
def test_every_number_is_that_of_numpy(family: str):
    base, aligned = random_lm(family), random_lm(family, seed=1)
    change = weight_change(base, aligned)
    own, other = (dict(lm.model.named_parameters()) for lm in (base, aligned))
    for row in change.table().to_dict("records"):
        name, _, expert = row["name"].partition("[")
        before, after = (each[name].detach().double().numpy() for each in (own, other))
        if expert:
            before, after = (each[int(expert.rstrip("]"))] for each in (before, after))
        before, after = (each.reshape(len(each), -1) for each in (before, after))
        if (before == after).all():  # of Mamba, which are not drawn
            assert row["norm"] == row["rank"] == 0
            continue
        values = np.linalg.svd(after - before, compute_uv=False)
        share = values / values.sum()
        assert row["norm"] == pytest.approx(np.linalg.norm(after - before))
        assert row["relative"] == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
        assert row["spectral"] == pytest.approx(values[0])
        assert row["rank"] == np.linalg.matrix_rank(after - before)
        assert row["participation_rank"] == pytest.approx((values**2).sum() ** 2 / (values**4).sum())
        assert row["entropy_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
        cosine = ((after - before) * before).sum() / np.linalg.norm(after - before) / np.linalg.norm(before)
        assert row["cosine"] == pytest.approx(cosine)
    assert (change.table()["norm"] > 0).sum() > 15
    blocks = change.blocks
    assert blocks["share"].sum() == pytest.approx(1)
    first = change.table().query("block == 0")
    assert blocks["norm"][0] == pytest.approx(np.sqrt((first["norm"] ** 2).sum()))
    assert blocks["relative"][0] == pytest.approx(blocks["norm"][0] / np.sqrt((first["base_norm"] ** 2).sum()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_the_products_of_heads_are_those_of_explicit_matrices(family: str):
    base, aligned = random_lm(family), random_lm(family, seed=1)
    heads = weight_change(base, aligned).heads
    nets = read_network(base), read_network(aligned)
    for row in heads.to_dict("records"):
        block, head = row["block"], row["head"]
        old, new = (net.blocks[block].maps for net in nets)
        assert row["key_head"] == int(old.group[head])
        assert row["k_norm"] == pytest.approx(float((new.N[head] - old.N[head]).norm()), rel=1e-5)
        assert row["o_relative"] == pytest.approx(float((new.O[head] - old.O[head]).norm() / old.O[head].norm()), 1e-5)
        for name, product in (("qk", lambda m, h=head: m.M[h].T @ m.N[h]), ("ov", lambda m, h=head: m.L(h))):
            before, after = (product(maps).double().numpy() for maps in (old, new))
            values = np.linalg.svd(after - before, compute_uv=False)
            assert row[f"{name}_norm"] == pytest.approx(np.linalg.norm(after - before), rel=1e-5)
            assert row[f"{name}_spectral"] == pytest.approx(values[0], rel=1e-5)
            assert row[f"{name}_base_norm"] == pytest.approx(np.linalg.norm(before), rel=1e-5)
            ratio = (values**2).sum() ** 2 / (values**4).sum()
            assert row[f"{name}_participation_rank"] == pytest.approx(ratio, rel=1e-4)
            cosine = ((after - before) * before).sum() / np.linalg.norm(after - before) / np.linalg.norm(before)
            assert row[f"{name}_cosine"] == pytest.approx(cosine, abs=1e-5)
            assert row[f"{name}_rank"] <= min(2 * old.M.shape[1], old.M.shape[2])


def test_scale_changes_norms_and_not_ranks():
    lm = random_lm()
    lm.model.double()
    (one, three) = (weight_change(lm, changed(lm, scale)).table() for scale in (0.01, 0.03))
    for column in ("norm", "relative", "spectral"):
        np.testing.assert_allclose(three[column], 3 * one[column], rtol=1e-9)
    for column in (*RANKS, "cosine"):
        np.testing.assert_allclose(three[column], one[column], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_planted_change_of_rank_two_is_found_in_its_head_alone(family: str):
    base = random_lm(family)
    aligned = LM(copy.deepcopy(base.model), base.tokenizer)
    generator = torch.Generator().manual_seed(2)
    left, right = torch.randn(8, 2, generator=generator), torch.randn(2, 32, generator=generator)
    blocks = aligned.model.base_model.layers if family != "gpt2" else aligned.model.base_model.h
    if family == "llama":  # query head 3 of block 1
        blocks[1].self_attn.q_proj.weight.data[24:32] += 0.1 * left @ right
    elif family == "gpt2":  # Conv1D: inputs in rows, queries first
        blocks[1].attn.c_attn.weight.data[:, 24:32] += 0.1 * (left @ right).T
    else:  # queries, keys and values of a head side by side
        blocks[1].attention.query_key_value.weight.data[72:80] += 0.1 * left @ right
    change = weight_change(base, aligned)
    (row,) = change.table().query("norm > 0").to_dict("records")
    assert row["block"] == 1
    assert row["rank"] == 2
    assert row["kind"] == ("q" if family == "llama" else "qkv")
    assert 1 < row["participation_rank"] <= row["entropy_rank"] <= 2
    (head,) = change.heads.query("q_norm > 0 or k_norm > 0 or v_norm > 0 or o_norm > 0").to_dict("records")
    assert (head["block"], head["head"]) == (1, 3)
    assert head["q_norm"] == pytest.approx(row["norm"])
    assert head["qk_rank"] == 2
    assert head["ov_rank"] == head["k_norm"] == head["v_norm"] == 0
    assert (change.heads.drop(index=7)[["qk_norm", "ov_norm"]] == 0).all(axis=None)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_changes_no_more_directions_than_its_rank(family: str, dtype: str, tmp_path: Path):
    base = saved_lm(tmp_path / "base", family)
    directory = adapter(base, tmp_path / "adapter", r=3, lora_alpha=24)
    change = weight_change(LM.load(base, dtype=dtype), LM.load(directory, dtype=dtype))
    adapted = change.table().query("norm > 0")
    assert change.precision == dtype
    assert len(adapted) == (14 if family == "llama" else 8)
    assert adapted["rank"].max() == 3
    assert (adapted["entropy_rank"] <= 3).all()
    assert adapted["kind"].isin(["q", "k", "v", "qkv", "o", "mlp"]).all()
    if dtype == "float32":
        assert (adapted["rank"] == 3).all()
    left = change.table().query("norm == 0")
    assert (left["rank"] == 0).all()


@pytest.mark.parametrize("widened", [False, True])
def test_rounding_is_told_from_training(widened: bool):
    """Also where half precision was read as single precision."""
    base = random_lm()
    rounded = copy.deepcopy(base.model).bfloat16()
    change = weight_change(base, LM(rounded.float() if widened else rounded, base.tokenizer))
    table = change.table()
    assert change.precision == "bfloat16"
    assert (table["norm"] > 0).all()
    assert table["relative"].max() < 2**-8
    assert (table["rank"] == 0).all()
    assert change.rounding == len(table)
    trained = weight_change(base, changed(base, 0.1))
    assert trained.precision == "float32"
    assert trained.rounding == 0
    assert (trained.table().query("kind == 'q'")["rank"] == 32).all()


def test_other_architectures_are_refused_in_a_sentence():
    lm = random_lm()
    for other, why in (
        (random_lm("gpt2"), "they are a LlamaForCausalLM and a GPT2LMHeadModel"),
        (random_lm(num_hidden_layers=3), r"`model\.layers\.2\.\S+` is missing and"),
        (random_lm(intermediate_size=40), r"is \(48, 32\) and \(40, 32\)"),
        (
            random_lm(num_attention_heads=2, num_key_value_heads=1, head_dim=16),
            "`num_attention_heads` of their configurations is 4 and 2",
        ),
    ):
        with pytest.raises(ModelError, match=why) as caught:
            weight_change(lm, other)
        assert "choose two models of the same architecture" in str(caught.value)


def test_the_figure_maps_blocks_and_kinds():
    base, ticks = random_lm(), []
    aligned = changed(base, 0.01)
    change = weight_change(base, aligned, tick=ticks.append)
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1
    (heat,) = change.figure().data
    assert list(heat.y) == ["outside blocks", "block 0", "block 1"]
    assert list(heat.x) == ["q", "k", "v", "o", "mlp", "norm", "embed", "unembed"]
    values = np.asarray(heat.z, dtype=float)
    assert values[1, 0] == pytest.approx(of(change, "model.layers.0.self_attn.q_proj.weight")["relative"], rel=1e-5)
    assert np.isnan(values[0, 0])
    same = weight_change(base, base).figure().data[0]
    assert np.nanmax(np.asarray(same.z, dtype=float)) == 0


def test_an_adapter_that_is_not_merged_has_the_weights_of_the_merged_one(tmp_path: Path) -> None:
    folder = saved_lm(tmp_path / "base")
    base, directory = LM.load(folder), adapter(folder, tmp_path / "lora")
    merged, shared = (weight_change(base, lm) for lm in (LM.load(directory), LM.load(directory, base=base)))
    pd.testing.assert_frame_equal(shared.matrices, merged.matrices, rtol=1e-5)
    pd.testing.assert_frame_equal(shared.heads, merged.heads, rtol=1e-4, atol=1e-6)
    assert shared.precision == merged.precision
    middle = [interpolate(base, LM.load(directory, base=each), 0.5) for each in (base, None)]
    with torch.no_grad():
        torch.testing.assert_close(*(lm.logits([5, 6, 7]) for lm in middle), rtol=1e-5, atol=1e-5)
