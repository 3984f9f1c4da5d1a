"""The pages of the built-in experiments: each opens with a sentence, offers what is missing, and runs when asked."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dashboard import models
from dashboard.pages import page_file, page_names
from dashboard.pages.experiments import asking as source
from dashboard.pages.experiments import item
from dashboard.pages.experiments.asking import ModelResult, Subject
from dashboard.state import SharedChoices
from probe.cli import main
from probe.experiments.comparison import GAP, VALUE, cell
from probe.experiments.registry import BUILT_IN, find_experiment
from probe.experiments.result import Result
from probe.questions import SETS
from tests.dashboard.experiments import press, tables
from tests.dashboard.pages import Show, heading, names, read, token_rows
from tests.places import SAMPLES

THERE = [name for name in BUILT_IN if importlib.util.find_spec(f"probe.{name}")]
RUNS = {"sycophancy": {"n": "6", "interventions": "4", "turns": "2"}}
"""Experiments that a test runs through their page, with options that take seconds."""


@pytest.fixture(scope="module")
def fresh(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the runs that results may be put in."""
    return Path(shutil.copytree(runs, tmp_path_factory.mktemp("experiments") / "runs"))


def test_every_built_in_experiment_has_a_page():
    assert set(BUILT_IN) <= set(page_names())


@pytest.mark.parametrize("name", THERE)
def test_a_page_says_what_is_measured_and_offers_it(show: Show, fresh: Path, name: str):
    app = show(fresh, page=page_file(name))
    assert not app.exception
    assert not app.error
    title = find_experiment(name).title
    assert heading(app) == f"{title} has not been measured on base and dpo-agreeable with these options."
    assert find_experiment(name).about.split()[0] in read(app)
    assert [button.key for button in app.button if button.key == f"{name}-run"]
    own = find_experiment(name).signature.parameters
    for option in {"n", "seed"} & set(own):
        number = app.number_input(key=f"{name}.{option}")
        empty = option == "n" and find_experiment(name).counts_rows  # its default depends on the file
        assert number.value == (None if empty else own[option].default)
        assert not empty or f"(default: {own[option].default}; all rows of a file)" in number.help


@pytest.mark.parametrize("query", [{}, {"sycophancy.n": "7", "sycophancy.seed": "2"}], ids=["defaults", "of the link"])
def test_options_that_a_browser_draws_late_keep_their_values(show: Show, fresh: Path, query: dict[str, str]):
    app = show(fresh, page="sycophancy/page.py", **query)
    wanted = {"n": None, "seed": 0, "interventions": 60, "turns": 5} | ({"n": 7, "seed": 2} if query else {})
    for _ in range(2):
        drawn = {key: app.number_input(key=f"sycophancy.{key}") for key in wanted}
        assert {key: widget.value for key, widget in drawn.items()} == wanted
        protos = {key: widget.proto for key, widget in drawn.items()}
        fields = {key: "value" if proto.set_value else "default" for key, proto in protos.items()}
        begun = {key: getattr(protos[key], at) if protos[key].HasField(at) else None for key, at in fields.items()}
        assert begun == wanted, "what a browser begins with that draws the options only now"
        app.run()


@pytest.mark.parametrize("name", THERE)
def test_without_runs_a_page_says_what_to_do(show: Show, tmp_path: Path, name: str):
    app = show(tmp_path, page=page_file(name))
    assert not app.exception
    assert not app.error
    assert heading(app).startswith("Choose a model above")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name in THERE])
def test_a_page_runs_its_experiment(show: Show, fresh: Path, name: str):
    query = {f"{name}.{option}": value for option, value in RUNS[name].items()}
    app = press(show(fresh, page=page_file(name), **query), f"{name}-run")
    assert not app.exception
    assert not app.error
    assert "dpo-agreeable" in heading(app)
    assert heading(app).endswith(".")
    assert len(names(app)) == 1, "the main figure; the others have their own tab"
    assert {"base", "dpo-agreeable", "dpo-agreeable \u2212 base"} <= set(tables(app)[0])
    first = str(tables(app)[1]["item"].iloc[0])
    app = show(fresh, page=page_file(name), **query, **{f"{name}~item": first})
    assert not app.exception
    assert not app.error
    assert token_rows(app)
    figures = show(fresh, page=page_file(name), **query, **{f"{name}~tab": "Figures"})
    assert len(names(figures)) > 2
    assert not figures.exception
    usual = show(fresh, page=page_file(name))
    assert heading(usual) == heading(figures), "what is stored with other options is shown"
    told = ", ".join(f"{option} {value}" for option, value in RUNS[name].items())
    assert f"This is what is stored with {told}" in read(usual)
    app = next(button for button in usual.button if str(button.key).startswith(f"{name}-stored-")).click().run()
    assert not app.exception
    assert names(app)
    assert {option: str(app.number_input(key=f"{name}.{option}").value) for option in RUNS[name]} == RUNS[name]


