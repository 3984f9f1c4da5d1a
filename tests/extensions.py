"""The sample extension package, installed into a folder of its own for as long as a test needs it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probe import plugins

PACKAGE = Path(__file__).with_name("extension_package")


def install(folder: Path) -> Path:
    """Install the package below `folder`, as pip does; gives the directory for the import path."""
    shutil.copytree(PACKAGE, folder / "source")  # setuptools writes beside the sources
    flags = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", folder / "target", folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "target"


def sample(name: str, folder: Path) -> Path:
    """A copy of a sample run without captures and results, for tests that leave something in it."""
    ignored = shutil.ignore_patterns("captures", "results")
    return Path(shutil.copytree(PACKAGE.parents[1] / "sample_runs" / name, folder / name, ignore=ignored))


@contextmanager
def on_the_path(target: Path) -> Iterator[Path]:
    """The package is installed here; afterwards nothing of it is left in this process."""
    with plugins.aside():
        sys.path.insert(0, str(target))
        try:
            yield target
        finally:
            sys.path.remove(str(target))
            for name in [name for name in sys.modules if name.partition(".")[0] == "sample_extension"]:
                del sys.modules[name]
