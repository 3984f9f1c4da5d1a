"""Start: an introduction to Probe, one worked example, and links to other pages."""

import numpy as np
import streamlit as st

from dashboard.components.figure import figure
from dashboard.markdown import escape_markdown, finding, note, prose
from dashboard.pages import page_file
from dashboard.pages.start import words
from dashboard.pages.start.compute import Example, find_example
from dashboard.state import current, look_link
from probe.plotting.curves import answer_curves
from probe.runs.captured import answers_table


def show_example(example: Example) -> None:
    """Draw the answers over the training, and links to other pages."""
    choices = {"base": example.base, "aligned": example.aligned, "prompt": example.prompt.text}
    left, right = st.columns([3, 2], gap="large")
    with left:
        answers, logprobs = example.likely()
        chart = answer_curves(example.steps, np.exp(logprobs), answers, axis="probability")
        chart.update_yaxes(range=[-0.03, 1.03])
        figure(
            chart,
            answers_table(example.steps, logprobs, answers),
            "start-answers",
            title=f"Probability of each answer while {example.aligned} is trained",
            height=300,
            source={"run": example.aligned, "prompt": example.prompt.text},
        )
    with right:
        st.markdown(f"**Prompt**  \n{escape_markdown(example.prompt.text)}")
        st.markdown(prose(words.sentence(example)))
        st.markdown(prose(words.about_head(example)))
        look_link("compare", "Compare on your own prompt", ":material/compare_arrows:", **choices)
        look_link("interventions", "See which head does it", ":material/biotech:", **choices)
        st.page_link(page_file("overview"), label="Rates over several trainings", icon=":material/account_tree:")
        st.page_link(page_file("train"), label="Train your own", icon=":material/model_training:")


def page() -> None:
    """Draw the page from top to bottom."""
    store = current().store
    finding(words.TITLE)
    example = find_example(store)
    if example is not None:
        note(words.WORLD if example.run.world else words.OWN_RUNS)
        show_example(example)
    else:
        note(words.OWN_RUNS if store.runs else words.EMPTY)
        if store.runs:
            note(words.NO_EXAMPLE)
        st.page_link(page_file("train"), label="Train your own", icon=":material/model_training:")
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.markdown("##### Your own model")
        st.markdown(words.OWN_MODEL)
    with middle:
        st.markdown("##### Six words")
        st.markdown("\n".join(f"- **{word}**: {meaning}" for word, meaning in words.GLOSSARY.items()))
    with right:
        st.markdown("##### What is where")
        st.markdown("\n".join(f"- **{place}**: {about}" for place, about in words.PLACES.items()))


page()
