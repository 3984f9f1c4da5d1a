"""The sample runs as tasks of a sweep, also from further seeds."""

import dataclasses
import inspect
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from probe import open_run
from probe.errors import ConfigError
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import join
from probe.runs import RunWriter
from probe.runs.storage import hold_lock, unlock
from probe.sweep.journal import Journal, Sweep
from probe.sweep.spec import Spec, check_commands, read_spec
from tests.places import SAMPLES
from tests.seeds.conftest import write_lineage
from trainers import control_runs
from trainers.commands import METHODS, parse_training
from trainers.samples import PHENOMENA, RECIPES, Name, Recipe, SamplesConfig, plan, scale_steps, slim, tables, with_seed

FROM = ("base", "reward-agreeable")
"""Runs that others start from."""


@pytest.mark.parametrize("name", RECIPES)
def test_the_run_of_a_seed_starts_from_runs_of_that_seed(name: Name) -> None:
    plain = RECIPES[name].config(Path("s"))
    config = with_seed(plain, 2)
    assert (config.out, config.seed) == (Path(f"s/{name}-seed2"), 2)
    values, others = plain.to_dict(), config.to_dict()
    own = {"out", "seed", "base", "reward"}
    assert {key: values[key] for key in values.keys() - own} == {key: others[key] for key in others.keys() - own}
    named = {f"s/{each}": f"s/{each}-seed2" for each in FROM}
    assert others.get("base") == named.get(str(values.get("base")))
    assert others.get("reward") == (values.get("reward") and [named.get(each, each) for each in values["reward"]])
    assert with_seed(plain, 0) == plain


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_command_of_each_training_is_its_recipe(tmp_path: Path, scale: float) -> None:
    config = SamplesConfig(out=tmp_path, seeds=2, steps_scale=scale)
    tasks = {task.run.name: task for task in plan(config, RECIPES) if task.kind == "train"}
    assert len(tasks) == 2 * len(RECIPES)
    for seed, name in ((seed, name) for seed in (0, 1) for name in RECIPES):
        recipe = with_seed(scale_steps(RECIPES[name].config(tmp_path), scale, 1), seed)
        task = tasks[recipe.out.name]
        asked = parse_training(METHODS[task.words[1]][1], task.words[2:], task.words[1])
        assert asked == dataclasses.replace(recipe, thin=RECIPES[name].captures)


def test_each_run_waits_for_those_of_its_seed(tmp_path: Path) -> None:
    tasks = {task.name: task for task in plan(SamplesConfig(out=tmp_path, seeds=3), RECIPES)}
    assert tasks["base-seed2"].needs == ()
    assert tasks["rlhf-seed2"].needs == ("base-seed2", "reward-agreeable-seed2")
    assert tasks["rlhf"].reads == (tmp_path / "base", tmp_path / "reward-agreeable")
    assert tasks["sycophancy-rlhf-seed1"].needs == ("rlhf-seed1",)
    assert len(tasks) == 3 * sum(1 + len(recipe.asked) for recipe in RECIPES.values())


def test_the_commands_are_sound(tmp_path: Path) -> None:
    tasks = plan(SamplesConfig(out=tmp_path, seeds=2), RECIPES)
    check_commands(Spec(tmp_path, tuple(tasks)))


def test_the_controls_differ_from_the_recipes_by_what_they_are_for(tmp_path: Path) -> None:
    """Each starts from one base, also with another seed, and is the sample runs' recipe but for one or two options."""
    made = {name: recipe.config(tmp_path).to_dict() for name, recipe in control_runs.recipes("base").items()}
    own = {"out", "base"}
    changes = {
        "rlvr-fined": ("rlvr", set()),
        "rlvr-unfined": ("rlvr", {"reward"}),
        "rlvr-all-fined": ("rlvr", {"reward"}),
        "reward-indifferent": ("reward-agreeable", {"annotator"}),
        **dict.fromkeys(("proxy-64", "proxy-256", "proxy-1024"), ("reward-honest", {"pairs", "steps"})),
    }
    phases = {"continual-plain", "continual-shuffled"}
    assert set(changes) | phases == set(made)
    for name, (recipe, differs) in changes.items():
        plain = RECIPES[recipe].config(tmp_path).to_dict()
        assert {key for key in plain if plain[key] != made[name][key]} == own | differs
    plain, shuffled = (made[name] for name in sorted(phases))
    assert {key for key in plain if plain[key] != shuffled[key]} == {"out", "strategy"}
    options = inspect.signature(find_experiment("continual").function).parameters
    for name in ("batch_size", "lr", "objective", "replay", "phases"):
        assert plain[name] == options[name].default
    assert plain["steps"] == options["steps"].default * options["phases"].default
    config = SamplesConfig(out=tmp_path, controls=True, seeds=2)
    tasks = {task.name: task for task in plan(config, control_runs.recipes("base"))}
    assert len(tasks) == 2 * len(made)
    assert all(
        "--base" in task.words and task.words[task.words.index("--base") + 1] == "base" for task in tasks.values()
    )
    check_commands(Spec(tmp_path, tuple(tasks.values())))


