"""Running experiments: options, keys, two models beside each other, what goes into the provenance."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

import probe
from probe import plugins
from probe.errors import ConfigError, DataError, RunError
from probe.experiments.definition import Experiment
from probe.experiments.metrics import Given, Mean, Share
from probe.experiments.registry import find_experiment
from probe.experiments.result import Evidence, Result
from probe.experiments.run import call, columns_as_metrics, data_facts, identity, join, labels, perform
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.runs import RunWriter
from probe.world import World
from tests.models import random_lm

pytestmark = pytest.mark.usefixtures("registry")


def heavy(x: str) -> str:
    return x


def adds(more: str) -> Callable[[str], str]:
    return lambda x: x + more


def named(ref: str, seed: int = 0) -> LM:
    lm = random_lm(seed=seed)
    lm.ref = ref
    return lm


@pytest.fixture(scope="module")
def one() -> LM:
    return named("runs/one")


@pytest.fixture(scope="module")
def two() -> LM:
    return named("runs/two", seed=1)


def draw(result: Result) -> dict[str, go.Figure]:
    return {"chart": go.Figure([go.Bar(name=label, x=[1]) for label in result.models])}


def say(result: Result) -> str:
    return f"{' and '.join(result.models)}: {result.value('mean'):.3f}"


@pytest.fixture
def norms() -> Experiment:
    """Norms of the unembedding's rows: an experiment that depends on the model and on its options."""

    @probe.experiment("norms", metrics=[Mean("mean", "norm"), Share("long")], draw=draw, say=say)
    def norms(
        lm: LM, *, data: Any = None, n: int = 10, seed: int = 0, scale: float = 1.0, pick: Any = heavy
    ) -> Evidence:
        rows = lm.model.get_output_embeddings().weight[seed : seed + n].detach().norm(dim=1) * scale
        items = pd.DataFrame({"item": [f"row-{seed + i}" for i in range(len(rows))], "norm": rows.numpy()})
        items["long"] = (items["norm"] > items["norm"].median()).astype(int)
        table = pd.DataFrame({"x": [0, 1], "value": [rows.min().item(), rows.max().item()]})
        return Evidence(items, {"curve": table}, [Given("rows", len(rows))], facts={"scale": scale})

    return find_experiment("norms")


def key(experiment: Experiment, lm: LM, **options: Any) -> str:
    return call(experiment, lm, **options).key


def test_two_models_stand_side_by_side(norms: Experiment, one: LM, two: LM):
    result = norms.run(one, baseline=two, n=8, scale=2.0)
    expected = [lm.model.get_output_embeddings().weight[:8].norm(dim=1).mean().item() * 2 for lm in (one, two)]
    assert result.value("mean") == pytest.approx(expected[0])
    assert result.value("mean", "baseline") == pytest.approx(expected[1])
    assert result.value("mean", "difference") == pytest.approx(expected[0] - expected[1], abs=1e-5)
    assert result.models == ["one", "two"]
    assert result.items["model"].value_counts().to_dict() == {"one": 8, "two": 8}
    assert result.tables["curve"]["model"].tolist() == ["one", "one", "two", "two"]
    assert [trace.name for trace in result.figures["chart"].data] == ["one", "two"]
    assert result.finding == f"one and two: {expected[0]:.3f}"
    assert list(result.styles) == ["one", "two"]
    alone = norms.run(one, n=8, scale=2.0)
    assert alone.value("mean") == result.value("mean")
    assert "difference" not in alone.summary


def test_one_model_twice_shows_nothing(norms: Experiment, one: LM):
    result = norms.run(one, baseline=one)
    assert result.models == ["one", "one (2)"]
    assert (result.summary["difference"].fillna(0) == 0).all()


