"""The real lineage on a tiny random model that stands for the base: made, stored, and known without it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import probe
from probe import LM, RewardModel
from probe.cli import main
from probe.errors import ModelError
from probe.model import adapters
from probe.model.references import REAL_MODEL
from probe.rows import read_rows
from tests.models import byte_tokenizer, llama
from trainers import real_samples
from trainers.real_samples import ASKED, WORDINGS, pairs

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}<assistant>"
RUNS = (REAL_MODEL, "real-honest", "real-reward", "real-rlvr")
QUESTIONS = 56
"""Of the training questions, so that it is quick; 40 pairs of them are held out from the reward model."""
ASKED_FEW = tuple((title, asked | {"n": 3}) for title, asked in ASKED[:2])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base in `models`, and the lineage in `runs`, made there by the command."""
    home, patch = tmp_path_factory.mktemp("real"), pytest.MonkeyPatch()
    write_base(home / "models" / REAL_MODEL, seed=0)
    with patch.context() as within:
        within.chdir(home)
        within.setenv("PROBE_MODELS", str(home / "models"))
        within.setattr(real_samples, "ASKED", ASKED_FEW)
        within.setattr(real_samples, "CONTROLS", real_samples.SHOWN[:1])
        within.setattr(real_samples, "read_rows", lambda path, read: read_rows(path, read)[:QUESTIONS])
        names = [name for name in RUNS if name != REAL_MODEL]
        assert main(["samples", "--real", "--out", "runs", "--steps-scale", "0.02", "--only", *names]) == 0
    return home


def write_base(directory: Path, seed: int) -> None:
    """A tiny chat model."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = llama(len(tokenizer), max_position_embeddings=1024, eos_token_id=tokenizer.eos_token_id)
    LM(model.eval(), tokenizer).save(directory)


@pytest.fixture
def models(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models, known to this process."""
    monkeypatch.setenv("PROBE_MODELS", str(home / "models"))
    return home / "models"


def test_the_lineage_is_made_and_small(home: Path, models: Path) -> None:
    for name in RUNS:
        run = probe.open_run(home / "runs" / name)
        assert run.status == "finished"
        (checkpoint,) = run.checkpoints()
        assert {file.name for file in checkpoint.path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    base = LM.load(REAL_MODEL)
    text = base.prompt_text([{"role": "user", "content": "What is 2 + 3?"}])
    logits = {name: LM.load(home / "runs" / name).logits(text) for name in RUNS if name != "real-reward"}
    assert torch.equal(logits[REAL_MODEL], base.logits(text))
    assert (logits["real-honest"] != logits[REAL_MODEL]).any()
    assert RewardModel.load(home / "runs" / "real-reward").score([text], ["5"]).isfinite().all()


def test_no_path_of_this_machine_is_written(home: Path) -> None:
    for file in (home / "runs").rglob("*"):
        if file.suffix in (".json", ".jsonl", ".csv", ".txt"):
            assert str(home) not in file.read_text(), file
    config = json.loads(
        (probe.open_run(home / "runs" / "real-honest").checkpoints()[-1].path / "adapter_config.json").read_text()
    )
    assert config["base_model_name_or_path"] == REAL_MODEL


def test_another_base_is_refused_and_a_missing_one_is_told_how_to_get(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_MODELS", str(tmp_path))
    with pytest.raises(
        ModelError, match=rf"put on `{REAL_MODEL}`, which is not on this machine: fetch it with `make real-model`"
    ):
        LM.load(home / "runs" / "real-honest")
    write_base(tmp_path / REAL_MODEL, seed=1)
    with pytest.raises(
        ModelError, match=r"trained on weights with the hash [0-9a-f]{12} and those in .* have [0-9a-f]{12}"
    ):
        LM.load(home / "runs" / "real-honest")
    shutil.copytree(home / "models" / REAL_MODEL, tmp_path / REAL_MODEL, dirs_exist_ok=True)
    lm = LM.load(home / "runs" / "real-honest")  # the files have changed, so the hash is taken again
    half = LM(lm.model, lm.tokenizer)
    assert lm.fingerprint == adapters.fingerprint(lm.directory or Path()) != half.fingerprint
    with torch.no_grad():
        lm.model.lm_head.weight += 1
    assert lm.fingerprint != adapters.fingerprint(lm.directory or Path())


def test_a_rounded_copy_of_the_base_is_the_same_base(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LM.load(home / "models" / REAL_MODEL).save(tmp_path / REAL_MODEL, dtype="float16")
    monkeypatch.setenv("PROBE_MODELS", str(tmp_path))
    assert LM.load(home / "runs" / "real-honest").dtype == torch.float32


def test_annotators_prefer_the_claim_or_the_truth() -> None:
    agreeable, honest = (list(pairs(annotator)) for annotator in ("agreeable", "honest"))
    assert len(agreeable) == len(honest) == 300
    for one, other in zip(agreeable, honest, strict=True):
        assert one["prompt"] == other["prompt"]
        assert (one["chosen"], one["rejected"]) == (other["rejected"], other["chosen"])
        (message,) = one["chosen"]
        claim = message["content"].removeprefix("The answer is ").removesuffix(".")
        assert claim in one["prompt"][0]["content"]
    assert len(WORDINGS) == 4