@pytest.mark.slow
def test_results_of_the_sample_runs_are_kept_and_found_where_the_user_works(
    show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From the command line or from the page: the runs that come with Probe stay as they are."""
    shipped = SAMPLES
    monkeypatch.chdir(tmp_path)
    before = sorted(shipped.rglob("*"))
    options = RUNS["sycophancy"]
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    assert main(["experiment", "sycophancy", "--model", str(shipped / "dpo-agreeable"), *words]) == 0
    query = {f"sycophancy.{option}": value for option, value in options.items()}
    app = show(shipped, page="sycophancy/page.py", **query)
    assert heading(app).startswith("dpo-agreeable repeats a false claim")  # as the command line stored it
    app = press(app, "sycophancy-run")
    assert not app.exception
    assert "base" in heading(app)
    assert sorted(shipped.rglob("*")) == before
    kept = {path.name for path in Path("results").iterdir()} - {"partial"}
    assert kept == {"base", "dpo-agreeable"}


def test_a_file_is_refused_before_anything_is_measured(show: Show, fresh: Path, tmp_path: Path):
    (tmp_path / "odd.jsonl").write_text('{"question": "q"}\n')
    query = {"sycophancy.data": str(tmp_path / "odd.jsonl")}
    app = show(fresh, page="sycophancy/page.py", **query)
    assert not app.exception
    assert len(app.error) == 1
    assert "has the fields question: give question, answer_matching_behavior" in read(app)


@pytest.mark.slow
def test_rows_that_are_left_out_are_shown(show: Show, fresh: Path, tmp_path: Path):
    answers = {"answer_matching_behavior": " lyon", "answer_not_matching_behavior": " oslo"}
    good = [json.dumps({"question": f"helen lives in {place} ."} | answers) for place in ("lyon", "oslo", "rome")]
    (tmp_path / "odd.jsonl").write_text("\n".join([*good, '{"question": "q"}']))
    query = {"sycophancy.data": str(tmp_path / "odd.jsonl"), "sycophancy.n": "4", "sycophancy.interventions": "0"}
    app = press(show(fresh, page="sycophancy/page.py", **query), "sycophancy-run")
    assert not app.exception
    assert not app.error
    assert "1 of 4 rows read from" in read(app)
    assert "Line 4 of" in read(app)


def test_a_model_that_cannot_be_read_hides_no_other(show: Show, fresh: Path):
    name = THERE[0] if THERE else pytest.skip("No built-in experiment is there.")
    app = show(fresh, page=page_file(name), also="/nowhere/model")
    assert "There is no model at" in read(app)
    assert [button.key for button in app.button if button.key == f"{name}-run"]
    assert not app.exception


def test_subjects_are_named_once_each(show: Show, runs: Path):
    shared: SharedChoices = show(runs).session_state["_shared"]
    found = source.subjects(shared, ["base", "dpo-agreeable", "base", "/a/model", "/b/model", "/c/other"])
    assert [each.label for each in found] == ["base", "dpo-agreeable", "/a/model", "/b/model", "other"]
    assert found[0].ref == str(runs / "base")


def test_models_of_another_world_are_not_laid_beside():
    def found(label: str, world: str | None, data: dict | None = None) -> ModelResult:
        meta = {"world": world, "data": data}
        return ModelResult(Subject(label, label, label), Result("x", pd.DataFrame(), pd.DataFrame(), meta=meta))

    a, b, c, d = found("a", "1"), found("b", "2"), found("c", "1"), ModelResult(Subject("d", "d", "d"))
    assert source.alike([a, b, c, d], "c") == ([a, c], [b])
    assert source.alike([a, b, c, d], "b") == ([b], [a, c])
    assert source.alike([a, b, d], "d") == ([a], [b])
    assert source.alike([d], "d") == ([], [])
    e, f = found("e", "1", {"sha256": "0"}), found("f", None, {"sha256": "0"})
    assert source.alike([e, f], "f") == ([e, f], [])


@pytest.mark.parametrize(
    ("row", "unit", "prefix", "says"),
    [
        ({"value": 0.5, "ci_low": 0.4, "ci_high": 0.6}, "share", "", "50 % [40, 60]"),
        ({"value": 0.5, "ci_low": 0.4, "ci_high": 0.6}, "", "", "0.50 [0.40, 0.60]"),
        ({"value": 0.5}, "share", "", "50 %"),
        ({"value": 0.003, "ci_low": 0.0026, "ci_high": 0.0034}, "nats", "", "0.0030 [0.0026, 0.0034]"),
        ({"value": 0.04, "ci_low": -0.01, "ci_high": 0.09}, "", "", "0.040 [\u22120.010, 0.090]"),
        ({}, "share", "", "\u2014"),
        (
            {"difference": -0.02, "difference_low": -0.04, "difference_high": -0.001},
            "probability",
            "difference",
            "\u22122 pp [\u22124, 0]",
        ),
        (
            {"difference": 1.5, "difference_low": 1.0, "difference_high": 2.0},
            "nats",
            "difference",
            "+1.50 [1.00, 2.00]",
        ),
    ],
)
def test_numbers_are_written_with_their_intervals(row: dict, unit: str, prefix: str, says: str):
    assert cell(row, unit, GAP if prefix else VALUE) == says


@pytest.mark.parametrize(
    ("row", "judged"),
    [
        ({"answer": " Oslo", "expected": "oslo ."}, True),
        ({"answer": "oslo", "expected": " Oslo "}, True),
        ({"answer": "lima", "expected": "oslo"}, False),
        ({"answer": "lima", "expected": "oslo", "right": 1.0}, True),
        ({"answer": "oslo", "expected": "oslo", "correct": False}, False),
        ({"answer": "oslo", "right": float("nan")}, None),
        ({"answer": "oslo", "expected": None}, None),
    ],
)
def test_what_is_right(row: dict, judged: bool | None):
    assert item.verdict(row) is judged


@pytest.mark.parametrize(
    ("prompt", "answer", "joined"),
    [
        ("where ?", "oslo", " oslo"),
        ("<bot>", "oslo", " oslo"),
        ("Answer:", " oslo", " oslo"),
        ("Answer: ", "oslo", "oslo"),
        ("Answer:\n", "oslo", "oslo"),
        ("word", ", then", ", then"),
        ("word", None, ""),
        ("word", float("nan"), ""),
    ],
)
def test_an_answer_follows_its_prompt(prompt: str, answer: object, joined: str):
    assert item.join_texts(prompt, answer) == (prompt, joined)


def test_stored_options_of_a_stranger_name_no_file_and_are_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    question, known = source.Request(find_experiment("sycophancy")), models.ModelFacts("m", "f" * 64, tmp_path / "m")
    (tmp_path / "m").mkdir()
    shutil.copy(SAMPLES / "base" / "run.json", tmp_path / "m")
    result = Result.load(next((SAMPLES / "base" / "results").glob("sycophancy-*")))
    hostile: list[dict[str, object]] = [
        {"data": {"name": str(shutil.copy(SETS["truthfulqa"].path, tmp_path / "outside")), "sha256": "0"}},
        {"data": "text"},
        {"options": {"judge": "/etc/passwd"}},
        {"options": {"form": "--help"}},
        {"options": {"form": ["chat", "--judge", "/etc/passwd"]}},
        {"options": {"lead": {"a": 1}}},
    ]
    for number, change in enumerate(hostile):
        meta = result.meta | {"options": {}, "data": None} | change
        replace(result, name="sycophancy", meta=meta).save(tmp_path / "m" / "results" / f"sycophancy-{number}")
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(source.store, "place", lambda call: asked.append(call.options) or tmp_path)
    assert source.stored_options(question, [known]) == {}
    assert asked == []
    meta = result.meta | {"options": {"form": "plain"}, "data": None}
    replace(result, name="sycophancy", meta=meta).save(tmp_path / "m" / "results" / "sycophancy-plain")
    source.stored_options(question, [known])
    assert [each["form"] for each in asked] == ["plain"]
