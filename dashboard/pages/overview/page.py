"""Overview: where each run comes from, and what is known of it."""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import data, sentences
from dashboard.components import metric_words
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.tabs import open_tab
from dashboard.markdown import escape_markdown, finding, note, prose
from dashboard.state import compare_link, current, keep, training_link
from probe.plotting.intervals import headline_intervals
from probe.plotting.runs import layout, lineage
from probe.terms import term

RUN, TAB = "run", "overview_tab"
"""Keys of the chosen run, and of the tabs: a click on a run opens its own."""
ONE = "One run"
"""The title of that tab."""
STATUS = {"running": "\u25b6 running", "finished": "\u2713 finished", "interrupted": "\u2016 interrupted"}

EMPTY = """
Make one, then reload this page:

```
probe train pretrain --out runs/base --steps 300
probe train dpo --base runs/base --out runs/dpo --steps 100
```

or open the dashboard on a folder that has some: `probe dashboard --runs DIR`. Any Hugging Face model can be compared
without a run: type its folder as the base model of **Side by side**.
"""

store = current().store


def choose(points: list[dict]) -> None:
    """A click on a run chooses it."""
    names = [point["customdata"][0] for point in points if point.get("customdata")]
    if names and names[0] in store.runs:
        st.session_state[RUN] = names[0]
        st.session_state[TAB] = ONE


def table(figures: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """One row a run: how it was made, how it stands, and its main figures with intervals."""
    cells = {(row["run"], row["metric"]): sentences.headline_cell(row) for row in figures.to_dict("records")}
    metrics = [metric for metric in sentences.TABLE if metric in set(figures["metric"])]
    rows = [
        {
            "run": label,
            "method": run.method,
            "status": STATUS.get(run.status, f"\u2717 {run.status}"),
            **{metric: cells.get((label, metric), "") for metric in metrics},
        }
        for label, run in ((label, store.runs[label]) for label in order)
    ]
    return pd.DataFrame(rows)


def all_runs(figures: pd.DataFrame, order: Sequence[str]) -> None:
    """The table of all runs, and reports."""
    heads = {metric: metric_words.head(metric, term(metric)) for metric in sentences.TABLE}
    st.dataframe(table(figures, order), hide_index=True, column_config=heads)
    note("Means over sampled answers, with 95 % intervals; the head of a column tells under the mouse what it is.")
    report_buttons(order)


def one_run() -> None:
    """The chosen run: settings, all figures, and ways on."""
    options = list(store.runs)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = st.selectbox("Run", options, key=keep(RUN, options, options[0]), bind="query-params")
        run = store.runs[label]
        parent = store.label(run.parent, run)
        training_link("Its training", label)
        if parent and run.checkpoints():
            compare_link("Compare with its parent", base=parent, aligned=label)
    left, right = st.columns([3, 2])
    with left:
        if run.message:
            note(run.message)
        rows = run.headline
        if len(rows):
            numbers = [
                {
                    "metric": term(row["metric"]).label,
                    "value [95 % interval]": sentences.headline_cell(row),
                    "n": row["n"],
                    **metric_words.after_numbers(row["metric"], term(row["metric"])),
                }
                for row in rows.to_dict("records")
            ]
            st.dataframe(
                pd.DataFrame(numbers),
                hide_index=True,
                height="content" if len(numbers) < 11 else 400,
                column_config=metric_words.COLUMNS,
            )
        else:
            note("This run carries no headline figures.")
    with right:
        facts = {
            "path": run.path,
            "steps": run.steps,
            "parent": run.parent,
            "reference": run.reference,
            "seed": run.seed,
            **run.config,
        }
        settings = [(name, str(value)) for name, value in facts.items() if value is not None]
        st.dataframe(pd.DataFrame(settings, columns=["setting", "value"]), hide_index=True)


def report_buttons(order: Sequence[str]) -> None:
    """Reports to download, of all runs and of the two chosen models; each is written when it is asked for."""
    shared = current()
    chosen = dict.fromkeys(label for label in map(shared.label, (shared.base, shared.aligned)) if label in store.runs)
    offers = {"Download report": list(order)}
    if 0 < len(chosen) < len(order):
        offers[f"Report on {' and '.join(chosen)}"] = [label for label in order if label in chosen]
    with st.container(horizontal=True):
        for index, (title, labels) in enumerate(offers.items()):
            st.download_button(
                escape_markdown(title),
                data=partial(write_report, labels),
                file_name="report.html",
                mime="text/html",
                key=f"report-{index}",
                on_click="ignore",
                icon=":material/description:",
                help="One file with lineage, numbers, figures, stored results, settings and commands; it needs no "
                "network and takes some seconds to write.",
            )


def write_report(labels: Sequence[str]) -> bytes:
    """The report of some runs of the store."""
    from probe.report.run_report import report

    runs = [store.runs[label] for label in labels]
    with data.quiet():
        for run in runs:
            run.metrics()  # of one that is being written only what follows is read again
    return report(runs, around=list(store.runs.values())).encode("utf-8", "replace")


def page() -> None:
    """The page from top to bottom."""
    figures, runs = data.headlines(store), data.lineage_table(store)
    place = layout(runs)
    order = sorted(place, key=lambda name: place[name][1])
    figures = figures.sort_values("run", key=lambda names: names.map(order.index), kind="stable")
    pairs = [(row["name"], row["parent"]) for row in runs.to_dict("records") if row["parent"]]
    finding(sentences.overview(figures, pairs))
    left, right = st.columns([5, 6], gap="medium")
    with left:
        selection = [st.session_state[RUN]] if st.session_state.get(RUN) else []
        figure(lineage(runs, selection), runs, "lineage", title="Lineage (click a run)", on_select=choose)
    with right:
        rows = figures[figures["metric"].isin(sentences.SHARES)]
        if len(rows):
            metrics = [metric for metric in sentences.SHARES if metric in set(rows["metric"])]
            chart = headline_intervals(rows, store.style(), metrics)
            height = min(480, max(380, 60 + len(metrics) * (20 + 5 * rows["run"].nunique())))
            figure(chart, rows, "headline", title="Headline figures", height=height)
        else:
            note("No run carries headline figures yet: `probe train` measures world models at its end.")
    parts: dict[str, Callable[[], None]] = {"All runs": partial(all_runs, figures, order), ONE: one_run}
    open_tab(TAB, parts, {ONE: (RUN,)})
    details(
        [r"\hat p \in \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n},\quad z = 1.96"],
        "Shares carry Wilson intervals, means bootstrap ones (95 %).\n\n"
        + metric_words.definitions((*sentences.TABLE, *sentences.SHARES), term),
        "import probe\n\nfor run in probe.list_runs():\n    print(run.name, run.status)\n    print(run.headline)",
        {"headline-figures": figures, "lineage-of-runs": runs},
    )


if store.runs:
    page()
else:
    finding("There is no run to show yet.")
    st.markdown(EMPTY)
for problem in store.problems.values():
    st.warning(prose(problem))
