"""Probe: train, align and look inside language models.

The public names, loaded on first use so that `import probe` and `probe --help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.lm import LM
    from probe.presets import ModelConfig
    from probe.recorder import watch
    from probe.rewards import RewardModel
    from probe.runs.reader import Run, list_runs, open_run

_HOMES = {
    "LM": "probe.lm",
    "ModelConfig": "probe.presets",
    "RewardModel": "probe.rewards",
    "Run": "probe.runs.reader",
    "list_runs": "probe.runs.reader",
    "open_run": "probe.runs.reader",
    "watch": "probe.recorder",
}

__all__ = ["LM", "ModelConfig", "RewardModel", "Run", "list_runs", "open_run", "watch"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that owns it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
