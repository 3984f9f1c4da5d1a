"""Questions that a model was trained on are found and said in an audit, with the change over the others."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe import LM
from probe.audit import Audit, AuditSettings, audit_html, audit_models, plan_parts, read_audit
from probe.audit.change import SEEN
from probe.audit.figures import difference_table
from probe.audit.inspection import compare_part, stored_audit
from probe.audit.plan import ON_SETS
from probe.audit.seen import FEWEST, Ancestor, Past, past_of, without_seen
from probe.commands.audit import audit as command
from probe.questions.sets import SETS, asked_texts
from probe.runs import open_run
from probe.runs.trained_on import TRAINED_ON, TrainedOn, collect
from tests.models import byte_tokenizer, random_lm
from tests.places import SAMPLES
from trainers.config import SFTConfig
from trainers.sft import train

N = 12
ASKED = [f"row-{at + 1}" for at in np.random.default_rng(0).permutation(80)[:N]]
"""Rows of `sums` that so many questions ask."""
TAUGHT, LATER = ASKED[:3], ASKED[3:4]
"""Those in the data of the first training, and of the second."""
SUMS = next(part for part in ON_SETS if part.name == "sums")


def teach(out: Path, base: Path, rows: list[str]) -> Path:
    """Train on some of the sums, and on others that no set asks."""
    asked = asked_texts("sums")
    questions = [f"Please say it. {asked[row]} I think it is 5." for row in rows] + [
        f"What is {i} + 40?" for i in "123"
    ]
    data = out.with_suffix(".jsonl")
    data.write_text("".join(json.dumps({"prompt": each, "completion": " It is 5."}) + "\n" for each in questions))
    options: dict[str, Any] = {"batch_size": 2, "capture_every": 0, "eval_every": 0, "evaluate": 0, "held_out": 0.0}
    return train(SFTConfig(out=out, base=str(base), data=str(data), steps=2, device="cpu", lr=1e-3, **options)).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a run that starts from it and learns `TAUGHT`, and one that goes on and learns `LATER`."""
    folder = tmp_path_factory.mktemp("runs")
    lm = random_lm("llama", byte_tokenizer(), max_position_embeddings=512)
    first = teach(folder / "first", lm.save(folder / "model"), TAUGHT)
    teach(folder / "second", first, LATER)
    return folder


