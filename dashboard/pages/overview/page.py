"""Overview: the lineage of each run, and its main metrics."""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import access, sentences
from dashboard.components import metric_words
from dashboard.components.details import details
from dashboard.components.estimates import other_estimates
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.components.tabs import open_tab
from dashboard.markdown import finding, note, prose
from dashboard.pages.overview.order import choose_runs, draw_actions, draw_aside, told
from dashboard.pages.overview.reports import draw_reports
from dashboard.seed_groups import (
    ANSWERS,
    TRAININGS,
    SeedGroup,
    by_member,
    headlines,
    lineage_table,
    remark,
    seed_groups,
)
from dashboard.state import compare_link, current, keep, training_link
from probe.plotting.intervals import headline_intervals
from probe.plotting.runs import layout, lineage
from probe.runs.reader import Run
from probe.seeds.group_tables import headline
from probe.terms import term
from probe.texts import visible

RUN, TAB, EVERY_SEED, PAGE = "run", "overview_tab", "seeds", "page"
"""Keys of the chosen run, of the tabs (a click on a run opens its tab), of whether groups show their members, and of
the page of the table."""
EACH = 50
"""Number of groups on a page of the table."""
ONE = "One run"
"""Title of the tab of one run."""
TABLE = "runs-table"
"""Key of the table of all runs."""
PIN = "\u2605 "
"""Sign before the name of a pinned run."""
INDENT = "\u2003"
"""Indent before the members of a group."""
STATUS = {"running": "\u25b6 running", "finished": "\u2713 finished", "interrupted": "\u2016 interrupted"}

OVER = {"over answers": st.column_config.TextColumn(help="This training's value with its 95 % interval over answers.")}
"""Settings of the column of one training's values."""

NARROW = {
    **dict.fromkeys(("tags", "note"), st.column_config.TextColumn(width=130)),
    "run": st.column_config.TextColumn(width=116),
    "method": st.column_config.TextColumn(width=92),
    "status": st.column_config.TextColumn(width=76),
    "over": st.column_config.TextColumn(
        width=84, help="What the 95 % intervals of the row are over: trainings (other seeds), or answers."
    ),
}
"""Settings of the columns without a metric, narrow enough for a page 1280 pixels wide."""

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
    """Choose the clicked run."""
    names = [point["customdata"][0] for point in points if point.get("customdata")]
    if names and names[0] in store.runs:
        st.session_state[RUN] = names[0]
        st.session_state[TAB] = ONE


def table(found: Sequence[SeedGroup], open_groups: bool) -> tuple[pd.DataFrame, list[Sequence[str]]]:
    """Return one row per group, followed by its members, and the labels of each row's runs.

    A row has method, status, main metrics with intervals, tags and note.

    Args:
        found: groups of runs.
        open_groups: whether groups of several runs show their members.
    """
    rows, labels = [], list[Sequence[str]]()
    for group in found:
        rows.append(_row(group.name, headlines([group]), group.members, group.over_text))
        labels.append(group.members)
        for label in group.members if open_groups and len(group.members) > 1 else ():
            rows.append(_row(f"{INDENT}{label}", store.runs[label].headline, [label], ANSWERS))
            labels.append([label])
    metrics = [metric for metric in sentences.TABLE if any(metric in row for row in rows)]
    marked = [name for name in ("tags", "note") if any(row[name] for row in rows)]
    columns = ["run", *marked, "method", "status", *metrics, "over"]
    return pd.DataFrame(rows, columns=columns).fillna(""), labels


def _row(name: str, figures: pd.DataFrame, members: Sequence[str], over: str) -> dict[str, object]:
    runs = [store.runs[label] for label in members]
    status = next((run.status for run in runs if run.status != "finished"), "finished")
    cells = {row["metric"]: sentences.headline_cell(row) for row in figures.to_dict("records")}
    marks = [run.marks for run in runs]
    return {
        "run": PIN * any(each.pinned for each in marks) + name,
        "tags": ", ".join(dict.fromkeys(tag for each in marks for tag in each.tags)),
        "note": "; ".join(dict.fromkeys(each.note for each in marks if each.note)),
        "method": runs[0].method,
        "status": STATUS.get(status, f"\u2717 {status}"),
        **{metric: cells[metric] for metric in sentences.TABLE if metric in cells},
        "over": over if cells else "",
    }


