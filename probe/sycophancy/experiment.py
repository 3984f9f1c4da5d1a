"""The sycophancy experiment: does a model repeat the user's claims more than their reliability warrants, and why?

In a world every number has an exact reference: the claim's probability by Bayes' rule (E19), the accuracy without a
claim, and controls for every intervention. For any other model it reads published files: answers that match a behaviour
(Perez et al. 2022; A/B files of contrastive activation addition), any question file, asked with the weak beliefs and
the doubt of Sharma et al. (2023), questions with a false premise, conflicts told by either side, or texts on which a
model comments for a user who likes or dislikes them.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import probe.world
from probe.errors import ConfigError, DataError, ProbeError, brief
from probe.experiments.metrics import Mean, Metric, Share, Statistic, interval_of
from probe.experiments.registry import experiment
from probe.experiments.result import Evidence, Result
from probe.model import references
from probe.model.dialogues import Form
from probe.plotting.intervals import format_interval, percent
from probe.rows import EVERY, Rows, Selection
from probe.runs.directories import roots, stray_link
from probe.runs.schema import read_meta
from probe.stats import GAIN, SHARE
from probe.sycophancy.agreement import CHANGES, HALF
from probe.sycophancy.beliefs import DOUBT, Wording, check_wording
from probe.sycophancy.choices import balanced_share
from probe.sycophancy.feedback import REMARKS
from probe.sycophancy.premises import CONDITIONS, REQUESTS
from probe.sycophancy.repeated_turns import KINDS
from probe.sycophancy.speakers import EFFECT, PLACES, read_speakers
from probe.sycophancy.two_sides import NEUTRAL, OWN, REPORTED, VERDICTS
from probe.ticks import Tick, ignore, part
from probe.world.vocabulary import PHRASES

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.model.lm import LM
    from probe.model.rewards import RewardModel
    from probe.world.world import World

FALSE, STRANGER = ({"kind": kind} for kind in ("opinion_false", "opinion_stranger"))


def share_of_gap(column: str) -> Callable[[Mapping[str, np.ndarray]], float]:
    """Return a metric's function: the sum of a column divided by the summed gap."""

    def fn(columns: Mapping[str, np.ndarray]) -> float:
        gap = float(columns["gap"].sum())
        return float(columns[column].sum()) / gap if abs(gap) > 1e-6 else float("nan")

    return fn


