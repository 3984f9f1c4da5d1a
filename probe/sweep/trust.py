"""What a spec may not do by itself: run code, write anywhere, grow without bound. It is data, and may be anybody's."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import ConfigError
from probe.plugins import code_options, names_code
from probe.runs.directories import host_options, is_host

MOST_TASKS = 10_000
"""Tasks that a sweep may have."""
MOST_VALUES = 1_000
"""Values that one option may have."""


def check_out(out: Path, spec: Path) -> None:
    """Refuse a folder for the runs that lies neither beside the spec nor in the working folder.

    Raises:
        ConfigError: it lies elsewhere; the sentence says what to type.
    """
    places = [spec.absolute().parent.resolve(), Path.cwd().resolve()]
    if not any(Path(os.path.abspath(out)).resolve().is_relative_to(place) for place in places):
        raise ConfigError(
            f"The spec `{spec}` has the out `{out}`, which lies neither in its own folder nor in the working folder:"
            f" add --out {out} if the runs are to go there, or correct it."
        )


def check_count(count: int) -> None:
    """Refuse a sweep of too many tasks, before they are made.

    Raises:
        ConfigError: there are more than `MOST_TASKS`.
    """
    if count > MOST_TASKS:
        raise ConfigError(
            f"The sweep has {count:,} tasks or more, and at most {MOST_TASKS:,} are made: shorten `grid`, `each`,"
            " `seeds` or `of`, or split it into several."
        )


def uses(recipes: Sequence[Mapping[str, Any]], plugins: Sequence[str], store: str | None) -> str:
    """Say which code the tasks of a sweep run, and which hosts they reach; empty where there is none."""
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
