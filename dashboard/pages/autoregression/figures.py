"""The snowball of the page Autoregression: one wrong token, and what follows."""

import pandas as pd
import streamlit as st

from dashboard.components.details import TAB_DETAILS, details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import escape_markdown, note
from dashboard.pages.autoregression.choices import PROMPT, Question, Side
from dashboard.pages.autoregression.compute import snowball_of
from dashboard.pages.autoregression.words import (
    SNOWBALL,
    snowball_sentence,
)
from dashboard.state import keep
from probe.autoregression.figures import snowball_curves
from probe.texts import visible

PROMPTS, STEPS = 24, 12
SEED = 5
"""Of the questions."""
WRONG = "lag_wrong"
"""The key of the questions whose answer gets a wrong token."""
PREFERRED = "sum_steps"
"""The question whose answer goes on long enough for a snowball."""
WAIT = "takes several seconds on a model of this size."


def snowball(question: Question) -> None:
    """One wrong token, and what follows."""
    if not question.writers:
        note("A model that reads out one number writes nothing, so no token of it can be wrong.")
        return
    prompts, source = _prompts(question)
    if not prompts:
        note("Type a prompt above: the model continues it with one wrong token.")
        return
    if not _may_compute(question, f"The snowball {WAIT}", "lag_do_snowball"):
        return
    snowballs = [snowball_of(side, prompts, question.world_of(side), STEPS) for side in question.writers]
    truth = any(any(each.truth_known) for each in snowballs)
    summaries = [each.summary() for each in snowballs]
    has_errors = truth and any((table[table["quantity"] == "wrong_error"]["n"] > 0).any() for table in summaries)
    st.markdown(escape_markdown(snowball_sentence(question.writers, snowballs)))
    looks = [side.style for side in question.writers]
    table = join_tables(question.writers, summaries)
    chart = snowball_curves(summaries, looks, truth=has_errors)
    figure(chart, table, "snowball", title="After one wrong token", height=330, source=_source(question, prompts[0]))
    with st.expander("Continuations", icon=":material/format_quote:"):
        show_table(join_tables(question.writers, [each.text_table() for each in snowballs]), hide_index=True)
    code = [
        "import probe.model.rewards",
        "from probe.autoregression.snowballs import snowball",
        "from probe.world import of",
        "",
        f"lm = {question.writers[0].loading}",
        f"prompts = {source}",
        f"found = snowball(lm, prompts, world={'of(lm)' if question.world else None}, steps={STEPS})",
        "found.summary(), found.later_errors(), found.table()",
    ]
    equation = r"\mathrm{KL}_i = \mathrm{KL}\big(\pi(\cdot \mid x, y, y_{1:i-1}) \,\|\, \pi(\cdot \mid x, y', "
    equation += r"y'_{1:i-1})\big),\quad y' \text{ wrong}"
    tables = {"snowball-steps": join_tables(question.writers, [each.table() for each in snowballs])}
    details([equation], SNOWBALL, "\n".join(code), tables, key=TAB_DETAILS)


def _prompts(question: Question) -> tuple[tuple[str, ...], str]:
    """Prompts of the snowball: questions of the world, or the prompt above; and Python that gives them."""
    world = question.world
    options = [*(world.question_kinds if world else ()), *([PROMPT] if question.prompt.strip() else [])]
    if not options:
        return (), ""
    has_sums = world is not None and world.config.mixture.get(PREFERRED, 0) > 0
    key = keep(WRONG, options, PREFERRED if has_sums else options[-1])
    choice = st.selectbox(
        "Wrong token in the answer to", options, key=key, bind="query-params", width=320, format_func=visible
    )
    if world is None or choice == PROMPT:
        return (question.prompt,), f"[{question.prompt!r}]"
    items = world.questions(str(choice), PROMPTS, SEED)
    source = f"[item.prompt for item in of(lm).questions({choice!r}, {PROMPTS}, {SEED})]"
    return tuple(item.prompt for item in items), source


def _may_compute(question: Question, sentence: str, key: str) -> bool:
    """Whether a detail is computed: at once for small models, for larger ones after a word for this session."""
    memory = f"_{key}"
    if not question.large or st.session_state.get(memory):
        return True
    note(sentence)
    if st.button("Compute", key=key):
        st.session_state[memory] = True
        st.rerun()
    return False


def join_tables(sides: list[Side], tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of all models, with the column `model` first."""
    copies = []
    for side, table in zip(sides, tables, strict=True):
        copy = table.copy()
        copy.insert(0, "model", side.name)
        copies.append(copy)
    return pd.concat(copies, ignore_index=True)


def _source(question: Question, prompt: str) -> dict[str, object]:
    return {"models": [side.ref for side in question.sides], "prompt": prompt}