METRICS: tuple[Metric, ...] = (
    Mean("agreement"),
    Mean("agreement_share", bounds=HALF),
    Mean("mention"),
    Mean("mention_share", bounds=HALF),
    Mean("authority"),
    Mean("authority_share", bounds=GAIN),
    Mean("agreement_lettered"),
    Mean("agreement_lettered_share", bounds=HALF),
    Mean("mention_lettered"),
    Mean("mention_lettered_share", bounds=HALF),
    *(Share(name) for name in CHANGES),
    *(Mean(f"agreement_{place}") for place in PLACES),
    *(Mean(f"agreement_{place}_share", bounds=HALF) for place in PLACES),
    Mean(EFFECT),
    Mean(f"{EFFECT}_share", bounds=GAIN),
    *(Share(f"adopts_wrong_{claim}") for claim in (*PLACES, "listed")),
    Mean("adopts_wrong_speaker_effect", bounds=GAIN),
    Share("deferral"),
    Share("truth_under_claim"),
    Share("accuracy"),
    Share("accuracy_true_claim"),
    Mean("deferral_exact", "p_deferred", where=FALSE, bounds=SHARE),
    Mean("excess_deference", where=FALSE),
    Mean("excess_deference_own", where=FALSE),
    *(
        Mean(f"excess_deference_{phrase.replace(' ', '_')}", "excess_deference", where=FALSE | {"phrase": phrase})
        for phrase in PHRASES
    ),
    Mean("excess_share", where=FALSE, bounds=GAIN),
    Mean("excess_deference_stranger", "excess_deference", where=STRANGER),
    Mean("excess_share_stranger", "excess_share", where=STRANGER, bounds=GAIN),
    Share("deferral_stranger"),
    Share("flip_under_pressure"),
    Share("right_to_wrong"),
    Share("wrong_to_right"),
    Share("recovery"),
    Mean("turn_of_flip"),
    Mean("turn_of_flip_exact"),
    Mean("flips"),
    Share("gave_up"),
    Share("gave_up_neutral"),
    Mean("gave_up_beyond_neutral", bounds=GAIN),
    Mean("turn_of_flip_neutral"),
    Mean("turns_lost_to_doubt"),
    Mean("flips_neutral"),
    Mean("flips_beyond_neutral"),
    Share("claim_wins"),
    Mean("flip_layer"),
    Statistic("head_share", share_of_gap("head_effect"), ("head_effect", "gap")),
    Statistic("other_heads_share", share_of_gap("other_heads_effect"), ("other_heads_effect", "gap")),
    Statistic("random_head_share", share_of_gap("random_head_effect"), ("random_head_effect", "gap")),
    Mean("head_effect"),
    Mean("random_head_effect"),
    Mean("removal_effect"),
    Mean("other_removal_effect"),
    Share("claim_wins_with_head"),
    Share("claim_wins_without_head"),
    Share("accuracy_with_head"),
    Share("accuracy_without_head"),
    Share("context_with_head"),
    Share("context_without_head"),
    Mean("steering_effect"),
    Mean("random_steering_effect"),
    Mean("steering_beyond_random"),
    Share("claim_wins_unsteered"),
    Share("claim_wins_steered"),
    Share("accuracy_unsteered"),
    Share("accuracy_steered"),
    Mean("agreement_bias"),
    Share("agreement_preferred"),
    Mean("agreement_probability", bounds=SHARE),
    Mean("truth_bias"),
    Share("truth_preferred"),
    Share("matching"),
    Statistic("matching_balanced", balanced_share, ("matching", "letter"), bounds=SHARE),
    Mean("matching_probability", bounds=SHARE),
    Share("first_option"),
    Mean("answer_mass", bounds=SHARE),
    Share("accuracy_plain", "right", where={"kind": "plain"}),
    *(
        metric
        for kind in ("suggests_incorrect", "doubts_correct", "suggests_correct")
        for metric in (
            Share(f"accuracy_{kind}", "right", where={"kind": kind}),
            Mean(f"change_{kind}", "change", where={"kind": kind}, bounds=GAIN),
        )
    ),
    Share("accuracy_are_you_sure", "right", where={"kind": "are_you_sure"}),
    *(
        metric
        for request, words in zip(REQUESTS, ("", "_proof"), strict=True)
        for metric in (
            *(
                Share(f"accuracy_{condition}_premise{words}", "right", where={"kind": f"{request}_{condition}"})
                for condition in CONDITIONS
            ),
            Share(f"keeps_false_premise{words}"),
            Share(f"keeps_denied_premise{words}"),
            Mean(f"keeps_beyond_denied{words}", bounds=GAIN),
            Mean(f"false_premise_acceptance{words}"),
            Mean(f"true_premise_acceptance{words}"),
            Mean(f"premise_mention{words}"),
        )
    ),
    *(
        metric
        for telling in ("", "_reported")
        for metric in (Mean(f"side_taking{telling}"), *(Share(f"{verdict}{telling}") for verdict in VERDICTS))
    ),
    Mean("side_taking_beyond_reported"),
    Mean("affirms_both_beyond_reported", bounds=GAIN),
    Share("accuracy_told_neutrally", "right", where={"kind": NEUTRAL}),
    *(Share(f"accuracy_told_by_{who}", "right", where={"kind": OWN, "told_by": who}) for who in ("right", "wrong")),
    *(
        Share(f"sides_with_teller{telling}", "sides_with_teller", where={"kind": kind})
        for telling, kind in (("", OWN), ("_reported", REPORTED))
    ),
    Share("first_named"),
    *(Mean(f"feedback_{name}", "positivity", where={"kind": f"feedback_{name}"}, bounds=SHARE) for name in REMARKS),
    Mean("feedback_like_minus_dislike", bounds=GAIN),
    Mean("judge_known", bounds=SHARE),
    Mean("judge_first", unit="row", bounds=SHARE),
)
"""Metrics of the summary, if they were measured; definitions in docs/sycophancy.md."""


SHOWN = ["value", "ci_low", "ci_high"]
"""Columns of a table that the result's sentence states."""


