"""Results on disk: whatever is in them comes back; what is damaged or newer is refused in one sentence."""

import gzip
import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.errors import DataError, RunError
from probe.experiments.metrics import Mean, summarise
from probe.experiments.result import RESULT_FILE, Evidence, Result, label_items, records, stack, stems

HARD = ["3", "nan", "None", "null", "", "2020-01-01", "1e5", "true", "\ud800", "a\udfff", "\u2028", "é\n,\"'", "\0"]
texts = st.sampled_from(HARD) | st.text(st.characters(codec=None), max_size=8)
numbers = st.floats(allow_nan=True, allow_infinity=False)
CELLS: dict[str, Any] = {
    "text": texts,
    "str": st.sampled_from(HARD[:8]) | st.text(st.characters(codec="utf-8"), max_size=8),
    "text or none": texts | st.none(),
    "float": numbers,
    "int": st.integers(-(2**63), 2**63 - 1),
    "any int": st.integers(),
    "bool": st.booleans(),
    "bool or none": st.booleans() | st.none(),
    "int or none": st.integers(-(2**53), 2**53) | st.none(),
    "nothing": st.none(),
    "list": st.lists(st.integers() | texts, max_size=3),
}


@st.composite
def tables(draw: Any) -> pd.DataFrame:
    """A table of any columns; those of texts may hold what Arrow's texts cannot."""
    rows = draw(st.integers(0, 4))
    columns = draw(st.dictionaries(st.sampled_from([*HARD[:8], "x", "ci low"]), st.sampled_from(list(CELLS))))
    made = {}
    for name, kind in columns.items():
        values = draw(st.lists(CELLS[kind], min_size=rows, max_size=rows))
        made[name] = pd.Series(
            values, dtype={"float": float, "int": "int64", "bool": bool, "str": "str"}.get(kind, object)
        )
    return pd.DataFrame(made, index=range(rows))


def result(items: pd.DataFrame, **tables: pd.DataFrame) -> Result:
    summary = pd.DataFrame({"metric": ["3"], "value": [0.5], "ci_low": [math.nan], "ci_high": [1.0], "n": [2]})
    chart = go.Figure(go.Scatter(x=[1, 2], y=[1, None], name="a\ud800"))
    meta = {"models": [{"label": "base", "method": "pretrain"}], "finding": "0.5 \ud800", "seconds": math.nan}
    return Result("echo", summary, items, tables, {"a figure": chart}, meta)


def same(found: pd.DataFrame, written: pd.DataFrame) -> None:
    """Equal cells; what is no number, or missing, is missing."""
    assert list(found) == list(map(str, written))
    assert len(found) == len(written)
    for name in written:
        assert found[name].dtype == written[name].dtype
        for one, other in zip(found[name], written[name], strict=True):
            if isinstance(other, float) and math.isnan(other):
                assert math.isnan(one)
            else:
                assert type(one) is type(other)
                assert one == other


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=tables(), curve=tables())
def test_any_result_survives(items: pd.DataFrame, curve: pd.DataFrame, tmp_path: Path):
    written = result(items, curve=curve)
    found = Result.load(written.save(tmp_path / "r"))
    same(found.items, items if len(items.columns) else items.iloc[:0])
    same(found.tables["curve"], curve)
    same(found.summary.astype({"metric": object}), written.summary.astype({"metric": object}))
    assert found.name == "echo"
    assert found.meta == written.meta | {"seconds": None}
    assert found.figures["a figure"].data[0].y[0] == 1
    packed = gzip.decompress((tmp_path / "r" / "items.json.gz").read_bytes()).decode()
    for text in (packed, *(tmp_path / "r" / "tables" / "curve.jsonl").read_text("utf-8").split("\n")[:-1]):
        json.loads(text, parse_constant=lambda word: pytest.fail(word))


@pytest.mark.parametrize("kind", ["string", "boolean", "Int64", "float32", "int32", "category"])
def test_other_types_keep_their_values(kind: str, tmp_path: Path):
    cells: dict[str, list] = {"string": ["3", None], "boolean": [True, None], "Int64": [2**60 + 1, None]}
    items = pd.DataFrame({"x": pd.Series(cells.get(kind, [1, 2]), dtype=kind)})
    found = Result.load(result(items).save(tmp_path / "r")).items["x"]
    assert found.isna().tolist() == items["x"].isna().tolist()
    assert found[0] == items["x"][0]


def test_dates_become_text_and_infinity_nothing(tmp_path: Path):
    items = pd.DataFrame({"day": [date(2020, 1, 2)], "time": [pd.Timestamp("2020-01-02 03:04")], "x": [math.inf]})
    found = Result.load(result(items).save(tmp_path / "r")).items
    assert found["day"].tolist() == ["2020-01-02"]
    assert found["time"][0].startswith("2020-01-02T03:04")
    assert found["x"].isna().all()
    assert records(pd.DataFrame({"t": [pd.NaT]})) == [{"t": None}]


