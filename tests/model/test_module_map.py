"""Plain modules: nanoGPT's GPT is what the same weights are in GPT-2, by other hooks; Mamba; what does not fit."""

import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import probe
from probe.errors import ConfigError, ModelError, ProbeError
from probe.interventions.patching import Filling, PromptPair
from probe.interventions.steering import Controls
from probe.logits.targets import Target
from probe.model.equations import read_network
from probe.model.hooked_gap import trust
from probe.model.module_hooks import ModuleWarning
from probe.recording.recorder import ReferenceKL, as_prompt, measure, with_likeliest
from tests.models import random_lm, word_tokenizer
from tests.plain_modules import MAMBA, NANO, ROTARY, RotaryLM, nano_gpt, nano_lm

TEXTS = ["mira lives in oslo .", "tom", "where does ana"]
TEXT, OTHER = "mira lives in oslo . where does mira lives ?", "mira lives in rome . where does tom lives ?"
SAFE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def gpt2() -> probe.LM:
    return random_lm("gpt2")


@pytest.fixture(scope="module")
def nano() -> probe.LM:
    return nano_lm()


@pytest.fixture(scope="module")
def rotary() -> probe.LM:
    return rotary_lm()


def rotary_lm(**changes: Any) -> probe.LM:
    module = RotaryLM(len(word_tokenizer()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in module.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return probe.LM(module.eval(), word_tokenizer(), mapping=probe.ModuleMap(**ROTARY | changes))


def mamba_lm() -> tuple[probe.LM, probe.LM]:
    """A Mamba as transformers' own, and as a plain module."""
    own = random_lm("mamba")
    return own, probe.LM(own.model, own.tokenizer, mapping=probe.ModuleMap(**MAMBA))


def real(lm: probe.LM, logits: Tensor) -> Tensor:
    """The logits of real tokens."""
    return torch.cat([row[: len(lm.tokenizer.encode(text))] for row, text in zip(logits, TEXTS, strict=True)])


@torch.no_grad()
def test_it_is_used_like_any_other_model(gpt2: probe.LM, nano: probe.LM):
    torch.testing.assert_close(real(nano, nano.logits(TEXTS)), real(gpt2, gpt2.logits(TEXTS)), **SAFE)
    with nano.hooks([]):
        torch.testing.assert_close(real(nano, nano.logits(TEXTS)), real(gpt2, gpt2.logits(TEXTS)), **SAFE)
    pairs = ["tom", "where does ana"], [["is at rome", "."], ["works in oslo ."]]
    ours, theirs = nano.logprobs(*pairs), gpt2.logprobs(*pairs)
    torch.testing.assert_close(ours.values, theirs.values, **SAFE)
    torch.testing.assert_close(ours.entropy, theirs.entropy, **SAFE)
    ours, theirs = (lm.generate(TEXTS, n=3, max_new_tokens=6, seed=4) for lm in (nano, gpt2))
    assert ours.text == theirs.text
    assert nano.n_parameters == gpt2.n_parameters
    assert "architecture=GPT," in repr(nano)
    checked = trust(nano, TEXT)
    assert checked.sound
    assert (checked.kernel, checked.hooked_kernel) == ("own", "eager")
    with pytest.raises(probe.errors.DataError, match="reads at most 48"):
        nano.logits([[1] * 49])


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(nano: probe.LM):
    ids = torch.tensor([[4, 5, 6, 0, 0], [0, 0, 7, 8, 9], [0, 10, 0, 11, 12]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 1]])
    logits = nano.model(input_ids=ids, attention_mask=mask).logits
    for row, shown, own in zip(ids, mask.bool(), logits, strict=True):
        torch.testing.assert_close(own[shown], nano.logits(row[shown].tolist())[0], **SAFE)


@pytest.mark.parametrize("flash", [True, False])
def test_every_hook_sees_what_it_sees_in_gpt2(gpt2: probe.LM, flash: bool):
    lm = nano_lm(flash)
    names = sorted(set(lm.hook_names()) & set(gpt2.hook_names()))
    assert names == lm.hook_names()
    one, other = lm.run_with_cache(TEXT)[1], gpt2.run_with_cache(TEXT)[1]
    for block in range(2):
        inside = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_out"]
        inside += [f"attn.hook_{name}" for name in ("q", "k", "v", "z", "attn_scores", "pattern", "in", "out")]
        inside += ["mlp.hook_pre", "mlp.hook_post", "ln1.hook_out", "ln2.hook_in"]
        assert {f"blocks.{block}.{name}" for name in inside} <= set(names)
    assert {"hook_embed", "hook_pos_embed", "ln_final.hook_out", "unembed.hook_out"} <= set(names)
    for name in names:
        ours, theirs = one[name], other[name]
        seen = theirs > -1e9  # scores that are masked are some number that is small enough
        torch.testing.assert_close(ours.expand_as(theirs)[seen], theirs[seen], **SAFE)


EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "blocks.0.attn.hook_q": lambda x: x * torch.tensor([0.0, 1.0, 2.0, 1.0])[:, None],
    "blocks.0.attn.hook_k": lambda x: x.flip(2),
    "blocks.1.attn.hook_v": lambda x: x + 0.5,
    "blocks.1.attn.hook_z": lambda x: x * torch.tensor([1.0, 0.0, 1.0, 1.0])[:, None],
    "blocks.0.attn.hook_attn_scores": lambda x: x * 0.5,
    "blocks.0.attn.hook_pattern": lambda x: x.roll(1, dims=1),
    "blocks.1.hook_attn_out": lambda x: x * 0,
    "blocks.0.hook_mlp_out": lambda x: -x,
    "blocks.0.mlp.hook_post": lambda x: x.clamp(max=0.1),
    "blocks.0.hook_resid_mid": lambda x: x.flip(2),
    "blocks.1.hook_resid_pre": lambda x: x.flip(1),
    "ln_final.hook_out": lambda x: x * 2,
}


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("name", EDITS)
@torch.no_grad()
def test_an_edit_does_what_it_does_in_gpt2(gpt2: probe.LM, name: str, flash: bool):
    def edited(lm: probe.LM) -> Tensor:
        with lm.hooks([(name, lambda tensor, hook: EDITS[name](tensor))]):
            return lm.logits(TEXT)

    assert float((edited(gpt2) - gpt2.logits(TEXT)).abs().max()) > 0.01
    torch.testing.assert_close(edited(nano_lm(flash)), edited(gpt2), atol=1e-4, rtol=1e-4)


