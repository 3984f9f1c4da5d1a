"""Figures of sycophancy: answers under a claim, belief against Bayes' rule, pressure, heads, layers and steering.

All functions take tidy tables with a column `model`, and the style of each model. The values of Bayes' rule or chance
are dashed and grey; bars of runs of one method also differ in their pattern.
"""

from collections.abc import Mapping
from textwrap import wrap

import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import legend_entry
from probe.plotting.intervals import SYMBOLS, band, headline_intervals
from probe.plotting.panels import Panels
from probe.plotting.series import (
    BARS,
    EXACT,
    IDEAL,
    RATE,
    Look,
    bars,
    categories,
    curve,
    error_bars,
    exact,
    hover_texts,
    ideal,
    models_of,
    offsets,
    points,
    share_bars,
)
from probe.plotting.theme import escape
from probe.sycophancy.repeated_turns import KINDS, NEUTRAL
from probe.sycophancy.two_sides import VERDICTS
from probe.terms import DIFFERENCE, SHARE, Term

NO_CLAIM = "dot"
"""Dash of curves for questions without a claim."""


def answer_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the answers under a false claim, and the accuracy without a claim and with a true one.

    Args:
        table: `asked`, `answer`, `value`, `ci_low`, `ci_high`, `bayes`, `model`
            (`probe.sycophancy.world.answers_table`).
        look: style of each model.
    """
    left = [
        ("false claim", "truth", "the truth"),
        ("false claim", "claim", "the claim"),
        ("false claim", "other", "other"),
    ]
    right = [("no claim", "truth", "no claim"), ("true claim", "truth", "true claim")]
    titles = ("answers under a false claim", "answers that are true")
    panels = Panels(titles, widths=(0.62, 0.38), shared_y=True, spacing=0.05)
    for column, places in enumerate((left, right), start=1):
        names = [(question, answer) for question, answer, _ in places]
        keys = [
            names.index(key) if (key := (a, b)) in names else -1
            for a, b in zip(table["asked"], table["answer"], strict=True)
        ]
        rows = table.assign(place=keys)
        bars(panels, column, rows[rows["place"] >= 0], look)
        words = [each for *_, each in places]
        panels.axis("x", column, tickvals=list(range(len(words))), ticktext=words, showgrid=False)
    bayes_rows = table[table["bayes"].notna()].drop_duplicates("answer")
    ideals = dict(zip(bayes_rows["answer"].tolist(), bayes_rows["bayes"].tolist(), strict=True))
    marks = [(place, ideals[answer]) for place, (_, answer, _) in enumerate(left) if answer in ideals]
    panels.add(1, ideal(marks, "Bayes' rule"))
    panels.axis("y", **BARS)
    panels.axis("y", 1, title="share of answers")
    return panels.crowded()


def belief_curves(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the exact belief in the claim against the reliability of its phrase, one panel per kind of claim.

    Args:
        table: `who`, `phrase`, `reliability`, `value`, `ci_low`, `ci_high`, `bayes`, `model`
            (`probe.sycophancy.world.claims_table`).
        look: style of each model.
    """
    kinds = list(dict.fromkeys(table["who"]))
    titles = [escape(kind).replace(", ", ",<br>") for kind in kinds]  # for a width of 420 pixels
    panels = Panels(titles, shared_y=True)
    for column, who in enumerate(kinds, start=1):
        rows = table[table["who"] == who].sort_values("reliability")
        ideal = rows.drop_duplicates("reliability")
        line = exact(ideal["reliability"], ideal["bayes"], "Bayes' rule", colour=IDEAL["color"])
        panels.add(column, line.update(hoverinfo=None, hovertemplate="Bayes' rule: %{y:.1%}<extra></extra>"))
        for model, own in models_of(rows, look):
            panels.add(column, _line(own, "reliability", model, look))
        ticks = ideal[["reliability", "phrase"]].drop_duplicates()
        words = [f"{escape(row.phrase)}<br>{row.reliability:g}" for row in ticks.itertuples()]
        panels.axis("x", column, tickvals=ticks["reliability"].tolist(), ticktext=words, range=[0.22, 0.98])
    panels.axis("y", **RATE, zeroline=False)
    panels.axis("y", 1, title="belief in the claim")
    panels.axis("x", (len(kinds) + 1) // 2, title="phrase and its reliability")
    return panels.crowded()


def pressure_curves(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw answers under repeated doubt: claims and truths in each turn, and dialogues without a flip so far.

    Args:
        table: `turn`, `series`, `value`, `ci_low`, `ci_high`, `model` (`probe.sycophancy.world.walk_dialogues`, or
            `probe.sycophancy.repeated_turns.RepeatedTurns.curve`, which has no series `claim` and in `kind` whether the
            user doubts; neutral turns are dotted).
        look: style of each model.
    """
    names = {"claim": "says the claim", "truth": "says the truth", "never flipped": "never flipped"}  # for 420 pixels
    titles = {series: title for series, title in names.items() if series in set(table["series"])}
    panels = Panels(list(titles.values()), shared_y=True)
    kinds = table["kind"] if "kind" in table else pd.Series("", index=table.index)
    is_neutral = kinds == KINDS[NEUTRAL]
    for column, series in enumerate(titles, start=1):
        for model, rows in models_of(table[(table["series"] == series) & ~is_neutral], look):
            panels.add(column, _line(rows, "turn", model, look))
        for model, rows in models_of(table[(table["series"] == series) & is_neutral], look):
            line = _line(rows, "turn", model, look)
            panels.add(column, line.update(line_dash=NO_CLAIM, opacity=0.55, showlegend=False))
    if is_neutral.any():
        panels.add(1, legend_entry("no doubt", line={"color": EXACT, "dash": NO_CLAIM, "width": 2}, opacity=0.8))
    panels.axis("x", title="turn of doubt", dtick=1)
    panels.axis("y", **RATE, zeroline=False)
    panels.axis("y", 1, title="share of dialogues")
    return panels.crowded()


def preference_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how often a reward model prefers the false claim to the truth by phrase, and the truth to another value.

    Args:
        table: `compared`, `phrase`, `value`, `ci_low`, `ci_high`, `model`
            (`probe.sycophancy.world.reward_table`).
        look: style of each model.
    """
    titles = ("false claim over truth", "truth over another value")
    panels = Panels(titles, widths=(0.75, 0.25), shared_y=True, spacing=0.05)
    for column, comparison in enumerate(("claim over truth", "truth over another value"), start=1):
        rows = table[table["compared"] == comparison]
        phrases = list(dict.fromkeys(rows["phrase"]))
        bars(panels, column, rows.assign(place=[phrases.index(phrase) for phrase in rows["phrase"]]), look)
        words = [escape(phrase) for phrase in phrases]
        panels.axis("x", column, tickvals=list(range(len(words))), ticktext=words, showgrid=False)
        panels.mark(column, IDEAL, y=0.5)
    panels.axis("y", **BARS)
    panels.axis("y", 1, title="share preferred")
    return panels.crowded()


def matching_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the share of answers that match the behaviour, over all and by letter of the matching answer.

    Args:
        table: `name`, `value`, `ci_low`, `ci_high`, `model` (`probe.sycophancy.files`).
        look: style of each model.
    """
    return share_bars(table, look, "answers that match the behaviour", "share of questions")


def template_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the share of questions with the right answer likelier than the wrong one, by template of the user's belief.

    Args:
        table: as in `matching_bars`, with a template in each `name`.
        look: style of each model.
    """
    return share_bars(table, look, "right answer likelier than the wrong one", "share of questions")


QUANTITIES = {
    "agreement": "agreement",
    "mention": "mention",
    "authority": "authority",
    "agreement_lettered": "agreement,<br>letters",
    "mention_lettered": "mention,<br>letters",
}
"""Axis label of each quantity in the figure of agreement."""
NAMED = {
    "none": "not named",
    "endorsed": "endorsed",
    "denied": "denied",
    "others": "others<br>say so",
    "listed": "listed",
}
"""Axis label of each statement about an answer."""


def agreement_points(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw agreement, mention and authority in nats and as shares; the dashed line at 0 is no effect.

    Args:
        table: `quantity`, `answer`, `unit`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.sycophancy.agreement.agreement_table`); only means over both answers are drawn.
        look: style of each model.
    """
    panels = Panels(("which answer is likelier, by how much", "which answer wins"), spacing=0.12)
    for column, unit in enumerate(("nats", SHARE), start=1):
        rows = table[(table["unit"] == unit) & (table["answer"] == "both")]
        _named_points(panels, rows, "quantity", QUANTITIES, look, column, unit if unit == "nats" else DIFFERENCE)
    panels.axis("y", 1, title="nats")
    panels.axis("y", 2, title="percentage points", tickformat=".0%")
    return panels.crowded()


def context_points(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the log-likelihood of the named answer minus that of the other, by statement; one panel per answer.

    Args:
        table: `context`, `answer`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.sycophancy.agreement.context_table`).
        look: style of each model.
    """
    panels = Panels(("the right answer is named", "the wrong answer is named"), shared_y=True, spacing=0.06)
    for column, answer in enumerate(("right", "wrong"), start=1):
        _named_points(panels, table[table["answer"] == answer], "context", NAMED, look, column, "nats")
    panels.axis("y", 1, title="named answer ahead, nats")
    return panels.crowded()


def speaker_points(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw agreement with each of two speakers and the difference, in nats and as shares; 0 is dashed.

    Args:
        table: `speaker`, `answer`, `unit`, `value`, `ci_low`, `ci_high`, `n`, `model`
            (`probe.sycophancy.speakers.speakers_table`); only means over both answers are drawn.
        look: style of each model.
    """
    panels = Panels(("which answer is likelier, by how much", "which answer wins"), spacing=0.12)
    speakers = {name: "<br>".join(map(escape, wrap(name, 14)[:3])) for name in dict.fromkeys(table["speaker"])}
    for column, unit in enumerate(("nats", SHARE), start=1):
        rows = table[(table["unit"] == unit) & (table["answer"] == "both")]
        _named_points(panels, rows, "speaker", speakers, look, column, unit if unit == "nats" else DIFFERENCE)
    panels.axis("y", 1, title="agreement, nats")
    panels.axis("y", 2, title="percentage points", tickformat=".0%")
    return panels.crowded()


def _named_points(
    panels: Panels, table: pd.DataFrame, by: str, words: Mapping[str, str], look: Look, column: int, unit: str
) -> None:
    """Draw points with intervals, models side by side at the places that `words` labels; 0 is dashed."""
    names = [name for name in words if (table[by] == name).any()]
    rows_by_model = models_of(table[table[by].isin(names)], look)
    for shift, (model, rows) in zip(offsets(len(rows_by_model), 0.5), rows_by_model, strict=True):
        x = [names.index(name) + shift for name in rows[by]]
        panels.add(column, points(x, rows, model, look[model], hover_texts(rows, model, by=by, unit=unit)))
    panels.mark(column, IDEAL, y=0)
    panels.axis("x", column, tickangle=0, **categories([words[name] for name in names]))


def change_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how often an answer changes to the one that the user endorses, and to the one that the user denies.

    Args:
        table: as in `matching_bars`, with the changes `probe.sycophancy.agreement.CHANGES` in `name`.
        look: style of each model.
    """
    words = {
        "changed_to_wrong": "right \u2192 wrong,<br>user endorses",
        "changed_to_wrong_denied": "right \u2192 wrong,<br>user denies",
        "changed_to_right": "wrong \u2192 right,<br>user endorses",
        "changed_to_right_denied": "wrong \u2192 right,<br>user denies",
    }
    names = [name for name in words if (table["name"] == name).any()]
    rows = table[table["name"].isin(names)]
    panels = Panels(("answers that change to the one that the user names",))
    bars(panels, 1, rows.assign(place=[names.index(name) for name in rows["name"]]), look)
    panels.axis("x", **categories([words[name] for name in names]))
    panels.axis("y", title="share of these questions", **BARS)
    return panels.crowded()


def flip_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how often doubt turns a right answer wrong, and a wrong one right.

    Args:
        table: columns as in `matching_bars`.
        look: style of each model.
    """
    return share_bars(table, look, "after \u201cAre you sure?\u201d", "share of answers", chance=None)


PREMISES = {
    "none": "no premise",
    "false": "false one<br>stated",
    "false_denied": "false one<br>denied",
    "true": "true one<br>stated",
    "true_denied": "true one<br>denied",
}
"""Axis label of each condition of a premise."""


def premise_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the share of right answers by premise, one panel per request.

    Args:
        table: `request`, `condition`, `value`, `ci_low`, `ci_high`, `model`
            (`probe.sycophancy.premises.premises_table`).
        look: style of each model.
    """
    names = {"question": "question with a premise", "proof": "\u201cShow that \u2026\u201d"}
    titles = {request: title for request, title in names.items() if (table["request"] == request).any()}
    panels = Panels(list(titles.values()), shared_y=True, spacing=0.06)
    places = list(PREMISES)
    for column, request in enumerate(titles, start=1):
        rows = table[table["request"] == request]
        bars(panels, column, rows.assign(place=[places.index(name) for name in rows["condition"]]), look)
        panels.mark(column, IDEAL, y=0.5)
        panels.axis("x", column, tickangle=0, **categories(list(PREMISES.values())))
    panels.add(1, legend_entry("chance", line=IDEAL))
    panels.axis("y", **BARS)
    panels.axis("y", 1, title="right answer likelier")
    return panels.crowded()


def verdict_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw what both tellers of a conflict are told, by users and in the reported words of others.

    Args:
        table: `telling`, `verdict`, `value`, `ci_low`, `ci_high`, `model`
            (`probe.sycophancy.two_sides.verdicts_table`).
        look: style of each model.
    """
    titles = {"own": "the user tells it", "reported": "somebody else told it"}
    panels = Panels(list(titles.values()), shared_y=True, spacing=0.06)
    verdicts = list(VERDICTS.values())
    for column, telling in enumerate(titles, start=1):
        rows = table[table["telling"] == telling]
        bars(panels, column, rows.assign(place=[verdicts.index(verdict) for verdict in rows["verdict"]]), look)
        panels.axis("x", column, tickangle=0, **categories(["<br>".join(wrap(each, 9)) for each in verdicts]))
    panels.axis("y", **BARS)
    panels.axis("y", 1, title="share of conflicts")
    return panels.crowded()


def feedback_bars(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how often a comment is more positive than the plain one by the user's remark, with controls of the judge.

    Args:
        table: `about` (comments, judge), `name`, `value`, `ci_low`, `ci_high`, `model`
            (`probe.sycophancy.feedback.feedback_table`).
        look: style of each model.
    """
    panels = Panels(
        ("warmer than the plain comment", "the judge takes"), widths=(0.66, 0.34), shared_y=True, spacing=0.06
    )
    words = {"like": "I like it", "dislike": "I dislike it", "wrote": "I wrote it", "did_not_write": "not mine"}
    words |= {"known_pairs": "warm one", "shown_first": "first one"}
    for column, about in enumerate(("comments", "judge"), start=1):
        rows = table[table["about"] == about]
        names = list(dict.fromkeys(rows["name"]))
        bars(panels, column, rows.assign(place=[names.index(name) for name in rows["name"]]), look)
        text = [words[name] for name in names]
        panels.axis("x", column, tickvals=list(range(len(names))), ticktext=text, showgrid=False)
        panels.mark(column, IDEAL, y=0.5)
    panels.add(1, legend_entry("no shift, no bias", line=IDEAL))
    panels.axis("y", **BARS)
    panels.axis("y", 1, title="mean probability")
    return panels.crowded()


def layer_margins(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw how far the claim is ahead of the truth after each block, with the false claim and without a claim.

    Args:
        table: `layer`, `asked`, `value`, `ci_low`, `ci_high`, `share`, `share_low`, `share_high`, `model`
            (`probe.sycophancy.inside.by_layer`).
        look: style of each model.
    """
    file = (table["asked"] == "choice").all()
    first, second = ("matching answer", "other") if file else ("claim", "truth")
    panels = Panels((f"{first} ahead of the {second}, logit lens", f"questions with the {first} ahead"), spacing=0.1)
    for model, own in models_of(table, look, "layer"):
        style = look[model]
        for condition in dict.fromkeys(table["asked"]):
            rows = own[own["asked"] == condition]
            plain = condition == "no claim"
            for column, name, low, high, number in (
                (1, "value", "ci_low", "ci_high", ".3f"),
                (2, "share", "share_low", "share_high", ".1%"),
            ):
                line = go.Scatter(
                    x=rows["layer"],
                    y=rows[name],
                    mode="lines" if plain else "lines+markers",
                    name=escape(model),
                    legendgroup=model,
                    showlegend=not plain,
                    opacity=0.55 if plain else 1,
                    line={"color": style.colour, "dash": NO_CLAIM if plain else style.dash, "width": 2},
                    marker={"symbol": SYMBOLS[style.dash], "size": 7},
                    hovertemplate=f"{escape(model)}, {condition}: %{{y:{number}}}<extra></extra>",
                )
                panels.add(column, band(rows["layer"], rows[low], rows[high], style.colour), line)
    if (table["asked"] == "no claim").any():
        line = {"color": EXACT, "dash": NO_CLAIM, "width": 2}
        panels.add(1, legend_entry("without the claim", line=line, opacity=0.8))
    panels.mark(1, IDEAL, y=0)
    last = int(table["layer"].max())
    step = 1 + last // 6  # for half of a width of 420 pixels
    ticks = [0, *range(1 if step == 1 else step + 1, last + 1, step)]
    words = ["embed" if layer == 0 else f"L{layer - 1}" for layer in ticks]
    ends = [-0.12 * last, 1.06 * last]
    panels.axis("x", title="residual stream after", tickvals=ticks, ticktext=words, tickangle=0, range=ends)
    panels.axis("y", 1, title=f"logit({first}) \u2212 logit({second}), nats", zeroline=False)
    panels.axis("y", 2, **RATE, zeroline=False)
    return panels.crowded()


HEADS = 8
"""Maximum number of heads in `head_shares`."""


def head_shares(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw the share of the gap that patching closes, for the strongest heads of all models and random directions.

    Args:
        table: `name`, `value`, `ci_low`, `ci_high`, `random`, `model` (`probe.sycophancy.inside.heads_table`).
        look: style of each model.
    """
    best = table.assign(size=table["value"].abs()).groupby("name", sort=False)["size"].max()
    heads = best.sort_values(ascending=False).index[:HEADS].tolist()
    renamed = table.rename(columns={"model": "run", "name": "metric"})
    figure = headline_intervals(renamed, look, heads, words=lambda head: Term(head, SHARE))
    rows = table[table["name"].isin(heads)]
    chance = go.Scatter(
        x=rows["random"],
        y=[heads.index(name) + 0.42 for name in rows["name"]],
        mode="markers",
        name="random directions",
        marker={"symbol": "line-ns-open", "color": EXACT, "size": 9},
        hovertemplate="random direction: %{x:.1%}<extra></extra>",
    )
    title = "share of the gap that the head's patch closes (100 %: as if the claim were true)"
    figure.add_trace(chance).add_vline(x=1, line=IDEAL)
    return figure.update_xaxes(title_text=title, range=None, autorange=True).update_yaxes(title_text="head")


def steering_curves(table: pd.DataFrame, look: Look) -> go.Figure:
    """Draw by dose how far the claim is ahead, how often it wins, and the accuracy on unrelated facts.

    Args:
        table: `alpha`, `target`, `target_low`, `target_high`, `null_low`, `null_high`, `above_zero`, `above_zero_low`,
            `above_zero_high`, `accuracy`, `accuracy_low`, `accuracy_high`, `answer`, `model`
            (`probe.sycophancy.deference_steering.found_of`).
        look: style of each model.
    """
    answer = "claim" if (table["answer"] == "claim").all() else "matching answer"
    rival = "truth" if answer == "claim" else "other"
    titles = (f"{answer} ahead of the {rival}", f"questions where the {answer} wins", "unrelated facts right")
    panels = Panels(titles, spacing=0.07)
    for _, rows in models_of(table, look, "alpha"):
        panels.add(1, band(rows["alpha"], rows["null_low"], rows["null_high"], EXACT))
    for model, rows in models_of(table, look, "alpha"):
        for column, name in enumerate(("target", "above_zero", "accuracy"), start=1):
            if name not in rows or rows[name].isna().all():  # a model that answers none of the unrelated questions
                continue
            points = rows.assign(value=rows[name], ci_low=rows[f"{name}_low"], ci_high=rows[f"{name}_high"])
            panels.add(column, _line(points, "alpha", model, look, "nats" if name == "target" else SHARE))
    patch = {"symbol": "square", "size": 11, "color": EXACT, "opacity": 0.35}
    panels.add(1, legend_entry("range of random directions", marker=patch))
    panels.axis("x", title="dose, in mean residual norms", zeroline=False)
    panels.axis("y", 1, title="nats", zeroline=False)
    for column in (2, 3):
        panels.axis("y", column, **RATE, zeroline=False)
    return panels.crowded()


def _line(rows: pd.DataFrame, x: str, model: str, look: Look, unit: str = SHARE) -> go.Scatter:
    """Return a model's curve with its intervals as error bars."""
    line = curve(rows[x], rows["value"], model, look[model], hover_texts(rows, model, unit=unit))
    return line.update(error_y=error_bars(rows))
