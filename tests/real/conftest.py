"""The real checkpoint, loaded once."""

from pathlib import Path

import pytest

import probe

CHECKPOINT = Path(__file__).resolve().parents[2] / ".cache" / "SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def lm() -> probe.LM:
    return probe.LM.load(CHECKPOINT)
