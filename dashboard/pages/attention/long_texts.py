"""Long prompts of the Attention page: statistics of every head instead of patterns, and what patterns would cost."""

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.markdown import finding, note
from dashboard.pages.attention.choices import HEAD, take_head
from dashboard.pages.attention.compute import LONG, Head, splits_alike
from dashboard.pages.attention.words import long_words
from dashboard.sides import Side
from dashboard.state import keep
from probe.attention.head_figures import head_grids, lag_curves, lag_profiles, query_statistic, top_sources
from probe.attention.reading import parse_head
from probe.numbers import rate
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.attention.long import AttentionStatistics
    from probe.model.lm import LM
    from probe.model.memory import Preflight
    from probe.ticks import Tick

STATISTICS = {
    "entropy": ("entropy", "nats"),
    "distance": ("distance back", "tokens"),
    "sink": ("on the first token", "share"),
    "previous": ("on the token before", "share"),
    "itself": ("on itself", "share"),
}
"""What the grid can show, how it is called, and its unit."""

PAGE_BYTES = 256 * 2**20
"""What the patterns of one prompt may take in a page that many readers share."""

LAGS = 128
"""The longest lag of the profile."""

EQUATIONS = [
    r"H_t = -\sum_{s \le t} \alpha_{t,s} \log \alpha_{t,s}",
    r"d_t = \sum_{s \le t} \alpha_{t,s}\,(t - s)",
    r"\bar\alpha_k = \mathrm{mean}_t\; \alpha_{t,t-k}",
]
DEFINITION = """
Statistics are taken from one block of queries after the other with the model's own attention weights, so that no
pattern is ever held whole. Numbers of a head are means over the queries after the first, which sees only itself. The
lag profile is the mean weight at each distance back, over the queries that have a token so far back.
"""


def long_text(models_read: list[Side], text: tuple[int, ...], answer: "DeltaGenerator") -> None:
    """Draw the page for a text that is too long for patterns."""
    lm, say = models_read[-1].lm, f"Reading {len(text):,} tokens"
    shown_sides = [side for side in models_read if side.lm is lm or splits_alike(side.lm, lm, text)]
    sides = [
        (side.name, side.colour, models.compute_once(_statistics, side.lm, say=say, steps=True, text=text))
        for side in shown_sides
    ]
    first, sentence = long_words(models_read[-1].name, sides[-1][2])
    with answer:
        finding(sentence)
    trust_badge(*[(side.name, side.lm) for side in shown_sides], text=text)
    plan = models.compute_once(_preflight, lm, say="Predicting the size of all patterns", length=len(text))
    note(f"{plan.sentence} What follows holds no pattern: it was read one block of queries after the other.")
    source: dict[str, object] = {"models": [side.ref for side in models_read], "tokens": len(text)}
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        head = choose_head(sides[-1][2], first)
    with right:
        statistic = st.segmented_control(
            "Statistic",
            list(STATISTICS),
            format_func=lambda key: STATISTICS[key][0],
            key=keep("att_statistic", STATISTICS, "distance"),
            bind="query-params",
            required=True,
        )
    grid([(label, stats) for label, _, stats in sides], statistic or "distance", head, source)
    left, right = st.columns(2, gap="medium")
    with left:
        lags(sides, head, source)
        along(sides, head, statistic or "distance", source)
    with right:
        layers(sides[-1][0], sides[-1][2], source)
        sources(sides[-1][0], sides[-1][2], head, source)
    code = [
        "from probe.attention.long import attention_statistics",
        "from probe.model.rewards import analysable",
        "",
        f"lm = analysable({models_read[-1].ref!r})",
        f"ids = {list(text)}",
        f"seen = attention_statistics(lm, ids, lags={LAGS})",
        f"seen.table(), seen.lag_table(), seen.source_table({head[0]}, {head[1]})",
    ]
    details(EQUATIONS, DEFINITION, "\n".join(code), {f"heads-{label}": stats.table() for label, _, stats in sides})


def choose_head(statistics: "AttentionStatistics", default: Head) -> Head:
    """Let the reader choose the head that the curves show."""
    names = [f"L{layer}H{head}" for layer in statistics.layers for head in range(statistics.entropy.shape[1])]
    key = keep(HEAD, names, f"L{statistics.layers[default[0]]}H{default[1]}")
    return parse_head(st.selectbox("Head", names, key=key, bind="query-params", format_func=visible))


