"""Ways to the other counts of one behaviour: sampled or exact, of one training or over several, by another rule."""

import streamlit as st

from dashboard.markdown import note
from dashboard.pages import page_file

ESTIMATES = (
    {
        "overview": "Runs: sampled answers, mean over trainings",
        "hallucination": "Hallucination: exact, any value about an unseen entity is false",
        "retrieval": "Retrieval: exact, a lucky value counts as true",
    },
    {
        "overview": "Runs: sampled answers, mean over trainings",
        "sycophancy": "Sycophancy: exact, one training",
        "audit": "Audit: both models on the same questions",
    },
)
"""By page how it counts hallucination, and how agreement with false claims."""


def other_estimates(page: str) -> None:
    """Say which pages count the same otherwise, and how, with links to them; nothing where none does."""
    others = {name: how for each in ESTIMATES if page in each for name, how in each.items() if name != page}
    if not others:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        note("Counted otherwise on")
        for name, how in others.items():
            st.page_link(page_file(name), label=how, icon=":material/arrow_forward:")
