"""Figures of the experiment `in_context`: examples, labels, chains, pools, attention heads and function vectors.

All functions take any number of models. The Bayes-optimal values are dashed, in their own colour, and in the legend.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS
from probe.plotting.panels import Panels
from probe.plotting.series import (
    BAYES,
    MODEL,
    RATE,
    Look,
    categories,
    curve,
    exact,
    hover_texts,
    ideals,
    legend_entry,
    models_of,
    offsets,
    points,
    shaded,
)
from probe.plotting.theme import DASHES, LIGHT, escape, on_hover
from probe.terms import SHARE, VOCABULARY

KINDS = {"map": "maps", "function": "functions of the pool", "function_new": "new functions", "markov": "Markov chains"}
TEXTS = {"repeat": "repeated words", "markov": "Markov chains", "map": "maps"}
MODES = VOCABULARY["labels"]
PREDICTORS = {"unigram": "the unigram", "bigram": "the bigram", "bayes": "Bayes"}
ACCURACY = ("accuracy", "ci_low", "ci_high")


def example_curves(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw accuracy by number of examples (for chains, loss by states seen), with the exact Bayes predictors dashed.

    Args:
        table: model, kind, examples, accuracy, ci_low, ci_high, loss, loss_low, loss_high, and the Bayes columns.
        styles: style of each model.
    """
    kinds = [kind for kind in KINDS if (table["kind"] == kind).any()]
    others = table[table["kind"] != "markov"]
    if set(table[MODEL]) == set(others[MODEL]):  # `distances` says more about chains if there are other kinds
        kinds = [kind for kind in kinds if kind != "markov"]
    panels = Panels([KINDS[kind] for kind in kinds], spacing=0.09)  # room for the title of each axis
    for column, kind in enumerate(kinds, start=1):
        group = table[table["kind"] == kind]
        chain = kind == "markov"
        ends, way = (("loss", "loss_low", "loss_high"), "loss") if chain else (ACCURACY, "accuracy")
        for label, rows in models_of(group, styles):
            place, unit = (" states", "nats") if chain else (" examples", SHARE)
            hover = hover_texts(rows, label, "examples", place, ends, unit)
            mode = "lines" if chain else "lines+markers"
            panels.add(column, *shaded(rows["examples"], rows, label, styles[label], hover, ends, mode=mode))
        lines = {"Bayes": f"bayes_{way}", f"counting {'states' if chain else 'labels'}": f"counting_{way}"}
        if kind.startswith("function"):
            lines = {"Bayes": "bayes_accuracy", "Bayes over all functions": "all_accuracy"}
        lines = {name: source for name, source in lines.items() if source in group}
        for colour, ideal in ideals(group, styles, "examples", list(lines.values())):
            for name, source in lines.items():
                dash = "dash" if name == "Bayes" else "dashdot" if source.startswith("all") else "dot"
                panels.add(column, exact(ideal["examples"], ideal[source], name, dash, colour))
        panels.axis("x", column, title="states seen" if chain else "examples before the question")
        panels.axis("y", column, title="loss (nats)" if chain else "P(true answer)")
        if not chain:
            panels.axis("y", column, **RATE, zeroline=False)
    return panels.crowded()


