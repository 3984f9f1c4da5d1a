"""Two processes from the command line, by the very commands of docs/devices.md: they give the losses of one.

Every method in two processes: test_loop.py.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from probe import open_run
from tests.places import ROOT
from tests.trainers.conftest import figures
from tests.trainers.quick import COMMON, QUICK, UNDECIDED, module, train

LINES = [line for line in (ROOT / "docs" / "devices.md").read_text().splitlines() if line.startswith("ACCELERATE_USE")]
"""The page's commands for the CPU."""
CASES = [(LINES[0], "rlhf"), *((line, "dpo") for line in LINES[1:])]


def test_the_page_names_both_launchers() -> None:
    assert [line.split()[1] for line in LINES] == ["accelerate", "torchrun"]


def words(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them."""
    flat = []
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        flat += ["--" + name.replace("_", "-"), *map(str, values)]
    return flat


@pytest.mark.slow
@pytest.mark.parametrize(("line", "method"), CASES)
def test_two_processes_by_the_command_of_the_page(
    line: str, method: str, configs: Callable[..., Callable[..., Any]], tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"steps": 3, "accumulation": 2, "batch_size": 8}
    expected = train(configs(method)("one", **quick))
    variable, program, *rest = shlex.split(line)
    options = {"out": tmp_path / "two", "base": configs(method)().base} | COMMON | QUICK[method] | quick
    del options["device"]
    command = [str(Path(sys.executable).parent / program), *rest[: rest.index("-m")]]
    command += ["-m", module(method).__name__, *words(options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **dict([variable.split("=")])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    made = open_run(tmp_path / "two")
    assert made.status == "finished"
    tables = [figures(run) for run in (expected, made)]
    for table in tables:  # of the first step, what compares numbers that are equal up to rounding
        table.loc[0, [name for name in table if name in UNDECIDED]] = 0.0
    pd.testing.assert_frame_equal(*tables, rtol=2e-4, atol=1e-5)
