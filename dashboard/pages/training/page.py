"""Training: metrics of several runs in common charts, and attention, lens and completions of one run at each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import data, sentences
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.rollouts import CHOICES as ROLLOUT_CHOICES
from dashboard.components.rollouts import rollouts
from dashboard.components.step_views import ENLARGED, HEAD, TAB, Moment, choose_moment, detail_figures, main_figure
from dashboard.components.tabs import open_tab
from dashboard.data import Store
from dashboard.markdown import finding, guard, note
from dashboard.seed_groups import SeedGroup, by_member, cautions, group_curves, seed_groups
from dashboard.state import RUNS, begin, current, keep, keep_choices, tell_again
from probe.plotting.curves import (
    AXES,
    RELATIVE,
    TOKENS,
    MetricPanel,
    Spread,
    metric_curves,
    metric_panels,
    sections,
    with_axes,
)
from probe.runs import captured
from probe.runs.reader import Run
from probe.texts import visible

LIVE = "_live"
"""Key of whether a chosen run was training when the page was drawn; if this changes, the page is redrawn."""
X, JOINED = "x", "joined"
"""Keys of the axis of the curves, and of whether seeds of one training are one line."""
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

LABEL = 32
"""Height of a label above a widget, in pixels."""
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


@dataclass(frozen=True)
class Line:
    """A line in each panel: a run, or the mean of a group of seeds."""

    title: str
    label: str
    """Label of the run, or of a group's first member."""
    frame: pd.DataFrame
    spread: Spread | None = None
    """Interval around a mean."""
    group: SeedGroup | None = None
    """Group whose mean is drawn."""


@dataclass(frozen=True)
class Section:
    """A section of the page: chosen metrics and their display."""

    name: str
    metrics: list[str]
    lines: list[Line]
    """Lines with the columns of all axes that are known for them."""
    x: str
    """Column of the horizontal axis."""
    weight: float
    log_y: bool
    methods: dict[str, str]
    """Method of each line, by its title."""

    @property
    def drawn(self) -> list[Line]:
        """The lines that have the axis."""
        return [line for line in self.lines if self.x in line.frame]

    @property
    def panels(self) -> list[MetricPanel]:
        """The panels of its metrics, one per quantity."""
        return metric_panels({line.title: line.frame for line in self.drawn}, self.metrics, self.methods)

    def marker(self, moment: Moment | None) -> float | None:
        """Return the position of the captures' step on the axis; None if the run logged nothing at that step."""
        if moment is None:
            return None
        if self.x == "step":
            return moment.step
        frame = data.metrics(moment.run)
        steps = length(moment.run, frame)
        if self.x == RELATIVE:
            return 100 * moment.step / max(1, steps)
        rows = with_axes(frame, steps).reindex(columns=["step", self.x]).dropna()
        places = rows.loc[rows["step"] == moment.step, self.x]
        return float(places.iloc[0]) if len(places) else None


def length(run: Run, frame: pd.DataFrame) -> int:
    """Return the number of steps of a run: those logged or, during training, those requested."""
    logged = int(frame["step"].max()) if len(frame) else 0
    setting = run.config.get("steps")
    return max(logged, setting) if run.status == "running" and type(setting) is int else logged


def choose_lines(store: Store, names: Sequence[str]) -> list[Line]:
    """Return the chosen runs as lines; if the reader wishes, seeds of one training are one line."""
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
            lines.setdefault(name, Line(name, name, data.metrics(store.runs[name])))
        elif group.title not in lines:
            mean = group_curves(group)
            spread = Spread(mean.low, mean.high, list(mean.members.values()))
            lines[group.title] = Line(group.title, group.label, mean.mean, spread, group)
    return list(lines.values())


def is_unlike(store: Store, lines: Sequence[Line]) -> bool:
    """Return whether runs of different methods have different numbers of steps, so that steps are not comparable."""
    logged = [line for line in lines if len(line.frame)]
    methods = {store.runs[line.label].method for line in logged}
    return len(methods) > 1 and len({length(store.runs[line.label], line.frame) for line in logged}) > 1


def choose_section(store: Store, lines: Sequence[Line]) -> Section | None:
    """Draw widgets for the metrics and their axes; return None if nothing was logged."""
    groups = sections(list(dict.fromkeys(str(column) for line in lines for column in line.frame)))
    if not groups:
        note("The chosen runs have logged no metrics yet: give them to recorder.step(step, loss=loss).")
        return None
    lead = sentences.leading({line.title: line.frame for line in lines})
    key = keep("section", groups, next((name for name in groups if lead in groups[name]), next(iter(groups))))
    lines = [with_line_axes(store, line) for line in lines]
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
    return Section(name, groups[name], lines, x or axes[0], weight, log_y, methods)


