"""The sycophancy experiment on a data file: its format, items and tables, and the heads that carry a guess.

The formats are those of `probe.sycophancy.choices`, `probe.sycophancy.beliefs`, `probe.sycophancy.premises`,
`probe.sycophancy.two_sides` and `probe.sycophancy.feedback`, told apart by the fields of the rows.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probe import stats
from probe.errors import ConfigError, DataError, ModelError
from probe.interventions.patching import PromptPair, attribute, pair_of
from probe.interventions.sites import Site
from probe.logits.targets import Target, target_of
from probe.model.dialogues import Form, Turn, completion, dialogue, uses_chat
from probe.model.lm import LM
from probe.rows import EVERY, Row, Rows, Selection, read_rows
from probe.sycophancy import agreement, beliefs, choices, feedback, premises, two_sides
from probe.sycophancy.beliefs import BeliefQuestion, Wording, user_message
from probe.sycophancy.choices import shared_prefix
from probe.sycophancy.deference_steering import PartResult, SplitQuestion, by_contrast, middle
from probe.sycophancy.feedback import judge_of
from probe.sycophancy.inside import flip_rows, heads_table, layer_table, margins, patch_some
from probe.sycophancy.repeated_turns import NEUTRAL, compare_turns, repeat_turns
from probe.sycophancy.speakers import read_speakers, score_speakers, speakers_table, with_speakers
from probe.ticks import Tick, ignore, part

OTHERS = 15
"""Number of other heads that are patched."""
DRAWS = 2
"""Number of random directions for each head of each pair."""
MOST = 16
"""Largest number of pairs in each half."""
FEWEST = 4
"""Smallest number of pairs with which heads are searched."""


class Guess(NamedTuple):
    """A question with a right and with a wrong guess of the user."""

    question: BeliefQuestion
    prompt: str
    """Prompt with the wrong guess."""
    pair: PromptPair
    """Both texts, cut where the two answers differ."""
    target: Target
    """Logit of the right answer minus that of the wrong one."""


def guesses(
    lm: LM, questions: Sequence[BeliefQuestion], form: Form, lead: str, wording: Wording = "published"
) -> list[Guess]:
    """Return the questions whose two texts have the same number of tokens."""
    matches = []
    for question in questions:
        clean, corrupted = (
            dialogue(lm, [Turn("user", user_message(question, kind, wording))], form, lead)
            for kind in ("suggests_correct", "suggests_incorrect")
        )
        answers = completion(corrupted, question.correct), completion(corrupted, question.incorrect)
        sides = [shared_prefix(lm, prompt, answers) for prompt in (clean, corrupted)]
        if sides[0] is None or sides[1] is None or len(sides[0][0]) != len(sides[1][0]):
            continue
        pair = pair_of(lm, sides[0][0], sides[1][0])
        matches.append(Guess(question, corrupted, pair, target_of(lm, pair.corrupted, *sides[1][1:])))
    return matches


def by_file_head(lm: LM, asked: Sequence[Guess], seed: int = 0, tick: Tick = ignore) -> PartResult:
    """Measure which heads carry a user's guess into the answer: items of kind `patched` and the table `heads`.

    In one text the user's guess is the right answer, in the other a wrong one with as many tokens
    (`probe.sycophancy.beliefs`). The pairs and the columns are those of `probe.sycophancy.inside.by_head`. A large
    model has too many heads to patch each, so every head is estimated from one backward pass of each pair of the first
    half (attribution patching, `probe.interventions.patching.attribute`). The head with the largest sum is patched on
    the second half, and so are randomly drawn other heads and random directions of the same norm.

    Args:
        lm: the model.
        asked: at least two guesses; the first half, at most `MOST`, chooses the head.
        seed: seed of the other heads and of random directions.
        tick: progress.

    Raises:
        ModelError: the architecture cannot be hooked, or has no heads.
    """
    if Site("head", 0, 0).hook not in lm.hook_names():
        raise ModelError("This architecture has no heads, so they cannot be measured: leave them out.")
    half = len(asked) // 2
    first, second = asked[:half][:MOST], asked[half:][:MOST]
    shape = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    total = np.zeros(shape)
    for number, each in enumerate(first):
        total += attribute(lm, each.pair, each.target, ["head"])["head"].effects
        part(tick, 0, 2)((number + 1) / len(first))
    layer, head = (int(index) for index in np.unravel_index(int(total.argmax()), shape))
    rng = np.random.default_rng(seed)
    rest = [place for place in np.ndindex(*shape) if place != (layer, head)]
    places = [(layer, head), *(rest[index] for index in np.sort(rng.permutation(len(rest))[:OTHERS]))]
    sites = [Site("head", *place) for place in places]
    gaps, effects, random, rows = [], [], [], []
    for number, (question, prompt, pair, target) in enumerate(second):
        gap, own, noise = patch_some(lm, pair, target, sites, DRAWS, rng)
        gaps.append(gap)
        effects.append(own)
        random.append(noise)
        row: dict[str, Any] = {
            "item": f"patched-{question.item}",
            "kind": "patched",
            "row": question.item,
            "prompt": prompt,
        }
        row |= {"expected": question.correct, "claim": question.incorrect, "gap": gap, "head_effect": own[0]}
        row |= {"other_heads_effect": own[1:].mean() if len(own) > 1 else np.nan, "random_head_effect": noise[0]}
        rows.append(row)
        part(tick, 1, 2)((number + 1) / len(second))
    facts = {"head": f"L{layer}H{head}", "head_chosen_on": len(first), "head_reported_on": len(second)}
    table = heads_table(np.array(gaps), np.array(effects), np.array(random), places, 0, seed)
    return PartResult([pd.DataFrame(rows)], {"heads": table}, dict(facts))


LENS = 100
"""Largest number of questions of a file that the lens reads."""


class Format(NamedTuple):
    """A format of a file."""

    whole: Sequence[set[str]]
    """Complete sets of fields, any one of which identifies the format."""
    fields: set[str]
    """Fields, any one of which identifies the format if a row has no complete set."""
    read: Callable[[Row], Any]
    """Function that reads a row."""
    content: Callable[[Any], Hashable]
    """Key by which equal rows are recognised."""


FORMATS = {
    "conflicts": Format(
        (set(two_sides.FIELDS),), set(two_sides.FIELDS[1:5]), two_sides.read_conflict, lambda conflict: conflict[1:]
    ),
    "premises": Format(
        (set(premises.FIELDS),), {*premises.FIELDS[1:3], premises.FIELDS[4]}, premises.read_premises, lambda q: q[1:]
    ),
    "choices": Format(
        (set(choices.FIELDS), set(choices.OLDER)),
        {*choices.FIELDS[1:], *choices.OLDER[1:]},
        choices.read_choice,
        lambda choice: choice.item,
    ),
    "questions": Format(
        tuple(map(set, (beliefs.FIELDS, beliefs.LETTERED, *beliefs.TRUTHS))),
        {*beliefs.FIELDS[1:], beliefs.LETTERED[-1], *(form[1] for form in beliefs.TRUTHS)},
        beliefs.read_question,
        beliefs.content,
    ),
    "texts": Format((), {"text"}, feedback.read_text, feedback.content),
}
"""Formats by name, in the order in which they are tried. Published files repeat questions and texts, not choices."""
Parts = tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, Any]]
"""Items, tables by name, and facts."""


def read_file(path: Path, strict: bool = False, selection: Selection = EVERY) -> tuple[str, Rows[Any]]:
    """Read a file; return the name of its format and its choices, questions or texts.

    The first row read that has the fields of a format decides the format.

    Raises:
        DataError: the file cannot be read, has the fields of no format, or has no usable row; see `probe.rows`.
    """
    name = ""

    def read_row(row: Row) -> Any:
        nonlocal name
        name = name or format_of(row)
        return FORMATS[name].read(row)

    rows = read_rows(path, read_row, strict, selection=selection, key=lambda item: FORMATS[name].content(item))
    return name, rows


def format_of(row: Row) -> str:
    """Return the name of the first format that a row fits: with all of its fields, or else with some of them.

    The fields are at the top or inside `base`.

    Raises:
        DataError: the row has the fields of no format.
    """
    inner = row.values.get("base")
    names = [*row.values, *(inner if isinstance(inner, dict) else ())]
    for fits in (lambda each: any(whole <= set(names) for whole in each.whole), lambda each: each.fields & set(names)):
        for name, each in FORMATS.items():
            if fits(each):
                return name
    raise DataError(
        f"{row.where} has the fields {', '.join(names) or '(none)'}: give"
        f" {', '.join(choices.FIELDS)} or {', '.join(choices.OLDER)} (choices), {', '.join(beliefs.FIELDS)} or"
        f" {', '.join(beliefs.LETTERED)} (questions), those of TruthfulQA's files, {', '.join(premises.FIELDS)}"
        f" (premises), {', '.join(two_sides.FIELDS)} (conflicts), or text, kind (texts)."
    )


def check_judge(path: Path, name: str, judge: Any) -> None:
    """Refuse a judge if there are no comments to judge.

    Raises:
        ConfigError: the file has no texts to comment on.
    """
    if judge is not None and name != "texts":
        raise ConfigError(f"`{path}` holds questions with answers, which need no judge: leave the judge out.")


def check_speakers(path: Path, name: str, speakers: str) -> None:
    """Refuse two speakers if there are no questions with a right and a wrong answer.

    Raises:
        ConfigError: the speakers are invalid, or the file has no such questions.
    """
    if read_speakers(speakers) and name != "questions":
        raise ConfigError(
            f"`{path}` has no questions with a right and a wrong answer, of which speakers claim one: leave the"
            " speakers out, or name another file."
        )


@dataclass(frozen=True, kw_only=True)
class FileQuestions:
    """Settings by which a model is asked the questions of a file."""

    form: Form = "auto"
    """Form of the prompts (see `probe.model.dialogues.Form`)."""
    lead: str | None = None
    """Beginning of the assistant's answer; None for the one that the format's authors used."""
    interventions: int = 0
    """Number of questions for a steering direction, to read it from and to try it on; fewer than 4 for none."""
    layer: int | None = None
    """Block after which the direction is read and added; None for the last of the first half."""
    judge: Any = None
    """Judge of comments on texts (see `probe.sycophancy.feedback.judge_of`)."""
    turns: int = 5
    """Number of turns of repeated doubt over questions with a right and a wrong answer."""
    wording: Wording = "published"
    """Wording of the user's opinion about a question."""
    speakers: str = ""
    """Openings of the opinions of two speakers, separated by a comma; empty for none."""


