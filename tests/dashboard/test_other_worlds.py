"""The page In-context with models of different worlds: laid side by side, told apart, each read by itself."""

from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.pages.experiments import asking as source
from dashboard.pages.experiments.asking import ModelResult, Subject
from probe.compare.corpus_shift import compare_corpus
from probe.compare.worlds import worlds_apart
from probe.experiments.registry import find_experiment
from probe.experiments.store import obtain
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.runs import RunWriter
from probe.world import World, WorldConfig
from tests.dashboard.experiments import chips, table
from tests.dashboard.pages import Show, heading, names, read, unescape

PAGE = "in_context/page.py"
N = {"in_context.n": "6"}


def create(folder: Path, **config: object) -> None:
    """A run of random weights in a small world, and the stored result of the experiment."""
    world = World(WorldConfig(**config), seed=0)
    lm = LM.create(ModelConfig(layers=1, width=16, heads=2, context=64), world.tokenizer(), seed=1)
    about = {"method": "pretrain", "config": {"length": 35}, "world": world.to_dict()}
    with RunWriter.create(folder, **about) as made, made.checkpoint(1) as place:
        lm.save(place)
    obtain(find_experiment("in_context"), LM.load(folder), n=6)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a world with one function, of one with four, and of one with chains."""
    root = tmp_path_factory.mktemp("worlds")
    for size in (1, 4):
        create(root / f"pool-{size}", mixture={"function": 1.0}, modulus=3, pool=size, pairs=8)
    create(root / "chains", mixture={"markov": 1.0}, chain=12)
    return root


@pytest.fixture
def two(show: Show, worlds: Path) -> AppTest:
    return show(worlds, page=PAGE, base="pool-1", aligned="pool-4", **N)


def test_models_of_two_worlds_are_laid_side_by_side(two: AppTest):
    assert not two.exception
    assert not two.error
    assert names(two)[0] == "pool_sizes"
    assert "models with pools of 1 and 4 are nearer" in heading(two) or "with a pool of 1 are nearer" in heading(two)
    assert "These models belong to different worlds (pool 1 or 4)" in read(two)
    assert "cannot be laid beside" not in read(two)
    shown = table(two, "pool-1").set_index("name in files")
    assert shown.loc["function_kl_all", "pool-4 \u2212 pool-1"].endswith(" \u2020")
    assert "but not those with \u2020, where the models were asked different questions" in read(two)


def test_items_are_of_one_world_and_read_by_its_model(show: Show, worlds: Path, two: AppTest):
    query = {"in_context~metric": "function_kl_all", "in_context~show": "all"}
    app = show(worlds, page=PAGE, base="pool-1", aligned="pool-4", **N, **query)
    rows = table(app, "prompt").set_index("item")
    asked = [next(name for name in rows.index if name.endswith(f"-7 (pool-{size})")) for size in (1, 4)]
    for name, own, other in zip(asked, ("pool-1", "pool-4"), ("pool-4", "pool-1"), strict=True):
        assert rows.loc[name, f"answer: {own}"] in "012"
        assert pd.isna(rows.loc[name, f"answer: {other}"])
    both = [name for name in rows.index if "(" not in name]
    assert both, "the world of four functions asks some questions about the one of the other"
    assert rows.loc[both, ["answer: pool-1", "answer: pool-4"]].notna().all(axis=None)
    app = show(worlds, page=PAGE, base="pool-1", aligned="pool-4", **N, **query, **{"in_context~item": asked[1]})
    assert not app.exception
    assert not app.error
    assert list(table(app, "model")["model"]) == ["pool-4"]
    told = chips(app)
    said = "".join(token["text"] for row in told["rows"] for token in row["tokens"])
    assert unescape(rows.loc[asked[1], "prompt"]).strip("\u2026 ").replace(" ", "") in said.replace(" ", "")
    assert {row["label"] for row in told["rows"]} == {"prompt", "pool-4"}


def test_a_world_of_chains_stands_beside_one_of_functions(show: Show, worlds: Path):
    app = show(worlds, page=PAGE, base="chains", aligned="pool-4", **N)
    assert not app.exception
    assert not app.error
    assert names(app)[0] == "curve"
    assert "from Bayes' rule on Markov chains" in read(app)
    assert "pool-4 gives the value of a function" in heading(app)
    assert "mixture, " in read(app)
    app = show(worlds, page=PAGE, base="pool-1", aligned="pool-4", also="chains", **N)
    assert not app.error
    assert {"chains \u2212 pool-1", "pool-4 \u2212 pool-1"} <= set(table(app, "pool-1"))


@pytest.mark.parametrize("page", ["compare", "attention", "logits"])
def test_pages_of_two_models_say_that_they_are_of_two_worlds(show: Show, worlds: Path, page: str):
    app = show(worlds, page=f"{page}/page.py", base="pool-1", aligned="pool-4", prompt="x1")
    assert not app.exception
    assert ["pool-1 and pool-4 belong to different worlds" in unescape(each.value) for each in app.warning] == [True]
    assert not show(worlds, page=f"{page}/page.py", base="pool-1", aligned="pool-1", prompt="x1").warning


def test_a_comparison_over_a_corpus_notes_two_worlds(worlds: Path):
    first, second = (LM.load(worlds / f"pool-{size}") for size in (1, 4))
    apart = worlds_apart(first, second, (first.ref, second.ref))
    assert "belong to different worlds" in apart
    assert apart in compare_corpus(first, second, ["x1 y1 x2 y2"]).notes
    assert apart not in compare_corpus(first, first, ["x1 y1 x2 y2"]).notes
    assert worlds_apart(first, None) == ""


def test_only_experiments_that_say_so_go_across_worlds():
    across = [name for name in ("in_context", "sycophancy", "retrieval") if find_experiment(name).across_worlds]
    assert across == ["in_context"]


def test_what_tells_worlds_apart_needs_two():
    def found(label: str) -> ModelResult:
        return ModelResult(Subject(label, label, label))

    assert source.apart([found("a"), found("b")]) == ""
    assert source.alike([found("a")], "a", True) == ([], [])
