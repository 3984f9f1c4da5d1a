"""Completions of a policy during its training: a table with filters, and the transcript and tokens of one of them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.components.details import csv_button
from dashboard.components.figure import figure
from dashboard.components.form import number_input
from dashboard.components.table import show_table
from dashboard.components.tokens import token_rows
from dashboard.components.transcript import Reply, show_transcript, walk
from dashboard.data import Store
from dashboard.markdown import guard_callback, note
from dashboard.state import ALIGNED, ATTENTION_OF, BASE, ENDS, ROLLOUT, compare_link, keep, look_link
from probe.model.messages import last_words
from probe.plotting.chips import Chip, TokenRow
from probe.plotting.runs import token_panels
from probe.plotting.theme import method_colour
from probe.runs.captured import MEASURES, SIGNED, matching, rollout_text, token_measures, tokens
from probe.texts import visible

TOKEN, TABLE = "rollout_token", "rollouts-table"
"""Keys of the token of the chosen completion (`ROLLOUT`), and of the table of completions."""
NUMBER = "Its number in rollouts.jsonl, from 0."
SAMPLED, STEPS, REWARD, TEXT, MEASURE = "sampled", "rollout_steps", "rollout_reward", "rollout_text", "measure"
"""Keys of the run, of the filters of completions, and of the tokens' colour."""
ORDER = "rollout_order"
"""Key of the order of completions."""
CHOICES = (SAMPLED, STEPS, REWARD, TEXT, ORDER, MEASURE, ROLLOUT, TOKEN)
"""Keys of all choices."""
NEWEST, OLDEST, HIGHEST, LOWEST = "newest first", "oldest first", "highest reward first", "lowest reward first"
"""Orders of completions."""
WORDS = 34
"""Largest number of characters of a prompt in the table."""
SIBLINGS = 8
"""Largest number of completions of one prompt that are shown side by side."""


@st.fragment
@guard_callback
def rollouts(store: Store, names: Sequence[str]) -> None:
    """Draw the widgets, the table and the chosen completion, apart from the page: a key walks through them quickly."""
    labels = [name for name in names if data.has_rollouts(store.runs[name])]
    if not labels:
        note(
            "The chosen runs have recorded no rollouts: methods that sample (rlhf, rsft, rlvr) record them every "
            "--rollouts-every steps, trainers of TRL with ProbeCallback(..., trainer=trainer), other loops with "
            "recorder.writer.rollouts(rows)."
        )
        return
    columns = st.columns([3, 3, 3, 3, 3], gap="medium")
    with columns[0]:
        label = st.selectbox(
            "Rollouts of", labels, key=keep(SAMPLED, labels, labels[-1]), bind="query-params", format_func=visible
        )
    frame, table = data.rollouts(store.runs[label])
    rows = filter_completions(table, columns[1:4])
    with columns[4]:
        rows = choose_order(rows)
    left, right = st.columns([6, 5], gap="medium")
    with left:
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            note(f"{len(rows):,} of {len(table):,} completions; click a row to read it.")
            csv_button(rows, f"rollouts-{label}")
        listing(rows, label)
        if "logprobs" in frame and "KL" not in table:
            note("No KL: the training had no reference; GRPOTrainer and RLOOTrainer of TRL have one with beta above 0.")
    if not len(rows):
        with right:
            note("No completion fits: widen the steps or the rewards, or shorten the text.")
        return
    keep(ROLLOUT, rows.index, int(rows.index[0]))
    with right:
        one(store, label, frame, table, [int(number) for number in rows.index])


def filter_completions(table: pd.DataFrame, columns: Sequence[Any]) -> pd.DataFrame:
    """Draw the filters for steps, rewards and text, and return the completions that pass them."""
    with columns[0]:
        steps = sorted({int(step) for step in table["step"]})
        chosen_steps = span("Steps", STEPS, float(steps[0]), float(steps[-1]), 1.0, "%d")
    with columns[1]:
        rewards = table["reward"].dropna() if "reward" in table else pd.Series(dtype=float)
        low, high = (
            (np.floor(rewards.min() * 100) / 100, np.ceil(rewards.max() * 100) / 100) if len(rewards) else (0.0, 0.0)
        )
        chosen_rewards = span("Reward", REWARD, float(low), float(high), 0.01, "%.2f") if high > low else None
    with columns[2]:
        text = st.text_input("Text", key=TEXT, bind="query-params", placeholder="part of a prompt or a completion")
    return matching(table, steps=chosen_steps, rewards=chosen_rewards, text=text or "")


