"""Stored results: found again, run again where they are damaged, left alone where nothing may be written."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import probe
from probe import plugins
from probe.experiments import store
from probe.experiments.definition import Experiment
from probe.experiments.registry import find_experiment
from probe.experiments.result import RESULT_FILE, Result
from probe.experiments.run import call
from probe.experiments.store import find_stored, homes, keep, obtain, place, results, target
from probe.model.lm import LM
from probe.runs import RunWriter
from probe.runs.directories import WORK
from tests.models import byte_tokenizer, random_lm
from tests.places import DATA

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    CALLS.clear()
    with plugins.aside():
        yield


@pytest.fixture
def experiment() -> Experiment:
    @probe.experiment("count", say=lambda result: f"of {' and '.join(result.models)}")
    def count(lm: LM, *, n: int = 3, seed: int = 0) -> pd.DataFrame:
        CALLS.append(lm.ref)
        return pd.DataFrame({"x": [float(i) for i in range(n)], "empty": float("nan")})

    return find_experiment("count")


def in_run(path: Path, seed: int = 0) -> LM:
    """A model that belongs to a run."""
    if not path.exists():
        RunWriter.create(path, method="dpo", config={}).finish()
    lm = random_lm(seed=seed)
    lm.ref, lm.run_dir = str(path), path
    return lm


def test_a_result_is_stored_in_its_run_and_used_again(experiment: Experiment, tmp_path: Path):
    lm = in_run(tmp_path / "a")
    shares: list[float] = []
    first = obtain(experiment, lm, tick=shares.append)
    folder = place(call(experiment, lm))
    assert folder.parent == tmp_path / "a" / "results"
    assert folder.name == f"count-{call(experiment, lm).key}"
    again = obtain(experiment, lm)
    assert len(CALLS) == 1
    pd.testing.assert_frame_equal(again.summary, first.summary)
    pd.testing.assert_frame_equal(again.items, first.items)
    assert again.meta["models"][0]["method"] == "dpo"
    assert again.finding == "of a"
    assert shares[-1] == 1
    obtain(experiment, lm, n=4)
    assert len(CALLS) == 2
    obtain(experiment, lm, again=True)
    assert len(CALLS) == 3
    assert [index["meta"]["n"] for _, index in results(tmp_path / "a" / "results")] in ([3, 4], [4, 3])


def test_each_model_is_stored_by_itself(experiment: Experiment, tmp_path: Path):
    one, two, three = (in_run(tmp_path / name, seed) for seed, name in enumerate("abc"))
    found = obtain(experiment, one, two)
    assert found.models == ["a", "b"]
    assert found.value("x", "difference") == 0
    obtain(experiment, two, three)
    assert [Path(ref).name for ref in CALLS] == ["a", "b", "c"]
    assert obtain(experiment, three, one).finding == "of c and a"
    assert len(CALLS) == 3


DAMAGES: dict[str, Any] = {
    "cut": lambda folder: (folder / RESULT_FILE).write_text("{"),
    "absent": lambda folder: (folder / RESULT_FILE).unlink(),
    "items": lambda folder: (folder / "items.json.gz").unlink(),
    "newer": lambda folder: (folder / RESULT_FILE).write_text('{"format": 9, "name": "count", "meta": {}}'),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_result_is_made_again(damage: str, experiment: Experiment, tmp_path: Path):
    lm = in_run(tmp_path / "a")
    obtain(experiment, lm)
    folder = place(call(experiment, lm))
    DAMAGES[damage](folder)
    assert find_stored(call(experiment, lm)) is None
    assert obtain(experiment, lm).value("x") == 1
    assert len(CALLS) == 2
    assert Result.load(folder).value("x") == 1
    assert len(list(results(folder.parent))) == 1


def test_a_folder_that_may_not_be_written_to(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lm = in_run(tmp_path / "a")
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)  # root may always write
    found = obtain(experiment, lm)
    assert found.value("x") == 1
    assert keep(call(experiment, lm), found) is None
    assert not (tmp_path / "a" / "results").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_run(experiment: Experiment, tmp_path: Path):
    lm = in_run(tmp_path / "a")
    (tmp_path / "a").chmod(0o500)
    try:
        assert obtain(experiment, lm).value("x") == 1
    finally:
        (tmp_path / "a").chmod(0o700)


def test_nothing_is_written_through_a_link(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "elsewhere").mkdir()
    lm = in_run(tmp_path / "a")
    (tmp_path / "a" / "results").symlink_to(tmp_path / "elsewhere")
    assert obtain(experiment, lm).value("x") == 1
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(list((tmp_path / "work" / "results" / "a").iterdir())) == 1


def test_a_run_that_was_renamed_has_its_new_name(experiment: Experiment, tmp_path: Path):
    obtain(experiment, in_run(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    found = obtain(experiment, in_run(tmp_path / "new"))
    assert len(CALLS) == 1
    assert found.models == ["new"]
    assert found.finding == "of new"
    assert set(found.items["model"]) == {"new"}


@pytest.mark.parametrize(
    ("ref", "name"), [("org/name", "name"), ("models/mine", "mine"), ("..", "model"), ("", "model")]
)
def test_results_of_named_models_lie_where_the_user_works(
    ref: str, name: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    lm = random_lm()
    lm.ref = ref
    assert homes(lm) == [Path("results") / name]
    obtain(experiment, lm)
    obtain(experiment, lm)
    assert len(CALLS) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sample run that comes with Probe, with a stored result; the user works elsewhere."""
    package = tmp_path / "package" / "sample_runs"
    monkeypatch.setattr(sys.modules["probe.runs.directories"], "SHIPPED", package)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return package / "base"


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_nothing_is_written_to_the_sample_runs(experiment: Experiment, shipped: Path):
    lm = in_run(shipped)
    obtain(experiment, lm, folder=shipped / "results")  # as `probe samples` does
    assert place(call(experiment, lm)).parent == shipped / "results"
    before = files(shipped)
    obtain(experiment, lm)
    assert len(CALLS) == 1  # what comes with Probe is found
    obtain(experiment, lm, n=4)
    obtain(experiment, lm, n=4)
    assert len(CALLS) == 2
    assert target(call(experiment, lm, n=4)).parent == Path("results") / "base"
    obtain(experiment, lm, again=True)
    assert len(CALLS) == 3
    assert place(call(experiment, lm)).parent == Path("results") / "base"  # the newer one
    assert files(shipped) == before
    assert len(list(Path("results/base").iterdir())) == 2


