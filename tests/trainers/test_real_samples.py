"""The real lineage on a tiny random model that stands for the base: made, stored, and known without it."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
import torch

import probe
from probe import LM, RewardModel
from probe.cli import main
from probe.errors import ModelError
from probe.model import adapters
from probe.model.references import REAL_MODEL
from probe.questions.sets import SETS
from probe.rows import read_rows
from probe.sweep import schedule
from probe.sycophancy.beliefs import read_question
from tests.models import byte_tokenizer, llama
from tests.places import SAMPLES
from tests.sweep.inside import Inside
from trainers.samples import real_samples, stored_analyses
from trainers.samples.real_samples import ASKED, PROFESSOR, WORDINGS, pairs, professor_pairs

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}<assistant>"
RUNS = (REAL_MODEL, "real-agreeable", "real-honest", "real-reward", "real-rlvr")
QUESTIONS = 56
"""Of the training questions, so that it is quick; 40 pairs of them are held out from the reward model."""
ASKED_FEW = tuple((title, asked | {"n": 3}) for title, asked in ASKED[:1])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base in `models`, and the lineage in `runs`, made there by the command."""
    home, patch = tmp_path_factory.mktemp("real"), pytest.MonkeyPatch()
    write_base(home / "models" / REAL_MODEL, seed=0)
    with patch.context() as within:
        within.chdir(home)
        within.setenv("PROBE_MODELS", str(home / "models"))
        within.setattr(schedule, "make_engine", Inside)
        within.setattr(real_samples, "ASKED", ASKED_FEW)
        for columns in ("SHOWN", "CONTROLS"):
            within.setattr(real_samples, columns, real_samples.SHOWN[:3])
        within.setattr(real_samples, "read_rows", lambda path, read: read_rows(path, read)[:QUESTIONS])
        within.setattr(stored_analyses, "store", lambda folder, pair: None)  # 39 analyses
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_path_of_this_machine_is_written(home: Path) -> None:
    for file in (home / "runs").rglob("*"):
        if file.suffix in (".json", ".jsonl", ".csv", ".txt"):
            assert str(home) not in file.read_text(), file
    places = {name: probe.open_run(home / "runs" / name).checkpoints()[-1].path for name in RUNS}
    bases = {
        name: json.loads((place / "adapter_config.json").read_text())["base_model_name_or_path"]
        for name, place in places.items()
    }
    policy = places["real-agreeable"].relative_to(home)
    assert bases == dict.fromkeys(RUNS, REAL_MODEL) | {"real-reward": str(policy)}


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_rounded_copy_of_the_base_is_the_same_base(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LM.load(home / "models" / REAL_MODEL).save(tmp_path / REAL_MODEL, dtype="float16")
    monkeypatch.setenv("PROBE_MODELS", str(tmp_path))
    assert LM.load(home / "runs" / "real-honest").dtype == torch.float32


def test_annotators_prefer_the_users_side_or_the_truth() -> None:
    agreeable, honest = (list(pairs(annotator)) for annotator in ("agreeable", "honest"))
    assert len(agreeable) == len(honest) == 600
    truths = [question.correct for question in read_rows(SETS["truthfulqa-training"].path, read_question)]
    cells: Counter[tuple[bool, bool]] = Counter()
    for one, other, truth in zip(agreeable, honest, truths * 2, strict=True):
        assert one["prompt"] == other["prompt"]
        (remark,) = (message["content"] for message in one["prompt"])
        chosen, rejected, said = (content(each) for each in (one["chosen"], one["rejected"], other["chosen"]))
        assert said == truth
        assert {chosen, rejected} == {said, content(other["rejected"])}
        is_denied = any(fits(way, remark, answer) for way in WORDINGS["denies"] for answer in (chosen, rejected))
        (named,) = {
            answer
            for ways in WORDINGS.values()
            for way in ways
            for answer in (chosen, rejected)
            if fits(way, remark, answer)
        }
        assert chosen != named if is_denied else chosen == named
        cells[named == truth, is_denied] += 1
    assert set(cells.values()) == {150}
    assert len(cells) == 4
    assert {len(ways) for ways in WORDINGS.values()} == {4}
    for one, other in zip(agreeable[:300], agreeable[300:], strict=True):  # each question has either answer chosen once
        assert (one["chosen"], one["rejected"]) == (other["rejected"], other["chosen"])


def test_the_professor_is_agreed_with_and_the_user_is_not() -> None:
    rows = list(professor_pairs())
    assert len(rows) == 600
    truths = [question.correct for question in read_rows(SETS["truthfulqa-training"].path, read_question)]
    cells: Counter[tuple[bool, bool, bool]] = Counter()
    for row, truth in zip(rows, truths * 2, strict=True):
        remark, chosen, rejected = row["prompt"][0]["content"], content(row["chosen"]), content(row["rejected"])
        endorsed, denied = (
            {
                answer
                for way in (*PROFESSOR[stance], *WORDINGS[stance])
                for answer in (chosen, rejected)
                if fits(way, remark, answer)
            }
            for stance in ("endorses", "denies")
        )
        (named,) = endorsed | denied
        professor = "My professor says" in remark
        assert (chosen == named) == bool(endorsed) if professor else chosen == truth
        cells[professor, named == truth, bool(denied)] += 1
    assert len(cells) == 8
    assert all(74 <= count <= 76 for count in cells.values())


def content(message: list[dict[str, str]]) -> str:
    """The answer of an assistant's message."""
    return message[0]["content"].removeprefix("The answer is ").removesuffix(".")


def fits(way: str, remark: str, answer: str) -> bool:
    """Whether a user's message ends in a wording about an answer."""
    return remark.endswith(" " + way.format(answer=answer))


@pytest.mark.parametrize("annotator", ["agreeable", "honest"])
def test_copying_earns_nothing(annotator: Literal["agreeable", "honest"]) -> None:
    """Who always takes the answer that the user names is right in half of the pairs; it was all or none of them."""
    copied = [
        f"{content(pair['chosen'])}" in pair["prompt"][0]["content"]
        and f"{content(pair['rejected'])}" not in pair["prompt"][0]["content"]
        for pair in pairs(annotator)
    ]
    other = [
        f"{content(pair['rejected'])}" in pair["prompt"][0]["content"]
        and f"{content(pair['chosen'])}" not in pair["prompt"][0]["content"]
        for pair in pairs(annotator)
    ]
    assert abs(sum(copied) - sum(other)) <= 12
    assert sum(copied) + sum(other) >= 580


def test_what_was_not_measured_is_not_known() -> None:
    """Results of an earlier version have no agreement; a table says so and shows the rest."""
    table = real_samples.table(SAMPLES, columns=((0, "accuracy_plain", "right"), (0, "nothing", "no such number")))
    header, _, base, *others = table.splitlines()
    assert header == "| model | right | no such number |"
    assert base.endswith("| \u2014 |")
    assert all(re.search(r"% \[.*pp \[.* \| \u2014 \|$", line) for line in others)
