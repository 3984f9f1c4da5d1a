"""Logits: after which layer a model decides on its next token, which part does it, how far two models differ."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.tabs import open_tab
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.logits import choices as views
from dashboard.pages.logits import compute as results
from dashboard.pages.logits import figures
from dashboard.pages.logits import over_training as trained
from dashboard.pages.logits import words as findings
from dashboard.pages.logits.choices import CAPTURED, MEASURE, PART, POSITION, RUN, TRAINED_PART, WRITTEN
from dashboard.pages.logits.compute import Question
from dashboard.sentences import duration
from dashboard.sides import ask_for_model
from dashboard.state import SharedChoices, current
from probe.compare.figures import kl_bars
from probe.errors import DataError
from probe.logits.figures import Side, curves, kl_map

if TYPE_CHECKING:
    from probe.logits.attribution import Attribution
    from probe.logits.trajectories import PairTrajectory

COSTLY = 2e7
"""Parameters above which a model writes only when asked to."""
SECONDS = 1e-9
"""Seconds that one parameter takes for one token, roughly, on one core."""
PARTS, CONTINUATION, TRAINING = "Which parts carry it", "Token by token", "Over training"
"""Titles of tabs that have choices of their own."""


def distance(question: Question, both: "PairTrajectory") -> None:
    """KL of the two models along the text, and by layer around the chosen token."""
    left, right = st.columns(2, gap="medium")
    table = pd.DataFrame({"position": range(len(both.tokens)), "token": both.tokens, "kl": both.token_kl})
    with left:
        chart = kl_bars(both.token_kl, both.tokens, chosen=question.target.position, colour=question.sides[1].colour)
        title = "How far apart they are after each token"
        figure(chart, table, "log-kl", title=title, height=300, source=question.source, on_select=_take_position)
    with right:
        if both.kl is None:
            note("The models have different depths, so their layers have no counterparts.")
            return
        start, stop = question.window
        chart = kl_map(both.kl, question.tokens[start:stop], width=440)
        frame = both.table()
        rows = frame[frame["measure"] == "kl"].drop(columns=["measure", "answer"])
        figure(chart, rows, "log-kl-layers", title="The same after each layer", height=300, source=question.source)


def writing(question: Question) -> None:
    """Draw what the models held likely before every token that they write."""
    left, right = st.columns([3, 9], vertical_alignment="bottom", gap="medium")
    with left:
        n = int(st.slider("Tokens to write", 1, 32, 8, key=WRITTEN, bind="query-params"))
    waiting = [
        side for side in question.sides if side.lm.n_parameters > COSTLY and not results.is_written(side, question, n)
    ]
    if waiting:
        seconds = sum(SECONDS * side.lm.n_parameters * n for side in waiting)
        with right:
            click = st.button(f"Write {n} tokens (about {duration(seconds)})", key="log-write")
        if not click:
            return
    trajectories = [results.write_tokens(side, question, n) for side in question.sides]
    with right:
        for side, each in zip(question.sides, trajectories, strict=True):
            blanks = any(token.startswith("\u00b7") for token in each.tokens)
            note(f"{side.name}: {('' if blanks else ' ').join(each.tokens)}")
    sides = [
        Side(side.name, side.colour, each.entropy, each.margin, each.logprobs, each.ranks, each.tokens)
        for side, each in zip(question.sides, trajectories, strict=True)
    ]
    longest = max(trajectories, key=lambda each: len(each.tokens))
    ticks = trajectories[0].tokens if len(trajectories) == 1 else [str(step) for step in range(len(longest.tokens))]
    axis = "written token"
    chart = curves(sides, trajectories[-1].answers, axis=axis, ticks=ticks, columns=4, height=290)
    frames = [each.table().assign(model=side.name) for side, each in zip(question.sides, trajectories, strict=True)]
    title = "Before every token that is written"
    figure(chart, pd.concat(frames, ignore_index=True), "log-written", title=title, source=question.source)


def _take_position(points: list[dict]) -> None:
    if isinstance(points[0].get("x"), int | float):
        st.session_state[POSITION] = int(points[0]["x"])


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    lacking = views.missing_input(choices)
    if lacking:
        ask_for_model(answer, lacking)
        return
    try:
        question = views.choose(choices, answer)
    except DataError as error:
        with answer:
            finding(str(error))
        return
    if question is None:
        return
    parts = [results.attribution(side, question) for side in question.sides]
    tables = {
        "attribution": pd.concat([p.table().assign(model=s.name) for p, s in zip(parts, question.sides, strict=True)])
    }
    names = [side.name for side in question.sides]
    both = None
    if question.scalar:
        with answer:
            finding(findings.scalars(names, parts, question.tokens[question.target.position], question.unit))
        figures.scalar_figure(question, [results.scalar(side, question) for side in question.sides])
        note(
            f"The head of the {question.unit} model, read at every token after every layer; the highest row is its own "
            f"{question.unit}. It gives one number, so there are no tokens, entropies or ranks."
        )
    else:
        both = results.pair(question) if len(question.sides) == 2 else None
        lenses = [both.base, both.aligned] if both else [results.lens(side, question) for side in question.sides]
        with answer:
            finding(findings.tokens(names, lenses, parts, question.label))
            if question.whole is not None:
                sums = [results.whole_answers(side, question) for side in question.sides]
                note(findings.chosen_tokens(question.whole, names, sums))
        table = tables["layers"] = figures.lens_table(question, lenses, both)
        left, right = st.columns([5, 4], gap="medium")
        with left:
            figures.lens_figure(question, lenses, table)
        with right:
            figures.layer_figure(question, lenses, table[table["position"] == question.target.position])
        note(
            "Each cell is the token that the model would name if it stopped after that layer, coloured by the "
            "log-probability of the answer; the framed column is the one that the figures are about."
            + " Of deep models only some layers are drawn; the CSV holds all."
            * any(len(each.entropy) > 12 for each in lenses)
        )
    trust_badge(*((side.name, side.lm) for side in question.sides), text=question.ids)
    captured = sections(question, parts, both, choices)
    if captured is not None:
        tables |= captured[2]
    details(findings.EQUATIONS, findings.DEFINITION, code(question, captured), tables)


def sections(
    question: Question, parts: "list[Attribution]", both: "PairTrajectory | None", shared: SharedChoices
) -> "trained.Captured | None":
    """Draw the tabs below the main figures; return what was read from captures, where that tab is open."""
    tabs: dict[str, Callable[[], trained.Captured | None]] = {PARTS: partial(attribution, question, parts)}
    if both is not None:
        tabs["Distance between the models"] = partial(distance, question, both)
    if not question.scalar:
        tabs[CONTINUATION] = partial(writing, question)
    tabs[TRAINING] = partial(trained.training, shared)
    choices = {PARTS: (PART,), CONTINUATION: (WRITTEN,), TRAINING: (RUN, CAPTURED, MEASURE, TRAINED_PART)}
    return open_tab("log_tab", tabs, choices)


def attribution(question: Question, parts: "list[Attribution]") -> None:
    """Draw the map of parts, and the chosen part enlarged."""
    left, right = st.columns([3, 9], vertical_alignment="bottom", gap="medium")
    with left:
        part = figures.choose_part(parts)
    with right:
        note(
            "Every cell is what that head or MLP adds to the logit directly; all cells sum to the number above. Parts "
            "also act through later ones, which a sum of direct effects does not show."
        )
    figures.map_figure(question, parts, part)
    figures.part_figures(question, parts, part)


def code(question: Question, captured: "trained.Captured | None") -> str:
    """Python lines that reproduce the page."""
    lines = [
        "import probe",
        "from probe.logits.attribution import attribute, difference_table",
        "from probe.logits.lens import Target",
    ]
    loads = [f"probe.model.rewards.analysable({side.ref!r})" for side in question.sides]
    lines.insert(1, "import probe.model.rewards")
    names = ["base", "aligned"] if len(question.sides) == 2 else ["lm"]
    target = question.target
    lines += ["", f"{', '.join(names)} = {', '.join(loads)}", f"ids = {list(question.ids)!r}"]
    lines.append(f"target = Target({target.position}, {target.answer}, {target.against}, {target.name!r})")
    if question.scalar:
        lines += ["", "from probe.logits.trajectories import scalar_lens", f"scalar_lens({names[-1]}, ids).table()"]
    else:
        function = "pair_over_layers" if len(names) == 2 else "over_layers"
        lines += ["", f"from probe.logits.trajectories import {function}"]
        lines.append(f"{function}({', '.join(names)}, ids, {list(question.answers)!r}).table({target.position})")
    if len(names) == 2:
        lines.append("difference_table(attribute(base, ids, target), attribute(aligned, ids, target))")
    else:
        lines.append("attribute(lm, ids, target).table()")
    if not question.scalar:
        lines += ["", "from probe.logits.parts import promoted_tokens"]
        lines.append(f"promoted_tokens({names[-1]}, ids, layer=0, head=0, position={target.position}).table()")
        lines += ["", "from probe.logits.trajectories import over_writing"]
        lines.append(f"over_writing({names[-1]}, ids, {list(question.answers)!r}, n=8).table()")
    if captured:
        functions = sorted(trained.TABLES[name].__name__ for name in captured[2])
        lines += ["", f"from probe.logits.trained import {', '.join(functions)}"]
        lines += [f"{name}(probe.open_run({captured[0]!r}), prompt={captured[1]})" for name in functions]
    return "\n".join(lines)


page()
