"""One item: what every model answered, its tokens with their log-probabilities, and ways to pages that look inside."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.badge import trust_badge
from dashboard.components.tokens import TokenRow, token_rows
from dashboard.parts.phenomena.reading import Read, before, chip, joined, prompt_chips, reading, stand_ins
from dashboard.parts.phenomena.source import Subject
from dashboard.state import current, look_link
from dashboard.text import guard, note
from probe.experiments.metrics import ITEM
from probe.experiments.registry import Experiment
from probe.experiments.result import MODEL, Result

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.model.lm import LM

RIGHT = ("right", "correct")
"""Columns that say whether an answer is right."""
VERDICTS = {True: "right", False: "wrong", None: ""}
SAID = ("prompt", "answer", "expected", "kind", ITEM, MODEL)
INSIDE = {
    "Attention": ("views/attention.py", ":material/grid_on:"),
    "Logits": ("views/logits.py", ":material/bar_chart:"),
    "Compare": ("views/compare.py", ":material/compare_arrows:"),
    "Interventions": ("views/interventions.py", ":material/biotech:"),
}
"""Pages that look into what a model made of a text."""


def show(
    experiment: Experiment, subjects: Sequence[Subject], result: Result, name: str, beside: "DeltaGenerator"
) -> None:
    """An item from its answers to its tokens.

    Args:
        experiment: that asked it.
        subjects: the models, the base first.
        result: of all of them.
        name: of the item.
        beside: the space to the right of where it was chosen.
    """
    rows = result.items[result.items[ITEM] == name]
    own: dict[str, dict[Any, Any]] = {str(row[MODEL]): row for row in rows.to_dict("records")}
    answered = [subject for subject in subjects if subject.label in own]
    with beside:
        note(expected(rows))
    measured(answered, own)
    if "prompt" not in rows:
        note("The experiment gives no column `prompt`, so there are no tokens to show.")
        return
    readings: list[tuple[Subject, LM, Read]] = []
    for subject in answered:
        with guard():
            lm = models.load(subject.ref)
            if lm is None:
                continue
            told = own[subject.label]
            text = joined(told.get("prompt"), told.get("answer"))
            read = models.computed(reading, lm, say="Reading the answer", prompt=text[0], answer=text[1])
            readings.append((subject, lm, read))
    if not readings:
        return
    others = stand_ins({subject.label: own[subject.label] for subject, _, _ in readings})
    if others:
        note(others)
    row, token = tokens(experiment.name, name, result, readings)
    links([subject for subject, _, _ in readings], *readings[row], token)
    _, chosen, read = readings[row]
    alike = [
        (subject.label, lm) for subject, lm, _ in readings if lm.tokenizer.get_vocab() == chosen.tokenizer.get_vocab()
    ]
    trust_badge(*alike, text=read.ids)


def verdict(row: Mapping[Any, Any]) -> bool | None:
    """Whether an answer is right; None where the item does not say."""
    for column in RIGHT:
        if row.get(column) is not None and row[column] == row[column]:
            return bool(row[column])
    expected, answer = row.get("expected"), row.get("answer")
    if not isinstance(expected, str) or not isinstance(answer, str) or not expected.strip():
        return None
    return " ".join(answer.lower().split()).removesuffix(" .") == " ".join(expected.lower().split()).removesuffix(" .")


def expected(rows: pd.DataFrame) -> str:
    """What would be right, in words."""
    told = [str(text) for text in rows.get("expected", pd.Series(dtype=object)).dropna().unique() if str(text).strip()]
    return f"Expected: {' or '.join(told)}." if told else "Nothing is known of what would be right here."


def measured(subjects: Sequence[Subject], own: Mapping[str, Mapping[Any, Any]]) -> None:
    """Answers side by side, whether they are right, and all that was measured of them; a row a model."""
    columns = [column for column in own[subjects[0].label] if column not in (*SAID, *RIGHT)]
    rows: dict[str, list[Any]] = {"model": [subject.label for subject in subjects]}
    cells = {"answer": [" ".join(_cell(own[subject.label].get("answer")).split()) for subject in subjects]}
    cells["right or wrong"] = [VERDICTS[verdict(own[subject.label])] for subject in subjects]
    for column in columns:
        cells[str(column).replace("_", " ")] = [_cell(own[subject.label].get(column)) for subject in subjects]
    rows |= {name: values for name, values in cells.items() if any(values)}
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        height="content",
        column_config={"model": st.column_config.TextColumn(pinned=True)},
    )


def tokens(name: str, item: str, result: Result, readings: "Sequence[tuple[Subject, LM, Read]]") -> tuple[int, int]:
    """The texts as chips; gives which reading and which of its tokens is chosen, at first the answer's first."""
    key = f"_{name}_token"
    asked = (item, tuple(subject.label for subject, _, _ in readings))
    if st.session_state.get(key, (None,))[0] != asked:
        first = readings[-1][2]
        st.session_state[key] = asked, len(readings) - 1, min(first.cut, len(first.ids) - 1)
    _, chosen, token = st.session_state[key]
    token = min(token, len(readings[chosen][2].ids) - 1)
    heads = {read.ids[: read.cut] for _, _, read in readings}
    shared = len(heads) == 1
    rows = []
    if shared:
        rows.append(
            TokenRow(
                label="prompt",
                colour="transparent",
                tokens=prompt_chips([(subject.label, read) for subject, _, read in readings]),
            )
        )
    for subject, _, read in readings:
        colour = result.styles[subject.label].colour
        start = read.cut if shared else 0
        made = [chip(read, j) for j in range(start, len(read.ids))]
        rows.append(TokenRow(label=subject.label, colour=colour, tokens=made))
    cut = readings[chosen][2].cut
    in_prompt = shared and token < cut
    mark = (0, token) if in_prompt else (chosen + shared, token - (cut if shared else 0))

    def pick(row: int, index: int) -> None:
        if shared and row == 0:
            st.session_state[key] = asked, chosen, index
        else:
            of = row - shared
            st.session_state[key] = asked, of, index + (readings[of][2].cut if shared else 0)

    token_rows(rows, chosen=mark, key=f"{name}-tokens", on_pick=pick)
    scalar = any(read.scalar for _, _, read in readings)
    note(
        "Colour: "
        + ("what the model reads at the token. " if scalar else "how little the token was expected. ")
        + "Hover for probabilities; click a token to look inside at it."
    )
    return chosen, token


def links(subjects: Sequence[Subject], subject: Subject, lm: "LM", read: Read, token: int) -> None:
    """Ways to the pages that look inside, with model and text; the text ends before the chosen token of an answer."""
    shared = current()
    text = before(lm, read, token)
    pair = (shared.base or subjects[0].choice, subject.choice)
    if subject.choice == shared.base:
        pair = (subject.choice, shared.aligned or subject.choice)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        note(f"Look into {subject.label} before token {token} ({read.pieces[token]}):")
        for title, (page, icon) in INSIDE.items():
            look_link(page, title, icon, base=pair[0], aligned=pair[1], prompt=text)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
