"""The spec of a sweep: which tasks it makes, in which order, and what is refused before anything starts."""

import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import ConfigError
from probe.sweep import Spec, read_spec
from probe.sweep.spec import EXAMPLE, check_commands
from tests.places import ROOT

BASE = {"name": "base", "method": "pretrain", "seeds": [0, 1], "options": {"steps": 3}}
DPO = {
    "name": "dpo",
    "method": "dpo",
    "options": {"base": "base"},
    "grid": {"beta": [0.1, 0.3], "annotator": ["honest"]},
}
ASK = {"name": "sycophancy", "of": ["base", "dpo"], "options": {"n": 4, "baseline": "base"}}

ALONE = {"name": "sycophancy", "of": ["base"]}


def spec(*train: Mapping[str, Any], experiment: tuple[Mapping[str, Any], ...] = (), out: str = "runs/x") -> Spec:
    return read_spec({"out": out, "train": list(train), "experiment": list(experiment)})


def test_the_example_is_that_of_the_documents_and_makes_what_they_say():
    text = (ROOT / "docs/sweep.md").read_text(encoding="utf-8")
    assert EXAMPLE in text
    made = Counter(task.kind for task in read_spec(tomllib.loads(EXAMPLE)).tasks)
    assert f"the {made['train']} trainings and {made['experiment']} experiments" in text


def test_a_grid_times_seeds_with_runs_of_the_same_seed():
    tasks = {task.name: task for task in spec(BASE, DPO, experiment=(ASK,)).tasks}
    trainings = ["base-seed0", "base-seed1"]
    trainings += [f"dpo-beta{beta}-honest-seed{seed}" for beta in (0.1, 0.3) for seed in (0, 1)]
    assert list(tasks) == [*trainings, *(f"sycophancy-{name}" for name in trainings)]  # baselines first
    task = tasks["dpo-beta0.3-honest-seed1"]
    assert task.needs == ("base-seed1",)
    options = "--base=runs/x/base-seed1 --beta=0.3 --annotator=honest --seed=1"
    assert " ".join(task.words) == f"train dpo --out=runs/x/dpo-beta0.3-honest-seed1 {options}"
    asked = tasks["sycophancy-dpo-beta0.1-honest-seed0"]
    assert asked.needs == ("dpo-beta0.1-honest-seed0", "base-seed0", "sycophancy-base-seed0")
    assert asked.words[-2:] == ("--baseline=runs/x/base-seed0", "--json")
    alone = tasks["sycophancy-base-seed0"].words  # a model is not set beside itself
    assert not [word for word in alone if word.startswith("--baseline")]


def test_a_baseline_is_asked_first_and_once():
    tasks = {task.name: task for task in spec(BASE, DPO, experiment=({**ASK, "of": ["dpo"]},)).tasks}
    alone = tasks["sycophancy-base-seed1"]
    assert alone.words == ("experiment", "sycophancy", "--model=runs/x/base-seed1", "--n=4", "--json")
    others = [task for task in tasks.values() if task.kind == "experiment" and "baseline" in task.recipe]
    assert len(others) == 4
    assert all(f"sycophancy-{task.recipe['baseline']}" in task.needs for task in others)
    both = {**ASK, "of": ["base@1", "base"], "options": {"also": ["base", "base@1"]}}
    tasks = {task.name: task for task in spec(BASE, experiment=(both,)).tasks}
    assert tasks["sycophancy-base-seed0@1"].words[2:] == (
        "--model=runs/x/base-seed0@1",
        "--also=runs/x/base-seed0",
        "--json",
    )
    assert tasks["sycophancy-base-seed0"].needs == ("base-seed0",)  # each is beside the other: none is first


