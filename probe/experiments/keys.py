"""What the result of an experiment depends on, as JSON values: equal exactly where the numbers would be."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import ProbeError
from probe.model.references import resolve
from probe.plugins import code_hash, source_hash
from probe.runs.roots import find, is_run
from probe.runs.schema import jsonable

STARTED = f"{os.getpid()}-{time.time_ns()}"
"""Of this process."""


def data_facts(data: Any) -> dict[str, Any] | None:
    """What is known of the data of an experiment: of a file, or of the files of a folder, name and SHA-256."""
    if data is None:
        return None
    if not isinstance(data, str | Path):
        told = json.dumps(identity(data), sort_keys=True).encode()
        return {"name": type(data).__name__, "files": 0, "sha256": hashlib.sha256(told).hexdigest()}
    paths = _paths(data)
    found = [(path, _files(path)) for path in paths]
    digest = hashlib.sha256()
    for path, files in found:
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            digest.update(f"{name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape") + file.read_bytes())
    names = ", ".join(path.name for path in paths)
    return {"name": names, "files": sum(len(files) for _, files in found), "sha256": digest.hexdigest()}


def _paths(data: str | Path) -> list[Path]:
    """A path, or several with commas between them."""
    whole = Path(data).expanduser()
    parts = [Path(part.strip()).expanduser() for part in str(data).split(",") if part.strip()]
    return parts if len(parts) > 1 and not whole.exists() else [whole]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def content(value: Any) -> Any:
    """The identity of an option that may name files or a model: what is in them, not how they are called.

    A name of neither a file, a folder nor a run here, such as one on the hub, is its own identity.
    """
    if not isinstance(value, str | Path):
        return identity(value)
    paths = _paths(value)
    if not all(path.exists() for path in paths) or is_run(paths[0]):
        try:
            paths = [resolve(find(value)).directory]
        except ProbeError:
            return identity(value)
    return [data_facts(path) for path in paths]


def identity(value: Any) -> Any:
    """A value as JSON values that are equal only where it is the same; what has none is equal to itself alone."""
    if isinstance(value, Mapping):
        return {str(key): identity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [identity(each) for each in value]
    if hasattr(value, "fingerprint"):  # a model
        return [type(value).__name__, value.fingerprint]
    if isinstance(value, pd.DataFrame):
        return [str(value.dtypes.to_dict()), value.to_csv()]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {each.name: identity(getattr(value, each.name)) for each in fields(value)}]
    if callable(value) and hasattr(value, "__qualname__"):
        return [getattr(value, "__module__", ""), value.__qualname__, source_hash(value), code_hash(value)]
    try:
        return jsonable(value)
    except ProbeError:
        return [type(value).__name__, id(value), STARTED]


def told(value: Any) -> Any:
    """An argument as a JSON value for people; what has none is told by its name or its type."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    try:
        return jsonable(value)
    except ProbeError:
        return type(value).__name__