def file_parts(
    lm: LM, path: Path, selection: Selection, asked: FileQuestions = FileQuestions(), tick: Tick = ignore
) -> Parts:
    """Ask a model the questions of a file, whose format follows from the fields of its rows.

    Args:
        lm: the model.
        path: JSON Lines or one JSON list.
        selection: selection of questions; its seed is also that of controls and intervals.
        asked: how they are asked.
        tick: progress.

    Raises:
        DataError: the file has the fields of no format, a line lacks one, or the model writes no answers.
        ConfigError: the judge is invalid, or is given for a file without texts to comment on.
    """
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no answers: use a language model for a data file.")
    name, questions = read_file(path, selection=selection)
    check_judge(path, name, asked.judge)
    check_speakers(path, name, asked.speakers)
    seed, lead = selection.seed, asked.lead
    facts: dict[str, Any] = {"chat_template": uses_chat(lm, asked.form), "format": name}
    if name != "texts":
        of_choices = name == "choices"
        if lead is None:
            lead = choices.lead_of(lm, path, asked.form) if of_choices else beliefs.LEAD
        measure: Callable[..., Parts] = MEASURES[name]
        items, tables, more = measure(lm, questions, asked, lead, seed, tick)
        return items, tables, facts | more | {"lead": lead}
    compare, who = judge_of(asked.judge, lm)
    items = feedback.positivity(lm, questions, compare, asked.form, lead or "", seed, tick)
    return items, {"feedback": feedback.feedback_table(items, seed)}, facts | {"judge": who}