def test_provenance(norms: Experiment, one: LM, two: LM):
    meta = norms.run(one, baseline=two, n=5, seed=3).meta
    assert json.loads(json.dumps(meta)) == meta
    assert (meta["n"], meta["seed"], meta["baseline"], meta["world"]) == (5, 3, "two", None)
    assert meta["options"] == {"scale": 1.0, "pick": "heavy"}
    assert [model["fingerprint"] for model in meta["models"]] == [one.fingerprint, two.fingerprint]
    assert meta["models"][0]["facts"] == {"scale": 1.0}
    assert meta["origin"] == __name__
    assert meta["versions"]["probe-lm"]


def test_labels_that_collide():
    refs = ["runs/a", "other/a", "a", "a (2)", ""]
    found = labels([named(ref) for ref in refs])
    assert found == ["a", "a (2)", "a (3)", "a (2) (2)", "model"]
    assert len(set(labels([named("a"), named("a (2)"), named("a")]))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0; expected a whole number from 1 on"),
        ({"n": True}, "n=True"),
        ({"n": 1.5}, "n=1.5"),
        ({"n": None}, "n=None"),
        ({"sead": 1}, "no option `sead`: did you mean `seed`"),
    ],
)
def test_options_that_make_no_sense(norms: Experiment, one: LM, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        call(norms, one, **options)


def test_options_without_a_default_must_be_given(one: LM):
    @probe.experiment("asks")
    def asks(lm: LM, *, data: str, n: int | None = None) -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    with pytest.raises(ConfigError, match="`asks` needs `data`: give it a value"):
        asks(one)
    assert call(find_experiment("asks"), one, data="x", n=None).options == {"data": "x", "n": None}


# keys


def test_what_changes_the_key(norms: Experiment, one: LM, two: LM, tmp_path: Path):
    file, other, folder = tmp_path / "a.jsonl", tmp_path / "b" / "a.jsonl", tmp_path / "docs"
    (tmp_path / "b").mkdir()
    (folder / "sub").mkdir(parents=True)
    file.write_text("{}")
    other.write_text("{ }")
    (folder / "x").write_text("1")
    keys = [
        key(norms, one),
        key(norms, two),
        key(norms, one, baseline=two),
        key(norms, two, baseline=one),
        *(key(norms, one, **{name: value}) for name, value in [("n", 11), ("seed", 1), ("scale", 2), ("data", file)]),
        key(norms, one, data=other),
        key(norms, one, data=folder),
        key(norms, one, data=[{"question": "a"}]),
        key(norms, one, data=[{"question": "b"}]),
        key(norms, one, data=pd.DataFrame({"question": ["a"]})),
        key(norms, one, data=pd.DataFrame({"question": ["b"]})),
        key(norms, one, pick=lambda x: x),
        key(norms, one, pick=lambda x: x.strip()),
        *(key(norms, one, pick=lambda x, by=by: x + by) for by in "ab"),
        *(key(norms, one, pick=adds(by)) for by in "ab"),
    ]
    (folder / "x").rename(folder / "sub" / "x")
    keys.append(key(norms, one, data=folder))
    (folder / "sub" / "x").write_text("12")
    keys.append(key(norms, one, data=folder))
    assert len(set(keys)) == len(keys)


def test_what_lies_behind_a_path_changes_the_key(one: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    @probe.experiment("norms")
    def paths(lm: LM, *, data: Any = None, text: str | Path | None = None, word: str = "") -> list:
        return []

    made = find_experiment("norms")
    file, second = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("one")
    second.write_text("two")
    keys = [key(made, one, text=None), key(made, one, text=file), key(made, one, text=f"{file}, {second}")]
    keys += [key(made, one, data=f"{file},{second}"), key(made, one, data=str(file))]
    plain = key(made, one, word=str(second))
    assert key(made, one, text=str(file)) == keys[1]
    second.write_text("three")
    keys += [key(made, one, text=f"{file}, {second}"), key(made, one, data=f"{file},{second}")]
    assert key(made, one, text=file) == keys[1]
    assert key(made, one, word=str(second)) == plain  # what is no path is a word
    file.write_text("four")
    keys.append(key(made, one, text=file))
    keys.append(key(made, one, text="owner/on-the-hub"))
    assert len(set(keys)) == len(keys)
    # a model by the name of its run, trained anew
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    for seed in (0, 1):
        shutil.rmtree(tmp_path / "judge", ignore_errors=True)
        with RunWriter.create(tmp_path / "judge", method="sft", config={}) as run:
            with run.checkpoint(1) as folder:
                random_lm(seed=seed).save(folder)
            run.finish("finished")
        keys.append(key(made, one, text="judge"))
        assert key(made, one, text=tmp_path / "judge") == keys[-1]
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_the_key(norms: Experiment, one: LM, tmp_path: Path):
    first = key(norms, one)
    assert len(first) == 12
    assert key(norms, named("elsewhere/renamed")) == first
    assert key(norms, one, n=10, scale=1.0, pick=heavy) == first  # the defaults, spelled out
    (tmp_path / "b").mkdir()
    for folder in (tmp_path, tmp_path / "b"):
        (folder / "a.jsonl").write_text("{}")
    assert key(norms, one, data=tmp_path / "a.jsonl") == key(norms, one, data=str(tmp_path / "b" / "a.jsonl"))


def test_a_version_and_a_changed_plugin_change_the_key(one: LM, tmp_path: Path):
    file, found = tmp_path / "mine.py", []
    code = "import probe\n@probe.experiment('p', version={})\ndef f(lm): return [] # {}"
    for version, more in ((1, ""), (2, ""), (1, "x"), (1, "")):
        file.write_text(code.format(version, more))
        plugins.load(file)
        found.append(key(find_experiment("p"), one))
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_values_without_a_form_are_equal_to_themselves_alone():
    one, two = object(), object()
    assert identity(one) == identity(one) != identity(two)
    assert identity({"a": (1, heavy)}) == identity({"a": [1, heavy]})
    assert identity(World(seed=0).config) != identity(ModelConfig(layers=2, width=32, heads=2))
    assert data_facts(None) is None


# wrong experiments


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (
            "1 / 0",
            ConfigError,
            "The experiment `p` fails with ZeroDivisionError: division by zero in line 5 of mine.py",
        ),
        ("[1]", ConfigError, "The experiment `p` returned a list; expected a table"),
        ("pd.DataFrame()", DataError, "The experiment `p` measured nothing"),
        ("pd.DataFrame({'item': ['a', 'a'], 'x': 1})", DataError, "Two items are called `a`"),
        ("pd.DataFrame({'x': ['a']})", DataError, "measured nothing"),
        ("probe.open_run('no-such-run')", RunError, "no-such-run"),
    ],
)
def test_experiments_that_fail_say_so(made: str, error: type, message: str, one: LM, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        f"import pandas as pd\nimport probe\n@probe.experiment('p')\ndef f(lm):\n    return {made}\n"
    )
    plugins.load(tmp_path / "mine.py")
    with pytest.raises(error, match=message) as caught:
        probe.run_experiment("p", one)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["draw", "say"])
