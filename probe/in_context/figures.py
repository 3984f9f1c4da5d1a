"""Figures of the experiment `in_context`: examples, labels, chains and pools, the heads behind them, function vectors.

All are of any number of models. What Bayes' rule says is drawn dashed in its own colour, and named.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, band
from probe.plotting.panels import (
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
    panels,
    points,
)
from probe.plotting.theme import DASHES, LIGHT, escape, new_figure
from probe.terms import SHARE

KINDS = {"map": "maps", "function": "functions of the pool", "function_new": "new functions", "markov": "Markov chains"}
TEXTS = {"repeat": "repeated words", "markov": "Markov chains", "map": "maps"}
MODES = {"gold": "gold", "random": "random", "permuted": "permuted", "flipped": "flipped"}
PREDICTORS = {"unigram": "the unigram", "bigram": "the bigram", "bayes": "Bayes"}
ACCURACY = ("accuracy", "ci_low", "ci_high")


def example_curves(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Accuracy by number of examples (loss by states seen, of chains), with the exact Bayes predictors dashed.

    Args:
        table: model, kind, examples, accuracy, ci_low, ci_high, loss, loss_low, loss_high, and the Bayes columns.
        styles: of each model.
    """
    kinds = [kind for kind in KINDS if (table["kind"] == kind).any()]
    others = table[table["kind"] != "markov"]
    if set(table[MODEL]) == set(others[MODEL]):  # of chains beside them `distances` says more
        kinds = [kind for kind in kinds if kind != "markov"]
    figure = panels([KINDS[kind] for kind in kinds])
    in_legend: set[str] = set()
    for column, kind in enumerate(kinds, start=1):
        group = table[table["kind"] == kind]
        chain = kind == "markov"
        value, low, high = ("loss", "loss_low", "loss_high") if chain else ("accuracy", "ci_low", "ci_high")
        for label, rows in models_of(group, styles):
            place, unit = (" states", "nats") if chain else (" examples", SHARE)
            hover = hover_texts(rows, label, "examples", place, (value, low, high), unit)
            figure.add_trace(band(rows["examples"], rows[low], rows[high], styles[label].colour), row=1, col=column)
            trace = curve(rows["examples"], rows[value], label, styles[label], hover, marks=not chain)
            trace.update(showlegend=label not in in_legend, legendgroup=label)
            in_legend.add(label)
            figure.add_trace(trace, row=1, col=column)
        way = "loss" if chain else "accuracy"
        lines = {"Bayes": f"bayes_{way}", f"counting {'states' if chain else 'labels'}": f"counting_{way}"}
        if kind.startswith("function"):
            lines = {"Bayes": "bayes_accuracy", "Bayes over all functions": "all_accuracy"}
        lines = {name: source for name, source in lines.items() if source in group}
        for colour, ideal in ideals(group, styles, "examples", list(lines.values())):
            for name, source in lines.items():
                dash = "dash" if name == "Bayes" else "dashdot" if source.startswith("all") else "dot"
                trace = exact(ideal["examples"], ideal[source], name, dash, colour)
                trace.update(showlegend=name not in in_legend, legendgroup=name)
                in_legend.add(name)
                figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="states seen" if chain else "examples before the question", row=1, col=column)
        figure.update_yaxes(title_text="loss (nats)" if chain else "P(true answer)", row=1, col=column)
        if not chain:
            figure.update_yaxes(**RATE, zeroline=False, row=1, col=column)
    return figure