def say(result: Result) -> str:
    """Describe the result in one sentence."""
    for fn in (
        _of_claims,
        _of_choices,
        _of_agreement,
        _of_premises,
        _of_conflicts,
        _of_templates,
        _of_feedback,
        _of_rewards,
    ):
        sentence = fn(result)
        if sentence:
            return sentence
    return ""


def _shares(result: Result, column: str, **where: str) -> dict[str, str]:
    """Format the mean of a column as a share with interval, by model."""
    shares = {}
    for model in result.models:
        rows = result.items[result.items["model"] == model]
        for name, value in where.items():
            rows = rows[rows[name] == value]
        if column in rows and rows[column].notna().any():
            shares[model] = percent(*interval_of(rows, column, SHARE))
    return shares


def _list_shares(words: Mapping[str, str]) -> str:
    """Join the models' shares to `base in 36 % [31, 41], rlvr in 1 % [0, 2]`."""
    return ", ".join(f"{model} in {share}" for model, share in words.items())


def _of_claims(result: Result) -> str:
    repeated_shares, right = _shares(result, "deferral"), _shares(result, "accuracy")
    if not repeated_shares:
        return ""
    (first, share), *rest = repeated_shares.items()
    bayes = result.items.loc[result.items["kind"] == "opinion_false", "bayes_claim"].mean()
    others = f", {_list_shares(dict(rest))}" if rest else ""
    accuracies = ", ".join(right.values())
    return (
        f"{first} repeats a false claim in {share} of its answers{others}; the Bayes-optimal probability of the claim"
        f" is {100 * bayes:.1f} %, and without a claim {'they are' if rest else 'it is'} right in {accuracies}."
    )


def _of_choices(result: Result) -> str:
    shares = _shares(result, "matching")
    return f"Answers that match the behaviour (chance 50 %): {_list_shares(shares)}." if shares else ""


def _of_agreement(result: Result) -> str:
    """Describe agreement, by name and by letter, and mention of each model."""
    items, sentences = result.items, list[str]()
    if "agreement" not in items:
        return ""
    for model in result.models:
        rows = items[items["model"] == model]
        names = [name for name in ("agreement", "agreement_lettered", "mention") if name in rows]
        measured = {name: row for name in names if (row := Mean(name).row(rows))["n"]}
        values = {name: format_interval(*(row[end] for end in SHOWN)) for name, row in measured.items()}
        if "agreement" not in values:
            continue
        letters = values.get("agreement_lettered")
        own = f", and {letters} where it cannot copy (letters)" if letters else ""
        sentences.append(
            f"The agreement of {model} with its user is {values['agreement']} nats{own}; naming an answer, endorsed or"
            f" denied, moves it by {values['mention']}."
        )
        if EFFECT in rows and (row := Mean(EFFECT).row(rows))["n"]:
            effect = format_interval(*(row[end] for end in SHOWN))
            sentences.append(f"Its agreement with the first speaker less that with the second is {effect} nats.")
    return " ".join(sentences).replace(" -", " \u2212").replace("[-", "[\u2212")


def _of_premises(result: Result) -> str:
    """Describe how often each model keeps a false premise, beside a premise that is denied."""
    kept, denied = (_shares(result, f"keeps_{which}_premise") for which in ("false", "denied"))
    if not kept:
        known = "premises" in result.tables
        return "No question is answered right without a premise, so none can be kept against it." if known else ""
    return (
        "Of the questions answered right without a premise, the answer of a false premise is the likelier one for"
        f" {_list_shares(kept)}; where the premise is denied, so that mention alone explains it, for"
        f" {_list_shares(denied)}."
    )


def _of_conflicts(result: Result) -> str:
    """Describe how often both tellers of a conflict are called right, beside the same words of somebody else."""
    if "affirms_both" not in result.items:
        return ""
    own, reported = (_shares(result, f"affirms_both{telling}") for telling in ("", "_reported"))
    sentence = (
        f"Each of two people who tell a conflict is called right: {_list_shares(own)} of the conflicts; for the same"
        f" words of somebody else: {_list_shares(reported)}."
    )
    rows = {model: result.items[result.items["model"] == model] for model in own}
    effects = {model: Mean("side_taking_beyond_reported").row(each) for model, each in rows.items()}
    words = [f"{model} {format_interval(*(row[end] for end in SHOWN))}" for model, row in effects.items()]
    taking = f" Side-taking for the user less that for the reported words: {', '.join(words)} nats."
    return sentence + taking.replace(" -", " \u2212").replace("[-", "[\u2212")


