"""Every reader meets damaged files: it reads what is there, or says in one sentence what is wrong.

`PROBE_FUZZ=10000 pytest tests/fuzz` (`make fuzz`) tries that many mutants of each format, PROBE_FUZZ_FIRST the first
seed.
"""

import os
import re
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from probe.errors import ProbeError
from tests.fuzz.formats import FORMATS, Format, target
from tests.fuzz.mutator import difference, mutant

COUNT = int(os.environ.get("PROBE_FUZZ", "150"))
FIRST = int(os.environ.get("PROBE_FUZZ_FIRST", "0"))
SECONDS = 5.0
"""Most seconds of the processor that reading may take; those of the clock depend on what else runs."""
SHOWN = 5


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises a TimeoutError inside after so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fault(fmt: Format, made: Path) -> str | None:
    """What a reader did wrong with the file as it is now; None if nothing."""
    start = time.process_time()
    try:
        with within(SECONDS), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fmt.read(made)
    except ProbeError as error:
        if "\n" in str(error) or not str(error).isprintable():
            return f"a message that is not one printable line: {str(error)[:300]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__}: {str(error)[:300]!r} ({' < '.join(where[:-9:-1])})"
    for each in caught:
        if not (fmt.warns and re.match(fmt.warns, str(each.message))) or not str(each.message).isprintable():
            return f"a warning: {each.category.__name__}: {str(each.message)[:300]!r}"
    return f"{time.process_time() - start:.1f} s" if time.process_time() - start > SECONDS else None


@pytest.mark.slow
@pytest.mark.timeout(1800 + COUNT)
@pytest.mark.parametrize("fmt", FORMATS, ids=[fmt.name for fmt in FORMATS])
def test_a_damaged_file_is_read_or_refused_in_one_sentence(
    fmt: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    made = fmt.make(tmp_path)
    file = target(made, fmt)
    sound = file.read_bytes()
    assert fault(fmt, made) is None, "the sound file"
    faults = []
    for seed in range(FIRST, FIRST + COUNT):
        damaged = mutant(sound, fmt.mutate, seed)
        file.write_bytes(damaged)
        if found := fault(fmt, made):
            faults.append(f"seed {seed}: {found}\n    {difference(sound, damaged)}")
    assert not faults, "\n".join([f"{len(faults)} of {COUNT} mutants of {fmt.name}", *faults[:SHOWN]])
    shutil.rmtree(tmp_path, ignore_errors=True)
