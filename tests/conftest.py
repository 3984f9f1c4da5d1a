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

from probe import LM, plugins
from probe.model import calls
from probe.world import World
from tests.places import SAMPLES

torch.set_num_threads(1)
calls.SLOW_S = float("inf")  # no test finds what another one was answered; those about it set it


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """AppTest leaves its script as `__main__`, which processes that later tests start would try to run."""
    module = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = module


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    with plugins.aside():
        yield


@pytest.fixture(scope="session")
def world() -> World:
    """The world as it comes."""
    return World(seed=0)


@pytest.fixture(scope="session")
def base() -> LM:
    """The sample run that all others come from."""
    return LM.load(SAMPLES / "base")


@pytest.fixture
def trl() -> Any:
    """TRL, whose losses ours are compared with; without it the test is skipped, but fails where CI=true."""
    if not os.environ.get("CI"):
        pytest.importorskip("trl")
    return import_module("trl")
