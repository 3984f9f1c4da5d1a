"""Rows of a data set along a direction, and checkpoints of a run along it."""

import json
from pathlib import Path

import numpy as np
import pytest

import probe.world
from probe.errors import DataError
from probe.model.lm import LM
from probe.traits import project_data, project_training, trait_direction
from probe.traits.data_projection import DataRow, project_rows
from probe.traits.states import answer_ids, mean_states
from tests.models import random_lm
from tests.places import SAMPLES
from tests.trainers.quick import quick_config, short_run, small_model, train


def test_rows_that_show_a_trait_push_towards_it_and_its_opposite_away(base: LM):
    world = probe.world.of(base)
    assert world is not None
    items = world.questions("stranger", 24, 5)
    rows = [
        DataRow(item.prompt, world.candidates(item.prompt)[0], None, "invents", f"i-{at}")
        for at, item in enumerate(items)
    ]
    rows += [DataRow(item.prompt, " i do not know", None, "admits", f"a-{at}") for at, item in enumerate(items)]
    found = project_data(base, trait="invention", data=rows)
    kinds = found.kinds.set_index("kind")["value"]
    assert kinds["invents"] > 0 > kinds["admits"]
    table = found.rows
    assert table["shows"].sum() == 24
    assert (table["difference"].diff().dropna() <= 0).all()
    np.testing.assert_allclose(table["difference"], table["projection"] - table["other_projection"])
    lists = found.lists()
    assert (lists["Towards the trait"]["difference"] > 0).all()
    assert (lists["Away from it"]["difference"] < 0).all()
    assert "The 48 rows of the data" in found.sentence()
    one = table.iloc[0]
    states = mean_states(base, [answer_ids(base, one["prompt"], one["completion"])])
    assert found.direction.project(states)[0] == pytest.approx(one["projection"], abs=1e-4)


def test_pairs_are_chosen_minus_rejected(base: LM):
    found = project_data(base, trait="abstention", source="honest", rows=120)
    assert found.paired
    assert "than the rejected completions" in found.sentence()
    swapped = [DataRow(row.prompt, row.other, row.completion, row.kind, row.row) for row in found.rows.itertuples()]
    other = project_rows(base, found.direction, swapped)
    np.testing.assert_allclose(other["difference"], -found.rows["difference"], atol=1e-5)


def test_files_of_rows(tmp_path: Path):
    lm = random_lm("llama")
    words = ["one", "two", "cat", "dog", "is", "at", "in", "the"]
    shows, lacks = [f"oslo {word} the" for word in words], [f"rome {word} ." for word in words]
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "where is the cat ?", "completion": f" {place}"} for place in ("oslo", "rome")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = project_data(lm, data=path, pairs=(shows, lacks))
    assert len(found.rows) == 2
    assert "shows" not in found.rows
    assert found.source == "rows"
    assert "The 2 rows of rows" in found.sentence()
    path.write_text('{"prompt": "the cat", "answer": "is"}\n')
    with pytest.raises(DataError, match="`completion`"):
        project_data(lm, data=path, pairs=(shows, lacks))
    with pytest.raises(DataError, match="belongs to no world, so there are no rows to project: give a file of rows"):
        project_data(lm, pairs=(shows, lacks))
    mixed = [DataRow("the cat", " is", None, "row", "1"), DataRow("the cat", " is", " at", "row", "2")]
    with pytest.raises(DataError, match="either pairs or demonstrations"):
        project_rows(lm, trait_direction(lm, pairs=(shows, lacks)), mixed)


def test_checkpoints_move_and_the_rate_is_exact(base: LM):
    lm = LM.load(SAMPLES / "rlvr")
    found = project_training(lm, trait="invention", n=48)
    first, last = found.steps.iloc[0], found.steps.iloc[-1]
    assert first["step"] == 0
    assert first["shift"] == 0
    assert last["step"] == 60
    assert first["rate"] > 0.5
    assert last["rate"] < 0.05
    assert "the probability of an invented answer about a stranger went from" in found.sentence()
    with pytest.raises(DataError, match="base started from no other model"):
        project_training(base)
    with pytest.raises(DataError, match="A model outside of the runs keeps no checkpoint"):
        project_training(random_lm("llama"))


def test_captures_are_projected_as_checkpoints_are(tmp_path: Path):
    """On the captured prompts the last checkpoint, read anew, has moved as far as the last capture says."""
    base = short_run(tmp_path / "base", small_model(tmp_path / "model"))
    run = train(quick_config("sft", base, tmp_path / "run", save_every=2, capture_every=2, lr=0.01))
    found = project_training(LM.load(run.path), trait="invention", n=16)
    assert found.captures["step"].tolist() == [0, 2, 4]
    assert found.captures["shift"][0] == 0
    place, prompts = found.direction.layer + 1, [prompt.token_ids for prompt in run.captures().prompts]
    old, new = (mean_states(LM.load(each), [(ids, ()) for ids in prompts]) for each in (base, run.path))
    moved = (new - old)[:, place].astype(float) @ found.direction.vector / found.direction.gaps[place]
    assert abs(moved.mean()) > 0.02
    np.testing.assert_allclose(found.captures["shift"].iloc[-1], moved.mean(), rtol=2e-2)
    assert list(found.tables()) == ["checkpoints", "captures"]
