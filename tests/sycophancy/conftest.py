"""A model for questions of files."""

import pytest

from probe import LM
from tests.models import byte_tokenizer, random_lm


@pytest.fixture(scope="module")
def lm() -> LM:
    """Random weights that read any text."""
    made = random_lm("gpt2", byte_tokenizer(), n_positions=1024)
    made.ref = "random"
    return made
