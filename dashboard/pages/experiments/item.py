"""One item: the transcript and the tokens of all models, and links to pages that look inside."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.badge import trust_badge
from dashboard.components.table import show_table
from dashboard.components.tokens import token_rows
from dashboard.components.transcript import Reply, show_transcript
from dashboard.markdown import guard, note
from dashboard.pages.experiments.asking import Subject
from dashboard.sides import chats
from dashboard.state import current, look_link
from probe.experiments.definition import Experiment
from probe.experiments.metrics import EXPECTED, ITEM, PROMPT
from probe.experiments.result import MODEL, Result
from probe.experiments.slices import ANSWER, KIND, RIGHT, verdict
from probe.numbers import chance
from probe.plotting.chips import Chip, TokenRow

if TYPE_CHECKING:
    from probe.model.lm import LM

STRONG_NATS = 6.0
"""Surprisal in nats at which a chip has its full colour."""
TOP = 3
"""Number of expected tokens on a chip."""
ANSWERED_BY = "answered_by"
"""Column of items with the model that answered, if it is not the model on which the experiment was run."""


@dataclass(frozen=True)
class Read:
    """A model's reading of a prompt and its answer."""

    ids: tuple[int, ...]
    cut: int
    """Number of tokens of the prompt."""
    pieces: tuple[str, ...]
    values: tuple[float, ...]
    """Log-probability of each token in nats (NaN for the first); for a scalar model, its output at each token."""
    likeliest: tuple[tuple[tuple[str, float], ...], ...]
    """Most probable tokens at each position, with probabilities."""
    scalar: bool = False


def stand_ins(own: Mapping[str, Mapping[Any, Any]]) -> str:
    """State which other models gave the answers that these models read; empty if each model answered itself.

    Args:
        own: row of the item for each model, by label.
    """
    substitutes: dict[str, list[str]] = {}
    for label, row in own.items():
        if isinstance(row.get(ANSWERED_BY), str) and row[ANSWERED_BY]:
            substitutes.setdefault(row[ANSWERED_BY], []).append(label)
    if not substitutes:
        return ""
    clause = "; ".join(f"{by} (in place of {' and '.join(labels)})" for by, labels in substitutes.items())
    readers = [label for labels in substitutes.values() for label in labels]
    own_reading = "itself reads it" if len(readers) == 1 else "themselves read it"
    return f"Answered by {clause}; the text below is as {' and '.join(readers)} {own_reading}."


def join_texts(prompt: Any, answer: Any) -> tuple[str, str]:
    """Return prompt and answer for concatenation, with a space between words if neither has one."""
    first, second = str(prompt or ""), "" if answer is None or answer != answer else str(answer)
    if re.search(r"[\w.?!:,>]\Z", first) and re.match(r"\w", second):
        second = " " + second
    return first, second