def distances(table: pd.DataFrame, styles: Look) -> go.Figure:
    """KL(predictor || model) by states seen, one panel a predictor; dashed: the Bayes predictor itself."""
    figure = panels([f"KL to {PREDICTORS[name]}" for name in PREDICTORS], gap=0.16)
    for column, name in enumerate(PREDICTORS, start=1):
        group = table[(table["predictor"] == name) & (table["position"] > 0)]
        for label, rows in models_of(group, styles):
            hover = hover_texts(rows, label, "position", " states")
            figure.add_trace(
                band(rows["position"], rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=column
            )
            trace = curve(rows["position"], rows["value"], label, styles[label], hover, marks=False)
            figure.add_trace(trace.update(showlegend=column == 1), row=1, col=column)
        for index, (colour, ideal) in enumerate(ideals(group, styles, "position", ["ideal"])):
            trace = exact(ideal["position"], ideal["ideal"], "what Bayes' rule would show", colour=colour)
            figure.add_trace(trace.update(showlegend=column == 1 and index == 0), row=1, col=column)
        top = max(0.05, float(group["value"].max()), float(group["ideal"].max()))
        figure.update_yaxes(range=[-0.02 * top, 1.08 * top], row=1, col=column)
    figure.update_xaxes(title_text="states seen")
    figure.update_yaxes(title_text="nats", row=1, col=1)
    return figure


def labels(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Accuracy with gold, random and permuted labels of the examples."""
    figure = new_figure(hovermode="closest", showlegend=True)
    modes = [mode for mode in MODES if (table["labels"] == mode).any()]
    groups = models_of(table, styles)
    for offset, (label, rows) in zip(offsets(len(groups)), groups, strict=True):
        rows = rows.set_index("labels").loc[modes].reset_index()
        hover = hover_texts(rows, label, "labels", " labels", ACCURACY, SHARE)
        x = [modes.index(mode) + offset for mode in rows["labels"]]
        figure.add_trace(points(x, rows, label, styles[label], hover, ACCURACY))
    categories(figure, [MODES[mode] for mode in modes], "labels of the examples")
    figure.update_yaxes(title_text="share of right answers", **RATE, zeroline=False)
    return figure


def few_shot(table: pd.DataFrame, ablation: pd.DataFrame | None, styles: Look) -> go.Figure:
    """Accuracy by number of labelled examples, and with other labels at the largest number."""
    figure = panels(["accuracy by number of examples"] + (["with other labels"] if ablation is not None else []))
    shots = sorted(table["examples"].unique())
    for label, rows in models_of(table, styles, "examples"):
        hover = hover_texts(rows, label, "examples", " examples", ACCURACY, SHARE)
        x = [shots.index(k) for k in rows["examples"]]
        figure.add_trace(band(x, rows["ci_low"], rows["ci_high"], styles[label].colour), row=1, col=1)
        figure.add_trace(curve(x, rows["accuracy"], label, styles[label], hover), row=1, col=1)
    chance = float(table["chance"].iloc[0])
    figure.add_trace(exact([0, len(shots) - 1], [chance, chance], "chance", "dot"), row=1, col=1)
    figure.update_xaxes(tickvals=list(range(len(shots))), ticktext=[str(k) for k in shots], row=1, col=1)
    figure.update_xaxes(title_text="labelled examples in the prompt", row=1, col=1)
    if ablation is not None:
        modes = [mode for mode in MODES if (ablation["labels"] == mode).any()]
        groups = models_of(ablation, styles)
        for offset, (label, rows) in zip(offsets(len(groups)), groups, strict=True):
            hover = hover_texts(rows, label, "labels", " labels", ACCURACY, SHARE)
            at = [modes.index(mode) + offset for mode in rows["labels"]]
            trace = points(at, rows, label, styles[label], hover, ACCURACY)
            figure.add_trace(trace.update(showlegend=False), row=1, col=2)
        categories(figure, [MODES[mode] for mode in modes], "labels of the examples", row=1, col=2)
    figure.update_yaxes(**RATE, zeroline=False)
    figure.update_yaxes(title_text="share of right answers", row=1, col=1)
    return figure


def pool_sizes(table: pd.DataFrame, styles: Look | None = None) -> go.Figure:
    """KL to the Bayes predictive over the pool and over all functions, by size of the pool that a model was trained on.

    Models that differ in their pool alone make one curve (`probe.in_context.pools`).

    Args:
        table: model, pool_size, tasks, kind (function, function_new), predictor (pool, all), value, ci_low, ci_high.
        styles: not needed; colours tell the predictors.
    """
    kinds = [kind for kind in ("function", "function_new") if (table["kind"] == kind).any()]
    figure = panels([KINDS[kind] for kind in kinds])
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
            trace.update(mode="lines+markers", marker_symbol=symbol, showlegend=column == 1, legendgroup=predictor)
            figure.add_trace(trace, row=1, col=column)
        tasks = int(table["tasks"].iloc[0])
        figure.update_xaxes(
            title_text=f"functions in the pool (of {tasks})",
            tickvals=list(range(len(sizes))),
            ticktext=[str(size) for size in sizes],
            row=1,
            col=column,
        )
        figure.update_xaxes(range=[-0.4, len(sizes) - 0.6], row=1, col=column)
    figure.update_yaxes(title_text="KL(Bayes || model) (nats)", row=1, col=1)
    figure.update_yaxes(rangemode="tozero")
    return figure


INDUCTION, RANDOM = "without its induction heads", "without random heads"


def phase_change(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Induction score of the strongest head, and distances to the predictors of chains, over the captured steps.

    Args:
        table: model, step, kind, series, value, head.
        styles: of each model.
    """
    chains = bool((table["series"] == "kl_bayes").any()) and not (table["kind"] == "repeat").any()
    titles = ["induction score of the strongest head"]
    titles += ["distance of predictions on chains (nats)"] if chains else ["held-out loss (nats)"]
    figure = panels(titles)
    kinds = [kind for kind in TEXTS if (table["kind"] == kind).any()]
    many = table[MODEL].nunique() > 1
    for label, rows in models_of(table, styles):
        for kind, dash in zip(kinds, ("solid", "dash", "dot"), strict=False):
            part = rows[(rows["kind"] == kind) & (rows["series"] == "induction")]
            if not len(part):
                continue
            name = f"{label}: {part['head'].iloc[0]} on {TEXTS[kind]}"
            trace = curve(part["step"], part["value"], name, Style(styles[label].colour, dash), _steps(name, part))
            figure.add_trace(trace, row=1, col=1)
        looks = (("kl_unigram", "dot", "to the unigram"), ("kl_bayes", "solid", "to Bayes")) if chains else ()
        for series, dash, words in looks:
            part = rows[(rows["kind"] == "markov") & (rows["series"] == series)]
            name = f"{label} {words}" if many else words
            trace = curve(part["step"], part["value"], name, Style(styles[label].colour, dash), _steps(name, part))
            figure.add_trace(trace, row=1, col=2)
        for kind, dash in zip(kinds, ("solid", "dash", "dot"), strict=False):
            part = rows[(rows["kind"] == kind) & (rows["series"] == "loss")]
            if not chains and len(part):
                name = f"{label} on {TEXTS[kind]}"
                trace = curve(part["step"], part["value"], name, Style(styles[label].colour, dash), _steps(name, part))
                figure.add_trace(trace.update(showlegend=False), row=1, col=2)
    if chains:
        counting = table[table["series"] == "counting"]
        for index, (colour, ideal) in enumerate(ideals(counting, styles, "step", ["value"])):
            trace = exact(ideal["step"], ideal["value"], "unigram to Bayes", colour=colour)
            figure.add_trace(trace.update(showlegend=index == 0), row=1, col=2)
        level = float(counting["value"].max())
        figure.update_yaxes(range=[-0.02 * level, 2.2 * level], row=1, col=2)
    figure.add_hline(y=0, line={"color": LIGHT.muted, "width": 0.8}, row=1, col=1)
    figure.update_yaxes(
        range=[min(-0.1, float(table.loc[table["series"] == "induction", "value"].min())) - 0.02, 1.03], row=1, col=1
    )
    figure.update_xaxes(title_text="training step")
    return figure


def repeats(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Loss of random tokens by their place in the segment, the first and the second time they are written."""
    figure = new_figure(hovermode="closest", showlegend=True)
    for label, rows in models_of(table, styles):
        for when, words, dash in (("early", "first time", "dot"), ("late", "second time", "solid")):
            part = rows[rows["when"] == when]
            name = f"{label}, {words}"
            hover = hover_texts(part, name, "token")
            figure.add_trace(band(part["token"], part["ci_low"], part["ci_high"], styles[label].colour))
            figure.add_trace(curve(part["token"], part["value"], name, Style(styles[label].colour, dash), hover))
    figure.update_xaxes(title_text="place in the segment of random tokens")
    figure.update_yaxes(title_text="loss (nats)", rangemode="tozero")
    return figure


def ablation(table: pd.DataFrame, styles: Look) -> go.Figure:
    """In-context loss of each model as it is, without its induction heads (cross), and without as many random ones."""
    figure = new_figure(hovermode="closest", showlegend=True)
    texts = [name for name in TEXTS if (table["texts"] == name).any()]
    looks = {"as it is": ("line-ew-open", 16), RANDOM: ("circle-open", 7), INDUCTION: ("x", 11)}
    groups = models_of(table, styles)
    for offset, (label, rows) in zip(offsets(len(groups)), groups, strict=True):
        colour = styles[label].colour
        name = {"name": escape(label), "legendgroup": label}
        mark = {"color": colour, "symbol": "square", "size": 9}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=mark, **name))
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
            figure.add_trace(
                go.Scatter(
                    x=[places[name] for name in names],
                    y=values,
                    mode="markers",
                    showlegend=False,
                    marker={"color": colour, "symbol": symbol, "size": size, "line": {"width": 2, "color": colour}},
                    **name,
                    customdata=hover,
                    hovertemplate="%{customdata}<extra></extra>",
                )
            )
    for words, (symbol, size) in looks.items():
        mark = {"color": LIGHT.muted, "symbol": symbol, "size": size, "line": {"width": 2, "color": LIGHT.muted}}
        figure.add_trace(legend_entry(words, marker=mark))
    categories(figure, [TEXTS[name] for name in texts], "")
    figure.update_yaxes(title_text="in-context loss (nats)", rangemode="tozero")
    return figure


def heads(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Induction score of every head against the loss added by its ablation (the copying score if none is ablated)."""
    figure = new_figure(hovermode="closest", showlegend=True)
    only_ablation = "ablation" in table and table["ablation"].notna().all()
    y = "ablation" if only_ablation else "copying"
    spacing = 0.16 * np.ptp(table["scaled"]), 0.06 * np.ptp(table[y])
    places: list[tuple[float, float]] = []

    def word(name: str, place: tuple[float, float]) -> str:
        """Return the name of a head as its label; empty where another label is too near."""
        if any(abs(place[0] - x) <= spacing[0] and abs(place[1] - up) <= spacing[1] for x, up in places):
            return ""
        places.append(place)
        return f"{name} "

    for label, rows in models_of(table, styles, "name"):
        hover = [f"{escape(label)} {r.name}: induction {r.scaled:.2f}" for r in rows.itertuples(index=False)]
        top = rows["scaled"].max()
        figure.add_trace(
            go.Scatter(
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
                customdata=hover,
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="induction score (0: looks everywhere alike, 1: at nothing else)")
    figure.update_yaxes(
        title_text="loss added without it (nats)" if only_ablation else "copying score on random tokens (-1 to 1)"
    )
    return figure


def _steps(name: str, rows: pd.DataFrame) -> list[str]:
    return [f"{escape(name)}, step {row.step:,}: {row.value:.3f}" for row in rows.itertuples()]


VECTORS = {
    "own": ("solid", "vector of its examples"),
    "shuffled": ("dash", "of permuted labels"),
    "plain": ("dot", "no vector"),
}
"""Dash and name of each vector; colours tell the models."""
PANELS = {"p_true": "probability of the true label", "accuracy": "the likeliest label is right"}


def text_vectors(table: pd.DataFrame, styles: Look) -> go.Figure:
    """Probability of the true label, and accuracy among the labels, without a vector and with each.

    Args:
        table: model, block, vector (plain, own, shuffled), p_true, ci_low, ci_high, accuracy, accuracy_low,
            accuracy_high, n.
        styles: of each model.
    """
    figure = panels(list(PANELS.values()))
    for column, (y, ends) in enumerate(
        zip(PANELS, (("ci_low", "ci_high"), ("accuracy_low", "accuracy_high")), strict=True), 1
    ):
        for label, rows in models_of(table, styles, "block"):
            for vector, (dash, words) in VECTORS.items():
                group = rows[rows["vector"] == vector]
                name = f"{label}: {words}"
                if vector == "own":  # the others' bands lie on it
                    shade = band(group["block"], group[ends[0]], group[ends[1]], styles[label].colour)
                    figure.add_trace(shade, row=1, col=column)
                hover = hover_texts(group, name, "block", ". block", (y, *ends), SHARE)
                trace = curve(
                    group["block"], group[y], name, Style(styles[label].colour, dash), hover, marks=vector != "plain"
                )
                figure.add_trace(trace.update(showlegend=column == 1, legendgroup=name), row=1, col=column)
    figure.update_xaxes(title_text="block after which it is added")
    figure.update_yaxes(**RATE, zeroline=False)
    figure.update_yaxes(title_text="mean over queries", row=1, col=1)
    return figure


def by_size(curve: pd.DataFrame) -> dict[str, Style]:
    """Choose a colour for each model of a curve over pools, from blue for small ones to green for large ones."""
    models = curve.drop_duplicates(MODEL)
    sizes = sorted(models["pool_size"].unique())
    colours = dict(zip(sizes, sample_colorscale("Viridis", list(np.linspace(0.25, 0.8, len(sizes)))), strict=True))
    twice = models.groupby("pool_size").cumcount()  # models with pools of one size differ by dash
    return {
        str(label): Style(colours[size], DASHES[index % len(DASHES)])
        for label, size, index in zip(models[MODEL], models["pool_size"], twice, strict=True)
    }