def all_runs(found: Sequence[SeedGroup]) -> None:
    """Show the table of all runs, with one line per group of seeds, and the reports."""
    heads = {metric: metric_words.head(metric, term(metric)) for metric in sentences.TABLE} | NARROW
    several = any(len(each.members) > 1 for each in found)
    opened = several and st.toggle("Show every seed", key=EVERY_SEED, bind="query-params")
    st.markdown(f"**Rates of sampled answers{', means over trainings' * several}**")
    page, listed = choose_page(found)
    rows, labels = table(listed, opened)
    actions = st.container()
    key = TABLE if page == 1 else f"{TABLE}-{page}"  # a selection belongs to its page
    event = show_table(
        rows, hide_index=True, column_config=heads, key=key, on_select="rerun", selection_mode="multi-row"
    )
    chosen = [label for row in event.selection.rows if row < len(labels) for label in labels[row]]
    if chosen:
        with actions:
            draw_actions([store.runs[label] for label in dict.fromkeys(chosen)], "table")
    select = "Select rows to pin, tag, note, rename, archive or delete their runs. " * access.may_write()
    note(f"{remark(found)} {select}Hover over the head of a column for its definition.")
    draw_aside(store)
    other_estimates("overview")
    draw_reports(offers([each.label for each in found], list(dict.fromkeys(chosen))))


