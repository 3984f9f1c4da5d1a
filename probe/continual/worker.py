"""A process that runs one training after the other: slow imports (torch, seconds long) happen once.

It reads jobs from its standard input, a JSON object a line: `argv`, the words behind `probe`; `log`, the file that all
its output goes to; `done`, the file that appears with the exit status as text when it is over. It ends with its input.
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
    """Run the jobs of the lines in their order."""
    for line in lines:
        job = json.loads(line)
        _log_to(job["log"])
        status = run(job["argv"])
        sys.stdout.flush()
        sys.stderr.flush()
        done = Path(job["done"])
        half = done.with_name(f"{done.name}.tmp")
        half.write_text(str(status), encoding="utf-8")
        os.replace(half, done)  # whoever waits never sees half of it


def run(argv: list[str]) -> int:
    """Run a command of Probe and return its exit status, also if it raises an exception."""
    try:
        return main(argv)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:
        say(traceback.format_exc().rstrip(), error=True)
        return 1


def _log_to(path: str) -> None:
    """Let all output go to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


if __name__ == "__main__":
    work(sys.stdin)
