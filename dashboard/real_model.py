"""Note about the base of the real sample runs, whose weights are not shipped with Probe."""

from dashboard.markdown import note
from dashboard.state import SharedChoices
from probe.model.references import REAL_MODEL, find_model


def note_real_model(shared: SharedChoices) -> None:
    """Show a note about the weights that a chosen run's real base model needs, and how to get them."""
    labels = [label for label in (shared.label(shared.base), shared.label(shared.aligned)) if label]
    runs = [shared.store.runs[label] for label in labels]
    if not any(REAL_MODEL in (run.name, run.parent) for run in runs):
        return
    missing = (
        " Its weights are not on this machine: `make real-model` in a checkout of Probe fetches them. What is stored"
        " is shown without them."
    )
    about = f"{REAL_MODEL} stands here in a 4-bit rounding of the released weights."
    note(about + ("" if find_model(REAL_MODEL) else missing))
