"""One torch thread in every test: two busy cores run many times slower with two."""

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from probe import LM, plugins
from probe.model import calls
from probe.world import World
from tests import buckets
from tests.places import SAMPLES

torch.set_num_threads(1)
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
calls.SLOW_S = float("inf")  # no test finds what another one was answered; those about it set it


DIVIDED = {"test_every_page.py": 3, "test_faults.py": 2}
"""Number of parts of files that several workers share, as one would still be at them when all others have ended."""

REAL = Path(__file__).parent / "real"
"""Folder of the tests of a real checkpoint, all of which take long."""


class Scheduling(LoadFileScheduling):
    """A file is given to one worker, which makes once what its tests share; the longest are given to several."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        parts = DIVIDED.get(Path(file).name, 1)
        return f"{file}@{crc32(test.encode()) % parts}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Divide the longest files among workers."""
    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--slow`."""
    parser.addoption("--slow", metavar="K/N", default="1/1", help="only every N-th slow test, from the K-th on")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests of the other parts."""
    part, parts = map(int, config.getoption("slow").split("/"))
    slow = [each for each in items if each.get_closest_marker("slow") or REAL in each.path.parents]
    left = {each for number, each in enumerate(slow, 1) if number % parts != part % parts}
    if left:
        config.hook.pytest_deselected(items=list(left))
        items[:] = [each for each in items if each not in left]


def pytest_collection_finish() -> None:
    """Leave what is loaded out of every later search for garbage, which took half a second each."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the last line which tests were skipped, and why."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    skipped = Counter(str(each.longrepr[2]) for each in reporter.stats.get("skipped", ())) if reporter else Counter()
    if skipped:
        reasons = (
            f"{count} ({reason.removeprefix('Skipped: ').rstrip('.')})" for reason, count in skipped.most_common()
        )
        reporter.write_line(f"Skipped: {', '.join(reasons)}.")


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """AppTest leaves its script as `__main__`, which processes that later tests start would try to run."""
    module = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = module


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the user's cache, or waits for a core that another worker's job has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server of moto, which speaks S3 over the network of this machine."""
    with buckets.s3_server() as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path) -> Iterator[None]:
    """On that server an empty bucket `s3://bucket`, credentials for it, and an empty cache."""
    with buckets.empty_bucket(s3_server, tmp_path / "cache"):
        yield
