"""The command line at a terminal: a process whose standard output is one."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence


def in_terminal(words: Sequence[str], columns: int = 80) -> tuple[int, str]:
    """Exit status of `probe WORDS` and what a person reads, without colours."""
    reader, terminal = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "probe.cli", *words], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    read = bytearray()
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:  # the terminal is closed once the process has ended
            break
        if not part:
            break
        read += part
    os.close(reader)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", read.decode())
    return process.wait(), text.replace("\r\n", "\n")
