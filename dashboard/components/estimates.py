"""Links to other estimates of the same behaviour: sampled or exact, of one training or several, by another rule."""

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
"""Estimates of hallucination and of agreement with false claims, by page."""


def other_estimates(page: str) -> None:
    """Describe and link pages with other estimates of the same behaviour, if there are any."""
    others = {name: how for each in ESTIMATES if page in each for name, how in each.items() if name != page}
    if not others:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        note("Estimated differently on")
        for name, how in others.items():
            st.page_link(page_file(name), label=how, icon=":material/arrow_forward:")
