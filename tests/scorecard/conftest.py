"""Trainings of a few steps for the family of detectors."""

from types import MappingProxyType

import pytest

from probe.scorecard import agreement_trainings

SHORT = {"pairs": 48, "batch_size": 16, "steps": 3}


@pytest.fixture(autouse=True)
def short_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for three steps instead of forty."""
    monkeypatch.setattr(agreement_trainings, "RECIPE", MappingProxyType({**agreement_trainings.RECIPE, **SHORT}))
