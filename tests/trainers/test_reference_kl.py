"""KL to the reference in whole runs: from which model it is, before and after a resume, and which runs have none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from probe import LM, Run
from probe.errors import RunError
from probe.runs import open_run
from tests.trainers.quick import train

Make = Callable[..., Any]
STEPS: dict[str, Any] = {"steps": 4, "capture_every": 2, "schedule": "constant"}
LORA: dict[str, Any] = {"lora": 4, "lora_alpha": 8.0}


def probabilities(lm: LM, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return scipy.special.softmax(lm.model(torch.tensor([ids])).logits[0].double().numpy(), axis=-1)


def check(run: Run, reference: LM) -> None:
    """0 before training, and afterwards that of the saved model from `reference`."""
    captures, trained = run.captures(), LM.load(run.path)
    assert captures.steps[0] == 0
    assert captures.load(0)["reference_kl"] == pytest.approx(0, abs=1e-6)
    found = captures.load(captures.steps[-1])["reference_kl"]
    for index, prompt in enumerate(captures.prompts):
        p, q = (probabilities(lm, prompt.token_ids) for lm in (trained, reference))
        expected = [scipy.stats.entropy(p[t], q[t]) for t in range(prompt.length)]
        np.testing.assert_allclose(found[index, : prompt.length], expected, rtol=1e-3, atol=1e-5)
    assert found.max() > 1e-4


@pytest.mark.parametrize(
    ("method", "options"),
    [*((method, {}) for method in ("pretrain", "sft", "dpo", "rlvr", "continual")), ("pretrain", LORA), ("dpo", LORA)],
)
def test_it_is_taken_from_the_base_and_a_resumed_run_has_the_same(
    method: str, options: dict[str, Any], configs: Callable[[str], Make], world_run: Path
) -> None:
    """An adapter's base is the reference, whatever trains it: once with a copy kept for captures, once for the loss."""
    make, given = configs(method), {"base": str(world_run), "lr": 1e-2, **STEPS, **options}
    whole = train(make("whole", **given))
    assert whole.reference == str(world_run)
    check(whole, LM.load(world_run))
    if method == "dpo":  # what is kept of a run does not hang on its method: test_resume.py
        train(make("parts", **given | {"steps": 2}))
        resumed = train(make("parts", **given, resume=True))
        assert resumed.reference == str(world_run)
        assert LM.load(resumed.path).weights_fingerprint == LM.load(whole.path).weights_fingerprint
        for step in (2, 4):
            ours, theirs = (run.captures().load(step)["reference_kl"] for run in (whole, resumed))
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("change", ["other", "gone"])
def test_pretraining_goes_on_without_its_base(
    change: str, pretraining: Make, model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model_dir, base)
    options = {"base": str(base), **STEPS}
    train(pretraining(**options | {"steps": 2}))
    if change == "gone":
        shutil.rmtree(base)
    else:
        lm = LM.load(base)
        lm.model.lm_head.weight.data *= 2
        lm.save(base)
    run = train(pretraining(**options, resume=True))
    assert run.status == "finished"
    assert "captures continue without the KL to it" in capsys.readouterr().err
    assert "reference_kl" in run.captures().load(2)
    assert "reference_kl" not in run.captures().load(4)


def test_sft_holds_a_resume_to_its_base_and_older_runs_go_on(configs: Callable[[str], Make], world_run: Path) -> None:
    make = configs("sft")
    run = train(make(steps=2))
    assert run.meta["data"]["reference"] == LM.load(world_run, dtype=torch.float32).weights_fingerprint
    file = run.path / "run.json"
    file.write_text(file.read_text().replace(run.meta["data"]["reference"], "0" * 64))
    with pytest.raises(RunError, match=r"have changed \(reference was 0+"):
        train(make(steps=4, resume=True))
    file.write_text(file.read_text().replace('"reference": "' + "0" * 64 + '"', '"other": 1'))
    assert train(make(steps=4, resume=True)).status == "finished"


def test_runs_without_a_reference_have_none(configs: Callable[[str], Make], tmp_path: Path) -> None:
    fresh = train(configs("pretrain")("fresh", base=None, preset="tiny", **STEPS | {"steps": 1}))
    judge = train(configs("reward-model")("judge", **STEPS | {"steps": 1}))
    for run in (fresh, judge):
        assert run.reference is None
        tensors = open_run(run.path).captures().load(1)
        assert "attention" in tensors
        assert "reference_kl" not in tensors
