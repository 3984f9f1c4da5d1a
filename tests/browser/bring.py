"""Bring the Chromium that tests need, where that may be done: `make browser`, with which `make test` begins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from probe.plotting.export import find_browser


def main() -> None:
    """From Debian as root, else with Kaleido; where neither works, tests in a browser are skipped."""
    if find_browser() is None:
        print("Tests in a browser need Chromium: installing it, this once.", flush=True)
        from_debian()
    if find_browser() is None:
        from_kaleido()
    if find_browser() is None:
        print("Chromium could not be installed, so tests in a browser are skipped: as root, `apt install chromium`.")


def from_debian() -> None:
    """Install Debian's package, as root on Debian; Ubuntu's is only a pointer to a snap."""
    about = Path("/etc/os-release")
    if os.geteuid() == 0 and about.is_file() and "ID=debian" in about.read_text().splitlines():
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "chromium"]):
            subprocess.run(["apt-get", "-qq", *words], env=quiet, stdout=subprocess.DEVNULL)


def from_kaleido() -> None:
    """Download Chrome for the user, to where exports find it; take it away again if libraries that it needs lack."""
    program = Path(sys.executable).with_name("kaleido_get_chrome")
    if subprocess.run([program], capture_output=True).returncode:
        return
    found = find_browser()
    if found and subprocess.run([found, "--version"], capture_output=True).returncode:
        shutil.rmtree(found.parent)


if __name__ == "__main__":
    main()
