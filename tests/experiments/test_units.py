"""What was drawn: people of a world, a column of a file; and stored results that are summed up anew."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

import probe
from probe import plugins, stats
from probe.errors import ConfigError, DataError
from probe.experiments import store, units
from probe.experiments.definition import Experiment
from probe.experiments.metrics import INTERVALS, Mean, differences, interval_of
from probe.experiments.registry import find_experiment
from probe.experiments.result import Evidence, Result
from probe.experiments.run import call, join
from probe.experiments.store import keep, obtain, target
from probe.model.lm import LM
from probe.rows import EVERY, Rows, Selection, read_rows
from probe.world import World
from tests.models import byte_tokenizer, random_lm

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    CALLS.clear()
    monkeypatch.chdir(tmp_path)
    with plugins.aside():
        yield


@pytest.fixture
def scores() -> Experiment:
    def read(*, data: Any, strict: bool, selection: Selection = EVERY, **_: Any) -> list[Rows[Any]]:
        return [read_rows(Path(data), lambda row: row, strict, selection=selection)] if data else []

    @probe.experiment("scores", metrics=[Mean("score")], read=read, say=lambda r: f"{r.value('score', 'ci_low'):.6f}")
    def run(lm: LM, *, data: Path | None = None, n: int = 9, limit: int | None = None, seed: int = 0) -> pd.DataFrame:
        CALLS.append(lm.ref)
        if data is None:
            return pd.DataFrame({"score": range(n)})
        rows = read_rows(Path(data), lambda row: row)
        return pd.DataFrame({"row": [row.label for row in rows], "score": [row.values["score"] for row in rows]})

    return find_experiment("scores")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    kinds = [f"kind {i // 4}" for i in range(60)]
    kinds[7] = ""
    rows = ({"score": (i // 4) % 7 + 0.1 * (i % 4), "category": kind, "tags": ["a"]} for i, kind in enumerate(kinds))
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lm(seed: int = 0) -> LM:
    model = random_lm("gpt2", byte_tokenizer(), seed=seed)
    model.ref = f"model-{seed}"
    return model


def ends(result: Result) -> tuple[float, ...]:
    return tuple(result.summary[["value", "ci_low", "ci_high"]].iloc[0])


def test_a_column_of_the_file_is_the_unit(scores: Experiment, file: Path):
    plain = probe.run_experiment("scores", lm(), data=file)
    wide = probe.run_experiment("scores", lm(), data=file, unit="category")
    values = plain.items["score"]
    assert ends(plain) == stats.bootstrap_mean(values)
    names = [f"kind {i // 4}" if i != 7 else "alone" for i in range(60)]
    assert ends(wide) == stats.bootstrap_mean(values, units=names)
    assert wide.meta["unit"] == "category"
    assert wide.summary["ci_high"][0] - wide.summary["ci_low"][0] > 1.5 * (ends(plain)[2] - ends(plain)[1])
    two = probe.run_experiment("scores", lm(), baseline=lm(1), data=file, unit="category").summary
    assert two["difference_low"].isna().all()  # equal scores, and nothing bounds them


def test_differences_are_counted_by_the_unit(file: Path):
    table = pd.DataFrame({"item": map(str, range(60)), "score": [float(i // 4) for i in range(60)]})
    table["unit"] = [f"kind {i // 4}" for i in range(60)]
    other = table.assign(score=[(i // 4) ** 2 / 10 for i in range(60)])
    summary = pd.DataFrame({"metric": ["score"], "value": [0.0], "ci_low": [0.0], "ci_high": [0.0], "n": [60]})
    row = differences([Mean("score")], summary, summary, table, other).iloc[0]
    expected = stats.paired_difference(table["score"], other["score"], units=table["unit"])
    assert tuple(row[["difference", "difference_low", "difference_high"]]) == expected


def test_a_stored_result_is_counted_by_another_unit_without_asking(scores: Experiment, file: Path):
    first, plain = lm(), None
    for unit in ("", "category", ""):
        result = obtain(scores, first, data=file, unit=unit)
        assert len(CALLS) == 1
        assert ("unit" in result.items) == bool(unit)
        assert result.finding == f"{result.value('score', 'ci_low'):.6f}"
        plain = plain or ends(result)
    assert ends(result) == plain
    other = obtain(scores, lm(1), data=file, unit="category")
    with pytest.raises(DataError, match="different units"):
        join(scores, [result, other])


@pytest.mark.parametrize(
    ("unit", "message"), [("categorie", "`category`"), ("tags", "has a list in `tags`"), ("none", "its columns are")]
)
def test_a_column_that_is_none_is_refused_before_a_model_is_loaded(
    scores: Experiment, file: Path, unit: str, message: str
):
    with pytest.raises(DataError, match=message):
        call(scores, "no-such-model", data=file, unit=unit)


def test_without_a_file_there_is_no_column(scores: Experiment):
    with pytest.raises(ConfigError, match="unit=category names a column of a data file"):
        probe.run_experiment("scores", lm(), unit="category")


def test_an_older_result_is_summed_up_anew(scores: Experiment, file: Path, tmp_path: Path):
    request = call(scores, lm(), data=file)
    result = probe.run_experiment("scores", lm(), data=file)
    meta = {name: value for name, value in result.meta.items() if name not in ("intervals", "unit")}
    old = replace(result, summary=result.summary.assign(ci_low=-1.0, ci_high=9.0), meta=meta)
    keep(request, old)
    assert ends(obtain(scores, lm(), data=file)) == ends(result)
    assert Result.load(target(request)).value("score", "ci_low") == -1
    store.main([str(tmp_path)])
    stored = Result.load(target(request))
    assert ends(stored) == ends(result)
    assert stored.meta["intervals"] == INTERVALS
    assert len(CALLS) == 1


@pytest.mark.parametrize("drawn", [True, False])
def test_a_result_that_was_stored_without_figures_stays_without(tmp_path: Path, drawn: bool):
    @probe.experiment("drawn", draw=lambda _: {"dots": go.Figure()})
    def run(lm: LM, *, n: int = 9) -> pd.DataFrame:
        return pd.DataFrame({"score": range(n)})

    result = probe.run_experiment("drawn", lm(), n=3)
    figures = result.figures if drawn else {}
    replace(result, figures=figures, meta=result.meta | {"intervals": 0}).save(tmp_path / "old")
    store.main([str(tmp_path)])
    stored = Result.load(tmp_path / "old")
    assert stored.meta["intervals"] == INTERVALS
    assert set(stored.figures) == set(figures)


def test_people_are_read_from_prompts():
    world = World()
    table = pd.DataFrame({"item": map(str, range(80)), "score": 0.5})
    kinds = ("fact", "opinion_false", "pressure", "map")
    asked = [item for kind in kinds for item in world.questions(kind, 20, 0)]
    found = units.with_people(table.assign(prompt=[item.prompt for item in asked]))["person"]
    assert list(found[:60]) == [item.meta["person"] for item in asked[:60]]
    assert found[60:].isna().all()
    assert "person" not in units.with_people(table.assign(prompt="what is it?"))


def test_tables_that_are_functions_of_items_are_counted_anew_with_the_summary(tmp_path: Path):
    def count(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
        return {"means": pd.DataFrame([interval_of(items, "score").row()]), "unasked": pd.DataFrame({"x": [1]})}

    @probe.experiment("means", metrics=[Mean("score")], count=count)
    def run(lm: LM, *, n: int = 9) -> Evidence:
        items = pd.DataFrame({"score": range(n), "person": [f"person {i // 3}" for i in range(n)]})
        other = pd.DataFrame({"x": [2]})
        return Evidence(items, {"means": count(items)["means"], "other": other})

    result = probe.run_experiment("means", lm(), n=60)
    old = result.tables["means"].assign(ci_low=-1.0)
    replace(result, tables=result.tables | {"means": old}, meta=result.meta | {"intervals": 0}).save(tmp_path / "old")
    store.main([str(tmp_path)])
    stored = Result.load(tmp_path / "old")
    assert list(stored.tables) == ["means", "other"]
    for name, table in stored.tables.items():
        pd.testing.assert_frame_equal(table, result.tables[name])
    assert stored.value("score", "ci_low") == stored.tables["means"]["ci_low"][0]
