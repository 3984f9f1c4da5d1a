"""Exports of data by anybody: no cell that a spreadsheet computes, no letter that acts, and every number as it was."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from probe.cli import main
from probe.commands.tables import tsv
from probe.experiments.result import Result
from probe.plotting.csv_text import to_csv
from probe.plotting.export import FORMATS, missing, render, save_provenance
from probe.plotting.latex import escape_latex
from probe.plotting.paper import Paper
from probe.runs import RunWriter
from probe.runs.schema import ProbePrompt
from probe.texts import REPLACED, cell, visible
from tests.probe.test_texts import ACTS

BEGINS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
FORMULAS = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "\r=1", "\n=1", "\uff1d1", "\ufeff=1", "-", "="]
WHOLE = [each for each in ACTS if not "\ud800" <= each <= "\udfff"]
"""Halves of surrogate pairs are replaced when a file is read: no table can hold them."""
HOSTILE = "=cmd|' /C calc'!A0" + "".join(WHOLE)
LETTERS = {letter for each in WHOLE for letter in each if not letter.isprintable()}
TEXT = st.text(st.characters(codec="utf-8"))


def acts(text: str) -> set[str]:
    """Letters of a text that would act instead of being seen."""
    return {letter for letter in text if visible(letter, lines=True) == REPLACED != letter}


def without_plotly(page: str) -> str:
    """A page of HTML without plotly.js, with the letters that JSON writes as escapes."""
    page = page.replace("\r\n", "\n").replace(get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), "")
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), page, flags=re.IGNORECASE)


def cells(text: str, delimiter: str = ",") -> list[str]:
    """All cells, the head's among them."""
    return [each for row in csv.reader(io.StringIO(text), delimiter=delimiter) for each in row]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_is_no_formula(text: str):
    assert cell(text) == "'" + visible(text, lines=True)


@pytest.mark.parametrize("text", ["-1.5", "+3", "1e-5", "-.5", "a=1", " =1", "", "x-y", "<b>", "π"])
def test_numbers_and_other_texts_stay(text: str):
    assert cell(text) == text


@given(
    st.lists(st.tuples(TEXT, st.floats(), st.integers(-(2**62), 2**62), st.booleans()), min_size=1),
    TEXT.filter(lambda name: name not in ("value", "n", "flag", "kind")),
)
def test_a_table_as_csv_keeps_its_numbers(rows: list[tuple[str, float, int, bool]], name: str):
    table = pd.DataFrame(rows, columns=[name, "value", "n", "flag"])
    table["kind"] = table[name].map(str).astype("category")
    text = to_csv(table)
    again = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={"value": [""]})
    np.testing.assert_array_equal(again["value"].to_numpy(float), [row[1] for row in rows])
    assert [int(value) for value in again["n"]] == [row[2] for row in rows]
    assert not acts(text)
    for each in cells(text):
        assert each[:1] not in BEGINS or not each or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?|-inf", each)


def test_columns_of_every_kind():
    table = pd.DataFrame(
        {
            "object": [HOSTILE, -1.5, None, np.int64(-3)],
            "string": pd.array([HOSTILE, "-1", None, "a"], dtype="string"),
            "time": pd.to_datetime(["2024-01-01"] * 4),
            "float": [np.nan, -np.inf, -0.1, 1e300],
            "integer": pd.array([1, None, -3, 4], dtype="Int64"),
        },
        index=[0, 0, 0, 0],
    )
    table = pd.concat([table, table[["float"]]], axis="columns")  # two columns of one name
    plain = table.assign(object=["x", -1.5, None, np.int64(-3)], string=pd.array(["x", "-1", None, "a"])).to_csv(
        index=False
    )
    told = pd.read_csv(io.StringIO(to_csv(table)))
    assert told["object"][0] == told["string"][0] == cell(HOSTILE)
    pd.testing.assert_frame_equal(
        told.drop(columns=["object", "string"]), pd.read_csv(io.StringIO(plain)).drop(columns=["object", "string"])
    )
    assert list(told["object"][1:]) == list(pd.read_csv(io.StringIO(plain))["object"][1:])


