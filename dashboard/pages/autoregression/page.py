"""Autoregression: how far back a model looks, what one wrong token does, and through which paths inputs act."""

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.markdown import finding, note
from dashboard.pages.autoregression import figures as sections
from dashboard.pages.autoregression.compute import Asked, Side, choose, order, profile, sides_of
from dashboard.sides import words_known
from dashboard.state import current
from probe.autoregression.figures import context_curves, lag_curves

if TYPE_CHECKING:
    from probe.autoregression.lags import EffectiveOrder, LagProfile

HEIGHT = 300

EQUATIONS = [
    r"\text{E1}\quad x_{t+1} \sim \pi_t = \mathrm{softmax}\big(W_{out} f_\theta(x_{t-\Delta+1:t}) + b_{out}\big)",
    r"\text{E24}\quad I_k = \mathbb{E}\,\mathrm{KL}\big(\pi_t(x) \,\|\, \pi_t(x \text{ with } x_{t-k} \sim "
    r"\mathrm{pool})\big),\qquad J_k = \sqrt{\mathbb{E}\,\|\partial \pi_t / \partial e_{t-k}\|_F^2}",
    r"\text{E24}\quad m^* = \min\{m : \mathbb{E}\,\mathrm{KL}(\pi(\cdot \mid \text{full}) \,\|\, "
    r"\pi(\cdot \mid \text{last } m)) \le \varepsilon\}",
]
DEFINITION = """
A language model is an autoregression: the next token is drawn from a distribution $\\pi_t$ that is a nonlinear function
of the tokens before. **Lag** 0 is the last token read, so a chain of order *m* has influence at the lags 0 to *m* - 1.

**By resampling**: a token is replaced by draws from the texts' own tokens (for one text: from the vocabulary); the
influence is the mean KL of what the model then expects. **By the Jacobian**: the Frobenius norm of the derivative of
the probabilities (of a scalar model: of its number) by the token's embedding, root of the mean square over positions,
whole or by random directions. It is a slope at the text as it is, and its unit belongs to the model: compare its shape
between models, not its height.

**Effective order**: the context is cut to its last *m* tokens, which then stand at the first positions; only positions
where something is cut count, so fewer texts reach a larger *m*. **Kept** tokens at the start are neither changed nor
cut: the beginning token, or a heading without which a text would be of another kind.

Means are over texts (within each text over positions), intervals are 95 % bootstrap over texts; for one text over its
positions.
"""


def page() -> None:
    """The page from top to bottom."""
    shared = current()
    answer = st.container()
    sides = sides_of(shared)
    if sides is None or not words_known(shared, ((side.name, side.lm) for side in sides), answer):
        return
    asked = choose(shared, sides) if sides else None
    if asked is None:
        with answer:
            finding("Choose a model and a prompt in the sidebar to see how far back it looks.")
            note("A model is a run, one of its checkpoints (RUN@STEP), or the folder of any Hugging Face model.")
        return
    work, figures = st.container(), st.container()  # what comes and goes while computing stays in a place of its own
    with work:
        orders = [order(side, asked) for side in asked.writers]
        profiles = [profile(side, asked) for side in asked.sides]
    with answer:
        finding(sentence(asked, orders, profiles))
    with figures:
        main_figures(asked, orders, profiles)
    trust_badge(*((side.name, side.lm) for side in asked.sides), text=asked.texts[0])
    explain(asked, orders, profiles)
    tabs = {
        "Snowball": sections.snowball,
        "Content and attention path (E23)": sections.heads,
        "Jacobian spectrum": sections.layers,
    }
    for tab, draw in zip(st.tabs(list(tabs), key="lag_tab", bind="query-params"), tabs.values(), strict=True):
        if tab.open:
            with tab:
                draw(asked)


def sentence(asked: Asked, orders: "list[EffectiveOrder]", profiles: "list[LagProfile]") -> str:
    """How far back every model looks that is drawn: its effective order, or the lag that moves its number most."""
    parts = [order_words(side, found) for side, found in zip(asked.writers, orders, strict=True)]
    parts += [
        lag_words(side, found) for side, found in zip(asked.sides, profiles, strict=True) if side.lm.readout != "tokens"
    ]
    return "; ".join(parts) + "."


