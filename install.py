"""Install Probe into the environment of this Python: `.venv/bin/python install.py -e '.[export,peft]'`.

uv installs what pip would in a fraction of the time. It does not read pip's settings, so those that say which packages
to take are given to it; where pip has others, or uv cannot be had or fails, pip installs.
"""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
HANDED_ON = {"index-url": "--default-index", "find-links": "--find-links", "constraint": "--constraint"}
"""Settings of pip, and the option of uv that stands for each."""
ASIDE = {"cert", "default-timeout", "timeout", "retries", "disable-pip-version-check", "cache-dir", "no-cache-dir"}
ASIDE |= {
    "no-input",
    "no-color",
    "progress-bar",
    "quiet",
    "verbose",
    "root-user-action",
    "require-virtualenv",
    "config-file",
}
"""Settings of pip that do not change what is installed."""


def main(what: list[str]) -> int:
    """Install what these words of a command name, by uv or pip; return the exit status."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    chosen = settings(listed)
    options = uv_options(chosen)
    uv = None if options is None else find_uv()
    if options is not None and uv is not None:
        environment = {"SSL_CERT_FILE": chosen["cert"]} if "cert" in chosen else {}
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, *options, *what]
        if subprocess.run(command, env=environment | os.environ).returncode == 0:
            return 0
        print("uv could not install this, so pip does.")
    return subprocess.run([*PIP, "install", "--quiet", *what]).returncode


def settings(listed: str) -> dict[str, str]:
    """Return the settings with which pip installs by name, of lines of `pip config list`; the environment goes first.

    A line is `global.timeout='60'`, `install.no-deps='true'` or, from a variable, `:env:.timeout='60'`.
    """
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        lines = [line.removeprefix(f"{section}.") for line in listed.splitlines() if line.startswith(f"{section}.")]
        found |= {name: ast.literal_eval(value) for name, _, value in (line.partition("=") for line in lines)}
    return found


def uv_options(chosen: Mapping[str, str]) -> list[str] | None:
    """Return the options with which uv takes the packages that pip would take; None if a setting has none."""
    if chosen.keys() - HANDED_ON.keys() - ASIDE:
        return None
    return [word for name in HANDED_ON for value in chosen.get(name, "").split() for word in (HANDED_ON[name], value)]


def find_uv() -> str | None:
    """Return the program uv, the user's or one that pip puts into this environment; None if there is none."""
    own = os.path.dirname(sys.executable)
    if not shutil.which("uv") and not shutil.which("uv", path=own):
        subprocess.run([*PIP, "install", "--quiet", "uv"])
    return shutil.which("uv") or shutil.which("uv", path=own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
