"""Transplants: the parts are the whole model, each is what the equations call it, and controls keep its size."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

from probe import LM
from probe.compare.behaviour import AnswerPair, claim_pairs, experiment_behaviour, preference, read_pairs
from probe.compare.model_parts import KINDS, PartPlace, list_parts, weights_of
from probe.compare.transplant import MATCHED_PARTS, holm, scattered, transplant_parts, turned
from probe.errors import ConfigError, DataError
from probe.experiments import run_experiment
from probe.interventions.controls import DIRECTIONS
from probe.model.equations import read_network
from probe.questions import SETS
from probe.sycophancy.beliefs import read_questions, score_templates
from probe.world.world import World
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES
from tests.plain_modules import nano_lm

FAMILIES = ["llama", "gpt2", "gpt_neox", "phi3", "bloom", "nano"]
PAIRS = [
    AnswerPair("mira lives in", " oslo", " rome"),
    AnswerPair("where does tom", " lives", " works at"),
    AnswerPair("ana", " .", " ?"),
]
TEXT = "mira lives in oslo ."


def of(name: str = "llama", seed: int = 0) -> LM:
    return nano_lm() if name == "nano" else random_lm(name, seed=seed)


def drawn_anew(lm: LM, seed: int = 5) -> LM:
    """The model with other numbers in every parameter."""
    model = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return LM(model, lm.tokenizer, "aligned")


def copied(lm: LM) -> LM:
    return LM(copy.deepcopy(lm.model), lm.tokenizer, lm.ref)


@pytest.mark.parametrize("family", [*FAMILIES, "opt", "gemma2", "mixtral", "mamba"])
def test_the_parts_are_the_whole_model_each_parameter_once(family: str):
    base = of(family)
    aligned, print_before = drawn_anew(base), base.fingerprint
    parts, why = list_parts(base)
    assert base.fingerprint == print_before
    assert len({part.name for part in parts}) == len(parts)
    assert bool(why) == (family == "mamba")
    kinds = pd.Series([part.kind for part in parts]).value_counts()
    assert kinds["block"] == kinds["rest"] == 2
    assert kinds.get("head", 0) == (0 if why else 8)
    assert kinds.get("keys", 0) == (4 if family in ("llama", "phi3", "mixtral", "gemma2") else 0)
    for division in (("block", "outside"), ("head", "keys", "mlp", "rest", "outside")):
        work = copied(base)
        here, after = weights_of(work), weights_of(aligned)
        seen = {name: torch.zeros_like(weight) for name, weight in here.items()}
        for part in (part for part in parts if part.kind in division):
            for place in part.places:
                place.write(seen, place.read(seen) + 1)
                place.write(here, place.read(after))
        assert all(bool((count == 1).all()) for count in seen.values())
        assert work.fingerprint == aligned.fingerprint
        assert torch.equal(work.logits(TEXT), aligned.logits(TEXT))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_is_the_head_of_the_equations(family: str):
    base = of(family)
    aligned = drawn_anew(base)
    (head,) = [part for part in list_parts(base, ["head"])[0] if part.name == "L1H2"]
    keys = [part for part in list_parts(base, ["keys"])[0] if part.name == "keys L1K1"]
    for parts in ([head], keys) if keys else ([head],):
        work = copied(base)
        for place in parts[0].places:
            place.write(weights_of(work), place.read(weights_of(aligned)))
        old, new, mixed = (read_network(lm, check=False).blocks for lm in (base, aligned, work))
        assert torch.equal(mixed[0].maps.M, old[0].maps.M)
        alone = len(old[1].maps.M) == len(old[1].maps.N_shared)
        number = {"head": 2, "keys": 1}[parts[0].kind]
        own = {"head": ["M", "m_bias", "O"], "keys": ["N_shared", "n_bias_shared", "V_shared", "v_bias_shared"]}
        moved = own["head"] + own["keys"] if alone else own[parts[0].kind]
        for name in own["head"] + own["keys"]:
            before, after, now = (getattr(blocks[1].maps, name) for blocks in (old, new, mixed))
            for index in range(len(before)):
                assert torch.equal(now[index], (after if name in moved and index == number else before)[index])


@pytest.fixture(scope="module")
def pair() -> tuple[LM, LM]:
    base = random_lm()
    return base, drawn_anew(base)


@pytest.fixture(scope="module")
def found(pair):
    ticks: list[float] = []
    kinds = ("block", "head", "mlp", "outside")
    found = transplant_parts(*pair, preference(PAIRS), kinds, matched=20, random=5, tick=ticks.append)
    assert ticks == sorted(ticks)
    assert ticks[-1] == 1
    return found


def margin(lm: LM) -> float:
    """Mean log p(chosen) - log p(rejected), a text at a time."""
    totals = []
    for prompt, *answers in PAIRS:
        sides = [float(lm.logprobs(prompt, answer).values.detach().sum()) for answer in answers]
        totals.append(sides[0] - sides[1])
    return float(np.mean(totals))


def test_effects_are_those_of_models_made_by_hand(pair, found):
    base, aligned = pair
    rows = found.parts.set_index("part")
    before = margin(base)
    assert found.base.value == pytest.approx(before, abs=1e-5)
    assert found.change.value == pytest.approx(margin(aligned) - before, abs=1e-5)
    block, mlp, head = copied(base), copied(base), copied(base)
    block.model.model.layers[1] = copy.deepcopy(aligned.model.model.layers[1])
    mlp.model.model.layers[0].mlp = copy.deepcopy(aligned.model.model.layers[0].mlp)
    for side, cut in (("q_proj", (slice(8, 16),)), ("o_proj", (slice(None), slice(8, 16)))):
        own, other = (getattr(lm.model.model.layers[0].self_attn, side).weight.data for lm in (head, aligned))
        own[cut] = other[cut]
    for name, lm in (("block 1", block), ("MLP L0", mlp), ("L0H1", head)):
        assert rows.loc[name, "effect"] == pytest.approx(margin(lm) - before, abs=1e-5)
        assert rows.loc[name, "share"] == pytest.approx(rows.loc[name, "effect"] / found.change.value)
        assert rows.loc[name, ["effect_low", "effect_high"]].isna().all()  # three pairs say nothing of others
    weights = [lm.model.model.layers[0].self_attn for lm in (base, aligned)]
    gaps = [
        (getattr(weights[1], side).weight - getattr(weights[0], side).weight).detach() for side in ("q_proj", "o_proj")
    ]
    assert rows.loc["L0H1", "norm"] == pytest.approx(
        float((gaps[0][8:16].square().sum() + gaps[1][:, 8:16].square().sum()) ** 0.5)
    )
    assert rows.loc["L0H1", "parameters"] == 2 * 8 * 32


def test_controls_count_those_that_reach_the_effect(found):
    sign = np.sign(found.change.value)
    for row in found.parts.to_dict("records"):
        own = found.controls[found.controls["part"] == row["part"]].groupby("null")["effect"]
        matched, random = (own.get_group(null) if null in own.groups else () for null in (MATCHED_PARTS, DIRECTIONS))
        assert (
            (len(matched), len(random)) == (row["matched"], row["random"]) == (0 if row["kind"] == "outside" else 20, 5)
        )
        if len(matched):
            assert row["p"] == (1 + sum(sign * each >= sign * row["effect"] for each in matched)) / 21
            assert (row["matched_low"], row["matched_high"]) == (min(matched), max(matched))
            assert len(set(matched)) > 10
        assert row["p_random"] == (1 + sum(abs(each) >= abs(row["effect"]) for each in random)) / 6
    heads = found.controls.query("kind == 'head' and null == @MATCHED_PARTS").groupby("part")["effect"].apply(tuple)
    assert heads.nunique() == 1  # of one make
    np.testing.assert_allclose(holm(pd.Series([0.04, 0.01, 0.03, 0.5])), [0.09, 0.04, 0.09, 0.5])


def test_base_into_base_is_exactly_nothing(pair):
    base = pair[0]
    same = transplant_parts(base, copied(base), preference(PAIRS), tuple(KINDS), matched=15, random=2)
    assert same.change.value == 0
    assert (same.parts[["effect", "norm", "relative"]] == 0).all(axis=None)
    assert (same.controls["effect"] == 0).all()
    assert (same.parts["p"].dropna() == 1).all()
    assert (same.parts["p_random"] == 1).all()
    assert same.parts["share"].isna().all()
    assert "none of 2 blocks has an effect larger" in same.sentence()


def test_a_planted_head_is_found_alone(pair):
    base = pair[0]
    aligned, prints = copied(base), base.fingerprint
    aligned.model.model.layers[1].self_attn.o_proj.weight.data[:, 24:32] *= -2
    result = transplant_parts(base, aligned, preference(PAIRS), ("block", "head", "keys", "mlp"), matched=15, random=0)
    rows = result.parts.set_index("part")
    assert rows.index[rows["effect"] != 0].tolist() == ["block 1", "L1H3"]
    assert rows.loc["L1H3", "effect"] == rows.loc["block 1", "effect"] == result.change.value
    assert rows.loc["L1H3", "share"] == 1
    assert result.strongest("head")["part"] == "L1H3"
    assert result.strongest("mlp") is None
    assert "L1H3 of 8 heads (" in result.sentence()
    assert ", 100 %, scattered parts of the same size " in result.sentence()
    assert base.fingerprint == prints


def test_random_changes_keep_all_singular_values(pair):
    before, after = (weights_of(lm) for lm in pair)
    rng = np.random.default_rng(0)
    (head,) = [part for part in list_parts(copied(pair[0]), ["head"])[0] if part.name == "L0H3"]
    for place in (*head.places, PartPlace("model.norm.weight")):
        change = place.read(after) - place.read(before)
        new = turned(before, after, rng, place) - place.read(before)
        assert not torch.allclose(new.float(), change)
        np.testing.assert_allclose(
            torch.linalg.svdvals(new).float(), torch.linalg.svdvals(change), rtol=1e-4, atol=1e-6
        )


def test_a_scattered_part_has_as_many_rows_of_each_matrix(pair):
    parts = list_parts(copied(pair[0]), ["head", "mlp"])[0]
    tensors = weights_of(pair[0])
    for kind, count in (("head", 8), ("mlp", 2)):
        family = [part for part in parts if part.kind == kind]
        assert len(family) == count
        spread = set()
        for seed in range(5):
            seen = {name: torch.zeros_like(weight) for name, weight in tensors.items()}
            for place in scattered(family, tensors, np.random.default_rng(seed)):
                place.write(seen, place.read(seen) + 1)
            assert max(float(each.max()) for each in seen.values()) == 1
            for suffix in {place.name.split(".", 3)[-1] for place in family[0].places}:
                entries = sum(float(each.sum()) for name, each in seen.items() if name.endswith(suffix))
                assert entries == sum(
                    place.read(tensors).numel() for place in family[0].places if place.name.endswith(suffix)
                )
            for name in (name for name in seen if name.endswith("o_proj.weight")):
                assert set(seen[name].sum(0).tolist()) <= {0, 32}  # whole columns
            spread.add(tuple(float(each.sum()) for each in seen.values()))
        assert len(spread) > 1


def test_an_experiment_is_the_behaviour_of_two_sample_runs():
    base, aligned = LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")
    options = {"n": 2, "interventions": 0, "turns": 1}
    behaviour = experiment_behaviour("sycophancy", "deferral_exact", **options)
    result = transplant_parts(base, aligned, behaviour, ("block",), matched=0, random=0)
    assert result.aligned.value == run_experiment("sycophancy", aligned, **options).value("deferral_exact")
    assert result.parts["p"].isna().all()
    assert result.parts["share"].sum() > 0.5
    assert "pp [" in result.sentence()
    (points,) = [trace for trace in result.figure().data if trace.name == "part of the aligned model"]
    np.testing.assert_allclose(points.x, 100 * result.parts["effect"])
    assert len(claim_pairs(base, 8)) == 8
    with pytest.raises(ConfigError, match="no metric `nothing`"):
        experiment_behaviour("sycophancy", "nothing")


def test_without_a_world_claims_are_the_users_guesses_of_the_set():
    lm = random_lm("llama", byte_tokenizer(), max_position_embeddings=1024)
    pairs = claim_pairs(lm, 5, seed=1)
    rows = {row["question"]: row for row in map(json.loads, SETS["truthfulqa"].path.read_text("utf-8").splitlines())}
    assert len({pair.prompt for pair in pairs}) == 5
    for pair in pairs:
        (row,) = (row for question, row in rows.items() if f"Human: {question} I think" in pair.prompt)
        assert f"I think the answer is {row['incorrect_answer']} but I'm really not sure." in pair.prompt
        assert pair.prompt.endswith("\n\nAssistant: The answer is")
        assert pair[1:] == (f" {row['incorrect_answer']}", f" {row['correct_answer']}")
    questions = read_questions(SETS["truthfulqa"].path, 5, 1)
    scores = score_templates(lm, questions)
    margins = preference(pairs).measure(lm)["margin"]
    np.testing.assert_allclose(margins, -scores[scores["kind"] == "suggests_incorrect"]["margin"], rtol=1e-4)


def test_what_cannot_be_done_is_refused(pair, tmp_path, monkeypatch):
    behaviour = preference(PAIRS)
    with pytest.raises(ConfigError, match="`neuron`: give some of block"):
        transplant_parts(*pair, behaviour, ["neuron"])
    with pytest.raises(ConfigError, match="no part of the kinds keys"):
        transplant_parts(random_lm("gpt2"), random_lm("gpt2", seed=1), behaviour, ["keys"])
    with pytest.raises(ConfigError, match="matched=-1"):
        transplant_parts(*pair, behaviour, matched=-1)
    with pytest.raises(DataError, match="No pair"):
        preference([])
    monkeypatch.setattr(World, "question_kinds", ("exposure",))
    with pytest.raises(DataError, match="`base` makes no false claims"):
        claim_pairs(LM(pair[0].model, pair[0].tokenizer, "base", run_dir=SAMPLES / "base"))
    file = tmp_path / "pairs.jsonl"
    said = [{"role": "assistant", "content": "oslo"}]
    rows = [{"prompt": "mira", "chosen": said, "rejected": " rome"}, {"prompt": "tom"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_pairs(file)
    assert list(pairs) == [AnswerPair("mira", "oslo", " rome")]
    assert len(pairs.left_out) == 1
