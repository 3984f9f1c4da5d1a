"""Trainings of a few steps for the family of detectors."""

from types import MappingProxyType

import pytest

from probe.scorecard import agreement_trainings

SHORT = {"pairs": 64, "batch_size": 16, "steps": 4}


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for four steps instead of forty."""
    monkeypatch.setattr(agreement_trainings, "RECIPE", MappingProxyType({**agreement_trainings.RECIPE, **SHORT}))
