"""Start: two pairs of models with a worked example each, the parts that three pages name, and ways to go on."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.components.figure import figure
from dashboard.data import Store
from dashboard.markdown import escape_markdown, finding, note, prose
from dashboard.pages import page_file
from dashboard.pages.start import carrier_cards
from dashboard.pages.start.example import AnswerChange, sentence
from dashboard.pages.start.sample_pairs import (
    REAL,
    WORLD,
    Pair,
    Recorded,
    agreement,
    choose_pair,
    find_pairs,
    first_prompt,
    is_missing,
    recorded,
    recorded_sentence,
    type_pair,
)
from dashboard.sides import note_real_model
from dashboard.state import SharedChoices, current, look_link
from probe.compare.figures import next_tokens
from probe.plotting.curves import answer_curves
from probe.runs.captured import answers_table

TITLE = "Probe trains and aligns language models, and shows what changes inside them."

ABOUT = {
    WORLD: "Four-layer transformers of a small synthetic world. Its facts are known, so every answer can be checked,"
    " and every measured rate can be compared with the exact truth.",
    REAL: "A chat model trained by others on real text, and an adapter that Probe trained on it.",
}
"""Description of the models of each pair."""

OWN_RUNS = "Open Runs to see where each model comes from, or Side by side to compare two of them on a prompt."

EMPTY = "No run is here yet. Train one on the page New run, or open any Hugging Face model: type its folder here."

NO_EXAMPLE = (
    "An example appears here once a run and its parent are listed, and the likeliest answer to a captured prompt"
    " changed: record one with probe.watch(lm, folder, prompts=[{'text': ..., 'answers': [..., ...]}])."
)

NOTHING_STORED = "No result of this pair that can be read is stored here: look inside an answer to compute one."

FETCH = "make real-model"
"""Command that fetches the weights of the real base model."""

OWN_MODEL = (
    "A folder, a run, or a name on the Hugging Face hub; nothing is fetched before you agree. Three lines with"
    " `probe.watch` record a training loop of your own, and `probe dashboard --runs FOLDER` opens runs elsewhere."
)

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
    "compare": ("Compare", "two models on one prompt: continuations, attention, logits, interventions, audit."),
    "sycophancy": (
        "Behaviour",
        "sycophancy, hallucination and five more: rates with intervals, down to single answers.",
    ),
    "training": ("Training", "runs, new trainings, their curves, what happens inside, rewards against KL divergence."),
    "findings": (
        "Evidence",
        "published claims and methods of looking inside, tested on what is known of the models.",
    ),
    "overview": ("Export", "a report of runs from the page Runs; a figure by the button at its top right."),
}
"""First page of each group of the navigation, its label, and what is there."""


def show_change(example: AnswerChange) -> None:
    """Draw the answers to the example's prompt over the training."""
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


def show_recorded(pair: Pair, example: Recorded) -> None:
    """Draw the stored probabilities of two answers under both models."""
    found = example.found
    first, second = found.looks
    rows = [(found.answers, np.array(each)) for each in found.chances]
    chart = next_tokens((rows[0], rows[1]), names=(first.name, second.name), colours=(first.colour, second.colour))
    table = pd.DataFrame(found.chances, index=[first.name, second.name], columns=list(found.answers))
    figure(
        chart,
        table.rename_axis("model").reset_index(),
        "start-recorded",
        title="Probability of the first token of the answer",
        height=240,
        source={"base": pair.base, "aligned": pair.aligned, "prompt": example.prompt},
    )


def show_uses(choices: dict[str, str], missing: bool) -> None:
    """Draw a link for each of the four uses of Probe, with the models of the example.

    Args:
        choices: models and prompt of the links.
        missing: whether weights are missing that the first one needs.
    """
    models = {name: choices[name] for name in ("base", "aligned")}
    look_link("compare", "Look inside an answer", ":material/compare_arrows:", False, None, missing, **choices)
    look_link("audit", "See what alignment changed", ":material/rule:", **models)
    st.page_link(page_file("train"), label="Train, and watch what happens inside", icon=":material/model_training:")
    look_link("sycophancy", "Measure a behaviour", ":material/thumb_up:", **models)


def show_pair(store: Store, pair: Pair) -> None:
    """Draw a pair's example, the four uses, and the parts that three pages name."""
    missing, change, stored = is_missing(store, pair), pair.change, recorded(store, pair)
    if change is not None and stored is not None and stored.prompt != first_prompt(store, pair):
        stored = None
    prompt = stored.prompt if stored else first_prompt(store, pair) or ""
    choices = {"base": pair.base, "aligned": pair.aligned, **({"prompt": prompt} if prompt else {})}
    left, right = st.columns([3, 2], gap="large")
    with left:
        if change:
            show_change(change)
        elif stored:
            show_recorded(pair, stored)
        else:
            note(NOTHING_STORED)
        note_real_model(SharedChoices(store, pair.base, pair.aligned, prompt))
        if missing:
            st.code(FETCH, language="bash")
    with right:
        if prompt:
            st.markdown(f"**Prompt**  \n{escape_markdown(prompt)}")
        st.markdown(prose(sentence(change) if change else recorded_sentence(stored)))
        if change is None:
            st.markdown(prose(agreement(store, pair)))
        show_uses(choices, missing)
    if stored is not None:
        carrier_cards.draw_carriers(stored.found, missing, **choices)
    elif change is not None:
        carrier_cards.draw_computed(store, pair, prompt, **choices)


def show_own() -> None:
    """Draw the fields of the reader's own models, and the links that open them."""
    left, right = st.columns([3, 2], gap="large")
    with left:
        typed = type_pair()
        note(OWN_MODEL)
    with right:
        if typed is None:
            note("Type one model to look inside it, or two to compare them.")
        else:
            show_uses({"base": typed[0], "aligned": typed[1]}, False)


def show_ways() -> None:
    """Draw links to the groups of pages, each with a line on what is there."""
    for page, (label, about) in PLACES.items():
        first, second = st.columns([1, 4], gap="small", vertical_alignment="center")
        first.page_link(page_file(page), label=label)
        second.markdown(about)


def page() -> None:
    """Draw the page from top to bottom; what takes longest comes last."""
    store = current().store
    finding(TITLE)
    body = st.container()
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.markdown("##### What is where")
        show_ways()
    with right:
        st.markdown("##### Six words")
        st.markdown("\n".join(f"- **{word}**: {meaning}" for word, meaning in GLOSSARY.items()))
    with body:
        pairs = find_pairs(store)
        if not pairs:
            note(OWN_RUNS if store.runs else EMPTY)
            if store.runs:
                note(NO_EXAMPLE)
        chosen = choose_pair(pairs)
        if chosen in pairs:
            note(ABOUT[chosen])
            show_pair(store, pairs[chosen])
        else:
            show_own()


page()
