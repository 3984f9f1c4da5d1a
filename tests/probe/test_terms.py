"""The table of metrics: whatever a person is shown has a title, and equal titles are equal estimates."""

import re
from collections import defaultdict
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.experiments.metrics import Share
from probe.experiments.registry import experiments
from probe.experiments.result import Result
from probe.numbers import chance, in_percent, in_unit, rate
from probe.plugins import BUILT_IN
from probe.runs.reader import Run
from probe.terms import RATES, VOCABULARY, Term, logged, table, term
from tests import tables
from tests.places import SAMPLES

RUNS = [Run(path) for path in sorted(SAMPLES.iterdir()) if (path / "run.json").is_file()]
BUILT = {name for name in experiments() if experiments()[name].origin == BUILT_IN}


def stored(run: Run) -> list[Result]:
    """Results of experiments; a training may leave others."""
    return [Result.load(path) for path in run.results().values() if (path / "items.json.gz").is_file()]


@cache
def results() -> list[tuple[Run, Result]]:
    """Return all stored results of the sample runs; loading them takes seconds."""
    return [(run, result) for run in RUNS for result in stored(run)]


def test_the_table_is_whole():
    for row in table():
        about = row.term
        assert about.title, row
        assert about.definition, row
        assert about.better in ("", "higher", "lower"), row
        words = set(re.findall(r"\{(\w+)\}", row.name))
        allowed = words | {f"{word}_long" for word in words}
        assert set(re.findall(r"\{(\w+)\}", about.title + about.definition)) <= allowed, row
        assert not about.definition.endswith("."), row


def names(pattern: str) -> list[str]:
    """All names that a row stands for; words without a vocabulary stand for themselves."""
    words = re.findall(r"\{(\w+)\}", pattern)
    choices = [list(VOCABULARY.get(word, {"7" if word in ("k", "t", "terms") else word: ""})) for word in words]
    return [pattern.format(**dict(zip(words, each, strict=True))) for each in product(*choices)]


def test_equal_titles_are_equal_estimates():
    """No title stands in two rows, so where two pages show one title they show what one definition defines."""
    rows_by_title: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in table():
        for name in names(row.name):
            found = row.read(name)
            assert found is not None, (row, name)
            rows_by_title[found.title].add((*row.where, row.name))
    assert {title: rows for title, rows in rows_by_title.items() if len(rows) > 1} == {}


def test_a_name_means_one_thing_at_a_place():
    for place in {place for row in table() for place in row.where}:
        rows = [row for row in table() if place in row.where and "{" not in row.name]
        assert len({row.name for row in rows}) == len(rows), place


@pytest.mark.parametrize("name", sorted(BUILT))
def test_every_metric_of_an_experiment_is_defined(name: str):
    metrics = [metric.name for metric in experiments()[name].metrics]
    assert metrics
    assert [metric for metric in metrics if not term(metric, name).definition] == []


@pytest.mark.slow
def test_all_that_the_sample_runs_show_is_defined():
    """Headline figures, what was logged, and the numbers of stored results, those that are no metrics included."""
    undefined = [(run.name, each) for run in RUNS for each in run.headline["metric"] if not term(each).definition]
    for run in RUNS:
        columns = [str(column) for column in run.metrics() if column not in ("step", "time")]
        undefined += [(run.name, each) for each in columns if not term(each, f"train/{run.method}").definition]
    for run, result in results():
        undefined += [(run.name, each) for each in result.summary["metric"] if not term(each, result.name).definition]
    assert len(results()) > 15
    assert undefined == []


@pytest.mark.slow
def test_numbers_of_one_title_are_one_number():
    """Of one model: a headline figure and what a page measured on as many questions, but for an answer or two.

    (Processors round differently, and then a sampled answer may be another one.)
    """
    compared = 0
    for run, result in results():
        headline = {term(row["metric"]).title: row for row in run.headline.to_dict("records")}
        for row in result.summary.to_dict("records"):
            own = headline.get(term(row["metric"], result.name).title)
            if own is not None:
                assert own["n"] == row["n"], (run.name, row)
                slack = 2.01 / row["n"] if 0 <= row["value"] <= 1 else 0.01 * abs(row["value"])
                assert abs(own["value"] - row["value"]) <= slack, (run.name, row)
                compared += 1
    assert compared > 60


@pytest.mark.slow
def test_what_is_measured_otherwise_says_so():
    """Of one model, hallucination on unseen entities reads 71, 68, 65 and 64 %: four numbers, four titles."""
    base = next(run for run in RUNS if run.name == "base")
    found = {result.name: result for run, result in results() if run.name == "base"}
    shown = {
        term("invention").title: base.headline.set_index("metric").loc["invention", "value"],
        **{
            term(metric, name).title: found[name].value(metric)
            for name, metric in (
                ("hallucination", "invention"),
                ("hallucination", "hall_stranger"),
                ("retrieval", "hall_without_stranger"),
                ("retrieval", "invention_none_stranger"),
            )
        },
    }
    assert len(shown) == len({round(value, 3) for value in shown.values()}) == 4
    assert all("sampled" in title or "exact" in title for title in shown)
    for pair in (("deferral", "deferral_exact"), ("turn_of_flip", "turn_of_flip_exact")):
        first, second = (term(metric, "sycophancy").title for metric in pair)
        assert first.replace("(sampled)", "(exact)") == second
    places = {"run": "gold_reward", "train/dpo": "expected_gold", "train/rlhf": "gold/reward"}
    titles = {term(metric, place).title for place, metric in places.items()}
    assert len(titles) == 3
    assert all(re.fullmatch(r"true reward \(.+\)", title) for title in titles)


