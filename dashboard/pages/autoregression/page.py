"""Autoregression: how far back a model looks, what one wrong token does, and through which paths inputs act."""

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard.analysis import Page, draw_below, keys_of
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.tabs import open_tab
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.autoregression.choices import Question, Side, choose, sides_of
from dashboard.pages.autoregression.compute import order, profile
from dashboard.pages.autoregression.words import DEFINITION, EQUATIONS, sentence
from dashboard.sides import ask_for_model, words_known
from dashboard.state import current
from probe.analyses.catalogue import find_analysis
from probe.autoregression.figures import lag_curves
from probe.autoregression.lags import Orders, Profiles
from probe.plotting.notebook import title_of

if TYPE_CHECKING:
    from probe.autoregression.lags import EffectiveOrder, LagProfile

HEIGHT = 300
TABS = ("follow_wrong_token", "jacobian_norms", "neutral_jacobian", "linear_autoregression")
"""The analyses below."""


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    sides = sides_of(choices)
    if sides is None or not words_known(choices, ((side.name, side.lm) for side in sides), answer):
        return
    question = choose(choices, sides) if sides else None
    if question is None:
        ask_for_model(answer, "Choose a model and a prompt above to see how far back it looks.")
        return
    work, figures = st.container(), st.container()  # what comes and goes while computing stays in a place of its own
    with work:
        orders = [order(side, question) for side in question.writers]
        profiles = [profile(side, question) for side in question.sides]
    with answer:
        finding(sentence(question, orders, profiles))
    with figures:
        main_figures(question, orders, profiles)
    trust_badge(*((side.name, side.lm) for side in question.sides), text=question.texts[0])
    explain(question, orders, profiles)
    below = Page(choices, answer)
    tabs = {find_analysis(name).title: partial(draw_below, name, below) for name in TABS}
    open_tab("lag_tab", tabs, {find_analysis(name).title: keys_of([name]) for name in TABS})


def main_figures(question: Question, orders: "list[EffectiveOrder]", profiles: "list[LagProfile]") -> None:
    """Lag profile and KL by context length side by side."""
    source: dict[str, object] = {
        "models": [side.ref for side in question.sides],
        "texts": len(question.texts),
        **question.profile_options(),
    }
    lengths = [each.order for each in orders] if len(orders) == len(question.sides) else []
    lags = Profiles(tuple(profiles), tuple(side.style for side in question.sides))
    left, right = st.columns([1, 1], gap="medium") if orders else (st.container(), None)
    with left:
        chart = lag_curves([each.by_lag() for each in profiles], lags.looks, orders=lengths)
        title = title_of(lags.figure())
        figure(chart, lags.table(), "lags", title=title, height=HEIGHT, source=source)
    if right is None:
        return
    with right:
        context = Orders(tuple(orders), tuple(side.style for side in question.writers))
        options = source | question.order_options() | {"epsilon": question.epsilon}
        chart = context.figure()
        figure(chart, context.table(), "context", title=title_of(chart), height=HEIGHT, source=options)


def explain(question: Question, orders: "list[EffectiveOrder]", profiles: "list[LagProfile]") -> None:
    """Explain the figures in one paragraph, and draw the folded section."""
    of = f"{len(question.texts)} documents" if len(question.texts) > 1 else "one text"
    opening = "Left: how" if orders else "How"
    lead = f"{opening} much the token k places before the last one read moves what the model says next, on {of}."
    cut = (
        " Right: how far that is from the full distribution when only the last m tokens are read; the ring is the "
        "effective order, the smallest m at or below the tolerance \u03b5, dotted on the left."
        if orders
        else " These models read out one number, which has no distribution whose KL could be taken."
    )
    note(f"{lead}{cut} Points are means with 95 % intervals; fewer texts reach the longer lags.")
    resampling = profiles[0].measure == "resampling"
    function = "lag_profile" if resampling else "jacobian_profile"
    code = [
        "from itertools import islice",
        "",
        "import probe.model.rewards",
        "from probe.autoregression.lags import effective_order",
        f"from probe.autoregression.lags import {function}",
        "from probe.world import of",
        "",
        f"lm = {question.sides[0].loading}",
        f"texts = {question.source}",
        f"profile = {function}(lm, texts, {_arguments(question.profile_options())})",
        "profile.table(), profile.readings",
    ]
    if orders:
        code += [f"lm = {question.writers[0].loading}"] if question.writers[0] is not question.sides[0] else []
        options = _arguments({"epsilon": question.epsilon, **question.order_options()})
        code += [f"order = effective_order(lm, texts, {options})", "order.order, order.table()"]
    tables = {"lag-readings": join_tables(question.sides, [each.readings for each in profiles])}
    if orders:
        tables["context-readings"] = join_tables(question.writers, [each.readings for each in orders])
    details(EQUATIONS, DEFINITION, "\n".join(code), tables)


def join_tables(sides: list[Side], tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of all models, with the column `model` first."""
    copies = []
    for side, table in zip(sides, tables, strict=True):
        copy = table.copy()
        copy.insert(0, "model", side.name)
        copies.append(copy)
    return pd.concat(copies, ignore_index=True)


def _arguments(options: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


page()