def with_line_axes(store: Store, line: Line) -> Line:
    """Return the line with the columns of all axes in its tables; a mean has tokens if each of its trainings has."""
    steps = length(store.runs[line.label], line.frame)
    frame, spread = with_axes(line.frame, steps), line.spread
    if spread is None:
        return replace(line, frame=frame)
    members = [with_axes(each, steps) for each in spread.members]
    if any(TOKENS not in each for each in members):
        frame = frame.drop(columns=TOKENS, errors="ignore")
    shared = {axis: frame[axis] for axis in (RELATIVE, TOKENS) if axis in frame}
    low, high = (each.assign(**shared) for each in (spread.low, spread.high))
    return replace(line, frame=frame, spread=Spread(low, high, members))


def curves(store: Store, section: Section, marker: float | None, *, all_panels: bool) -> None:
    """Draw the curves of a section: its first panels next to the captures, or all panels over the full width."""
    lines, look = section.drawn, store.style()
    panels = section.panels if all_panels else section.panels[:PANELS]
    metrics = list(dict.fromkeys(panel.metric for panel in panels))
    columns = 4 if all_panels else min(2, len(panels))
    rows = -(-len(panels) // columns)
    chart = metric_curves(
        {line.title: line.frame for line in lines},
        metrics,
        {line.title: look[line.label] for line in lines},
        methods=section.methods,
        x=section.x,
        weight=section.weight,
        log_y=section.log_y,
        marker=marker,
        columns=columns,
        spreads={line.title: line.spread for line in lines if line.spread},
        most=len(panels),
    )
    title = f"{section.name} over {section.x}" + (f", all {len(metrics)} metrics" if all_panels else "")
    height = 70 + 190 * rows if all_panels else max(450, 70 + 190 * rows)
    members = [label for line in lines for label in (line.group.members if line.group else [line.label])]
    source: dict[str, object] = {"runs": [str(store.runs[label].path) for label in members]}
    means = [line.group for line in lines if line.group]
    source |= {"bands": "95 % t intervals over trainings"} if means else {}
    name = "all-curves" if all_panels else "curves"
    figure(chart, table(lines, metrics), name, title=title, height=height, source=source)
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


def table(lines: Sequence[Line], metrics: Sequence[str]) -> pd.DataFrame:
    """Return the numbers behind the curves: one row per line and step; for means with the ends of their intervals."""
    parts = []
    for line in lines:
        rows = line.frame.reindex(columns=[*AXES, *metrics]).assign(run=line.title)
        if line.spread and line.group:
            ends = {
                f"{m}_{end}": each[m]
                for m in metrics
                for end, each in (("low", line.spread.low), ("high", line.spread.high))
                if m in each
            }
            rows = rows.assign(**ends, trainings=line.group.group.count)
        parts.append(rows)
    whole = pd.concat(parts, ignore_index=True)
    return whole[["run", *(column for column in whole if column != "run")]]


def explain(store: Store, names: Sequence[str], moment: Moment | None) -> None:
    """Draw the folded section."""
    first = store.runs[names[0]]
    metric = next((name for name in ("loss", *data.metrics(first)) if name in data.metrics(first)), "loss")
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
    tables = {f"metrics-{name}": data.metrics(store.runs[name]) for name in names}
    equations = [
        r"\alpha_{t,s} = \mathrm{softmax}_{s \le t}\; \langle R_t M h_t, R_s N h_s\rangle / \sqrt{d_h}",
        r"\mathrm{lens}_\ell(t) = \mathrm{softmax}\big(W_{out}\, \mathrm{norm}(h_t^\ell)\big)",
    ]
    details(equations, DEFINITION, "\n".join(lines), tables)


def enlarged(moment: Moment) -> None:
    """Draw the chosen head and the answers; damaged captures do not hide anything else."""
    with guard():
        detail_figures(moment)


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
            parts["Rollouts"] = partial(rollouts, store, names)
            if section and len(section.panels) > PANELS:
                parts["All metrics"] = partial(curves, store, section, section.marker(moment), all_panels=True)
            open_tab(TAB, parts, {ENLARGED: (HEAD,), "Rollouts": ROLLOUT_CHOICES})
            explain(store, names, moment)
        keep_choices()  # a fragment runs without the entrypoint
        if live(store, names) != st.session_state[LIVE]:
            st.rerun()


st.session_state[LIVE] = live(current().store, st.session_state.get(RUNS) or default_runs(current().store))
st.fragment(body, run_every=REFRESH_S if st.session_state[LIVE] else None)()
