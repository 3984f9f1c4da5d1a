"""Faults at many moments: `python -m tests.faults [--moments 200] [--seed 0] [NAME ...]` (`make faults`)."""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.harm import Tally, Whole
from tests.faults.moments import can_mount
from tests.faults.subjects import subjects
from tests.faults.table import table


def run(arguments: list[str]) -> int:
    """Harm what is named, and print the table; return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="methods, sweep, audit, ...; all by default")
    parser.add_argument("--moments", type=int, default=200, help="moments of each (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first moment (default: 0)")
    given = parser.parse_args(arguments)
    results: dict[str, dict[str, Tally]] = {}
    with TemporaryDirectory() as made, subjects(Path(made)) as makers:
        for name in given.names or makers:
            start = time.monotonic()
            whole = Whole(makers[name](), Path(made) / f"{name}-whole")
            tallies = results.setdefault(name, {})
            for number in range(given.moments):
                whole.harm(given.seed + number, tallies)
            problems = [problem for tally in tallies.values() for problem in tally.problems]
            print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
            print(f"{name}: {given.moments} moments, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"A full disk is {'a tmpfs' if can_mount() else 'a limit on the size of files'}.\n\n{table(results)}")
    return int(any(tally.problems for tallies in results.values() for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