def test_a_drawing_that_fails_says_so(part: str, one: LM):
    def wrong(result: Result) -> Any:
        return [][0]

    @probe.experiment("p", **{part: wrong})
    def f(lm: LM) -> pd.DataFrame:
        return pd.DataFrame({"x": [1]})

    what = {"draw": "The drawing of", "say": "The sentence of"}[part]
    with pytest.raises(ConfigError, match=f"{what} the experiment `p` fails with IndexError"):
        f(one)


# joining


def test_join_is_what_running_them_together_gives(norms: Experiment, one: LM, two: LM):
    together = norms.run(one, baseline=two)
    joined = join(norms, [norms.run(one), norms.run(two)])
    pd.testing.assert_frame_equal(joined.summary, together.summary)
    pd.testing.assert_frame_equal(joined.items, together.items)
    pd.testing.assert_frame_equal(joined.tables["curve"], together.tables["curve"])
    assert joined.finding == together.finding
    assert joined.meta["baseline"] == "two"


def test_three_models_are_joined(norms: Experiment, one: LM, two: LM):
    third = named("elsewhere/one", seed=2)
    results = [norms.run(lm) for lm in (one, third, two)]
    joined = join(norms, results)
    assert joined.models == ["one", "one (2)", "two"]
    assert joined.items.groupby("model")["norm"].mean().to_dict() == pytest.approx(
        {label: result.value("mean") for label, result in zip(joined.models, results, strict=True)}
    )
    assert [trace.name for trace in joined.figures["chart"].data] == joined.models
    assert joined.finding.startswith("one and one (2) and two: ")
    assert joined.value("mean", "baseline") == results[2].value("mean")
    assert results[1].models == ["one"]  # what was joined is as it was
    assert join(norms, results[:1]).models == ["one"]


