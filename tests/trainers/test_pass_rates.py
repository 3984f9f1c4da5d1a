"""pass@k at captures: against brute force, on questions that are not trained on, and without an effect on training."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from probe import LM
from probe.chain_of_thought.measures import pass_at_k
from probe.model.text import encode
from probe.terms import term
from probe.world import World
from probe.world import of as world_of
from tests.places import SAMPLES as SAMPLES_FOLDER
from tests.trainers.quick import train
from trainers.pass_rates import PASSING, SAMPLES, PassRates, held_out_questions
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
    config = configs("rlvr")(tasks=("fact", "stranger", "opinion_false"), temperature=0.7)
    lm = LM.load(SAMPLES_FOLDER / "base")
    world = world_of(lm)
    questions = held_out_questions(world, config, [])
    found, verdicts = PassRates(world, questions, config)(lm), []
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
