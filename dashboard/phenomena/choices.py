"""What an experiment is asked: of which of the chosen models and beyond, and with which options."""

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from dashboard.components.focus import take_focus
from dashboard.components.form import lasting_key, memory, options
from dashboard.markdown import escape_markdown, guard_callback, note
from dashboard.named import may_open, name_all
from dashboard.phenomena.compute import Question, Subject
from dashboard.state import SharedChoices, keep, model_options
from probe.experiments.definition import Experiment, form
from probe.options import describe, words
from probe.questions.sets import SETS
from probe.texts import visible

MORE = "also"
"""The key of further models, the same on all pages of experiments."""
OF_METRIC, OF_MODEL, CHOSEN_ITEM = "~metric", "~of", "~item"
"""Ends of the keys of what the items are filtered by, and of the one that is read; behind the experiment's name."""
MOST = 8
"""Models that are laid side by side."""


def choose_experiment(known: Mapping[str, Experiment]) -> Experiment:
    """Let the reader choose one of several experiments."""
    name = st.selectbox(
        "Experiment",
        list(known),
        key=keep("experiment", known, next(iter(known))),
        bind="query-params",
        help="\n".join(
            f"- {escape_markdown(f'{name}: {each.title}, of {each.origin}')}" for name, each in known.items()
        ),
        format_func=visible,
    )
    return known[name]


def choose_models(shared: SharedChoices) -> list[Subject]:
    """Let the reader choose further models; return all chosen models, the base first, each once."""
    sides = [choice for choice in (shared.base, shared.aligned) if choice]
    labels = [choice for choice in model_options(shared.store) if choice not in sides]
    lasting_key(MORE, [])
    if MORE in st.session_state:
        st.session_state[MORE] = [choice for choice in st.session_state[MORE] if choice not in sides]
    more = st.multiselect(
        "Further models",
        [*labels, *(choice for choice in st.session_state.get(MORE, []) if choice not in labels)],
        key=MORE,
        bind="query-params",
        max_selections=MOST - 2,
        accept_new_options=True,
        on_change=_name_more,
        placeholder="in addition to the two selected models",
        help="Runs, their checkpoints, or the path of any Hugging Face model; all are asked the same.",
        format_func=visible,
    )
    memory()[MORE] = list(more)
    return subjects(shared, [*sides, *more])


@guard_callback
def _name_more() -> None:
    """Note the models that the person added; those of a link are remembered from the run of the page before."""
    before = memory().get(MORE, [])
    name_all(choice for choice in st.session_state[MORE] if choice not in before)


def subjects(shared: SharedChoices, choices: list[str]) -> list[Subject]:
    """Name models: by a run's label, or the last part of any other reference; in full where two are alike."""
    entries: list[Subject] = []
    short = [choice if shared.label(choice) else Path(choice).name for choice in dict.fromkeys(choices)]
    for choice, name in zip(dict.fromkeys(choices), short, strict=True):
        ref = shared.reference(choice)
        if ref is not None and ref not in [each.ref for each in entries]:
            entries.append(Subject(choice if short.count(name) > 1 else name, choice, ref))
    return entries


def choose_options(experiment: Experiment) -> Question | None:
    """Draw the form that the function's signature makes, folded away, and return the question with the chosen options.

    None while a file that a link names waits for the reader's consent.

    What a file holds is part of what a result is found by, so it would be read at once.
    """
    fields = describe(form(experiment))
    with st.popover("Options", icon=":material/tune:", width="stretch"):
        if not fields:
            note("It has no options.")
        flags = options(experiment.name, fields, link=True)
        take_focus("options")
    files = [flags[field["flag"]] for field in fields if field["file"] and field["flag"] in flags]
    files = [file for file in files if file not in SETS]
    return Question(experiment, tuple(words(flags))) if all(may_open(str(file)) for file in files) else None
