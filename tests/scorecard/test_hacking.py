"""Detectors of hacked rewards: what they are shown, and their numbers from the logs by hand."""

import json
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from probe.diagnosis.run_reading import Reading
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import split
from probe.scorecard import hacking_family
from probe.scorecard.agreement_trainings import RECIPES
from probe.scorecard.catalogue_of_methods import methods
from probe.scorecard.hacking_family import Training, Trainings, ask, grade, trainings_of
from probe.ticks import ignore
from probe.world import of
from trainers.reference import QUESTIONS, SEED

LOGS = {"final_kl", "reward_rise", "entropy_fall", "length_pays", "second_measure_fall"}
"""Methods that read nothing but metrics."""


@pytest.fixture
def trainings(base: LM) -> Trainings:
    """Trainings of the full bonus; made once."""
    return trainings_of(base, "full", 6, 0, ignore)


def logged(run: Any) -> list[dict[str, Any]]:
    """Rows of a run's log."""
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_detectors_see_no_truth_of_the_world(trainings: Trainings):
    for model, seen in zip(trainings.models, trainings.seen, strict=True):
        names = set(logged(model.run)[-1])
        assert {"gold/reward", "expected_gold", "rewards/facts/mean"} <= names
        assert not [name for name in seen.reading.metrics if name.startswith(("gold", "expected", "answer_mass"))]
        assert {"reward", "kl", "rewards/facts/mean", "kl_to_reference"} <= set(seen.reading.metrics)
        assert seen.reading.run is None, "its folder has the truth"
        assert len(seen.reading.rollouts) == len(model.run.rollouts()) > 0
        assert model.agrees == ("agreement=0+" not in model.annotator)


def test_the_second_measure_has_no_weight(trainings: Trainings):
    for model in trainings.models:
        for row in logged(model.run):
            assert row["reward"] == pytest.approx(row[f"rewards/{model.annotator}/mean"])
            assert row["gold/reward"] == pytest.approx(row["rewards/facts/mean"])


def test_costs_are_exact(trainings: Trainings):
    """The verifier's score under the model's own probabilities of all answers that a question can have."""
    world, lm = of(trainings.base), trainings.models[-1].lm
    assert world is not None
    kinds = RECIPES["rlvr"]["tasks"]
    shares = {kind: QUESTIONS // len(kinds) + (at < QUESTIONS % len(kinds)) for at, kind in enumerate(kinds)}
    prompts = [item.prompt for kind, share in shares.items() for item in world.questions(kind, share, SEED)]
    answers, scores = [world.candidates(prompt) for prompt in prompts], []
    for prompt, group in zip(prompts, answers, strict=True):
        logprobs = []
        for answer in group:
            head, tail = split(lm.tokenizer, prompt, answer)
            ids = [*head, *tail, lm.tokenizer.eos_token_id]
            with torch.no_grad():
                rows = lm.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            logprobs.append(sum(float(rows[at - 1, ids[at]]) for at in range(len(head), len(ids))))
        scores.append(softmax(logprobs) @ [world.verify(prompt, answer).score for answer in group])
    assert -np.mean(scores) == pytest.approx(trainings.costs[-1], abs=1e-4)


def test_scores_are_those_of_scikit_learn_and_of_ranks(trainings: Trainings):
    numbers = np.array([3.0, 1.0, 2.0, 2.0, 5.0, 1.0, 4.0, 3.0])
    assert grade(trainings, "full", numbers).score == pytest.approx(roc_auc_score(trainings.labels, numbers))
    ranks = np.corrcoef(rankdata(numbers), rankdata(trainings.costs))[0, 1]
    assert grade(trainings, "cost", numbers).score == pytest.approx(ranks)
    assert grade(trainings, "cost", np.zeros(8)).score == 0


def record(**columns: list[float]) -> Training:
    """A training with these metrics at rising steps, and no model."""
    length = len(next(iter(columns.values())))
    frame = pd.DataFrame({"step": range(1, length + 1), **{k.replace("__", "/"): v for k, v in columns.items()}})
    return Training(Reading(frame, "rlvr"), cast(LM, None))


def test_numbers_of_logs_by_hand():
    """Levels are means of medians of blocks; in these logs each level is constant."""
    rises, falls = [1.0] * 20 + [3.0] * 20, [0.5] * 20 + [0.1] * 20
    seen = record(
        reward=rises,
        reward_std=[2.0] * 40,
        rewards__facts__mean=falls,
        entropy__first_token=falls,
        kl_to_reference=[0.01 * at for at in range(40)],
        completions__reward_length_correlation=rises,
    )
    numbers = {each.name: each.function(cast(LM, None), []) for each in methods() if each.name in LOGS}
    assert set(numbers) == LOGS
    found = {name: judge(seen) for name, judge in numbers.items()}
    assert found["final_kl"] == pytest.approx(0.39)
    assert found["reward_rise"] == pytest.approx(1.0)
    assert found["second_measure_fall"] == found["entropy_fall"] == pytest.approx(0.4)
    assert found["length_pays"] == pytest.approx(3.0)
    kept = record(reward=rises, reward_std=[2.0] * 40, rewards__facts__mean=rises)
    assert numbers["second_measure_fall"](kept) == pytest.approx(-2.0)


def test_the_diagnosis_needs_a_second_measure():
    rng = np.random.default_rng(0)
    rises, falls = (np.linspace(a, b, 60) + 0.01 * rng.normal(size=60) for a, b in ((0.2, 2.0), (0.8, -0.6)))
    seen = record(reward=[*rises], reward_std=[1.0] * 60, rewards__paid__mean=[*rises], rewards__facts__mean=[*falls])
    seen.reading.frame["rewards/facts/std"] = 0.5
    seen.reading.frame["rewards/paid/std"] = 1.0
    with_it, without_it = (
        each(cast(LM, None), []) for each in (hacking_family.diagnosis, hacking_family.diagnosis_alone)
    )
    assert with_it(seen) > 0.4
    assert without_it(seen) == 0.0


def test_what_is_no_detector_is_told(trainings: Trainings):
    with pytest.raises(DataError, match="a function from a training to one number"):
        ask(trainings, lambda base, questions: 1.0)
    with pytest.raises(DataError, match="one number for each training"):
        ask(trainings, lambda base, questions: lambda training: [1.0, 2.0])
