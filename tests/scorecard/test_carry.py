"""Models without a world: texts by templates, the same methods on them, and the order of methods beside the bases."""

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from probe.commands.scorecard import scorecard
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.scorecard import input_family, plan_of_card, real_texts
from probe.scorecard.card import Card, read_card
from probe.scorecard.carried_order import carried_order, kendall
from probe.scorecard.catalogue_of_methods import families, methods
from probe.scorecard.method_scoring import Row, score_methods, tasks_of
from probe.scorecard.plan_of_card import Plan, read_plan, read_real_plan
from probe.scorecard.real_texts import POOLS, draw_texts, labelled, replacements
from probe.scorecard.stored_rows import SMOLLM2, shipped_rows
from probe.seeds.t_intervals import mean_over_trainings
from probe.ticks import ignore
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES

OTHER = ["in", "and", "to", "the", "a", "went", "Then", "I", ".", ",", ":", "In", "truth", "<unk>", "<end>"]
FEW = {"decoding": 40, "input": 6, "early": 12}


def english() -> PreTrainedTokenizerFast:
    """One token for each word and mark of the templates."""
    words = dict.fromkeys([*OTHER, *(word for pool in POOLS.values() for word in pool)])
    inner = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>")


@pytest.fixture(scope="module")
def reader() -> LM:
    """A random model that reads the templates."""
    return random_lm(tokenizer=english())


def small() -> Plan:
    """The plan for a model without a world, with few texts."""
    plan = read_real_plan()
    return replace(plan, parts={name: {**part, "n": FEW[name]} for name, part in plan.parts.items()})


def test_answers_are_one_token_and_replaced_words_keep_the_length(reader: LM):
    groups = replacements(reader.tokenizer)
    texts = draw_texts(reader.tokenizer, 30, 0)
    assert Counter(each.kind for each in texts) == {"fact": 10, "copy": 10, "label": 10}
    for text in texts:
        ids = encode(reader.tokenizer, text.prompt)
        for answer in text.answers:
            assert len(encode(reader.tokenizer, text.prompt + answer)) == len(ids) + 1
            assert answer.strip() in text.prompt
        alternatives = {word: own for own in groups for word in own}
        places = [match for match in re.finditer(r"\w+", text.prompt) if match[0] in alternatives]
        assert len(places) >= input_family.LEAST
        for match in places:
            other = next(each for each in alternatives[match[0]] if each != match[0])
            changed = encode(reader.tokenizer, text.prompt[: match.start()] + other + text.prompt[match.end() :])
            assert sum(one != two for one, two in zip(ids, changed, strict=True)) == 1


def test_the_answer_follows_from_the_text():
    for text in draw_texts(english(), 60, 1):
        first, second = (each.strip() for each in text.answers)
        if text.kind == "fact":
            person = re.search(r"(\w+) lives in$", text.prompt)[1]  # type: ignore[index]
            assert f"{person} lives in {first}." in text.prompt
        elif text.kind == "copy":
            assert f". {second} gave" in text.prompt
            assert first != second
        else:
            *shown, asked = re.findall(r"(\w+):", text.prompt)
            labels = dict(zip(shown, re.findall(r": (\w+)", text.prompt), strict=True))
            kind = next(name for name in ("animals", "tools") if asked in POOLS[name])
            assert {label for word, label in labels.items() if word in POOLS[kind]} == {first}


@pytest.mark.parametrize("question", ["claim", "value", "phrase"])
def test_labels_come_in_pairs_with_the_same_people(question: Any):
    texts = labelled(english(), question, 60, 0)
    for first, second in zip(texts.items[::2], texts.items[1::2], strict=True):
        assert first.group == second.group
        assert len({word for word in re.findall(r"\w+", first.prompt) if word in POOLS["names"]}) == 2
        if question == "value":
            assert sorted(first.prompt.split()) == sorted(second.prompt.split())
            assert f"{first.group} lives in {first.label}." in first.prompt
            assert f"{second.group} lives in {first.label}." not in second.prompt
        for each in (first, second):
            if question == "claim":
                home = re.search(r"I \w+ \w+ lives in (\w+)", each.prompt)[1]  # type: ignore[index]
                fact = f"{each.group} lives in {home}."
                assert (each.prompt.replace(f"I {each.prompt.split(' I ')[1]}", "").count(fact) == 1) == (
                    each.label == "true"
                )
            if question == "phrase":
                assert f" I {each.label} {each.group}" in each.prompt
    with pytest.raises(DataError, match="known on a world only"):
        labelled(english(), "exposure", 40, 0)


