"""The progress bar: quiet where there is no terminal, and full of news where there is one."""

import os
import pty
import subprocess
import sys

import pytest

from probe.commands import progress
from probe.commands.progress import Bar


def test_a_line_now_and_then_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Bar("dpo", 100) as bar:
        for step in range(1, 101):
            clock[0] += 1.0
            bar.advance(step, f"loss {step}" if step % 5 == 0 else None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "dpo: 10 of 100, 0:01:30 left, loss 10"
    assert len(lines) == 10


def test_time_left_counts_from_the_resume(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Bar("dpo", 100, done=80) as bar:
        clock[0] = 20.0
        bar.advance(90, "loss 1")
    assert "0:00:20 left" in capsys.readouterr().err


def test_silent_on_other_processes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with Bar("dpo", 3, visible=False) as bar:
        bar.advance(1, "loss 1")
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal() -> None:
    code = (
        "import time\n"
        "from probe.commands.progress import Bar\n"
        "with Bar('dpo', 4) as bar:\n"
        "    for step in (1, 2, 3, 4):\n"
        "        bar.advance(step, f'loss {step}, 123 tokens/s')\n"
        "        time.sleep(0.02)\n"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    )
    process.wait(60)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "4/4" in shown
    assert "loss 4, 123 tokens/s" in shown
    assert "0:00:" in shown
