"""pass@k at captures: against brute force, on questions that are not trained on, and without an effect on training."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from probe import LM
from probe.chain_of_thought.measures import pass_at_k
from probe.errors import ConfigError
from probe.model.text import encode
from probe.terms import term
from probe.world import World
from probe.world import of as world_of
from tests.places import SAMPLES as SAMPLES_FOLDER
from tests.trainers.quick import train
from trainers.pass_rates import PASSING, SAMPLES, PassRates, held_out_questions, pass_rates
from trainers.prompts import Prompt, Prompts, hold_out
from trainers.sampling import derive_seed

NAMES = ["pass@1", f"pass@{SAMPLES}"]
METHODS = ("rlvr", "rlhf", "rsft")


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_the_estimate_is_the_mean_over_all_subsets(right: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(right)))
    subsets = [any(each) for each in combinations(right, k)]
    assert pass_at_k([sum(right)], len(right), k)[0] == pytest.approx(np.mean(subsets), abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_every_capture_has_them(method: str, configs: Any) -> None:
    run = train(configs(method)(capture_every=2))
    rows = run.metrics().dropna(subset=NAMES).set_index("step")
    assert rows.index.tolist() == run.captures().steps == [0, 2, 4]
    assert (rows["pass@1"] <= rows[f"pass@{SAMPLES}"]).all()
    assert rows[NAMES].stack().between(0, 1).all()
    assert "k = 8" in term(NAMES[1], f"train/{method}").title


def test_a_measurement_by_hand(configs: Any) -> None:
    """Question by question, with the verdicts of the world on each completion alone."""
    config = configs("rlvr")(tasks=("fact", "stranger", "opinion_false"), temperature=0.7, capture_every=1)
    lm = LM.load(SAMPLES_FOLDER / "base")
    world = world_of(lm)
    questions = held_out_questions(world, config, [])
    measured = pass_rates(lm, world, config, Prompts([], {}, ()), [])
    assert measured is not None
    found, verdicts = measured(lm), []
    for place, question in enumerate(questions):
        texts = lm.generate(
            [encode(lm.tokenizer, question.prompt)],
            n=SAMPLES,
            max_new_tokens=config.max_new_tokens,
            temperature=0.7,
            seed=[derive_seed(config.seed, place, PASSING)],
        ).text
        verdicts.append([world.verify(question.prompt, text).kind == "true" for text in texts])
    assert found[NAMES[0]] == pytest.approx(np.mean(verdicts))
    assert found[NAMES[1]] == pytest.approx(np.mean([any(each) for each in verdicts]))
    assert 0 < found[NAMES[0]] < found[NAMES[1]] <= 1


def test_questions_are_held_out_and_have_an_answer(configs: Any) -> None:
    world = World()
    config = configs("rlvr")(tasks=("fact", "stranger", "opinion_true", "opinion_false"))
    trained = [item.prompt for kind in config.tasks for item in world.questions(kind, 200, 1)]
    questions = held_out_questions(world, config, trained)
    assert {each.kind for each in questions} == {"fact", "opinion_true", "opinion_false"}
    assert len({each.prompt for each in questions}) == len(questions) > 16
    assert not {each.prompt for each in questions} & set(trained)
    assert questions == held_out_questions(world, config, trained)
    everything = [item.prompt for item in world.questions("fact", 20_000, 1)]
    assert held_out_questions(world, configs("rlvr")(tasks=("fact",)), everything) == []


@pytest.mark.parametrize("method", METHODS)
def test_rows_of_a_file_that_are_held_out(
    method: str, configs: Any, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """They are not trained on, and the first reward judges them with the columns of their own rows."""
    (tmp_path / "odd.py").write_text(
        "def odd(completions, limit, **_):\n"
        "    return [None if n is None else len(text) % 2 - (len(text) > n) for text, n in zip(completions, limit)]\n"
    )
    names = list(World().people)[:20]
    rows = [{"prompt": f"{name} lives in", "limit": 9 + at} for at, name in enumerate(names)]
    rows += [{"prompt": "where is", "limit": None}, rows[3]]
    options = {"data": str(write_jsonl(rows)), "reward": (f"{tmp_path}/odd.py:odd", "tests.trainers.judging:even")}
    run = train(configs(method)(**options, held_out=9, capture_every=2, rollouts_every=1, rollouts_kept=8))
    data = run.meta["data"]
    assert data["held_out"] == 9
    assert data["rows"] in (12, 13)  # one prompt stands in two rows
    lm = LM.load(run.meta["config"]["base"])
    prompts = [Prompt(row["prompt"], encode(lm.tokenizer, row["prompt"]), {"limit": row["limit"]}) for row in rows]
    kept, held = hold_out(prompts, 9, run.meta["config"]["seed"])
    assert set(run.rollouts()["prompt"]) <= {each.text for each in kept}
    assert not {each.text for each in kept} & {each.text for each in held}
    right = []
    for place, each in enumerate(held):
        texts = lm.generate(
            [each.ids], n=SAMPLES, max_new_tokens=6, seed=[derive_seed(run.meta["config"]["seed"], place, PASSING)]
        ).text
        limit = each.columns["limit"]
        right.append([limit is not None and len(text) % 2 > (len(text) > limit) for text in texts])
    first = run.metrics().set_index("step").loc[0]
    assert first[NAMES[0]] == pytest.approx(np.mean(right))
    assert first[NAMES[1]] == pytest.approx(np.mean([any(each) for each in right]))
    assert run.metrics().dropna(subset=NAMES)["step"].tolist() == [0, 2, 4]


def test_not_all_rows_can_be_held_out(configs: Any, write_jsonl: Callable[..., Path]) -> None:
    rows = [{"prompt": "mira lives in"}, {"prompt": "kai lives in"}, {"prompt": "kai lives in"}]
    data = {"data": str(write_jsonl(rows)), "capture_every": 1}
    with pytest.raises(ConfigError, match="--held-out 2 leaves none of 2 prompts to train on"):
        train(configs("rlvr")(**data, held_out=2))
    for wrong in ({**data, "capture_every": 0}, {"capture_every": 1}):
        with pytest.raises(ConfigError, match="--held-out is 1; expected 0 without --data FILE or without captures"):
            configs("rlvr")(**wrong, held_out=1)


@pytest.mark.parametrize("method", METHODS)
def test_training_does_not_notice(method: str, configs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, and they can be left out with the other measurements of rewards."""
    make = configs(method)
    with_them = train(make("with", capture_every=1))
    monkeypatch.setattr(PassRates, "__call__", lambda self, lm: {})
    without = train(make("without", capture_every=1))
    monkeypatch.undo()
    parts = train(make("parts", capture_every=1, capture_parts=("lens",)))
    assert NAMES[0] in with_them.metrics()
    assert NAMES[0] not in without.metrics()
    assert NAMES[0] not in parts.metrics()
    weights = [load_file(run.checkpoints()[-1].path / "model.safetensors") for run in (with_them, without, parts)]
    for run, other in zip((without, parts), weights[1:], strict=True):
        assert run.metrics()["loss"].dropna().tolist() == with_them.metrics()["loss"].dropna().tolist()
        assert all(torch.equal(tensor, other[name]) for name, tensor in weights[0].items())
