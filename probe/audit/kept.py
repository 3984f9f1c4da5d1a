"""Measurements of audits kept on disk: finished audits and their tables of two models.

Their names are hashes of everything that the numbers depend on, like those of experiment results
(`probe.experiments.store`).
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
"""Folder of the tables computed from two models, which every audit has."""
MEASURING = 1
"""Version of the measurements; increase it when equal models would give other numbers."""


def key_of(facts: Any) -> str:
    """Return a key computed from these facts; models among them count by their fingerprints."""
    text = json.dumps([MEASURING, identity(facts)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def find_audit(key: str, folders: Iterable[Path] = ()) -> Audit | None:
    """Find the newest finished audit with a key, in the folders of audits or in further ones.

    Unreadable audits are skipped; None if there is none.
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
    """Return the file in which a table is stored."""
    return PARTS / f"{name}-{key_of(facts)}.json"


def read_kept(file: Path, columns: Mapping[str, type]) -> pd.DataFrame | None:
    """Read a stored table; None if it is missing or damaged.

    Args:
        file: file of the table.
        columns: types of the columns: `str`, `float` or `int`.
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
    """Read a stored table of two models, or measure it and store it if the folder is writable.

    Args:
        name: name of the table.
        facts: everything that the table depends on.
        columns: see `read_kept`.
        measure: function that computes the table.
        again: measure it even if it is stored.
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