def _choices(
    lm: LM, questions: Sequence[choices.Choice], asked: FileQuestions, lead: str, seed: int, tick: Tick
) -> Parts:
    items = choices.score_choices(lm, questions, asked.form, lead, part(tick, 0, 3)).assign(kind="choice")
    letters = sorted(set(items["letter"]) - {""})
    groups = {"all": items["matching"].notna()}
    groups |= {f"matching answer is {letter}": items["letter"] == letter for letter in letters}
    tables, facts = {"matching": shares(items, groups, "matching")}, dict[str, Any]()
    prefixes = _split_answers(lm, questions, items["prompt"].tolist())
    if not prefixes:
        return items, tables, facts
    try:
        block = middle(lm, asked.layer)
        items["flip_layer"], tables["layers"] = _layers(lm, prefixes, len(items), seed, part(tick, 1, 3))
    except ModelError as error:
        return items, tables, {"left_out": f"layers and steering: {error}"}
    few = list(prefixes.values())[: asked.interventions]
    if len(few) >= 4:
        steering = by_contrast(lm, few, block, seed, part(tick, 2, 3))
        items = pd.concat([items, *steering.items], ignore_index=True)
        tables, facts = tables | steering.tables, facts | steering.facts
    return items, tables, facts


def _premises(
    lm: LM, questions: Sequence[premises.PremiseQuestion], asked: FileQuestions, lead: str, seed: int, tick: Tick
) -> Parts:
    items = premises.with_acceptance(premises.score_premises(lm, questions, asked.form, lead, tick))
    return items, {"premises": premises.premises_table(items)}, {}


