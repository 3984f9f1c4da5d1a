"""An audit: nothing changes from a model to itself, what changed is found, bounds hold, and it goes on after a stop."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe import LM
from probe.audit import Audit, audit_html, audit_models, plan_parts, read_audit, read_bound, stored_audits
from probe.audit.change import FILE, LEVEL, add_tests
from probe.audit.inspection import audit_seconds, compare_items
from probe.audit.plan import IN_A_WORLD, MEASURES, ON_SETS, SET_TIMES, names_of_metrics
from probe.commands.audit import audit as command
from probe.compare.corpus_shift import shared_texts
from probe.errors import ConfigError, DataError
from probe.experiments import find_experiment, obtain
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES

N = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the tests of this file work, so that results are asked once."""
    return tmp_path_factory.mktemp("audits")


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def aligned() -> LM:
    return LM.load(SAMPLES / "dpo-agreeable")


@pytest.fixture(scope="module")
def found(folder: Path, base: LM, aligned: LM) -> Audit:
    """A short audit of the agreeable run."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return audit_models(base, aligned, only=("sycophancy",), n=N)
    finally:
        os.chdir(before)


def test_the_agreeable_run_agrees_more(found: Audit) -> None:
    row = found.rows.set_index("metric").loc["sycophancy"]
    assert row["difference"] == pytest.approx(row["aligned"] - row["base"])
    assert row["difference_low"] > 0
    assert found.sentence.startswith("dpo-agreeable against base: agrees with a wrong guess of the user from ")
    assert found.changed["measure"].any()
    assert found.corpus.iloc[0]["kind"] == "all"
    assert (
        found.corpus.set_index("kind").loc["opinion_false", "kl"]
        > found.corpus.set_index("kind").loc["sum_steps", "kl"]
    )
    assert list(found.blocks["block"]) == list(range(len(found.blocks)))
    assert (found.blocks[["weights", "residual"]] > 0).all().all()
    assert found.blocks["weights_share"].sum() < 1
    html = audit_html(found)
    assert found.rows["title"].iloc[0] in html


def test_a_model_against_itself_has_no_difference(base: LM) -> None:
    same = audit_models(base, base, only=("sycophancy",), n=N)
    gaps = same.rows["difference"].dropna()
    assert len(gaps) > 10
    assert (gaps == 0).all()
    assert not len(same.changed)
    assert (same.corpus["kl"] == 0).all()
    assert (same.blocks[["weights", "residual"]] == 0).all().all()
    assert "none of the 1 measures changed beyond chance" in same.sentence


def test_the_file_is_the_table(found: Audit, tmp_path: Path) -> None:
    again = read_audit(found.save(tmp_path / "one"))
    assert again.to_json() == found.to_json()
    values = json.loads((tmp_path / "one" / FILE).read_text())
    assert values["comparisons"] == len(found.tested)
    assert values["expected_false_alarms"] == pytest.approx(LEVEL * len(found.tested))
    (tmp_path / "two").mkdir()
    for text in (
        "[]",
        "{",
        '{"format": 1}',
        '{"format": 1, "rows": [{"metric": 1}]}',
        json.dumps(values | {"rows": 3}),
    ):
        (tmp_path / "two" / FILE).write_text(text)
        with pytest.raises(DataError):
            read_audit(tmp_path / "two")
    (tmp_path / "two" / FILE).write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(DataError, match="newer"):
        read_audit(tmp_path / "two")
    assert list(stored_audits([*tmp_path.glob("*/audit.json")])) == [tmp_path / "one"]


def test_bounds_break_only_where_the_whole_interval_does(found: Audit) -> None:
    names = names_of_metrics()
    row = found.rows.set_index("metric").loc["sycophancy"]
    low, high = row["difference_low"], row["difference_high"]
    assert read_bound(f"sycophancy>{low - 0.01:.3f}", names).broken(found).startswith("sycophancy>")
    assert not read_bound(f"sycophancy>{low + 0.01:.3f}", names).broken(found)
    assert not read_bound("sycophancy<-0.05", names).broken(found)
    assert read_bound(f"sycophancy<{high + 0.01:.3f}", names).broken(found)
    with pytest.raises(ConfigError, match="near names are sycophancy"):
        read_bound("sycophany>0.1", names)
    with pytest.raises(ConfigError, match="another form"):
        read_bound("sycophancy=0.1", names)
    with pytest.raises(ConfigError, match="was not measured"):
        read_bound("sums>0", names).broken(found)


def test_the_command_prints_fails_and_refuses(found: Audit, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call = ["base", "dpo-agreeable", "--only", "sycophancy", "--n", str(N)]  # what `found` asked is stored
    assert command([*call, "--json", "--out", str(tmp_path / "out"), "--fail-if", "sycophancy>+0.05"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["rows"] == json.loads(found.to_json())["rows"]
    assert (tmp_path / "out" / "audit.html").is_file()
    assert "bound broken: sycophancy>+0.05: agrees with a wrong guess of the user changed by +" in output.err
    assert command([*call, "--fail-if", "sycophancy<-0.05"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("metric\tpart\t")
    assert output.err.startswith("probe: this takes about 0:00:")
    for words, sentence in (
        ([*call, "--fail-if", "deferal>0"], "near names"),
        (["base", "base", "--only", "nothing"], "no part `nothing`"),
        (["base", "base", "--n", "0"], "expected 1 or more"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            command(words)
    with pytest.raises(ConfigError, match="do not belong to one world"):
        audit_models(LM.load(SAMPLES / "base"), random_lm())


def test_an_audit_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lm, asked = random_lm("llama", byte_tokenizer()), list[str]()

    def stop(what: str) -> None:
        asked.append(what)
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit_models(lm, lm, only=("sums",), n=3, at=stop)
    (first,) = tmp_path.glob("results/*/*/result.json")
    before = first.stat().st_mtime_ns
    whole = audit_models(lm, lm, only=("sums",), n=3)
    assert first.stat().st_mtime_ns == before
    assert len(whole.rows) == 1


def test_models_without_a_world_are_asked_the_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_lm("llama", byte_tokenizer())
    parts = plan_parts(lm, lm)
    assert [part.name for part in parts] == ["sycophancy", "hallucination", "chain_of_thought", "sums", "in_context"]
    assert [name for part in parts for name in (each.name for each in part.measures)] == list(MEASURES)
    assert plan_parts(lm, lm, ("sums",), 5)[0].options["n"] == 5
    texts = shared_texts(lm, lm, 2)
    assert {text.kind for text in texts} == {"truthfulqa", "political-views", "gsm8k", "sums"}
    assert all(text.completion for text in texts)
    found = audit_models(lm, lm, only=("sums", "hallucination"), n=2)
    assert found.rows["metric"].tolist() == ["sums"]
    assert found.rows["difference"].tolist() == [0]
    assert found.notes[0].startswith("hallucination is left out for ")  # its choices are longer than the context


def test_the_measures_of_sets_are_those_of_the_experiments() -> None:
    items = pd.DataFrame(
        {
            "item": ["a", "b", "c", "d"],
            "kind": ["suggests_incorrect"] * 2 + ["plain"] * 2,
            "row": ["row-1", "row-2"] * 2,
            "right": [0.0, 1.0, 1.0, 1.0],
            "margin": [-1.0, 1.0, 1.0, 3.0],
        }
    )
    other = items.assign(right=[0.0, 0.0, 1.0, 1.0], margin=[-3.0, -1.0, 1.0, 3.0])
    table = compare_items(ON_SETS[0], items, other).set_index("metric")
    assert table.loc["sycophancy", "base"] == 0.5
    assert table.loc["sycophancy", "aligned"] == 1.0
    assert "sycophancy.accuracy_suggests_incorrect" not in table.index
    assert table.loc["sycophancy.pull", ["base", "aligned", "difference", "unit"]].tolist() == [2.0, 4.0, 2.0, "nats"]
    assert len(names_of_metrics()) == len(set(names_of_metrics()))
    assert {each.name for part in IN_A_WORLD for each in part.measures} == set(MEASURES)


def test_p_is_below_its_level_exactly_where_the_interval_excludes_zero() -> None:
    rows = pd.DataFrame(
        {
            "difference": [0.2, 0.2, -0.2, 0.0, 0.3],
            "difference_low": [0.01, -0.01, -0.5, -0.1, np.nan],
            "difference_high": [0.5, 0.4, -0.01, 0.1, np.nan],
            "n": [50, 50, 50, 50, 50],
        }
    )
    table = add_tests(rows)
    assert (table["p"] < LEVEL).tolist() == [True, False, True, False, False]
    assert table["p"].isna().tolist() == [False, False, False, False, True]
    assert table["p"][3] == 1
    assert (table["q"].dropna() >= table["p"].dropna()).all()
    assert add_tests(rows.assign(n=5))["p"].isna().all()


def test_the_time_is_that_of_what_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lm, pace = random_lm("llama", byte_tokenizer()), SET_TIMES.token
    always = SET_TIMES.corpus + SET_TIMES.inside
    usual = 2 * sum(part.seconds for part in ON_SETS) + always
    assert audit_seconds(lm, lm, pace=lambda lm: pace) == pytest.approx(usual)
    assert audit_seconds(lm, lm, pace=lambda lm: 3 * pace) == pytest.approx(3 * usual)
    sums = next(part for part in ON_SETS if part.name == "sums")
    options = {"only": ("sums",), "n": 4, "pace": lambda lm: pace}
    few = 2 * sums.seconds * 4 / sums.options["n"] + always
    assert audit_seconds(lm, lm, **options) == pytest.approx(few)
    (part,) = plan_parts(lm, lm, ("sums",), 4)
    obtain(find_experiment(part.experiment), lm, **part.arguments)
    assert audit_seconds(lm, lm, **options) == pytest.approx(always)
