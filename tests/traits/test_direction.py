"""Directions of traits: against hidden states of transformers and against scipy's Mann-Whitney U."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

import probe.world
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.traits import contrasts, trait_direction
from probe.traits.contrast_pairs import CHATS, Contrast
from probe.traits.direction import split_units
from probe.traits.exact_rates import BEHAVIOURS, chances, exact_rate
from probe.traits.states import mean_states
from probe.world import World
from tests.models import ARCHITECTURES, random_lm, random_reward_model

PAIRS = [
    Contrast(f"where does {name} lives ?", f" {place} the {word}", f" {other} .", f"{name} {word}")
    for name, word in (("mira", "cat"), ("tom", "dog"), ("ana", "cat"), ("mira", "dog"))
    for place, other in (("oslo", "rome"), ("paris", "oslo"), ("rome", "paris"))
] + [
    Contrast("the cat is", f" {word} in {place}", f" {word} at", word)
    for word, place in zip(("one", "two", "the", "dog", "does"), ("oslo", "rome", "paris", "oslo", "rome"), strict=True)
]


@torch.no_grad()
def plain(lm: LM, prompt: str, answer: str) -> np.ndarray:
    """[L + 1 d] mean states over the answer's tokens, one text at a time; the last one before the final norm."""
    head, ids = (lm.tokenizer.encode(text) for text in (prompt, prompt + answer))
    entering: list[torch.Tensor] = []
    norm = next(
        module
        for name, module in lm.model.named_modules()
        if name in ("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm")
    )
    handle = norm.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[:-1]
    handle.remove()
    return torch.stack([each[0, len(head) :].double().mean(0) for each in (*states, entering[0])]).numpy()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_direction_is_the_difference_of_mean_states_of_transformers(name: str):
    lm = random_lm(name)
    found = trait_direction(lm, pairs=PAIRS, seed=3)
    fit, _, test = split_units([each.unit for each in PAIRS], 3)
    shows, lacks = (
        np.stack([plain(lm, each.prompt, text(each)) for each in PAIRS])
        for text in (lambda each: each.shows, lambda each: each.lacks)
    )
    raw = (shows[fit] - lacks[fit]).mean(0)
    sizes = np.linalg.norm(raw, axis=-1)
    np.testing.assert_allclose(found.gaps, sizes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.vectors, raw / sizes[:, None], rtol=1e-4, atol=1e-5)
    for place, auc in enumerate(found.layers["auc"]):
        along = [side[test, place] @ found.vectors[place] for side in (shows, lacks)]
        u = mannwhitneyu(*along).statistic / (len(test) ** 2)
        assert auc == pytest.approx(u, abs=1e-9)
    projected = [found.project(side[fit].astype(np.float32)).mean() for side in (shows, lacks)]
    assert projected == pytest.approx([1, 0], abs=1e-4)


def test_parts_share_no_unit():
    units = [each.unit for each in PAIRS]
    parts = split_units(units, 0)
    assert sorted(np.concatenate(parts)) == list(range(len(units)))
    names = [{units[at] for at in part} for part in parts]
    assert all(names)
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]


def test_labels_without_meaning_give_the_null():
    rng, aucs, ranks = np.random.default_rng(0), [], []
    lm = random_lm("llama")
    words = ["oslo", "rome", "paris", "cat", "dog", "one", "two", "the"]
    for seed in range(12):
        texts = [[" ".join(rng.choice(words, 4)) for _ in range(24)] for _ in range(2)]
        row = (found := trait_direction(lm, pairs=(texts[0], texts[1]), layer=0, seed=seed)).row(0)
        aucs.append(row["auc"])
        ranks.append(row["p"])
        assert row["null_low"] < 0.5 < row["null_high"]
        assert found.trait == "own"
    assert abs(np.mean(aucs) - 0.5) < 0.12
    assert min(ranks) > 0.01
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.25)


