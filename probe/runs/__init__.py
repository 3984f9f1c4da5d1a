"""The run directory: one schema, one writer, one reader (docs/runs.md); importing this package loads nothing heavy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from probe.runs.roots import find, roots

if TYPE_CHECKING:
    from probe.runs.ancestry import Edge, lineage
    from probe.runs.captures import Captures
    from probe.runs.reader import Run, list_runs, open_run
    from probe.runs.schema import SCHEMA, Checkpoint, ProbePrompt, RunWarning
    from probe.runs.thinning import thin
    from probe.runs.writer import RunWriter

_HOMES = {
    "Captures": "captures",
    "Checkpoint": "schema",
    "Edge": "ancestry",
    "ProbePrompt": "schema",
    "Run": "reader",
    "RunWarning": "schema",
    "RunWriter": "writer",
    "SCHEMA": "schema",
    "lineage": "ancestry",
    "list_runs": "reader",
    "open_run": "reader",
    "thin": "thinning",
}

__all__ = [
    "SCHEMA",
    "Captures",
    "Checkpoint",
    "Edge",
    "ProbePrompt",
    "Run",
    "RunWarning",
    "RunWriter",
    "find",
    "lineage",
    "list_runs",
    "open_run",
    "roots",
    "thin",
]


def __getattr__(name: str) -> Any:
    """Import a name from the module that owns it on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'probe.runs' has no attribute {name!r}")
    return getattr(import_module(f"probe.runs.{_HOMES[name]}"), name)
