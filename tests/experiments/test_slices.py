"""Slices: what they select, and the file in which they are kept."""

import json
from pathlib import Path

import pandas as pd
import pytest

from probe.errors import ConfigError, DataError
from probe.experiments.metrics import Mean, Share
from probe.experiments.slices import (
    DIFFER,
    MOST,
    ONES,
    ZEROS,
    Slice,
    keep_slice,
    read_slices,
    remove_slice,
    rename_slice,
    slices_file,
)
from probe.untrusted import MB

METRICS = {"hit": Share("hit"), "length": Mean("length"), "odd": Share("hit", where={"kind": "b"})}


def items() -> pd.DataFrame:
    """Four items of two kinds, answered by two models."""
    one = {
        "item": ["a-0", "a-1", "b-0", "b-1"],
        "kind": ["a", "a", "b", "b"],
        "prompt": ["The Red fox", "a hen", None, "a cow"],
        "expected": ["fox", "hen", "owl", "cow"],
    }
    first = pd.DataFrame({**one, "model": "x", "answer": ["fox", "red", "owl", None], "hit": [1, 0, 1, None]})
    second = pd.DataFrame({**one, "model": "y", "answer": ["fox", "hen", "nan", "cow"], "hit": [1, 1, 0, 0]})
    return pd.concat([first.assign(length=1.0), second.assign(length=[1.0, 2, 1, 1])], ignore_index=True)


@pytest.mark.parametrize(
    ("each", "names"),
    [
        (Slice(), ["a-0", "a-1", "b-0", "b-1"]),
        (Slice(kinds=("b",)), ["b-0", "b-1"]),
        (Slice(text="RED"), ["a-0", "a-1"]),
        (Slice(text="nan"), ["b-0"]),
        (Slice(text="red", kinds=("b",)), []),
        (Slice(show=ONES, metric="hit", model="x"), ["a-0", "b-0"]),
        (Slice(show=ZEROS, metric="hit", model="x"), ["a-1"]),
        (Slice(show=ZEROS, metric="hit"), ["a-1", "b-0", "b-1"]),
        (Slice(show="answered right", model="x"), ["a-0", "b-0"]),
        (Slice(show="answered wrong"), ["a-1", "b-0"]),
        (Slice(show=DIFFER), ["a-1", "b-0"]),  # one answer of b-1 is unknown
        (Slice(show=DIFFER, metric="length"), ["a-1"]),
        (Slice(show=ONES, metric="odd"), ["b-0"]),
    ],
)
def test_a_slice_selects_items_for_all_models(each: Slice, names: list[str]):
    assert each.select(items(), METRICS) == names


def test_equal_filters_are_equal():
    assert Slice(kinds=("b", "a", "a"), metric="hit", model="x") == Slice(kinds=("a", "b"))
    assert Slice(show=DIFFER, model="x") == Slice(show=DIFFER)
    assert Slice(metric="hit").is_all
    assert Slice("fox", ("a",), "red", ONES, "hit", "x").describe(str.upper) == (
        "kind a; text \u201cred\u201d; counted (1) in \u201cHIT\u201d by x"
    )


@pytest.mark.parametrize(
    ("each", "word"),
    [
        (Slice("s", show="answered wrong", model="z"), "answers of `z`"),
        (Slice("s", show=ONES, metric="other"), "the metric `other`"),
        (Slice("s", kinds=("c",)), "the kind c"),
    ],
)
def test_a_slice_that_does_not_apply_says_why(each: Slice, word: str):
    with pytest.raises(DataError, match=word):
        each.select(items(), METRICS)


@pytest.mark.parametrize(("show", "word"), [("some", "answered right"), (ONES, "needs a metric")])
def test_a_filter_that_means_nothing_is_refused(show: str, word: str):
    with pytest.raises(ConfigError, match=word):
        Slice(show=show)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without slices; returns the file of those of `echo`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / slices_file("echo")