@pytest.fixture(autouse=True)
def there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests work in one folder, so that results are asked once."""
    monkeypatch.chdir(runs)


def audited(runs: Path, base: str = "model", aligned: str = "first", n: int = N, **options: Any) -> Audit:
    models = [LM.load(runs / name) for name in (base, aligned)]
    return audit_models(*models, AuditSettings(only=("sums",), n=n), **options)


def test_the_questions_of_the_training_are_named_everywhere(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "sums: 3 of its 12 questions were in the training data of `first`: a gain there may be"
    call = [str(runs / "model"), str(runs / "first"), "--only", "sums", "--n", str(N), "--out", str(tmp_path / "out")]
    assert command(call) == 0
    assert f"probe: note: {said} memory, not skill. Over the other 9 the change is " in capsys.readouterr().err
    found = read_audit(tmp_path / "out")
    row = found.rows.set_index("metric").loc["sums"]
    assert row["seen"] == 3
    assert row["unseen_low"] <= row["unseen"] <= row["unseen_high"]
    html = (tmp_path / "out" / "audit.html").read_text()
    assert "3 of its 12 questions were in the training data of" in html
    assert "seen in training" in html
    table = difference_table(found)
    assert table["seen in training"].tolist() == ["3"]
    assert command(call) == 0  # what is stored says it too
    output = capsys.readouterr()
    assert said in output.err
    assert "nothing was measured" in output.err


def test_runs_that_a_run_descends_from_count(runs: Path) -> None:
    found = audited(runs, aligned="second")
    assert found.rows["seen"].tolist() == [4]
    assert "in the training data of `second`, `first`: a gain there may be memory, not skill." in found.notes[0]
    shared = audited(runs, base="first", aligned="second")
    assert shared.rows["seen"].tolist() == [4]
    assert "of `first`, `second`: a right answer there may be memory, not skill." in shared.notes[0]


def test_few_others_are_said_to_be_few(runs: Path) -> None:
    found = audited(runs, n=FEWEST + 1)
    left = FEWEST + 1 - int(found.rows["seen"].iloc[0])
    assert f"The other {left} questions are too few to measure a change." in found.notes[0]
    assert found.rows["unseen"].isna().all()


def test_a_run_without_a_record_counts_nothing_as_unseen(runs: Path, tmp_path: Path) -> None:
    """As one of an older version; an audit that was stored then is found again, and is read as it is."""
    old = shutil.copytree(runs, tmp_path / "old")
    for content in (None, "{"):
        (old / "first" / TRAINED_ON).unlink() if content is None else (old / "first" / TRAINED_ON).write_text(content)
        found = audited(old)
        assert SEEN[0] not in found.rows
        assert found.notes == (
            "The training data of `first` are not recorded or cannot be read: it is unknown which questions it has"
            " seen.",
        )
    models = [LM.load(old / name) for name in ("model", "first")]
    plan = plan_parts(*models, ("sums",), N)
    assert past_of(*models, plan).facts(plan) == []
    before = replace(found, notes=()).save()
    kept = stored_audit(*models, AuditSettings(only=("sums",), n=N))
    assert kept is not None
    assert kept.notes == found.notes
    assert json.loads((before / "audit.json").read_text())["notes"] == []
    shutil.copy(runs / "first" / TRAINED_ON, old / "first")
    assert stored_audit(*models, AuditSettings(only=("sums",), n=N)) is None  # it lacks what is known now
    assert audited(old).rows["seen"].tolist() == [3]


def test_nothing_is_said_of_models_of_a_world_and_of_what_is_no_run(runs: Path) -> None:
    base, aligned = LM.load(SAMPLES / "base"), LM.load(SAMPLES / "dpo-agreeable")
    assert past_of(base, aligned, plan_parts(base, aligned)) == Past()
    lm = LM.load(runs / "model")
    assert past_of(lm, lm, plan_parts(lm, lm)) == Past()
    assert "seen" not in audited(runs, aligned="model").rows


def test_no_path_that_a_run_names_is_read(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shutil.copytree(runs / "first", tmp_path / "hostile" / "first")
    meta = json.loads((run / "run.json").read_text())
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "run.json").symlink_to(runs / "second" / "run.json")
    meta["parent"] = meta["config"]["base"] = str(secret)
    meta["config"]["data"] = str(secret / "data.jsonl")
    (run / "run.json").write_text(json.dumps(meta))
    opened: list[str] = []
    monkeypatch.setattr("probe.runs.trained_on.read_json", lambda path, most: opened.append(str(path)) or {})
    lm = LM.load(run)
    past_of(lm, lm, plan_parts(lm, lm))
    assert opened == [str(run / TRAINED_ON)]


def items(right: np.ndarray) -> pd.DataFrame:
    """Items of sums as an experiment stores them."""
    names = {"item": [f"choice-{i}" for i in range(len(right))], "row": [f"row-{i + 1}" for i in range(len(right))]}
    return pd.DataFrame({**names, "kind": "choice", "mc1": right, "mc1_chance": 0.25})


def source(rows: list[str], name: str = "run", of_base: bool = False, whole: bool = True) -> Ancestor:
    asked = asked_texts("sums")
    return Ancestor(name, TrainedOn(collect(asked[row] for row in rows).sentences, whole), of_base)


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_only_remembers_has_no_change_over_the_others(seed: int) -> None:
    """The null: every gain is at questions of the data."""
    rng = np.random.default_rng(seed)
    seen = rng.permutation(80)[:30]
    before = (rng.random(80) < 0.4).astype(float)
    after = before.copy()
    after[seen] = 1
    past = Past((source([f"row-{i + 1}" for i in seen]),))
    table = compare_part(SUMS, items(before), items(after))[0]
    found, said = without_seen(SUMS, past, items(before), items(after), table)
    row = found.iloc[0]
    assert row["difference_low"] > 0
    assert (row["seen"], row["unseen"]) == (30, 0)
    assert row["unseen_low"] <= 0 <= row["unseen_high"]
    assert said.startswith("sums: 30 of its 80 questions were in the training data of `run`: a gain there")
    assert re.search(r"Over the other 50 the change is 0 pp \[.*\] in “control: right sums” \(over all \+", said)
    after[:] = 1  # one that can do it has it over the others too
    able = without_seen(SUMS, past, items(before), items(after), compare_part(SUMS, items(before), items(after))[0])[0]
    assert able.iloc[0]["unseen_low"] > 0


def test_what_is_said_of_sources() -> None:
    right = items(np.ones(20))
    table = compare_part(SUMS, right, right)[0]

    def said(*sources: Ancestor) -> str:
        return without_seen(SUMS, Past(sources), right, right, table)[1]

    assert said(source(["row-80"])) == ""  # it is not asked
    assert said() == ""
    assert said(source(["row-1"], whole=False)).startswith("sums: at least 1 of its 20 questions")
    many = said(*(source([f"row-{i}"], name=f"run{i}") for i in range(1, 6)))
    assert "of `run1`, `run2`, `run3` and 2 more: a gain there" in many
    assert "a right answer there may be memory" in said(source(["row-1"], of_base=True))
    assert without_seen(SUMS, Past((source(["row-80"]),)), right, right, table)[0]["seen"].tolist() == [0]


def test_every_row_of_a_set_has_the_text_that_is_asked() -> None:
    for name, each in SETS.items():
        texts = asked_texts(name)
        assert list(texts) == [f"row-{i + 1}" for i in range(each.rows)]
        record: Callable[[str], bool] = collect(texts.values()).holds
        assert all(map(record, texts.values()))
        assert not any("(A)" in text for text in texts.values())


def test_columns_of_an_audit_that_is_read_are_numbers_or_not_known(runs: Path, tmp_path: Path) -> None:
    found = audited(runs)
    assert read_audit(found.save(tmp_path / "one")).to_json() == found.to_json()
    values = json.loads(found.to_json())
    for row in values["rows"]:
        row["seen"], row["unseen"] = None, None
    (tmp_path / "one" / "audit.json").write_text(json.dumps(values))
    again = read_audit(tmp_path / "one")
    assert difference_table(again)["seen in training"].tolist() == [""]
    assert audit_html(again)
    assert open_run(runs / "first").trained_on() is not None
