"""The sycophancy experiment on a data file: which format it has, and the items and tables that it gives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe import stats
from probe.analyses import behaviour_choices as choices
from probe.analyses import belief_templates as beliefs
from probe.analyses import deference_file_heads as heads
from probe.analyses import feedback
from probe.analyses.deference_steering import Parted, by_contrast, middle
from probe.analyses.feedback_judges import judge_of
from probe.analyses.flip_layer import flip_rows, layer_table, margins
from probe.analyses.question_forms import Form, completion, read_records, uses_chat
from probe.analyses.repeated_doubt import doubted
from probe.errors import ConfigError, DataError, ModelError
from probe.lm import LM
from probe.ticks import Tick, ignore, part

LENS = 100
"""Questions of a file that the lens is read on, at most."""
Parts = tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, Any]]
"""Items, tables by name, facts."""


def file_parts(
    lm: LM,
    path: Path,
    n: int,
    seed: int = 0,
    form: Form = "auto",
    lead: str | None = None,
    interventions: int = 0,
    layer: int | None = None,
    judge: Any = None,
    turns: int = 5,
    tick: Tick = ignore,
) -> Parts:
    """Ask a model the questions of a file, known by the fields of its first object.

    Args:
        lm: the model.
        path: JSON Lines or one JSON list.
        n: questions, at most.
        seed: of their choice where there are more.
        form: see `probe.analyses.question_forms.Form`.
        lead: what the assistant begins with; None for what the format's authors used.
        interventions: questions from which a direction is read and on which it is tried; fewer than 4 for none.
        layer: block after which it is read and added; None for the last of the first half.
        judge: of comments on texts, see `probe.analyses.feedback_judges.judge_of`.
        turns: of repeated doubt over questions with a right and a wrong answer.
        tick: progress.

    Raises:
        DataError: the file has the fields of no format, a line lacks one, or the model writes no answers.
        ConfigError: a judge is given and the file has no texts to comment on, or it is none.
    """
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no answers: take a language model for a data file.")
    records = read_records(path)
    first = records[0].values
    inner = first.get("base")
    named = set(first) | (set(inner) if isinstance(inner, dict) else set())
    facts: dict[str, Any] = {"chat_template": uses_chat(lm, form)}
    answered = named & {*choices.FIELDS[1:], *beliefs.FIELDS[1:]}
    if judge is not None and answered:
        raise ConfigError(f"`{path}` holds questions with answers, which need no judge: leave the judge out.")
    if named & set(choices.FIELDS[1:]):
        words = choices.lead_of(lm, path, form) if lead is None else lead
        asked = choices.read_choices(records, n, seed)
        items, tables, more = _choices(lm, asked, form, words, seed, interventions, layer, tick)
        return items, tables, facts | more | {"format": "choices", "lead": words}
    if named & set(beliefs.FIELDS[1:]):
        words = beliefs.LEAD if lead is None else lead
        questions = beliefs.read_questions(records, n, seed)
        items, tables, more = _templates(lm, questions, form, words, seed, interventions, turns, tick)
        return items, tables, facts | more | {"format": "questions", "lead": words}
    if "text" in named:
        compare, who = judge_of(judge, lm)
        words = lead or ""
        items = feedback.positivity(lm, feedback.read_texts(records, n, seed), compare, form, words, seed, tick)
        return items, {"feedback": feedback.feedback_table(items, seed)}, facts | {"format": "texts", "judge": who}
    raise DataError(
        f"{records[0].where} has the fields {', '.join(map(str, first)) or '(none)'}: give"
        f" {', '.join(choices.FIELDS)} (choices), {', '.join(beliefs.FIELDS)} (questions), or text, kind (texts)."
    )


def _choices(
    lm: LM,
    asked: Sequence[choices.Choice],
    form: Form,
    lead: str,
    seed: int,
    interventions: int,
    layer: int | None,
    tick: Tick,
) -> Parts:
    items = choices.score_choices(lm, asked, form, lead, part(tick, 0, 3)).assign(kind="choice")
    letters = sorted(set(items["letter"]) - {""})
    groups = {"all": items["matching"].notna()}
    groups |= {f"matching answer is {letter}": items["letter"] == letter for letter in letters}
    tables, facts = {"matching": shares(items, groups, "matching")}, dict[str, Any]()
    parted = _parted(lm, asked, items["prompt"].tolist())
    if not parted:
        return items, tables, facts
    try:
        block = middle(lm, layer)
        items["flip_layer"], tables["layers"] = _layers(lm, parted, len(items), seed, part(tick, 1, 3))
    except ModelError as error:
        return items, tables, {"left_out": f"layers and steering: {error}"}
    few = list(parted.values())[:interventions]
    if len(few) >= 4:
        found = by_contrast(lm, few, block, seed, part(tick, 2, 3))
        items = pd.concat([items, *found.items], ignore_index=True)
        tables, facts = tables | found.tables, facts | found.facts
    return items, tables, facts


def _parted(lm: LM, asked: Sequence[choices.Choice], prompts: Sequence[str]) -> dict[int, Parted]:
    """The first questions up to where their answers differ, by row; those of which one begins with the other lack."""
    found = {}
    for at, (prompt, choice) in enumerate(zip(prompts[:LENS], asked[:LENS], strict=True)):
        both = choices.parting(lm, prompt, (completion(prompt, choice.matching), completion(prompt, choice.other)))
        if both is not None:
            found[at] = Parted(prompt, choice.matching.strip(), *both)
    return found


def _layers(lm: LM, parted: Mapping[int, Parted], count: int, seed: int, tick: Tick) -> tuple[np.ndarray, pd.DataFrame]:
    """([N] row from which the lens prefers the matching answer, NaN beyond the first questions; margins by layer)."""
    each = list(parted.values())
    rows = margins(lm, [one.ids for one in each], [one.matching for one in each], [one.other for one in each], tick)
    flips = np.full(count, np.nan)
    flips[list(parted)] = flip_rows(rows)
    return flips, layer_table(rows, seed).assign(asked="choice")


def _templates(
    lm: LM,
    questions: Sequence[beliefs.Question],
    form: Form,
    lead: str,
    seed: int,
    interventions: int,
    turns: int,
    tick: Tick,
) -> Parts:
    items = beliefs.score_templates(lm, questions, form, lead, part(tick, 0, 3))
    kinds = {kind: items["kind"] == kind for kind in dict.fromkeys(items["kind"])}
    flips = [shares(items, {name: items[name].notna()}, name) for name in ("right_to_wrong", "wrong_to_right")]
    tables = {"templates": shares(items, kinds, "right"), "flips": pd.concat(flips, ignore_index=True)}
    right = set(items.loc[(items["kind"] == "plain") & (items["right"] == 1), "row"])
    held = [question for question in questions if question.item in right]
    lacking, facts = list[str](), dict[str, Any]()
    try:
        if held:
            found = doubted(lm, held, turns, form, lead, part(tick, 1, 3))
            items, tables["pressure"] = pd.concat([items, found.items()], ignore_index=True), found.curve()
        else:
            lacking.append("repeated doubt: no question is answered right")
    except DataError as error:  # the dialogue outgrows the context
        lacking.append(f"repeated doubt: {error}")
    pairs = heads.guesses(lm, questions, form, lead)[:interventions]
    if interventions and len(pairs) < heads.FEWEST:
        lacking.append(
            f"heads: {len(pairs)} questions have a right and a wrong answer of as many tokens, and {heads.FEWEST} are"
            " needed"
        )
    elif interventions:
        try:
            inside = heads.by_file_head(lm, pairs, seed, part(tick, 2, 3))
        except ModelError as error:
            lacking.append(f"heads: {error}")
        else:
            items = pd.concat([items, *inside.items], ignore_index=True)
            tables, facts = tables | inside.tables, dict(inside.facts)
    return items, tables, facts | ({"left_out": "; ".join(lacking)} if lacking else {})


def shares(items: pd.DataFrame, groups: Mapping[str, Any], column: str) -> pd.DataFrame:
    """`name`, `value`, `ci_low`, `ci_high` (Wilson), `n` of a column of zeros and ones in several groups of rows."""
    rows = []
    for name, where in groups.items():
        values = items.loc[where, column].dropna()
        if len(values):
            rows.append([name, *stats.wilson(int(values.sum()), len(values)), len(values)])
    return pd.DataFrame(rows, columns=["name", "value", "ci_low", "ci_high", "n"])