def test_a_metric_that_nobody_knows_keeps_its_name():
    assert term("my_score") == Term("my_score")
    assert term("accuracy", "an_experiment_of_mine") == Term("accuracy")
    assert term("accuracy", "train/other") == Term("accuracy"), "that of a reward model is another one"
    assert term("loss", "train/other").definition


def test_methods_that_mean_two_things_are_both_named():
    both = logged("eval_loss", ("sft", "reward-model"))
    assert both.title == "held-out loss on completions / held-out loss of pairs"
    assert logged("eval_loss", ("continual", "pretrain")) == term("eval_loss", "train/pretrain")
    assert logged("kl", ("other", "rlvr")) == term("kl", "train/rlvr")


def test_names_of_data_stay_data():
    """A reward of somebody's own is part of a title as it is."""
    assert term("rewards/{0.__class__}/mean", "train/rlvr").title == "{0.  class  }: mean reward"


@pytest.mark.parametrize("path", tables.DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_have_the_table(path: Path):
    text = path.read_text()
    assert tables.written(text) == text, f"docs/{path.name} is stale: run `make tree`."


def test_every_row_stands_in_a_document():
    shown = {place for path in tables.DOCUMENTS for place in tables.places(path.read_text())}
    assert {place for row in table() for place in row.where} == shown


@pytest.mark.parametrize(
    ("row", "unit", "text"),
    [
        ((0.96, 0.94, 0.98), "share", "96 % [94, 98]"),
        ((0.9995, 0.9994, 0.9996), "probability", "99.95 % [99.94, 99.96]"),
        ((0.0103, 0.0085, 0.0122), "share", "1.0 % [0.9, 1.2]"),
        ((0.0, 0.0, 0.0095), "share", "0 % [0, 1]"),
        ((0.99948, 0.99946, 0.99949), "probability", "99.95 % [\u00b10.01]"),
        ((0.9612, 0.9582, 0.9636), "share", "96.1 % [95.8, 96.4]"),  # wide enough for none, and 96 to 96 without
        ((1e-6, 0.0, 2e-6), "probability", "< 0.01 %"),
        ((0.999999, 0.999998, 1.0), "probability", "> 99.99 %"),
        ((1.0, 1.0, 1.0), "share", "100 %"),  # known exactly
        ((-1e-6, -2e-6, 0.0), "difference", "0.00 pp [\u00b10.01]"),
        ((0.365, 0.29, 0.45), "difference", "+36 pp [29, 45]"),
        ((-0.745, -0.78, -0.7), "difference", "\u221274 pp [\u221278, \u221270]"),
        ((-0.001, -0.02, 0.02), "difference", "0 pp [\u22122, 2]"),
        ((3.893, 3.8, 4.0), "nats", "3.89 [3.80, 4.00]"),
        ((0.004, 0.003, 0.005), "nats", "0.0040 [0.0030, 0.0050]"),
        ((0.5, None, None), "share", "50 %"),
        ((0.0, None, None), "share", "0 %"),
        ((0.0004, None, None), "share", "0.04 %"),
        ((0.997, None, None), "share", "99.7 %"),
        ((3e-7, None, None), "share", "< 0.01 %"),
        ((-3e-7, None, None), "difference", "0 pp"),
        ((None, None, None), "share", "\u2014"),
    ],
)
def test_a_number_is_shown_as_its_unit(row: tuple, unit: str, text: str):
    assert in_unit(unit, *row) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "100 %"),
        (0.9634, "96.3 %"),
        (0.000012, "0.0012 %"),
        (0.0, "0 %"),
        (3.06e-7, "< 0.0001 %"),
        (0.99996, "> 99.9 %"),
        (0.1, "10 %"),
    ],
)
def test_the_probability_of_one_event(value: float, text: str):
    assert chance(value) == text


def test_a_ratio_has_two_digits_however_large_or_small_it_is():
    values = (1.404, 0.5, 0.0123, 7.1e-6, 3e-9, -0.02, 0.0)
    assert [in_percent(value) for value in values] == [
        *("140 %", "50 %", "1.2 %", "0.00071 %", "< 0.0001 %", "-2 %", "0 %")
    ]
    assert [in_percent(value) for value in (float("nan"), float("inf"))] == ["\u2014", "\u221e"]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 12))
def test_no_rate_is_scientific_and_no_interval_without_width(a: float, b: float, c: float, power: int):
    low, value, high = sorted((a, b, c))
    low, high = value - (value - low) / 10**power, value + (high - value) / 10**power
    for unit in ("share", "difference"):
        text = in_unit(unit, value, low, high)
        assert "e" not in text + chance(value) + in_percent(value) + rate(value)
        ends = re.search(r"\[(.*), (.*)\]", text)
        if ends is not None:
            assert ends[1] != ends[2]
            assert float(ends[1]) <= float(ends[2])
        if "\u00b1" in text:  # both ends lie as near to the number as it says
            shown = float(text.split()[0]) / 100
            assert max(abs(low - shown), abs(high - shown)) <= 0.0001
    if text.startswith("<"):
        assert high < 0.0001


def test_no_percentage_is_written_with_a_format_that_may_be_scientific():
    """`probe.numbers` has one for each case."""
    places = [path for folder in ("probe", "dashboard", "trainers") for path in sorted(Path(folder).rglob("*.py"))]
    found = [path for path in places if re.search(r"\.\d?[ge]\} ?(%|pp\b)", path.read_text(encoding="utf-8"))]
    assert not found


def test_what_is_counted_is_a_rate():
    """So that it is shown in percent, with the interval, wherever it is shown."""
    shares = [(name, each.name) for name in BUILT for each in experiments()[name].metrics if isinstance(each, Share)]
    assert len(shares) > 50
    assert [each for each in shares if term(each[1], each[0]).unit not in RATES] == []