def test_a_tokenizer_that_splits_the_words_is_refused():
    with pytest.raises(DataError, match="names as one token"):
        draw_texts(byte_tokenizer(), 3, 0)


@torch.no_grad()
def test_effects_are_those_of_the_plain_model(reader: LM):
    read = input_family.texts_of(reader, "", 6, 0, ignore).reads[0]
    groups = [[encode(reader.tokenizer, word)[-1] for word in own] for own in replacements(reader.tokenizer)]

    def odds(ids: list[int]) -> float:
        last = reader.model(torch.tensor([ids])).logits[0, -1].double()
        return float(last[read.answers[0]] - last[read.answers[1]])

    cities = next(own for own in groups if read.answers[0] in own)
    verbs = next(own for own in groups if encode(reader.tokenizer, "lives")[0] in own)
    assert len(verbs) - 1 <= real_texts.MOST < len(cities)
    for place in read.scored:
        own = next(each for each in groups if read.ids[place] in each)
        changed = [
            odds([*read.ids[:place], other, *read.ids[place + 1 :]]) for other in own if other != read.ids[place]
        ]
        if len(changed) <= real_texts.MOST:
            assert read.effects[place] == pytest.approx(odds(read.ids) - np.mean(changed), rel=1e-4, abs=1e-4)
        else:
            assert min(changed) - 1e-4 <= odds(read.ids) - read.effects[place] <= max(changed) + 1e-4


@pytest.mark.parametrize("name", [name for name in families() if name in read_real_plan().parts])
def test_checks_hold_without_a_world(reader: LM, name: str):
    family, plan = families()[name], small()
    problems = {task: family.prepare(reader, task, FEW[name], 0, ignore) for task in tasks_of(family, plan)}
    asked = [truth for truth in family.truths if plan.asks(name, truth.name)]
    assert asked
    for truth in asked:
        problem, guess, exact = problems[truth.task], family.references["random"], family.references["oracle"]
        draws = [np.random.default_rng([seed, 1]) for seed in range(40)]
        scores = [family.grade(problem, truth.name, guess(problem, truth.name, rng)).score for rng in draws]
        expected, mean = family.chance(problem, truth.name), mean_over_trainings(scores, 0.999)
        if np.ptp(scores) < 1e-9:
            assert mean.value == pytest.approx(expected, abs=1e-6), truth.name
        else:
            assert mean.low <= expected <= mean.high, truth.name
        assert family.grade(problem, truth.name, exact(problem, truth.name, draws[0])).score == pytest.approx(1.0)


def test_every_method_of_the_bases_runs_without_a_world(reader: LM):
    plan = small()
    asked = {(name, truth) for name, part in plan.parts.items() for truth in part["truths"]}
    assert asked <= {(name, truth.name) for name, family in families().items() for truth in family.truths}
    outcome = score_methods({0: reader}, methods(), plan=plan)
    assert not outcome.problems
    named = {(row.family, row.method) for row in outcome.rows}
    assert {(each.family, each.name) for each in methods() if each.family in plan.parts} <= named
    table = Card(outcome.rows, plan).table()
    assert set(table["verdict"]) <= {"alone", "baseline", ""}


def test_kendall_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, two = rng.integers(0, 4, (2, 6)).astype(float)
        expected = stats.kendalltau(one, two).statistic
        assert kendall(one, two) == pytest.approx(0.0 if np.isnan(expected) else expected)


def made(plan: Plan, scores: dict[str, dict[str, list[float]]]) -> Card:
    """A card of made-up scores by truth and method."""
    own = {"family": "input", "chance": 0.0, "seconds": 1.0, "n": 8, "plan": plan.hash("input")}
    return Card(
        tuple(
            Row(truth=truth, method=name, seed=seed, score=score, **own)  # type: ignore[arg-type]
            for truth, methods in scores.items()
            for name, values in methods.items()
            for seed, score in enumerate(values)
        ),
        plan,
    )


