"""Experiments: custom ones from files and installed packages, each with a form made from its signature, and logs."""

import streamlit as st

from dashboard import models
from dashboard.extension_pages import show_problems
from dashboard.markdown import finding, note, sentence_place, spin
from dashboard.pages.experiments.experiment import draw
from dashboard.pages.experiments.log_results import choose_comparison, draw_comparison, stored_comparisons
from probe.experiments.definition import Experiment
from probe.experiments.registry import experiments
from probe.plugins import BUILT_IN

EXAMPLE = '''\
import pandas as pd
import probe
import probe.world

@probe.experiment("echo", title="Does it echo the claim?", metrics=[probe.Share("echoes")])
def echo(lm, *, n: int = 100, seed: int = 0):
    """Whether the answer is what the user claims."""
    items = probe.world.of(lm).questions("opinion_false", n, seed)
    prompts = [item.prompt for item in items]
    answers = lm.generate(prompts, max_new_tokens=6, seed=seed).text
    echoes = [answer.strip() == item.claim.strip() for answer, item in zip(answers, items)]
    return pd.DataFrame({"prompt": prompts, "answer": answers, "echoes": echoes})
'''


def empty() -> None:
    """Explain how to add an experiment if there is none."""
    finding("No experiment of your own is known yet: write a function, and it gets a page here automatically.")
    note("Save this as echo.py, and start the dashboard with: probe dashboard --plugin echo.py")
    st.code(EXAMPLE, language="python")
    note(
        "One row an item: the columns are yours, and every numeric one becomes a number with an interval; `prompt` and "
        "`answer` are shown token by token. Keyword arguments become the form. Installed packages bring experiments by "
        "the entry point probe.experiments."
    )
    note("Logs of Inspect or lm-evaluation-harness: compare two by probe logs BASE ALIGNED, and their items are here.")


def custom() -> dict[str, Experiment]:
    """Return the experiments that are not built in, by name."""
    with spin("Starting torch"):
        models.warm().wait()
    return {name: each for name, each in experiments().items() if each.origin != BUILT_IN}


def page() -> None:
    """Draw the page from top to bottom."""
    entries = custom()
    show_problems()
    answer, compared = sentence_place(), stored_comparisons()
    chosen = choose_comparison(compared) if compared else None
    if chosen is not None:
        draw_comparison(chosen, answer)
        return
    if not entries:
        empty()
        return
    draw(entries, "experiments")


page()
