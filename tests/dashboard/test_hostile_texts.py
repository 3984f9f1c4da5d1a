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

from dashboard.components.table import shown_table
from dashboard.pages import page_file
from probe.plotting.names import file_name, file_stem
from probe.texts import REPLACED, visible
from tests.dashboard.pages import Show, every_tab, open_tab
from tests.dashboard.store import ACTING, NAME


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


@pytest.mark.parametrize("page", ["start", "overview", "training", "train", "sweep", "rewards", "logits"])
def test_no_page_sends_a_letter_that_acts(show: Show, hostile: Path, page: str):
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
    for name in (ACTING, NAME):
        assert not acts(file_name(name))
        assert not acts(file_stem(name, {"base": ACTING, "prompt": ACTING}))


def test_a_table_without_such_letters_is_not_copied():
    table = pd.DataFrame({"a": ["x", None], "b": [1.0, 2.0]})
    assert shown_table(table) is table
    odd = pd.DataFrame({NAME: [NAME, ["y", NAME], None]}, index=[NAME, "a", "a"])
    assert not acts(str(list(texts([shown_table(odd).to_dict("split")]))))
    assert list(shown_table(odd).index) == [visible(NAME), "a", "a"]
    assert odd.columns[0] == NAME
