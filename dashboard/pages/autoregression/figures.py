"""The lower half of the page Autoregression: the snowball, both paths of E23 by head, the neutral-Jacobian test."""

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components.details import TAB_DETAILS, details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import escape_markdown, note
from dashboard.pages.autoregression.choices import PROMPT, Question, Side, corpus
from dashboard.pages.autoregression.compute import linear, neutral, paths, snowball_of
from dashboard.pages.autoregression.words import (
    LINEAR,
    NEUTRAL,
    PATHS,
    SNOWBALL,
    gains,
    most_bilinear,
    snowball_sentence,
)
from dashboard.state import keep
from probe.autoregression.figures import linear_curves, path_shares, singular_values, snowball_curves
from probe.errors import DataError, ModelError
from probe.texts import visible

PROMPTS, STEPS = 24, 12
SEED = 5
"""Of the questions."""
WRONG = "lag_wrong"
"""The key of the questions whose answer gets a wrong token."""
PREFERRED = "sum_steps"
"""The question whose answer goes on long enough for a snowball."""
FITTED = 400
"""Documents of a world that the linear autoregression is fitted to and compared on."""
COLUMNS: dict[Any, Any] = {
    "m": "last tokens",
    "dimension": st.column_config.NumberColumn("dimensions", format="localized"),
    "effective_dimension": st.column_config.NumberColumn("effective", format="%.0f", help="Participation ratio."),
    "cache": st.column_config.NumberColumn("numbers kept", format="localized", help="Keys and values (E16)."),
    "linear_right": st.column_config.NumberColumn("linear: right", format="percent", help="Nearest embedding."),
    "window_right": st.column_config.NumberColumn("same tokens: right", format="percent", help="Of the model."),
    "full_right": st.column_config.NumberColumn(
        "whole text: right", format="percent", help="The model with all tokens."
    ),
}
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


def heads(question: Question) -> None:
    """Both paths of E23 in every head."""
    if not _ready_for_prompt(question, "lag_do_paths", f"The Jacobian of every head {WAIT}"):
        return
    try:
        norms = [paths(side, question.prompt) for side in question.sides]
    except ModelError as error:
        note(str(error))
        return
    looks = [side.style for side in question.sides]
    table = join_tables(question.sides, [each.table() for each in norms])
    st.markdown(escape_markdown(most_bilinear(question.sides, norms)))
    chart = path_shares([each.share for each in norms], looks)
    height = min(520, 110 + 34 * max(each.share.shape[0] for each in norms))
    title = "Share of the bilinear-softmax path in each head's Jacobian (E23)"
    figure(chart, table, "paths", title=title, height=height, source=_source(question, question.prompt))
    note("0: the head's output moves only with what is read (linear path). 1: only with where it looks.")
    code = [
        "import probe.model.rewards",
        "from probe.autoregression.jacobian import jacobian_norms",
        "",
        f"lm = {question.sides[0].loading}",
        f"found = jacobian_norms(lm, {question.prompt!r})",
        "found.table(), found.pairs(0, 0)",
    ]
    equation = (
        r"\text{E23}\quad \frac{\partial o_t}{\partial h_s} = \alpha_{t,s} L + \alpha_{t,s} (L h_s - o_t)"
        r"(N^\top R_s^\top R_t M h_t)^\top / \sqrt{d_h},\quad s < t"
    )
    details([equation], PATHS, "\n".join(code), {"heads": table}, key=TAB_DETAILS)


def layers(question: Question) -> None:
    """Draw the Jacobian spectrum (the neutral-Jacobian test)."""
    if not _ready_for_prompt(question, "lag_do_neutral", f"The Jacobian of every block {WAIT}"):
        return
    try:
        jacobians = [neutral(side, question.prompt) for side in question.sides]
    except ModelError as error:
        note(str(error))
        return
    st.markdown(escape_markdown(gains(question.sides, jacobians)))
    table = join_tables(question.sides, [each.table() for each in jacobians])
    chart = singular_values([each.to_end for each in jacobians], [side.style for side in question.sides])
    title = "Singular values of the Jacobian from each layer to the end: median and middle 80 %"
    figure(chart, table, "neutral", title=title, height=330, source=_source(question, question.prompt))
    code = [
        "import probe.model.rewards",
        "from probe.autoregression.jacobian import neutral_jacobian",
        "",
        f"lm = {question.sides[0].loading}",
        f"found = neutral_jacobian(lm, {question.prompt!r})",
        "found.table(), found.to_end",
    ]
    equation = r"\sigma\big(\partial h^D_p / \partial h^l_p\big),\quad l = 0, \dots, D - 1"
    details([equation], NEUTRAL, "\n".join(code), {"layers": table}, key=TAB_DETAILS)


def linear_beside(question: Question) -> None:
    """Compare the model with the best linear autoregression over the same state."""
    if not question.writers:
        note("A model that reads out one number does not predict the next token.")
        return
    if not _may_compute(question, "Fitting and asking take minutes on a model of this size.", "lag_do_linear"):
        return
    texts, source = corpus(question, FITTED)
    options: dict[str, int] = {"positions": 2 if question.large else 8}
    try:
        found = [linear(side, texts, **options) for side in question.writers]
    except DataError as error:
        note(f"These models cannot read {len(texts):,} texts to fit to: {error}")
        return
    for side, each in zip(question.writers, found, strict=True):
        st.markdown(escape_markdown(f"{side.name}: {each.sentence()}"))
    table = join_tables(question.writers, [each.table() for each in found])
    chart = linear_curves([each.table() for each in found], [side.style for side in question.writers])
    facts: dict[str, object] = {"models": [side.ref for side in question.writers], "texts": len(texts), **options}
    figure(chart, table, "linear", title="The next token's embedding, predicted", height=360, source=facts)
    columns = ["model", "m", "dimension", "effective_dimension", "cache", "linear_right", "window_right", "full_right"]
    show_table(table[columns], hide_index=True, column_config=COLUMNS)
    code = [
        "from itertools import islice",
        "",
        "import probe.model.rewards",
        "import probe.questions",
        "from probe.autoregression.linear import linear_autoregression",
        "from probe.world import of",
        "",
        f"lm = {question.writers[0].loading}",
        f"found = linear_autoregression(lm, {source}, positions={options['positions']})",
        "found.table(), found.sentence()",
    ]
    equation = r"R^2 = 1 - \sum_t \|e_{t+1} - \hat e_{t+1}\|^2 \,/\, \sum_t \|e_{t+1} - \bar e\|^2,\quad "
    equation += r"\hat e_{t+1} = A z_t + b \ \text{ or } \ \sum_v \pi_t(v)\, e_v"
    details([equation], LINEAR, "\n".join(code), {"linear-texts": found[0].errors}, key=TAB_DETAILS)


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


def _ready_for_prompt(question: Question, key: str, sentence: str) -> bool:
    if not question.prompt.strip():
        note("Type a prompt above: this is about one text.")
        return False
    return _may_compute(question, sentence, key)


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