def reading(lm: "LM", prompt: str, answer: str) -> Read:
    """Compute the log-probabilities of the tokens of a prompt and an answer, and the most probable tokens.

    Raises:
        DataError: the text is empty or too long for the model.
    """
    from probe.model.text import pieces, split

    head, tail = split(lm.tokenizer, prompt, answer)
    ids = (*head, *tail)
    logits = lm.logits(list(ids))[0].float()
    texts = tuple(pieces(lm.tokenizer, ids))
    if lm.readout != "tokens":
        return Read(ids, len(head), texts, tuple(logits[:, 0].tolist()), ((),) * len(ids), scalar=True)
    logprobs = logits[:-1].log_softmax(-1)
    own = logprobs.gather(1, logits.new_tensor(ids[1:]).long()[:, None])[:, 0]
    best = logprobs.topk(min(TOP, logprobs.shape[-1]), dim=-1)
    likeliest = [
        tuple(zip(pieces(lm.tokenizer, row), np.exp(values), strict=True))
        for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return Read(ids, len(head), texts, (float("nan"), *own.tolist()), ((), *likeliest))


def before(lm: "LM", read: Read, token: int) -> str:
    """Return the text before a token of an answer, or the whole prompt if the token belongs to the prompt.

    The model predicts the given token at the last token of this text.
    """
    end = max(read.cut, token)
    tokenizer = lm.tokenizer
    ids = list(read.ids[:end])
    text = tokenizer.decode(ids)
    bos = tokenizer.bos_token
    if bos and ids and ids[0] == tokenizer.bos_token_id and text.startswith(bos):
        from probe.model.text import encode

        bare = text[len(bos) :].removeprefix(" ")
        return bare if encode(tokenizer, bare) == ids else text
    return str(text)


def prompt_chips(readings: Sequence[tuple[str, Read]]) -> list[Chip]:
    """Return the chips of the prompt, each with the log-probability or output of every model."""
    chips = []
    for j in range(readings[0][1].cut):
        lines = [f"token {j}: {readings[0][1].pieces[j]}"]
        for label, read in readings:
            lines += [f"{label}: {line}" for line in describe_token(read, j)[:1]]
        chips.append(Chip(text=readings[0][1].pieces[j], tip="\n".join(lines), prompt=True))
    return chips


def chip(read: Read, j: int) -> Chip:
    """Return the chip of a token, coloured by its surprisal, or by the output of a scalar model."""
    lines = [f"token {j}: {read.pieces[j]}", *describe_token(read, j)]
    value = read.values[j]
    if read.scalar:
        largest = max(abs(each) for each in read.values) or 1.0
        strength = 0.7 * value / largest
    else:
        strength = 0.75 * min(1.0, max(0.0, -value) / STRONG_NATS) ** 0.5 if value == value else 0.0
    return Chip(text=read.pieces[j], tip="\n".join(lines), strength=strength, prompt=j < read.cut)


def describe_token(read: Read, j: int) -> list[str]:
    """Describe a token in lines: its log-probability and the most probable tokens, or the scalar output."""
    value = read.values[j]
    if value != value:
        return ["the first token: nothing comes before it"]
    if read.scalar:
        return [f"reads {value:.3g} here"]
    return [
        f"log p = {value:.2f} nats, p = {chance(float(np.exp(value)))}",
        *(f"   {piece}  {chance(p)}" for piece, p in read.likeliest[j]),
    ]


SAID = (PROMPT, ANSWER, EXPECTED, KIND, ITEM, MODEL, *RIGHT)
"""Columns that the transcript shows."""
INSIDE = {
    "Attention": ("attention", ":material/grid_on:"),
    "Logits": ("logits", ":material/bar_chart:"),
    "Compare": ("compare", ":material/compare_arrows:"),
    "Interventions": ("interventions", ":material/biotech:"),
}
"""Pages that look inside a model on a text."""


def show(
    experiment: Experiment, subjects: Sequence[Subject], result: Result, name: str, scores: Mapping[str, str]
) -> None:
    """Show an item from its transcript to its tokens.

    Args:
        experiment: experiment of the item.
        subjects: models, the base first.
        result: joint result of all models.
        name: name of the item.
        scores: columns that are shown with the answers, with their titles; all are in a table.
    """
    rows = result.items[result.items[ITEM] == name]
    own: dict[str, dict[Any, Any]] = {str(row[MODEL]): row for row in rows.to_dict("records")}
    respondents = [subject for subject in subjects if subject.label in own]
    show_transcript([reply(subject.label, own[subject.label], scores) for subject in respondents], about(rows))
    value_table(respondents, own)
    if not any(subject.ref for subject in respondents):
        note("These models are known only by their logs, so there are no tokens to show.")
        return
    if PROMPT not in rows:
        note("The experiment returns no column `prompt`, so there are no tokens to show.")
        return
    readings: list[tuple[Subject, LM, Read]] = []
    for subject in respondents:
        with guard():
            lm = models.load(subject.ref)
            if lm is None:
                continue
            record = own[subject.label]
            text = join_texts(record.get("prompt"), record.get("answer"))
            read = models.compute_once(reading, lm, say="Reading the answer", prompt=text[0], answer=text[1])
            readings.append((subject, lm, read))
    if not readings:
        return
    others = stand_ins({subject.label: own[subject.label] for subject, _, _ in readings})
    if others:
        note(others)
    row, token = tokens(experiment.name, name, result, readings)
    links([subject for subject, _, _ in readings], *readings[row], token)
    _, reader, read = readings[row]
    alike = [
        (subject.label, lm) for subject, lm, _ in readings if lm.tokenizer.get_vocab() == reader.tokenizer.get_vocab()
    ]
    trust_badge(*alike, text=read.ids)


def reply(label: str, row: Mapping[Any, Any], scores: Mapping[str, str]) -> Reply:
    """Return a model's answer to an item, with its verdict and its values in some columns."""
    values = {title: _cell(row.get(name)) for name, title in scores.items()}
    answer, prompt = row.get(ANSWER), row.get(PROMPT)
    return Reply(
        label,
        _cell(prompt),
        None if answer is None or answer != answer else str(answer),
        {name: value for name, value in values.items() if value},
        verdict(row),
    )


def about(rows: pd.DataFrame) -> str:
    """State the kind of an item and which answers are right, or that none is known."""
    kinds, answers = (
        [str(text) for text in rows[column].dropna().unique() if str(text).strip()] if column in rows else []
        for column in (KIND, EXPECTED)
    )
    kind = f"Kind: {' or '.join(kinds)}. " if kinds else ""
    return kind + (f"Expected: {' or '.join(answers)}." if answers else "The right answer is not known here.")


def value_table(subjects: Sequence[Subject], own: Mapping[str, Mapping[Any, Any]]) -> None:
    """Draw all values of an item that the transcript does not show, one row per model."""
    columns = [column for column in own[subjects[0].label] if column not in SAID]
    cells = {
        str(column).replace("_", " "): [_cell(own[subject.label].get(column)) for subject in subjects]
        for column in columns
    }
    cells = {name: values for name, values in cells.items() if any(values)}
    if not cells:
        return
    rows = {"model": [subject.label for subject in subjects], **cells}
    show_table(
        pd.DataFrame(rows),
        hide_index=True,
        height="content",
        column_config={"model": st.column_config.TextColumn(pinned=True)},
    )


def tokens(name: str, item: str, result: Result, readings: "Sequence[tuple[Subject, LM, Read]]") -> tuple[int, int]:
    """Show the texts as chips; return the index of the chosen reading and of its chosen token.

    Initially the first token of the last model's answer is chosen.
    """
    key = f"_{name}_token"
    identity = (item, tuple(subject.label for subject, _, _ in readings))
    if st.session_state.get(key, (None,))[0] != identity:
        first = readings[-1][2]
        st.session_state[key] = identity, len(readings) - 1, min(first.cut, len(first.ids) - 1)
    _, choice, token = st.session_state[key]
    token = min(token, len(readings[choice][2].ids) - 1)
    heads = {read.ids[: read.cut] for _, _, read in readings}
    is_shared = len(heads) == 1
    rows = []
    if is_shared:
        rows.append(
            TokenRow(
                label="prompt",
                colour="transparent",
                tokens=prompt_chips([(subject.label, read) for subject, _, read in readings]),
            )
        )
    for subject, _, read in readings:
        colour = result.styles[subject.label].colour
        start = read.cut if is_shared else 0
        chips = [chip(read, j) for j in range(start, len(read.ids))]
        rows.append(TokenRow(label=subject.label, colour=colour, tokens=chips))
    cut = readings[choice][2].cut
    in_prompt = is_shared and token < cut
    mark = (0, token) if in_prompt else (choice + is_shared, token - (cut if is_shared else 0))

    def pick(row: int, index: int) -> None:
        if is_shared and row == 0:
            st.session_state[key] = identity, choice, index
        else:
            of = row - is_shared
            st.session_state[key] = identity, of, index + (readings[of][2].cut if is_shared else 0)

    token_rows(rows, chosen=mark, key=f"{name}-tokens", on_pick=pick)
    scalar = any(read.scalar for _, _, read in readings)
    note(
        "Colour: "
        + ("output of the model at the token. " if scalar else "how unexpected the token was. ")
        + "Hover for probabilities; click a token to look inside at it."
    )
    return choice, token


def links(subjects: Sequence[Subject], subject: Subject, lm: "LM", read: Read, token: int) -> None:
    """Draw links to the pages that look inside, with model and text; the text ends before the chosen token."""
    choices = current()
    text = before(lm, read, token)
    pair = (choices.base or subjects[0].choice, subject.choice)
    plain = chats([lm])  # the text is unchanged from the experiment
    if subject.choice == choices.base:
        pair = (subject.choice, choices.aligned or subject.choice)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        note(f"Look into {subject.label} before token {token} ({read.pieces[token]}):")
        for title, (page, icon) in INSIDE.items():
            look_link(page, title, icon, plain, base=pair[0], aligned=pair[1], prompt=text)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