def lag_words(side: Side, found: "LagProfile") -> str:
    """The lag that moves a number most, the last token apart."""
    earlier = np.nan_to_num(found.influence[1:], nan=-1.0)
    if not (earlier >= 0).any():
        return f"the {side.lm.readout} of {side.name} is read from one token"
    most = 1 + int(earlier.argmax())
    return f"apart from lag 0, the last token, lag {most} moves the {side.lm.readout} of {side.name} most"


def order_words(side: Side, found: "EffectiveOrder") -> str:
    """The effective order of one model in words."""
    known = np.flatnonzero(~np.isnan(found.kl))
    m = found.order or int(known[-1]) + 1
    kl = f"{found.kl[m - 1]:.2g}"
    if not np.isnan(found.low[m - 1]):
        kl += f" [{found.low[m - 1]:.2g}, {found.high[m - 1]:.2g}]"
    reach = f"{side.name} looks back {'' if found.order else 'more than '}{m} token{'s' * (m > 1)}"
    return f"{reach} (with only these, KL to the full context is {kl} nats)"


def main_figures(asked: Asked, orders: "list[EffectiveOrder]", profiles: "list[LagProfile]") -> None:
    """Lag profile and KL by context length side by side."""
    source: dict[str, object] = {
        "models": [side.ref for side in asked.sides],
        "texts": len(asked.texts),
        **asked.profile_options(),
    }
    reached = [found.order for found in orders] if len(orders) == len(asked.sides) else []
    how = "Jacobian" if asked.scalar else asked.measure
    left, right = st.columns([1, 1], gap="medium") if orders else (st.container(), None)
    with left:
        chart = lag_curves([found.table() for found in profiles], [side.look for side in asked.sides], orders=reached)
        table = sections.join_tables(asked.sides, [found.table() for found in profiles])
        figure(chart, table, "lags", title=f"Lag profile by {how}", height=HEIGHT, source=source)
    if right is None:
        return
    with right:
        chart = context_curves(
            [found.table() for found in orders],
            [side.look for side in asked.writers],
            orders=[found.order for found in orders],
            epsilon=asked.epsilon,
        )
        table = sections.join_tables(asked.writers, [found.table() for found in orders])
        options = source | asked.order_options() | {"epsilon": asked.epsilon}
        figure(
            chart,
            table,
            "context",
            title="KL to the full context, with only the last m tokens",
            height=HEIGHT,
            source=options,
        )


def explain(asked: Asked, orders: "list[EffectiveOrder]", profiles: "list[LagProfile]") -> None:
    """What is shown in one paragraph, and the folded section."""
    of = f"{len(asked.texts)} documents" if len(asked.texts) > 1 else "one text"
    opening = "Left: how" if orders else "How"
    moved = f"{opening} much the token k places before the last one read moves what the model says next, on {of}."
    cut = (
        " Right: how far that is from the full distribution when only the last m tokens are read; the ring is the "
        "effective order, the smallest m at or below the tolerance \u03b5, dotted on the left."
        if orders
        else " These models read out one number, which has no distribution whose KL could be taken."
    )
    note(f"{moved}{cut} Points are means with 95 % intervals; fewer texts reach the longer lags.")
    resampled = profiles[0].measure == "resampling"
    function = "lag_profile" if resampled else "jacobian_profile"
    code = [
        "from itertools import islice",
        "",
        "import probe.model.rewards",
        "from probe.autoregression.lags import effective_order",
        f"from probe.autoregression.lags import {function}",
        "from probe.world import of",
        "",
        f"lm = {asked.sides[0].loading}",
        f"texts = {asked.source}",
        f"profile = {function}(lm, texts, {_arguments(asked.profile_options())})",
        "profile.table(), profile.readings",
    ]
    if orders:
        code += [f"lm = {asked.writers[0].loading}"] if asked.writers[0] is not asked.sides[0] else []
        options = _arguments({"epsilon": asked.epsilon, **asked.order_options()})
        code += [f"order = effective_order(lm, texts, {options})", "order.order, order.table()"]
    tables = {"lag-readings": sections.join_tables(asked.sides, [found.readings for found in profiles])}
    if orders:
        tables["context-readings"] = sections.join_tables(asked.writers, [found.readings for found in orders])
    details(EQUATIONS, DEFINITION, "\n".join(code), tables)


def _arguments(options: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


page()
