"""The scorecard: checks of every family, the card over seeds, methods of strangers, and the command."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import probe
from probe import plugins
from probe.commands.scorecard import scorecard
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.scorecard import early_family, input_family, plan_of_card
from probe.scorecard.card import Card, read_card, winners
from probe.scorecard.catalogue_of_methods import families, find_methods, methods
from probe.scorecard.early_family import agreement, first_kept
from probe.scorecard.family_record import checked
from probe.scorecard.method_scoring import Row, find_bases, score_methods, tasks_of
from probe.scorecard.plan_of_card import Plan, coded, departures, read_plan
from probe.scorecard.stored_rows import append, read_rows, shipped_rows, text_of
from probe.seeds.t_intervals import mean_over_trainings
from probe.ticks import ignore
from tests.places import ROOT, SAMPLES

FEW = {
    "decoding": 64,
    "input": 12,
    "early": 40,
    "circuits": 4,
    "features": 800,
    "changes": 60,
    "uncertainty": 72,
    "steering": 40,
    "detectors": 6,
    "hacking": 6,
    "used": 40,
}


def small() -> Plan:
    """The plan with few texts."""
    plan = read_plan()
    parts = {name: {**part, "n": FEW[name]} for name, part in plan.parts.items()}
    return replace(plan, parts=parts)


@pytest.mark.parametrize("name", families())
def test_random_answers_are_at_the_floor_and_the_oracle_at_the_ceiling(base: LM, name: str):
    family = families()[name]
    problems = {task: family.prepare(base, task, FEW[name], 0, ignore) for task in tasks_of(family)}
    for truth in family.truths:
        problem, guess, exact = problems[truth.task], family.references["random"], family.references["oracle"]
        draws = [np.random.default_rng([seed, 1]) for seed in range(40)]
        scores = [family.grade(problem, truth.name, guess(problem, truth.name, rng)).score for rng in draws]
        expected, mean = family.chance(problem, truth.name), mean_over_trainings(scores, 0.999)
        if np.ptp(scores) < 1e-9:
            assert mean.value == pytest.approx(expected, abs=1e-6), truth.name
        else:
            assert mean.low <= expected <= mean.high, truth.name
        found = family.grade(problem, truth.name, exact(problem, truth.name, draws[0])).score
        assert found == pytest.approx(1.0), truth.name
        assert expected < 0.6


def test_plan_and_code_agree():
    assert departures(read_plan()) == []
    changed = replace(read_plan(), parts={**read_plan().parts, "input": {**read_plan().parts["input"], "n": 1}})
    assert departures(changed) == ["The plan and the code differ for the family `input` in n."]
    assert changed.hash("input") != read_plan().hash("input")
    assert changed.hash("early") == read_plan().hash("early")


def test_every_baseline_is_a_method_or_a_reference():
    names = {(each.family, each.name) for each in methods()}
    for name, family in families().items():
        assert (name, family.baseline) in names or family.baseline in family.references
        assert {"random", "oracle"} <= set(family.references)
        assert set(coded()[name]["truths"]) == {each.name for each in family.truths}


def test_shipped_rows_fit_the_plan_and_the_checks():
    rows = shipped_rows()
    assert rows
    card = read_card()
    assert len(card.rows) == len(rows)
    table = card.table()
    oracle = table[table["method"] == "oracle"]
    np.testing.assert_allclose(oracle["score"], 1.0)
    guess = table[table["method"] == "random"]
    np.testing.assert_allclose(guess["score"], guess["chance"], atol=0.02)
    assert {row.seed for row in rows} == set(read_plan().seeds)
    beside = {(family, truth.name) for family in families() for truth in families()[family].truths}
    assert {(row.family, row.truth) for row in rows} == beside
    assert (table["seeds"] == len({row.seed for row in rows})).all()


def made(scores: Mapping[str, list[float]]) -> Card:
    """A card of made-up scores."""
    plan = read_plan()
    own = {"family": "input", "truth": "support", "chance": 0.0, "seconds": 1.0, "n": 8, "plan": plan.hash("input")}
    rows = [
        Row(method=name, seed=seed, score=score, base=str(seed), **own)  # type: ignore[arg-type]
        for name, values in scores.items()
        for seed, score in enumerate(values)
    ]
    return Card(tuple(rows), plan)


def test_verdicts_and_winners_follow_from_the_seeds():
    card = made(
        {
            "attention": [0.8, 0.9, 0.85],
            "leave_one_out": [0.3, 0.32, 0.31],
            "gradient_x_input": [0.1, -0.1, 0.9],
            "random": [0.0, 0.05, -0.05],
            "oracle": [1.0, 1.0, 1.0],
            "nearness": [0.3, 0.31, 0.32],
        }
    )
    table = card.table().set_index("method")
    assert table["verdict"].to_dict() == {
        "attention": "better",
        "leave_one_out": "finds",
        "gradient_x_input": "floor",
        "nearness": "baseline",
        "random": "",
        "oracle": "",
    }
    low, high = table.loc["attention", ["low", "high"]]
    half = 4.302653 * 0.05 / np.sqrt(3)  # Student's t of two degrees of freedom
    np.testing.assert_allclose([low, high], [0.85 - half, 0.85 + half], rtol=1e-6)
    assert winners(list(card.rows))[2] == ("gradient_x_input",)
    assert table.loc["attention", "best_in"] == "0 1"
    assert card.winners_agree() == (0, 1)
    assert (
        "1 find the truth better than the naive baseline, 1 find it and are not shown to be better, and 1 are not"
        in card.sentence()
    )
    evidence = card.evidence("input", "support", "attention")
    assert evidence["score"].tolist() == [0.8, 0.9, 0.85]
    assert evidence["best"].tolist() == ["Attention", "Attention", "Gradient x input"]


@torch.no_grad()
def test_effects_are_those_of_the_plain_model(base: LM):
    problem = input_family.texts_of(base, "", 4, 0, ignore)
    read = problem.reads[0]
    place = int(read.scored[-1])
    vocabulary = base.tokenizer.get_vocab()
    kinds = [
        [encode(base.tokenizer, f" {word}")[-1] for word in words] for words in input_family.words_by_kind().values()
    ]
    alike = next(own for own in kinds if read.ids[place] in own)
    assert len(vocabulary) > 100

    def odds(ids: list[int]) -> float:
        last = base.model(torch.tensor([ids])).logits[0, -1].double()
        return float(last[read.answers[0]] - last[read.answers[1]])

    changed = [odds([*read.ids[:place], token, *read.ids[place + 1 :]]) for token in alike if token != read.ids[place]]
    if len(changed) <= input_family.MOST:
        assert read.effects[place] == pytest.approx(odds(read.ids) - np.mean(changed), rel=1e-4, abs=1e-4)
    else:
        assert min(changed) - 1e-4 <= odds(read.ids) - read.effects[place] <= max(changed) + 1e-4


def test_integrated_gradients_sum_to_the_difference_of_the_plain_model(base: LM):
    read = input_family.texts_of(base, "", 4, 0, ignore).reads[0]
    numbers = input_family.integrated_gradients(base, read.ids, len(read.ids) - 1, read.answers)
    with torch.no_grad():
        start = input_family.mean_embedding(base).expand(1, len(read.ids), -1)
        ends = [base.model(torch.tensor([read.ids])), base.model(inputs_embeds=start)]
    whole, none = (each.logits[0, -1].double() for each in ends)
    first, second = read.answers
    expected = (whole[first] - whole[second]) - (none[first] - none[second])
    assert float(numbers.sum()) == pytest.approx(float(expected), abs=input_family.OFF)


@torch.no_grad()
def test_means_leave_the_answer_where_a_hook_on_transformers_does(base: LM):
    """The mean ablation after the first block equals adding the mean of what later blocks write, on the plain model."""
    problem = early_family.reading_of(base, "", 30, 0, ignore)
    states = early_family.states_of(base, problem.ids[:3], ignore)
    hidden = [base.model(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in problem.ids[:3]]
    own = torch.stack([torch.stack([layer[0, -1] for layer in each]) for each in hidden])
    np.testing.assert_allclose(states[:, :-1], own[:, :-1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        problem.output[0],
        base.model(torch.tensor([problem.ids[0]])).logits[0, -1].log_softmax(-1),
        rtol=1e-4,
        atol=1e-4,
    )
    shape = len(problem.ids), problem.rows
    assert all(rows.shape == shape[:1] and rows.max() < problem.rows for rows in problem.causal.values())


def test_rows_and_agreement():
    right = np.array([[True, False, True, True], [False, False, False, False], [True, True, True, True]])
    assert first_kept(right).tolist() == [2, 3, 0]
    assert agreement(np.array([0, 1, 2]), np.array([0, 1, 2])) == 1
    from sklearn.metrics import cohen_kappa_score

    one, two = np.array([0, 1, 2, 3, 3, 1]), np.array([1, 1, 2, 3, 0, 1])
    assert agreement(one, two) == pytest.approx(cohen_kappa_score(one, two, weights="quadratic", labels=range(4)))


GIVEN: list[tuple[Any, str]] = [
    ([1.0, 2.0], r"shape \(2,\)"),
    ("text", "returned str"),
    ([1.0, float("nan"), 2.0], "1 numbers that are not finite"),
]


@pytest.mark.parametrize(("answer", "said"), GIVEN)
def test_a_wrong_answer_is_one_sentence(answer: Any, said: str):
    with pytest.raises(DataError, match=said):
        checked(answer, (3,), "one number a token")


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """The options of the command for few texts, of which all is gone after the test."""
    text = plan_of_card.FILE.read_text()
    for name, n in FEW.items():
        text = re.sub(rf"(\[{name}\].*?\nn = )\d+", rf"\g<1>{n}", text, flags=re.S)
    (tmp_path / "plan.toml").write_text(text)
    monkeypatch.setattr(plan_of_card, "FILE", tmp_path / "plan.toml")
    read_plan.cache_clear()
    with plugins.aside():
        yield lambda *words: [*words, "--runs", str(SAMPLES), "--out", str(tmp_path / "rows.tsv")]
    read_plan.cache_clear()


def example() -> str:
    """The worked example of the documents."""
    page = (ROOT / "docs" / "scorecard.md").read_text()
    return next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "@probe.method" in block)


def test_the_example_of_the_documents_scores_a_method(few: Callable[..., list[str]], tmp_path: Path, capsys: Any):
    code = example()
    assert len(code.splitlines()) <= 30
    (tmp_path / "mine.py").write_text(code)
    assert scorecard(few("--plugin", str(tmp_path / "mine.py"), "--json")) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = {row["method"] for row in rows}
    own = names - {"random", "oracle", "nearness", "words", "logit_lens"}
    assert len(own) == 1
    (name,) = own
    assert all(np.isfinite(row["score"]) for row in rows if row["method"] == name)
    assert {"family", "method", "truth", "score", "low", "high", "floor", "ceiling"} <= set(rows[0])
    kept = read_rows(tmp_path / "rows.tsv")
    assert name in {row.method for row in kept}


BROKEN = """import probe

