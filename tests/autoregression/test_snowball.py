"""The snowball after one wrong token: entries against a loop that writes token by token, truths by the judge."""

import numpy as np
import pytest
import torch

from probe import stats
from probe.autoregression.snowballs import answer_place, snowball, true_words, wrong_words
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.world import World
from tests.models import ARCHITECTURES, byte_tokenizer, random_lm

PROMPTS = ["mira lives in", "the cat", "where does tom works ? <bot>"]
STEPS = 5


@pytest.fixture(scope="module")
def lm(world: World) -> LM:
    size = ModelConfig(layers=2, width=32, heads=2, mlp=64, context=96, init_std=0.3)
    return LM.create(size, world.tokenizer(), seed=1)


def last(lm: LM, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the next token, by one plain forward pass."""
    with torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def follow(lm: LM, before: list[int], clean: int, wrong: int) -> dict[str, list[float]]:
    """Both branches written one token at a time, and everything that is measured on the way."""
    end = lm.tokenizer.eos_token_id
    found: dict[str, list[float]] = {"forced": [], "free": [], "differs": [], "clean": [], "wrong": []}
    a, b, forced = [*before, clean], [*before, wrong], [*before, wrong]
    a_goes, b_goes, forced_goes = clean != end, wrong != end, clean != end and wrong != end
    for _ in range(STEPS):
        p, q, r = last(lm, a), last(lm, b), last(lm, forced)
        x, y = int(p.argmax()), int(q.argmax())
        if forced_goes:
            found["forced"].append(float((p.exp() * (p - r)).sum()))
        if a_goes and b_goes:
            found["free"].append(float((p.exp() * (p - q)).sum()))
            found["differs"].append(float(x != y))
        found["clean"] += [x] * a_goes
        found["wrong"] += [y] * b_goes
        a, b, forced = [*a, x], [*b, y], [*forced, x]
        a_goes, b_goes, forced_goes = a_goes and x != end, b_goes and y != end, forced_goes and x != end
    return found


def padded(values: list[float]) -> np.ndarray:
    return np.array([*values, *[np.nan] * (STEPS - len(values))])


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("at", [None, 2])
def test_without_a_truth_the_second_choice_is_followed(name: str, at: int | None):
    lm = random_lm(name, seed=4)
    found = snowball(lm, PROMPTS, at=at, steps=STEPS)
    assert found.at == [at or 0] * 3
    assert not any(found.truth_known)
    for index, prompt in enumerate(PROMPTS):
        ids = lm.tokenizer.encode(prompt)
        for _ in range(at or 0):
            ids = [*ids, int(last(lm, ids).argmax())]
        clean, wrong = last(lm, ids).topk(2).indices.tolist()
        slow = follow(lm, ids, clean, wrong)
        np.testing.assert_allclose(found.forced_kl[index], padded(slow["forced"]), atol=1e-4)
        np.testing.assert_allclose(found.free_kl[index], padded(slow["free"]), atol=1e-4)
        np.testing.assert_array_equal(found.differs[index], padded(slow["differs"]))
        words = lm.tokenizer.convert_ids_to_tokens([*ids[len(ids) - (at or 0) :], wrong, *map(int, slow["wrong"])])
        assert found.wrong[index] == words
    assert np.isnan(found.clean_error).all()
    assert np.isnan(found.later_errors()["wrong"].value)
    assert np.nanmax(found.forced_kl) > 0.1


@pytest.mark.parametrize("kind", ["fact", "opinion_false", "context_conflict", "sum_steps", "repeat", "map"])
def test_with_a_world_the_truth_stands_against_the_likeliest_wrong_value(lm: LM, world: World, kind: str):
    items = world.questions(kind, 4, 3)
    found = snowball(lm, [item.prompt for item in items], world=world, steps=STEPS)
    assert all(found.truth_known)
    for index, item in enumerate(items):
        truth = true_words(world, item.prompt)
        place = truth.index("=") + 1 if kind == "sum_steps" else 0
        assert found.at[index] == place
        assert found.clean[index][: place + 1] == truth[: place + 1]
        before = lm.tokenizer.encode(" ".join([item.prompt, *truth[:place]]))
        scores = last(lm, before)
        others = lm.tokenizer.convert_tokens_to_ids(wrong_words(world, item.prompt, truth[place]))
        best = others[int(scores[others].argmax())]
        assert found.wrong[index][place] == lm.tokenizer.convert_ids_to_tokens(best)
        slow = follow(lm, before, lm.tokenizer.convert_tokens_to_ids(truth[place]), best)
        np.testing.assert_allclose(found.forced_kl[index], padded(slow["forced"]), atol=1e-4)
        np.testing.assert_allclose(found.free_kl[index], padded(slow["free"]), atol=1e-4)
        rest = lm.tokenizer.convert_tokens_to_ids(truth[place + 1 :])
        for name, errors in (("clean", found.clean_error), ("wrong", found.wrong_error)):
            wrongs = [float(x != y) for x, y in zip(rest, slow[name], strict=False)][:STEPS]
            np.testing.assert_array_equal(errors[index], padded(wrongs))
    assert np.isnan(found.wrong_error).all() == (kind == "map")  # what follows a map's answer is free


@pytest.mark.parametrize(
    "kind", ["fact", "opinion_false", "two_hop", "context", "sum_quick", "sum_steps", "map", "function"]
)
def test_true_words_are_the_answers_of_the_questions(world: World, kind: str):
    for item in world.questions(kind, 20, 1):
        words = true_words(world, item.prompt)
        closed = [] if kind in ("map", "function") else ["<end>"]
        assert words == [*item.answers[0].split(), *closed]
        place = answer_place(item.prompt, words)
        others = wrong_words(world, item.prompt, words[place])
        assert len(others) >= 2
        assert words[place] not in others
        for other in others[:3] if kind != "sum_steps" else []:
            assert world.verify(item.prompt, f" {other}").kind in ("wrong", "deferred")


def test_true_words_of_a_repeat_end_with_its_segment_and_nothing_is_true_of_a_stranger(world: World):
    for item in world.questions("repeat", 20, 1):
        length, seen = item.meta["length"], item.meta["seen"]
        assert true_words(world, item.prompt) == item.prompt.split()[1 + seen : 1 + length]
    assert true_words(world, world.questions("stranger", 1, 0)[0].prompt) == []
    assert true_words(world, "the cat") == []


def test_blocks_that_cannot_look_back_have_no_snowball(lm: LM, world: World):
    """A truth by construction, inside hooks: after the first step the wrong token is out of sight."""
    prompts = [item.prompt for item in world.questions("repeat", 3, 3)]
    silent = [(f"blocks.{block}.hook_attn_out", lambda tensor, hook: tensor * 0) for block in range(2)]
    with lm.hooks(silent):
        found = snowball(lm, prompts, world=world, steps=4)
    assert (found.forced_kl[:, 0] > 0.01).all()
    assert found.forced_kl[:, 1:].max() < 1e-6


def test_summary_counts_prompts_and_has_intervals(lm: LM, world: World):
    prompts = [item.prompt for item in world.questions("sum_steps", 9, 3)]
    shares: list[float] = []
    found = snowball(lm, prompts, world=world, steps=STEPS, tick=shares.append)
    table, summary = found.table(), found.summary()
    assert len(table) == 9 * STEPS
    assert len(summary) == 5 * STEPS
    row = summary[(summary["quantity"] == "forced_kl") & (summary["step"] == 2)].iloc[0]
    column = table[table["step"] == 2]["forced_kl"].dropna()
    assert (row["value"], row["n"]) == (pytest.approx(column.mean()), len(column))
    assert row["low"] < row["value"] < row["high"]
    row = summary[(summary["quantity"] == "wrong_error") & (summary["step"] == 1)].iloc[0]
    column = table[table["step"] == 1]["wrong_error"].dropna()
    assert (row["value"], row["low"], row["high"]) == stats.wilson(int(column.sum()), len(column))
    by_prompt = table.dropna(subset=["wrong_error"]).groupby("prompt")["wrong_error"].mean()
    assert found.later_errors()["wrong"].value == pytest.approx(by_prompt.mean())
    assert shares[-1] == 1.0
    assert list(found.text_table()["prompt"]) == prompts


def test_a_seed_gives_the_same_branches_again(lm: LM):
    prompts = ["<user> where does mira lives ? <bot>"]
    one, two, other = (snowball(lm, prompts, temperature=1.0, seed=seed, steps=8) for seed in (1, 1, 2))
    assert one.clean == two.clean
    assert one.wrong == two.wrong
    assert (one.clean, one.wrong) != (other.clean, other.wrong)


@pytest.mark.parametrize(
    ("prompts", "options", "error", "words"),
    [
        ([], {}, DataError, "prompt"),
        ("the cat", {}, DataError, "list"),
        (["the cat"], {"steps": 0}, ConfigError, "steps = 0"),
        (["the cat"], {"at": -1}, ConfigError, "at = -1"),
        (["quick 3 + 4 ="], {"at": 9}, DataError, "2 tokens"),
    ],
)
def test_what_cannot_be_is_refused_in_words(lm: LM, world: World, prompts, options, error, words):
    with pytest.raises(error, match=words):
        snowball(lm, prompts, world=world, **options)


def test_a_model_that_knows_other_tokens_or_writes_none_is_refused(world: World):
    stranger = random_lm()
    with pytest.raises(DataError, match="no world"):
        snowball(random_lm(tokenizer=byte_tokenizer()), ["quick 3 + 4 ="], world=world)
    stranger.readout = "reward"
    with pytest.raises(DataError, match="scalar"):
        snowball(stranger, ["the cat"])