def test_lists_methods_variants_and_checkpoints():
    each = {"name": "rl", "method": ["rsft", "rlvr"], "each": [{"lr": 1e-4, "reward": ["judge"]}, {"steps": 2}]}
    judge = {"name": "judge", "method": "reward-model", "options": {"base": "base-seed1@2", "world": {"people": 3}}}
    found = spec({**each, "options": {"base": "base"}}, judge, BASE)
    tasks = {task.name: task for task in found.tasks}
    assert set(tasks) - {"base-seed0", "base-seed1", "judge"} == {
        f"rl-{method}-{part}-seed{seed}"
        for method in ("rsft", "rlvr")
        for part in ("lr0.0001-judge", "steps2")
        for seed in (0, 1)
    }
    assert tasks["judge"].words[2:] == (*("--out=runs/x/judge", "--base=runs/x/base-seed1@2", "--world.people=3"),)
    assert tasks["rl-rsft-lr0.0001-judge-seed0"].needs == ("base-seed0", "judge")
    order = [task.name for task in found.tasks]
    assert all(order.index(need) < order.index(task.name) for task in found.tasks for need in task.needs)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"train": [BASE]}, "needs `out`"),
        ({"out": "x"}, "has no entries"),
        ({"out": "x", "train": [BASE], "store": "bucket"}, "has the store 'bucket': give an address"),
        ({"out": "x", "trian": [BASE]}, "unknown key `trian`: did you mean `train`?"),
        ({"out": "x", "train": BASE}, r"write \[\[train\]\] above each entry"),
        ({"out": "x", "train": [{"method": "dpo"}]}, "has the name None"),
        ({"out": "x", "train": [{**BASE, "name": "../a"}]}, r"has the name '\.\./a'"),
        ({"out": "x", "train": [BASE, BASE]}, "Two entries of the sweep are called `base`"),
        (
            {"out": "x", "train": [{**BASE, "sedes": [1]}]},
            "`base` of .* unknown key `sedes`: did you mean `seeds`",
        ),
        ({"out": "x", "train": [{**BASE, "seeds": [1, 1]}]}, r"the seeds \[1, 1\]: give a list of different"),
        ({"out": "x", "train": [{**BASE, "options": {"seed": 3}}]}, "sets the option `seed`.*give `seeds` instead"),
        ({"out": "x", "train": [{**BASE, "grid": {"lr": 0.1}}]}, "a grid over `lr` of 0.1: give a list"),
        ({"out": "x", "train": [{**BASE, "grid": {"steps": [1]}}]}, "gives `steps` twice"),
        ({"out": "x", "train": [{**BASE, "gpus": 1.5}]}, "has gpus 1.5: give a part of one GPU"),
        ({"out": "x", "train": [{**BASE, "retries": 0.5}]}, "has retries 0.5: give a whole number"),
        ({"out": "x", "train": [{**BASE, "grid": {"data": ["a/b", "a b"]}}]}, "both make `base-a_b-seed0`"),
        ({"out": "x", "train": [BASE, {**DPO, "options": {"base": "bsae"}}]}, "nor a model here: did you mean `base`?"),
        ({"out": "x", "train": [{**DPO, "options": {"base": "dpo"}}]}, "in a circle"),
        (
            {"out": "x", "train": [BASE, DPO, {"name": "two", "method": "sft", "options": {"base": "dpo"}}]},
            "has `base` 'dpo', which stands for 2 runs: name one of `dpo-beta0.1-honest`, `dpo-beta0.3-honest`",
        ),
        ({"out": "x", "train": [BASE, {**DPO, "seeds": [7]}]}, "has no run with seed 7"),
        (
            {"out": "x", "train": [BASE], "experiment": [{**ASK, "of": ["dpo"]}]},
            "has `of` 'dpo', which is neither an entry",
        ),
        ({"out": "x", "train": [BASE], "experiment": [{**ASK, "of": []}]}, "list the entries"),
    ],
)
def test_a_mistake_is_one_sentence(table: Mapping[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        read_spec(table)


def test_files(tmp_path: Path):
    file = tmp_path / "s.toml"
    file.write_text('out = "x"\n[[train]]\nname = "a"\nmethod = "pretrain"\n')
    assert [task.name for task in read_spec(file).tasks] == ["a"]
    file.write_text("out = ")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_spec(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_spec(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"train": [{**BASE, "method": "pretrian"}]}, "`base-seed0` of the sweep cannot run.*did you mean `pretrain`?"),
        ({"train": [{**BASE, "options": {"stesp": 3}}]}, "no option `--stesp`: did you mean `--steps`?"),
        ({"train": [{**BASE, "options": {"steps": 0}}]}, "--steps is 0; expected at least 1"),
        ({"train": [{**BASE, "options": {"data": "none.txt"}}]}, "There is no file `none.txt`"),
        (
            {"train": [BASE], "experiment": [{**ALONE, "name": "sycophant"}]},
            "did you mean `sycophancy`",
        ),
        ({"train": [BASE], "experiment": [{**ALONE, "options": {"m": 1}}]}, "no option `--m`"),
    ],
)
def test_the_commands_check_their_options(table: Mapping[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        check_commands(read_spec({"out": "x", **table}))


@settings(max_examples=20)
@given(
    st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    st.dictionaries(
        st.sampled_from(["lr", "beta", "clip"]),
        st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=3, unique=True),
    ),
)
def test_every_choice_is_one_run_with_its_own_name(seeds: list[int], grid: dict[str, list[float]]):
    entry = {"name": "a", "method": "dpo", "seeds": seeds, "grid": grid, "options": {"base": "x/y"}}
    tasks = spec(entry).tasks
    count = len(seeds)
    for values in grid.values():
        count *= len(values)
    assert len(tasks) == len({task.name for task in tasks}) == len({str(task.recipe) for task in tasks}) == count
    assert all(task.run == Path("runs/x") / task.name for task in tasks)
