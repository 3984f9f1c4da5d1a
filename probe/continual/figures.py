"""Figures of the experiment `continual`, from its tidy tables, for any number of models."""

import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import Style, legend_entry
from probe.plotting.intervals import percent
from probe.plotting.panels import Panels
from probe.plotting.series import MODEL, RATE, Look, categories, curve_with_band, hover_texts, level, offsets, points
from probe.plotting.theme import DASHES, LIGHT, METHODS, escape
from probe.terms import DIFFERENCE, SHARE

NAMES = {"plain": "plain", "replay": "replay", "ewc": "EWC", "first": "learned first"}
TASK_COLOURS = (
    METHODS["dpo"],
    METHODS["rlhf"],
    METHODS["rsft"],
    METHODS["sft"],
    METHODS["rlvr"],
    METHODS["reward-model"],
)
LEARNING = {
    "first": METHODS["pretrain"],
    "plain": METHODS["continual"],
    "replay": METHODS["rlvr"],
    "ewc": METHODS["reward-model"],
}
SHOWN = {"ACC": "final<br>accuracy", "forgetting": "forgetting", "old_forgetting": "forgetting of<br>the base's facts"}


def over_phases(table: pd.DataFrame, measures: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the accuracy on each task after each phase, one panel per strategy, with the forgetting in its title.

    Args:
        table: model, strategy, task, after, value, ci_low, ci_high, n.
        measures: model, strategy, metric, value, ci_low, ci_high.
        look: style of each model; models are distinguished by dash, tasks by colour.
    """
    strategies, tasks = (list(dict.fromkeys(table[name])) for name in ("strategy", "task"))
    models = list(dict.fromkeys(table[MODEL]))
    whose = f"{escape(str(models[0]))} " if len(models) > 1 else ""
    titles = [_title(strategy, measures[measures[MODEL] == models[0]], whose) for strategy in strategies]
    panels = Panels(titles, spacing=0.035, shared_y=True)
    colours = dict(zip([task for task in tasks if task != "old"], TASK_COLOURS * len(tasks), strict=False))
    colours["old"] = METHODS["pretrain"]
    for column, strategy in enumerate(strategies, start=1):
        for order, model in enumerate(models):
            for task in tasks:
                mask = (table["strategy"] == strategy) & (table["task"] == task) & (table[MODEL] == model)
                name = "what the base knew" if task == "old" else task.replace("_", " ")
                style, label = Style(colours[task], DASHES[order % len(DASHES)]), f"{name} ({model})"
                rows = table[mask].sort_values("after")
                panels.add(column, *curve_with_band(rows, "after", name, style, named=order == 0, hover=label))
    if len(models) > 1:
        for order, model in enumerate(models):
            line = {"color": LIGHT.muted, "dash": DASHES[order % len(DASHES)], "width": 2}
            panels.add(1, legend_entry(escape(model), line=line))
    last = int(table["after"].max())
    panels.axis("x", tickvals=list(range(last + 1)), range=[-0.15, last + 0.15], title="phases learned")
    panels.axis("y", **RATE)
    panels.axis("y", 1, title="accuracy")
    return panels.figure(showlegend=True)


def measures(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw final accuracy, forgetting, and forgetting of the base model's knowledge, by strategy.

    Args:
        table: model, strategy, metric, value, ci_low, ci_high, n.
        look: style of each model.
    """
    metrics = [metric for metric in SHOWN if (table["metric"] == metric).any()]
    strategies, models = list(dict.fromkeys(table["strategy"])), list(dict.fromkeys(table[MODEL]))
    panels = Panels([SHOWN[metric] for metric in metrics], spacing=0.04, shared_y=True)
    for column, metric in enumerate(metrics, start=1):
        unit = SHARE if metric == "ACC" else DIFFERENCE
        level(panels, column, (-0.5, len(strategies) - 0.5), (0, 0), "nothing")
        for shift, model in zip(offsets(len(models)), models, strict=True):
            rows = table[(table["metric"] == metric) & (table[MODEL] == model)].set_index("strategy")
            rows = rows.reindex(strategies)
            places = [place + shift for place in range(len(strategies))]
            panels.add(column, points(places, rows, model, look[model], hover_texts(rows, model, unit=unit)))
    ticks = [NAMES.get(strategy, strategy) for strategy in strategies]
    panels.axis("x", **categories(ticks))
    low = min(0.0, float(table[table["metric"].isin(metrics)]["ci_low"].min()))
    panels.axis("y", range=[low - 0.05, 1.03], tickformat=".0%")
    panels.axis("y", 1, title="share of answers")
    return panels.figure(showlegend=True)


def learning(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how the first phase is learned for the first time, and again after all phases; one panel per model.

    Args:
        table: model, learning (`first` or a strategy), step, value, ci_low, ci_high, n, target.
        look: style of each model.
    """
    models = list(dict.fromkeys(table[MODEL]))
    panels = Panels([escape(model) for model in models], spacing=0.06, shared_y=True)
    last = int(table["step"].max())
    for column, model in enumerate(models, start=1):
        target = float(table["target"].iloc[0])
        level(panels, column, (0, last), (target, target), "target")
        for source in dict.fromkeys(table["learning"]):
            rows = table[(table[MODEL] == model) & (table["learning"] == source)].sort_values("step")
            name = NAMES.get(source, source) if source == "first" else f"again after {NAMES.get(source, source)}"
            panels.add(column, *curve_with_band(rows, "step", name, Style(LEARNING[source])))
    panels.axis("x", title="steps", range=[-0.02 * last, 1.02 * last])
    panels.axis("y", **RATE)
    panels.axis("y", 1, title="accuracy on phase 0")
    return panels.figure(showlegend=True)


def _title(strategy: str, table: pd.DataFrame, prefix: str) -> str:
    """Return the strategy with its forgetting; for several models the share of the first, without interval."""
    name = NAMES.get(strategy, strategy)
    rows = table[(table["strategy"] == strategy) & (table["metric"] == "forgetting")]
    if not len(rows):
        return name
    row = rows.iloc[0]
    share = f"{100 * row['value']:.0f} %" if prefix else percent(row["value"], row["ci_low"], row["ci_high"])
    return f"{name}: {prefix}forgets {share}"
