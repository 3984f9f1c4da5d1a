"""The record of an analysis: what follows from a signature, and that every built-in one keeps to it."""

import ast
import inspect
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go
import pytest

import probe
from probe.analyses import Drawable, Input, Prompt
from probe.analyses.analysis_record import Bundle, drawable, named
from probe.analyses.catalogue import MODULES, analyses, find_analysis, summaries
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.options import parse
from probe.plotting.notebook import Look, title_of
from tests.models import random_lm
from tests.places import SAMPLES


@dataclass(frozen=True)
class Counted(Drawable):
    """A result with two figures and an input of how it is looked at."""

    count: int
    names: tuple[str, ...] = ("model",)

    def sentence(self) -> str:
        return f"{self.names[0]} has {self.count}."

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"first": pd.DataFrame({"x": [self.count]}), "second": pd.DataFrame({"y": [2]})}

    def figures(self, colour: str = "red") -> dict[str, go.Figure]:
        """Draw.

        Args:
            colour: of the bars.
        """
        bars = go.Figure(go.Bar(x=[self.count], marker_color=colour))
        return {"second": bars, "third": go.Figure()}


def blocks(lm: LM) -> list[str]:
    return [f"block {index}" for index in range(lm.bridge.cfg.n_layers)]


@pytest.fixture
def counted(registry: None) -> Any:
    @probe.analysis("attention", title="Counted", seconds=lambda lm, **inputs: 2.0 * inputs["n"])
    def counted(
        lm: LM,
        prompt: Prompt,
        *,
        n: Annotated[int | None, Input("Texts", first=lambda lm: 3)] = None,
        block: Annotated[str | None, Input(choices=blocks, first=lambda lm: blocks(lm)[-1])] = None,
        tick: Any = None,
    ) -> Counted:
        """Count what there is.

        More of it.

        Args:
            lm: the model.
            prompt: is read.
            n: texts.
            block: of the model.
            tick: of the progress.
        """
        assert tick is not None
        return Counted(n * int(str(block).split()[1]))

    return find_analysis("counted")


def test_a_form_follows_from_the_signature(counted: Any):
    lm = random_lm()
    by_name = {field["name"]: field for field in counted.fields(lm)}
    assert list(by_name) == ["prompt", "n", "block", "colour"]
    assert (by_name["n"]["label"], by_name["n"]["default"], by_name["n"]["help"]) == ("Texts", 3, "texts.")
    assert by_name["block"]["choices"] == blocks(lm)
    assert by_name["block"]["default"] == blocks(lm)[-1]
    assert (by_name["prompt"]["shared"], by_name["prompt"]["required"]) == ("prompt", True)
    assert [name for name, field in by_name.items() if field["view"]] == ["colour"]
    assert by_name["colour"]["key"] == "counted_colour"
    assert (counted.about, counted.summary) == ("Count what there is.\n\nMore of it.", "Count what there is.")
    settings = parse(counted.form(), ["--prompt", "a b", "--n", "7"], "counted")
    assert {each.name: getattr(settings, each.name) for each in fields(settings)} == {
        "prompt": "a b",
        "n": 7,
        "block": None,
        "colour": "red",
    }


def test_defaults_that_depend_on_the_model_are_filled_in(counted: Any):
    lm = random_lm()
    last = lm.bridge.cfg.n_layers - 1
    assert counted.run(lm, prompt="a").count == 3 * last
    assert counted.run(lm, prompt="a", n=5, block="block 1").count == 5
    assert counted.cost(lm, prompt="a") == 6.0
    with pytest.raises(ConfigError, match=r"`block` of counted is 'block 99'; expected one of block 0, block 1"):
        counted.run(lm, prompt="a", block="block 99")


def test_a_value_brings_further_inputs(registry: None):
    def bring(kind: str) -> dict[str, inspect.Parameter]:
        about = Input(key=f"{kind}.size", help=f"Of the {kind}.")
        more = inspect.Parameter("size", inspect.Parameter.KEYWORD_ONLY, default=2, annotation=Annotated[int, about])
        return {"size" if kind != "odd" else "kind": more}

    @probe.analysis("attention")
    def brought(*, kind: Annotated[str, Input(brings=bring)] = "cube", **options: Any) -> str:
        """Tell what is given.

        Args:
            kind: brings its size.
            options: the size.
        """
        return f"{kind} {options['size']}"

    record = find_analysis("brought")
    assert list(record.inputs) == ["kind", "size"]
    assert [each["help"] for each in record.fields()] == ["brings its size.", "Of the cube."]
    words = ["--kind=ball", "--size", "3"]
    own = record.with_words(words)
    assert [each["key"] for each in own.fields()] == ["brought_kind", "ball.size"]
    assert vars(parse(own.form(), words, "it")) == {"kind": "ball", "size": 3}
    assert record.run(kind="ball").sentence() == "ball 2"
    assert record.run(size=5).sentence() == "cube 5"
    with pytest.raises(ConfigError, match="`odd` and brought both have an input `kind`"):
        record.run(kind="odd")


