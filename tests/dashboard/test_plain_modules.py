"""Pages with runs of plain modules: captures are shown, and what needs the model says why there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

import probe
from dashboard.pages import page_file, page_names
from probe.cli import main
from probe.model.lm import LM
from probe.runs import open_run
from probe.world import World
from tests.dashboard.pages import Show, chart, heading, names, read, unescape, values
from tests.models import random_lm
from tests.plain_modules import MAMBA, NANO, nano_gpt


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of nanoGPT's GPT and of a Mamba, watched in loops of their own on the world's texts."""
    root, world = tmp_path_factory.mktemp("plain"), World(seed=0)
    tokenizer = world.tokenizer()
    gpt = nano_gpt(random_lm("gpt2", tokenizer, n_positions=128).model)
    for name, module, paths in (("gpt", gpt, NANO), ("mamba", random_lm("mamba", tokenizer).model, MAMBA)):
        loop(LM(module, tokenizer, mapping=probe.ModuleMap(**paths)), world, root / name)
    return root


def loop(lm: LM, world: World, folder: Path) -> None:
    """Five steps towards one answer."""
    prompts = world.probe_prompts()[:3]
    text, answers = prompts[0]["text"], prompts[0]["answers"]
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=1e-3)
    with probe.watch(lm, folder, prompts=prompts, every=2) as recorder:
        for step in range(5):
            loss = -lm.logprobs([text], [answers[0]]).values.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            recorder.step(step, loss=loss.detach())


def test_captures_of_a_plain_module_are_shown(show: Show, plain: Path):
    app = show(plain, page="training/page.py", watched="gpt")
    assert not app.exception
    assert not app.error
    assert names(app) == ["curves", "heads", "head", "answers"]
    pattern = open_run(plain / "gpt").captures().load(4)["attention"]
    app = show(plain, page="attention/page.py", att_view="captures", att_watched="gpt", att_since="false")
    assert not app.exception
    assert not app.error
    assert "of gpt" in heading(app)
    index = app.selectbox(key="att_captured").options.index(app.selectbox(key="att_captured").value)
    maps = [values(each["z"]) for each in chart(app, "heads")["data"] if each["type"] == "heatmap"]
    assert any(np.allclose(each[0, 0], pattern[index, 0, 0, 0, 0], atol=1e-3) for each in maps)
    assert "training" in names(app)


def test_captures_without_attention_leave_it_out_by_name(show: Show, plain: Path):
    app = show(plain, page="training/page.py", watched="mamba")
    assert not app.exception
    assert not app.error
    assert names(app) == ["curves", "lens", "answers"]
    assert "These captures hold no attention: the model has blocks without heads, or it was not chosen." in read(app)
    app = show(plain, page="attention/page.py", att_view="captures", att_watched="mamba")
    assert not app.exception
    assert heading(app) == "No run here has captures of attention to move through."
    assert "The captures of mamba hold no attention" in read(app)


def test_the_lens_over_training_is_shown(show: Show, plain: Path, runs: Path):
    for name in ("gpt", "mamba"):
        app = show(runs, plain, page="logits/page.py", log_run=name)
        assert not app.exception
        assert not app.error
        assert app.selectbox(key="log_run").value == name
        assert {"training-layers", "training"} <= set(names(app))
        assert ("training-parts" in names(app)) == (name == "gpt")
    assert "The heads and MLPs of mamba do not sum to its logits" in read(app)


@pytest.mark.parametrize("page", page_names())
def test_every_page_says_why_there_is_no_model(show: Show, plain: Path, page: str):
    app = show(plain, page=page_file(page), base="gpt", aligned="mamba")
    assert not app.exception
    for error in app.error:
        assert "holds the weights of a plain module (" in unescape(error.value)
        assert "which only its own code builds: build it" in unescape(error.value)
    if page in ("attention", "logits", "interventions", "compare", "sycophancy"):
        assert app.error


def test_figures_of_a_run_are_exported_without_attention(plain: Path, tmp_path: Path):
    assert main(["export", str(plain / "mamba"), "--out", str(tmp_path), "--format", "csv"]) == 0
    written = {file.name.partition("-")[0].removeprefix("mamba_") for file in tmp_path.rglob("*.csv")}
    assert {"lens", "answers"} <= written
    assert "attention" not in written
