"""Streamed statistics of attention: those of the whole pattern, on any architecture, and little memory."""

import threading

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
)

import probe
from probe.attention.long import AttentionStatistics, LongTexts, attention_statistics
from probe.attention.streaming import stream_weights
from probe.errors import ConfigError, DataError, ModelError
from probe.model.lm import LM
from probe.model.rewards import analysable
from probe.plotting.notebook import Look
from tests.models import ARCHITECTURES, CONTEXT, random_lm, saved_lm, word_tokenizer

IDS = torch.randint(4, 27, (30,), generator=torch.Generator().manual_seed(0)).tolist()
STREAMED = [*ARCHITECTURES, "mistral", "gemma2", "phi3"]


def pattern(lm: LM, ids: list[int]) -> np.ndarray:
    """[D H T T] from the whole cache."""
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(lm.bridge.cfg.n_layers)]
    _, cache = lm.run_with_cache([ids], names)
    return torch.stack([cache[name][0] for name in names]).double().numpy()


def reference(weights: np.ndarray, lags: int) -> dict[str, np.ndarray]:
    """The definitions as loops over queries and keys."""
    depth, heads, length, _ = weights.shape
    names = ("entropy", "distance", "sink", "previous", "itself", "sums")
    found = {name: np.zeros((depth, heads, length)) for name in names}
    profile, tail = np.zeros((depth, heads, lags + 1)), np.zeros((depth, heads))
    for layer in range(depth):
        for head in range(heads):
            at = layer, head
            for query in range(length):
                for key in range(query + 1):
                    weight, lag = weights[layer, head, query, key], query - key
                    found["entropy"][at][query] -= weight * np.log(weight) if weight > 0 else 0.0
                    found["distance"][at][query] += weight * lag
                    found["sums"][at][query] += weight
                    found["sink"][at][query] += weight * (key == 0)
                    found["previous"][at][query] += weight * (lag == 1)
                    found["itself"][at][query] += weight * (lag == 0)
                    if lag <= lags:
                        profile[at][lag] += weight / (length - lag)
                    else:
                        tail[at] += weight / length
    return found | {"lag_profile": profile, "lag_tail": tail}


def agree(seen: AttentionStatistics, weights: np.ndarray, lags: int) -> None:
    for name, expected in reference(weights, lags).items():
        np.testing.assert_allclose(getattr(seen, name), expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mistral"])
def test_blocks_give_what_the_whole_pattern_gives(name: str):
    lm = random_lm(name)
    weights = pattern(lm, IDS)
    for block, lags in ((7, 10), (64, 29)):
        agree(attention_statistics(lm, IDS, block=block, lags=lags), weights, lags)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "mixtral", "opt", "phi3"])
def test_other_kernels_agree_with_transformers(name: str):
    """A soft cap on the scores and fused projections; beside the model's own `output_attentions`."""
    lm, other = random_lm(name), random_lm(name)
    other.model.set_attn_implementation("eager")
    own = other.model(torch.tensor([IDS]), output_attentions=True).attentions
    agree(attention_statistics(lm, IDS, block=8, lags=12), torch.cat(own).detach().double().numpy(), 12)


