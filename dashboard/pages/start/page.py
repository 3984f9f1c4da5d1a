"""Start: an introduction to Probe, one worked example, and links to other pages."""

import numpy as np
import streamlit as st

from dashboard.components.figure import figure
from dashboard.markdown import escape_markdown, finding, note, prose
from dashboard.pages import page_file
from dashboard.pages.start.example import AnswerChange, about_head, find_example, sentence
from dashboard.state import current, look_link
from probe.plotting.curves import answer_curves
from probe.runs.captured import answers_table

TITLE = "Probe trains and aligns language models, and shows what changes inside them."

WORLD = (
    "The models here are four-layer transformers of a small synthetic world. Its facts are known, so every answer can "
    "be checked, and every measured rate can be compared with the exact truth."
)

OWN_RUNS = "Open Runs to see where each model comes from, or Side by side to compare two of them on a prompt."

EMPTY = (
    "No run is here yet. Train one on the page New run, or open any Hugging Face model: type its folder as the base "
    "model of Side by side."
)

NO_EXAMPLE = (
    "An example appears here once a run and its parent are listed, and the likeliest answer to a captured prompt"
    " changed: record one with probe.watch(lm, folder, prompts=[{'text': ..., 'answers': [..., ...]}])."
)

OWN_MODEL = """
- **A Hugging Face model**: type its folder, or its name on the hub, as *base model* or *aligned model* on a page under
  Compare. Nothing is fetched before you agree.
- **A run of your own loop**: three lines with `probe.watch` log attention, logits and rewards while it trains.
- **Runs elsewhere**: `probe dashboard --runs FOLDER`.
"""

GLOSSARY = {
    "base model": "The model before alignment, and the reference of most comparisons.",
    "aligned model": "A model trained further from it: on demonstrations, preferences or rewards.",
    "logit": "The score that a model gives a token before the softmax turns scores into probabilities. Unit: nats.",
    "attention head": "A part of a layer that copies information from earlier tokens. L2H1 is head 1 of layer 2.",
    "KL divergence": "How far one model's next-token probabilities are from another's. 0 nats: they are equal.",
    "reward": "The number that training on feedback makes large: a reward model's score, or a verifier's.",
}
"""Definitions of six terms that every page uses."""

PLACES = {
    "Compare": "Two models on one prompt: continuations, attention, logits, interventions, how far back they look.",
    "Behaviour": "Sycophancy, hallucination, in-context learning, chain of thought, retrieval and continual learning.",
    "Training": "Where runs come from, training a new one, its curves and captures, rewards against KL divergence.",
    "Evidence": "Claims of published papers, measured on these models.",
}
"""Content of each heading of the navigation."""


def show_example(example: AnswerChange) -> None:
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
        st.markdown(prose(sentence(example)))
        st.markdown(prose(about_head(example)))
        look_link("compare", "Compare on your own prompt", ":material/compare_arrows:", **choices)
        look_link("interventions", "See which head does it", ":material/biotech:", **choices)
        st.page_link(page_file("overview"), label="Rates over several trainings", icon=":material/account_tree:")
        st.page_link(page_file("train"), label="Train your own", icon=":material/model_training:")


def page() -> None:
    """Draw the page from top to bottom."""
    store = current().store
    finding(TITLE)
    example = find_example(store)
    if example is not None:
        note(WORLD if example.run.world else OWN_RUNS)
        show_example(example)
    else:
        note(OWN_RUNS if store.runs else EMPTY)
        if store.runs:
            note(NO_EXAMPLE)
        st.page_link(page_file("train"), label="Train your own", icon=":material/model_training:")
    left, middle, right = st.columns(3, gap="large")
    with left:
        st.markdown("##### Your own model")
        st.markdown(OWN_MODEL)
    with middle:
        st.markdown("##### Six words")
        st.markdown("\n".join(f"- **{word}**: {meaning}" for word, meaning in GLOSSARY.items()))
    with right:
        st.markdown("##### What is where")
        st.markdown("\n".join(f"- **{place}**: {about}" for place, about in PLACES.items()))


page()