def choose_page(found: Sequence[SeedGroup]) -> tuple[int, Sequence[SeedGroup]]:
    """Return the number of the page of the table that the reader chooses, and its groups; pinned ones come first."""
    order = sorted(found, key=lambda each: not any(store.runs[label].marks.pinned for label in each.members))
    pages = max(1, -(-len(order) // EACH))
    if pages == 1:
        return 1, order
    page = st.pagination(pages, key=keep(PAGE, range(1, pages + 1), 1), bind="query-params")
    return page, order[(page - 1) * EACH : page * EACH]


def one_run(found: dict[str, SeedGroup]) -> None:
    """Show the chosen run: settings, all metrics, and links to other pages."""
    options = list(store.runs)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = st.selectbox(
            "Run", options, key=keep(RUN, options, options[0]), bind="query-params", format_func=visible
        )
        run = store.runs[label]
        parent = store.label(run.parent, run)
        training_link("Its training", label)
        if parent and run.checkpoints() and store.runs[parent].checkpoints():
            compare_link("Compare with its parent", base=parent, aligned=label)
    group = by_member(found).get(label)
    draw_actions([run], "one")
    if said := told(run.marks):
        note(said)
    left, right = st.columns([3, 2])
    with left:
        if run.message:
            note(run.message)
        if not run.checkpoints():
            note("This run has no weights: its figures, curves and results are shown, but no page can load it.")
        rows = run.headline
        if len(rows):
            means = {} if group is None or not group.several else _cells(headline(group.group))
            numbers = [
                {
                    "metric": term(row["metric"]).label,
                    "over answers": sentences.headline_cell(row),
                    **({f"over {group.group.count} trainings": means[row["metric"]]} if group and means else {}),
                    "n": row["n"],
                    **metric_words.after_numbers(row["metric"], term(row["metric"])),
                }
                for row in rows.to_dict("records")
            ]
            show_table(
                pd.DataFrame(numbers),
                hide_index=True,
                height="content" if len(numbers) < 11 else 400,
                column_config=metric_words.COLUMNS | OVER,
            )
        else:
            note("This run has no headline figures.")
        if group is not None:
            names = f": {', '.join(group.members)}" if len(group.members) > 1 else ""
            note(f"{group.group.about[:1].upper()}{group.group.about[1:]}{names}. {remark([group])}")
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
        show_table(pd.DataFrame(settings, columns=["setting", "value"]), hide_index=True)


def _cells(figures: pd.DataFrame) -> dict[str, str]:
    return {str(row["metric"]): sentences.headline_cell(row) for row in figures.to_dict("records")}


def offers(order: Sequence[str], chosen: Sequence[str]) -> dict[str, list[Run]]:
    """Return the reports to offer, with their runs: on all listed runs, on the two chosen models, and on selected runs.

    The report on all runs contains the means of each group and its first seed.

    Args:
        order: labels of the first member of each listed group.
        chosen: labels of the runs of the selected rows.
    """
    shared = current()
    pair = [label for label in map(shared.label, (shared.base, shared.aligned)) if label in store.runs]
    found = {"Report on all runs": order, f"Report on {' and '.join(dict.fromkeys(pair))}": dict.fromkeys(pair)}
    found["Report on the selected runs"] = chosen
    return {title: [store.runs[label] for label in labels] for title, labels in found.items() if labels}


def page() -> None:
    """Draw the page from top to bottom."""
    answer, every = st.container(), seed_groups(store)
    only = choose_runs(store)
    kept = {
        label for label, run in store.runs.items() if only is None or only.keeps(label, run.method, run.status, run)
    }
    found = {label: group for label, group in every.items() if kept & {*group.members}}
    if not found:
        note("No run fits: shorten the search, or choose any method, status and tag.")
        draw_aside(store)
        return
    runs = lineage_table(store, found)
    place = layout(runs)
    listed = [found[label] for label in sorted(place, key=lambda name: place[name][1])]
    figures = headlines(listed)
    titles = {label: group.title for label, group in found.items()}
    pairs = [(titles[row["name"]], titles[row["parent"]]) for row in runs.to_dict("records") if row["parent"] in titles]
    with answer:
        finding(sentences.overview(figures, pairs))
    left, right = st.columns([5, 6], gap="medium")
    with left:
        chosen = by_member(found).get(st.session_state.get(RUN) or "")
        selection = [chosen.label] if chosen else []
        figure(lineage(runs, selection), runs, "lineage", title="Lineage (click a run)", on_select=choose)
    with right:
        rows = figures[figures["metric"].isin(sentences.SHARES)]
        if len(rows):
            metrics = [metric for metric in sentences.SHARES if metric in set(rows["metric"])]
            each = [
                store.runs[label].headline.assign(run=group.title)
                for group in listed
                if group.several
                for label in group.members
            ]
            look = {group.title: store.style()[group.label] for group in listed}
            chart = headline_intervals(rows, look, metrics, seeds=pd.concat(each) if each else None)
            height = min(480, max(380, 60 + len(metrics) * (20 + 5 * rows["run"].nunique())))
            over = f"95 % intervals over {TRAININGS if each else ANSWERS}"
            chart.update_xaxes(title_text=f"share of answers, {over}" + " (one seed: over answers)" * bool(each))
            title = f"Headline figures: sampled answers{', means over trainings' * bool(each)}"
            figure(chart, rows, "headline", title=title, height=height, source={"intervals": over})
        else:
            note("No run has headline figures yet: `probe train` measures world models at its end.")
    parts: dict[str, Callable[[], None]] = {"All runs": partial(all_runs, listed), ONE: partial(one_run, every)}
    open_tab(TAB, parts, {ONE: (RUN,)})
    details(
        [
            r"\hat p \in \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n},\quad z = 1.96",
            r"\bar x \pm t_{k-1,\,0.975}\; s / \sqrt{k}\quad\text{over } k \text{ trainings}",
        ],
        "Over answers: shares carry Wilson intervals, means bootstrap ones (95 %). Over trainings: Student's t "
        "interval of the mean over seeds (docs/seeds.md).\n\n"
        + metric_words.definitions((*sentences.TABLE, *sentences.SHARES), term),
        "import probe\n\nfor run in probe.list_runs():\n    print(run.name, run.status)\n    print(run.headline)\n"
        "for group in probe.seeds.groups():\n    print(group.about)\n    print(probe.seeds.headline(group))",
        {"headline-figures": figures, "lineage-of-runs": runs},
    )


if store.runs:
    page()
else:
    finding("There is no run to show yet.")
    st.markdown(EMPTY)
    draw_aside(store)
for problem in store.problems.values():
    st.warning(prose(problem))
