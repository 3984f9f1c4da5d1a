"""Killed, without room, without permission, without store: what is done again comes to what it comes to undisturbed.

`make faults` draws 200 moments of each.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.harm import Subject, Tally, Whole
from tests.faults.moments import KINDS, Disturbed, Fault
from tests.faults.subjects import subjects
from tests.trainers.quick import QUICK

MOMENTS = {**dict.fromkeys(QUICK, 20), "sweep": 1, "audit": 4, "upload to a folder": 6, "upload to S3": 4, "export": 3}
MOMENTS |= {"report": 2}
"""Number of moments of each in the test suite."""


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], Subject]]]:
    with subjects(tmp_path_factory.mktemp("subjects")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MOMENTS)
def test_nothing_is_lost_at_any_moment(name: str, makers: dict[str, Callable[[], Subject]], tmp_path: Path) -> None:
    whole, tallies = Whole(makers[name](), tmp_path), dict[str, Tally]()
    for seed in range(MOMENTS[name]):
        whole.harm(seed, tallies)
    assert [problem for tally in tallies.values() for problem in tally.problems] == []
    assert set(tallies) <= set(KINDS)
    assert sum(tally.moments for tally in tallies.values()) == MOMENTS[name]


def test_everything_meets_faults(makers: dict[str, Callable[[], Subject]]) -> None:
    assert set(MOMENTS) == set(makers)


class Careless:
    """Work that writes its file in place, in two writes, and never wonders what is there."""

    name, kinds, empty, wire = "careless", ("killed", "killed in a write", "folder gone", "second writer"), True, None

    def place(self, folder: Path) -> Path:
        (folder / "work").mkdir(parents=True, exist_ok=True)
        return folder / "work"

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return write_in_place, (str(place / "file"),)

    def look(self, place: Path) -> None:
        assert not (place / "file").exists() or (place / "file").stat().st_size == 2000, "half of the file is in sight"

    def compare(self, place: Path, whole: Path) -> None:
        assert (place / "file").read_bytes() == (whole / "file").read_bytes()


def write_in_place(path: str) -> None:
    """Write two halves of a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    for half in (b"a", b"b"):
        os.write(handle, half * 1000)
        os.fsync(handle)
    os.close(handle)


def test_what_is_not_held_is_found(tmp_path: Path) -> None:
    """Work without any care does not get through."""
    whole, tallies = Whole(Careless(), tmp_path), dict[str, Tally]()
    for seed in range(3 * len(Careless.kinds)):
        whole.harm(seed, tallies)
    assert {kind for kind, tally in tallies.items() if tally.problems} == set(Careless.kinds)


def write_from_a_thread(path: str) -> None:
    """Write as an upload does, not in the main thread."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(write_in_place, path).result()


def test_a_write_of_another_thread_meets_its_fault(tmp_path: Path) -> None:
    fault = Fault("killed in a write", at=2, size=500)
    assert Disturbed(fault, tmp_path, write_from_a_thread, str(tmp_path / "file")).end().status == -signal.SIGXFSZ