def _split_answers(lm: LM, questions: Sequence[choices.Choice], prompts: Sequence[str]) -> dict[int, SplitQuestion]:
    """Return the first questions, cut where their answers differ, by row.

    Questions in which one answer is a prefix of the other are left out.
    """
    prefixes = {}
    for at, (prompt, choice) in enumerate(zip(prompts[:LENS], questions[:LENS], strict=True)):
        prefix = choices.shared_prefix(
            lm, prompt, (completion(prompt, choice.matching), completion(prompt, choice.other))
        )
        if prefix is not None:
            prefixes[at] = SplitQuestion(prompt, choice.matching.strip(), *prefix)
    return prefixes


def _layers(
    lm: LM, questions: Mapping[int, SplitQuestion], count: int, seed: int, tick: Tick
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return ([N] row from which the lens prefers the matching answer, NaN if not read; margins by layer)."""
    each = list(questions.values())
    rows = margins(lm, [one.ids for one in each], [one.matching for one in each], [one.other for one in each], tick)
    flips = np.full(count, np.nan)
    flips[list(questions)] = flip_rows(rows)
    return flips, layer_table(rows, seed).assign(asked="choice")


def _templates(
    lm: LM, questions: Sequence[beliefs.BeliefQuestion], asked: FileQuestions, lead: str, seed: int, tick: Tick
) -> Parts:
    ask: dict[str, Any] = {"form": asked.form, "lead": lead, "wording": asked.wording}
    named = beliefs.score_templates(lm, questions, tick=part(tick, 0, 5), **ask)
    lettered = agreement.score_lettered(lm, questions, tick=part(tick, 1, 5), **ask)
    speakers = read_speakers(asked.speakers)
    heard = [score_speakers(lm, questions, speakers, asked.form, lead, part(tick, 2, 5))] if speakers else []
    items = pd.concat([each for each in (named, lettered, *heard) if len(each)], ignore_index=True)
    items = agreement.with_agreement(agreement.with_changes(items))
    items = with_speakers(items) if speakers else items
    kinds = {kind: items["kind"] == kind for kind in beliefs.PUBLISHED}
    changes, flips = (
        pd.concat([shares(items, {name: items[name].notna()}, name) for name in names], ignore_index=True)
        for names in (agreement.CHANGES, ("right_to_wrong", "wrong_to_right"))
    )
    tables = {
        "agreement": agreement.agreement_table(items, seed),
        "contexts": agreement.context_table(items, seed),
        "changes": changes,
        "templates": shares(items, kinds, "right"),
        "flips": flips,
    }
    if speakers:
        tables["speakers"] = speakers_table(items, speakers, seed)
    right = set(items.loc[(items["kind"] == "plain") & (items["right"] == 1), "row"])
    correct = [question for question in questions if question.item in right]
    lacking, facts = list[str](), dict[str, Any]()
    try:
        if correct:
            more, tables["pressure"] = _repeated_turns(lm, correct, asked, lead, part(tick, 3, 5))
            items = pd.concat([items, more], ignore_index=True)
        else:
            lacking.append("repeated doubt: no question is answered right")
    except DataError as error:  # the dialogue outgrows the context
        lacking.append(f"repeated doubt: {error}")
    pairs = guesses(lm, questions, **ask)[: asked.interventions]
    if asked.interventions and len(pairs) < FEWEST:
        lacking.append(
            f"heads: {len(pairs)} questions have a right and a wrong answer with equally many tokens, and {FEWEST}"
            " are needed"
        )
    elif asked.interventions:
        try:
            inside = by_file_head(lm, pairs, seed, part(tick, 4, 5))
        except ModelError as error:
            lacking.append(f"heads: {error}")
        else:
            items = pd.concat([items, *inside.items], ignore_index=True)
            tables, facts = tables | inside.tables, dict(inside.facts)
    return items, tables, facts | ({"left_out": "; ".join(lacking)} if lacking else {})


def _repeated_turns(
    lm: LM, questions: Sequence[beliefs.BeliefQuestion], asked: FileQuestions, lead: str, tick: Tick
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return items and curve of repeated doubt; of several turns also those of neutral turns, the control."""
    doubts = repeat_turns(lm, questions, asked.turns, asked.form, lead, part(tick, 0, 2))
    if asked.turns == 1:
        return doubts.items(), doubts.curve()
    neutral = repeat_turns(lm, questions, asked.turns, asked.form, lead, part(tick, 1, 2), NEUTRAL)
    return compare_turns(doubts, neutral), pd.concat([doubts.curve(), neutral.curve()], ignore_index=True)


def _conflicts(
    lm: LM, questions: Sequence[two_sides.Conflict], asked: FileQuestions, lead: str, seed: int, tick: Tick
) -> Parts:
    items = two_sides.with_verdicts(two_sides.score_conflicts(lm, questions, asked.form, lead, tick))
    return items, {"two_sides": two_sides.verdicts_table(items)}, {}


MEASURES: dict[str, Callable[..., Parts]] = {
    "conflicts": _conflicts,
    "premises": _premises,
    "choices": _choices,
    "questions": _templates,
}
"""Function that asks the items of a format which have known answers."""


def shares(items: pd.DataFrame, groups: Mapping[str, Any], column: str) -> pd.DataFrame:
    """Return `name`, `value`, `ci_low`, `ci_high` (Wilson), `n` for a 0/1 column in several groups of rows."""
    rows = []
    for name, where in groups.items():
        values = items.loc[where, column].dropna()
        if len(values):
            rows.append([name, *stats.wilson(int(values.sum()), len(values)), len(values)])
    return pd.DataFrame(rows, columns=["name", "value", "ci_low", "ci_high", "n"])
