"""Options of a dataclass as data: what a form needs, and the words that a filled form is on the command line."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from probe.options import describe, docstrings, options, parse, words


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 2
    """How deep."""


@dataclass(frozen=True, kw_only=True)
class Common:
    out: Path
    """Where to."""
    steps: int = 3
    """How many."""


@dataclass(frozen=True, kw_only=True)
class Example(Common):
    base: str
    """What to start from:
    any model."""
    steps: int = 7
    """How many in all."""
    rate: float = 1e-4
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    track: Literal["x"] | None = None
    top: int | None = None
    names: tuple[str, ...] = ("u", "v")
    pair: tuple[float, float] = (0.9, 0.95)
    shares: Mapping[str, float] = field(default_factory=lambda: {"p_q": 0.5})
    extra: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


FIELDS = {each["name"]: each for each in describe(Example, Common)}


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("out", "path", None),
        ("base", "text", None),
        ("steps", "int", 7),
        ("rate", "float", 1e-4),
        ("fast", "flag", False),
        ("kind", "choice", "a"),
        ("track", "choice", None),
        ("top", "int", None),
        ("names", "list", ["u", "v"]),
        ("pair", "list", [0.9, 0.95]),
        ("shares.p_q", "float", 0.5),
        ("extra", "map", {}),
        ("inner.depth", "int", 2),
    ],
)
def test_type_and_default(name: str, kind: str, default: object):
    assert (FIELDS[name]["type"], FIELDS[name]["default"]) == (kind, default)


def test_what_a_form_must_know():
    assert [name for name, each in FIELDS.items() if each["required"]] == ["out", "base"]
    assert [name for name, each in FIELDS.items() if each["optional"]] == ["track", "top"]
    assert [name for name, each in FIELDS.items() if each["common"]] == ["out", "steps"]
    assert FIELDS["kind"]["choices"] == ["a", "b"]
    assert FIELDS["inner.depth"]["flag"] == "--inner.depth"
    assert json.loads(json.dumps(list(FIELDS.values()))) == list(FIELDS.values())
    flags = {each["flag"] for each in FIELDS.values()}
    assert flags - {"--shares.p-q"} == {name for name in options(Example) if name[:5] != "--no-"} - {"--shares"}


def test_the_nearest_docstring_counts():
    assert docstrings(Example)["steps"] == "How many in all."
    assert docstrings(Example)["base"] == "What to start from: any model."
    assert docstrings(Example)["out"] == "Where to."
    assert "rate" not in docstrings(Example)


def test_words_are_parsed_back():
    given: dict[str, Any] = {
        "--out": "there",
        "--base": "x y",
        "--rate": "5e-6",
        "--fast": True,
        "--kind": "b",
        "--names": ["one", "two"],
        "--shares.p-q": "0.25",
        "--extra": ["q", "0.25", "r", "0.75"],
        "--inner.depth": "4",
    }
    config = parse(Example, list(words(given)), "example")
    expected = {"fast": True, "kind": "b", "names": ("one", "two"), "inner": Inner(depth=4), "rate": 5e-6}
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.shares, config.extra) == ({"p_q": 0.25}, {"q": 0.25, "r": 0.75})
    assert list(words({"--fast": False, "--names": []})) == ["--no-fast", "--names"]