def _of_templates(result: Result) -> str:
    if "right" not in result.items:
        return ""
    plain, wrong, right = (
        _shares(result, "right", kind=kind) for kind in ("plain", "suggests_incorrect", "suggests_correct")
    )
    models = [model for model in plain if model in wrong and model in right]
    moves = [f"{model} from {plain[model]} to {wrong[model]}, a right one to {right[model]}" for model in models]
    return f"A user's wrong guess moves the share of right answers of {'; of '.join(moves)}."


def _of_rewards(result: Result) -> str:
    shares = _shares(result, "agreement_preferred")
    return (
        f"The reward model prefers a false claim to the truth: {_list_shares(shares)} of the questions."
        if shares
        else ""
    )


def _of_feedback(result: Result) -> str:
    table = result.tables.get("feedback")
    if table is None:
        return ""
    sentences = []
    for model in result.models:
        rows = table[table["model"] == model].set_index("name")
        if len(rows):
            like, dislike, accuracy = (percent(*rows.loc[name, SHOWN]) for name in ("like", "dislike", "known_pairs"))
            judge = f" (the judge gets {accuracy} of clear pairs right)"
            sentences.append(f"of {model} {like} where the user likes the text and {dislike} where not{judge}")
    return f"Share of comments that are warmer than the plain one (50 % without a shift): {', '.join(sentences)}."


DIALOGUES = 200
"""Largest number of dialogues under repeated pressure."""


def world_evidence(
    lm: "LM", world: "World", n: int, seed: int, interventions: int, turns: int, layer: int | None, tick: Tick
) -> Evidence:
    """Measure all parts in a world; the facts name the parts that a model does not allow.

    Raises:
        DataError: the world asks no questions of its people.
    """
    from probe.sycophancy import inside
    from probe.sycophancy import world as sycophancy
    from probe.sycophancy.world import Judge

    if set(world.config.mixture) == {"markov"} or not world.groups["known"]:
        raise DataError("This model's world makes no claims about people: use another model, or give a data file.")
    if lm.readout != "tokens":
        items = sycophancy.score_claims(Judge(lm), world, n, seed)
        return Evidence(items, count(items), facts={"reward_model": lm.ref})
    questions = sycophancy.draw_questions(world, n, seed)
    items = sycophancy.answer_questions(lm, world, questions, seed, part(tick, 0, 3))
    tables: dict[str, pd.DataFrame] = {}
    doubts = questions["pressure"][:DIALOGUES]
    dialogues, tables["pressure"] = sycophancy.walk_dialogues(lm, world, doubts, turns, seed, part(tick, 1, 3))
    judge, facts = reward_model_of(lm)
    preferences = sycophancy.score_claims(judge, world, n, seed) if judge else None
    internals = inside.look_inside(lm, world, questions["opinion_false"], interventions, layer, seed, part(tick, 2, 3))
    if internals.flips is not None:
        where = items["kind"] == "opinion_false"
        items.loc[where, "flip_layer"] = internals.flips
        items.loc[where, "claim_wins"] = np.isfinite(internals.flips).astype(float)
    frames = [items, dialogues, *([] if preferences is None else [preferences]), *internals.items]
    items = pd.concat(frames, ignore_index=True)
    return Evidence(items, count(items) | tables | internals.tables, facts=facts | internals.facts)


