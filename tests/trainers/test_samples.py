"""The sample runs as tasks of a sweep, also from further seeds."""

import dataclasses
import inspect
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from probe import open_run
from probe.errors import ConfigError, DataError
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.run import join
from probe.rewards import factorial
from probe.runs import RunWriter, list_runs
from probe.runs.storage import hold_lock, unlock
from probe.seeds import groups, headline
from probe.sweep.journal import Journal, Sweep
from probe.sweep.spec import Spec, check_commands, read_spec
from tests.places import ROOT, SAMPLES
from tests.seeds.conftest import write_lineage
from trainers.commands import METHODS, parse_training
from trainers.samples import control_runs, factorial_samples
from trainers.samples.make_samples import plan, scale_steps, slim, tables, with_seed
from trainers.samples.recipes import PHENOMENA, RECIPES, Name, Recipe, SamplesConfig

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
    phases, sums = {"continual-plain", "continual-shuffled"}, {"sums", "sums-rlvr"}
    assert set(changes) | phases | sums == set(made)
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
    bases = {name: dict(pairwise(task.words)).get("--base") for name, task in tasks.items()}
    assert {bases[name] for name in bases if not name.startswith("sums")} == {"base"}
    assert bases["sums-rlvr-seed1"] == str(tmp_path / "sums-seed1")
    assert tasks["sums-rlvr-seed1"].needs == ("sums-seed1",)
    plain = RECIPES["rlvr"].config(tmp_path).to_dict()
    changed = {key for key in plain if plain[key] != made["sums-rlvr"][key]}
    assert changed == own | {"data", "reward", "max_new_tokens", "capture_every"}
    control_runs.write_data(tmp_path)
    check_commands(Spec(tmp_path, tuple(tasks.values())))


def test_kinds_of_samples_are_not_mixed() -> None:
    for options, message in (
        ({"real": True, "controls": True}, "give one of them"),
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


# one cause at a time

FACTORIAL = factorial_samples.recipes()


def test_the_factorial_trains_every_cell_by_the_recipes_of_the_samples(tmp_path: Path) -> None:
    by_method = {method: [name for name, each in FACTORIAL.items() if each.method == method] for method in METHODS}
    assert (len(by_method["dpo"]), len(by_method["reward-model"]), len(by_method["rlhf"])) == (16, 4, 4)
    cells = {each.spec for each in factorial.cells()}
    assert {FACTORIAL[name].config(tmp_path).to_dict()["annotator"] for name in by_method["dpo"]} == cells
    shared: tuple[Name, ...] = ("dpo-agreeable", "dpo-honest", "reward-agreeable")
    for name in shared:
        assert FACTORIAL[name].config(tmp_path) == RECIPES[name].config(tmp_path)
    stored, own = (
        recipes["rlhf" + end].config(tmp_path).to_dict() for recipes, end in ((RECIPES, ""), (FACTORIAL, "-agreeable"))
    )
    assert {key for key in stored if stored[key] != own[key]} == {"out"}


def test_each_training_of_the_factorial_waits_for_that_of_its_seed(tmp_path: Path) -> None:
    config = SamplesConfig(out=tmp_path, seeds=2, factorial=True)
    tasks = {task.name: task for task in plan(config, FACTORIAL)}
    assert len(tasks) == 2 * (1 + 16 + 4 + 4)
    check_commands(Spec(tmp_path, tuple(tasks.values())))
    assert tasks["rlhf-agreeable+abstain=0-seed1"].needs == ("base-seed1", "reward-agreeable+abstain=0-seed1")
    assert tasks["dpo-honest+agreement=2-seed1"].needs == ("base-seed1",)
    words = tasks["dpo-honest+agreement=2"].words
    assert words[words.index("--annotator") + 1] == "honest+agreement=2"


def test_the_factorial_and_a_real_model_are_two_things() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        SamplesConfig(factorial=True, real=True)


def test_the_tables_of_the_factorial_have_optima_and_the_trainings_that_are_there() -> None:
    summary, table, effects, words = factorial_samples.tables(SAMPLES).split("\n\n")
    assert [len(each.splitlines()) for each in (summary, table, effects)] == [6, 2 + 17, 2 + 10]
    page = (ROOT / "docs" / "rewards.md").read_text()
    assert summary in page
    assert effects in page
    assert words.partition(" Trainings end")[0] in page
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in table.splitlines()}
    shown = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")
        for line in page.splitlines()
        if line[:3] == "| `"
    }
    heads = rows["annotator"]
    places = [heads.index(head) for head in heads if head.endswith("optimum")]
    for name, row in rows.items():
        if name.startswith("`"):
            assert [row[at] for at in places] == [shown[name][1], shown[name][4]], name
    assert "90 % [87, 94]" in rows["`agreeable`"]
    assert "93 % [85, 100]" in rows["`agreeable`"]


def test_the_pages_say_what_honest_labels_do_to_the_weight_of_a_users_word() -> None:
    """`dpo-honest` does not undo sycophancy: it goes past what Bayes' rule warrants, and so do SFT and RLVR."""
    page = " ".join((ROOT / "docs" / "samples.md").read_text().split())
    for metric, models in (("", ("dpo-honest", "sft", "rlvr", "base")), ("_own", ("dpo-honest", "sft", "rlvr"))):
        for model in models:
            (group,) = (each for each in groups(list_runs(SAMPLES)) if each.first.name == model)
            row = headline(group).set_index("metric").loc[f"excess_deference{metric}"]
            ends = ", ".join(f"{row[end]:.1f}".replace("-", "\u2212") for end in ("ci_low", "ci_high"))
            text = f"{row['value']:+.1f} nats [{ends}]".replace("-", "\u2212")
            assert text in page or text.replace(" nats", "") in page, (model, metric, text)
            assert model != "dpo-honest" or row["ci_high"] < 0


def test_without_a_base_there_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no `base` with weights"):
        factorial_samples.tables(tmp_path)