FOX, HEN = Slice("fox", text="fox"), Slice("hen", ("a",), show=ONES, metric="hit", model="x")


def test_slices_are_kept_renamed_and_removed(here: Path):
    assert read_slices("echo") == []
    keep_slice("echo", FOX)
    keep_slice("echo", HEN)
    assert read_slices("echo") == [FOX, HEN]
    assert read_slices("other") == []
    keep_slice("echo", Slice("fox", text="vixen"))
    assert [each.text for each in read_slices("echo")] == ["vixen", ""]
    rename_slice("echo", "fox", "vixen")
    with pytest.raises(ConfigError, match="another slice `hen`"):
        rename_slice("echo", "vixen", "hen")
    remove_slice("echo", "hen")
    assert read_slices("echo") == [Slice("vixen", text="vixen")]


def test_entries_that_cannot_be_read_hide_only_themselves_and_stay(here: Path):
    bad = [
        3,
        None,
        {"name": "x"},
        {"name": ["x"], "text": "y"},
        {"name": "x", "text": "y", "show": "other"},
        {"name": "x", "kinds": "ab", "text": 3},
        {"name": "x\u202ey", "text": "y"},
        {"name": "x", "text": "y" * 1000},
        {"name": "x", "kinds": {"a": 1}},
        {"text": "y"},
    ]
    entry = {"name": "fox", "text": "fox", "colour": "of a newer version"}
    here.parent.mkdir(parents=True)
    here.write_text(json.dumps({"format": 1, "slices": [*bad, entry, entry]}))
    assert read_slices("echo") == [FOX]
    keep_slice("echo", HEN)
    assert read_slices("echo") == [FOX, HEN]
    assert json.loads(here.read_text())["slices"][: len(bad) + 1] == [*bad, entry]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format": 1, "slices": {}}', "[" * 500 + "]" * 500, '{"a": "' + "x" * MB + '"}']
)
def test_a_file_that_is_damaged_is_never_overwritten(here: Path, text: str):
    here.parent.mkdir(parents=True)
    here.write_text(text)
    for act in (lambda: read_slices("echo"), lambda: keep_slice("echo", FOX), lambda: remove_slice("echo", "fox")):
        with pytest.raises(DataError, match="correct or delete"):
            act()
    assert here.read_text() == text


def test_a_file_of_a_newer_version_is_refused(here: Path):
    here.parent.mkdir(parents=True)
    here.write_text('{"format": 2, "slices": []}')
    with pytest.raises(DataError, match="format 2"):
        keep_slice("echo", FOX)


@pytest.mark.parametrize("name", ["", " ", " fox", "fox\n", "a\u202eb", "x" * 61])
def test_a_bad_name_is_refused(here: Path, name: str):
    with pytest.raises(ConfigError, match="name"):
        keep_slice("echo", Slice(name, text="fox"))
    keep_slice("echo", FOX)
    with pytest.raises(ConfigError, match="name"):
        rename_slice("echo", "fox", name)
    assert read_slices("echo") == [FOX]


def test_what_filters_nothing_or_is_too_much_is_refused(here: Path):
    with pytest.raises(ConfigError, match="filter them first"):
        keep_slice("echo", Slice("all of them"))
    with pytest.raises(ConfigError, match="at most 500"):
        keep_slice("echo", Slice("long", text="x" * 501))
    for number in range(MOST):
        keep_slice("echo", Slice(str(number), text="fox"))
    keep_slice("echo", Slice("0", text="hen"))
    with pytest.raises(ConfigError, match="at most 100 slices"):
        keep_slice("echo", FOX)


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", "a/b", "..", "con"])
def test_the_file_lies_in_the_folder_of_slices(here: Path, name: str):
    keep_slice(name, FOX)
    (file,) = here.parent.iterdir()
    assert file.suffix == ".json"
    assert read_slices(name) == [FOX]