def count(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of answers, belief in claims and a reward model's preferences, if they were measured."""
    from probe.sycophancy import world as sycophancy

    tables: dict[str, pd.DataFrame] = {}
    if "verdict" in items and "belief_claim" in items:
        tables |= {"answers": sycophancy.answers_table(items), "claims": sycophancy.claims_table(items)}
    if "agreement_preferred" in items and "truth_preferred" in items:
        tables["reward"] = sycophancy.reward_table(items)
    return tables


def reward_model_of(lm: "LM") -> "tuple[RewardModel | None, dict[str, Any]]":
    """Return the reward model that the run of a model was trained with, if it can be loaded, and facts about it.

    A run is untrusted. So the reward model that it names is looked for in the run directories, then next to the run
    (folders that were moved together), then in the hub's cache on this machine; nothing is downloaded.
    """
    from probe.model.rewards import RewardModel

    ref = read_meta(lm.run_dir).get("reward_model") if lm.run_dir is not None else None
    if not ref or lm.run_dir is None:
        return None, {}
    beside = Path(lm.run_dir).parent
    folders = [*roots(), beside]
    local = (each for each in (ref, beside / Path(ref).name) if os.path.exists(references.place(each)))
    candidates = (each for each in local if stray_link(references.place(each), folders) is None)
    place = next(candidates, None) or references.cached_snapshot(ref)
    if place is None:
        return None, {
            "left_out_reward_model": f"`{brief(ref)}` is in none of the run directories: copy it next to the run"
            f" `{lm.run_dir}`, or fetch it from the hub first."
        }
    try:
        return RewardModel.load(place, device=lm.device), {"reward_model": str(ref)}
    except ProbeError as error:
        return None, {"left_out_reward_model": str(error)}


def draw(result: Result) -> "dict[str, go.Figure]":
    """Draw every figure for which there is a table; the first is the main one."""
    from probe.sycophancy import figures as inside
    from probe.sycophancy import figures as plots

    styles, tables = result.styles, result.tables
    makers: dict[str, tuple[str, Any]] = {
        "answers": ("answers", plots.answer_bars),
        "matching": ("matching", plots.matching_bars),
        "agreement": ("agreement", plots.agreement_points),
        "contexts": ("contexts", plots.context_points),
        "changes": ("changes", plots.change_bars),
        "speakers": ("speakers", plots.speaker_points),
        "premises": ("premises", plots.premise_bars),
        "two_sides": ("two_sides", plots.verdict_bars),
        "templates": ("templates", plots.template_bars),
        "preferences": ("reward", plots.preference_bars),
        "belief": ("claims", plots.belief_curves),
        "pressure": ("pressure", plots.pressure_curves),
        "flips": ("flips", plots.flip_bars),
        "feedback": ("feedback", plots.feedback_bars),
        "layers": ("layers", inside.layer_margins),
        "heads": ("heads", inside.head_shares),
        "steering": ("steering", inside.steering_curves),
    }
    drawable = {name: (tables[table], fn) for name, (table, fn) in makers.items() if len(tables.get(table, ()))}
    return {name: fn(table.apply(_numbers), styles) for name, (table, fn) in drawable.items()}


def is_whole(result: Result) -> bool:
    """Return whether a stored result over questions has all its controls; those of older versions did not.

    The controls are the separation of agreement from mention, and of several turns of doubt the neutral turns.
    """
    if "templates" not in result.tables:
        return True
    doubted = (result.items["kind"] == KINDS[DOUBT]).any() and result.meta["options"].get("turns") != 1
    return "agreement" in result.items and (not doubted or "gave_up_neutral" in result.items)


def _numbers(column: pd.Series) -> pd.Series:
    """Convert a column that contains only None, as in stored tables without known values, to NaN."""
    return column.astype(float) if column.isna().all() else column


def read(
    *,
    data: str | Path | None,
    strict: bool,
    wording: str,
    selection: Selection = EVERY,
    judge: Any = None,
    speakers: str = "",
    **_: Any,
) -> list[Rows[Any]]:
    """Read the rows of the file, if there is one, and check the wording, the judge and the speakers."""
    from probe.sycophancy.files import check_judge, check_speakers, read_file

    check_wording(wording)
    read_speakers(speakers)
    if data is None and judge is not None:
        raise ConfigError("A judge compares comments on texts: give --data FILE with `text`, `kind`.")
    if data is None:
        return []
    path = Path(data).expanduser()
    name, rows = read_file(path, strict, selection)
    check_judge(path, name, judge)
    check_speakers(path, name, speakers)
    return [rows]


@experiment(
    "sycophancy",
    title="Sycophancy",
    metrics=METRICS,
    draw=draw,
    say=say,
    read=read,
    version=2,
    light={"interventions": 0},
    cheap={"interventions": 0},
    count=count,
    is_whole=is_whole,
)
def run(
    lm: "LM",
    *,
    data: str | Path | None = None,
    n: int = 400,
    limit: int | None = None,
    seed: int = 0,
    interventions: int = 60,
    turns: int = 5,
    layer: int | None = None,
    form: Form = "auto",
    lead: str | None = None,
    judge: str | Path | None = None,
    wording: Wording = "published",
    speakers: str = "",
    columns: str = "",
    tick: Tick = ignore,
) -> Evidence:
    """Measure whether a model repeats a user's claims against its own knowledge, and which components cause this.

    The result compares the model's belief in a claim with Bayes' rule, measures whether doubt changes its answers, and
    finds the layer, head and direction that cause it.

    In a world: truth, claim and other answers under a false claim, and the accuracy without one; belief in the claim
    minus the Bayes-optimal posterior (exact, by enumeration); flips after one doubt in both directions and over several
    turns; the bias of the run's reward model; logit lens, patching and removal of heads, steering, each with its
    controls. With a data file: the share of answers that match a behaviour, or agreement with the user separated from
    the mention of an answer, with the accuracy under stated beliefs and after doubts; or whether false premises are
    accepted, or both tellers of a conflict called right; or how much more positive a comment on a text is for a user
    who likes it or wrote it.

    Args:
        lm: the model; for a reward model, its preference for the claim is measured.
        data: JSON Lines or a JSON list with `question`, `answer_matching_behavior`, `answer_not_matching_behavior` (in
            the older form `prompt`, `corrects`, `incorrects`), or with `question`, `correct_answer`,
            `incorrect_answer` (for multiple choice `question`, `answers`, `correct_letter`), or with `question`,
            `true_premise`, `false_premise`, `correct_answer`, `premise_answer`, or with `question`, `first`, `second`,
            `first_account`, `second_account`, `text` for a conflict of two people, or with `text`, `kind` to comment
            on; or the name of a set of `probe.questions`. The default is the model's world, or the set `truthfulqa` for
            a model without one.
        n: questions of each kind (repeated pressure: at most 200).
        limit: number of rows at the start of a file from which n are drawn; all by default.
        seed: seed of questions, samples and random controls.
        interventions: questions on which heads are patched and directions added; 0 leaves both out. For a file, the
            direction is computed from half of them and added to at most 16 of the others.
        turns: number of turns of repeated pressure.
        layer: block after which a direction is added; by default the last block of the first half.
        form: form of the prompts from a file: the tokenizer's chat template if it has one (auto), always the chat
            template (chat), or "Human: ... Assistant:" (plain).
        lead: beginning of the assistant's answer in prompts from a file; by default that of the format's authors.
        judge: judge of which of two comments on a text is more positive: a language model, by default the measured
            model itself (name a large one: small ones are unreliable, see `judge_known`); in Python also a loaded
            model, or a function from pairs of comments to probabilities (`probe.sycophancy.feedback`).
        wording: wording of a user's opinion about a question from a file: verbatim as published (published);
            paraphrases that a model trained on the published wording has not seen (paraphrased); or any opening, such
            as "My professor says": then the opinion is "My professor says the answer is X." or "My professor says the
            answer is not X.".
        speakers: two speakers who make the same claims, separated by a comma, such as "My professor says, My little
            brother says": agreement with the first less that with the second, over questions with a right and a wrong
            answer; empty for none.
        columns: names of the columns of a file without a header, separated by commas; _ for one that is not used.
        tick: progress callback, called with the share that is done.
    """
    from probe.sycophancy.files import FileQuestions, file_parts

    if interventions < 0 or turns < 1:
        raise ConfigError(f"interventions={interventions} and turns={turns}: give 0 or more, and 1 or more.")
    if data is not None:
        asked = FileQuestions(
            form=form,
            lead=lead,
            interventions=interventions,
            layer=layer,
            judge=judge,
            turns=turns,
            wording=wording,
            speakers=speakers,
        )
        selection = Selection(n, seed, limit, columns=columns)
        items, tables, facts = file_parts(lm, Path(data).expanduser(), selection, asked, tick)
        return Evidence(items, tables, facts=facts)
    world = probe.world.of(lm)
    if world is None:
        raise DataError(
            "This model belongs to no world: give --data FILE with `question`, `answer_matching_behavior`,"
            " `answer_not_matching_behavior`, or with `question`, `correct_answer`, `incorrect_answer`, or with `text`,"
            " `kind`."
        )
    if read_speakers(speakers):
        raise ConfigError(
            "Speakers claim answers to the questions of a file: give --data FILE with `question`, `correct_answer`,"
            " `incorrect_answer`."
        )
    return world_evidence(lm, world, n, seed, interventions, turns, layer, tick)
