"""One rule for names: a separator makes a path, a bare name of two folders is refused, and commands say what opened."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import probe
from probe.cli import main
from probe.errors import AmbiguousNameError, ModelError, ProbeError, RunError
from probe.model.references import look_up, resolve
from probe.runs import RunWriter
from probe.runs.directories import find
from tests.models import random_lm, saved_lm


def make_run(path: Path, seed: int = 0, config: dict | None = None, method: str = "sft") -> Path:
    with RunWriter.create(path, method=method, config=config or {}) as writer:
        with writer.checkpoint(3) as directory:
            random_lm(seed=seed).save(directory)
        writer.log(3, {"loss": 1.0})
        writer.finish()
    return path


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and a folder of runs elsewhere with the run `base`."""
    make_run(tmp_path / "shelf" / "base")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "shelf"))
    monkeypatch.setenv("PROBE_MODELS", str(tmp_path / "models"))
    return tmp_path / "work"


def test_a_path_is_never_the_run_of_that_name(work: Path) -> None:
    saved_lm(work / "base", seed=7)
    for ref in ("./base", "../work/base", str(work / "base")):
        assert resolve(ref).directory.resolve() == work / "base"
    assert probe.LM.load("./base").fingerprint == random_lm(seed=7).fingerprint


def test_a_path_that_is_not_there_is_no_run_elsewhere(work: Path) -> None:
    for ref in ("./base", "../work/base"):
        with pytest.raises(RunError):
            find(ref)
        with pytest.raises(ModelError):
            look_up(ref)
    make_run(work.parent / "shelf" / "sweep" / "one")
    with pytest.raises(RunError):
        find("sweep/one")


@pytest.mark.parametrize("here", [saved_lm, make_run], ids=["a model", "a run"])
def test_a_bare_name_of_two_folders_is_refused_with_both(work: Path, here: Callable[..., object]) -> None:
    assert resolve("base").run_dir == work.parent / "shelf" / "base"
    here(work / "base", seed=7)
    with pytest.raises(ModelError) as error:
        resolve("base")
    for way in ("./base", str(work.parent / "shelf" / "base")):
        assert f"`{way}`" in str(error.value)
        assert resolve(way)
    if here is make_run:
        for open_it in (find, probe.open_run):
            with pytest.raises(RunError, match=r"`\./base`"):
                open_it("base")


def test_a_step_can_only_be_of_a_run(work: Path) -> None:
    saved_lm(work / "base", seed=7)
    assert resolve("base@3").run_dir == work.parent / "shelf" / "base"


def test_a_model_and_a_run_of_one_name_are_refused_unless_the_run_stands_for_the_model(work: Path) -> None:
    saved_lm(work.parent / "models" / "base", seed=7)
    with pytest.raises(AmbiguousNameError, match="models/base"):
        resolve("base")
    make_run(work.parent / "shelf" / "mine", config={"base": "mine"}, method="pretrain")
    saved_lm(work.parent / "models" / "mine", seed=7)
    assert resolve("mine").directory == work.parent / "models" / "mine"


def test_a_folder_of_runs_that_is_worked_in_is_no_second_place(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work.parent / "shelf")
    assert resolve("base").run_dir is not None
    assert probe.open_run("base").name == "base"


def test_a_folder_that_is_neither_model_nor_run_hides_none(work: Path) -> None:
    (work / "base").mkdir()
    assert resolve("base").run_dir == work.parent / "shelf" / "base"


def test_a_hub_id_is_still_one_where_there_is_no_such_path(work: Path) -> None:
    assert look_up("owner/name") is None
    saved_lm(work / "owner" / "name")
    assert look_up("owner/name") == (Path("owner/name"), None)


def test_commands_say_first_what_they_opened(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(work / "mine", seed=1)
    shelf = work.parent / "shelf" / "base"
    assert main(["runs", "show", "base", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == f"probe: run `base` is {shelf}"
    assert json.loads(said.out)["name"] == "base"
    assert main(["compare", "base", "./mine", "--json", "--n", "2", "--data", str(texts(work))]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[:2] == [
        f"probe: model `base` is {shelf / 'checkpoints' / '00000003'}",
        "probe: model `./mine` is ./mine/checkpoints/00000003",
    ]
    json.loads(said.out)
    assert main(["report", "mine", "--out", "report.html"]) == 0
    assert capsys.readouterr().err.startswith("probe: run `mine` is ./mine\n")
    assert main(["export", "mine", "--format", "csv", "--out", "files"]) == 0
    assert capsys.readouterr().err.startswith("probe: run `mine` is ./mine\n")


def texts(folder: Path) -> Path:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"mira lives in {place} ."}) + "\n" for place in ("oslo", "rome")))
    return file


TYPOS = {
    "train": ["train", "dpo", "--base", "bsae", "--out", "new"],
    "train a reward": ["train", "rlvr", "--base", "base", "--reward", "./nowhere", "--out", "new"],
    "train data": ["train", "sft", "--base", "base", "--data", "nowhere.jsonl", "--out", "new"],
    "train out": ["train", "sft", "--base", "base", "--out", "taken"],
    "experiment": ["experiment", "sycophancy", "--model", "bsae"],
    "experiment baseline": ["experiment", "sycophancy", "--model=base", "--baseline=bsae"],
    "experiment also": ["experiment", "sycophancy", "--model", "base", "--also", "base", "bsae"],
    "experiment data": ["experiment", "sycophancy", "--model", "base", "--data", "nowhere.jsonl"],
    "experiment world": ["experiment", "sycophancy", "--model", "base", "--world", "nowhere"],
    "audit": ["audit", "base", "bsae"],
    "audit world": ["audit", "base", "base", "--world", "nowhere"],
    "audit no model": ["audit", "base", "./taken"],
    "compare": ["compare", "base", "bsae"],
    "export": ["export", "bsae", "--out", "new"],
    "report": ["report", "bsae", "--out", "report.html"],
    "runs": ["runs", "show", "bsae"],
}
LIGHT = """
import json, sys
from probe.cli import main
for name, argv in json.loads(sys.argv[1]).items():
    print(name, main(argv), sorted({"torch", "transformers"} & set(sys.modules)))
"""


def test_names_and_paths_are_checked_before_torch_is_imported(work: Path) -> None:
    (work / "taken").mkdir()
    (work / "taken" / "notes.txt").write_text("mine")
    done = subprocess.run([sys.executable, "-c", LIGHT, json.dumps(TYPOS)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} 2 []" for name in TYPOS]
    errors = [line for line in done.stderr.splitlines() if line.startswith("probe: error:")]
    assert len(errors) == len(TYPOS)
    assert sum("did you mean `base`?" in line for line in errors) == 9


def test_rewards_of_the_world_are_known_without_torch() -> None:
    from trainers.config import JUDGEMENTS
    from trainers.reward_functions import JUDGES

    assert tuple(JUDGES) == JUDGEMENTS


def test_a_mistyped_reward_is_told_from_a_model(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "rlvr", "--base", "base", "--reward", "verifer", "--out", "new"]) == 2
    assert "did you mean `verifier`?" in capsys.readouterr().err


def test_a_sweep_refuses_an_ambiguous_base(work: Path, tmp_path: Path) -> None:
    from probe.sweep.spec import _is_known

    assert _is_known("base")
    assert not _is_known("bsae")
    saved_lm(work / "base", seed=7)
    with pytest.raises(ProbeError, match=r"`\./base`"):
        _is_known("base")