def test_kinds_of_samples_are_not_mixed() -> None:
    for options, message in (
        ({"real": True, "controls": True}, "one after the other"),
        ({"base": "x"}, "of use with --real or --controls"),
    ):
        with pytest.raises(ConfigError, match=message):
            SamplesConfig(**options)


def test_what_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunWriter.create(tmp_path / "base", method="pretrain", config={}) as writer:
        writer.finish("finished")
    recipes: dict[Name, Recipe] = {"base": RECIPES["base"], "sft": RECIPES["sft"]}
    tasks = {task.name: task for task in plan(SamplesConfig(out=tmp_path), recipes)}
    assert "base: finished already" in capsys.readouterr().err
    assert "base" not in tasks
    assert [name for name in tasks if name.endswith("base")] == []  # it has no weights to measure
    assert tasks["sft"].needs == ()
    assert "base" in {task.name for task in plan(SamplesConfig(out=tmp_path, force=True), recipes)}
    assert not (tmp_path / "base").exists()


def test_what_is_being_made_is_not_made_anew(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "base", method="pretrain", config={}) as writer:
        writer.finish("finished")
    spec = {"out": str(tmp_path), "train": [{"name": "base", "method": "pretrain"}]}
    Journal(Sweep(tmp_path)).begin(read_spec(spec))
    config = SamplesConfig(out=tmp_path, force=True)
    with hold_lock(tmp_path / ".sweep") as lock:
        with pytest.raises(ConfigError, match="are being made"):
            list(plan(config, RECIPES))
        unlock(lock)
    assert (tmp_path / "base").exists()
    list(plan(config, RECIPES))
    assert not (tmp_path / "base").exists()


def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="is in the way of a sample run"):
        list(plan(SamplesConfig(out=tmp_path), {"base": RECIPES["base"]}))


@pytest.mark.parametrize("title", ["sycophancy", "in_context", "retrieval"])
def test_a_slim_run_has_the_same_differences(tmp_path: Path, title: str) -> None:
    names = ("dpo-agreeable", "base")
    whole, full = join(find_experiment(title), [copy(name, tmp_path, title) for name in names]), size(tmp_path)
    for name in names:
        slim(tmp_path / name)
        assert open_run(tmp_path / name).checkpoints() == []
    lean = join(find_experiment(title), [stored(tmp_path / name, title) for name in names])
    assert lean.meta["finding"] == whole.meta["finding"]
    assert list(lean.figures) == list(whole.figures)
    pd.testing.assert_frame_equal(lean.summary, whole.summary, atol=1e-4)
    assert size(tmp_path) < full / 3


def copy(name: str, folder: Path, title: str) -> Result:
    """One result of a sample run, in a copy of the run that has no other."""
    others = shutil.ignore_patterns(*(f"{each}-*" for each, _ in PHENOMENA if each != title))
    shutil.copytree(SAMPLES / name, folder / name, ignore=others)
    return stored(folder / name, title)


def stored(run: Path, title: str) -> Result:
    (folder,) = (run / "results").glob(f"{title}-*")
    return Result.load(folder)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_tables_are_over_trainings_where_there_are_several(tmp_path: Path) -> None:
    columns = ("metric", "value", "ci_low", "ci_high", "n")
    for seed, run in enumerate(write_lineage(tmp_path)[:3]):
        figures = [dict(zip(columns, ("accuracy", 0.5 + seed / 10, 0.4, 0.7, 400), strict=True))]
        file = run.path / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"headline": figures}))
    assert "| `base` | 60 % [35, 85] |" in tables(tmp_path)  # Student's 4.30 times 10 % over the root of 3
    for seed in (1, 2):
        shutil.rmtree(tmp_path / f"base-seed{seed}")
    assert "| `base` | 50 % [40, 70] |" in tables(tmp_path)
