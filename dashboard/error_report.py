"""Report of an unexpected error on a page: one sentence, and a text to copy that contains no data."""

import platform
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath

from probe.texts import say

PACKAGES = ("probe-lm", "streamlit", "plotly", "pandas", "torch", "transformers", "transformer-lens")
"""Packages whose versions the report names."""
OWN = ("dashboard", "probe", "trainers")
MOST = 12
"""Largest number of places in the code that the report names, the last ones."""


def sentence(error: BaseException) -> str:
    """State what happened, where, and what can be done."""
    return (
        f"This part of the page failed in a way that Probe did not foresee ({type(error).__name__} in "
        f"{_places(error)[-1]}): reload the page or choose something else, and report it with the text below."
    )


def report(error: BaseException) -> str:
    """Return kind of error, places in the code, and versions, but no message, value or folder, which may be private."""
    lines = [f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins."), ""]
    lines += [f"  {place}" for place in _places(error)[-MOST:]]
    lines += ["", f"python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    lines += [f"{name} {_version(name)}" for name in PACKAGES]
    return "\n".join([*lines, "", "The message is in the terminal where `probe dashboard` runs."])


def tell(error: BaseException) -> None:
    """Print the whole traceback in the terminal."""
    say("".join(traceback.format_exception(error)).rstrip(), error=True)


def _places(error: BaseException) -> list[str]:
    """List the places in the traceback, outermost first: file relative to its package, line and function."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{_file(frame.filename)}, line {frame.lineno}, in {frame.name}" for frame in frames] or ["no known place"]


def _file(path: str) -> str:
    parts = PurePath(path).parts
    if "site-packages" in parts:
        start = len(parts) - parts[::-1].index("site-packages")
    else:
        start = next((i for i in range(len(parts) - 1, -1, -1) if parts[i] in OWN), len(parts) - 1)
    return "/".join(parts[start:])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"
