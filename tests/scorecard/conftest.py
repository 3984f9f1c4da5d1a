"""Trainings of a few steps for the family of detectors."""

from types import MappingProxyType

import pytest

from probe.scorecard import agreement_trainings

SHORT = {"dpo": {"pairs": 48, "batch_size": 16, "steps": 3}, "rlvr": {"batch_size": 4, "steps": 12, "eval_every": "0"}}


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for a few steps instead of forty."""
    recipes = {method: {**recipe, **SHORT[method]} for method, recipe in agreement_trainings.RECIPES.items()}
    monkeypatch.setattr(agreement_trainings, "RECIPES", MappingProxyType(recipes))