def test_a_result_from_when_the_run_could_not_be_written_to_is_found(
    experiment: Experiment, shipped: Path, monkeypatch: pytest.MonkeyPatch
):
    """By another installation, for which the run is none that comes with it, or since the run may be written to."""
    lm = in_run(shipped)
    obtain(experiment, lm)
    stored = Path("results") / "base" / place(call(experiment, lm)).name
    assert (stored / RESULT_FILE).is_file()
    monkeypatch.setattr(sys.modules["probe.runs.directories"], "SHIPPED", shipped.parent / "other")
    assert homes(lm) == [shipped / "results"]
    obtain(experiment, lm)
    assert len(CALLS) == 1
    assert place(call(experiment, lm)) == stored
    assert target(call(experiment, lm)).parent == shipped / "results"  # a new one goes to the run


def test_what_broke_off_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C after a third of the questions: they are not asked again, and the result is that of one go."""
    monkeypatch.setattr("probe.model.calls.SLOW_S", 0.0)
    data = (DATA / "hallucination_questions.csv").absolute()
    monkeypatch.chdir(tmp_path)
    asked, lm = find_experiment("hallucination"), random_lm("gpt2", byte_tokenizer(), n_positions=512)
    options: dict[str, Any] = {"data": data, "samples": 2, "max_new_tokens": 4, "shuffles": 2}
    whole = probe.run_experiment("hallucination", lm, **options)
    passes: list[int] = []
    lm.model.register_forward_hook(lambda *_: passes.append(1))

    def stop(share: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain(asked, lm, tick=stop, **options)
    first = len(passes)
    (kept,) = (WORK / store.PARTIAL).iterdir()
    assert kept.name == f"hallucination-{call(asked, lm, **options).key}.jsonl"
    passes.clear()
    result = obtain(asked, lm, **options)
    second = len(passes)
    passes.clear()
    obtain(asked, lm, again=True, **options)
    assert second < len(passes)
    assert first + second >= len(passes)
    pd.testing.assert_frame_equal(result.items, whole.items)
    assert not kept.exists()


def test_a_run_of_the_users_beside_the_sample_runs_keeps_its_own(experiment: Experiment, shipped: Path, tmp_path: Path):
    lm = in_run(tmp_path / "work" / "runs" / "mine")
    obtain(experiment, lm)
    assert place(call(experiment, lm)).parent == tmp_path / "work" / "runs" / "mine" / "results"
    assert not Path("results").exists()


def test_what_is_no_result_is_passed_over(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / RESULT_FILE).write_text(json.dumps({"format": 1}))
    assert list(results(tmp_path)) == []
    assert list(results(tmp_path / "absent")) == []
