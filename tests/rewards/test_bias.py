"""Biases of a reward model: found exactly where the model is the annotator himself."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from probe import RewardModel
from probe.rewards.bias import KINDS, contrasts, reward_bias
from probe.world import AGREEABLE, HONEST, Annotator, World, WorldConfig
from probe.world.vocabulary import PHRASES

WORLD = World()


class Judge:
    """Stands in for a reward model: scores by a function of prompt and completion."""

    def __init__(self, reward: Any) -> None:
        self.reward = reward

    def score(self, prompts: list[str], completions: list[str]) -> Tensor:
        return torch.tensor([self.reward(p, c) for p, c in zip(prompts, completions, strict=True)])


def measured(reward: Any, annotator: Annotator | None = None, world: World = WORLD, **options: Any) -> dict[str, float]:
    rows = reward_bias(cast(RewardModel, Judge(reward)), world, annotator, **{"n": 60} | options)
    for row in rows:
        if not np.isnan([row["ci_low"], row["ci_high"]]).all():  # one item, or nats that never vary
            assert row["ci_low"] <= row["value"] <= row["ci_high"]
            assert row["ci_low"] < row["ci_high"]
    return {row["metric"]: row["value"] for row in rows}


@pytest.mark.parametrize("annotator", [AGREEABLE, HONEST])
def test_a_model_that_is_the_annotator(annotator: Annotator) -> None:
    """With checks certain the preference is Bradley-Terry in utility / noise, so gaps and probabilities agree."""
    sure = Annotator(**{name: getattr(annotator, name) for name in annotator.__dataclass_fields__} | {"checks": 1.0})
    found = measured(lambda p, c: sure.utility(WORLD, p, c) / sure.noise, sure)
    for name in KINDS:
        assert found[f"{name}_bias"] == pytest.approx(found[f"{name}_bias_annotator"], abs=1e-3)
        assert found[f"{name}_probability"] == pytest.approx(found[f"{name}_probability_annotator"], abs=1e-5)
    assert found["agreement_bias"] == pytest.approx((sure.agreement - 2 * sure.correctness) / sure.noise, abs=1e-4)


def test_a_flatterer_and_a_verifier() -> None:
    flatterer = measured(lambda p, c: float(c.strip() in p.split(" . ")[0].split()))
    verifier = measured(lambda p, c: WORLD.verify(p, c).score)
    assert (flatterer["agreement_preferred"], flatterer["agreement_bias"]) == (1.0, 1.0)
    assert {flatterer[f"agreement_preferred_{p.replace(' ', '_')}"] for p in PHRASES} == {1.0}
    assert flatterer["invention_bias"] == flatterer["truth_bias"] == 0.0
    assert (verifier["agreement_preferred"], verifier["invention_preferred"], verifier["truth_preferred"]) == (0, 0, 1)
    assert (verifier["agreement_bias"], verifier["invention_bias"], verifier["truth_bias"]) == (-2, -1, 2)
    assert "agreement_bias_annotator" not in flatterer


def test_contrasts_are_what_they_say() -> None:
    for name in KINDS:
        made = contrasts(WORLD, name, 50)
        assert len(made) == 50 == len({contrast.prompt for contrast in made})
        kinds = {tuple(WORLD.verify(c.prompt, text).kind for text in (c.first, c.second)) for c in made}
        assert (
            kinds
            == {"agreement": {("deferred", "true")}, "invention": {("wrong", "abstain")}, "truth": {("true", "wrong")}}[
                name
            ]
        )
        assert all((c.phrase is not None) == (name == "agreement") for c in made)
        assert contrasts(WORLD, name, 50) == made != contrasts(WORLD, name, 50, seed=1)


def test_prompts_that_were_trained_on_are_left_out() -> None:
    known = {contrast.prompt for contrast in contrasts(WORLD, "agreement", 40)}
    fresh = contrasts(WORLD, "agreement", 40, exclude=known)
    assert len(fresh) == 40
    assert not known & {contrast.prompt for contrast in fresh}
    everything = {contrast.prompt for contrast in contrasts(WORLD, "invention", 10_000)}
    found = measured(lambda p, c: 0.0, n=20, exclude=everything)
    assert "invention_bias" not in found
    assert found["truth_preferred"] == 0.0


def test_a_world_without_strangers() -> None:
    world = World(WorldConfig(strangers=0))
    found = measured(lambda p, c: 0.0, world=world, n=5)
    assert ("stranger" in world.question_kinds) == ("invention_bias" in found)
    assert "agreement_bias" in found
