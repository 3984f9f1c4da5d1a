"""Parts over training on the Logits page: heads, MLPs and neurons, what they promoted, and the KL to the reference."""

import pandas as pd
import streamlit as st

from dashboard.components.figure import figure
from dashboard.state import keep
from dashboard.text import note
from probe.logits.part_figures import training_kl, training_parts

SHOWN = 12
"""Neurons that are drawn."""


def parts_figure(label: str, table: pd.DataFrame, answers: list[str], source: dict[str, object]) -> None:
    """The strongest heads and MLPs over the training steps."""
    shown = table[table["layer"] >= 0]
    grid = shown.assign(name=part_names(shown)).pivot(index="name", columns="step", values="value")
    word, steps = " \u2212 ".join(answers), [int(step) for step in grid.columns]
    chart = training_parts(grid.to_numpy(dtype=float), steps, grid.index.tolist(), label=word)
    title = f"{label}: what the strongest parts add to {word} over training"
    figure(chart, table, "log-training-parts", title=title, height=_height(min(12, len(grid))), source=source)
    note(
        f"Each row is what a head or MLP adds directly to the logit of {word}, after the last token; the highest "
        "row added or took most at some step. The CSV holds all parts and the rest, which together are the logit."
    )


def promoted_table(label: str, parts: pd.DataFrame, named: pd.DataFrame) -> None:
    """What one part promoted and suppressed at each captured step; first the one that moved the logit most."""
    names = list(dict.fromkeys(part_names(named)))
    strongest = parts[parts["layer"] >= 0]
    first = str(part_names(strongest).iloc[int(strongest["value"].abs().argmax())])
    keep("log_trained_part", names, first)
    chosen = st.selectbox("Part", names, key="log_trained_part", bind="query-params")
    rows = named[part_names(named) == chosen]
    table = rows.pivot_table(index="step", columns="kind", values="token", aggfunc="  ".join, sort=True)
    st.dataframe(table.reset_index(), hide_index=True, key="log-training-promoted")
    note(f"The tokens whose logits {chosen} of {label} raised and lowered most after the last token, strongest first.")


def part_names(table: pd.DataFrame) -> pd.Series:
    """`L2H1` or `L2 MLP` of each row's layer and part."""
    return "L" + table["layer"].astype(str) + table["part"].where(table["part"] != "MLP", " MLP")


def neurons_figure(label: str, table: pd.DataFrame, answers: list[str], source: dict[str, object]) -> None:
    """The strongest neurons of all blocks over the training steps."""
    named = table.assign(name="L" + table["layer"].astype(str) + " neuron " + table["neuron"].astype(str))
    grid = named.pivot(index="name", columns="step", values="value")
    word, steps = " \u2212 ".join(answers), [int(step) for step in grid.columns]
    chart = training_parts(grid.to_numpy(dtype=float), steps, grid.index.tolist(), label=word, k=SHOWN)
    title = f"{label}: the neurons that add or take most"
    figure(chart, table, "log-training-neurons", title=title, height=_height(min(SHOWN, len(grid))), source=source)
    most = int(table["rank"].max()) + 1
    note(
        f"What single neurons add directly to the logit of {word}, after the last token. A capture names the {most} "
        "strongest of each block: a neuron without a value at some step was not among them."
    )


def kl_figure(label: str, table: pd.DataFrame, reference: str | None, source: dict[str, object]) -> None:
    """KL to the reference after every token over the training steps."""
    grid = table.pivot(index="position", columns="step", values="kl")
    tokens = table.drop_duplicates("position").sort_values("position")["token"].tolist()
    chart = training_kl(grid.to_numpy(dtype=float), [int(step) for step in grid.columns], tokens)
    name = reference or "its reference"
    figure(chart, table, "log-training-kl", title=f"{label}: KL from {name}", height=_height(SHOWN), source=source)
    last, most = table[table["step"] == table["step"].max()], ""
    if last["kl"].max() > 0:
        far = last.loc[last["kl"].idxmax()]
        most = f": at step {far['step']:,} most after \u201c{far['token']}\u201d, {far['kl']:.2f} nats"
    note(
        f"How far the next-token distribution of {label} is from that of {name}, after each token of the prompt{most}."
    )


def _height(rows: int) -> int:
    """Pixels of a map of that many rows."""
    return 120 + 22 * rows
