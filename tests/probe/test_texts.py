"""What is printed shows every letter of data and obeys none."""

import os
import pty
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from rich.table import Table

from probe import cli, texts
from probe.commands.progress import Bar
from probe.commands.tables import safe
from probe.errors import ProbeError
from probe.runs.writer import RunWriter
from probe.texts import REPLACED, console, say, visible

ACTS = [
    "\x1b[31m",
    "\x1b]8;;http://x\x1b\\",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x85",
    "\x00",
    "\x08",
    "\x7f",
    "\r",
    "\x0b",
    "\x0c",
    *(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C, 0x2028, 0x2029)),
    "\ud800",
    "\udcff",
]
HARMLESS = ["a b", "π ≈ 3", "日本語", "👩\u200d🔬", "e\u0301", "\u00a0", "\u3000", "\ue000", "[red]x[/]", "�"]
DANGER = "".join(ACTS)


@pytest.mark.parametrize("text", ACTS)
def test_what_acts_is_replaced(text: str):
    told = visible(f"a{text}b")
    assert told[0] == "a"
    assert told[-1] == "b"
    assert REPLACED in told
    assert not set(told) & set(DANGER) - set("[31m]8;;http://x\\0;title")
    told.encode()


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_seen_stays(text: str):
    assert visible(text) == text
    assert visible(f"{text}\n\t{text}", lines=True) == f"{text}\n\t{text}"
    assert visible(f"{text}\n") == f"{text}{REPLACED}"


def clean(output: str) -> None:
    """Whether nothing of `DANGER` is left but line ends."""
    for letter in set(DANGER) - set("[31m]8;;http://x\\0;title"):
        assert letter not in output, repr(letter)


def test_say_and_tables_print_safely(capsys: pytest.CaptureFixture[str]):
    say(DANGER)
    say(DANGER, error=True)
    table = Table(title=DANGER.replace("[", "("))
    table.add_column("x")
    table.add_row(safe(DANGER))
    table.add_row(DANGER.replace("[", "("))
    screen = console()
    screen.print(table)
    screen.print(safe("[link=http://x]y[/link]"))
    screen.print(f"[bold]{safe(DANGER)}[/]")
    told = capsys.readouterr()
    clean(told.out)
    clean(told.err)
    assert "[link=http://x]y[/link]" in told.out
    told.out.encode()


def test_an_error_reaches_the_terminal_as_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def fail(_argv: object) -> int:
        raise ProbeError(f"`{DANGER}` was given: give another.")

    monkeypatch.setattr(cli, "dispatch", fail)
    assert cli.main([]) == 2
    told = capsys.readouterr().err
    clean(told)
    assert told.startswith("probe: error: `")


def test_warnings_and_tracebacks_are_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    texts.print_safely()
    clean(warnings.formatwarning(DANGER, UserWarning, "x.py", 1))
    try:
        raise KeyError(DANGER)
    except KeyError as error:
        sys.excepthook(KeyError, ValueError(DANGER), error.__traceback__)
    told = capsys.readouterr().err
    assert "ValueError" in told
    clean(told)


def in_terminal(arguments: list[str], folder: Path) -> str:
    """What Python prints with some arguments where standard output and error are a terminal."""
    main, side = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "PROBE_RUNS": str(folder)}
    with subprocess.Popen([sys.executable, *arguments], cwd=folder, env=environment, stdout=side, stderr=side):
        os.close(side)
        told = b""
        with suppress(OSError):  # the other end is closed
            while part := os.read(main, 65536):
                told += part
    os.close(main)
    return told.decode().replace("\r\n", "\n")


HOSTILE = DANGER.replace("\0", "").replace("/", "").replace("\ud800", "").replace("\udcff", "")


@pytest.mark.parametrize(
    "command",
    [
        ["runs", "list", "--root", "."],
        ["runs", "show", f"./{HOSTILE}"],
        ["runs", "show", HOSTILE + "x"],
        ["export", f"./{HOSTILE}", "--format", HOSTILE, "--out", "out"],
        ["runs", HOSTILE],
    ],
)
def test_a_strangers_run_in_a_real_terminal(tmp_path: Path, command: list[str]):
    """On a terminal rich sets colours by escape sequences of its own: those of the data are not among them."""
    with RunWriter.create(tmp_path / HOSTILE, method=DANGER, config={DANGER: DANGER}, parent=DANGER) as run:
        run.finish("failed", [{"metric": DANGER, "value": 1.0}], DANGER)
    (tmp_path / f"{HOSTILE}2").mkdir()
    (tmp_path / f"{HOSTILE}2" / "run.json").write_text("{")
    text = in_terminal(["-m", "probe.cli", *command], tmp_path)
    for sequence in ("\x1b]", "\x07", "\r", "\x9b", "\x7f", "\x08", "\u202e", "\u2066", "Traceback"):
        assert sequence not in text, repr(text)
    assert "\x1b[31m" not in text.replace("\x1b[31m" + "failed", "").replace("\x1b[31m│", "")


def test_the_bar_of_a_training_shows_data_as_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.commands.progress.LINE_EVERY_S", 0.0)
    with Bar(DANGER, 10) as bar:
        bar.advance(1, f"loss {DANGER}")
    told = capsys.readouterr().err
    assert "loss" in told
    clean(told)


BAR = """
from probe.commands.progress import Bar
with Bar({0!r}, 10) as bar:
    bar.advance(1, {0!r})
"""


def test_the_bar_on_a_terminal_shows_data_as_text(tmp_path: Path):
    told = in_terminal(["-c", BAR.format("[link=http://x]\x1b]0;title\x07\x9b\u202ey")], tmp_path)
    assert "link=http://x" in told
    for sequence in ("\x1b]", "\x07", "\x9b", "\u202e"):
        assert sequence not in told
