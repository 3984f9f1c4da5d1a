"""Probe: train, align and look inside language models.

The public names, loaded on first use so that `import probe` and `probe --help` stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.experiments.metrics import Mean, Share, Statistic
    from probe.experiments.registry import experiment, run_experiment
    from probe.experiments.result import Evidence, Result
    from probe.extensions import annotator, page, panel, verifier
    from probe.model.lm import LM
    from probe.model.presets import ModelConfig
    from probe.model.rewards import RewardModel
    from probe.recording.recorder import watch
    from probe.runs.reader import Run, list_runs, open_run

_HOMES = {
    "Evidence": "probe.experiments.result",
    "LM": "probe.model.lm",
    "Mean": "probe.experiments.metrics",
    "ModelConfig": "probe.model.presets",
    "Result": "probe.experiments.result",
    "RewardModel": "probe.model.rewards",
    "Run": "probe.runs.reader",
    "Share": "probe.experiments.metrics",
    "Statistic": "probe.experiments.metrics",
    "annotator": "probe.extensions",
    "experiment": "probe.experiments.registry",
    "list_runs": "probe.runs.reader",
    "open_run": "probe.runs.reader",
    "page": "probe.extensions",
    "panel": "probe.extensions",
    "run_experiment": "probe.experiments.registry",
    "verifier": "probe.extensions",
    "watch": "probe.recording.recorder",
}

__all__ = [
    "LM",
    "Evidence",
    "Mean",
    "ModelConfig",
    "Result",
    "RewardModel",
    "Run",
    "Share",
    "Statistic",
    "annotator",
    "experiment",
    "list_runs",
    "open_run",
    "page",
    "panel",
    "run_experiment",
    "verifier",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that owns it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
