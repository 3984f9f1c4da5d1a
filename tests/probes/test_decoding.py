"""Decoding: against plain scikit-learn on hidden states of plain transformers, and against scipy's Mann-Whitney U."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probe.world
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.probes import decode
from probe.probes.decoding import control_labels, halves, prepare, shuffled, texts_of
from probe.probes.linear_probes import answers, interval, score, train, train_simple
from probe.probes.text_labels import Labelled, labelled_texts
from probe.world.language import read
from tests.models import random_lm, random_reward_model

NAMES = ("mira", "tom", "ana")
LABELS = {
    "two": lambda place, word: "yes" if place == "oslo" else "no",
    "several": lambda place, word: place,
    "numbers": lambda place, word: float(len(word)) + 0.5 * (place == "rome"),
}


def texts(kind: str) -> list[Labelled]:
    rows = product(NAMES, ("oslo", "rome", "paris"), ("cat", "dog", "the", "at"), ("lives", "works", "is"))
    return [
        Labelled(
            f"{name} {verb} in {place} {word} .", LABELS[kind](place, word), f"{name} {verb} {word}", " oslo", name
        )
        for name, place, word, verb in rows
    ]


@torch.no_grad()
def plain(lm: LM, prompt: str) -> np.ndarray:
    """[L d] states of the last token after each block but the last, whose hidden state transformers normalise."""
    ids = torch.tensor([lm.tokenizer.encode(prompt)])
    return torch.stack([each[0, -1] for each in lm.model(ids, output_hidden_states=True).hidden_states[:-1]]).numpy()


@pytest.mark.parametrize("kind", LABELS)
def test_scores_are_those_of_scikit_learn_on_states_of_transformers(kind: str):
    lm, items = random_lm("llama"), texts(kind)
    found = decode(lm, labels=items, seed=2)
    ready = prepare(lm, texts_of(lm, "claim", items, 0, 2), "last", 2)
    states = np.stack([plain(lm, each.prompt) for each in items]).astype(float)
    labels = np.array([each.label for each in items])
    for place in range(states.shape[1]):
        row = found.layers.iloc[place]
        model = Ridge(alpha=1 / row["strength"]) if kind == "numbers" else LogisticRegression(C=row["strength"])
        probe = make_pipeline(StandardScaler(), model.set_params(max_iter=1000))
        probe.fit(states[ready.fit, place], labels[ready.fit])
        x, y = states[ready.test, place], labels[ready.test]
        if kind == "two":
            expected = roc_auc_score(y, probe.decision_function(x))
        else:
            expected = {"several": accuracy_score, "numbers": r2_score}[kind](y, probe.predict(x))
        assert row["score"] == pytest.approx(expected, abs=2e-2 if kind != "numbers" else 1e-3)
        assert row["score_low"] <= row["score"] <= row["score_high"]
    assert found.score == {"two": "AUROC", "several": "accuracy", "numbers": "R2"}[kind]
    assert set(found.figures()) == {"figure"}


def test_an_auroc_is_a_mann_whitney_u():
    rng = np.random.default_rng(0)
    labels, x = np.array(["no", "yes"])[rng.integers(0, 2, 80)], rng.standard_normal((80, 5)).round(1)
    said = answers(train(x, labels, 1.0, False), x, "AUROC")
    ones = labels == "yes"
    u = mannwhitneyu(said[ones], said[~ones]).statistic / (ones.sum() * (~ones).sum())
    assert score(said, labels, "AUROC") == pytest.approx(u, abs=1e-12)
    means = answers(train_simple(x, labels, False), x, "AUROC")
    np.testing.assert_allclose(means, x @ (x[ones].mean(0) - x[~ones].mean(0)), rtol=1e-9, atol=1e-12)


def test_the_baseline_of_numbers_is_partial_least_squares():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6))
    y = x[:, 0] + rng.standard_normal(50)
    expected = PLSRegression(n_components=1, scale=False).fit(x, y).predict(x).ravel()
    np.testing.assert_allclose(train_simple(x, y, True).predict(x), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(train_simple(np.ones((50, 6)), y, True).predict(x), y.mean())


def test_an_interval_over_people_is_wider_than_over_texts():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(12), 20)
    right = rng.random(12)[people] > rng.random(240)
    labels = np.array(["a", "b", "c"])[rng.integers(0, 3, 240)]
    said = np.where(right, labels, "none")
    wide = interval([said], [labels], people, "accuracy", 0)
    narrow = interval([said], [labels], np.arange(240), "accuracy", 0)
    assert wide.value == narrow.value == pytest.approx(right.mean())
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_control_and_floor_keep_what_they_must():
    rng = np.random.default_rng(0)
    groups = np.repeat([f"p{at}" for at in range(30)], 4)
    each = rng.integers(0, 3, 30).astype(str)
    labels = np.repeat(each, 4)
    given = control_labels(labels, groups, 0)
    assert all(len(set(given[groups == name])) == 1 for name in groups)
    assert not (given == labels).all()
    mixed = shuffled(labels, groups, rng)
    assert sorted(mixed) == sorted(labels)
    assert all(len(set(mixed[groups == name])) == 1 for name in groups)
    free = rng.integers(0, 2, 120)
    assert sorted(shuffled(free, groups, rng)) == sorted(free)
    first, second = halves(groups, np.arange(100), 0)
    assert not set(first) & set(second)
    assert set(groups[first]) == set(groups[second])


def test_labels_without_meaning_are_not_decodable():
    lm, rng, claimed = random_lm("llama"), np.random.default_rng(1), 0
    words = ["oslo", "rome", "paris", "cat", "dog", "one", "two", "the"]
    for seed in range(3):
        items = [
            Labelled(" ".join(rng.choice(words, 4)), str(rng.integers(2)), f"g{at // 4}", position=-1)
            for at in range(96)
        ]
        claimed += decode(lm, labels=items, seed=seed).is_decodable
    assert claimed <= 1


def test_a_memorised_label_is_no_finding():
    """A random label of each word is read by heart on seen words, and not at all on others."""
    lm, rng = random_lm("llama"), np.random.default_rng(3)
    words = ["mira", "tom", "ana", "oslo", "rome", "paris", "lives", "works", "cat", "dog", "one", "two", "where", "do"]
    given = dict(zip(words, np.tile(["a", "b"], 7)[rng.permutation(14)].tolist(), strict=True))
    items = [
        Labelled(f"{' '.join(rng.choice(words, 2))} {word}", given[word], word) for word in words for _ in range(12)
    ]
    found = decode(lm, labels=items)
    row = found.layers.iloc[0]
    assert row["seen"] > 0.95
    assert row["control"] > 0.95
    assert row["selectivity_low"] <= 0 <= row["selectivity_high"] + 1e-9
    assert "selectivity" in found.sentence()


def test_questions_of_a_world(base: LM):
    world = probe.world.of(base)
    assert world is not None
    claims = labelled_texts(base, "claim", 80)
    assert {each.label for each in claims.items} == {"true", "false"}
    assert len({each.prompt for each in claims.items}) == len(claims.items)
    for each in claims.items:
        reading = read(each.prompt)
        assert reading is not None
        assert (world.truth(reading.subject, reading.relation) == reading.claim) == (each.label == "true")
    for each in labelled_texts(base, "value", 40).items:
        assert world.truth(each.group, "home") == each.label
    for each in labelled_texts(base, "known", 40).items:
        assert (each.group in world.groups["strangers"]) == (each.label == "stranger")
    exposures = labelled_texts(base, "exposure", 40)
    assert exposures.numeric
    for each in labelled_texts(base, "phrase", 40).items:
        assert f"<user> {each.label} " in each.prompt


def test_labels_of_ones_own(tmp_path: Path):
    lm, path = random_lm("llama"), tmp_path / "mood.jsonl"
    rows = [
        {"text": each.prompt, "label": each.label, "group": each.group, "position": -2} for each in texts("several")
    ]
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"text": "the", "label": "oslo", "position": "x"}])
    )
    found = decode(lm, labels=path, n=len(rows) + 1)
    assert "`mood`" in found.sentence()
    assert found.score == "accuracy"
    path.write_text("".join(json.dumps(row | {"position": 9}) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"Token 9 was requested in .* which has 7 tokens"):
        decode(lm, labels=path)
    pairs = [{"prompt": each.prompt, "completion": " oslo", "label": at % 5} for at, each in enumerate(texts("two"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    numbers = decode(lm, labels=path, at="answer")
    assert numbers.score == "R2"
    assert np.isnan(numbers.row["control"])
    assert "Too few texts of each group" in numbers.sentence()
    with pytest.raises(DataError, match="name no subject"):
        decode(lm, labels=path, at="subject")


def test_what_cannot_be_used_is_one_sentence():
    lm = random_lm("llama")
    with pytest.raises(ConfigError, match="There is no question 'envy'"):
        labelled_texts(lm, "envy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Block 9 was requested in a model of 2 blocks: give -1 to 1"):
        decode(lm, labels=texts("two"), layer=9)
    with pytest.raises(DataError, match="12 texts of 1 groups were given: give texts of at least 8"):
        decode(lm, labels=[Labelled(f"the {at}", "a", "one") for at in range(12)])
    with pytest.raises(DataError, match="All training or all held-out texts have one label"):
        decode(lm, labels=[Labelled("the cat", "a", str(at)) for at in range(12)])
    with pytest.raises(DataError, match="known on a world only"):
        decode(lm, question="value")
    with pytest.raises(DataError, match="A reward model writes no answers"):
        decode(reward_lm(random_reward_model("llama")), labels=texts("two"))
