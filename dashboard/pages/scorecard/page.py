"""Scorecard: methods that look inside a model against what is known of it, with floor, ceiling and baseline."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.components.tabs import open_tab
from dashboard.markdown import finding, note, prose
from probe.numbers import format_interval
from probe.scorecard.card import RATED, VERDICTS, Card, read_card, told
from probe.scorecard.carried_order import carried_order, orders
from probe.scorecard.catalogue_of_methods import families
from probe.scorecard.family_record import Family
from probe.scorecard.plan_of_card import read_real_plan
from probe.scorecard.stored_rows import SMOLLM2, shipped_rows

CODE = """from probe.scorecard import read_card

card = read_card()
card.table()
card.evidence("{family}", "{truth}", "{method}")"""
CARRIED = """from probe.scorecard import read_card
from probe.scorecard.carried_order import carried_order
from probe.scorecard.plan_of_card import read_real_plan
from probe.scorecard.stored_rows import SMOLLM2, shipped_rows

carried_order(read_card(), read_card(shipped_rows(SMOLLM2), read_real_plan())).truths"""
DEFINITION = """
A **truth** is known exactly: from the world that wrote the corpus, or by ablation. A **score** is the mean over bases,
which are trainings that differ by their seed, with Student's 95 % t interval. The **floor** is a method that answers at
random, the **ceiling** one that reads the truth, the **baseline** a naive one that looks at nothing inside. A method
*finds* a truth if its interval lies above that of random answers; it is *better than the baseline* if the difference,
paired by base, has an interval above 0 and is at least 0.02. Each row has its cost in seconds on one CPU core. All of
this is planned in one file (`probe scorecard --plan`).
"""
COLUMNS = {
    "words": "truth",
    "title": "method",
    "score": "score [95 %]",
    "floor": "floor",
    "ceiling": "ceiling",
    "baseline": "baseline",
    "best_in": "best in seeds",
    "seconds": "seconds",
    "verdict": "verdict",
}
"""Columns of the table, and their heads."""
FAMILY = "scorecard_family"
"""Key of the chosen family."""
ROWS = 320
"""Height of the table in pixels."""


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is shown."""
    text = table.assign(
        score=[told(row) for _, row in table.iterrows()],
        floor=table["floor"].round(2) + 0.0,  # no negative zero
        verdict=[VERDICTS.get(each, "check of the card") for each in table["verdict"]],
    )
    return text[list(COLUMNS)].rename(columns=COLUMNS)


def choose_row(table: pd.DataFrame, family: Family) -> pd.Series:
    """Show the table of a family, and return the row that is clicked; by default the best one."""
    numbers = {name: st.column_config.NumberColumn(format="%.2f") for name in ("floor", "ceiling", "baseline")}
    numbers["seconds"] = st.column_config.NumberColumn(format="%.1f")
    event: Any = show_table(
        shown(table),
        column_config=numbers,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height=ROWS,
        key=f"scorecard-rows-{family.name}",
    )
    picked = event.selection.rows
    best = table[table["verdict"].isin(RATED) | (table["verdict"] == "alone")].sort_values("score", ascending=False)
    return table.iloc[picked[0]] if picked else (best if len(best) else table).iloc[0]


def show_evidence(card: Card, row: pd.Series) -> None:
    """Show the scores of a row on every base."""
    gain = [float(row[name]) for name in ("gain", "gain_low", "gain_high")]
    where = "one base" if row["seeds"] == 1 else f"{row['seeds']} bases"
    known = row["verdict"] and gain[1] == gain[1]
    less = f"; minus the score of the naive baseline: {format_interval(*gain)}" if known else ""
    st.markdown(prose(f"{row['title']}, {row['words']}: {row['measure']} {told(row)} over {where}{less}."))
    show_table(card.evidence(row["family"], row["truth"], row["method"]), hide_index=True)


def show_carried(card: Card) -> str:
    """Show whether the methods have the same order on a model without a world, and return code that computes it."""
    found = carried_order(card, read_card(shipped_rows(SMOLLM2), read_real_plan()))
    st.markdown(prose(found.sentence()))
    if len(found.truths):
        show_table(orders(found), column_config={"tau": st.column_config.NumberColumn(format="%.2f")}, hide_index=True)
    return CARRIED


def show_family(card: Card, known: Sequence[Family]) -> str:
    """Show figure and table of the family that is chosen, and return code that reads the row that is clicked."""
    by_title = {each.title: each for each in known}
    first = next(iter(by_title))
    title = st.segmented_control(
        "Family", list(by_title), default=first, key=FAMILY, required=True, bind="query-params"
    )
    family = by_title[title or first]
    table = card.only(family.name).table()
    figure(
        card.figure(family.name),
        table,
        "scorecard",
        title=family.about.rstrip("."),
        source={"scorecard": card.plan.version},
    )
    note("Lines: random answers (dashed), naive baseline (solid), oracle (dotted). Click a row for each base's scores.")
    row = choose_row(table, family)
    show_evidence(card, row)
    return CODE.format(**{key: row[key] for key in ("family", "truth", "method")})


def page() -> None:
    """Draw the page from top to bottom."""
    card = read_card()
    finding(card.sentence())
    known = [each for each in families().values() if any(row.family == each.name for row in card.rows)]
    if not known:
        note("`probe scorecard --run` computes it.")
        return
    parts = {"Methods": lambda: show_family(card, known), "Does it carry over?": lambda: show_carried(card)}
    code = open_tab("scorecard_part", parts, {"Methods": [FAMILY]})
    details([], DEFINITION, code, {"scorecard": card.table()})


page()
