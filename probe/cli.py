"""The `probe` command: it finds the commands, runs one, and reports a user's mistake in one sentence.

Commands come from the entry-point group `probe.commands`, so that trainers, dashboard and other packages can add
commands without being imported here. An entry point names a function `command(argv) -> int | None` whose docstring's
first line is its summary; its module imports nothing heavy until the function is called.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

from probe.errors import ConfigError, ProbeError, is_failure, one_line, suggest
from probe.texts import print_safely, say
from probe.ticks import JOB

Command = Callable[[list[str]], int | None]


def commands() -> dict[str, EntryPoint]:
    """Return the installed commands by name, in alphabetical order."""
    return {point.name: point for point in sorted(entry_points(group="probe.commands"), key=lambda p: p.name)}


def help_text() -> str:
    """Return the text of `probe --help`: one line per command."""
    lines = [
        "usage: probe COMMAND [OPTIONS]",
        "",
        "Train, align and look inside language models.",
        "",
        "commands:",
    ]
    for name, point in commands().items():
        summary = (point.load().__doc__ or "").strip().partition("\n")[0]
        lines.append(f"  {name:<12} {summary}")
    lines += [
        "",
        "`probe COMMAND --help` lists the options of a command; `probe --version` prints the version.",
    ]
    return "\n".join(lines)


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that `argv` names and return its exit status.

    Raises:
        ConfigError: the command is unknown.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        say(help_text())
        return 0
    if argv[0] in ("-V", "--version"):
        say(f"probe {version('probe-lm')}")
        return 0
    name, *rest = argv
    by_name = commands()
    if name not in by_name:
        hint = suggest(name, by_name, "see `probe --help`.")
        raise ConfigError(f"There is no command `{name}`; the commands are {', '.join(by_name)}: {hint}")
    return by_name[name].load()(rest) or 0


PARENT = "PROBE_PARENT"
"""Environment variable with the process id of the parent."""
GRACE_S = 60
"""Seconds that a process has to end by itself after its parent is gone."""


def end_with_parent() -> None:
    """End this process when the process in `PARENT` ends: first as after SIGTERM, after `GRACE_S` seconds immediately.

    A sweep starts trainings in this way, so that none keeps running if the sweep or its worker is killed.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent.isdecimal():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def hear_interrupts() -> None:
    """Let SIGINT end this process from its start, even if it was started with the signal ignored.

    A shell ignores the signal for background processes of a script, and a dashboard there would pass this on to the
    trainings that it starts: "Stop" would have no effect before the first step.
    """
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if is_ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script and return its exit status: 2 after a `ProbeError`, which is printed, 130 after Ctrl-C."""
    print_safely()
    end_with_parent()
    words = sys.argv[1:] if argv is None else argv
    folder = os.environ.pop(JOB, "")
    if not folder:
        return _run(words)
    from probe.jobs.process import carry_out

    hear_interrupts()
    return carry_out(Path(folder), lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    """Run a command, and report in one sentence why it ended early."""
    try:
        status = dispatch(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output (`head`) has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ProbeError as error:
        say(f"probe: error: {error}", error=True)
        return 2
    except KeyboardInterrupt:
        say("probe: interrupted", error=True)
        return 130
    except BaseException as error:
        if isinstance(error, Exception) or not is_failure(error):
            raise
        say(f"probe: error: A library gave up on what it read ({one_line(error)}): use another file.", error=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