ANALYSES: dict[str, Callable[[probe.LM], pd.DataFrame]] = {
    "lens": lambda lm: probe.logits.logit_lens(lm, TEXT, answer="oslo", against="rome").measures(),
    "attribution": lambda lm: probe.logits.attribute(lm, TEXT, probe.logits.target_of(lm, TEXT, "oslo")).table(),
    "neuron": lambda lm: probe.logits.promoted_tokens(lm, TEXT, 1, neuron=7).table(),
    "head": lambda lm: probe.logits.promoted_tokens(lm, TEXT, 0, 2).table(),
    "stages": lambda lm: probe.attention.read_stages(lm, TEXT, head="L1H2").written_table(),
    "attention": lambda lm: probe.attention.attention(lm, TEXT, max_new_tokens=3).table(),
    "induction": lambda lm: probe.attention.repeat_scores(lm, length=6, batch=2).table(),
    "composition": lambda lm: probe.attention.compose_heads(lm).table(),
    "ablation": lambda lm: probe.interventions.ablate(
        lm, TEXT, probe.logits.target_of(lm, TEXT), filling=Filling(reference=[OTHER]), exact=False
    ).table(),
    "steering": lambda lm: probe.interventions.dose_response(
        lm,
        [TEXT],
        [probe.logits.target_of(lm, TEXT)],
        probe.interventions.contrast(lm, [TEXT], [OTHER], 0),
        controls=Controls(2),
    ).table(),
    "attribution patching": lambda lm: pd.concat(
        each.table() for each in probe.interventions.attribute(lm, pair(lm), target(lm)).values()
    ),
}
for kind in ("resid", "attn", "mlp", "head"):
    ANALYSES[f"patching of {kind}"] = partial(
        lambda kind, lm: probe.interventions.patch(lm, pair(lm), target(lm), kind).table(), kind
    )


def pair(lm: probe.LM) -> PromptPair:
    return probe.interventions.pair_of(lm, TEXT, OTHER)


def target(lm: probe.LM) -> Target:
    return probe.logits.target_of(lm, TEXT, "oslo", "rome")


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_gives_what_it_gives_of_gpt2(gpt2: probe.LM, nano: probe.LM, name: str):
    ours, theirs = (ANALYSES[name](lm) for lm in (nano, gpt2))
    assert len(theirs)
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_the_equations_are_read_from_the_module(gpt2: probe.LM, nano: probe.LM):
    ours, theirs = read_network(nano), read_network(gpt2)
    for one, other in zip(ours.blocks, theirs.blocks, strict=True):
        for name in ("M", "N", "V", "O", "o_bias"):
            torch.testing.assert_close(getattr(one.maps, name), getattr(other.maps, name))
        torch.testing.assert_close(one.ffn.W_in, other.ffn.W_in)