def test_pandas_reads_the_folder_alone(tmp_path: Path):
    items = pd.DataFrame({"item": ["q-1", "q-2"], "x": [1.5, math.nan]})
    folder = result(items, curve=items).save(tmp_path / "r")
    pd.testing.assert_frame_equal(pd.read_json(folder / "items.json.gz"), items)
    pd.testing.assert_frame_equal(pd.read_json(folder / "tables" / "curve.jsonl", lines=True), items)
    assert pd.read_csv(folder / "summary.csv")["value"].tolist() == [0.5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_names_that_make_equal_files_stay_apart(tmp_path: Path):
    one, two = pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [2]})
    written = result(one, **{"a b": one, "a-b": two, "A b": one, "../b": two, "": one})
    found = Result.load(written.save(tmp_path / "r"))
    assert [table["x"].tolist() for table in found.tables.values()] == [[1], [2], [1], [2], [1]]
    assert stems(["a b", "a-b", "A/B"]) == {"a b": "a-b", "a-b": "a-b-2", "A/B": "A-B-3"}


def test_an_older_result_is_replaced_and_nothing_else(tmp_path: Path):
    written = result(pd.DataFrame({"x": [1]}), old=pd.DataFrame({"x": [1]}))
    folder = written.save(tmp_path / "r")
    result(pd.DataFrame({"x": [2]})).save(folder)
    assert Result.load(folder).items["x"].tolist() == [2]
    assert not (folder / "tables").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for taken in ("run", "file"):
        with pytest.raises(DataError, match="holds something other than a result: give a new folder"):
            written.save(tmp_path / taken)
    assert (tmp_path / "run" / "run.json").read_text() == "{}"
    (tmp_path / "empty").mkdir()
    assert written.save(tmp_path / "empty") == tmp_path / "empty"


def test_the_working_directory_can_be_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="could not be written"):
        result(pd.DataFrame({"x": [1]})).save("/proc/no/r")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert result(pd.DataFrame({"x": [1]})).save(".") == tmp_path / "sub"
    assert (tmp_path / "sub" / RESULT_FILE).is_file()


def rewrite(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / RESULT_FILE).read_text())
    (folder / RESULT_FILE).write_text(json.dumps({**index, **changes}))


def pack(folder: Path, text: str) -> None:
    (folder / "items.json.gz").write_bytes(gzip.compress(text.encode()))


def older(folder: Path, text: str) -> None:
    """Make a result one of format 1, whose items are JSON Lines."""
    (folder / "items.json.gz").unlink()
    (folder / "items.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    rewrite(folder, format=1)


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-12])


DAMAGES: dict[str, Any] = {
    "cut": (lambda f: (f / RESULT_FILE).write_text('{"format": 1, "na'), "cut short"),
    "absent": (lambda f: (f / RESULT_FILE).unlink(), "holds no result.json"),
    "list": (lambda f: (f / RESULT_FILE).write_text("[]"), "not the record of an experiment"),
    "bytes": (lambda f: (f / RESULT_FILE).write_bytes(b"\xff\xfe"), "cut short"),
    "newer": (lambda f: rewrite(f, format=99), "has format 99 and this version of Probe reads up to 2"),
    "format": (lambda f: rewrite(f, format=True), "not the record of an experiment"),
    "name": (lambda f: rewrite(f, name=None), "not the record of an experiment"),
    "models": (lambda f: rewrite(f, meta={"models": [{"ref": "base"}]}), "not the record of an experiment"),
    "tables": (lambda f: rewrite(f, tables=["curve"]), "is damaged"),
    "columns": (lambda f: rewrite(f, columns={}), "is damaged"),
    "dtypes": (lambda f: rewrite(f, dtypes={"items": ["bool"]}), "is damaged"),
    "summary": (lambda f: rewrite(f, summary=[{"metric": "x", "value": "high"}]), "is damaged"),
    "columns cut": (lambda f: pack(f, '{"item": ["a", "b"],\n"x": [1.0'), "is damaged"),
    "unequal": (lambda f: pack(f, '{"item": ["a", "b"], "x": [1.0]}'), "is damaged"),
    "other columns": (lambda f: pack(f, '{"item": ["a", "b"], "y": [1.0, 2.0]}'), "is damaged"),
    "packed": (lambda f: (f / "items.json.gz").write_text("1\n2\n"), "is damaged"),
    "torn": (lambda f: tear(f / "items.json.gz"), "is damaged"),
    "scalars": (lambda f: pack(f, '{"item": 1, "x": 2}'), "is damaged"),
    "lines": (lambda f: (f / "tables" / "curve.jsonl").write_text('{"x": 1}\n{"x":'), "is damaged"),
    "old": (lambda f: older(f, '{"x": 1}\n{"x":'), "is damaged"),
    "table": (lambda f: (f / "tables" / "curve.jsonl").unlink(), "is damaged"),
    "figure": (lambda f: (f / "figures" / "a-figure.json").write_text("{"), "is damaged"),
    "no figure": (lambda f: (f / "figures" / "a-figure.json").write_text("[1]"), "is damaged"),
}


