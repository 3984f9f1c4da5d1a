"""Limits on specs, which are untrusted data: they may not run code, write anywhere, or have unlimited tasks."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ConfigError
from probe.plugins import code_options, names_code
from probe.runs.directories import host_options, is_host

MOST_TASKS = 10_000
"""Largest number of tasks of a sweep."""
MOST_VALUES = 1_000
"""Largest number of values of one option."""


def check_out(out: Path, spec: Path) -> None:
    """Refuse a folder for the runs that is neither next to the spec nor in the working directory.

    Raises:
        ConfigError: it is elsewhere; the message says what to type.
    """
    places = [spec.absolute().parent.resolve(), Path.cwd().resolve()]
    if not any(Path(os.path.abspath(out)).resolve().is_relative_to(place) for place in places):
        raise ConfigError(
            f"The spec `{spec}` has the out `{out}`, which lies neither in its own folder nor in the working folder:"
            f" add --out {out} if the runs are to go there, or correct it."
        )


def check_count(count: int) -> None:
    """Refuse a sweep with too many tasks before they are created.

    Raises:
        ConfigError: there are more than `MOST_TASKS`.
    """
    if count > MOST_TASKS:
        raise ConfigError(
            f"The sweep has {count:,} tasks or more, and at most {MOST_TASKS:,} are made: shorten `grid`, `each`,"
            " `seeds` or `of`, or split it into several."
        )


def uses(recipes: Sequence[Mapping[str, Any]], plugins: Sequence[str], store: str | None) -> str:
    """Describe the code that the tasks of a sweep run and the hosts that they reach; empty if there is none."""
    code, hosts = dict.fromkeys(plugins), dict.fromkeys([store] if store else [])
    for recipe in recipes:
        code |= dict.fromkeys(
            value for values in code_options(recipe).values() for value in values if names_code(value)
        )
        hosts |= dict.fromkeys(
            value for name, values in host_options(recipe).items() for value in values if is_host(name, value)
        )
    parts = [f"run code ({', '.join(code)})"] if code else []
    parts += [f"reach {', '.join(hosts)}"] if hosts else []
    return f"The tasks of this sweep {' and '.join(parts)}." if parts else ""