def test_gradients_reach_the_parameters_through_hooks(gpt2: probe.LM, nano: probe.LM):
    def gradient(lm: probe.LM, weight: Tensor) -> Tensor:
        with lm.hooks([("blocks.0.attn.hook_pattern", lambda tensor, hook: tensor * 0.5)]):
            lm.logprobs("mira lives", " in oslo").values.sum().backward()
        found = weight.grad.clone()
        lm.model.zero_grad()
        return found

    ours = gradient(nano, nano.model.module.transformer.h[1].attn.c_proj.weight)
    theirs = gradient(gpt2, gpt2.model.transformer.h[1].attn.c_proj.weight)
    assert float(ours.abs().max()) > 1e-3
    torch.testing.assert_close(ours.T, theirs, **SAFE)


def test_the_module_is_shared_and_left_as_it_is(gpt2: probe.LM):
    module = nano_gpt(gpt2.model)
    lm = probe.LM(torch.nn.DataParallel(module), gpt2.tokenizer, mapping=probe.ModuleMap(**NANO))
    assert lm.model.module is module
    assert {id(each) for each in lm.model.parameters()} == {id(each) for each in module.parameters()}
    kinds = [type(each) for each in module.modules()]
    before, fingerprint = lm.run_with_cache(TEXT)[1], lm.fingerprint
    assert [type(each) for each in module.modules()] == kinds
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.02)
    module(ids[:, :-1], ids[:, 1:])[1].backward()
    optimiser.step()
    after = lm.run_with_cache(TEXT)[1]
    assert lm.fingerprint != fingerprint
    for name in ("hook_embed", "blocks.0.attn.hook_v", "blocks.1.hook_out"):
        assert float((after[name] - before[name]).abs().max()) > 0.01
    with lm.hooks([]):
        torch.testing.assert_close(lm.logits(TEXT), lm.logits(TEXT))
        hooked = lm.logits(TEXT)
    torch.testing.assert_close(hooked, lm.logits(TEXT), **SAFE)


def test_saved_weights_are_read_into_a_module_built_anew(nano: probe.LM, tmp_path: Path):
    folder = nano.save(tmp_path / "model")
    module = nano_gpt(random_lm("gpt2", seed=1).model)
    lm = probe.LM(module, nano.tokenizer, mapping=nano.model.mapping)
    assert lm.fingerprint != nano.fingerprint
    load_model(module, folder / "model.safetensors")
    assert lm.fingerprint == nano.fingerprint
    nano.save(folder, dtype="bfloat16")
    load_model(module, folder / "model.safetensors")
    torch.testing.assert_close(module.lm_head.weight, nano.model.module.lm_head.weight, atol=0.01, rtol=0.01)
    with pytest.raises(ModelError, match=r"weights of a plain module \(GPT\).*load_model.*probe.LM"):
        probe.LM.load(folder)


@torch.no_grad()
def test_half_precision(gpt2: probe.LM):
    module = nano_gpt(gpt2.model).to(torch.bfloat16)
    lm = probe.LM(module, gpt2.tokenizer, mapping=probe.ModuleMap(**NANO))
    assert trust(lm, TEXT).sound
    _, cache = lm.run_with_cache(TEXT, "blocks.0.attn.hook_pattern")
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(1, 4, 11).bfloat16())


