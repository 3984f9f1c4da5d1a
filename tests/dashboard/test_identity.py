"""What the dashboard keeps of a model is found by its weights and by what it reads and writes texts by."""

import json
import os
from pathlib import Path

import pytest

from dashboard import models
from probe import LM
from probe.experiments import find_experiment
from probe.experiments.run import call
from tests.models import random_lm
from tests.places import SAMPLES


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "may_open", lambda ref: True)


def edit(folder: Path, file: str, **entries: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    later = os.stat(folder / "model.safetensors").st_mtime + 10
    os.utime(path, (later, later))


def test_facts_follow_tokenizer_template_and_generation_settings(tmp_path: Path) -> None:
    folder = random_lm(seed=91).save(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    seen = [facts(folder)]
    (folder / "chat_template.jinja").write_text("so {{ messages[0].content }}")
    seen.append(facts(folder))
    edit(folder, "tokenizer.json", normalizer={"type": "Lowercase"})
    seen.append(facts(folder))
    edit(folder, "generation_config.json", eos_token_id=[2, 3])
    seen.append(facts(folder))
    assert len(set(seen)) == 4
    assert seen[-1] == LM.load(folder).fingerprint


def facts(folder: Path) -> str:
    known = models.model_facts(str(folder))
    assert known is not None
    return known.fingerprint


def test_a_key_names_the_world_and_a_copy_is_found_under_the_same(tmp_path: Path) -> None:
    run = LM.load(SAMPLES / "sft")
    copy = run.save(tmp_path / "copy")
    known = models.model_facts(str(copy))
    assert known is not None
    experiment = find_experiment("retrieval")
    assert call(experiment, known).key == call(experiment, run).key
    world = json.loads((SAMPLES / "icl" / "run.json").read_text())["world"]
    (copy / "probe_world.json").write_text(json.dumps(world))
    assert call(experiment, known).key != call(experiment, run).key
