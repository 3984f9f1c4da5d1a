"""The preflight: bytes as they come out, for any model and length, and something smaller where room is short."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.long_inputs import measure, peak
from probe.attention.patterns import attention
from probe.errors import ConfigError, DataError
from probe.model import memory
from probe.model.memory import free_bytes, growth_law, preflight, require_room
from probe.numbers import file_size
from tests.models import ARCHITECTURES, CONTEXT, OTHERS, RECURRENT, byte_tokenizer, random_lm

PATTERNS = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]


def held(tensors: list[Tensor]) -> int:
    """Bytes of the memory behind some tensors."""
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS, *RECURRENT])
def test_bytes_are_those_of_the_cache(name: str):
    lm = random_lm(name)
    for batch, length in ((1, 1), (1, 5), (1, 17), (3, 9), (2, CONTEXT)):
        ids = torch.randint(4, 27, (batch, length))
        logits, cache = lm.run_with_cache(ids)
        plan = preflight(lm, ids)
        assert plan.cache == held(list(cache.values()))
        assert plan.cache + plan.logits == held([*cache.values(), logits])
        assert set(cache.keys()) >= set(plan.names)
        for one in plan.names:
            assert plan.bytes[one] == cache[one].untyped_storage().nbytes(), one


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    "names",
    [PATTERNS, "blocks.1.hook_resid_post", ["blocks.0.attn.hook_q", "blocks.0.attn.hook_k", "blocks.0.hook_in"]],
)
def test_chosen_names_are_counted(name: str, names: list[str] | str):
    lm, texts = random_lm(name), ["mira lives in oslo .", "where does tom works ? at"]
    logits, cache = lm.run_with_cache(texts, names)
    plan = preflight(lm, texts, names)
    assert (plan.batch, plan.length) == logits.shape[:2]
    assert plan.cache == held(list(cache.values()))
    assert plan.logits == held([logits])
    assert preflight(lm, plan.length, names, batch=2).total == plan.total


def test_an_optional_hook_point_is_learnt_when_it_is_switched_on():
    lm = random_lm()
    before = preflight(lm, 10).cache
    lm.bridge.set_use_attn_result(True)
    _, cache = lm.run_with_cache(torch.zeros(1, 10, dtype=torch.long))
    assert preflight(lm, 10).cache == held(list(cache.values())) > before


def test_half_precision_takes_half():
    lm = random_lm()
    single = preflight(lm, 20, PATTERNS).cache
    lm.model.to(torch.bfloat16)
    assert preflight(lm, 20, PATTERNS).cache == single // 2


def test_the_law_is_learnt_once_and_hooks_do_not_see_it():
    lm, seen = random_lm(), []
    with lm.hooks([("blocks.0.hook_resid_post", lambda tensor, hook: seen.append(tensor.shape))]):
        law = growth_law(lm)
        assert not seen
        assert growth_law(lm) is law
        require_room(lm, "mira lives in oslo .", PATTERNS)
        assert not seen


def test_growth_has_the_shape_of_each_activation():
    table = preflight(random_lm("gpt_neox"), 12).table().set_index("name")
    assert table.growth["blocks.1.attn.hook_pattern"] == "quadratic"
    assert table.growth["blocks.1.hook_resid_post"] == "linear"
    assert table.layer["blocks.1.hook_resid_post"] == 1
    assert table.layer["ln_final.hook_out"] == -1
    assert table.bytes["blocks.1.attn.hook_pattern"] == 4 * 12 * 12 * 4


@pytest.mark.parametrize("names", [None, [*PATTERNS, "blocks.0.hook_resid_post"]])
def test_offers_fit_and_one_step_more_does_not(names: list[str] | None):
    lm = random_lm()
    whole = preflight(lm, 40, names, batch=6)
    assert whole.fits
    assert whole.offer == ""
    linear = [name for name in whole.names if "pattern" not in name and "scores" not in name]
    room = (preflight(lm, 40, linear, batch=6).total + whole.total) // 2
    short = preflight(lm, 40, names, batch=6, budget=room)
    assert not short.fits
    assert [offer.total for offer in short.offers] == sorted((offer.total for offer in short.offers), reverse=True)
    for offer in short.offers:
        again = preflight(lm, offer.length, offer.names, batch=offer.batch, budget=short.budget)
        assert again.fits
        assert again.total == offer.total
        assert file_size(offer.total) in short.offer
    fewer = next(offer for offer in short.offers if "texts at a time" in offer.what)
    assert not preflight(lm, 40, names, batch=fewer.batch + 1, budget=short.budget).fits
    shorter = next(offer for offer in short.offers if "shorten" in offer.what)
    assert not preflight(lm, shorter.length + 1, names, batch=6, budget=short.budget).fits
    without = next(offer for offer in short.offers if "square" in offer.what)
    assert sorted(without.names) == sorted(linear)
    assert "`attention_statistics`" in short.offer


def test_fewer_layers_are_offered():
    lm = random_lm(num_hidden_layers=6)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(6)]
    whole = preflight(lm, 48, names)
    short = preflight(lm, 48, names, budget=whole.total - 2 * whole.bytes[names[0]])
    layers = next(offer for offer in short.offers if "layers" in offer.what)
    assert layers.what == "capture 4 of the 6 layers at a time"
    assert layers.names == tuple(names[:4])


def test_statistics_are_offered_where_they_can_be_had():
    for name, streams in (("gpt2", True), ("bloom", False)):
        assert ("attention_statistics" in preflight(random_lm(name), 40, PATTERNS, budget=1).offer) == streams


def test_nothing_fits_into_nothing():
    plan = preflight(random_lm(), 20, "blocks.0.hook_resid_post", budget=1)
    assert plan.offers == ()
    assert plan.offer == "use a smaller model or a machine with more memory"


def test_what_fits_is_let_through_and_else_it_is_said_what_to_do():
    lm = random_lm()
    require_room(lm, "mira lives in oslo .", PATTERNS)
    with pytest.raises(DataError, match=r"6 tokens needs .*, and 2\.0 kB are allowed: .*`attention_statistics`"):
        require_room(lm, "mira lives in oslo .", PATTERNS, budget=2000)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_large_capture_is_refused_before_it_is_made(name: str, monkeypatch: pytest.MonkeyPatch):
    lm, texts = random_lm(name), [[4] * 40] * 20
    _, cache = lm.run_with_cache(texts, PATTERNS)
    assert cache[PATTERNS[0]].shape == (20, 4, 40, 40)
    monkeypatch.setattr("probe.model.memory.free_bytes", lambda device: 10**6)
    with pytest.raises(
        DataError, match=r"A capture of 20 texts of 40 tokens needs .*, and 900 kB are allowed: .*texts at a"
    ):
        lm.run_with_cache(texts, PATTERNS)
    lm.run_with_cache(texts[:2], PATTERNS)


def test_mistakes_are_told():
    lm = random_lm()
    with pytest.raises(ConfigError, match=r"no hook point .*hook_patern"):
        preflight(lm, 5, "blocks.0.attn.hook_patern")
    with pytest.raises(DataError, match="49 tokens and the model reads at most 48"):
        preflight(lm, CONTEXT + 1)
    with pytest.raises(ConfigError, match="length=0"):
        preflight(lm, 0)
    with pytest.raises(ConfigError, match="budget=0"):
        preflight(lm, 5, budget=0)
    assert preflight(lm, np.int64(5), "blocks.0.hook_resid_post").length == 5


def test_logits_count(tmp_path: Path):
    few, many = random_lm("gpt2"), random_lm("gpt2", tokenizer=byte_tokenizer())
    one, other = (preflight(lm, 20, "blocks.0.hook_resid_post") for lm in (few, many))
    assert one.cache == other.cache
    assert other.logits - one.logits == 20 * 4 * (len(many.tokenizer) - len(few.tokenizer))


needs_peaks = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the kernel gives no peak that can be reset"
)


@needs_peaks
@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gemma2", "bloom"])
def test_what_comes_and_goes_stays_below_its_bound(name: str):
    """Of six layers one pattern is in memory at a time: neither bridge nor model collects those nobody asked for."""
    sizes = {"llama": {"num_attention_heads": 8, "max_position_embeddings": 1280, "num_hidden_layers": 6}}
    sizes |= {"gpt_neox": sizes["llama"], "gemma2": sizes["llama"], "bloom": {"n_head": 8, "n_layer": 6}}
    lm, one = random_lm(name, **sizes[name]), "blocks.1.hook_in"
    ids, pattern = torch.randint(4, 27, (1, 1280)), 8 * 1280**2 * 4
    plan = preflight(lm, ids, one)
    made = peak(lambda: lm.run_with_cache(ids, one))
    assert plan.cache + plan.logits < pattern / 100
    assert pattern < made["peak"] <= plan.total < 6 * pattern


@needs_peaks
def test_the_attention_of_a_text_needs_what_its_capture_needs():
    """Patterns are handed over layer by layer, so that they are never held twice."""
    lm = random_lm("llama", num_attention_heads=8, max_position_embeddings=1280, num_hidden_layers=8)
    ids = torch.randint(4, 27, (1280,)).tolist()
    plan = preflight(lm, ids, [f"blocks.{layer}.attn.hook_pattern" for layer in range(8)])
    held = []
    made = peak(lambda: held.append(attention(lm, ids)))
    assert held[0].pattern.nbytes == 8 * 8 * 1280**2 * 4
    assert held[0].pattern.nbytes < made["peak"] <= plan.total < 2 * held[0].pattern.nbytes


@needs_peaks
def test_patterns_fill_the_memory_and_streaming_does_not():
    shape = {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "vocab_size": 64}
    shape |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    plan = measure("plan", 1536, **shape)
    cache, streamed = (measure(what, 1536, **shape) for what in ("patterns", "streaming"))
    assert plan["held"] == 2 * 8 * 1536**2 * 4 + 1536 * 64 * 4
    assert plan["held"] < cache["peak"] <= plan["patterns"] < 4 * plan["held"]
    assert streamed["peak"] < cache["peak"] / 4


def test_free_memory_is_what_the_kernel_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    physical = 2**50
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:       50 kB\n")
    assert memory._available(meminfo) == 51_200
    assert memory._available(tmp_path / "none") is None
    assert memory._memory_left(tmp_path) is None
    for name, text in (("max", "9000\n"), ("current", "5000\n"), ("stat", "anon 10\ninactive_file 1500\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._memory_left(tmp_path) == 5500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._memory_left(tmp_path) is None
    free = free_bytes()
    assert free is None or 0 < free < physical
    assert free_bytes("meta") is None


def test_sizes_read_well():
    assert [file_size(size) for size in (0, 512, 999, 4700, 99_960, 999_600, 18_924_699_648, 3 * 10**12)] == [
        "0 B",
        "512 B",
        "999 B",
        "4.7 kB",
        "100 kB",
        "1.0 MB",
        "19 GB",
        "3.0 TB",
    ]
