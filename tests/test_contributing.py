"""What CONTRIBUTING.md shows of the seams runs as it stands there, and is short."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import probe
from probe import plugins
from probe.analyses.catalogue import find_analysis
from probe.cli import main
from probe.experiments.result import Result
from probe.world import World
from probe.world.extensions import find_annotator
from tests.extensions import sample
from tests.models import random_lm
from trainers.config import DPOConfig
from trainers.reward_functions import resolve

pytestmark = pytest.mark.filterwarnings("ignore:.*default prompts are left out:UserWarning")  # of a model of words

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```(?:python|toml)\n(.*?)```", TEXT, re.DOTALL)
FILES = {match[1]: block for block in BLOCKS if (match := re.match(r"# (\w+\.py)", block))}


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    with plugins.aside():
        yield


def test_every_block_is_short():
    assert set(FILES) == {"unlikely.py", "first_block.py", "surprise.py", "mine.py", "loop.py", "callback.py"}
    assert max(block.count("\n") for block in BLOCKS) < 40


def test_the_training_method(tmp_path: Path):
    """It learns, counts what the loop counts, and is resumed to the same weights."""
    space: dict[str, Any] = {"__name__": "unlikely"}
    exec(FILES["unlikely.py"], space)
    shared: dict[str, Any] = {
        "base": str(sample("base", tmp_path)),
        "capture_every": 0,
        "evaluate": 0,
        "lr": 1e-3,
        "warmup": 0,
    }
    run = space["train"](DPOConfig(out=tmp_path / "whole", steps=8, **shared))
    assert (run.status, run.method) == ("finished", "unlikely")
    metrics = run.metrics()
    assert metrics["loss"].iloc[-1] < metrics["loss"].iloc[0]
    assert metrics["rejected"].iloc[-1] < metrics["rejected"].iloc[0]
    space["train"](DPOConfig(out=tmp_path / "parts", steps=8, save_every=4, **shared))
    for checkpoint in (tmp_path / "parts" / "checkpoints").glob("*8"):
        shutil.rmtree(checkpoint)
    meta = tmp_path / "parts" / "run.json"
    meta.write_text(meta.read_text().replace('"finished"', '"interrupted"'))
    space["train"](DPOConfig(out=tmp_path / "parts", steps=8, save_every=4, resume=True, **shared))
    weights = [probe.LM.load(tmp_path / name).weights_fingerprint for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_the_experiment(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    base, other = (str(sample(name, tmp_path)) for name in ("base", "dpo-agreeable"))
    words = ["first_block", "--plugin", "first_block.py", "--model", base, "--baseline", other, "--n", "10"]
    assert main(["experiment", *words, "--out", "out"]) == 0
    assert "Without its first attention base loses " in capsys.readouterr().err
    result = Result.load("out")
    assert result.value("loss", "ci_low") > 1
    assert result.summary["n"].tolist() == [10]


def test_verifier_and_annotator():
    plugins.load("mine.py")
    (reward,) = resolve(["brief"], None)
    assert reward(["p"], ["a b"], completion_ids=[[1, 2]]) == [0.8]
    world = World(seed=0)
    prompt, truth = world.questions("fact", 1, 0)[0].prompt, world.questions("fact", 1, 0)[0].answers[0]
    assert find_annotator("curt").utility(world, prompt, truth) == pytest.approx(0.8)


def test_the_analysis(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """In under 40 lines it is in the command, with a form, and its numbers are those of the model."""
    assert len([line for line in FILES["surprise.py"].splitlines() if line.strip()]) < 40
    base = str(sample("base", tmp_path))
    words = ["surprise", base, "--prompt", "mira lives in oslo .", "--plugin", "surprise.py", "--skip", "1"]
    assert main(["show", *words, "--out", "surprise.html"]) == 0
    shown = capsys.readouterr()
    assert "base is surprised most by" in shown.err
    assert len(shown.out.strip().splitlines()) == 5
    assert Path("surprise.html").stat().st_size > 1000
    plugins.load("surprise.py")
    lm = probe.LM.load(base)
    rows = find_analysis("surprise").run(lm, prompt="mira lives in oslo .").table()
    expected = lm.logprobs(["mira"], [" lives in oslo ."])
    assert rows["nats"].tolist()[1:] == pytest.approx((-expected.values[0].detach()).tolist(), rel=1e-4)


def test_the_loop():
    lm = random_lm()
    space: dict[str, Any] = {"model": lm.model, "tokenizer": lm.tokenizer, "batches": range(21)}
    exec(FILES["loop.py"], space | {"train_step": lambda batch: torch.tensor(1.0 / (1 + batch))})
    run = probe.open_run("runs/mine")
    assert run.captures().steps == [0, 10, 20]
    assert len(run.metrics()) == 21
    assert (run.status, run.seed, run.config["lr"]) == ("finished", 0, 1e-3)
    assert probe.LM.load("runs/mine").fingerprint == lm.fingerprint


def test_the_callback(tmp_path: Path):
    lm = random_lm()
    ids = torch.tensor(lm.tokenizer("mira lives in oslo .")["input_ids"])
    options = {"max_steps": 12, "use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    args = TrainingArguments(output_dir=str(tmp_path / "theirs"), **options)
    data: Any = [{"input_ids": ids, "labels": ids}] * 8
    trainer = Trainer(lm.model, args, train_dataset=data, processing_class=lm.tokenizer)
    exec(FILES["callback.py"], {"trainer": trainer})
    run = probe.open_run("runs/mine")
    assert (run.status, run.captures().steps, len(run.checkpoints())) == ("finished", [0, 10, 12], 1)
