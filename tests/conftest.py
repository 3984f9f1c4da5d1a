"""One torch thread in every test: two busy cores run many times slower with two."""

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """AppTest leaves its script as `__main__`, which processes that later tests start would try to run."""
    module = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = module


@pytest.fixture
def trl() -> Any:
    """TRL, whose losses ours are compared with; without it the test is skipped, but fails where CI=true."""
    if not os.environ.get("CI"):
        pytest.importorskip("trl")
    return import_module("trl")
