"""Figures of an audit (differences, KL by kind of text, changes block by block), its table, and its HTML file."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probe.audit.change import (
    FORM,
    SEEN,
    Audit,
    change,
    describe,
    form_effect,
    level,
    points,
    shown_mde,
    unseen_change,
)
from probe.audit.verdict import CHANGED, EQUIVALENT
from probe.numbers import in_percent, in_unit
from probe.plotting.intervals import whiskers
from probe.plotting.panels import Panels
from probe.plotting.theme import DOTTED, LIGHT, METHODS, THIN, escape, escape_lines, on_hover, row_axis
from probe.questions.sets import SETS
from probe.report.document import HtmlReport, today
from probe.terms import DIFFERENCE, RATES

MOST, KINDS = 8, 13
"""Maximum number of further measures, and of kinds of text, in a figure."""


def difference_points(audit: Audit) -> go.Figure:
    """Draw differences of rates with 95 % intervals, in percentage points: the measures, then others that changed.

    Filled marks are changes; diamonds are differences within the equivalence margin, which is shaded.
    """
    rates = audit.tested[audit.tested["unit"].isin((*RATES, DIFFERENCE))]
    others = audit.changed[audit.changed.index.isin(rates.index[~rates["measure"]])].head(MOST)
    rows = pd.concat([rates[rates["measure"]], others], ignore_index=True)
    changed, equivalent = rows["verdict"] == CHANGED, rows["verdict"] == EQUIVALENT
    panels = Panels()
    groups = {
        "changed": (changed, METHODS["dpo"], "circle"),
        f"equivalent within {points(audit.margin)}": (equivalent, METHODS["sft"], "diamond"),
        "undecided": (~changed & ~equivalent, LIGHT.muted, "circle-open"),
    }
    for name, (mask, colour, symbol) in groups.items():
        some = rows[mask]
        value, low, high = (100 * some[f"difference{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        hover = [
            f"{escape(row['title'])}: {describe(row)}, {int(row['n'])} pairs of"
            f" {escape(row['questions'])}, finds {shown_mde(row)}"
            for row in some.to_dict("records")
        ]
        marks = go.Scatter(
            x=value,
            y=some.index.tolist(),
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 9},
            error_x=whiskers(value, low, high, thickness=1.8, color=colour),
            **on_hover(hover),
        )
        panels.add(1, marks)
    panels.mark(1, THIN, x=0)
    panels.span(1, -100 * audit.margin, 100 * audit.margin, LIGHT.muted, 0.15)
    count = int(rows["measure"].sum())
    if 0 < count < len(rows):
        panels.mark(1, DOTTED, y=count - 0.5)
    base, aligned = (escape(name) for name in audit.names)
    panels.axis("x", title=f"{aligned} minus {base}, percentage points", zeroline=False)
    panels.axis("y", **row_axis([escape_lines(title, 48) for title in rows["title"]]))
    return panels.figure(showlegend=True, height=120 + 26 * max(len(rows), 4))


def difference_table(audit: Audit) -> pd.DataFrame:
    """Return the whole table for reading: measure, questions, both values, difference, verdict, what it finds, p, n."""
    rows = audit.rows.to_dict("records")
    base, aligned = audit.names
    columns = {
        "measure": [row["title"] for row in rows],
        "questions": [row["questions"] for row in rows],
        base: [in_unit(row["unit"], row["base"], row["base_low"], row["base_high"]) for row in rows],
        aligned if aligned != base else f"{aligned} (2)": [
            in_unit(row["unit"], row["aligned"], row["aligned_low"], row["aligned_high"]) for row in rows
        ],
        "difference": [change(row) for row in rows],
        **({"by guessing": [_guess(row) for row in rows]} if "chance" in audit.rows else {}),
        **({"the form alone": [form_effect(row) for row in rows]} if FORM[0] in audit.rows else {}),
        **({"seen in training": [_count(row["seen"]) for row in rows]} if SEEN[0] in audit.rows else {}),
        **({"over the others": [unseen_change(row) for row in rows]} if SEEN[0] in audit.rows else {}),
        "verdict": [row["verdict"] for row in rows],
        "finds (80 % power)": [shown_mde(row) for row in rows],
        "cannot show": [row["cannot_show"] for row in rows],
        "p, corrected": [level(row["p_corrected"]) for row in rows],
        "pairs": [int(row["n"]) for row in rows],
        "name": [f"{row['metric']} = {row['same_as']}" if row["same_as"] else row["metric"] for row in rows],
    }
    return pd.DataFrame(columns)


def _count(number: float) -> str:
    """Return a whole number as text; empty if it is missing."""
    return "" if number != number else f"{number:.0f}"


def _guess(row: Mapping[Any, Any]) -> str:
    """Format the value that guessing among the choices gives; empty if there are no choices."""
    return "" if row["chance"] != row["chance"] else in_unit(row["unit"], row["chance"], None, None)


def inside(audit: Audit) -> go.Figure:
    """Draw KL by kind of text, and the relative change of weights and residual stream block by block."""
    titles = ["KL(aligned \u2225 base) of next tokens", "weights", "residual stream where<br>an answer begins"]
    panels = Panels(titles, widths=[0.4, 0.3, 0.3], spacing=0.09)
    kinds, blocks = audit.corpus.head(KINDS), audit.blocks
    value, low, high = (kinds[name].to_numpy(dtype=float) for name in ("kl", "kl_low", "kl_high"))
    hover = [
        f"{escape(row['kind'])}: {in_unit('nats', row['kl'], row['kl_low'], row['kl_high'])} nats a token"
        for row in kinds.to_dict("records")
    ]
    look = {"marker": {"color": METHODS["dpo"], "size": 7}, "line": {"color": METHODS["dpo"], "width": 1.5}}
    bars = {"mode": "markers", "error_x": whiskers(value, low, high)}
    panels.add(1, go.Scatter(x=value, y=list(range(len(kinds))), **look, **bars, **on_hover(hover)))
    names = row_axis([escape_lines(kind.replace("_", " "), 20) for kind in kinds["kind"]])
    panels.axis("y", 1, **names | {"range": [max(len(kinds), 1) - 0.5, -0.5]})
    panels.axis("x", 1, title="nats a token", rangemode="tozero")
    for column, name in ((2, "weights"), (3, "residual")):
        change = 100 * blocks[name].to_numpy(dtype=float)
        hover = [
            f"block {block}: {in_percent(each)}" for block, each in zip(blocks["block"], blocks[name], strict=True)
        ]
        line = go.Scatter(x=blocks["block"].tolist(), y=change, mode="lines+markers", **look, **on_hover(hover))
        if name == "residual":
            line.error_y = whiskers(change, 100 * blocks["residual_low"], 100 * blocks["residual_high"])
        panels.add(column, line)
        panels.axis("x", column, title="block")
        panels.axis("y", column, title="change, % of the base's norm", rangemode="tozero")
    return panels.figure(showlegend=False, height=145 + 24 * max(len(kinds), 8))


def audit_html(audit: Audit) -> str:
    """Return the HTML file: sentence, differences, next tokens and blocks, the whole table, and provenance."""
    base, aligned = audit.names
    page = HtmlReport(f"Audit: {aligned} against {base}", {"created_by": "probe audit", "date": today(), **audit.meta})
    page.say(audit.sentence)
    for note in filter(None, (audit.asked_in, *audit.notes)):
        page.say(note, "note")
    page.section("What changed", page=False)
    if len(audit.rows):
        page.figure(difference_points(audit), "Differences with 95 % intervals: measures of the audit, then others")
    page.say(count_tests(audit))
    if len(audit.corpus):
        page.section("Where")
        page.figure(inside(audit), "KL by kind of text, and the change block by block")
        table = audit.corpus.to_dict("records")
        page.table(
            ["texts", "KL, nats a token", "reverse KL", "texts", "tokens"],
            [
                [
                    row["kind"],
                    in_unit("nats", row["kl"], row["kl_low"], row["kl_high"]),
                    f"{row['kl_reverse']:.3g}",
                    int(row["texts"]),
                    int(row["tokens"]),
                ]
                for row in table
            ],
        )
    page.section("All measures")
    whole = difference_table(audit)
    page.table(list(whole.columns), whole.to_numpy().tolist())
    page.section("Questions and models")
    sets = [(name, SETS[name]) for name in audit.rows["questions"].unique() if name in SETS]
    if sets:
        rows = [[name, each.source, each.version, each.licence] for name, each in sets]
        page.table(["questions", "source", "version", "licence"], rows)
    page.table(
        ["model", "reference", "fingerprint"],
        [[str(model.get(key, "")) for key in ("label", "ref", "fingerprint")] for model in audit.meta["models"]],
    )
    return page.html()


def count_tests(audit: Audit) -> str:
    """Explain the verdicts of an audit in words, with their counts."""
    chance = f" By chance alone {audit.by_chance} of them would be called different." if audit.by_chance else ""
    return (
        f"{len(audit.tested)} differences are tested. Changed: the whole 95 % interval lies beyond the smallest effect"
        f" that counts ({audit.limit} of a rate), and the difference stands after correction for its family."
        f" Equivalent: the 90 % interval lies within the margin ({points(audit.margin)}). Undecided: neither; “finds”"
        f" is the smallest difference that this number of pairs detects with 80 % power.{chance}"
    )