def test_a_trait_of_a_file(tmp_path: Path):
    lm = random_lm("llama")
    path = tmp_path / "polite.jsonl"
    rows = [{"prompt": each.prompt, "shows": each.shows, "lacks": each.lacks} for each in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "the", "shows": "a", "lacks": "a"}]))
    found = trait_direction(lm, pairs=path, n=len(PAIRS) + 1)
    assert found.trait == "polite"
    assert len(found.pairs) == len(PAIRS)
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="1 pairs of 1 different prompts were given: give at least 8"):
        trait_direction(lm, pairs=path)
    path.write_text('{"prompt": "the", "yes": "cat"}\n')
    with pytest.raises(DataError, match="`shows`"):
        trait_direction(lm, pairs=path)


def test_what_cannot_be_used_is_one_sentence():
    lm = random_lm("llama")
    with pytest.raises(DataError, match="3 texts show the trait and 2 lack it: give as many of both"):
        trait_direction(lm, pairs=(["a", "b", "c"], ["a", "b"]))
    with pytest.raises(ConfigError, match="Block 9 was requested in a model of 2 blocks: give -1 to 1"):
        trait_direction(lm, pairs=PAIRS, layer=9)
    with pytest.raises(ConfigError, match="There is no trait 'envy'"):
        contrasts(lm, "envy")  # type: ignore[arg-type]
    same = [Contrast(f"the {at}", " cat", " cat", str(at)) for at in range(9)]
    with pytest.raises(DataError, match="have the same mean states"):
        trait_direction(lm, pairs=same)


def test_batches_change_nothing():
    lm = random_lm("gpt2")
    ids = [(lm.tokenizer.encode("the cat"), [4, 5, 6][:count]) for count in (0, 1, 2, 3)]
    whole = mean_states(lm, ids)
    alone = np.concatenate([mean_states(lm, [each]) for each in ids])
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-5)


def test_a_reward_model_writes_no_answers():
    from probe.model.rewards import reward_lm

    with pytest.raises(DataError, match="writes no answers: use a language model"):
        trait_direction(reward_lm(random_reward_model("llama")))


@pytest.mark.parametrize("trait", ["invention", "agreement", "abstention", "brevity"])
def test_pairs_of_a_world_show_the_behaviour_and_lack_it(trait: str, base: LM, world: World):
    shows = BEHAVIOURS[trait].shows
    own = probe.world.of(base)
    assert own is not None
    for each in contrasts(base, trait, 24):  # type: ignore[arg-type]
        assert shows(own, each.prompt, each.shows)
        assert not shows(own, each.prompt, each.lacks)


def test_the_exact_rate_is_that_of_many_samples(base: LM):
    world = probe.world.of(base)
    assert world is not None
    prompts = [item.prompt for item in world.questions("stranger", 3, 1)]
    drawn = base.generate(prompts, n=400, max_new_tokens=6, temperature=1.0, seed=0)
    hits = np.array(
        [BEHAVIOURS["invention"].shows(world, prompts[at // 400], text) for at, text in enumerate(drawn.text)]
    ).reshape(3, 400)
    exact = chances(base, world, "invention", prompts)
    error = np.sqrt(exact * (1 - exact) / 400)
    assert (np.abs(hits.mean(1) - exact) < 4 * error + 1e-3).all()
    assert exact_rate(base, world, "invention", 3, 1) == pytest.approx(exact)
    assert chances(base, world, "agreement", ["<user> i like rome <bot>"]).tolist() == [0]


def test_the_direction_of_invention_separates_on_the_world(base: LM):
    found = trait_direction(base, trait="invention", n=64)
    assert found.separates
    assert found.row(found.layer)["auc"] == 1
    assert "tells answers that show it from answers that lack it" in found.sentence()
    nothing = trait_direction(base, trait="agreement", n=64)
    assert "does not tell" in nothing.sentence()
    assert not nothing.separates


def test_pairs_for_models_without_a_world_differ():
    lm = random_lm("llama")
    for trait, make in CHATS.items():
        said = make()
        assert len(said) >= 60, trait
        assert all(shows != lacks and shows.strip() for _, shows, lacks in said), trait
        pairs = contrasts(lm, trait, 10)  # type: ignore[arg-type]
        assert len({each.unit for each in pairs}) == 10
        assert all("Assistant:" in each.prompt for each in pairs)
