"""docs/runs.md says what is there: its pandas lines run, its tables name what the code writes."""

import re
from pathlib import Path

import pandas as pd
import pytest

from probe.runs import RunWriter, open_run
from probe.runs.schema import CAPTURE_DTYPES, META_TYPES, SCHEMA, TRAINER_STATE
from tests.runs.conftest import HEADLINE, Make

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")


def code(heading: str) -> list[str]:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.S)


def test_the_pandas_lines_give_what_the_reader_gives(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    writer = make("runs/dpo-honest")
    for step in (0, 1, 2, 3):
        writer.log(step, {"loss": 1.0 + step})
        writer.log(step, {"eval_loss": 2.0 + step})
    writer.finish()
    with RunWriter.resume(writer.path, 1) as again:
        again.log(2, {"loss": 20.0})
    read, resumed = code("Reading with pandas alone")
    start, group, rest = read.partition('log = log.groupby("step", as_index=False).last()')
    names: dict[str, object] = {}
    exec(start + resumed + group + rest.replace("log.plot", "figure = log.plot"), names)
    log, figure = names["log"], names["figure"]
    assert list(figure.data[0].y) == [1, 2, 20]  # type: ignore[attr-defined]
    assert isinstance(log, pd.DataFrame)
    expected = open_run("runs/dpo-honest").metrics()
    pd.testing.assert_frame_equal(log[list(expected.columns)], expected, check_dtype=False)
    assert log["loss"].tolist() == [1, 2, 20]


def test_the_tables_name_every_entry(make: Make):
    writer = make()
    writer.finish(headline=HEADLINE)
    meta = open_run(writer.path).meta
    for name in {*META_TYPES, *meta, "pid", "host"}:
        assert re.search(rf"^\| .*`{name}`.* \|", TEXT, flags=re.M), name
    for name, kind in CAPTURE_DTYPES.items():
        assert re.search(rf"^\| `{name}` \| [PDHTkAnQCd+12 ]+ \| {kind} \|", TEXT, flags=re.M), name
    assert f"schema **{SCHEMA}**" in TEXT
    assert all(f"`{name}`" in TEXT for name in TRAINER_STATE)