@pytest.mark.parametrize("name", list(DAMAGES))
def test_damage_is_one_sentence(name: str, tmp_path: Path):
    items = pd.DataFrame({"item": ["a", "b"], "x": [1.0, 2.0]})
    folder = result(items, curve=items).save(tmp_path / "r")
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        Result.load(folder)
    assert "\n" not in str(caught.value)


def test_a_result_of_format_1_is_read_and_replaced(tmp_path: Path):
    items = pd.DataFrame({"item": ["a", "b"], "x": [1.0, math.nan], "s": ["é", None], "b": [True, False]})
    written = result(items, curve=items)
    folder = written.save(tmp_path / "r")
    older(folder, "".join(json.dumps(row) + "\n" for row in records(items)))
    found = Result.load(folder)
    same(found.items, items)
    same(found.tables["curve"], items)
    assert Result.load(found.save(folder)).items.equals(found.items)
    assert not (folder / "items.jsonl.gz").exists()


def test_items_get_names_and_models():
    evidence = Evidence(pd.DataFrame({"x": [1, 2]}), {"curve": pd.DataFrame({"y": [1]})})
    found = label_items(evidence, "base")
    assert found.items.to_dict("list") == {"item": ["0", "1"], "model": ["base", "base"], "x": [1, 2]}
    assert found.tables["curve"]["model"].tolist() == ["base"]
    odd = label_items(Evidence(pd.DataFrame({"x": [1, 2], "item": pd.Series([7, "\ud800"], dtype=object)})), "base")
    assert odd.items["item"].tolist() == ["7", "\ud800"]
    with pytest.raises(DataError, match="Two items are called `a`"):
        label_items(Evidence(pd.DataFrame({"item": ["a", "b", "a"]})), "base")
    twice = pd.DataFrame([[1, 2]], columns=["x", "x"])
    for wrong in (Evidence(twice), Evidence(pd.DataFrame({"y": [1]}), {"t": twice})):
        with pytest.raises(DataError, match="two columns `x`"):
            label_items(wrong, "base")


def test_stacked_columns_keep_their_types():
    """A model of which a column holds nothing decides neither its type nor brings a warning of pandas."""
    full = pd.DataFrame({"i": [1, 2], "x": [1.0, math.nan], "s": ["a", None], "b": [True, False], "t": [1, 2]})
    bare = pd.DataFrame({"i": [3], "x": [math.nan], "s": [None], "b": [None], "u": [math.nan]})
    for parts in ([full, bare], [bare, full], [full, full.iloc[:0], bare]):
        found = stack(parts)
        assert set(found) == {"i", "x", "s", "b", "t", "u"}
        assert found.dtypes[["i", "x", "u"]].astype(str).tolist() == ["int64", "float64", "float64"]
        assert sorted(found["i"]) == [1, 2, 3]
        assert found["s"].dropna().tolist() == ["a"]
        assert sorted(found["b"].dropna()) == [False, True]
        assert pd.api.types.is_numeric_dtype(found["t"])
    empty = full.iloc[:0]
    assert list(stack([empty, empty])) == list(full)


def test_numbers_by_name():
    items = pd.DataFrame({"item": ["a", "b"], "x": [1.0, 2.0]})
    found = Result("echo", summarise([Mean("x")], items), items)
    assert found.value("x") == 1.5
    assert found.value("x", "n") == 2
    with pytest.raises(DataError, match="has no `value` of a metric `y`: its metrics are x"):
        found.value("y")
    with pytest.raises(DataError, match="no `difference` of a metric `x`"):
        found.value("x", "difference")


def test_a_notebook_shows_no_markup_of_data():
    items = pd.DataFrame({"item": ["a"], "x": [1.0]})
    summary = summarise([Mean("<b>x</b>", "x")], items)
    shown = Result("echo", summary, items, meta={"title": "<i>", "finding": "<script>"})._repr_html_()
    assert "<script>" not in shown
    assert "<b>x" not in shown
    assert "<i>" not in shown


def test_floats_come_back_to_the_bit(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=500) * 10.0 ** np.arange(-250, 250)
    found = Result.load(result(pd.DataFrame({"x": values})).save(tmp_path / "r"))
    np.testing.assert_array_equal(found.items["x"], values)