def test_a_result_shows_itself(counted: Any):
    result = named(counted.run(random_lm(), prompt="a", n=5, block="block 1"), [Look("mira", "black")])
    assert result.sentence() == "mira has 5."
    assert result.table()["x"].tolist() == [5]
    assert result.data("second")["y"].tolist() == [2]
    assert result.data("third")["x"].tolist() == [5]  # a figure without a table of its name has the first one
    figures = counted.figures(result, {"colour": "blue", "n": 5})
    assert figures["second"].data[0].marker.color == "blue"
    assert result.figure().data[0].x == (5,)
    assert list(counted.lists(result, {})) == ["first", "second"]


def test_what_a_function_may_give():
    chart, table = go.Figure(go.Bar(x=[1, 2], y=[3, 4], name="t")), pd.DataFrame({"a": [1]})
    found = drawable(("One.", chart, chart, table, "Two."), "It")
    assert isinstance(found, Bundle)
    assert found.sentence() == "One. Two."
    assert list(found.figures()) == ["chart", "chart-2"]
    assert list(found.lists()) == ["table"]
    points = drawable(chart, "It")
    assert points.lists() == {}
    assert points.table().to_dict("list") == {"trace": ["t", "t"], "x": [1, 2], "y": [3, 4]}
    assert drawable(None, "It").sentence() == ""
    with pytest.raises(ConfigError, match="`It` gave a dict: let it return a figure, a table or a sentence"):
        drawable({}, "It")


def declared() -> dict[str, str]:
    """The functions of the product that `analysis` decorates, with their modules, as the files say."""
    found = {}
    root = Path(probe.__file__).parent
    for path in [*root.rglob("*.py"), *(root.parent / "trainers").rglob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            calls = [each for each in getattr(node, "decorator_list", ()) if isinstance(each, ast.Call)]
            if isinstance(node, ast.FunctionDef) and any(getattr(each.func, "id", "") == "analysis" for each in calls):
                found[node.name] = ".".join(path.relative_to(root.parent).with_suffix("").parts)
    return found


def test_every_built_in_analysis_is_whole():
    """In the list of modules, in the face of its subject, explained, and with names of its own in the URL of a page."""
    assert declared() == MODULES
    own = {name: each for name, each in analyses().items() if name in MODULES}
    assert list(own) == list(MODULES)
    assert {name: (each.page, each.summary) for name, each in own.items()}.items() <= summaries().items()
    labels: dict[tuple[str, str], set[str]] = {}
    for each in own.values():  # analyses of a page may share an input, and nothing else by the same name
        for field in each.fields():
            labels.setdefault((each.page, field["key"]), set()).add(field["label"])
    assert {key for key, known in labels.items() if len(known) > 1} == set()
    for name, each in own.items():
        path, _, function = each.call.rpartition(".")
        assert getattr(import_module(path), function) is each.function, name
        assert each.about.count("\n") > 2, f"{name} has no definition"
        assert each.equations, name
        assert all(field["help"] for field in each.fields()), f"an input of {name} is not explained"


def test_the_same_through_the_record_and_through_python():
    base, aligned = LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")
    record = find_analysis("weight_change")
    through, direct = record.run(base, aligned), probe.compare.weight_change(base, aligned)
    assert record.cost(base, aligned) > 0
    pd.testing.assert_frame_equal(through.table(), direct.table())
    assert through.sentence() == direct.sentence()
    lists = record.lists(through, {"part": "OV"})
    assert lists["Heads"]["ov_relative"].is_monotonic_decreasing
    assert not record.lists(through, {"part": "key"})["Heads"]["ov_relative"].is_monotonic_decreasing
    charts = record.figures(through, {"part": "OV"})
    assert title_of(charts["weights"]) == "Relative change from base to dpo-agreeable"
    assert title_of(charts["weight-heads"]) == "OV of every head: relative change"


@pytest.mark.parametrize(
    "name", ["logit_lens", "attribute_answer", "compare_layers", "follow_writing", "read_attention", "read_stages"]
)
def test_a_word_that_a_model_does_not_know_is_refused(name: str, base: LM):
    record = find_analysis(name)
    with pytest.raises(DataError, match="does not know \u201czorblax\u201d"):
        record.run(*[base] * len(record.models), prompt="where does zorblax live ?")