def choose_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Let the reader choose the order of the completions, and return them in it."""
    ways = [NEWEST, OLDEST, *((HIGHEST, LOWEST) if "reward" in rows else ())]
    way = st.selectbox("Order", ways, key=keep(ORDER, ways, NEWEST), bind="query-params", format_func=str)
    newest = rows.iloc[::-1]
    if way in (HIGHEST, LOWEST):
        return newest.sort_values("reward", ascending=way == LOWEST, kind="stable")
    return rows if way == OLDEST else newest


def span(label: str, key: str, low: float, high: float, step: float, shown: str) -> tuple[float, float]:
    """Draw a range slider and return its range, by default (also for an invalid one in the URL) the whole range."""
    if low == high:
        note(f"{label}: all at {low:g}.")
        return low, high
    if key in st.session_state:
        first, last = st.session_state[key]
        if not low <= first <= last <= high:
            del st.session_state[key]
    return st.slider(label, low, high, (low, high), step, format=shown, key=key, bind="query-params")


def listing(completions: pd.DataFrame, label: str) -> None:
    """Draw the completions as a table; a click on a row chooses it."""

    @guard_callback
    def choose() -> None:
        rows = st.session_state[TABLE]["selection"]["rows"]
        if rows and rows[0] < len(completions):
            st.session_state[ROLLOUT] = int(completions.index[rows[0]])
            st.session_state[TOKEN] = 0

    number = st.column_config.NumberColumn(format="%.3g")
    parts = [name for name in map(str, completions) if name.startswith("reward")]
    ends = completions["prompt"].map(partial(last_words, length=WORDS))
    order = ["step", "prompt", "completion", *completions.columns.difference(["step", "prompt", "completion"], False)]
    show_table(
        completions.assign(prompt=ends)[order],
        hide_index=True,
        height=560,
        key=TABLE,
        on_select=choose,
        selection_mode="single-row",
        column_config={
            **dict.fromkeys([*parts, "advantage", "KL", "entropy"], number),
            "step": st.column_config.NumberColumn(width=50),
            "prompt": st.column_config.TextColumn(width=230, help="Its last words."),
            "completion": st.column_config.TextColumn(width=200),
        },
    )


def one(store: Store, label: str, frame: pd.DataFrame, table: pd.DataFrame, numbers: list[int]) -> None:
    """Draw the transcript of one completion, its tokens among those of its prompt, and figures of its tokens.

    Args:
        store: the runs.
        label: label of the run.
        frame: all completions as they were recorded.
        table: all completions with their scores (`probe.runs.captured.rollout_table`).
        numbers: numbers of the completions that pass the filters, in their order.
    """
    walk(numbers, ROLLOUT, first_token)
    left, middle = st.columns(2, vertical_alignment="bottom")
    with left:
        number = number_input("Rollout", 0, len(frame) - 1, key=ROLLOUT, help=NUMBER)
    number = int(number) if number in numbers else numbers[0]
    row = frame.loc[number].to_dict()
    family = siblings(frame, number)
    measures = token_measures(row)
    with middle:
        token = choose_token(len(tokens(row)))
    show_transcript([reply(table.loc[number].to_dict())])
    measure = choose_measure([name for name in MEASURES if name in measures])
    links(store, label, number, row, token)
    rows = [
        completion(frame.loc[index].to_dict(), measure, method_colour(store.runs[label].method)) for index in family
    ]

    def pick(line: int, index: int) -> None:
        st.session_state[ROLLOUT] = int(family[line])
        st.session_state[TOKEN] = index

    token_rows(rows, chosen=(family.index(number), token), key="rollout-tokens", on_pick=pick)
    if not measures:
        note("Nothing was recorded token by token for this completion.")
        return
    chart = token_panels(measures, tokens(row), chosen=token, colour=method_colour(store.runs[label].method))
    table = pd.DataFrame({"token": tokens(row), **measures})
    title = f"Rollout {number} at step {int(row['step']):,}" + describe_parts(row)
    height = 90 + 75 * len(measures)
    figure(chart, table, "rollout", title=title, height=height, source={"run": str(store.runs[label].path)})


def links(store: Store, label: str, number: int, row: dict[Any, Any], token: int) -> None:
    """Draw links to other pages with the prompt alone, and with the completion up to the chosen token."""
    run, place = store.runs[label], {ALIGNED: label, ROLLOUT: str(number)}
    parent = store.label(run.parent, run)
    if parent is not None and store.runs[parent].checkpoints():
        place[BASE] = parent
    with st.container(horizontal=True, gap="medium"):
        compare_link("Compare on this prompt", **place)
        found = rollout_text(run, row, token)
        if found is not None:
            place[ENDS] = str(token)
            own = {} if found.position is None else {"att_query": str(found.position)}
            own |= {} if BASE in place else {ATTENTION_OF: ALIGNED}
            look_link("attention", "Attention of this token", ":material/grid_view:", True, own, **place)
            look_link("compare", "Side by side after this token", ":material/compare_arrows:", True, **place)


def first_token(at: int) -> None:
    """Choose the first token of another completion."""
    st.session_state[TOKEN] = 0


def reply(row: dict[Any, Any]) -> Reply:
    """Return a completion with all its numbers, from its row of `rollout_table`."""
    units = {"KL": " nats", "entropy": " nats", "tokens": ""}
    skipped = ("step", "prompt", "completion", "finished")
    scores = {
        str(name): f"{value:.4g}{units.get(str(name), '')}"
        for name, value in row.items()
        if name not in skipped and has_number(value)
    }
    if isinstance(row.get("finished"), bool | np.bool_):
        scores["finished"] = "yes" if row["finished"] else "no"
    return Reply(f"Completion at step {int(row['step']):,}", str(row["prompt"]), str(row["completion"]), scores)


def choose_token(count: int) -> int:
    """Let the reader choose the token that is emphasised."""
    last = max(0, count - 1)
    if st.session_state.get(TOKEN, 0) > last:
        st.session_state[TOKEN] = last
    return int(number_input("Token", 0, last, key=TOKEN, disabled=not last))


def choose_measure(names: list[str]) -> str:
    """Let the reader choose the measure that colours all tokens; empty if nothing was recorded."""
    if not names:
        return ""
    key = keep(MEASURE, names, names[0])
    return str(st.segmented_control("Colour", names, key=key, bind="query-params", required=True))


def describe_parts(row: dict[Any, Any]) -> str:
    """Describe the reward and its parts in words."""
    parts = row.get("rewards")
    more = {name: value for name, value in parts.items() if has_number(value)} if isinstance(parts, dict) else {}
    detail = f" ({', '.join(f'{name} {value:.3g}' for name, value in more.items())})" if len(more) > 1 else ""
    return f": {describe_reward(row)}{detail}"


def has_number(value: object) -> bool:
    """Return whether a cell holds a number: neither None nor NaN."""
    return isinstance(value, int | float) and not np.isnan(value)


def describe_reward(row: dict[Any, Any]) -> str:
    """Describe the reward in words."""
    return f"reward {row['reward']:.3g}" if has_number(row.get("reward")) else "no reward"


def siblings(frame: pd.DataFrame, number: int) -> list[int]:
    """Return at most `SIBLINGS` completions of the given one's prompt and step, the given one among them."""
    row = frame.loc[number]
    same = frame[(frame["step"] == row["step"]) & (frame["prompt"] == row["prompt"])].index.tolist()
    near = same.index(number)
    first = max(0, min(near - SIBLINGS // 2, len(same) - SIBLINGS))
    return [int(index) for index in same[first : first + SIBLINGS]]


def completion(row: dict[Any, Any], measure: str, colour: str) -> TokenRow:
    """Return a completion as a row of chips, coloured by a measure relative to its largest value in the row."""
    measures = token_measures(row)
    values = measures.get(measure, np.zeros(len(tokens(row))))
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    chips = []
    for index, (token, value) in enumerate(zip(tokens(row), np.nan_to_num(values), strict=True)):
        lines = [f"token {index}: {token}"]
        lines += [
            f"{name} {series[index]:.4g}" + (f" {MEASURES[name]}" if MEASURES[name] else "")
            for name, series in measures.items()
            if has_number(float(series[index]))
        ]
        share = value / largest
        strength = 0.7 * np.sign(share) * abs(share) ** 0.5 if measure in SIGNED else 0.7 * abs(share) ** 0.5
        chips.append(Chip(text=token, tip="\n".join(lines), strength=float(strength)))
    return TokenRow(label=describe_reward(row), colour=colour, tokens=chips)
