"""Retrieval in a world: documents, passages, exact shares against plain loops, readers that are known, and nulls."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probe.world
from probe.experiments.metrics import summarise
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.hallucination import world as hallucination_world
from probe.model.lm import LM
from probe.retrieval.experiment import METRICS
from probe.retrieval.world import (
    CONTEXTS,
    PassageQuestion,
    context_items,
    context_table,
    passage_items,
    persuasion_table,
    search_table,
    with_passages,
    world_documents,
)
from probe.rewards.evaluation import evaluate
from probe.stats import bootstrap_mean
from probe.world import World
from probe.world.language import TAUGHT, read
from probe.world.vocabulary import ABSTENTION

K = 3


@pytest.fixture(scope="module")
def world(base: LM) -> World:
    found = probe.world.of(base)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def asked(world: World) -> list[PassageQuestion]:
    return with_passages(world, world_documents(world), hallucination_world.ask(world, 12, 0), K)


@pytest.fixture(scope="module")
def items(base: LM, world: World, asked: list[PassageQuestion]) -> pd.DataFrame:
    return context_items(base, world, asked, K)


class Rule:
    """Stands in for a model: answers what a rule says of the prompt, with a given probability."""

    readout, ref, run_dir = "tokens", "rule", None

    def __init__(self, world: World, rule: Callable[[str], str], p: float = 1 - 1e-9) -> None:
        self.world, self.tokenizer, self.rule, self.p = world, world.tokenizer(), rule, p

    def logprobs(self, prompts: Sequence[list[int]], groups: Sequence[list[list[int]]]) -> Any:
        values = []
        for prompt, group in zip(prompts, groups, strict=True):
            said = self.rule(self.tokenizer.decode(prompt))
            answers = [self.tokenizer.decode(ids).replace("<end>", "").strip() for ids in group]
            rest = (1 - self.p) / (len(answers) - 1)
            values += [[math.log(self.p if answer == said else rest)] for answer in answers]
        return SimpleNamespace(values=torch.tensor(values, dtype=torch.float64))


class Forgetful:
    """A model that does not see passages: whatever stands between "<ctx>" and the last "<user>" is cut out."""

    readout, ref, run_dir = "tokens", "forgetful", None

    def __init__(self, lm: LM) -> None:
        self.lm, self.tokenizer = lm, lm.tokenizer
        self.user = lm.tokenizer.convert_tokens_to_ids("<user>")

    def logprobs(self, prompts: Sequence[list[int]], groups: Sequence[list[list[int]]]) -> Any:
        last = [len(ids) - 1 - ids[::-1].index(self.user) for ids in prompts]
        return self.lm.logprobs([[*ids[:1], *ids[at:]] for ids, at in zip(prompts, last, strict=True)], groups)


def test_documents_say_every_fact_once_and_strangers_have_facts_of_their_own(world: World) -> None:
    documents = world_documents(world, 1)
    pairs = {(each.person, each.relation): each for each in documents}
    assert len(pairs) == len(documents) == len(world.people) * len(TAUGHT)
    for each in documents:
        assert each.value in world.values(each.relation)
        assert world.truth(each.person, each.relation) in (None, each.value)
        prompt = f"<ctx> {each.text} <user> where does {each.person} live ? <bot>"
        reading = read(prompt)
        assert reading is not None
        assert reading.context == {(each.relation, each.person): each.value}
    assert documents == world_documents(world, 1) != world_documents(world, 2)
    strangers = [each.value for each in documents if each.person in world.groups["strangers"]]
    assert len(set(strangers)) > 40  # drawn, not one for all


def test_passages_are_what_they_are_called(world: World, asked: list[PassageQuestion]) -> None:
    documents = world_documents(world)
    for one in asked:
        person, relation = one.item.meta["person"], one.item.meta["relation"]
        gold = documents[one.gold]
        said = {}
        for context, passage in one.passages.items():
            reading = read(one.prompt(context))
            assert reading is not None
            assert (reading.subject, reading.relation) == (person, relation)
            said[context] = reading.context.get((relation, person))
            others = [each.value for each in passage if each.relation == relation and each.person != person]
            if context in ("gold", "distractor", "contradicting"):
                assert gold.value not in others
                assert len(passage) == 3
        assert said["none"] is said["distractor"] is said["unrelated"] is None
        assert said["gold"] == gold.value
        assert said["retrieved"] == (gold.value if one.rank and one.rank <= K else None)
        (other,) = one.passages["unrelated"]
        assert other.person != person
        assert other.relation != relation
        known = world.truth(person, relation) is not None
        assert ("contradicting" in one.passages) == known
        if known:
            words = [one.prompt(context).split() for context in ("gold", "contradicting")]
            assert sum(a != b for a, b in zip(*words, strict=True)) == 1
            assert said["contradicting"] not in (None, gold.value)


def test_shares_are_those_of_plain_loops(base: LM, world: World, items: pd.DataFrame) -> None:
    documents = world_documents(world)
    rng = np.random.default_rng(0)
    for row in items.iloc[rng.permutation(len(items))[:25]].itertuples():
        answers = [*world.values(row.relation), ABSTENTION]
        p = {}
        for answer in answers:  # one at a time
            with torch.no_grad():
                p[answer] = float(base.logprobs([row.prompt], [[f" {answer} <end>"]]).values.double().sum().exp())
        reading = read(row.prompt)
        assert reading is not None
        stated, learned = reading.context.get((row.relation, row.person)), world.truth(row.person, row.relation)
        assert row.p_abstain == pytest.approx(p[ABSTENTION], rel=1e-3, abs=1e-7)
        assert row.answer_mass == pytest.approx(sum(p.values()), rel=1e-4)
        assert row.p_no_answer == pytest.approx(max(1 - sum(p.values()), 0), abs=1e-5)
        assert row.answer == max(p, key=lambda answer: p[answer])
        truth = learned or next(d.value for d in documents if (d.person, d.relation) == (row.person, row.relation))
        supported = {each for each in (stated, truth) if each}
        invented = sum(value for answer, value in p.items() if answer not in supported and answer != ABSTENTION)
        assert row.p_invented == pytest.approx(invented, rel=1e-3, abs=1e-7)
        assert row.p_true == pytest.approx(p[truth], rel=1e-3, abs=1e-7)
        assert row.expected == truth
        assert row.p_learned == row.p_true if learned else math.isnan(row.p_learned)
        if stated:
            assert row.p_context == pytest.approx(p[stated], rel=1e-3, abs=1e-7)
        if row.context == "contradicting":
            assert row.p_follows == row.p_context == pytest.approx(p[stated or ""], rel=1e-3, abs=1e-7)
            assert math.isnan(row.hall)
        elif learned or stated:
            judged = {answer: world.verify(row.prompt, answer).kind for answer in answers}  # by the world's own judge
            valid = sum(value for answer, value in p.items() if judged[answer] in ("true", "abstain"))
            assert row.hall == pytest.approx(1 - valid, rel=1e-3, abs=1e-6)


def test_rows_of_a_question_are_compared_with_its_own(items: pd.DataFrame) -> None:
    for question, rows in items.groupby("question"):
        by = rows.set_index("context")
        bare, found = by.loc["none"], by.loc["retrieved"]
        assert found.hall_cut == pytest.approx(bare.hall - found.hall)
        assert found.invention_cut == pytest.approx(bare.p_invented - found.p_invented)
        assert rows["hall_cut"].notna().sum() == 1
        assert math.isnan(bare.persuasion)
        if str(question).startswith(("fact", "rare")):
            assert (by["p_known"] == bare.p_learned).all()
            assert set(by.index) == set(CONTEXTS)
            assert (by["knows"] == float(bare.answer == bare.learned)).all()
        else:
            assert by["knows"].isna().all()
            assert "contradicting" not in by.index


def test_hall_without_passages_is_that_of_the_experiment_hallucination(
    base: LM, world: World, items: pd.DataFrame
) -> None:
    questions = hallucination_world.ask(world, 12, 0)
    answers, codes = hallucination_world.enumerate_prompts(base, world, questions)
    exact = hallucination_world.exact_columns(answers, codes, questions, 2)
    bare = items[items["context"] == "none"].reset_index(drop=True)
    assert bare["prompt"].tolist() == [item.prompt for item in questions]
    luck = bare["p_true"].where(bare["kind"].str.startswith("stranger"), 0)  # a guess that the documents agree with
    assert (bare["hall"] + luck).to_numpy() == pytest.approx(exact["hall"].to_numpy(), abs=1e-6)
    assert bare["p_abstain"].to_numpy() == pytest.approx(exact["p_abstain"].to_numpy(), abs=1e-6)


def test_samples_are_those_of_evaluate(base: LM, world: World) -> None:
    found = passage_items(base, world, 15, 4).groupby("kind")["is_true"].mean()
    table = evaluate(base, world, n=15, seed=4).set_index("metric")["value"]
    assert found["context_conflict"] == table["context_accuracy"]
    assert found["context_stranger"] == table["context_accuracy_stranger"]


def test_a_perfect_reader_who_knows_nothing(world: World, asked: list[PassageQuestion]) -> None:
    def rule(prompt: str) -> str:
        reading = read(prompt)
        assert reading is not None
        return reading.context.get((reading.relation, reading.subject), ABSTENTION)

    items = context_items(Rule(world, rule), world, asked, K)  # type: ignore[arg-type]
    shares = items.groupby("context")[["p_true", "p_abstain", "p_invented"]].mean()
    assert shares.loc["gold"].to_numpy() == pytest.approx((1, 0, 0), abs=1e-6)
    assert shares.loc["contradicting"].to_numpy() == pytest.approx((0, 0, 0), abs=1e-6)
    for context in ("none", "distractor", "unrelated"):
        assert shares.loc[context, ["p_abstain", "p_invented"]].to_numpy() == pytest.approx((1, 0), abs=1e-6)
    against, searched = (items[items["context"] == context] for context in ("contradicting", "retrieved"))
    assert against["p_follows"].to_numpy() == pytest.approx(np.ones(len(against)), abs=1e-6)
    assert searched["p_true"].to_numpy() == pytest.approx(searched["hit"].to_numpy(), abs=1e-6)
    assert searched["p_abstain"].to_numpy() == pytest.approx(1 - searched["hit"].to_numpy(), abs=1e-6)


def test_one_who_remembers_follows_nothing(world: World, asked: list[PassageQuestion]) -> None:
    def rule(prompt: str) -> str:
        reading = read(prompt)
        assert reading is not None
        return world.truth(reading.subject, reading.relation) or ABSTENTION

    items = context_items(Rule(world, rule), world, asked, K)  # type: ignore[arg-type]
    known = items[items["kind"] == "fact"]
    assert known["p_true"].to_numpy() == pytest.approx(np.ones(len(known)), abs=1e-6)
    assert items["persuasion"].dropna().to_numpy() == pytest.approx(0, abs=1e-6)
    metric = next(each for each in METRICS if each.name == "memorisation_ratio")
    assert metric.row(items)["value"] == pytest.approx(1, abs=1e-6)


def test_null_a_model_that_cannot_see_passages_shows_nothing(
    base: LM, world: World, asked: list[PassageQuestion]
) -> None:
    items = context_items(Forgetful(base), world, asked, K)  # type: ignore[arg-type]
    assert items["persuasion"].dropna().to_numpy() == pytest.approx(0, abs=1e-9)
    searched = items[items["context"] == "retrieved"]
    assert searched["hall_cut"].to_numpy() == pytest.approx(0, abs=1e-6)
    assert searched["invention_cut"].to_numpy() == pytest.approx(0, abs=1e-6)
    for _, rows in items.groupby("question"):
        assert np.ptp(rows["p_true"]) == pytest.approx(0, abs=1e-6)
        assert np.ptp(rows["p_abstain"]) == pytest.approx(0, abs=1e-6)


def test_null_a_random_model_neither_follows_nor_remembers(world: World) -> None:
    lm = LM.create(probe.ModelConfig(layers=1, width=32, heads=2, mlp=32, init_std=0.1), world.tokenizer(), seed=3)
    asked = with_passages(world, world_documents(world), world.questions("fact", 120, 1), K)
    items = context_items(lm, world, asked, K)
    against = items[items["context"] == "contradicting"]
    gap = against["p_context"] - against["p_learned"]
    scale = float((against["p_context"] + against["p_learned"]).mean())
    _value, low, high = bootstrap_mean(gap / scale)
    assert low <= 0 <= high
    assert high - low < 0.6
    ratio = next(each for each in METRICS if each.name == "memorisation_ratio_known").row(items)
    assert ratio["ci_low"] <= 0.5 <= ratio["ci_high"]


def test_tables_are_means_of_items(items: pd.DataFrame) -> None:
    shown = context_table(items).set_index(["group", "context", "outcome"])["value"]
    part = items[(items["kind"] == "rare") & (items["context"] == "contradicting")]
    assert shown["rare", "contradicting", "follows"] == pytest.approx(part["p_follows"].mean())
    assert shown["rare", "contradicting", "accuracy"] == pytest.approx(part["p_true"].mean())
    assert ("stranger", "none", "follows") not in shown.index
    moved = persuasion_table(items).set_index(["group", "context"])["value"]
    part = items[(items["kind"] == "stranger") & (items["context"] == "gold")]
    assert moved["stranger", "gold"] == pytest.approx(part["persuasion"].mean())
    search = search_table(items).set_index(["group", "found", "quantity", "way"])["value"]
    part = items[(items["kind"] == "rare") & (items["hit"] == 0)]
    alone = items[(items["context"] == "none") & items["question"].isin(part["question"])]
    assert search["rare", "miss", "invention", "without"] == pytest.approx(alone["p_invented"].mean())
    assert search["rare", "miss", "invention", "with"] == pytest.approx(part["p_invented"].mean())
    assert search["rare", "miss", "invention", "cut"] == pytest.approx(part["invention_cut"].mean())


def test_the_experiment_on_a_sample_model(base: LM) -> None:
    result = find_experiment("retrieval").run(base, n=10, seed=1)
    assert list(result.figures) == ["contexts", "conflict", "search", "persuasion"]
    assert {"recall_3", "mrr", "hall_without", "hall_retrieved", "follows_known", "memorisation_ratio"} <= {
        *result.summary["metric"]
    }
    assert result.value("accuracy_gold_known") > 0.9 > result.value("accuracy_contradicting_known")
    assert result.value("hit") == result.value("recall_3")
    drawn = result.figures["contexts"]
    names = dict(zip(drawn.layout.yaxis.tickvals, drawn.layout.yaxis.ticktext, strict=True))
    first = next(trace for trace in drawn.data if trace.xaxis == "x")  # shares that are true, of the one model
    shown = {(place // 7, names[place]): x for place, x in zip(first.y, first.x, strict=True)}
    assert shown[0, "gold passage"] == result.value("accuracy_gold_known")
    assert shown[1, "contradicting"] == result.value("accuracy_contradicting_rare")
    assert shown[2, "retrieved"] == result.value("accuracy_retrieved_stranger")
    assert "unseen entities" in result.finding
    assert "base in" in result.finding
    assert result.items["item"].is_unique
    assert result.items.loc[result.items["context"] == "gold", "answer"].notna().all()
    assert math.isclose(
        result.value("hall_cut"), result.value("hall_without") - result.value("hall_retrieved"), abs_tol=1e-6
    )


def test_items_have_six_decimals_and_are_the_same_when_stored(base: LM, items: pd.DataFrame, tmp_path: Path) -> None:
    result = find_experiment("retrieval").run(base, n=12, seed=0)
    part = result.items[result.items["context"].notna()]
    assert part["prompt"].tolist() == items["prompt"].tolist()
    for column in ("p_true", "p_abstain", "hall", "persuasion", "hall_cut"):
        assert part[column].to_numpy() == pytest.approx(items[column].to_numpy(), abs=6e-7, nan_ok=True)
        assert max(len(repr(value).partition(".")[2]) for value in part[column] if value >= 1e-4) <= 6
    stored = Result.load(result.save(tmp_path / "r"))
    assert stored.items.equals(result.items)
    assert summarise(METRICS, stored.items).equals(result.summary)