@probe.method("input")
def broken(lm, ids, position, answers):
    {line}
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("return [1.0]", "The method `broken` of the family `input` is left out. It returned an array of shape (1,)"),
        ("return 1 / 0", "The method `broken` of the family `input` fails with ZeroDivisionError"),
    ],
)
def test_a_method_that_fails_hides_its_own_rows(
    few: Callable[..., list[str]], tmp_path: Path, capsys: Any, line: str, said: str
):
    (tmp_path / "mine.py").write_text(BROKEN.format(line=line))
    assert scorecard(few("--plugin", str(tmp_path / "mine.py"), "--family", "input")) == 0
    shown = capsys.readouterr()
    assert said in re.sub(r"\s+", " ", shown.out + shown.err)


def test_a_stopped_run_goes_on(base: LM, tmp_path: Path):
    file, plan = tmp_path / "rows.tsv", small()
    own = [each for each in methods() if each.name == "attention"]
    whole = score_methods({0: base}, own, plan=plan, keep=lambda row: append(file, row))
    kept = read_rows(file)
    assert kept == whole.rows
    file.write_text(file.read_text()[:-9])  # killed while it wrote a line
    known = read_rows(file)
    assert known == whole.rows[:-1]
    new: list[Row] = []
    again = score_methods({0: base}, own, plan=plan, known=known, keep=new.append)
    assert [replace(row, seconds=0) for row in again.rows] == [replace(row, seconds=0) for row in whole.rows]
    assert {row.method for row in new} == {whole.rows[-1].method}


