"""Figures of a report about its runs: the first figure, and the lineage."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import styles
from probe.plotting.intervals import headline_intervals
from probe.plotting.runs import lineage
from probe.report.collect import Measured
from probe.runs.ancestry import lineage as edges
from probe.runs.reader import Run

SHARES = ("deferral", "invention", "truth_under_claim", "accuracy", "abstention", "sums_direct", "sums_steps")
"""Rates in the figure of headline metrics, as on the Overview page."""

Picture = tuple[go.Figure, str, int | None]
"""Figure, its title, and its height in pixels if it differs from the figure's."""
FIRST_HEIGHT = 460
"""Maximum height in pixels of the first figure, so that the first screen shows all of it."""


def first_figure(
    runs: Mapping[str, Run], headlines: pd.DataFrame, measured: Sequence[Measured], around: Sequence[Run]
) -> Picture:
    """Return the first figure: the rates of the runs, else a figure of an experiment, else the lineage."""
    chart, title, height = (
        _rates(runs, headlines)
        or next(((figure, title, None) for each in measured for title, figure in each.figures), None)
        or lineage_figure(runs, around)
    )
    return chart, title, min(int(height or chart.layout.height or FIRST_HEIGHT), FIRST_HEIGHT)


def _rates(runs: Mapping[str, Run], table: pd.DataFrame) -> Picture | None:
    """Draw the headline metrics that are rates; None if no run has any."""
    shares = table[table["metric"].isin(SHARES)] if len(table) else table
    if not len(shares):
        return None
    order = [metric for metric in SHARES if metric in set(shares["metric"])]
    chart = headline_intervals(shares, styles({label: run.method for label, run in runs.items()}), order)
    return chart, "Rates with 95 % intervals", 120 + len(order) * (20 + 6 * len(runs))


def lineage_figure(runs: Mapping[str, Run], around: Sequence[Run]) -> Picture:
    """Draw the lineage of the runs."""
    table = lineage_table(runs, around)
    selected = list(runs) if len(table) > len(runs) else []
    title = "Where each run comes from" + (" (ringed: the runs of this report)" if selected else "")
    return lineage(table, selected), title, None


def lineage_table(runs: Mapping[str, Run], around: Sequence[Run]) -> pd.DataFrame:
    """Return one row per run: these runs, and their ancestors among `around`."""
    labels = {run.name: label for label, run in reversed(list(runs.items()))}
    others = {run.name: run for run in around if run.name not in labels}
    links = edges([*runs.values(), *others.values()])
    wanted, queue = dict(runs), [run.name for run in runs.values()]
    while queue:
        target = queue.pop()
        for edge in links:
            if edge.target == target and edge.known and edge.source in others and edge.source not in wanted:
                wanted[edge.source] = others[edge.source]
                queue.append(edge.source)
    rows = []
    for label, run in sorted(wanted.items(), key=lambda pair: (pair[1].created, pair[0])):
        sources: dict[str, str] = {
            edge.relation: edge.source for edge in links if edge.target == run.name and edge.known
        }
        relations = ("parent", "reference", "reward_model")
        named: dict[str, str | None] = {
            relation: labels.get(sources.get(relation, ""), sources.get(relation)) for relation in relations
        }
        rows.append({"name": label, "method": run.method, "status": run.status, **named})
    return pd.DataFrame(rows)


def last_name(ref: str | None) -> str:
    """Return the last part of a reference, without folders, which depend on the machine of whoever trained."""
    return (ref or "").rstrip("/\\").replace("\\", "/").rpartition("/")[2]
