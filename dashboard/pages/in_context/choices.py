"""Initial choice of the In-context learning page: the run whose corpus taught in-context learning."""

import streamlit as st

from dashboard.data import Stamp, Store, stamp
from dashboard.state import Pair, default_pair
from probe.errors import ProbeError
from probe.numbers import rate
from probe.runs.addresses import RUN_FILE
from probe.runs.reader import Run
from probe.world import of
from probe.world.tasks import in_context_share

MOST = 0.5
"""Share of the corpus above which a training counts as teaching in-context learning."""


def usual_models(store: Store) -> Pair:
    """Return the single run whose corpus teaches in-context learning most.

    If no corpus mainly teaches it, return the default pair of other pages.
    """
    shares = {label: share(run) for label, run in store.runs.items() if run.checkpoints()}
    label = max(shares, key=lambda name: shares[name], default=None)
    return (label, label) if label is not None and shares[label] > MOST else default_pair(store)


def share(run: Run) -> float:
    """Return the share of a run's corpus that teaches in-context learning; 0 without a world."""
    return _share(str(run.path), stamp(run.path / RUN_FILE))


@st.cache_data(show_spinner=False, max_entries=256)
def _share(path: str, version: Stamp) -> float:
    try:
        world = of(Run(path))
    except ProbeError:  # problems are reported where it is opened
        return 0.0
    return in_context_share(world.config) if world else 0.0


def remark(store: Store, label: str) -> str:
    """Explain why a run is shown that the reader did not choose."""
    return (
        f"{label} is shown because {rate(share(store.runs[label]))} of its training documents can be predicted"
        " from their own earlier tokens, which teaches in-context learning. Choose other models above."
    )