@torch.no_grad()
def test_the_residual_stream_of_mamba():
    own, lm = mamba_lm()
    ids = torch.tensor([own.tokenizer.encode(TEXT)])
    seen: list[Tensor] = []
    blocks = own.model.backbone.layers
    handles = [block.register_forward_hook(lambda _, inputs, output: seen.append(output)) for block in blocks]
    states = own.model(ids, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    _, cache = lm.run_with_cache(TEXT)
    torch.testing.assert_close(cache["blocks.0.hook_resid_pre"], own.model.backbone.embeddings(ids))
    for block, output in enumerate(seen):
        torch.testing.assert_close(cache[f"blocks.{block}.hook_resid_post"], output)
        torch.testing.assert_close(cache[f"blocks.{block}.hook_resid_post"], states[block])
    torch.testing.assert_close(cache["ln_final.hook_out"], states[-1])
    for name in ("lens", "patching of resid"):
        pd.testing.assert_frame_equal(ANALYSES[name](lm), ANALYSES[name](own), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(real(lm, lm.logits(TEXTS)), real(own, own.logits(TEXTS)), **SAFE)
    assert lm.generate(TEXT, max_new_tokens=4, seed=0).text == own.generate(TEXT, max_new_tokens=4, seed=0).text


@pytest.mark.parametrize("name", [*ANALYSES, "equations"])
def test_what_mamba_cannot_give_is_refused_by_name(name: str):
    _, lm = mamba_lm()
    if name in ("lens", "patching of resid", "steering"):
        assert len(ANALYSES[name](lm))
        return
    analysis = read_network if name == "equations" else ANALYSES[name]
    with pytest.raises(ProbeError, match=r"MambaForCausalLM|The MLPs of|no attention"):
        analysis(lm)


@torch.no_grad()
def test_attention_that_turns_and_shares_its_keys(rotary: probe.LM):
    """Patterns by hand, of queries and keys that are normed and turned after their layers."""
    module = rotary.model.module
    _, cache = rotary.run_with_cache(TEXT)
    for number, block in enumerate(module.body):
        states = block.norm1(cache[f"blocks.{number}.hook_resid_pre"])
        attn, name = block.mixer, f"blocks.{number}.attn."
        q, k, v = (
            layer(states).unflatten(-1, (-1, 8)).transpose(1, 2) for layer in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        scores = attn.turn(q) @ attn.turn(k)[:, [0, 0, 1, 1]].transpose(2, 3) / 8**0.5
        pattern = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf).softmax(-1)
        torch.testing.assert_close(cache[name + "hook_pattern"], pattern, **SAFE)
        torch.testing.assert_close(cache[name + "hook_v"], v.transpose(1, 2), **SAFE)
        torch.testing.assert_close(cache[name + "hook_z"], (pattern @ v[:, [0, 0, 1, 1]]).transpose(1, 2), **SAFE)
    checked = probe.logits.logit_lens(rotary, TEXT)
    own = rotary.logits(TEXT)[0].log_softmax(-1).amax(-1)
    np.testing.assert_allclose(checked.top_logprobs[-1, :, 0], own, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(checked.top_logprobs[0, :, 0], lens_at_embedding(rotary), atol=1e-5, rtol=1e-4)
    assert probe.attention.attention(rotary, TEXT).pattern.shape == (2, 4, 11, 11)
    assert rotary.bridge.cfg.d_head == 8
    with pytest.raises(ConfigError, match=r"RotaryLM has no hook point 'blocks.0.hook_mlp_out', which needs mlp"):
        probe.interventions.ablate(rotary, TEXT, probe.logits.target_of(rotary, TEXT), "mlp", Filling("zero"))


def lens_at_embedding(lm: probe.LM) -> Tensor:
    """Without a norm before the unembedding."""
    module: Any = lm.model.module
    return module.head(module.tokens(torch.tensor(lm.tokenizer.encode(TEXT)))).log_softmax(-1).amax(-1)


@torch.no_grad()
def test_layers_of_gpt2_that_are_stored_transposed(gpt2: probe.LM):
    """A model of transformers as a plain module: its attention calls scaled_dot_product_attention somewhere else."""
    lm = probe.LM(gpt2.model, gpt2.tokenizer, mapping=probe.ModuleMap(**NANO | {"call": None}))
    assert isinstance(lm.model.module.transformer.h[0].attn.c_attn, Conv1D)
    for name in ("stages", "patching of head", "neuron"):
        pd.testing.assert_frame_equal(ANALYSES[name](lm), ANALYSES[name](gpt2), atol=1e-5, rtol=1e-3)


class Interleaved(nn.Module):
    """Queries, keys and values of a head stand beside each other."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(x).unflatten(-1, (self.heads, 3, -1)).transpose(1, 2).unbind(3)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))


class Hidden(Interleaved):
    """Attention without a softmax: what it attends to cannot be seen."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.c_attn(x)[..., :32].cumsum(1))


@pytest.mark.parametrize(
    ("kind", "part", "reason"),
    [
        (Interleaved, "heads", "the values|the pattern times"),
        (Hidden, "heads", r"blocks.0.attn.hook_(k|attn_scores) is not run once"),
    ],
)
@torch.no_grad()
def test_heads_that_are_not_what_the_map_says_are_left_out_by_name(
    gpt2: probe.LM, kind: type[nn.Module], part: str, reason: str
):
    module = nano_gpt(gpt2.model)
    for block in module.transformer.h:
        block.attn = kind()
    lm = probe.LM(module, gpt2.tokenizer, mapping=probe.ModuleMap(**NANO))
    with pytest.warns(ModuleWarning, match=rf"GPT is hooked without {part}, since .*{reason}"):
        names = lm.hook_names()
    assert "blocks.0.hook_attn_out" in names
    with lm.hooks([]):
        hooked = lm.logits(TEXT)
    torch.testing.assert_close(hooked, lm.logits(TEXT), **SAFE)
    assert len(ANALYSES["patching of attn"](lm))
    with pytest.raises(ConfigError, match=r"GPT has no hook point 'blocks.0.attn.hook_pattern', which needs heads"):
        probe.attention.attention(lm, TEXT)
    captured = measure(lm, [with_likeliest(lm, as_prompt(lm, TEXT, 0))])
    assert "attention" not in captured
    assert captured["lens_top_ids"].shape == (1, 3, 11, 5)


def test_parts_that_are_not_run_are_left_out_by_name(gpt2: probe.LM):
    lm = nano_lm(mlp="mlp.gelu", mlp_in=None, mlp_out=None)
    with pytest.warns(ModuleWarning, match=r"GPT is hooked without mlp, since `transformer.h.0.mlp.gelu` is not run"):
        assert "blocks.0.hook_mlp_out" not in lm.hook_names()
    assert "blocks.0.hook_resid_mid" in lm.hook_names()
    with pytest.raises(ConfigError, match=r"'blocks.0.attn.hook_patern': did you mean `blocks.0.attn.hook_pat"):
        lm.run_with_cache(TEXT, "blocks.0.attn.hook_patern")


ERRORS: list[tuple[type[ProbeError], str, dict[str, Any]]] = [
    (ModelError, r"names `transformer.x` as blocks and GPT has no .*`transformer.h`", {"blocks": "transformer.x"}),
    (ModelError, r"`transformer.h.0.atn` as attention .*: it has `transformer.h.0.attn`", {"attention": "atn"}),
    (ModelError, r"`transformer.h.0.attn.k` as qkv .*`transformer.h.0.attn.c_attn`", {"qkv": "k"}),
    (ModelError, r"`transformer` as blocks, a ModuleDict: name a ModuleList", {"blocks": "transformer"}),
    (
        ModelError,
        r"`transformer.ln_f` as unembedding, a LayerNorm without",
        {"unembedding": "transformer.ln_f", "final_norm": None},
    ),
    (ConfigError, "names only some parts of the heads", {"out": None}),
    (ConfigError, "names only some parts of the heads", {"qkv": None, "q": "c_attn"}),
    (ConfigError, r"names `lm_head` as embedding and as unembedding", {"embedding": "lm_head"}),
    (ConfigError, "names qkv and also q, k or v", {"q": "c_attn"}),
    (ConfigError, "give mlp, mlp_in and mlp_out", {"mlp_out": None}),
    (ConfigError, "says context 0", {"context": 0}),
    (ConfigError, "4 heads cannot share 3 heads", {"key_value_heads": 3}),
]


@pytest.mark.parametrize(("kind", "message", "changes"), ERRORS)
def test_a_map_that_does_not_fit_is_refused_in_a_sentence(kind: type[ProbeError], message: str, changes: dict):
    with pytest.raises(kind, match=message):
        nano_lm(**changes)


def test_a_call_that_gives_no_logits_of_all_positions_is_refused():
    lm = nano_lm(call=None)
    with pytest.raises(ModelError, match=r"GPT gives an output of shape \(1, 1, 27\) .* call=lambda module, ids"):
        lm.logits("mira lives in")
    with pytest.raises(ModelError, match="GPT gives an output of type NoneType"):
        nano_lm(call=lambda module, ids: None).logits("tom")
    with pytest.raises(ModelError, match=r"no configuration of transformers .* mapping=probe.ModuleMap"):
        probe.LM(lm.model.module, lm.tokenizer)
    lm = nano_lm(call=lambda module, ids: module.lm_head(module.transformer.wte(ids)))
    with pytest.raises(ModelError, match=r"does not run block 0 of `transformer.h` once a pass"):
        lm.hook_names()
    lm = nano_lm(call=lambda module, ids: module(ids, targets=ids)[0] + module.lm_head(module.transformer.wte(ids)))
    with pytest.raises(ModelError, match=r"runs its embedding `transformer.wte` 2 times per pass"):
        lm.hook_names()


def test_a_training_of_it_is_watched(nano: probe.LM, tmp_path: Path):
    lm = probe.LM(copy.deepcopy(nano.model.module), nano.tokenizer, mapping=nano.model.mapping)
    module: Any = lm.model.module
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.01)
    prompts = [{"text": TEXT, "answers": ["oslo", "rome"]}, "tom"]
    with probe.watch(lm, tmp_path / "run", prompts=prompts, every=2, instruments=[ReferenceKL(nano.logits)]) as watched:
        for step in range(5):
            loss = module(ids[:, :-1], ids[:, 1:])[1]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            watched.step(step, loss=loss)
    run = probe.open_run(tmp_path / "run")
    captures = run.captures()
    assert captures.steps == [0, 2, 4]
    assert run.config["model"] == "GPT"
    last = captures.load(4)
    expected = probe.attention.attention(lm, TEXT).pattern
    np.testing.assert_allclose(last["attention"][0], expected, atol=1e-3)
    assert last["attribution"].shape == (2, 2, 5)
    assert last["neuron_ids"].shape == (2, 2, 10)
    assert float(last["reference_kl"].max()) > float(captures.load(0)["reference_kl"].max()) > 0
    module.load_state_dict(nano.model.module.state_dict())
    load_model(module, run.checkpoints()[-1].path / "model.safetensors")
    np.testing.assert_allclose(probe.attention.attention(lm, TEXT).pattern, expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_the_mode_of_the_module_is_followed_wherever_it_is_switched(gpt2: probe.LM):
    module: Any = nano_gpt(gpt2.model)
    for block in module.transformer.h:
        block.mlp = nn.Sequential(block.mlp, nn.Dropout(0.5))
    lm = probe.LM(module.train(), gpt2.tokenizer, mapping=probe.ModuleMap(**NANO | {"mlp_in": None, "mlp_out": None}))
    for switch, random in ((module.eval, False), (lm.model.train, True), (lm.model.eval, False), (module.train, True)):
        switch()
        assert lm.model.training == module.training == random
        one, other = (lm.run_with_cache(TEXT)[0] for _ in range(2))
        assert (float((one - other).abs().max()) > 0.01) == random
        _, cache = lm.run_with_cache(TEXT, "blocks.0.hook_mlp_out")
        assert bool((cache["blocks.0.hook_mlp_out"] == 0).any()) == random


@pytest.mark.slow
def test_an_experiment_runs_on_it(base: probe.LM):
    """What needs heads is left out of the result for a model without them."""
    like = random_lm("gpt2", base.tokenizer, n_positions=128)
    own = probe.LM(like.model, like.tokenizer, run_dir=base.run_dir)
    lm = probe.LM(nano_gpt(like.model), like.tokenizer, run_dir=base.run_dir, mapping=probe.ModuleMap(**NANO))
    ours, theirs = (probe.run_experiment("sycophancy", each, n=3).summary for each in (lm, own))
    assert len(ours) > 40
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-3, rtol=1e-3)
    module = random_lm("mamba", base.tokenizer).model
    mamba = probe.LM(module, base.tokenizer, run_dir=base.run_dir, mapping=probe.ModuleMap(**MAMBA))
    assert 20 < len(probe.run_experiment("sycophancy", mamba, n=3).summary) < len(ours)


def test_the_documents_show_it(gpt2: probe.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tokenizer of characters, then the model that reads them, its training and its way back."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "model.md").read_text().split("\n## A plain module\n")[1]
    example, load, letters = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    text = "mira lives\nin oslo"
    space: dict[str, Any] = {"stoi": {letter: at for at, letter in enumerate(sorted(set(text)))}, "text": text}
    exec(compile(letters, "letters", "exec"), space)
    assert space["tokenizer"].decode(space["tokenizer"].encode(text)) == text
    space["model"] = nano_gpt(gpt2.model)
    rates = iter(range(100))
    space["train_one_step"] = lambda: float(next(rates))
    exec(compile(example, "example", "exec"), space)
    assert space["lens"].entropy.shape == (3, len(text))
    assert space["attention"].pattern.shape == (2, 4, len(text), len(text))
    assert probe.open_run("runs/nano").captures().steps == [0, 50, 99]
    before = space["lm"].fingerprint
    space["model"] = nano_gpt(random_lm("gpt2", seed=2).model)
    exec(compile(load, "load", "exec"), space)
    assert space["lm"].fingerprint == before
