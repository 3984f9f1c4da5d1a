"""Figures of an audit: differences with their intervals, KL by kind of text, and the change block by block."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.audit.change import LEVEL, Audit, change, describe
from probe.numbers import in_unit
from probe.plotting.theme import LIGHT, METHODS, escape, escape_lines, new_figure, template
from probe.terms import DIFFERENCE, RATES

MOST = 14
"""Further measures that are drawn, at most."""


def drawn_rows(audit: Audit) -> pd.DataFrame:
    """What the figure of differences shows: the measures of the audit, then those of the others that changed."""
    rates = audit.rows[audit.rows["unit"].isin((*RATES, DIFFERENCE)) & audit.rows["p"].notna()]
    others = rates[~rates["measure"] & (rates["p"] < LEVEL)].sort_values("p", kind="stable").head(MOST)
    return pd.concat([rates[rates["measure"]], others], ignore_index=True)


def difference_points(audit: Audit) -> go.Figure:
    """Differences of rates with 95 % intervals, in percentage points: the measures first, then others that changed.

    Filled where the interval excludes 0; pale for measures that the audit is not about.
    """
    rows = drawn_rows(audit)
    figure = new_figure(hovermode="closest")
    groups = {
        "changed": (rows["p"] < LEVEL, METHODS["dpo"], "circle"),
        "not beyond chance": (rows["p"] >= LEVEL, LIGHT.muted, "circle-open"),
    }
    for name, (mask, colour, symbol) in groups.items():
        some = rows[mask]
        value, low, high = (100 * some[f"difference{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
        figure.add_trace(
            go.Scatter(
                x=value,
                y=some.index.tolist(),
                mode="markers",
                name=name,
                marker={"color": colour, "symbol": symbol, "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": high - value,
                    "arrayminus": value - low,
                    "thickness": 1.8,
                    "width": 0,
                    "color": colour,
                },
                customdata=[
                    f"{escape(row['title'])}: {describe(row)}, {int(row['n'])} items of {escape(row['questions'])}"
                    for row in some.to_dict("records")
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"color": LIGHT.muted, "width": 1})
    count = int(rows["measure"].sum())
    if 0 < count < len(rows):
        figure.add_hline(y=count - 0.5, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
    base, aligned = (escape(name) for name in audit.names)
    figure.update_xaxes(title_text=f"{aligned} minus {base}, percentage points", zeroline=False)
    figure.update_yaxes(
        tickvals=rows.index.tolist(),
        ticktext=[escape_lines(title, 34) for title in rows["title"]],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(showlegend=True, height=130 + 34 * max(len(rows), 3))
    return figure


def difference_table(audit: Audit) -> pd.DataFrame:
    """The whole table as people read it: measure, questions, base, aligned, difference, q, n, name."""
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
        "q": ["" if np.isnan(row["q"]) else f"{row['q']:.2g}" for row in rows],
        "n": [int(row["n"]) for row in rows],
        "name": [row["metric"] for row in rows],
    }
    return pd.DataFrame(columns)


def inside(audit: Audit) -> go.Figure:
    """KL by kind of text, and the relative change of weights and residual stream of each block."""
    titles = ["next tokens: KL(aligned \u2225 base)", "blocks: change relative to the base"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.16)
    kinds, blocks = audit.corpus, audit.blocks
    value, low, high = (kinds[name].to_numpy(dtype=float) for name in ("kl", "kl_low", "kl_high"))
    figure.add_trace(
        go.Scatter(
            x=value,
            y=list(range(len(kinds))),
            mode="markers",
            showlegend=False,
            marker={"color": METHODS["dpo"], "size": 8},
            error_x={
                "symmetric": False,
                "array": high - value,
                "arrayminus": value - low,
                "thickness": 1.6,
                "width": 0,
            },
            customdata=[
                f"{escape(row['kind'])}: {in_unit('nats', row['kl'], row['kl_low'], row['kl_high'])} nats a token"
                for row in kinds.to_dict("records")
            ],
            hovertemplate="%{customdata}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    figure.update_yaxes(
        tickvals=list(range(len(kinds))),
        ticktext=[escape_lines(kind.replace("_", " "), 20) for kind in kinds["kind"]],
        range=[max(len(kinds), 1) - 0.5, -0.5],
        showgrid=False,
        row=1,
        col=1,
    )
    figure.update_xaxes(title_text="nats a token", rangemode="tozero", row=1, col=1)
    lines = {"weights": (METHODS["dpo"], "solid"), "residual": (METHODS["rlhf"], "dash")}
    words = {"weights": "weights", "residual": "residual stream where an answer begins"}
    for name, (colour, dash) in lines.items():
        figure.add_trace(
            go.Scatter(
                x=blocks["block"],
                y=100 * blocks[name].astype(float),
                mode="lines+markers",
                name=words[name],
                line={"color": colour, "dash": dash},
                hovertemplate="block %{x}: %{y:.3g} %<extra>" + words[name] + "</extra>",
            ),
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="block", row=1, col=2)
    figure.update_yaxes(title_text="change, % of the base's norm", rangemode="tozero", row=1, col=2)
    figure.update_annotations(font_size=13)
    height = 150 + 22 * max(len(kinds), 10)
    figure.update_layout(template=template(LIGHT), height=height, margin={"t": 40}, legend={"y": -0.22})
    return figure