def test_the_order_and_its_pairs_follow_from_the_scores():
    names = ["leave_one_out", "attention", "gradient_x_input"]
    bases = {
        "support": [[0.8, 0.9, 0.85], [0.5, 0.6, 0.52], [0.49, 0.62, 0.5]],
        "top": [[1, 0.9, 0.95]] * 2 + [[0.1] * 3],
    }
    model = {
        "support": [[0.2, 0.3, 0.24], [0.5, 0.6, 0.52], [0.9, 0.1, 0.5]],
        "top": [[0.9, 0.8, 1], [0.7, 0.7, 0.6], [0, 0.1, 0.3]],
    }
    cards = [
        made(
            plan, {truth: dict(zip([*names, "random"], [*rows, [0.0] * 3], strict=True)) for truth, rows in own.items()}
        )
        for plan, own in ((read_plan(), bases), (read_real_plan(), model))
    ]
    found = carried_order(*cards, "other")
    verdicts = {(row["truth"], row["first"], row["second"]): row["verdict"] for row in found.pairs.to_dict("records")}
    assert verdicts == {
        ("support", "leave_one_out", "attention"): "reversed",
        ("support", "leave_one_out", "gradient_x_input"): "undecided",
        ("support", "attention", "gradient_x_input"): "uncertain",
        ("top", "attention", "leave_one_out"): "uncertain",
        ("top", "leave_one_out", "gradient_x_input"): "kept",
        ("top", "attention", "gradient_x_input"): "kept",
    }
    means = [[np.mean(own[truth], axis=1) for truth in ("support", "top")] for own in (bases, model)]
    taus = [stats.kendalltau(one, two).statistic for one, two in zip(*means, strict=True)]
    assert found.tau == pytest.approx(np.mean(taus))
    every = [
        np.mean([stats.kendalltau(one, two[list(order)]).statistic for one, two in zip(*means, strict=True)])
        for order in permutations(range(3))
    ]
    assert found.relabelled == pytest.approx(np.mean([each >= np.mean(taus) - 1e-9 for each in every]))
    own = [
        np.mean([stats.kendalltau(np.mean(bases[at], axis=1), np.array(model[at])[:, seed]).statistic for at in bases])
        for seed in range(3)
    ]
    np.testing.assert_allclose(found.draws[:3], mean_over_trainings(own)[:3])
    assert "2 have the same order on other, 1 the reverse, and 1 are undecided there" in found.sentence()


def test_the_shipped_rows_are_of_one_model_and_the_plan(capsys: Any):
    rows, plan = shipped_rows(SMOLLM2), read_real_plan()
    card = read_card(rows, plan)
    assert card.rows == rows
    assert len({row.base for row in rows}) == bool(rows)
    for name in {row.family for row in rows}:
        assert {row.seed for row in rows if row.family == name} == set(plan.seeds)
    table = card.table()
    assert table.loc[table["method"] == "oracle", "score"].eq(1).all()
    assert set(table["verdict"]) <= {"alone", "baseline", ""}
    assert scorecard(["--carry"]) == 0
    shown = capsys.readouterr()
    assert carried_order(read_card(), card).sentence() in re.sub(r"\s+", " ", shown.out + shown.err)


def test_the_command_scores_a_model(reader: LM, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch):
    text = plan_of_card.FILE.read_text().replace("draws = [0, 1, 2, 3, 4]", "draws = [0, 1]")
    (tmp_path / "plan.toml").write_text(text)
    monkeypatch.setattr(plan_of_card, "FILE", tmp_path / "plan.toml")
    for cached in (read_plan, read_real_plan):
        cached.cache_clear()
    place = reader.save(tmp_path / "reader")
    words = ["--model", str(place), "--family", "input", "--method", "attention", "--out", str(tmp_path / "rows.tsv")]
    assert scorecard([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    asked = product(("attention", "random", "oracle", "nearness"), read_real_plan().parts["input"]["truths"])
    assert {(row["method"], row["truth"]) for row in rows} == set(asked)
    assert {row["seeds"] for row in rows} == {2}
    monkeypatch.setattr(input_family, "texts_of", lambda *_: pytest.fail("a stored row was computed"))
    assert scorecard([*words, "--carry"]) == 0
    for cached in (read_plan, read_real_plan):
        cached.cache_clear()
    with pytest.raises(ConfigError, match="has a world"):
        scorecard(["--model", str(SAMPLES / "base")])
