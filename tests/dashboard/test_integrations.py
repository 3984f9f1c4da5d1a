"""Runs of other people's loops that start from a sample run; `test_own_loops` opens every page on others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import probe
from probe import LM, open_run
from probe.integrations import ProbeCallback
from tests.dashboard.pages import Show, chart, read, values

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
QUIET = {"use_cpu": True, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "logging_steps": 2}


def rows(lm: LM) -> list[dict[str, torch.Tensor]]:
    texts = ["<user> where does mira live ? <bot> oslo <end>", "<user> quick 3 + 4 = <bot> 7 <end>"]
    found = []
    for text in texts * 20:
        ids = torch.tensor(lm.tokenizer(text)["input_ids"])
        found.append({"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)})
    return found


def watched(base: Path, run: Path) -> None:
    lm = LM.load(base)
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=1e-3)
    recorder = probe.watch(lm, run, every=2)  # the three lines: this,
    for step, row in enumerate(rows(lm)[:5]):
        loss = lm.model(row["input_ids"][None], labels=row["labels"][None]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        recorder.step(step, loss=loss)  # this,
    with recorder.writer.checkpoint(4) as folder:
        lm.save(folder)
    recorder.close()  # and this


def called_back(base: Path, run: Path) -> None:
    lm = LM.load(base)
    args = TrainingArguments(
        output_dir=str(run.with_name("theirs")), max_steps=4, per_device_train_batch_size=1, **QUIET
    )
    callback = ProbeCallback(run, every=2)
    Trainer(lm.model, args, train_dataset=rows(lm), processing_class=lm.tokenizer, callbacks=[callback]).train()


def by_trl(base: Path, run: Path) -> None:
    import trl
    from datasets import Dataset

    lm = LM.load(base)
    options: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False, "max_steps": 10, **QUIET}
    pair = {"prompt": "<user> where does mira live ? <bot>", "chosen": " oslo", "rejected": " rome"}
    trl.DPOTrainer(
        model=lm.model,
        ref_model=LM.load(base).model,
        args=trl.DPOConfig(output_dir=str(run.with_name("theirs")), **options),
        train_dataset=Dataset.from_list([pair] * 8),
        processing_class=lm.tokenizer,
        callbacks=[ProbeCallback(run, every=5)],
    ).train()


MAKERS = {"watch": watched, "callback": called_back, "trl": by_trl}


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one run of somebody's own loop from `base`."""
    if request.param == "trl":
        pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param](runs / "base", folder / "mine")
    return folder


@pytest.mark.parametrize("root", list(MAKERS), indirect=True)
def test_overview_training_and_logits_know_it(root: Path, runs: Path, show: Show):
    run = open_run(root / "mine")
    app = show(runs, root)
    table = app.dataframe[0].value
    row = table[table["run"] == "mine"].iloc[0]
    assert "finished" in row["status"]
    app = show(runs, root, page="training/page.py", runs="mine")
    assert not app.exception
    assert "mine" in read(app)
    assert any("loss" in str(part.value) for part in app.markdown) or "loss" in read(app)
    app = show(runs, root, page="logits/page.py", base="base", aligned="mine", log_run="mine")
    assert not app.exception
    assert not app.error
    drawn = chart(app, "training-layers")["data"][0]
    assert values(drawn["z"]).shape[1] == len(run.captures().steps) == 3
    assert run.meta["world"] == open_run(runs / "base").meta["world"]  # so it answers the world's questions too
