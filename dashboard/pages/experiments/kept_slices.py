"""Slices of an experiment on its page: keep the present filter, apply a slice, compare slices, rename and remove."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import access, models
from dashboard.components.figure import figure
from dashboard.components.focus import take_focus
from dashboard.components.metric_words import words_config
from dashboard.components.table import show_table
from dashboard.markdown import guard, guard_callback, note, spin
from dashboard.pages.experiments.asking import ModelResult
from dashboard.state import keep, tell_again
from probe.experiments.comparison import ModelComparison
from probe.experiments.slice_comparison import TITLE, SliceComparison, compare_slices
from probe.experiments.slices import LONGEST, Slice, keep_slice, read_slices, remove_slice, rename_slice
from probe.plotting.notebook import title_of
from probe.texts import visible

COMPARED, METRIC = "~slices", "~slice_metric"
"""Suffixes of keys after the experiment's name: slices that are compared, and metric of the figure."""
CHOICES = (COMPARED, METRIC)
APPLIED, KEEP, NAME, EDITED, NEW_NAME = "~slice", "-keep", "~slice_name", "~slice_edited", "~slice_new_name"
"""Suffixes of further keys: slice that is applied, what keeps a new one and its name, slice that is edited and its new
name."""
SLICES = "Slices"
"""Title of the tab."""


def offer_slices(name: str, now: Slice, apply: Callable[[Slice], None], title: Callable[[str], str]) -> None:
    """Draw the choice of a slice and a button that keeps the present filter.

    Args:
        name: name of the experiment.
        now: present filter.
        apply: sets the filter to that of a slice.
        title: function from the name of a metric to its title.
    """
    slices: dict[str, Slice] = {}
    with guard():
        slices = {each.name: each for each in read_slices(name)}
    same = next((each.name for each in slices.values() if _unnamed(each) == now), None)
    if slices:

        @guard_callback
        def choose() -> None:
            apply(slices.get(st.session_state[name + APPLIED]) or Slice())

        st.session_state[name + APPLIED] = same
        st.selectbox(
            "Slice",
            list(slices),
            index=None,
            key=name + APPLIED,
            on_change=choose,
            placeholder="choose a slice",
            label_visibility="collapsed",
            width=200,
            format_func=visible,
        )
    help = "Filter the items first." if now.is_all else "Keeps these filters under a name, to apply and compare them."
    offer = st.popover(
        "Keep as a slice",
        icon=":material/bookmark_add:",
        key=name + KEEP,
        on_change="rerun",
        width="content",
        **access.button(help, disabled=now.is_all),
    )
    if offer.open and not now.is_all and access.may_write():
        with offer:
            _keep_form(name, now, same, title)


def _unnamed(each: Slice) -> Slice:
    return Slice("", each.kinds, each.text, each.show, each.metric, each.model)


def _keep_form(name: str, now: Slice, same: str | None, title: Callable[[str], str]) -> None:
    """Draw the form that keeps the present filter under a name."""

    @guard_callback
    def store() -> None:
        access.check()
        chosen = str(st.session_state[name + NAME] or "").strip()
        keep_slice(name, Slice(chosen, now.kinds, now.text, now.show, now.metric, now.model))

    note(f"Filter: {now.describe(title)}.")
    if same is not None:
        note(f"Kept as \u201c{same}\u201d. The tab Slices compares it with all other items.")
    with st.form(f"{name}-keep-form", border=False, clear_on_submit=True):
        st.text_input("Name", key=name + NAME, max_chars=LONGEST)
        if st.form_submit_button("Keep", type="primary", on_click=store):
            st.rerun()  # the whole page: the tab of slices may be new
    take_focus(name + KEEP)


def draw_slices(both: ModelComparison, outcomes: Sequence[ModelResult], slices: Sequence[Slice]) -> None:
    """Draw the comparison of slices with all other items, and what renames or removes them.

    Args:
        both: results of all models.
        outcomes: the results that `both` compares.
        slices: slices of the experiment, at least one.
    """
    name, by_name = both.experiment.name, {each.name: each for each in slices}
    left, right = st.columns([3, 2], gap="medium")
    key = tell_again(name + COMPARED)
    if key in st.session_state:
        st.session_state[key] = [each for each in st.session_state[key] if each in by_name]
    with left:
        chosen = st.multiselect(
            "Compared slices", list(by_name), key=key, bind="query-params", placeholder="all", format_func=visible
        )
    found = _compare(both, outcomes, tuple(by_name[each] for each in chosen or by_name))
    if found.names:
        _draw_comparison(found, right, name)
    for remark in found.notes:
        note(remark)
    _edit(name, by_name, lambda metric: both.term(metric).title)


def _compare(both: ModelComparison, outcomes: Sequence[ModelResult], slices: tuple[Slice, ...]) -> SliceComparison:
    results = [each.result.meta for each in outcomes if each.result is not None]
    stamps = tuple(str([meta.get(name) for name in ("key", "created", "unit", "intervals")]) for meta in results)
    labels = tuple(both.summaries)
    key = "slices", both.experiment.name, both.experiment.source, labels, stamps, slices
    known: SliceComparison | None = models.RESULTS.get(key)
    if known is None:
        with spin("Computing the metrics of the slices"):
            known = compare_slices(both.experiment, both.result, slices)
        models.RESULTS.put(key, known)
    return known


def _draw_comparison(found: SliceComparison, column: Any, name: str) -> None:
    """Draw the choice of a metric, its figure, and the table of all metrics."""
    titles = {metric: found.term(metric).title for metric in found.names}
    with column:
        key = keep(name + METRIC, found.names, found.names[0])
        metric = st.selectbox(
            "Metric of the figure",
            found.names,
            key=key,
            bind="query-params",
            format_func=lambda each: visible(titles[each]),
        )
    chart = found.figures(metric)["slices"]
    rows = found.rows[found.rows["metric"] == metric]
    figure(chart, rows, f"{name}-slices", title=title_of(chart), height=int(chart.layout.height))
    table = found.lists()[TITLE]
    show_table(table, hide_index=True, key=f"{name}-slices-table", column_config=words_config(table))


def _edit(name: str, slices: Mapping[str, Slice], title: Callable[[str], str]) -> None:
    """Draw what renames or removes a slice."""

    @guard_callback
    def change(rename: bool) -> None:
        access.check()
        old, new = st.session_state[name + EDITED], str(st.session_state[name + NEW_NAME] or "").strip()
        if rename:
            rename_slice(name, old, new)
            st.session_state[name + EDITED] = new
        else:
            remove_slice(name, old)
        st.session_state[name + NEW_NAME] = ""

    with st.expander("Rename or remove a slice", icon=":material/edit:"):
        columns = st.columns([3, 3, 2, 2], vertical_alignment="bottom", gap="small")
        with columns[0]:
            key = keep(name + EDITED, list(slices), next(iter(slices)))
            each = st.selectbox("Slice", list(slices), key=key, format_func=visible)
        with columns[1]:
            st.text_input("New name", key=name + NEW_NAME, max_chars=LONGEST)
        for column, label, icon in zip(columns[2:], ("Rename", "Remove"), ("edit", "delete"), strict=True):
            with column:
                st.button(
                    label,
                    icon=f":material/{icon}:",
                    key=f"{name}-slice-{label.lower()}",
                    width="stretch",
                    on_click=change,
                    args=(label == "Rename",),
                    **access.button(),
                )
        note(f"Filter: {slices[each].describe(title)}.")
