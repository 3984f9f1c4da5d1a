"""Options of an experiment for the command line and for a form: from its signature and its docstring."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pytest

import probe
from probe.errors import ConfigError
from probe.experiments.definition import HELP, form
from probe.experiments.registry import experiments, find_experiment
from probe.options import argument_help, describe, parse
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

pytestmark = pytest.mark.usefixtures("registry")


def same(text: str) -> str:
    return text


@pytest.fixture
def asked() -> Any:
    @probe.experiment("ask")
    def ask(
        lm: "LM",
        *,
        data: str | Path | None = None,
        n: int = 20,
        seed: int = 0,
        how: Literal["quick", "sum"] = "sum",
        share: float = 0.5,
        kinds: "tuple[str, ...]" = ("fact", "stranger"),
        unread: "Nowhere" = 3,  # noqa: F821
        strict: bool = False,
        equal: Any = same,
        tick: Tick = ignore,
    ) -> pd.DataFrame:
        """Asks.

        More of it.

        Args:
            n: how many questions,
                over all kinds.
            how: in which way; a colon: here.
            tick: called.

        Returns:
            items: not an argument.
        """
        return pd.DataFrame({"x": [1]})

    return find_experiment("ask")


def test_each_option_has_type_default_and_help(asked: Any):
    described = {each["name"]: each for each in describe(form(asked))}
    assert list(described) == ["data", "n", "seed", "how", "share", "kinds", "unread", "strict"]
    kinds = {name: (each["type"], each["default"]) for name, each in described.items()}
    assert kinds == {
        "data": ("text", None),
        "n": ("int", 20),
        "seed": ("int", 0),
        "how": ("choice", "sum"),
        "share": ("float", 0.5),
        "kinds": ("list", ["fact", "stranger"]),
        "unread": ("int", 3),
        "strict": ("flag", False),
    }
    assert described["how"]["choices"] == ["quick", "sum"]
    assert described["n"]["help"] == "how many questions, over all kinds."
    assert described["how"]["help"] == "in which way; a colon: here."
    assert described["seed"]["help"] == HELP["seed"]
    assert described["share"]["help"] == ""
    assert set(argument_help(asked.function)) == {"n", "how", "tick"}
    assert asked.about == "Asks.\n\nMore of it."


def test_the_command_line_fills_the_form(asked: Any):
    words = ["--n", "3", "--how", "quick", "--kinds", "a", "b", "--strict", "--data", "x.jsonl", "--share", "1"]
    made = parse(form(asked), words, "probe experiment ask")
    values = {each.name: getattr(made, each.name) for each in fields(made)}
    told = {"n": 3, "seed": 0, "how": "quick", "share": 1.0, "kinds": ("a", "b"), "unread": 3, "strict": True}
    assert {name: value for name, value in values.items() if name != "data"} == told
    assert str(values["data"]) == "x.jsonl"
    with pytest.raises(ConfigError, match="--how"):
        parse(form(asked), ["--how", "slow"], "probe experiment ask")


def test_an_option_without_type_and_default_is_refused():
    @probe.experiment("ask")
    def ask(lm, *, what, n=3):  # type: ignore[no-untyped-def]
        """Asks."""

    with pytest.raises(ConfigError, match="option `what` of the experiment `ask` needs a type or a default"):
        form(find_experiment("ask"))


def test_an_option_without_default_is_required():
    @probe.experiment("ask")
    def ask(lm, word: str, n=3):  # type: ignore[no-untyped-def]
        """Asks."""

    described = {each["name"]: each for each in describe(form(find_experiment("ask")))}
    assert described["word"]["required"]
    assert described["n"]["type"] == "int"
    with pytest.raises(ConfigError, match="needs --word"):
        parse(form(find_experiment("ask")), [], "probe experiment ask")


@pytest.mark.parametrize("name", list(experiments()))
def test_every_built_in_option_is_explained(name: str):
    found = find_experiment(name)
    if found.origin == "built in":
        assert [each["name"] for each in describe(form(found)) if not each["help"]] == []
        assert found.about
        assert found.metrics
