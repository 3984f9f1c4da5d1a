"""No page hands a letter to the browser that would act instead of being seen, whatever a run holds and is called."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from google.protobuf.message import Message
from streamlit.testing.v1 import AppTest

from dashboard import jobs
from dashboard.components.table import shown_table
from dashboard.pages import page_file, page_names
from probe.plotting.names import file_name, file_stem
from probe.runs import RunWriter
from probe.sweep.journal import JOURNAL, LOGS
from probe.texts import REPLACED, visible
from tests.dashboard import store
from tests.dashboard.pages import FEW, Show, every_tab, open_tab
from tests.probe.test_texts import HOSTILE as ACTING

HOSTILE = "=x" + ACTING.replace("\r", "").replace("\x85", "").replace("\u2028", "").replace("\u2029", "")
NAME = "=1+1 \x1b[31m \u202e \u2066y\x07"


def acts(text: str) -> set[str]:
    """Letters of a text that would act instead of being seen."""
    return {letter for letter in text if visible(letter, lines=True) == REPLACED != letter}


def texts(value: Any) -> Iterator[str]:
    """Every text inside of what is sent: of messages, tables, figures and other JSON."""
    if isinstance(value, Message):
        for field, part in value.ListFields():
            if field.name != "id":  # no reader sees it
                yield from texts(part)
    elif isinstance(value, str):
        try:
            inside = json.loads(value) if value[:1] in ("{", "[") else value
        except ValueError:
            inside = value
        if isinstance(inside, str):
            yield inside
        else:
            yield from texts(inside)
    elif isinstance(value, bytes):
        try:
            table = pa.ipc.open_stream(value).read_all()
        except pa.ArrowInvalid:
            return
        yield from table.column_names
        for column in table.columns:
            yield from texts(column.to_pylist())
    elif isinstance(value, dict) or hasattr(value, "items"):
        for name, part in value.items():
            yield from texts(name)
            yield from texts(part)
    elif isinstance(value, list | tuple) or hasattr(value, "__iter__"):
        for part in value:
            yield from texts(part)


def nodes(node: Any) -> Iterator[Any]:
    """All elements and blocks of a page."""
    yield node
    for child in getattr(node, "children", {}).values():
        yield from nodes(child)


def acting(app: AppTest) -> list[tuple[str, set[str], str]]:
    """Kind, letters and text of what a page sends though it would act."""
    return [
        (node.type, acts(text), text[:120])
        for node in nodes(app._tree)
        if getattr(node, "proto", None) is not None
        for text in texts(node.proto)
        if acts(text)
    ]


@pytest.fixture(scope="module")
def hostile(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a training and a sweep that are hostile in every field; the folders are, too."""
    root = tmp_path_factory.mktemp("hostile") / f"runs {NAME}"
    root.mkdir()
    about = {"method": HOSTILE, "config": {HOSTILE: HOSTILE, "steps": 20, "base": HOSTILE}, "parent": HOSTILE}
    store.captured(root / f"captured {NAME}", text=HOSTILE, **about)
    store.sampled(root / f"sampled {NAME}", text=HOSTILE, **about)
    with RunWriter.create(root / f"named {NAME}", data={HOSTILE: HOSTILE, "reward": HOSTILE}, **about) as run:
        run.log(0, {"loss": 1.0, HOSTILE: 2.0, f"rewards/{HOSTILE}": 1.0})
        run.log(1, {"loss": 0.5, HOSTILE: 1.0, f"rewards/{HOSTILE}": 2.0})
        run.finish("failed", [{"metric": HOSTILE, "value": 1.0, "ci_low": 0.0, "ci_high": 2.0, "n": 3}], HOSTILE)
    (root / f"broken {NAME}").mkdir()
    (root / f"broken {NAME}" / "run.json").write_text(HOSTILE)
    folder = root / jobs.FOLDER
    folder.mkdir()
    known = {"method": HOSTILE, "pid": 2**22 + 1, "started": 1000.0}
    (folder / f"named {NAME}.json").write_text(json.dumps(known))
    (folder / f"named {NAME}.log").write_text(HOSTILE)
    a_sweep(root / f"sweep {NAME}")
    return root


def a_sweep(out: Path) -> None:
    """A sweep of which every word is hostile."""
    (out / ".sweep" / LOGS).mkdir(parents=True)
    task = {"name": NAME, "entry": HOSTILE, "kind": "train", "command": ["probe", HOSTILE], "needs": [HOSTILE]}
    events = [
        {"event": "begin", "tasks": [task, {**task, "name": "b"}]},
        {"event": "start", "task": NAME, "time": 60.0, "node": HOSTILE},
        {"event": "end", "task": NAME, "state": "failed", "message": HOSTILE},
    ]
    (out / ".sweep" / JOURNAL).write_text("\n".join(map(json.dumps, events)))
    (out / ".sweep" / LOGS / f"{NAME}.log").write_text(HOSTILE)
    RunWriter.create(out / NAME, method=HOSTILE, config={HOSTILE: HOSTILE}).finish("finished")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("page", page_names())
def test_no_page_sends_a_letter_that_acts(show: Show, runs: Path, hostile: Path, page: str):
    app = show(hostile, runs, page=page_file(page), **FEW)
    for each in every_tab(app):
        assert not each.exception
        found = acting(each)
        assert not found, {(kind, text[:60]) for kind, _, text in found}


@pytest.mark.parametrize("page", ["start", "overview", "training", "train", "sweep", "rewards", "logits"])
def test_nor_where_all_runs_are_hostile(show: Show, hostile: Path, page: str):
    app = show(hostile, page=page_file(page))
    for each in every_tab(app):
        assert not each.exception
        found = acting(each)
        assert not found, {(kind, text[:60]) for kind, _, text in found}


def test_what_is_shown_can_be_chosen(show: Show, hostile: Path):
    app = open_tab(show(hostile, page=page_file("overview")), "One run")
    box = app.selectbox(key="run")
    for name in (f"captured {NAME}", f"sampled {NAME}"):
        assert visible(name) in box.options
        app.selectbox(key="run").select(name).run()
        assert not app.exception
        assert app.selectbox(key="run").value == name
        assert not acting(app)


def test_files_have_plain_names(hostile: Path):
    for name in (HOSTILE, NAME):
        assert not acts(file_name(name))
        assert not acts(file_stem(name, {"base": HOSTILE, "prompt": HOSTILE}))


def test_a_table_without_such_letters_is_not_copied():
    table = pd.DataFrame({"a": ["x", None], "b": [1.0, 2.0]})
    assert shown_table(table) is table
    odd = pd.DataFrame({NAME: [NAME, ["y", NAME], None]}, index=[NAME, "a", "a"])
    assert not acts(str(list(texts([shown_table(odd).to_dict("split")]))))
    assert list(shown_table(odd).index) == [visible(NAME), "a", "a"]
    assert odd.columns[0] == NAME
