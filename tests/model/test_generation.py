"""The sampler: its cache, its chance, its options."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ConfigError, DataError
from probe.model.generation import Sampling, draws, end_tokens, generate
from tests.models import ARCHITECTURES, CONTEXT, OTHERS, RECURRENT, byte_tokenizer, random_lm

PROMPTS = ["mira lives in oslo . tom works at", "ana", "where does tom"]


def plainly(lm, rows):
    """Logits of whole texts by the model itself, padded on the right."""
    return lm.logits(rows)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS, *RECURRENT])
def test_each_cached_step_equals_the_full_forward(name):
    """Left padding, positions and cache: every log-probability is that of one unpadded pass over the whole text."""
    lm = random_lm(name)
    drawn = lm.generate(PROMPTS, n=2, max_new_tokens=10, temperature=0.8, seed=5, stop=())
    for at, ids in enumerate(drawn.ids):
        prompt = drawn.prompt_ids[at // 2]
        logits = lm.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1] / 0.8
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(drawn.logprobs[at], chosen, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(drawn.entropy[at], -(logprobs.exp() * logprobs).sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS, *RECURRENT])
def test_batch_equals_single_and_whole_passes(name):
    lm = random_lm(name)
    batch = lm.generate(PROMPTS, n=3, max_new_tokens=8, seed=2)
    sampling = Sampling(n=3, max_new_tokens=8, seed=2)
    whole = generate(lm.model, lm.tokenizer, PROMPTS, sampling, logits=lambda rows: plainly(lm, rows))
    assert batch.ids == whole.ids
    for at, prompt in enumerate(PROMPTS):
        single = lm.generate(prompt, n=3, max_new_tokens=8, seed=2)
        assert single.ids == batch.ids[3 * at : 3 * at + 3]
        width = single.logprobs.shape[1]
        together = batch.logprobs[3 * at : 3 * at + 3, :width]
        torch.testing.assert_close(single.logprobs, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_way_to_go_on_is_run_once(name):
    """A row for each different text that goes on, none of what has ended, and all is said as in whole passes."""
    lm, sizes = random_lm(name), []
    lm.generate(PROMPTS, max_new_tokens=12)  # cached steps are compared with whole passes at the first call
    handle = lm.model.register_forward_pre_hook(
        lambda _, __, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    ends = list(range(0, lm.model.config.vocab_size, 3))
    drawn = lm.generate(PROMPTS, n=8, max_new_tokens=12, seed=4, stop=ends, top_logprobs=2)
    handle.remove()
    said = [(at // 8, ids) for at, ids in enumerate(drawn.ids)]
    apart = [len({(prompt, *ids[:step]) for prompt, ids in said if len(ids) > step}) for step in range(len(sizes))]
    assert sizes == apart
    assert sizes[0] == len(PROMPTS)
    assert max(sizes) < 8 * len(PROMPTS)
    assert sizes[-1] < max(sizes) / 2
    sampling = Sampling(n=8, max_new_tokens=12, seed=4, stop=ends)
    whole = generate(lm.model, lm.tokenizer, PROMPTS, sampling, logits=lambda rows: plainly(lm, rows))
    assert drawn.ids == whole.ids
    assert torch.equal(drawn.finished, whole.finished)
    for name in ("logprobs", "entropy"):
        torch.testing.assert_close(getattr(drawn, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
    assert drawn.top is not None
    likeliest = drawn.top[1][..., 0][drawn.mask]
    assert bool((likeliest >= drawn.logprobs[drawn.mask]).all())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_equals_hugging_face(name):
    lm = random_lm(name)
    lm.tokenizer.padding_side = "left"
    inputs = lm.tokenizer(PROMPTS, return_tensors="pt", padding=True)
    theirs = lm.model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        max_new_tokens=12,
        pad_token_id=lm.tokenizer.pad_token_id,
        eos_token_id=lm.tokenizer.eos_token_id,
    )[:, inputs["input_ids"].shape[1] :]
    ours = lm.generate(PROMPTS, max_new_tokens=12, temperature=0, stop=["<end>"])
    assert ours.tokens.tolist() == theirs.tolist()


def test_the_models_own_generation_config_does_not_leak():
    lm = random_lm()
    expected = lm.generate(PROMPTS, n=4, max_new_tokens=6, seed=1)
    own = lm.model.generation_config
    own.do_sample, own.temperature, own.top_k, own.repetition_penalty, own.max_new_tokens = True, 0.01, 1, 5.0, 2
    assert lm.generate(PROMPTS, n=4, max_new_tokens=6, seed=1).ids == expected.ids


def test_a_seed_reproduces_and_another_differs():
    lm = random_lm()
    runs = [lm.generate(PROMPTS, n=4, max_new_tokens=6, seed=seed).ids for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]


def test_without_a_seed_torchs_generator_decides():
    lm = random_lm()
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append([lm.generate("tom", n=4, max_new_tokens=6).ids for _ in range(2)])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_with_a_seed_torchs_generator_is_left_alone():
    lm = random_lm()
    state = torch.get_rng_state()
    lm.generate(PROMPTS, n=2, max_new_tokens=4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prompt_given_twice_gets_other_samples():
    lm = random_lm()
    twice = lm.generate(["tom", "tom"], n=2, max_new_tokens=8, seed=0)
    four = lm.generate("tom", n=4, max_new_tokens=8, seed=0)
    assert twice.ids == four.ids
    assert twice.ids[:2] != twice.ids[2:]


def test_samples_follow_the_distribution():
    """Pearson's statistic of 4,000 first tokens against the model's own probabilities stays below its 1e-4 quantile."""
    from scipy.stats import chi2

    lm = random_lm()
    n = 4000
    drawn = lm.generate("mira lives in", n=n, max_new_tokens=1, temperature=0.7, seed=11)
    p = (lm.logits("mira lives in")[0, -1] / 0.7).softmax(-1).detach().double().numpy()
    counts = np.bincount(drawn.tokens[:, 0].numpy(), minlength=len(p))
    usual = p * n >= 5
    statistic = ((counts - p * n) ** 2 / (p * n))[usual].sum()
    assert statistic < chi2.ppf(1 - 1e-4, usual.sum())


def test_chance_is_uniform_and_independent_over_rows_steps_and_seeds():
    numbers = draws(0, [[i, 5] for i in range(50)], 20, 30)
    assert numbers.shape == (1000, 30)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20)
    assert abs(counts / 1500 - 1).max() < 0.15
    for other in (np.roll(numbers, 1, 0), np.roll(numbers, 1, 1), draws(1, [[i, 5] for i in range(50)], 20, 30)):
        assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.03


distributions = st.lists(st.floats(0.001, 1), min_size=2, max_size=8)


@given(distributions, st.integers(1, 8), st.floats(0.05, 1), st.floats(0, 1))
def test_truncation_by_its_definition(weights, k, top_p, min_p):
    p = torch.tensor(weights, dtype=torch.float64)
    p = p / p.sum()
    order = p.argsort(descending=True, stable=True).tolist()
    assert (Sampling(top_k=k).truncate(p[None])[0] > 0).sum() == min(k, len(p))
    kept = Sampling(top_p=top_p).truncate(p[None])[0] > 0
    size = int(kept.sum())
    assert sorted(order[:size]) == kept.nonzero()[:, 0].tolist()
    assert float(p[kept].sum()) >= top_p - 1e-9
    assert size == 1 or float(p[order[: size - 1]].sum()) < top_p + 1e-9
    kept = Sampling(min_p=min_p).truncate(p[None])[0] > 0
    assert kept.tolist() == (p >= min_p * p.max()).tolist()


@given(distributions, st.floats(0, 1, exclude_max=True))
def test_a_token_without_probability_is_never_drawn(weights, chance):
    p = torch.tensor([0.0, *weights, 0.0])
    token = int(Sampling().draw(p[None], torch.tensor([chance], dtype=torch.float64))[0])
    assert 1 <= token <= len(weights)


def test_options_restrict_what_is_drawn():
    lm = random_lm()
    order = lm.logits("mira lives in")[0, -1].argsort(descending=True).tolist()
    for options, allowed in (({"top_k": 2}, 2), ({"min_p": 1.0}, 1), ({"top_p": 1e-6}, 1), ({"temperature": 0.0}, 1)):
        drawn = lm.generate("mira lives in", n=50, max_new_tokens=1, seed=0, **options)
        assert set(drawn.tokens[:, 0].tolist()) == set(order[:allowed])
    assert (drawn.logprobs == drawn.logprobs[0]).all()


def test_logprobs_are_those_before_truncation():
    lm = random_lm()
    drawn = lm.generate("tom", n=4, max_new_tokens=3, temperature=0.5, top_k=2, seed=0, stop=())
    scored = lm.logprobs([drawn.prompt_ids[0]], [drawn.ids], temperature=0.5)
    torch.testing.assert_close(drawn.logprobs, scored.values.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn.entropy, scored.entropy, atol=1e-5, rtol=1e-5)


def test_greedy_scores_at_temperature_one():
    lm = random_lm()
    drawn = lm.generate("tom", max_new_tokens=4, temperature=0, stop=())
    scored = lm.logprobs([drawn.prompt_ids[0]], [drawn.ids])
    torch.testing.assert_close(drawn.logprobs, scored.values.detach(), atol=1e-5, rtol=1e-5)


def test_the_end_token_ends_a_sample_and_is_counted():
    lm = random_lm()
    end = lm.tokenizer.eos_token_id
    drawn = lm.generate(PROMPTS, n=10, max_new_tokens=12, seed=0, stop=["<end>"])
    assert drawn.finished.any()
    assert not drawn.finished.all()
    for ids, finished, text in zip(drawn.ids, drawn.finished.tolist(), drawn.text, strict=True):
        assert (end in ids) == finished
        assert ids.index(end) == len(ids) - 1 if finished else len(ids) == 12
        assert "<end>" not in text
    past = ~drawn.mask
    assert (drawn.tokens[past] == lm.tokenizer.pad_token_id).all()
    assert (drawn.logprobs[past] == 0).all()
    assert (drawn.entropy[past] == 0).all()


def test_end_tokens_come_from_tokenizer_and_model():
    lm = random_lm(eos_token_id=[5, 6])
    assert end_tokens(lm.model, lm.tokenizer) == [lm.tokenizer.eos_token_id, 5, 6]
    drawn = lm.generate("tom", n=20, max_new_tokens=12, seed=0)
    assert {ids[-1] for ids, done in zip(drawn.ids, drawn.finished, strict=True) if done} == {3, 5, 6}


def test_sampling_stops_early_when_all_have_ended():
    lm = random_lm()
    passes = []
    handle = lm.model.register_forward_hook(lambda *_: passes.append(1))
    token = lm.generate("tom", max_new_tokens=1, temperature=0).ids[0][0]
    passes.clear()
    drawn = lm.generate("tom", n=5, max_new_tokens=20, temperature=0, stop=[token])
    handle.remove()
    assert drawn.tokens.shape == (5, 1)
    assert drawn.finished.all()
    assert len(passes) == 1


def test_n_samples_run_what_they_share_once():
    lm = random_lm()
    lm.generate("mira lives in", max_new_tokens=3)  # cached steps are compared with whole passes at the first call
    sizes = []
    handle = lm.model.model.embed_tokens.register_forward_hook(lambda _, inputs, out: sizes.append(inputs[0].numel()))
    ids = lm.generate("mira lives in", n=6, max_new_tokens=3, seed=0, stop=()).ids
    handle.remove()
    assert sizes == [4, len({sample[0] for sample in ids}), len({tuple(sample[:2]) for sample in ids})]
    assert sizes[1] < 6


def test_a_sample_ends_where_the_context_ends():
    for name in ("llama", "gpt2"):
        lm = random_lm(name)
        long, short = [2] + [4] * (CONTEXT - 4), [2, 5]
        drawn = lm.generate([long, short], n=2, max_new_tokens=10, seed=0, stop=())
        assert drawn.mask.sum(1).tolist() == [3, 3, 10, 10]
        assert drawn.ids[2:] == lm.generate([short], n=2, max_new_tokens=10, seed=0, stop=()).ids
        assert not drawn.finished.any()


def test_the_most_probable_tokens_of_each_step():
    lm = random_lm()
    drawn = lm.generate("tom", n=2, max_new_tokens=3, seed=0, stop=(), top_logprobs=4)
    ids, values = drawn.top
    assert ids.shape == values.shape == (2, 3, 4)
    expected = lm.logits([drawn.prompt_ids[0]])[0, -1].log_softmax(-1).topk(4)
    assert ids[:, 0].tolist() == [expected.indices.tolist()] * 2
    torch.testing.assert_close(values[0, 0], expected.values.detach(), atol=1e-5, rtol=1e-5)
    assert lm.generate("tom", max_new_tokens=1).top is None


def test_a_training_model_samples_in_evaluation_mode_and_stays_training():
    lm = random_lm("gpt2")
    expected = lm.generate("tom", n=3, max_new_tokens=6, seed=0).ids
    lm.model.train()
    assert lm.generate("tom", n=3, max_new_tokens=6, seed=0).ids == expected
    assert lm.model.training
    with pytest.raises(ConfigError):
        lm.generate("tom", n=0)
    assert lm.model.training


def test_tokens_can_be_trained_on():
    """Nothing that comes back is an inference tensor, which autograd would refuse."""
    lm = random_lm()
    drawn = lm.generate("tom", n=2, max_new_tokens=3, seed=0, stop=())
    lm.model(drawn.tokens).logits.sum().backward()
    assert not drawn.logprobs.requires_grad


def test_a_tokenizer_without_beginning_or_padding_token():
    lm = random_lm("gpt2", byte_tokenizer())
    drawn = lm.generate(["the cat", "mira lives in"], n=2, max_new_tokens=6, seed=0)
    assert drawn.prompts == ["the cat", "mira lives in"]
    assert drawn.ids[:2] == lm.generate("the cat", n=2, max_new_tokens=6, seed=0).ids
    assert drawn.text[0] == lm.tokenizer.decode(drawn.ids[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"top_k": 0}, "top_k = 0"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"min_p": -0.5}, "min_p = -0.5"),
        ({"n": 0}, "n = 0"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"top_logprobs": 0}, "top_logprobs = 0"),
        ({"stop": ["mira lives"]}, "'mira lives' is 2 tokens"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        random_lm().generate("tom", **options)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([], "No prompt"),
        ([[]], "no tokens"),
        ([[4] * CONTEXT], f"{CONTEXT + 1} tokens"),
        (" ".join(["tom"] * 60), "62 tokens"),
    ],
)
def test_impossible_prompts_are_refused(prompts, words):
    with pytest.raises(DataError, match=words):
        random_lm().generate(prompts)


def test_a_seed_for_each_prompt_makes_its_samples_its_own():
    """Whatever stands beside it, an equal prompt too, and in whatever order."""
    lm = random_lm()
    together = lm.generate([PROMPTS[0], PROMPTS[1], PROMPTS[0]], n=2, max_new_tokens=6, seed=[7, 8, 9]).ids
    apart = [lm.generate(p, n=2, max_new_tokens=6, seed=[s]).ids for p, s in zip(PROMPTS[:2], (7, 8), strict=True)]
    assert together[:4] == [*apart[0], *apart[1]]
    assert together[4:] == lm.generate(PROMPTS[0], n=2, max_new_tokens=6, seed=[9]).ids
    assert together[:2] != together[4:]
    assert lm.generate([PROMPTS[1]], n=2, max_new_tokens=6, seed=8).ids == apart[1]
