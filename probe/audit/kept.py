"""What audits have measured, kept on disk: finished ones are found again, and so are their tables of two models.

Each is named by everything that its numbers depend on, as results of experiments are (`probe.experiments.store`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from probe.audit.change import FILE, HOME, Audit, audit_files, read_table, stored_audits
from probe.experiments.run import identity
from probe.experiments.store import may_make
from probe.runs.schema import dumps
from probe.runs.storage import disk, write_atomic
from probe.untrusted import read_file, read_json, sendable

PARTS = HOME / "parts"
"""Tables that belong to two models, whichever parts an audit has."""
MEASURING = 1
"""Raised when equal models would give other numbers."""


def key_of(facts: Any) -> str:
    """Return a key for what depends on these facts; models among them count by their fingerprints."""
    text = json.dumps([MEASURING, identity(facts)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def find_audit(key: str, folders: Iterable[Path] = ()) -> Audit | None:
    """Return the newest finished audit with a key, in the folders of audits or in further ones, or None.

    One that cannot be read counts as none.
    """
    files = [*(folder / FILE for folder in folders), *audit_files()]
    known = stored_audits([file for file in files if _mentions(file, key)])
    return next((audit for audit in known.values() if audit.meta["key"] == key), None)


def _mentions(file: Path, key: str) -> bool:
    """Return whether a key stands anywhere in a file: only such a file is worth the time to read an audit."""
    try:
        return key.encode() in read_file(file)
    except OSError:
        return False


def kept_file(name: str, facts: Any) -> Path:
    """Return where a table lies once it is measured."""
    return PARTS / f"{name}-{key_of(facts)}.json"


def read_kept(file: Path, columns: Mapping[str, type]) -> pd.DataFrame | None:
    """Read a table that is kept; None where it is missing or damaged.

    Args:
        file: where it lies.
        columns: their types: `str`, `float` or `int`.
    """
    try:
        if not file.is_file():
            return None
        records = sendable(read_json(file))
        table = read_table(records, {name: str if kind is str else float for name, kind in columns.items()})
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    whole = [name for name, kind in columns.items() if kind is int]
    fits = (table[whole].abs() < 2**53).all().all()
    return table.astype(dict.fromkeys(whole, int)) if fits else None


def keep_table(
    name: str, facts: Any, columns: Mapping[str, type], measure: Callable[[], pd.DataFrame], again: bool = False
) -> pd.DataFrame:
    """Read a table of two models where it is kept; else measure it, and keep it if the folder may be written to.

    Args:
        name: of what it says.
        facts: everything that it depends on.
        columns: see `read_kept`.
        measure: gives the table.
        again: measure it even if it is kept.
    """
    file = kept_file(name, facts)
    kept = None if again else read_kept(file, columns)
    if kept is not None:
        return kept
    table = measure()[list(columns)]
    if may_make(file):
        with disk(file):
            write_atomic(file, (dumps(table.to_dict("records")) + "\n").encode())
    return table