@given(st.text())
def test_latex_and_tsv_have_no_letter_that_acts(text: str):
    assert not acts(escape_latex(text))
    line = tsv([{text: text}])
    assert not acts(line)
    assert all(
        each[:1] not in set(BEGINS) or each == "" or re.fullmatch(r"[+-][\d.]+(e[+-]?\d+)?", each, re.I)
        for each in line.split("\n")
    )


def drawn() -> tuple[go.Figure, pd.DataFrame]:
    """A figure with hostile texts wherever data go, and its table."""
    texts = [HOSTILE, *WHOLE]
    chart = go.Figure(
        go.Scatter(x=texts, y=np.arange(len(texts)), text=texts, name=HOSTILE, customdata=[[t] for t in texts])
    )
    chart.add_trace(go.Bar(x=np.array(texts, dtype=object), y=np.arange(len(texts)), hovertext=HOSTILE))
    chart.update_layout(title=HOSTILE, xaxis_title=HOSTILE, annotations=[{"text": HOSTILE, "x": 0, "y": 0}])
    return chart, pd.DataFrame({HOSTILE: texts, "value": range(len(texts))})


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_a_figure(kind: str, tmp_path: Path):
    if kind in ("png", "svg", "pdf") and missing():
        pytest.skip("Chromium is not installed.")
    chart, table = drawn()
    content = render(chart, table, kind, {"figure": HOSTILE}, title=HOSTILE, paper=Paper())
    if kind in ("png", "pdf"):
        assert content  # pixels and glyphs
        return
    text = content.decode()
    assert not acts(without_plotly(text) if kind == "html" else text)
    save_provenance(tmp_path, [], {"figure": HOSTILE})
    written = (tmp_path / "provenance.json").read_text()
    assert "\\u202e" not in written


def hostile_run(folder: Path) -> Path:
    """A run with hostile texts in every field."""
    with RunWriter.create(folder / "run", method=HOSTILE, config={HOSTILE: HOSTILE}, parent=HOSTILE) as run:
        run.log(0, {"loss": 1.0, HOSTILE: 2.0})
        run.log(1, {"loss": -0.5, HOSTILE: 1.0})
        run.prompts(
            [ProbePrompt(id="p", text=HOSTILE, token_ids=[0], tokens=[HOSTILE], answers=[HOSTILE], answer_ids=[0])]
        )
        run.rollouts([{"step": 1, "prompt": HOSTILE, "completion": HOSTILE, "reward": -1.0}])
        run.finish("failed", [{"metric": HOSTILE, "value": -1.0}], HOSTILE)
    return folder / "run"


def test_the_files_of_a_hostile_run_and_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = hostile_run(tmp_path)
    assert main(["export", str(path), "--format", "csv,tex,html", "--out", "out"]) == 0
    items = pd.DataFrame(
        {"item": [HOSTILE, "b"], "model": [HOSTILE, HOSTILE], "x": [-1.0, 2.0], "said": [HOSTILE, "=1"]}
    )
    summary = pd.DataFrame(
        {"metric": [HOSTILE], "model": [HOSTILE], "value": [-1.0], "ci_low": [-2.0], "ci_high": [0.0]}
    )
    Result(HOSTILE, items, summary, {HOSTILE: items}, {}, {"title": HOSTILE}).save(tmp_path / "result")
    assert main(["report", str(path), "--out", "out/report.html"]) == 0
    capsys.readouterr()
    assert main(["runs", "list", "--root", str(tmp_path)]) == 0
    assert not acts(capsys.readouterr().out)
    files = [file for file in [*(tmp_path / "out").rglob("*"), tmp_path / "result" / "summary.csv"] if file.is_file()]
    assert {file.suffix for file in files} >= {".csv", ".tex", ".html", ".json"}
    for file in files:
        text = file.read_text()
        assert not acts(without_plotly(text) if file.suffix == ".html" else text), file
        if file.suffix == ".csv":
            assert not [
                each for each in cells(text) if each[:1] in BEGINS and each and not re.fullmatch(r"-?[\d.e-]+", each)
            ]
