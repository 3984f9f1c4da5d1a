"""Process that runs trainings one after the other, so that slow imports (torch, some seconds) happen once.

It reads jobs from its standard input, one JSON object per line: `argv`, the arguments after `probe`; `log`, the file
for all output; `done`, the file that is written with the exit status when the job has ended. The process ends with its
input.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from probe.cli import main
from probe.texts import say


def work(lines: Iterable[str]) -> None:
    """Run the jobs in their order."""
    for line in lines:
        job = json.loads(line)
        _log_to(job["log"])
        status = run(job["argv"])
        sys.stdout.flush()
        sys.stderr.flush()
        done = Path(job["done"])
        half = done.with_name(f"{done.name}.tmp")
        half.write_text(str(status), encoding="utf-8")
        os.replace(half, done)  # renamed, so that a reader never sees a partial file


def run(argv: list[str]) -> int:
    """Run a command of Probe and return its exit status, even if it raises an exception."""
    try:
        return main(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:
        say(traceback.format_exc().rstrip(), error=True)
        return 1


def _log_to(path: str) -> None:
    """Redirect all output to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


if __name__ == "__main__":
    work(sys.stdin)
