"""The command `probe dashboard`: it starts the pages on this machine, for this machine only."""

import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe.errors import ConfigError, RunError
from probe.options import parse
from probe.plugins import ENVIRONMENT, split
from probe.runs.addresses import is_url
from probe.texts import say

if TYPE_CHECKING:
    from dashboard.access import Gate

HOST = "127.0.0.1"
"""Address of the server: it never listens beyond loopback, so there is no option for it."""


def dashboard(argv: list[str]) -> int:
    """Open the dashboard in a browser: lineage of runs, training curves, two models compared."""

    @dataclass(frozen=True, kw_only=True)
    class Dashboard:
        """Open the dashboard on this machine (127.0.0.1 only); Ctrl-C stops it."""

        runs: tuple[str, ...] = ()
        """Run directories, on this machine or in a store (s3://bucket/runs); by default those of $PROBE_RUNS, or
        ./runs, ./sample_runs and the samples."""
        plugin: str | None = None
        """A Python file with custom experiments or analyses, run with all your rights; may be repeated."""
        port: int = 8501
        """Port to listen on; 0 takes a free one."""
        browser: bool = True
        """Open the page in the browser, if there is a display."""

    plugins, words = split(argv)
    options = parse(Dashboard, words, "probe dashboard")
    if options.runs:
        os.environ["PROBE_RUNS"] = os.pathsep.join(checked_roots(options.runs))
    if plugins:
        files = [os.environ[ENVIRONMENT]] if os.environ.get(ENVIRONMENT) else []
        os.environ[ENVIRONMENT] = os.pathsep.join([*files, *map(str, checked_plugins(plugins))])
    from dashboard.access import Gate
    from probe.jobs.control import SHARED
    from probe.jobs.heap import share_heaps

    os.environ |= SHARED | os.environ  # before torch is loaded
    share_heaps()
    port = free_port(options.port)
    gate = Gate(port)
    address = gate.address(f"http://{HOST}:{port}")
    say(f"Probe dashboard: {address}  (Ctrl-C stops it)")
    if options.browser and has_display():
        threading.Thread(target=_open_when_ready, args=(address, port), daemon=True).start()
    return serve(gate)


def checked_roots(given: tuple[str, ...]) -> list[str]:
    """Return the run directories as absolute paths, or as addresses in a store; each store is listed once.

    Raises:
        RunError: a path is not a folder, or a store cannot be reached and was never read.
    """
    roots = [text if is_url(text) else str(Path(text).expanduser().resolve()) for text in given]
    for text, root in zip(given, roots, strict=True):
        if is_url(root):
            from probe.runs.reader import checked_folder

            checked_folder(root)
        elif not os.path.isdir(root):
            raise RunError(
                f"The run directory `{text}` is not a folder: give a folder that holds runs, or make one with"
                " `probe train`."
            )
    return roots


def checked_plugins(given: Sequence[str]) -> list[Path]:
    """Return the plugins as absolute paths; the server runs them, and its pages show their errors.

    Raises:
        ConfigError: a plugin is not a Python file.
    """
    files = [Path(file).expanduser().resolve() for file in given]
    for text, file in zip(given, files, strict=True):
        if not file.is_file() or file.suffix != ".py":
            raise ConfigError(f"The plugin `{text}` is not a Python file: give the path of a file that ends in .py.")
    return files


def free_port(port: int) -> int:
    """Return `port` if it is free, or any free port for 0.

    Raises:
        ConfigError: the port is taken, needs privileges, or is invalid.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"Port {port} does not exist: give a number from 1024 to 65535, or 0 for a free one.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be used ({error.strerror}): another program, perhaps a dashboard that still runs, "
                f"has it; stop that one, or take a free one with `probe dashboard --port {port % 65535 + 1}`."
            ) from None
        return int(probe.getsockname()[1])


def settings(port: int) -> dict[str, object]:
    """Return the server settings in the form of flags, so that no configuration file or variable can loosen them."""
    return {
        "global.developmentMode": False,
        "global.e2eTest": False,
        # Options have a default, which links omit, and a value that is kept while other pages are shown.
        "global.disableWidgetStateDuplicationWarning": True,
        "server.address": HOST,
        "server.port": port,
        "server.baseUrlPath": "",
        "server.allowedHosts": [HOST, "localhost"],
        "server.corsAllowedOrigins": [],
        "server.enableAgentApi": False,
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.headless": True,
        "server.showEmailPrompt": False,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "browser.serverAddress": HOST,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "warning",
    }


def serve(gate: "Gate") -> int:
    """Run the server in this process until it is stopped."""
    from starlette.middleware import Middleware
    from streamlit import App

    from dashboard import access
    from dashboard.markdown import report_failure
    from dashboard.models import warm
    from dashboard.opening import Opening

    warm()
    access.install(gate)
    script = Path(__file__).with_name("pages") / "app.py"
    sys.argv = [str(script)]  # the theme is in the same folder
    app = App(script, middleware=[Middleware(access.Guard, gate), Middleware(Opening)], on_script_error=report_failure)
    with suppress(KeyboardInterrupt):
        app.run(config=settings(gate.port))
    return 0


def has_display() -> bool:
    """Return whether a browser window can be shown on this machine."""
    unix = sys.platform.startswith(("linux", "freebsd", "openbsd"))
    return not unix or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_when_ready(url: str, port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            webbrowser.open(url)
            return
