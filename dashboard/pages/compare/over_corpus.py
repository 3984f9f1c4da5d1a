"""Over a corpus, on Side by side: which texts, positions, kinds and tokens changed most from one model to the other."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard.analysis import compute_when_asked
from dashboard.components.details import csv_button, details
from dashboard.components.figure import figure
from dashboard.components.number import number_input
from dashboard.components.table import show_table
from dashboard.data import Stamp, stamp
from dashboard.markdown import guard_callback, note, prose
from dashboard.models import compute_once
from dashboard.named import may_open, name_choice
from dashboard.pages.compare.choices import (
    ANSWERS,
    COMPARED,
    FILE,
    KIND,
    LIST,
    POSITION,
    PROMPT_TAB,
    SAMPLE_SEED,
    SCORE,
    TAB,
    N,
    Pair,
)
from dashboard.state import CHAT, PROMPT, keep, tell_again
from probe.errors import ProbeError
from probe.experiments.cost import seconds_a_token
from probe.numbers import chance, rate
from probe.texts import visible

if TYPE_CHECKING:
    from probe.compare.corpus_shift import CorpusShift, Text
    from probe.model.lm import LM
    from probe.rows import Rows
    from probe.ticks import Tick

EACH, ROWS = 10, 100
"""Questions of each kind of a world, and rows of a file, that are read at first."""
K, MOST, SHOWN = 12, 200, 200
"""Tokens at each end of a score, positions that are listed, and rows of a table."""
LETTERS = 4
"""Of a token, about."""
OVERHEAD, OVERHEAD_S = 1.5, 0.5
"""What comparing takes beside reading: a share, and seconds for halves and intervals."""
POSITIONS, TEXTS, KINDS, READ, PROMOTED = LISTS = (
    *("Positions", "Texts", "Kinds", "Tokens read", "Promoted and suppressed"),
)
ALL, KL = "all", "KL, nats"
ROW = "corpus-rows"
"""The key of the rows that can be opened."""
SCORES = {"probability": "difference", "log-probability": "log_ratio"}
"""What is called promoted: the score by what changes."""
EQUATIONS = [
    r"\mathrm{KL}_t = \sum_v \pi_a(v \mid x_{\le t}) \log \frac{\pi_a(v \mid x_{\le t})}{\pi_b(v \mid x_{\le t})},"
    r"\quad a = \mathrm{aligned},\ b = \mathrm{base}",
    r"\mathrm{difference}(v) = \frac{1}{P}\sum_t \pi_a(v \mid x_{\le t}) - \pi_b(v \mid x_{\le t}), \quad"
    r"\mathrm{log\ ratio}(v) = \frac{1}{P}\sum_t \log \frac{\pi_a(v \mid x_{\le t})}{\pi_b(v \mid x_{\le t})}",
]
DEFINITION = """
Both models read the same texts. What stands at a position is about the distribution of the token that follows it; with
*Answers only* a position counts where an assistant speaks next. A token is promoted where its mean probability rises.
Some of many tokens always come out on top: texts are split in halves at random 100 times. *Same sign* and *same rank*
are the shares of splits in which both halves give the token this sign, and have it among as many first tokens. The
*null* is what the choice of texts alone gives to some token of the vocabulary: 95 % of the splits stay below it.
Intervals are 95 %, by a bootstrap over texts.
"""


def draw(pair: Pair) -> None:
    """Draw the tab from its choices to its folded section."""
    if not pair.write("distribution of tokens to compare over a corpus"):
        return
    columns = st.columns([5, 2, 2, 3], vertical_alignment="bottom", gap="medium")
    with columns[0]:
        hint = (
            "JSON Lines, JSON, CSV, TSV, Parquet or a text file, with a column text, messages, or prompt; kind groups."
        )
        path = st.text_input(
            "File of texts",
            key=tell_again(FILE),
            bind="query-params",
            placeholder="the questions of their world, or of the shipped sets",
            on_change=name_choice,
            args=(FILE,),
            help=hint,
        )
    path = (path or "").strip()
    with columns[1]:
        n = number_input("Texts" if path else "Texts of each kind", 1, 10**6, ROWS if path else EACH, key=N)
    with columns[2]:
        seed = number_input("Seed of the texts", 0, 2**31 - 1, 0, key=SAMPLE_SEED)
    with columns[3]:
        hint = "Count only the positions whose next token an assistant says: behind a prompt, and in its completion."
        answers = st.toggle("Answers only", True, key=tell_again(ANSWERS), bind="query-params", help=hint)
    if path and not may_open(path):
        pair.tell("The corpus comes from a link and has not been opened.")
        return
    if not path and not share_questions(*pair.lms):
        pair.tell(f"{pair.names[0]} and {pair.names[1]} belong to different worlds: name a file of texts above.")
        note("Both models read its texts; the tab says which of them, and which tokens, changed most.")
        return
    version = stamp(Path(path).expanduser()) if path else (0, 0)
    source: dict[str, Any] = {"path": path, "version": version, "n": int(n), "seed": int(seed)}
    try:
        seconds = compute_once(tell_cost, *pair.lms, say="Reading the texts", **source)
        shift = compute_when_asked(
            compare,
            *pair.lms,
            button="Run both models over the corpus",
            seconds=seconds,
            key="corpus-run",
            say="Both models read the corpus",
            answers=answers,
            **source,
        )
    except ProbeError as error:
        pair.tell(f"{pair.names[0]} and {pair.names[1]} have not been compared over a corpus.")
        st.error(prose(error))
        return
    if shift is None:
        pair.tell("Press the button to read the corpus with both models.")
        note("It says which texts, positions and kinds changed most, and which tokens are promoted and suppressed.")
        return
    shift = replace(shift, names=pair.names)
    pair.tell(shift.sentence())
    show(pair, shift, source | {"answers": answers})


def read(base: "LM", aligned: "LM", path: str, n: int, seed: int) -> "Sequence[Text] | Rows[Text]":
    """Load the texts: those of a file, or questions that both models can be asked."""
    from probe.compare.corpus_shift import read_texts, shared_texts
    from probe.rows import Selection

    return read_texts(path, selection=Selection(n, seed)) if path else shared_texts(base, aligned, n, seed)


def share_questions(base: "LM", aligned: "LM") -> bool:
    """Whether both models belong to one world, or to none."""
    from probe.world import of

    worlds = [world.hash if world else None for world in map(of, (base, aligned))]
    return worlds[0] == worlds[1]


def tell_cost(base: "LM", aligned: "LM", version: Stamp, **source: Any) -> float:
    """Seconds that both models take to read the texts, about: they are timed on a few tokens."""
    letters = sum(len(text.completion or "") + len(str(text.content)) for text in read(base, aligned, **source))
    return OVERHEAD_S + OVERHEAD * sum(seconds_a_token(lm) for lm in (base, aligned)) * letters / LETTERS


def compare(
    base: "LM", aligned: "LM", tick: "Tick", answers: bool, version: Stamp, seed: int, **source: Any
) -> "CorpusShift":
    """`compare_corpus` of the texts."""
    from probe.compare.corpus_shift import compare_corpus

    texts = read(base, aligned, seed=seed, **source)
    return compare_corpus(base, aligned, texts, answers, k=K, most=MOST, seed=seed, tick=tick)


def show(pair: Pair, shift: "CorpusShift", source: dict[str, Any]) -> None:
    """Figure, ranked tables and folded section."""
    about = pair.source | {name: value for name, value in source.items() if name != "version"}
    title = f"What changed from {pair.names[0]} to {pair.names[1]} over {len(shift.texts):,} texts"
    figure(shift.figure(), shift.table(), "corpus", title=title, source=about)
    for remark in shift.notes:
        note(remark)
    chosen, *others = st.columns([7, 3, 1], vertical_alignment="bottom", gap="medium")
    with chosen:
        key = keep(LIST, LISTS, LISTS[0])
        listed = st.segmented_control("Ranked", LISTS, key=key, bind="query-params", required=True)
    if listed == PROMOTED:
        with others[0]:
            key = keep(SCORE, SCORES, next(iter(SCORES)))
            by = st.segmented_control("Mean change of", list(SCORES), key=key, bind="query-params", required=True)
        promoted(shift, SCORES[str(by)])
    elif listed in (POSITIONS, TEXTS):
        with others[0]:
            kinds = [ALL, *shift.kinds["kind"]]
            kind = st.selectbox("Kind", kinds, key=keep(KIND, kinds, ALL), bind="query-params", format_func=visible)
        ranked(pair, shift, str(listed), None if kind == ALL else str(kind))
    else:
        table = shift.kinds if listed == KINDS else shift.by_token
        show_table(table.head(SHOWN), hide_index=True, key="corpus-list", column_config=columns_of(table))
        csv_button(table, f"corpus-{str(listed).lower()}")
        if listed != KINDS:
            note("KL after each token that is read, mean over where it stands, and its share of all KL of the corpus.")
    code = [
        "import probe",
        "",
        pair.loads,
        f"texts = probe.compare.{call_of(source)}",
        f"shift = probe.compare.compare_corpus(base, aligned, texts, {source['answers']}, seed={source['seed']})",
        "print(shift.sentence())",
        "shift.figure(), shift.tables()",
    ]
    details(EQUATIONS, DEFINITION, "\n".join(code), {f"corpus-{name}": table for name, table in shift.tables().items()})


def call_of(source: dict[str, Any]) -> str:
    """Return the Python call that gives the texts."""
    n, seed = source["n"], source["seed"]
    if not source["path"]:
        return f"shared_texts(base, aligned, n={n}, seed={seed})"
    return f"read_texts({source['path']!r}, selection=probe.rows.Selection({n}, {seed}))"


def ranked(pair: Pair, shift: "CorpusShift", listed: str, kind: str | None) -> None:
    """Texts or positions, the most changed first; a click on one reads it in the first tab."""
    table = shift.tables()["texts" if listed == TEXTS else "tokens"]
    rows = table if kind is None else table[table["kind"] == kind]
    if listed == TEXTS:
        names = {"row": "text", "kind": "kind", "kl": KL, "kl_max": "largest", "position": "at", "token": "token"}
        names |= {"tokens": "tokens", "text": "whole text"}
        shown = rows.head(SHOWN).rename(columns={"text": "whole text"}).rename(columns=names)[list(names.values())]
    else:
        shown = rows.head(SHOWN)[["row", "kind", "position", "context", "kl"]].set_axis(
            ["text", "kind", "at", "read up to there", KL], axis=1
        )
        for name, side in zip(pair.names, ("base", "aligned"), strict=True):
            pairs = zip(rows[f"{side}_next"].head(SHOWN), rows[f"{side}_p"].head(SHOWN), strict=True)
            shown[f"{name}: next"] = [f"{token} {chance(p)}" for token, p in pairs]

    @guard_callback
    def open_row() -> None:
        picked = st.session_state[ROW]["selection"]["rows"]
        if picked:
            prompt, at = prompt_of(shift, rows.iloc[picked[0]], listed == TEXTS, pair.aligned.tokenizer)
            st.session_state[PROMPT], st.session_state[CHAT["compare"]] = prompt, False
            st.session_state[POSITION], st.session_state[COMPARED] = at, None
            st.query_params[POSITION] = str(at)
            st.session_state[TAB] = PROMPT_TAB

    show_table(
        shown,
        hide_index=True,
        height=38 + 35 * min(10, max(1, len(shown))),
        key=ROW,
        on_select=open_row,
        selection_mode="single-row",
        column_config=columns_of(shown),
    )
    csv_button(rows, f"corpus-{listed.lower()}")
    what = "A click on the box before a row opens" + (
        " the text in the tab One prompt, at its most changed token."
        if listed == TEXTS
        else " the text up to there in the tab One prompt, where both models continue it."
    )
    note(f"{what} Position t is about the token that follows token t.")


def prompt_of(shift: "CorpusShift", row: pd.Series, whole: bool, tokenizer: Any) -> tuple[str, int]:
    """Return a text as a prompt, whole or up to a position, and the index of the token that is predicted there."""
    from probe.model.text import encode

    texts = shift.texts[(shift.texts["row"] == row["row"]) & (shift.texts["start"] <= row["position"])]
    text = texts.loc[texts["start"].idxmax()]
    at = int(row["position"] - text["start"])
    return text["text"] if whole else tokenizer.decode(encode(tokenizer, text["text"])[: at + 1]), at + 1


def promoted(shift: "CorpusShift", score: str) -> None:
    """Show the tokens at both ends of a score, and how far two halves of the texts agree on them."""
    rows = shift.listed(score)
    unit, factor = ("pp", 100) if score == "difference" else ("nats", 1)
    ends = zip(*(factor * rows[name] for name in ("value", "ci_low", "ci_high")), strict=True)
    shown = pd.DataFrame(
        {
            "token": rows["token"],
            "direction": rows["direction"],
            f"change, {unit} [95 %]": [interval(*each) for each in ends],
            "p(base)": [chance(p) for p in rows["p_base"]],
            "p(aligned)": [chance(p) for p in rows["p_aligned"]],
            "same sign": [share(each) for each in rows["same_sign"]],
            "same rank": [share(each) for each in rows["same_rank"]],
            "beyond the null": ["yes" if each else "no" for each in rows["beyond_null"]],
        }
    )
    show_table(shown, hide_index=True, height="content", key="corpus-promoted")
    csv_button(rows, f"corpus-promoted-{score}")
    half = shift.halves.set_index("score").loc[score]
    if half["null"] == half["null"]:
        note(
            f"Null of two halves: the choice of texts alone gives some token a change of {factor * half['null']:.3g} "
            f"{unit}. The scores of both halves correlate by {half['correlation']:.2f} "
            f"[{half['low']:.2f}, {half['high']:.2f}] over the vocabulary."
        )
    else:
        note("One text has no halves, so there are no intervals and no null: give more texts.")


def interval(value: float, low: float, high: float) -> str:
    """Format a change with its sign and interval."""
    ends = "" if low != low else f" [{low:+.2g}, {high:+.2g}]"
    return f"{value:+.2g}{ends}".replace("-", "\u2212")


def share(value: float) -> str:
    """Format a share of the splits; empty where there are none."""
    return "" if value != value else rate(value)


def columns_of(table: pd.DataFrame) -> dict[str, Any]:
    """How columns are shown: numbers with three digits, texts narrow."""
    number = st.column_config.NumberColumn(format="%.3g", width="small")
    return {str(name): number for name in table if pd.api.types.is_float_dtype(table[name])}
