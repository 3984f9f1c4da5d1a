"""Scorecard: methods that look inside a model against what is known of it, with floor, ceiling and baseline."""

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.markdown import finding, note, prose
from probe.numbers import format_interval
from probe.scorecard.card import VERDICTS, Card, read_card, told
from probe.scorecard.catalogue_of_methods import families
from probe.scorecard.family_record import Family

CODE = """from probe.scorecard import read_card

card = read_card()
card.table()
card.evidence("{family}", "{truth}", "{method}")"""
DEFINITION = """
A **truth** is known exactly: from the world that wrote the corpus, or by ablation. A **score** is the mean over bases,
which are trainings that differ by their seed, with Student's 95 % t interval. The **floor** is a method that answers at
random, the **ceiling** one that reads the truth, the **baseline** a naive one that looks at nothing inside. A method
*finds* a truth if its interval lies above that of random answers; it is *better than the baseline* if the difference,
paired by base, has an interval above 0 and is at least 0.02. Each row has its cost in seconds on one CPU core. All of it
is planned in one file (`probe scorecard --plan`).
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


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as it is shown."""
    text = table.assign(
        score=[told(row) for _, row in table.iterrows()],
        verdict=[VERDICTS.get(each, "check of the card") for each in table["verdict"]],
    )
    return text[list(COLUMNS)].rename(columns=COLUMNS)


def choose_row(table: pd.DataFrame, family: Family) -> pd.Series:
    """Show the table of a family, and return the row that is clicked; by default the best one."""
    numbers = {name: st.column_config.NumberColumn(format="%.2f") for name in ("floor", "ceiling", "baseline")}
    numbers["seconds"] = st.column_config.NumberColumn(format="%.1f")
    event: Any = st.dataframe(
        shown(table),
        hide_index=True,
        column_config=numbers,
        on_select="rerun",
        selection_mode="single-row",
        key=f"scorecard-rows-{family.name}",
    )
    picked = event.selection.rows
    rated = table[table["verdict"] != ""]
    return table.iloc[picked[0]] if picked else table.loc[rated["score"].idxmax()]


def show_evidence(card: Card, row: pd.Series) -> None:
    """Show the scores of a row on every base."""
    gain = [float(row[name]) for name in ("gain", "gain_low", "gain_high")]
    st.markdown(
        prose(f"**{row['title']}** finds {row['words']}: {row['measure']} {told(row)} over {row['seeds']} bases.")
    )
    if row["verdict"] and gain[1] == gain[1]:
        note(f"Less the naive baseline, paired by base: {format_interval(*gain)}.")
    st.dataframe(card.evidence(row["family"], row["truth"], row["method"]), hide_index=True)


def page() -> None:
    """Draw the page from top to bottom."""
    card = read_card()
    finding(card.sentence())
    known = [each for each in families().values() if any(row.family == each.name for row in card.rows)]
    if not known:
        note("`probe scorecard --run` computes it.")
        return
    titles = {each.name: each.title for each in known}
    name = st.segmented_control(
        "Family",
        list(titles),
        default=next(iter(titles)),
        format_func=titles.__getitem__,
        key="scorecard_family",
        required=True,
        bind="query-params",
    )
    family = next(each for each in known if each.name == name)
    note(family.about)
    table = card.only(family.name).table()
    figure(card.figure(family.name), table, "scorecard", title=family.title, source={"scorecard": card.plan.version})
    note("Click a row for the evidence on each base.")
    row = choose_row(table, family)
    show_evidence(card, row)
    named = {key: row[key] for key in ("family", "truth", "method")}
    details([], DEFINITION, CODE.format(**named), {"scorecard": card.table()})


page()
