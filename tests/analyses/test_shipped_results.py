"""The results of analyses that come with the sample runs are those of today's code."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probe import LM
from probe.analyses import stored_results
from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import FOLDER, find_result
from probe.plotting.notebook import Look
from tests.places import SAMPLES
from trainers.samples import stored_analyses

SHIPPED = sorted(SAMPLES.glob(f"*/results/{FOLDER}/*.safetensors"))
WORLD = ("base", "dpo-agreeable")


def about(file: Path) -> dict[str, Any]:
    """What a stored result says of itself."""
    data = file.read_bytes()
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["about"])


def test_the_tabs_of_both_pairs_have_their_results():
    names = {(file.parts[-4], about(file)["analysis"]) for file in SHIPPED}
    tabs = {"transplant_parts", "steer_by_first_tokens", "follow_line"}
    assert {(run, name) for run in ("dpo-agreeable", "real-agreeable") for name in tabs} <= names
    only = {"weight_change", "patch_every_site", "ablate_every_site", "steer_answers", "compare_rewards"}
    assert {("real-agreeable", name) for name in only} <= names
    assert all(file.stat().st_size < 2**20 for file in SHIPPED)


def test_pages_of_the_world_pair_find_the_shipped_results_by_their_names():
    """A changed default, model or structure gives another name: `probe samples` makes the file again."""
    shipped = {(file.parts[-4], file.name) for file in SHIPPED if file.parts[-4] in stored_analyses.WORLD}
    ours = {name.partition("-")[0] for _, name in shipped}
    wanted = list(stored_analyses.list_wanted(SAMPLES, stored_analyses.WORLD))
    assert {(each.home.parent.name, each.name) for each in wanted if each.analysis.name in ours} == shipped


def test_a_new_folder_of_sample_runs_gets_the_results_that_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in stored_analyses.WORLD:
        shutil.copytree(SAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("results"))
    monkeypatch.setattr(stored_results, "LONG_S", 0.0)
    every = stored_analyses.list_wanted(tmp_path, stored_analyses.WORLD)
    few = [each for each in every if each.analysis.name in ("jacobian_norms", "follow_writing")]
    monkeypatch.setattr(stored_analyses, "list_wanted", lambda folder, pair: few)
    stored_analyses.store(tmp_path, stored_analyses.WORLD)
    made = {(file.parts[-4], file.name) for file in tmp_path.glob(f"*/results/{FOLDER}/*.safetensors")}
    assert made == {(each.home.parent.name, each.name) for each in few}
    assert len(made) == 4
    stored_analyses.store(tmp_path / "nowhere", stored_analyses.WORLD)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_result_names_no_place_on_a_machine(file: Path):
    assert not re.search(r'"(/|~/|[A-Z]:\\)\w+/', json.dumps(about(file)))


@pytest.mark.slow
@pytest.mark.parametrize("file", [each for each in SHIPPED if each.parts[-4] in WORLD], ids=lambda file: file.stem)
def test_a_shipped_result_is_what_is_computed_today(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    told = about(file)
    lms = [LM.load(SAMPLES / each["label"]) for each in told["models"]]
    record = find_analysis(told["analysis"])
    values = {name: tuple(each) if isinstance(each, list) else each for name, each in told["inputs"].items()}
    stored = find_result(record, values, *lms)
    assert stored is not None, "its inputs, models and fields are those of the file"
    looks = [Look(each["label"], "#111111") for each in told["models"]]
    (kept,), (made,) = (record.together([each], looks) for each in (stored.result, record.run(*lms, **values)))
    assert kept.sentence() == made.sentence()
    for one, other in zip(kept.tables().values(), made.tables().values(), strict=True):
        numbers = [frame.select_dtypes("number").to_numpy(dtype=float) for frame in (one, other)]
        np.testing.assert_allclose(*numbers, atol=1e-3)
