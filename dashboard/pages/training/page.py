"""Training: metrics of several runs in common charts, and attention, lens and completions of one run at each step."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import streamlit as st

from dashboard import data, sentences
from dashboard.analysis import draw_below, keys_of
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.rollouts import CHOICES as ROLLOUT_CHOICES
from dashboard.components.rollouts import rollouts
from dashboard.components.step_views import (
    ENLARGED,
    HEAD,
    TAB,
    Moment,
    choose_moment,
    detail_figures,
    main_figure,
    movement_figures,
)
from dashboard.components.tabs import open_tab
from dashboard.components.zoom import hold_zoom, watch_zoom, zooms_of
from dashboard.data import Store
from dashboard.inputs import Page
from dashboard.markdown import finding, guard, note
from dashboard.pages import page_file
from dashboard.pages.training.lines import Line, Section, chart_of, faults_of, is_unlike, numbers
from dashboard.seed_groups import by_member, cautions, seed_groups
from dashboard.state import DIAGNOSED, LABEL, RUNS, begin, current, keep, keep_choices, tell_again
from probe.plotting.crowds import ABOUT, MOST_LINES
from probe.plotting.curves import (
    AXES,
    RELATIVE,
    TOKENS,
    sections,
)
from probe.plotting.downsampling import POINTS
from probe.runs import captured
from probe.texts import visible

LIVE = "_live"
"""Key of whether a chosen run was training when the page was drawn; if this changes, the page is redrawn."""
MOVED = "What moved"
"""Title of the tab of the heads and layers that changed most."""
PAIRS, PAIRS_TAB = "follow_pair_layers", "Pairs"
"""Analysis of pairs through the layers, and the title of its tab."""
X, JOINED, FRONT = "x", "joined", "front"
"""Keys of the axis of the curves, of whether seeds of one training are one line, and of the runs in front of many."""
IN_FRONT = 3
"""Number of runs in front of many until the reader chooses some."""
# Seconds between two updates for a running training.
REFRESH_S = 3
# Panels of curves next to the captures; a section with more is shown in full in a tab.
PANELS = 4

SHORT = {TOKENS: "tokens"}
"""Name of an axis among the choices and in the address, if it is not that of its column."""
SMOOTHING = "Weight of the past in an exponential moving average; 0 draws the metrics as they were logged."
X_AXIS = (
    "*relative step*: the step in percent of each run's own. *tokens*: tokens in all updates so far, without padding, "
    "for runs that count them. *time*: seconds of training; the pause before a run was continued does not count."
)

DEFINITION = """
`loss` is the mean negative log-probability of the next token in nats. Smoothing is an exponential moving average,
corrected for its start; the raw curve stays behind it. Attention: rows are queries (destination), columns keys
(source), grey is what the causal mask hides. The logit lens reads the residual stream after each layer through the
final norm and the unembedding; row *embedding* is before the first layer.
"""


def default_runs(store: Store) -> list[str]:
    """Return the compared runs, or the first two."""
    choices = current()
    pair = [choices.label(choices.base), choices.label(choices.aligned)]
    return list(dict.fromkeys(label for label in pair if label)) or list(store.runs)[:2]


def live(store: Store, names: Sequence[str]) -> bool:
    """Return whether one of the runs is training now."""
    return any(store.runs[name].status == "running" for name in names if name in store.runs)


def choose_lines(store: Store, names: Sequence[str]) -> list[Line]:
    """Return the chosen runs as lines; if the reader wishes, seeds of one training are one line.

    Of more than `MOST_LINES`, those that the reader chooses are in front, and come first.
    """
    found = by_member(seed_groups(store))
    several = [name for name in names if found[name].several] if names else []
    joined = bool(several) and st.toggle(
        "Mean of seeds",
        value=True,
        key=JOINED,
        bind="query-params",
        help="Runs that differ by seed only are one line: their mean with its 95 % t interval over trainings, and each "
        "training faint behind it. Off: the chosen runs alone.",
    )
    lines: dict[str, Line] = {}
    for name in names:
        group = found.get(name)
        if not (joined and group and group.several):
            lines.setdefault(name, Line(name, name))
        elif group.title not in lines:
            lines[group.title] = Line(group.title, group.label, group)
    if len(lines) <= MOST_LINES:
        return [line.read(store) for line in lines.values()]
    front = choose_front(list(lines))
    behind = [replace(line, behind=True).outline(store) for title, line in lines.items() if title not in front]
    return [lines[title].read(store) for title in front] + behind


def choose_front(titles: Sequence[str]) -> list[str]:
    """Let the reader choose which of many lines are drawn in front of the bands."""
    if FRONT in st.session_state:
        st.session_state[FRONT] = [title for title in st.session_state[FRONT] if title in titles]
    return st.multiselect(
        "In front",
        titles,
        key=begin(FRONT, list(titles[:IN_FRONT])),
        bind="query-params",
        max_selections=MOST_LINES,
        placeholder="choose runs",
        format_func=visible,
        help=f"More than {MOST_LINES} runs are drawn as bands: from 5 to 95 % and from 25 to 75 % of the runs, and "
        "their median. The runs chosen here are drawn as lines in front of them.",
    )


def choose_section(store: Store, lines: Sequence[Line]) -> Section | None:
    """Draw widgets for the metrics and their axes; return None if nothing was logged."""
    groups = sections(list(dict.fromkeys(str(column) for line in lines for column in line.frame)))
    if not groups:
        note("The chosen runs have logged no metrics yet: give them to recorder.step(step, loss=loss).")
        return None
    lead = sentences.leading({line.title: line.frame for line in lines})
    key = keep("section", groups, next((name for name in groups if lead in groups[name]), next(iter(groups))))
    known = {column for line in lines for column in line.frame}
    axes = [axis for axis in AXES if axis in known and not (axis == "step" and is_unlike(store, lines))]
    if st.session_state.get(X) not in (None, *axes):
        st.session_state[X] = axes[0]
    for each in ("smoothing", X, "logy"):
        tell_again(each)
    with st.container(horizontal=True):
        name = st.selectbox("Metrics", list(groups), key=key, bind="query-params", format_func=visible, width=180)
        weight = st.slider(
            "Smoothing", 0.0, 0.98, 0.0, 0.02, key="smoothing", bind="query-params", width=130, help=SMOOTHING
        )
        x = st.segmented_control(
            "x axis",
            axes,
            default=axes[0],
            key=X,
            bind="query-params",
            required=True,
            help=X_AXIS,
            format_func=lambda axis: SHORT.get(axis, axis),
        )
        with st.container(width="content", gap=None):
            st.space(LABEL)
            log_y = st.toggle("Log y", key="logy", bind="query-params", help="Draw the metrics on logarithmic axes.")
    methods = {line.title: store.runs[line.label].method for line in lines}
    return Section(name, groups[name], list(lines), x or axes[0], weight, log_y, methods)


def curves(store: Store, section: Section, marker: float | None, *, all_panels: bool) -> None:
    """Draw the curves of a section: its first panels next to the captures, or all panels over the full width."""
    lines = section.drawn
    panels = section.panels if all_panels else section.panels[:PANELS]
    metrics = list(dict.fromkeys(panel.metric for panel in panels))
    columns = 4 if all_panels else min(2, len(panels))
    rows = -(-len(panels) // columns)
    title = f"{section.name} over {section.x}" + (f", all {len(metrics)} metrics" if all_panels else "")
    height = 70 + 190 * rows if all_panels else max(450, 70 + 190 * rows)
    members = [label for line in lines for label in line.members]
    source: dict[str, object] = {"runs": [str(store.runs[label].path) for label in members]}
    means = [line.group for line in lines if line.group]
    source |= {"bands": "95 % t intervals over trainings"} if means else {}
    name = "all-curves" if all_panels else "curves"
    how = marker, metrics, columns, len(panels)
    again = replace(section, lines=[line if line.behind else line.bare() for line in section.lines])
    zooms = zooms_of(name, title)
    windows = {panel: zoom.x for panel, zoom in zooms.items() if zoom.x}
    chart = hold_zoom(chart_of(store, section, *how, POINTS, windows), zooms)
    figure(
        chart,
        partial(numbers, store, again, metrics),
        name,
        title=title,
        height=height,
        source=source,
        whole=partial(chart_of, store, again, *how),
    )
    if live(store, members) or any(len(line.frame) > POINTS for line in lines if not line.behind):
        watch_zoom(name, title)
    if any(line.behind for line in lines):
        note(f"{ABOUT} Lines: the runs in front.")
    tell_faults(store, lines)
    if means:
        note(f"Line: mean over trainings; band: its 95 % t interval; faint: each training. {cautions(means)}")
    if rest := [line.title for line in section.lines if len(line.frame) and section.x not in line.frame]:
        note(
            f"Not drawn over tokens, because they log no `num_tokens`, or not all of their seeds do: {', '.join(rest)}."
        )
    worlds = [store.runs[line.label].world for line in lines]
    if any(world != worlds[0] for world in worlds) and any("loss" in metric for metric in metrics):
        note("These runs learned from texts of different worlds, so their losses are not comparable.")
    if section.x == RELATIVE and is_unlike(store, lines):
        note(
            "These runs are of different methods and lengths, so they share an axis of relative steps: the step in "
            "percent of each run's own."
        )


def tell_faults(store: Store, lines: Sequence[Line]) -> None:
    """State the worst fault of each line in front, which a triangle marks, with a link to the page Diagnosis."""
    worst = [(line, found[0]) for line in lines if not line.behind and (found := faults_of(store, line))]
    if not worst:
        return
    said = [f"{line.title}: {mark.text}" for line, mark in worst]
    more = f", and {len(said) - IN_FRONT} more" * (len(said) > IN_FRONT)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        note(f"\u25b2 A fault of training begins. {'; '.join(said[:IN_FRONT])}{more}.")
        query = {DIAGNOSED: worst[0][0].label}
        st.page_link(page_file("diagnosis"), label="Diagnosis", icon=":material/troubleshoot:", query_params=query)


def explain(store: Store, names: Sequence[str], moment: Moment | None) -> None:
    """Draw the folded section."""
    first = store.runs[names[0]]
    logged = data.metrics(first)
    metric = next((name for name in ("loss", *logged) if name in logged), "loss")
    lines = ["import probe", "", f"run = probe.open_run({str(first.path)!r})"]
    lines.append(f"run.metrics().plot(x='step', y={metric!r}, backend='plotly')")
    if moment:
        lines += [
            "from probe.runs import captured",
            f"captures = probe.open_run({str(moment.run.path)!r}).captures()",
            f"tensors, index = captures.load({moment.step}), {moment.index}",
            "attention = captured.attention(tensors, index, captures.prompts[index])  # [layers, heads, query, key]"
            if captured.has_attention(moment.tensors)
            else "lens = tensors['lens_top_logprobs'][index]  # [layers + 1, token, rank]",
        ]
    tables = {f"metrics-{name}": partial(data.metrics, store.runs[name]) for name in names[:MOST_LINES]}
    equations = [
        r"\alpha_{t,s} = \mathrm{softmax}_{s \le t}\; \langle R_t M h_t, R_s N h_s\rangle / \sqrt{d_h}",
        r"\mathrm{lens}_\ell(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(h_t^\ell)\big)",
    ]
    details(equations, DEFINITION, "\n".join(lines), tables)


def enlarged(moment: Moment) -> None:
    """Draw the chosen head and the answers; damaged captures do not hide anything else."""
    with guard():
        detail_figures(moment)


def moves(moment: Moment) -> bool:
    """Return whether the captures of a run hold attention at several steps."""
    return captured.has_attention(moment.tensors) and len(data.captures(moment.run)) > 1


def moved(moment: Moment) -> None:
    """Draw which heads and layers changed most; damaged captures do not hide anything else."""
    with guard():
        movement_figures(moment)


def pairs(moment: Moment) -> None:
    """Draw chosen and rejected completions through the layers; damaged captures do not hide anything else."""
    with guard():
        draw_below(PAIRS, Page(current(), st.container(), sides=(), given={"run": moment.run.path}))


def body() -> None:
    """Draw the page, which is updated while a chosen run is training."""
    with guard():
        store = data.read_store()
        answer = st.container()
        if not store.runs:
            with answer:
                finding("There is no run to show yet; the Overview says how to make one.")
            return
        key = begin(RUNS, default_runs(store))
        firsts = seed_groups(store)
        options = sorted(store.runs, key=lambda label: label not in firsts)  # other seeds come last
        several = any(group.several for group in firsts.values())
        left, right = st.columns([7, 2], vertical_alignment="center") if several else (st.container(), None)
        with left:
            names = st.multiselect(
                "Runs", options, key=key, bind="query-params", placeholder="choose runs", format_func=visible
            )
        with right or left:
            lines = choose_lines(store, names)
        with answer:
            frames = {line.title: line.frame for line in lines}
            methods = {line.title: store.runs[line.label].method for line in lines}
            sentence = sentences.training(frames, sentences.leading(frames), methods)
            finding(sentence if names else "Choose a run to see how it was trained.")
        if names:
            section = choose_section(store, lines)
            left, right = st.columns(2, gap="medium")
            moment = None
            with right, guard():  # damaged captures do not hide curves
                if pick := choose_moment(store, names):
                    main_figure(pick)
                    moment = pick
            if section:
                with left:
                    curves(store, section, section.marker(moment), all_panels=False)
            parts: dict[str, Callable[[], None]] = {ENLARGED: partial(enlarged, moment)} if moment else {}
            if moment and moves(moment):
                parts[MOVED] = partial(moved, moment)
            if moment and data.has_pairs(moment.run):
                parts[PAIRS_TAB] = partial(pairs, moment)
            parts["Rollouts"] = partial(rollouts, store, names)
            if section and len(section.panels) > PANELS:
                parts["All metrics"] = partial(curves, store, section, section.marker(moment), all_panels=True)
            own = {ENLARGED: (HEAD,), "Rollouts": ROLLOUT_CHOICES}
            open_tab(TAB, parts, own | ({PAIRS_TAB: keys_of([PAIRS])} if PAIRS_TAB in parts else {}))
            explain(store, names, moment)
        keep_choices()  # a fragment runs without the entrypoint
        if live(store, names) != st.session_state[LIVE]:
            st.rerun()


st.session_state[LIVE] = live(current().store, st.session_state.get(RUNS) or default_runs(current().store))
st.fragment(body, run_every=REFRESH_S if st.session_state[LIVE] else None)()