def distances(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw KL(predictor || model) by states seen, one panel per predictor; the Bayes predictor itself is dashed."""
    panels = Panels([f"KL to {PREDICTORS[name]}" for name in PREDICTORS], spacing=0.08)
    for column, name in enumerate(PREDICTORS, start=1):
        group = table[(table["predictor"] == name) & (table["position"] > 0)]
        for label, rows in models_of(group, styles):
            hover = hover_texts(rows, label, "position", " states")
            panels.add(column, *shaded(rows["position"], rows, label, styles[label], hover, mode="lines"))
        for colour, ideal in ideals(group, styles, "position", ["ideal"]):
            panels.add(column, exact(ideal["position"], ideal["ideal"], "Bayes-optimal curve", colour=colour))
        top = max(0.05, float(group["value"].max()), float(group["ideal"].max()))
        panels.axis("y", column, range=[-0.02 * top, 1.08 * top])
    panels.axis("x", title="states seen")
    panels.axis("y", 1, title="nats")
    return panels.crowded()


def labels(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the accuracy with gold, random and permuted labels of the examples."""
    panels = Panels()
    modes = [mode for mode in MODES if (table["labels"] == mode).any()]
    groups = models_of(table, styles)
    for offset, (label, rows) in zip(offsets(len(groups)), groups, strict=True):
        rows = rows.set_index("labels").loc[modes].reset_index()
        hover = hover_texts(rows, label, "labels", " labels", ACCURACY, SHARE)
        x = [modes.index(mode) + offset for mode in rows["labels"]]
        panels.add(1, points(x, rows, label, styles[label], hover, ACCURACY))
    panels.axis("x", title="labels of the examples", **categories([MODES[mode] for mode in modes]))
    panels.axis("y", title="share of right answers", **RATE, zeroline=False)
    return panels.figure(showlegend=True)


def few_shot(table: pd.DataFrame, ablation: pd.DataFrame | None, styles: Look) -> go.Figure:
    """Draw the accuracy by number of labelled examples, and with other labels at the largest number."""
    panels = Panels(["accuracy by number of examples"] + (["with other labels"] if ablation is not None else []))
    shots = sorted(table["examples"].unique())
    for label, rows in models_of(table, styles, "examples"):
        hover = hover_texts(rows, label, "examples", " examples", ACCURACY, SHARE)
        x = [shots.index(k) for k in rows["examples"]]
        panels.add(1, *shaded(x, rows, label, styles[label], hover, ACCURACY))
    chance = float(table["chance"].iloc[0])
    panels.add(1, exact([0, len(shots) - 1], [chance, chance], "chance", "dot"))
    ticks = {"tickvals": list(range(len(shots))), "ticktext": [str(k) for k in shots]}
    panels.axis("x", 1, title="labelled examples in the prompt", **ticks)
    if ablation is not None:
        modes = [mode for mode in MODES if (ablation["labels"] == mode).any()]
        groups = models_of(ablation, styles)
        for offset, (label, rows) in zip(offsets(len(groups)), groups, strict=True):
            hover = hover_texts(rows, label, "labels", " labels", ACCURACY, SHARE)
            at = [modes.index(mode) + offset for mode in rows["labels"]]
            panels.add(2, points(at, rows, label, styles[label], hover, ACCURACY))
        panels.axis("x", 2, title="labels of the examples", **categories([MODES[mode] for mode in modes]))
    panels.axis("y", **RATE, zeroline=False)
    panels.axis("y", 1, title="share of right answers")
    return panels.crowded()


def pool_sizes(table: pd.DataFrame) -> go.Figure:
    """Draw the KL to the Bayes predictives over the pool and over all functions, by size of the training pool.

    Models that differ only in their pool form one curve (`probe.in_context.experiment.joined_curve`).

    Args:
        table: model, pool_size, tasks, kind (function, function_new), predictor (pool, all), value, ci_low, ci_high.
    """
    kinds = [kind for kind in ("function", "function_new") if (table["kind"] == kind).any()]
    panels = Panels([KINDS[kind] for kind in kinds])
    sizes = sorted(table["pool_size"].unique())
    looks = {"pool": ("#3F78C6", "circle", "to Bayes over the pool"), "all": (BAYES, "diamond", "to Bayes over all")}
    for column, kind in enumerate(kinds, start=1):
        for predictor, (colour, symbol, words) in looks.items():
            rows = table[(table["kind"] == kind) & (table["predictor"] == predictor)].sort_values("pool_size")
            hover = [
                f"{escape(label)}, {line}"
                for label, line in zip(rows[MODEL], hover_texts(rows, f"{words}, pool", "pool_size"), strict=True)
            ]
            x = [sizes.index(size) for size in rows["pool_size"]]
            trace = points(x, rows, words, Style(colour), hover)
            panels.add(column, trace.update(mode="lines+markers", marker_symbol=symbol))
    ticks = {"tickvals": list(range(len(sizes))), "ticktext": [str(size) for size in sizes]}
    title = f"functions in the pool (of {int(table['tasks'].iloc[0])})"
    panels.axis("x", title=title, range=[-0.4, len(sizes) - 0.6], **ticks)
    panels.axis("y", 1, title="KL(Bayes || model) (nats)")
    panels.axis("y", rangemode="tozero")
    return panels.crowded()


INDUCTION, RANDOM = "without its induction heads", "without random heads"


def phase_change(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the strongest head's induction score, and distances to chain predictors or held-out loss, over training.

    Args:
        table: model, step, kind, series, value, head.
        styles: style of each model.
    """
    chains = bool((table["series"] == "kl_bayes").any()) and not (table["kind"] == "repeat").any()
    titles = ["induction score of the strongest head"]
    titles += ["KL of predictions on chains (nats)"] if chains else ["held-out loss (nats)"]
    panels = Panels(titles)
    kinds = [kind for kind in TEXTS if (table["kind"] == kind).any()]
    many = table[MODEL].nunique() > 1
    for label, rows in models_of(table, styles):
        looks = (("kl_unigram", "dot", "to the unigram"), ("kl_bayes", "solid", "to Bayes")) if chains else ()
        drawn = [(1, kind, "induction", dash, "{}: {} on {}") for kind, dash in zip(kinds, DASHES, strict=False)]
        drawn += [(2, "markov", series, dash, f"{{}} {words}" if many else words) for series, dash, words in looks]
        drawn += [
            (2, kind, "loss", dash, "{0} on {2}") for kind, dash in zip(kinds, DASHES, strict=False) if not chains
        ]
        for column, kind, series, dash, words in drawn:
            part = rows[(rows["kind"] == kind) & (rows["series"] == series)]
            if not len(part):
                continue
            name, style = words.format(label, part["head"].iloc[0], TEXTS[kind]), Style(styles[label].colour, dash)
            trace = curve(part["step"], part["value"], name, style, _steps(name, part))
            panels.add(column, trace.update(showlegend=series != "loss"))
    if chains:
        counting = table[table["series"] == "counting"]
        for colour, ideal in ideals(counting, styles, "step", ["value"]):
            panels.add(2, exact(ideal["step"], ideal["value"], "unigram to Bayes", colour=colour))
        level = float(counting["value"].max())
        panels.axis("y", 2, range=[-0.02 * level, 2.2 * level])
    panels.mark(1, {"color": LIGHT.muted, "width": 0.8}, y=0)
    panels.axis("y", 1, range=[min(-0.1, float(table.loc[table["series"] == "induction", "value"].min())) - 0.02, 1.03])
    panels.axis("x", title="training step")
    return panels.crowded()


def repeats(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the loss of random tokens by position in the segment, at its first and its second occurrence."""
    panels = Panels()
    for label, rows in models_of(table, styles):
        for when, words, dash in (("early", "first time", "dot"), ("late", "second time", "solid")):
            part = rows[rows["when"] == when]
            name = f"{label}, {words}"
            style, hover = Style(styles[label].colour, dash), hover_texts(part, name, "token")
            panels.add(1, *shaded(part["token"], part, name, style, hover))
    panels.axis("x", title="position in the segment of random tokens")
    panels.axis("y", title="loss (nats)", rangemode="tozero")
    return panels.figure(showlegend=True)


def ablation(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the in-context loss with all heads, without induction heads (cross), and without as many random ones."""
    panels = Panels()
    texts = [name for name in TEXTS if (table["texts"] == name).any()]
    looks = {"as it is": ("line-ew-open", 16), RANDOM: ("circle-open", 7), INDUCTION: ("x", 11)}
    groups = models_of(table, styles)
    for offset, (label, rows) in zip(offsets(len(groups)), groups, strict=True):
        colour = styles[label].colour
        name = {"name": escape(label), "legendgroup": label}
        mark = {"color": colour, "symbol": "square", "size": 9}
        panels.add(1, legend_entry(escape(label), legendgroup=label, marker=mark))
        places = {name: at + offset for at, name in enumerate(texts)}
        whole = rows.drop_duplicates("texts")
        traces = [("as it is", whole["texts"], whole["before"], ["as it is"] * len(whole))]
        for group, words in (("random", RANDOM), ("induction", INDUCTION)):
            part = rows[rows["group"] == group]
            traces.append((words, part["texts"], part["loss"], list(part["heads"])))
        for words, names, values, heads in traces:
            symbol, size = looks[words]
            hover = [
                f"{escape(label)}, {escape(str(head))}: {value:.3f} nats"
                for head, value in zip(heads, values, strict=True)
            ]
            marks = go.Scatter(
                x=[places[name] for name in names],
                y=values,
                mode="markers",
                showlegend=False,
                marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}},
                **name,
                **on_hover(hover),
            )
            panels.add(1, marks)
    for words, (symbol, size) in looks.items():
        mark = {"color": LIGHT.muted, "symbol": symbol, "size": size, "line": {"width": 2, "color": LIGHT.muted}}
        panels.add(1, legend_entry(words, marker=mark))
    panels.axis("x", **categories([TEXTS[name] for name in texts]))
    panels.axis("y", title="in-context loss (nats)", rangemode="tozero")
    return panels.figure(showlegend=True)


def heads(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw each head's induction score against the loss added by its ablation, or against its copying score."""
    panels = Panels()
    only_ablation = "ablation" in table and table["ablation"].notna().all()
    y = "ablation" if only_ablation else "copying"
    spacing = 0.16 * np.ptp(table["scaled"]), 0.06 * np.ptp(table[y])
    places: list[tuple[float, float]] = []

    def word(name: str, place: tuple[float, float]) -> str:
        """Return the name of a head as its label; empty if another label is too near."""
        if any(abs(place[0] - x) <= spacing[0] and abs(place[1] - up) <= spacing[1] for x, up in places):
            return ""
        places.append(place)
        return f"{name} "

    for label, rows in models_of(table, styles, "name"):
        hover = [f"{escape(label)} {r.name}: induction {r.scaled:.2f}" for r in rows.itertuples(index=False)]
        top = rows["scaled"].max()
        marks = go.Scatter(
            x=rows["scaled"],
            y=rows[y],
            mode="markers+text",
            name=escape(label),
            text=[
                word(name, (value, cost)) if value == top or cost == rows[y].max() else ""
                for name, value, cost in zip(rows["name"], rows["scaled"], rows[y], strict=True)
            ],
            textposition="middle left",
            marker={"color": styles[label].colour, "symbol": SYMBOLS[styles[label].dash], "size": 8},
            **on_hover(hover),
        )
        panels.add(1, marks)
    panels.axis("x", title="induction score (0: uniform attention, 1: all on what followed)")
    title = "loss added without the head (nats)" if only_ablation else "copying score on random tokens (-1 to 1)"
    panels.axis("y", title=title)
    return panels.figure(showlegend=True)


def _steps(name: str, rows: pd.DataFrame) -> list[str]:
    return [f"{escape(name)}, step {row.step:,}: {row.value:.3f}" for row in rows.itertuples()]


VECTORS = {
    "own": ("solid", "vector of the examples"),
    "shuffled": ("dash", "vector of permuted labels"),
    "plain": ("dot", "no vector"),
}
"""Dash and name of each vector; colours distinguish the models."""
PANELS = {"p_true": "probability of the true label", "accuracy": "the likeliest label is right"}


def text_vectors(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Draw the probability of the true label and the accuracy among the labels, without a vector and with each.

    Args:
        table: model, block, vector (plain, own, shuffled), p_true, ci_low, ci_high, accuracy, accuracy_low,
            accuracy_high, n.
        styles: style of each model.
    """
    panels = Panels(list(PANELS.values()))
    for column, ends in enumerate((("p_true", "ci_low", "ci_high"), ("accuracy", "accuracy_low", "accuracy_high")), 1):
        for label, rows in models_of(table, styles, "block"):
            for vector, (dash, words) in VECTORS.items():
                group = rows[rows["vector"] == vector]
                name, style = f"{label}: {words}", Style(styles[label].colour, dash)
                hover = hover_texts(group, name, "block", ". block", ends, SHARE)
                mode = "lines" if vector == "plain" else "lines+markers"
                traces = shaded(group["block"], group, name, style, hover, ends, mode=mode)
                panels.add(column, *(traces if vector == "own" else traces[1:]))  # other bands would cover this one
    panels.axis("x", title="block after which the vector is added")
    panels.axis("y", **RATE, zeroline=False)
    panels.axis("y", 1, title="mean over queries")
    return panels.crowded()


def by_size(curve: pd.DataFrame) -> dict[str, Style]:
    """Choose a colour for each model of a curve over pools, from blue for small pools to green for large ones."""
    models = curve.drop_duplicates(MODEL)
    sizes = sorted(models["pool_size"].unique())
    colours = dict(zip(sizes, sample_colorscale("Viridis", list(np.linspace(0.25, 0.8, len(sizes)))), strict=True))
    twice = models.groupby("pool_size").cumcount()  # models with pools of the same size differ by dash
    return {
        str(label): Style(colours[size], DASHES[index % len(DASHES)])
        for label, size, index in zip(models[MODEL], models["pool_size"], twice, strict=True)
    }