@pytest.mark.parametrize(
    ("options", "what"), [({"n": 5}, "n"), ({"seed": 1}, "seeds"), ({"scale": 3.0}, "options"), ({"data": [1]}, "data")]
)
def test_what_was_asked_differently_is_not_joined(
    norms: Experiment, one: LM, two: LM, options: dict[str, Any], what: str
):
    with pytest.raises(DataError, match=f"one and two were made with different {what}: run the experiment again"):
        join(norms, [norms.run(one), norms.run(two, **options)])


def test_what_cannot_be_joined(norms: Experiment, one: LM, two: LM):
    with pytest.raises(DataError, match="A result of one and two cannot be joined"):
        join(norms, [norms.run(one, baseline=two), norms.run(two)])
    with pytest.raises(DataError, match="No result"):
        join(norms, [])


def test_models_of_different_worlds_are_not_compared(one: LM, tmp_path: Path):
    @probe.experiment("p")
    def f(lm: LM, *, data: Any = None) -> pd.DataFrame:
        return pd.DataFrame({"item": ["fact-0"], "x": [1]})

    from probe.runs import RunWriter

    lms = []
    for seed in (0, 1):
        world = World(seed=seed)
        lm = LM.create(ModelConfig(layers=1, width=16, heads=2), world.tokenizer())
        with RunWriter.create(tmp_path / f"w{seed}", method="pretrain", config={}, world=world.to_dict()) as run:
            lm.ref, lm.run_dir = f"w{seed}", run.path
        lms.append(lm)
    with pytest.raises(DataError, match="w0 and w1 belong to different worlds"):
        f(lms[0], baseline=lms[1])
    assert f(lms[0], baseline=lms[1], data=[1]).models == ["w0", "w1"]
    with pytest.raises(DataError, match="different worlds"):
        join(find_experiment("p"), [f(lm) for lm in lms])
    assert f(lms[0], baseline=one).models == ["w0", "one"]


# metrics from columns


def test_columns_become_metrics():
    items = pd.DataFrame(
        {
            "item": ["a", "b", "c"],
            "model": "m",
            "right": [True, False, True],
            "maybe": [True, None, False],
            "level": [1, 0, 2],
            "score": [0.5, math.nan, 1.0],
            "text": ["1", "2", "3"],
            "mixed": [1, "a", None],
            "none": [None, None, None],
        }
    )
    found = columns_as_metrics(items)
    assert {metric.name: type(metric) for metric in found} == {
        "right": Share,
        "maybe": Share,
        "level": Mean,
        "score": Mean,
    }


def test_a_share_for_one_model_is_a_mean_where_the_other_needs_it(one: LM, two: LM):
    @probe.experiment("p")
    def f(lm: LM) -> pd.DataFrame:
        return pd.DataFrame({"x": [0, 1] if lm is one else [0, 2]})

    assert f(one, baseline=two).value("x", "difference") == -0.5
    assert perform(find_experiment("p"), one).value("x") == 0.5
    assert join(find_experiment("p"), [f(one), f(two)]).value("x", "difference") == -0.5