TINY = {
    "vocab_size": 30,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TINY |= {"max_position_embeddings": CONTEXT, "initializer_range": 0.25, "pad_token_id": 0}


def test_a_learned_sink_takes_its_share_and_the_sums_say_so():
    config = GptOssConfig(**TINY, head_dim=8, num_hidden_layers=2, num_local_experts=2, num_experts_per_tok=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LM(GptOssForCausalLM(config).eval(), word_tokenizer())
    seen = attention_statistics(lm, IDS, block=8, lags=12)
    lm.model.set_attn_implementation("eager")
    own = lm.model(torch.tensor([IDS]), output_attentions=True).attentions
    agree(seen, torch.cat(own).detach().double().numpy(), 12)
    assert np.abs(seen.sums - 1).max() > 0.1


def test_a_hybrid_model_shows_the_layers_that_attend():
    config = Lfm2Config(**TINY, layer_types=["conv", "full_attention", "conv", "full_attention"], num_hidden_layers=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LM(Lfm2ForCausalLM(config).eval(), word_tokenizer())
    seen = attention_statistics(lm, IDS)
    assert seen.layers == [1, 3]
    assert seen.table().name.tolist()[4] == "L3H0"
    assert seen.row(3, 0) == 1
    with pytest.raises(DataError, match="L2H0"):
        seen.source_table(2, 0)


@pytest.mark.parametrize("name", STREAMED)
def test_top_sources_are_the_largest_weights(name: str):
    lm = random_lm(name)
    weights, seen = pattern(lm, IDS), attention_statistics(lm, IDS, block=11, top=3)
    expected = np.sort(weights, -1)[..., ::-1][..., :3]
    np.testing.assert_allclose(seen.top_weights, expected, atol=1e-5, rtol=1e-4)
    some = seen.top_keys >= 0
    there = np.take_along_axis(weights, seen.top_keys.clip(0).astype(int), -1)
    np.testing.assert_allclose(there[some], seen.top_weights[some], atol=1e-5, rtol=1e-4)
    assert (seen.top_keys[:, :, 0] == [0, -1, -1]).all()
    assert (seen.top_keys <= np.arange(30)[:, None]).all()
    assert seen.top_weights[~some].max() == 0


@pytest.mark.parametrize("name", STREAMED)
def test_weights_sum_to_one_and_lags_to_the_sum(name: str):
    seen = attention_statistics(random_lm(name), IDS, block=5, lags=6)
    assert np.abs(seen.sums - 1).max() < 1e-6
    share = (30 - np.arange(7)) / 30
    np.testing.assert_allclose((seen.lag_profile * share).sum(-1) + seen.lag_tail, 1, atol=1e-6, rtol=1e-4)


def test_a_window_lets_no_weight_past_it():
    seen = attention_statistics(random_lm("mistral"), IDS, block=4, lags=None)
    assert seen.lag_profile.shape == (2, 4, 30)
    assert seen.lag_profile[..., 6:].max() == 0
    assert seen.lag_profile[..., 5].min() > 0
    assert seen.sink[..., 6:].max() == 0
    assert seen.sink[..., 5].min() > 0


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def test_no_tensor_is_as_large_as_a_pattern():
    """400 tokens, 4 heads: the pattern of a layer has 640,000 numbers, a block 12,800, the neurons 19,200."""
    lm, ids = random_lm(max_position_embeddings=400), torch.randint(4, 27, (400,)).tolist()
    with Largest() as whole:
        lm.run_with_cache([ids], ["blocks.1.attn.hook_pattern"])
    assert whole.numbers >= 640_000
    with Largest() as streamed:
        attention_statistics(lm, ids, block=8)
    assert streamed.numbers <= 400 * 64  # the weights at lags 0 to 64 of a block are fewer too


def test_a_block_holds_the_keys_that_it_can_see():
    blocks: dict[str, list[tuple[int, int, int]]] = {}
    for name in ("llama", "mistral"):
        found = blocks[name] = []
        layers = stream_weights(
            random_lm(name), IDS, 8, lambda *got, found=found: found.append((got[0], *got[1].shape))
        )
        assert layers == [0, 1]
    both = [(layer, 4, rows) for layer in (0, 1) for rows in (8, 8, 8, 6)]
    assert blocks["llama"] == [(*shape, keys) for shape, keys in zip(both, [8, 16, 24, 30] * 2, strict=True)]
    assert blocks["mistral"] == [(*shape, keys) for shape, keys in zip(both, [8, 13, 13, 11] * 2, strict=True)]


def test_no_logits_are_computed():
    lm, called = random_lm(), []
    lm.model.lm_head.register_forward_hook(lambda *_: called.append(1))
    attention_statistics(lm, IDS)
    assert not called
    lm.logits([IDS])
    assert called


def test_the_model_stays_as_it_is_and_a_second_time_gives_the_same():
    lm = random_lm("gpt2")
    before, kernel = lm.logits([IDS]).detach(), lm.model.config._attn_implementation
    first, mark = attention_statistics(lm, IDS), lm.fingerprint
    assert lm.model.config._attn_implementation == kernel
    assert (lm.logits([IDS]) == before).all()
    assert lm.fingerprint == mark
    lm.model.train()
    again = attention_statistics(lm, IDS)  # dropout stays off
    assert lm.model.training
    np.testing.assert_array_equal(first.entropy, again.entropy)


def test_two_threads_read_their_own_models():
    lms = [random_lm(seed=seed) for seed in (1, 2)]
    alone = [attention_statistics(lm, IDS, block=2) for lm in lms]
    gate, found = threading.Barrier(2), {}

    def read(which: int) -> None:
        gate.wait()
        found[which] = [attention_statistics(lms[which], IDS, block=2) for _ in range(3)]

    threads = [threading.Thread(target=read, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in (0, 1):
        for seen in found[which]:
            np.testing.assert_array_equal(seen.entropy, alone[which].entropy)


def test_a_reward_model_is_read_like_its_body(tmp_path):
    """The scalar head changes no pattern."""
    lm = LM.load(saved_lm(tmp_path / "lm"))
    scorer = LlamaForSequenceClassification(LlamaConfig(**lm.model.config.to_dict() | {"num_labels": 1}))
    scorer.model = lm.model.model
    scorer.save_pretrained(tmp_path / "reward")
    lm.tokenizer.save_pretrained(tmp_path / "reward")
    scalar = analysable(tmp_path / "reward")
    assert scalar.readout == "reward"
    np.testing.assert_allclose(
        attention_statistics(scalar, IDS).entropy, attention_statistics(lm, IDS).entropy, atol=1e-6
    )


@pytest.mark.parametrize("name", ["bloom", "mamba"])
def test_attention_that_cannot_be_read_is_refused(name: str):
    with pytest.raises(ModelError, match="does not go through transformers' attention interface"):
        attention_statistics(random_lm(name), IDS)


def test_attention_that_is_never_called_is_refused(monkeypatch: pytest.MonkeyPatch):
    """An architecture that claims to use the interface and does not."""
    lm = random_lm("bloom")
    monkeypatch.setattr(type(lm.model), "_can_set_attn_implementation", classmethod(lambda cls: True))
    with pytest.raises(ModelError, match="does not go through"):
        attention_statistics(lm, IDS)


def test_mistakes_are_told():
    lm = random_lm()
    with pytest.raises(DataError, match=f"{CONTEXT + 1} tokens and the model reads at most {CONTEXT}"):
        attention_statistics(lm, [4] * (CONTEXT + 1))
    with pytest.raises(DataError, match="no tokens"):
        attention_statistics(lm, [])
    with pytest.raises(DataError, match="token 27 and the model knows 0 to 26"):
        attention_statistics(lm, [2, 27])
    with pytest.raises(ConfigError, match="block of the attention statistics is 0"):
        attention_statistics(lm, IDS, block=0)
    with lm.hooks([("blocks.0.hook_resid_post", lambda *_: None)]), pytest.raises(ConfigError, match="hooks"):
        attention_statistics(lm, IDS)
    seen = attention_statistics(lm, IDS)
    with pytest.raises(ConfigError, match="entropy, distance"):
        seen.mean("wisdom")
    with pytest.raises(DataError, match="L2H0"):
        seen.query_table(2, 0)


def test_progress_rises_to_one_and_can_stop_the_work():
    lm, shares = random_lm(), []
    attention_statistics(lm, IDS, block=10, tick=shares.append)
    np.testing.assert_allclose(shares, np.arange(1, 7) / 6)

    def stop(share: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        attention_statistics(lm, IDS, tick=stop)
    attention_statistics(lm, IDS)


def test_one_token_is_a_text():
    seen = attention_statistics(random_lm(), [5], lags=4)
    assert seen.itself.min() == 1
    assert seen.lag_profile.shape == (2, 4, 1)
    assert seen.table().entropy.abs().max() == 0


def test_tables_hold_the_arrays():
    lm = random_lm()
    seen = attention_statistics(lm, "mira lives in oslo .", top=2, lags=3)
    table = seen.table()
    assert table.name.tolist() == [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    row = table[table.name == "L1H2"].iloc[0]
    assert row.entropy == pytest.approx(seen.entropy[1, 2, 1:].mean())
    assert row.previous == pytest.approx(seen.previous[1, 2, 1:].mean())
    assert row.beyond == pytest.approx(seen.lag_tail[1, 2])
    lags = seen.lag_table()
    assert lags[(lags.name == "L1H2") & (lags.lag == 3)].weight.item() == seen.lag_profile[1, 2, 3]
    assert lags.without_first.tolist() == seen.without_sink()[0].ravel().tolist()
    queries, sources = seen.query_table(1, 2), seen.source_table(1, 2)
    assert queries.token.tolist() == seen.tokens
    assert queries.distance.tolist() == seen.distance[1, 2].tolist()
    assert len(sources) == 2 * len(seen.tokens) - 1
    assert (sources["source"] == [seen.tokens[key] for key in sources.key]).all()
    assert sources.iloc[-2].weight == seen.top_weights[1, 2, -1, 0]


def test_the_first_token_is_left_out_of_how_far_back_heads_look():
    lm, text = random_lm(), "mira lives in oslo . mira likes figs ."
    seen, read = attention_statistics(lm, text, lags=3), probe.attention.read_attention(lm, text)
    pattern = np.nan_to_num(read.pattern).astype(np.float64)
    length = pattern.shape[-1]
    pattern[..., 0] = 0
    lag = np.subtract.outer(np.arange(length), np.arange(length))
    reach = (pattern * lag).sum(-1)[..., 1:].mean(-1)
    np.testing.assert_allclose(seen.reach(), reach, rtol=1e-4, atol=1e-5)
    profile, tail = seen.without_sink()
    for k in range(4):
        np.testing.assert_allclose(
            profile[..., k], (pattern * (lag == k)).sum((-1, -2)) / (length - k), atol=1e-6, rtol=1e-4
        )
    np.testing.assert_allclose(tail, (pattern * (lag > 3)).sum((-1, -2)) / length, atol=1e-6, rtol=1e-4)
    assert seen.place(None) == np.unravel_index(reach.argmax(), reach.shape)


def test_a_head_that_rests_on_the_first_token_does_not_look_back_furthest():
    seen = attention_statistics(random_lm(), "mira lives in oslo . mira likes figs .")
    head = seen.place(None)
    for name, whole in (("sink", 1.0), ("previous", 0.0), ("itself", 0.0)):
        getattr(seen, name)[head] = whole
    seen.distance[head] = np.arange(len(seen.tokens))
    assert seen.place(None) != head
    assert f"L{head[0]}H{head[1]} looks back furthest" not in seen.sentence()
    assert "the first token left out" in seen.sentence()


def test_two_models_stand_beside_each_other_and_a_head_is_chosen():
    reads = [attention_statistics(random_lm(seed=seed), "mira lives in oslo .", lags=3) for seed in (0, 1)]
    both = LongTexts(tuple(reads), (Look("a", "red"), Look("b", "blue")))
    far = both.lists()["Heads"].groupby("model")["head"].first()
    assert all(f"in {name}, {head} looks back furthest" in both.sentence() for name, head in far.items())
    assert both.hooked == reads[0].ids
    charts = both.figures("L1H2", "entropy")
    assert list(charts) == ["statistic", "lags", "layers", "along", "sources"]
    grids = [trace.z for trace in charts["statistic"].data if trace.type == "heatmap"]
    np.testing.assert_allclose(grids[2], reads[1].mean("entropy") - reads[0].mean("entropy"))
    np.testing.assert_array_equal(charts["lags"].data[1].y, reads[1].without_sink()[0][1, 2])
    np.testing.assert_array_equal(charts["along"].data[0].y, reads[0].entropy[1, 2])
    assert len(both.data("along", "L1H2")) == 2 * len(reads[0].tokens)
    assert set(both.data("lags", "L1H2")["name"]) == {"L1H2"}
    assert "None is stored" in both.notes[0]
    other = attention_statistics(random_lm("gpt2", n_layer=3), "oslo .", lags=3)
    apart = LongTexts((reads[0], other), both.looks)
    assert not apart.hooked
    assert len(apart.figures("L2H0")["along"].data) == 1, "texts that differ share no axis"
    with pytest.raises(ConfigError, match="no head 'L9H9' here"):
        both.figures("L9H9")
    assert "only itself" in attention_statistics(random_lm(), [5], lags=4).sentence()
    assert attention_statistics(random_lm(), [5], lags=4).figures()


def test_layers_that_do_not_attend_stay_empty():
    config = Lfm2Config(**TINY, layer_types=["conv", "full_attention", "conv", "full_attention"], num_hidden_layers=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = attention_statistics(LM(Lfm2ForCausalLM(config).eval(), word_tokenizer()), IDS)
    grid = next(trace.z for trace in seen.figures("L3H0")["statistic"].data if trace.type == "heatmap")
    assert np.isnan(grid[[0, 2]]).all()
    np.testing.assert_allclose(grid[[1, 3]], seen.mean("distance"))
