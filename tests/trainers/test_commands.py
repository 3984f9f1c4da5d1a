"""`probe train` and `probe samples` as a user types them."""

import dataclasses
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import LM, RewardModel, list_runs, open_run
from probe.cli import main
from probe.errors import ConfigError
from probe.experiments.result import Result
from probe.options import docstrings, options
from probe.sweep import schedule
from tests.sweep.inside import Inside
from tests.trainers.quick import COMMON, QUICK, method_of
from trainers import commands, pretrain
from trainers.config import PretrainConfig, RLVRConfig, SFTConfig, TrainConfig
from trainers.samples import make_samples, recipes


def outcome(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, output and error of `probe`."""
    try:
        status = main(argv)
    except SystemExit as end:
        status = int(end.code or 0)
    out, error = capsys.readouterr()
    return status, out, error


def test_import_is_light() -> None:
    heavy = ("torch", "transformers", "tyro", "pandas")
    code = f"import sys, trainers.commands; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome(["train", "--help"], capsys)
    assert status == 0
    assert all(f"  {method} " in out for method in commands.METHODS)


@pytest.mark.parametrize("method", commands.METHODS)
def test_every_option_is_explained(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome(["train", method, "--help"], capsys)
    assert status == 0
    kind = commands.METHODS[method][1]
    for option in options(kind):
        if not option.startswith("--no-"):
            assert option in out, option
    told = docstrings(kind)
    assert all(told.get(field.name) for field in dataclasses.fields(kind))


def test_options_are_checked_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dpo", "--out", str(tmp_path / "run"), "--base", "base"]
    for argv in ([*words, "--check"], ["--check", *words]):
        assert outcome(["train", *argv], capsys) == (0, "", "")
    status, _, error = outcome(["train", *words, "--data", str(tmp_path / "none.jsonl"), "--check"], capsys)
    assert status == 2
    assert "There is no file" in error
    assert not list(tmp_path.iterdir())


def test_an_annotator_with_other_settings_is_a_reward_and_no_model(tmp_path: Path) -> None:
    def models(*rewards: str) -> list[str]:
        return commands.models_of(RLVRConfig(out=tmp_path / "run", base="", reward=rewards))

    assert models("agreeable+agreement=0+checks=0.9", "facts") == []
    with pytest.raises(ConfigError, match="agreeable"):
        models("agreeble")


def test_a_training_hears_ctrl_c_where_its_parent_ignores_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert commands.train(["--help"]) == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_module_runs_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As `python -m trainers.pretrain` runs it, without a process that imports torch again."""
    monkeypatch.setattr(sys, "argv", ["pretrain", "--out", "x", "--stps", "1"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(pretrain.__file__), run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("probe: error: `probe train pretrain` has no option `--stps`")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dop"], "`probe train` has no `dop`, only pretrain, sft, "),
        (["dpo", "--out", "x", "--base", "b", "--bta", "1"], "has no option `--bta`: did you mean `--beta`?"),
        (["dpo", "--bta", "1"], "has no option `--bta`: did you mean `--beta`?"),
        (
            ["dpo", "--out", "x", "--base", "b", "--batch_sze=3"],
            "no option `--batch_sze`: did you mean `--batch-size`?",
        ),
        (["pretrain", "--out", "x", "--world.know", "1"], "no option `--world.know`: did you mean `--world.known`?"),
        (["dpo"], "`probe train dpo` needs --out, --base: see `probe train dpo --help`"),
        (["dpo", "--out", "x"], "`probe train dpo` needs --base: see"),
        (["dpo", "--out", "x", "--base", "b", "extra"], "`probe train dpo` does not take `extra`"),
        (["dpo", "--out", "x", "--base", "b", "--steps", "many"], "Error parsing --steps: invalid literal for int()"),
        (
            ["dpo", "--out", "x", "--base", "b", "--schedule", "steep"],
            "`probe train dpo` takes cosine, linear, constant for --schedule, and not `steep`: see",
        ),
        (
            ["dpo", "--out", "x", "--base", "b", "--data", "pairs.txt"],
            "--data is pairs.txt; expected `world` or a file of rows (.jsonl, .json, .csv",
        ),
        (["dpo", "--out", "x", "--base", "b", "--steps", "0"], "--steps is 0; expected at least 1"),
        (["pretrain", "--out", "x", "--preset", "huge"], "--preset is huge; expected one of tiny, icl, small"),
        (["pretrain", "--out", "x", "--world.known", "1"], "This world cannot be made"),
        (["pretrain", "--out", "x", "--resume"], "There is no run to resume in `x`"),
        (["pretrain", "--out", "x", "--data", "none.txt"], "There is no file `none.txt`"),
    ],
)
def test_mistakes_get_one_sentence(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, error = outcome(["train", *argv], capsys)
    assert (status, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_training_and_resuming_with_the_options_of_the_run(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    quick = ["--length", "32", "--batch-size", "4", "--evaluate", "0", "--capture-every", "0", "--warmup", "1"]
    status, _, error = outcome(
        ["train", "pretrain", "--out", out, "--base", str(model_dir), "--steps", "2", *quick], capsys
    )
    assert status == 0, error
    status, _, error = outcome(["train", "pretrain", f"--out={out}", "--resume", "--steps", "3"], capsys)
    assert status == 0, error
    run = open_run(out)
    assert (run.config["steps"], run.config["length"], run.config["base"]) == (3, 32, str(model_dir))
    status, _, error = outcome(["train", "dpo", "--out", out, "--resume"], capsys)
    assert status == 2
    assert "was made by `pretrain`, not `dpo`" in error


@pytest.fixture
def small(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes with a small model and a quick evaluation."""

    def smaller(recipe: Callable[[Path], TrainConfig]) -> Callable[[Path], TrainConfig]:
        def config(folder: Path) -> TrainConfig:
            made = recipe(folder)
            quick = {name: value for name, value in QUICK[method_of(made)].items() if name != "reward"}
            changes = COMMON | quick | {"evaluate": 4, "capture_every": 1}
            changes |= {"base": str(model_dir)} if isinstance(made, PretrainConfig) else {}
            return dataclasses.replace(made, **changes)

        return config

    small = {name: recipe._replace(config=smaller(recipe.config)) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(make_samples, "RECIPES", small)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_samples_are_made_measured_and_kept(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: trainings as processes of their own are those of any sweep (tests/sweep)."""
    monkeypatch.setattr(schedule, "make_engine", Inside)
    few = {name: recipe._replace(asked=()) for name, recipe in make_samples.RECIPES.items()}
    few["base"] = few["base"]._replace(asked=(("hallucination", {"n": 20}),))
    monkeypatch.setattr(make_samples, "RECIPES", few)
    names = ("base", "reward-agreeable", "rlhf")
    argv = ["samples", "--out", str(tmp_path / "s"), "--seeds", "2", "--slim", "--only", *names]
    status, out, error = outcome(argv, capsys)
    assert status == 0, error
    assert "| `rlhf` |" in out
    runs = {run.name: run for run in list_runs(tmp_path / "s")}
    assert set(runs) == {*names, *(f"{name}-seed1" for name in names)}
    assert {run.status for run in runs.values()} == {"finished"}
    for name in names:
        run, other = runs[name], runs[f"{name}-seed1"]
        assert run.parent == str(model_dir if name == "base" else tmp_path / "s" / "base")
        assert (other.seed, other.parent) == (1, run.parent if name == "base" else f"{run.parent}-seed1")
        assert 2 <= len(run.captures()) <= make_samples.RECIPES[name].captures
        (checkpoint,) = run.checkpoints()
        assert not (checkpoint.path / "optimizer.safetensors").exists()
        assert not other.checkpoints()
        assert not other.captures().steps
    assert runs["rlhf"].reward_model == str(tmp_path / "s" / "reward-agreeable")
    assert LM.load(runs["rlhf"].path, dtype="float16").dtype.itemsize == 2
    assert RewardModel.load(runs["reward-agreeable"].path).score(["<user>"], [" oslo"]).shape == (1,)
    for name in ("base", "base-seed1"):
        (folder,) = (tmp_path / "s" / name / "results").glob("hallucination-*")
        assert len(Result.load(folder).items) > 20
    status, _, error = outcome([*argv[:3], "--only", "base", "--force"], capsys)
    assert status == 0, error
    assert open_run(runs["base"].path).created > runs["base"].created
    assert len(list((runs["base"].path / "results").iterdir())) == 1  # measured anew
    shutil.rmtree(tmp_path / "s" / ".sweep")  # as the sample runs come with Probe
    status, _, error = outcome(argv, capsys)
    assert status == 0, error
    assert error.count("finished already") == len(runs)


def test_scale_keeps_the_recipe() -> None:
    config = recipes.base(Path("s"))
    small = make_samples.scale_steps(config, 0.01, 1)
    assert (small.steps, small.warmup, small.threads) == (30, 3, 1)
    assert dataclasses.replace(small, steps=config.steps, warmup=config.warmup, threads=0) == config


def test_interruption_is_told_by_the_exit_status(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.trainers.test_loop import stop_at

    stop_at(monkeypatch, 1)
    words = ["--out", str(tmp_path / "run"), "--base", str(model_dir), "--length", "32", "--capture-every", "0"]
    status, _, error = outcome(["train", "pretrain", *words], capsys)
    assert status == 130
    assert "stopping after this step with a checkpoint" in error


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_warmup_of_a_recipe_is_made_whole(name: recipes.Name, tmp_path: Path) -> None:
    config = recipes.RECIPES[name].config(tmp_path)
    for each in (config, make_samples.scale_steps(config, 0.1, 1), make_samples.scale_steps(config, 0.001, 1)):
        assert each.warmup_steps == each.warmup


@pytest.mark.parametrize(
    "damage", [{"steps": "many"}, {"lr": None}, {"betas": 3}, {"data": 7}, {"lora_targets": 1}, {"out": 5}]
)
def test_stored_options_of_another_type_are_one_sentence(damage: dict[str, Any]) -> None:
    sound = {"out": "runs/x", "base": "b"}
    assert SFTConfig.from_dict(sound).steps == 150
    with pytest.raises(ConfigError, match=r"^[^\n]+$"):
        SFTConfig.from_dict(sound | damage)
