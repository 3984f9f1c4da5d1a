"""The sample runs as tasks of a sweep, also from further seeds."""

import dataclasses
from pathlib import Path

import pytest

from probe.errors import ConfigError
from probe.runs import RunWriter
from probe.sweep.spec import Spec, check_commands
from trainers.commands import METHODS, parse_training
from trainers.samples import RECIPES, SHIPPED, Name, Recipe, SamplesConfig, plan, scale_steps, with_seed

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
    assert len(tasks) == 3 * (len(RECIPES) + sum(map(len, SHIPPED.values())))


def test_the_commands_are_sound(tmp_path: Path) -> None:
    tasks = plan(SamplesConfig(out=tmp_path, seeds=2), RECIPES)
    check_commands(Spec(tmp_path, tuple(tasks)))


def test_what_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunWriter.create(tmp_path / "base", method="pretrain", config={}) as writer:
        writer.finish("finished")
    recipes: dict[Name, Recipe] = {"base": RECIPES["base"], "sft": RECIPES["sft"]}
    tasks = {task.name: task for task in plan(SamplesConfig(out=tmp_path), recipes)}
    assert "base: finished already" in capsys.readouterr().err
    assert "base" not in tasks
    assert (tasks["sft"].needs, tasks["sycophancy-base"].needs) == ((), ())
    assert "base" in {task.name for task in plan(SamplesConfig(out=tmp_path, force=True), recipes)}
    assert not (tmp_path / "base").exists()


def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="is in the way of a sample run"):
        list(plan(SamplesConfig(out=tmp_path), {"base": RECIPES["base"]}))