def grid(sides: "list[tuple[str, AttentionStatistics]]", name: str, head: Head, source: dict[str, object]) -> None:
    """One statistic of every head, both models and their difference."""
    label, unit = STATISTICS[name]
    panels = [(side, stats.mean(name)) for side, stats in sides]
    signs = [False] * len(panels)
    if len(panels) == 2 and panels[0][1].shape == panels[1][1].shape:
        panels.append(("difference", panels[1][1] - panels[0][1]))
        signs.append(True)
    digits = 2 if unit != "tokens" else 1
    chart = head_grids(panels, f"{label}<br>{unit}", signed=signs, chosen=head, digits=digits)
    table = pd.concat([stats.table().assign(of=side) for side, stats in sides], ignore_index=True)
    title = f"Attention {label} of every head (click one)" if name != "entropy" else "Entropy of every head (click one)"
    figure(chart, table, "att-long", title=title, source=source, on_select=take_head)


def lags(sides: "list[tuple[str, str, AttentionStatistics]]", head: Head, source: dict[str, object]) -> None:
    """Mean weight of the chosen head by distance back."""
    lines = [(side, stats.lag_profile[stats.row(*head), head[1]]) for side, _, stats in sides]
    chart = lag_curves(lines, colours=[colour for _, colour, _ in sides])
    tables = [_of(stats.lag_table(), head).assign(of=side) for side, _, stats in sides]
    title = f"How far back L{head[0]}H{head[1]} looks"
    figure(chart, pd.concat(tables, ignore_index=True), "att-lags", title=title, height=330, source=source)
    tail = "; ".join(f"{side} {rate(float(stats.lag_tail[stats.row(*head), head[1]]))}" for side, _, stats in sides)
    note(f"Beyond lag {len(lines[0][1]) - 1}: {tail} of the attention.")


def _of(table: pd.DataFrame, head: Head) -> pd.DataFrame:
    """Return the rows of one head."""
    return table[(table["layer"] == head[0]) & (table["head"] == head[1])]


def along(
    sides: "list[tuple[str, str, AttentionStatistics]]", head: Head, name: str, source: dict[str, object]
) -> None:
    """Draw the statistic of the chosen head, query by query."""
    label, unit = STATISTICS[name]
    lines = [(side, getattr(stats, name)[stats.row(*head), head[1]]) for side, _, stats in sides]
    colours = [colour for _, colour, _ in sides]
    chart = query_statistic(lines, sides[-1][2].tokens, f"{label} ({unit})", colours=colours)
    table = pd.concat([stats.query_table(*head).assign(of=side) for side, _, stats in sides], ignore_index=True)
    title = f"L{head[0]}H{head[1]} along the text: {label}"
    figure(chart, table, "att-along", title=title, height=330, source=source)


def layers(name: str, statistics: "AttentionStatistics", source: dict[str, object]) -> None:
    """Mean weight by distance back of every layer."""
    chart = lag_profiles(statistics.lag_profile, statistics.layers)
    title = f"How far back the layers of {name} look"
    figure(chart, statistics.lag_table(), "att-layers", title=title, height=330, source=source)
    note("Mean over the heads of a layer; beyond lag 32 neighbours are averaged.")


def sources(name: str, statistics: "AttentionStatistics", head: Head, source: dict[str, object]) -> None:
    """Draw the tokens that the queries of the chosen head attend to most."""
    row = statistics.row(*head), head[1]
    chart = top_sources(statistics.top_keys[row], statistics.top_weights[row], statistics.tokens)
    title = f"Strongest sources of L{head[0]}H{head[1]} in {name}"
    figure(chart, statistics.source_table(*head), "att-sources", title=title, height=330, source=source)
    note(f"The strongest {statistics.top_keys.shape[-1]} of every query; weights below 0.05 are left out.")


def choose_cut(length: int) -> bool:
    """Whether to show the patterns of the beginning instead."""
    return bool(
        st.toggle(
            f"Patterns of the first {LONG} tokens",
            key="att_cut",
            bind="query-params",
            help=f"This text has {length:,} tokens: beyond {LONG}, heads get statistics instead of patterns.",
        )
    )


def _preflight(lm: "LM", length: int) -> "Preflight":
    from probe.model.memory import preflight

    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(lm.bridge.cfg.n_layers)]
    return preflight(lm, length, patterns, budget=PAGE_BYTES)


def _statistics(lm: "LM", text: tuple[int, ...], tick: "Tick") -> "AttentionStatistics":
    from probe.attention.long import attention_statistics

    return attention_statistics(lm, text, lags=LAGS, tick=tick)
