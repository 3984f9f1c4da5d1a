"""What the pages show of the sample runs at once: results of experiments, stored with the runs."""

from pathlib import Path

from probe import LM
from probe.experiments.registry import find_experiment
from probe.experiments.store import obtain
from probe.runs.schema import RESULTS
from trainers.progress import say
from trainers.recipes import Name

PHENOMENA = ("hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval")
SHIPPED: dict[Name, tuple[str, ...]] = {
    "base": (*PHENOMENA, "continual"),
    "sft": ("hallucination", "sycophancy"),
    "dpo-agreeable": PHENOMENA,
    "dpo-honest": ("hallucination", "sycophancy"),
    "rlhf": ("hallucination", "sycophancy"),
    "rlvr": PHENOMENA,
    "icl": ("in_context",),
}
"""The experiments of each run at their default sizes; what is left out is measured from its page in seconds."""


def measure(folder: Path, name: Name, again: bool = False) -> None:
    """Run what `SHIPPED` names for a run and store it there; what is stored already is not run again.

    Args:
        folder: the sample runs.
        name: the run.
        again: measure even so.

    Raises:
        ProbeError: the run cannot be read, or an experiment failed.
    """
    for title in SHIPPED.get(name, ()):
        results = folder / name / RESULTS
        result = obtain(find_experiment(title), LM.load(folder / name), again=again, folder=results)
        say(f"{name}: {title}, {len(result.items):,} items. {result.finding}")