@pytest.mark.parametrize("text", ["nonsense\nmore\n", "family\tmethod\n1\t2\n"])
def test_a_file_that_is_no_card_is_one_sentence(tmp_path: Path, text: str):
    file = tmp_path / "rows.tsv"
    file.write_text(text)
    with pytest.raises(DataError, match="is no row of a scorecard"):
        read_rows(file)


def test_names_are_checked(registry: None):
    with pytest.raises(ConfigError, match="did you mean `logistic`"):
        find_methods("logistik")
    with pytest.raises(ConfigError, match="name a family"):
        probe.method("")  # type: ignore[arg-type]

    def random() -> None: ...

    with pytest.raises(ConfigError, match="cannot be called `random`"):
        probe.method("input")(random)
    with pytest.raises(ConfigError, match="did you mean `decoding`"):
        scorecard(["--family", "decodin"])


def test_the_stored_card_is_printed_without_computing(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LM, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert scorecard(["--family", "input"]) == 0
    shown = capsys.readouterr().out
    assert "Leave one out" in shown
    assert "Oracle" in shown
    assert scorecard(["--plan"]) == 0
    assert "version = 1" in capsys.readouterr().out


def test_bases_have_weights():
    assert set(find_bases(SAMPLES, read_plan().seeds)) == {0}
    assert text_of(shipped_rows()[:1]).count("\n") == 2
