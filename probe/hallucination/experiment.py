"""Experiment on hallucination: errors and made-up answers by exposure, and whether the model knows its limits.

Every name in the summary is explained in docs/hallucination.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import probe.world
from probe import stats
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import PERSON, Given, Mean, Metric, Share, Statistic, interval_of
from probe.experiments.registry import experiment
from probe.experiments.result import MODEL, Evidence, Result
from probe.hallucination.confidence import (
    NAMED,
    aurc,
    aurcs,
    auroc,
    aurocs,
    bin_gaps,
    calibration_error,
    chance_error,
    reliability,
    reliability_part,
    risk_table,
    target_curves,
)
from probe.hallucination.confidence import equivalence as equivalence_of
from probe.model.dialogues import Form
from probe.plotting.intervals import percent
from probe.rows import EVERY, Rows, Selection
from probe.stats import SHARE, Bounds, Interval, floats
from probe.ticks import Tick, ignore, part
from probe.untrusted import read_file, short

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.autoregression.snowballs import Snowball
    from probe.hallucination.files import FreeAnswers, MultipleChoice
    from probe.model.lm import LM
    from probe.world.world import World

RESAMPLES = 1000
SQUARED: Bounds = (-0.25, 1.0)
"""Range of the unbiased reliability part of the Brier score, which can be negative."""


@dataclass(frozen=True)
class PlainError(Metric):
    """Expected calibration error of the columns `confidence` and `right` (see `probe.hallucination.confidence`).

    Its bias depends on the confidences, so it is not used to compare two models.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns with probabilities, and with zeros and ones."""
        return ("confidence", "right")

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the error with the interval of `calibration_error`, which is shifted against the resampling bias."""
        return calibration_error(rows["confidence"], rows["right"], seed=seed)

    def value(self, columns: Mapping[str, NDArray[Any]]) -> float:
        """Return only the error."""
        p, right = (columns[name].astype(float) for name in self.columns)
        return float(np.abs(bin_gaps(p - right, p).sum(0)).sum()) / len(p)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Return the difference without an interval: of two calibrated models, the less confident errs more."""
        gap = self.estimate(rows, seed).value - self.estimate(others, seed).value
        return Interval(gap, float("nan"), float("nan"))


@dataclass(frozen=True)
class CalibrationError(Metric):
    """Unbiased reliability part of the Brier score of the columns `confidence` and `right`.

    In 2,000 simulations with two calibrated models, one far more confident than the other, at most 1 % of its paired
    intervals excluded 0, and up to half of those of the plain calibration error.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns with probabilities, and with zeros and ones."""
        return ("confidence", "right")

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the estimate with its percentile bootstrap over units; see `confidence.reliability_part`."""
        return self._bootstrap([rows], seed, SQUARED)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Estimate the difference by the same bootstrap, with the units of both models drawn together."""
        return self._bootstrap([rows, others], seed, (-1.0, 1.0), level)

    def value(self, columns: Mapping[str, NDArray[Any]]) -> float:
        """Return only the reliability."""
        p, right = (columns[name].astype(float) for name in self.columns)
        return float(reliability_part(p, right, np.ones((1, len(p))), np.arange(len(p)))[0])

    def _bootstrap(
        self, sides: Sequence[pd.DataFrame], seed: int, bounds: Bounds, level: float = stats.LEVEL
    ) -> Interval:
        drawn = self.units(sides[0])
        units = np.arange(len(sides[0])) if drawn is None else drawn
        n = len(np.unique(units))
        drawn_counts = (block.astype(float) for block in stats.drawn_counts(n, seed, RESAMPLES))
        blocks = [np.ones((1, n)), *drawn_counts]
        columns = [(floats(each, "confidence"), floats(each, "right")) for each in sides]
        found = [np.concatenate([reliability_part(p, y, block, units) for block in blocks]) for p, y in columns]
        value, draws = found[0][0], found[0][1:]
        if len(found) == 2:
            value, draws = value - found[1][0], draws - found[1][1:]
        return stats.percentile(float(value), draws, n, bounds, stats.tails_of(level))


@dataclass(frozen=True)
class ChanceError(Metric):
    """Expected `PlainError` of a perfectly calibrated model with the same confidences.

    The bounds are not a confidence interval: 95 % of such models' errors lie between them.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `PlainError`, so that both use the same items; the values of `right` are not used."""
        return ("confidence", "right")

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the simulated error; see `confidence.chance_error`."""
        return chance_error(rows["confidence"], seed=seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Return the difference of the means, without an interval since both are simulated."""
        gap = self.estimate(rows, seed).value - self.estimate(others, seed).value
        return Interval(gap, float("nan"), float("nan"))


def _by_kind(name: str, column: str, bounds: Bounds | None = None) -> tuple[Mean, ...]:
    """Return the means of a column over known people, rare people, and both kinds of unseen entities."""
    kinds = {"known": "fact", "rare": "rare", "stranger": "stranger", "heldout": "stranger_heldout"}
    return tuple(Mean(f"{name}_{short}", column, where={"kind": kind}, bounds=bounds) for short, kind in kinds.items())


SAMPLED = (
    Share("accuracy", "is_true", where={"kind": "fact"}),
    Share("accuracy_rare", "is_true", where={"kind": "rare"}),
    Share("abstention", "abstained", where={"kind": "stranger"}),
    Share("invention", "invented", where={"kind": "stranger"}),
    Share("abstention_heldout", "abstained", where={"kind": "stranger_heldout"}),
    Share("invention_heldout", "invented", where={"kind": "stranger_heldout"}),
)
"""Metrics of scored samples; with equal n and seed they equal the numbers of `probe.rewards.evaluation`."""


def ranking(name: str, score: str, positive: str, sign: float = 1.0, **options: Any) -> Statistic:
    """Return an AUROC metric; if it never varies under resampling, its sample size is that of the rarer class."""
    return Statistic(
        name,
        lambda columns: auroc(sign * columns[score], columns[positive]),
        (score, positive),
        bounds=SHARE,
        weighted=lambda columns, weights: aurocs(sign * columns[score], columns[positive], weights),
        count=lambda columns: min(columns[positive].sum(), (1 - columns[positive]).sum()),
        **options,
    )


CERTAINTY = (
    PlainError("ece"),
    ChanceError("ece_calibrated"),
    CalibrationError("reliability"),
    Mean("brier", bounds=SHARE),
    ranking("auroc", "confidence", "right"),
    Statistic(
        "aurc",
        lambda columns: aurc(columns["confidence"], 1 - columns["right"]),
        ("confidence", "right"),
        bounds=SHARE,
        weighted=lambda columns, weights: aurcs(columns["confidence"], 1 - columns["right"], weights),
    ),
    ranking("auroc_entropy", "semantic_entropy", "hallucinates"),
    ranking("auroc_agreement", "agreement", "hallucinates", -1),
    ranking("auroc_entropy_free", "semantic_entropy_sampled", "wrong"),
    ranking("auroc_agreement_free", "agreement", "wrong", -1),
    ranking("auroc_p_ik", "p_ik", "knowable"),
    ranking("auroc_p_true", "p_true", "match_true", where={"matched": 1}),
)


def _p_ik(kind: str) -> tuple[Metric, ...]:
    """Return the metrics of P(IK), if a head was fitted to a model's answers to a file's questions."""
    rows = {"kind": kind}
    return (
        Mean(f"p_ik_{kind}", "p_ik", where=rows, bounds=SHARE),
        Mean(f"p_right_{kind}", "p_right", where=rows, bounds=SHARE),
        ranking(f"auroc_p_ik_{kind}", "p_ik", "knows", where=rows),
        Mean(f"brier_p_ik_{kind}", "brier_p_ik", where=rows, bounds=SHARE),
        Mean(f"brier_p_ik_{kind}_constant", "brier_p_ik_constant", where=rows, bounds=SHARE),
    )


METRICS: tuple[Metric, ...] = (
    Mean("hall", bounds=SHARE),
    *_by_kind("hall", "hall", SHARE),
    *SAMPLED,
    Share("mc0"),
    Share("mc1"),
    Share("mc1_norm"),
    Mean("mc1_chance", bounds=SHARE),
    Mean("mc2", bounds=SHARE),
    Share("matched"),
    Share("match_true"),
    Share("match_wrong"),
    Share("match_abstain"),
    *CERTAINTY,
    Mean("semantic_entropy"),
    *_by_kind("semantic_entropy", "semantic_entropy"),
    Mean("semantic_entropy_sampled"),
    Mean("agreement", bounds=SHARE),
    *_by_kind("p_ik", "p_ik", SHARE),
    Mean("p_true", bounds=SHARE),
    *_p_ik("choice"),
    *_p_ik("free"),
    *(Mean(f"score_{100 * t:.0f}", f"own_{100 * t:.0f}", bounds=(-t / (1 - t), 1.0)) for t in NAMED),
    *(Mean(f"score_{100 * t:.0f}_target", f"target_{100 * t:.0f}", bounds=(-t / (1 - t), 1.0)) for t in NAMED),
    ranking("known_auroc", "direction", "knowable", unit="person"),
    ranking("known_auroc_heldout", "direction", "unheard", unit="person"),
    Mean("snowball_kl"),
    Share("snowball_hall_clean", "snowball_clean"),
    Share("snowball_hall_wrong", "snowball_wrong"),
    Mean("answer_mass", bounds=SHARE),
)


BOUNDS = {"all": "", "fact": "_known", "rare": "_rare", "stranger": "_stranger", "stranger_heldout": "_heldout"}
"""Suffixes of the bounds' names by kind of question, the same as those of `hall`."""


def draw(result: Result) -> "Mapping[str, go.Figure]":
    """Draw the figures of a result with any number of models; the first figure answers the main question."""
    from probe.hallucination import figures as plots

    tables, styles = result.tables, result.styles
    figures: dict[str, go.Figure] = {}
    if "exposure" in tables:
        figures["exposure"] = plots.exposure_curves(tables["exposure"], styles)
    else:
        figures["choices"] = plots.shares(tables["shares"], styles)
    if "confidence_targets" in tables:
        figures["confidence_targets"] = plots.target_curves(tables["confidence_targets"], styles)
    if "reliability" in tables:
        errors = {str(label): _calibration_errors(rows) for label, rows in result.items.groupby(MODEL)}
        figures["calibration"] = plots.calibration(tables["reliability"], tables["risk_coverage"], styles, errors)
    if "entropy" in tables:
        figures["semantic_entropy"] = plots.entropies(tables["entropy"], styles)
    if "known_direction" in tables:
        figures["known_direction"] = plots.auroc_by_layer(tables["known_direction"].assign(kind="people"), styles)
    if "knows_before_answering" in tables:
        figures["knows_before_answering"] = plots.auroc_by_layer(tables["knows_before_answering"], styles)
    if "snowball" in tables:
        figures["snowball"] = plots.snowball_steps(tables["snowball"], styles)
    return figures


def say(result: Result) -> str:
    """State each model's hallucination rate on unseen entities and on known people, or its accuracy on choices."""
    by_model = {label: result.items[result.items[MODEL] == label] for label in result.models}
    shares: dict[str, list[str]] = {}
    if "mc1" in result.items:
        verb, groups = "chooses the true answer", ["of questions"]
        for label, items in by_model.items():
            shares[label] = [percent(*interval_of(items, "mc1", SHARE))]
    else:
        labels = {"stranger": "of answers about unseen entities", "fact": "of those about known people"}
        halls = {kind: [items[items["kind"] == kind] for items in by_model.values()] for kind in labels}
        kinds = [kind for kind, each in halls.items() if min(map(len, each)) > 1]
        verb, groups = "hallucinates", [labels[kind] for kind in kinds]
        seed = int(result.meta.get("seed") or 0)
        for number, label in enumerate(by_model):
            shares[label] = [percent(*Mean("hall", bounds=SHARE).estimate(halls[kind][number], seed)) for kind in kinds]
    if not groups:
        return ""
    (first, first_shares), *others = shares.items()
    text = " and ".join(f"{share} {words}" for share, words in zip(first_shares, groups, strict=True))
    more = "".join(f", {label} in {' and '.join(each)}" for label, each in others)
    return f"{first} {verb} in {text}{more}{'' if 'mc1' in result.items else ' (exact)'}."


def read(
    *,
    data: str | Path | None,
    strict: bool,
    selection: Selection = EVERY,
    preamble: str | Path | None = None,
    only: str = "all",
    **_: Any,
) -> "list[Rows[MultipleChoice]]":
    """Read the questions of the file, if there is one, and check that the preamble is readable."""
    from probe.hallucination.files import read_questions

    if only == "mc" and data is None:
        raise ConfigError("only=mc scores the choices of a data file: give a file with data, or leave only out.")
    _read(preamble)
    return [] if data is None else [read_questions(data, strict, selection)]


@experiment(
    "hallucination",
    title="Hallucination",
    metrics=METRICS,
    draw=draw,
    say=say,
    read=read,
    light={"only": "mc"},
    cheap={"only": "mc"},
)
def run(
    lm: "LM",
    *,
    data: str | Path | None = None,
    n: int = 400,
    limit: int | None = None,
    seed: int = 0,
    samples: int = 10,
    shuffles: int = 100,
    equivalence: str = "normalised",
    max_new_tokens: int = 24,
    preamble: str | Path | None = None,
    form: Form = "plain",
    only: Literal["all", "mc"] = "all",
    columns: str = "",
    tick: Tick = ignore,
) -> Evidence:
    """Measure hallucination by exposure to the fact, and whether the model knows its limits.

    Questions are about people whose facts the corpus states often, 1 to 5 times, or never. An answer is a hallucination
    if it is neither true nor "i do not know" (E17). Shares of answers are exact sums over the finite answer sets. Also
    measured are scored samples, the lower bound of Kalai et al. (2509.04664), scores under confidence targets,
    calibration, semantic entropy, agreement of samples, the direction in the residual stream that separates known
    people from unseen entities, and the effects of one forced wrong step in a sum. With a file in TruthfulQA's formats,
    it measures MC1 and MC2, free answers with samples, P(True), and P(IK) from a head on the residual stream.

    Args:
        lm: the model.
        data: TruthfulQA questions, as a CSV file or the JSON of its multiple choice, or the name of a set of
            `probe.questions`; by default the questions of the model's world, or the set `truthfulqa` for a model
            without a world.
        n: number of questions of each kind, drawn with the seed.
        limit: number of first rows of the file from which n are drawn; all by default.
        seed: seed of questions, samples, folds and shuffles.
        samples: number of answers sampled per question, for semantic entropy and agreement.
        shuffles: number of label shuffles for the null of the direction, or of the head for P(IK).
        equivalence: criterion for two free answers to mean the same: normalised or exact (or one from a plugin).
        max_new_tokens: maximum number of tokens in a free answer; the world's answers have at most six.
        preamble: text before each question of a file: a text file, or `truthfulqa` for TruthfulQA's own six answered
            questions, as in lm-evaluation-harness.
        form: form of the prompts of a file: "Q: ... A:" as in lm-evaluation-harness (plain), the tokenizer's chat
            template (chat), or the template if there is one (auto).
        only: `mc` scores only the choices of a file (MC0, MC1, MC2), without free answers, P(True), P(IK) or wrong
            steps.
        columns: names of the columns of a file without a header, separated by commas; _ for one that is not used.
        tick: function called with the share of the work done.
    """
    from probe.autoregression.lags import require_tokens
    from probe.hallucination.files import FORMATS, FreeAnswers, read_questions

    require_tokens(lm)
    if samples < 1 or shuffles < 0:
        raise ConfigError(
            f"samples is {samples} and shuffles is {shuffles}; expected 1 or more samples and 0 or more shuffles."
        )
    if data is not None:
        drawing, text = FreeAnswers(samples, max_new_tokens, equivalence_of(equivalence)), _read(preamble)
        questions = read_questions(data, selection=Selection(n, seed, limit, columns=columns))
        return _text(lm, questions, text, form, None if only == "mc" else drawing, shuffles, seed, tick)
    world = probe.world.of(lm)
    if world is None:
        raise DataError(f"The model `{lm.ref or 'created'}` has no world to ask about: give as data {FORMATS}.")
    return _world(lm, world, n, seed, samples, shuffles, tick)


def _world(lm: "LM", world: "World", n: int, seed: int, samples: int, shuffles: int, tick: Tick) -> Evidence:
    from probe.hallucination import knowing as snowballs
    from probe.hallucination import world as facts
    from probe.hallucination.world import singletons

    questions = facts.ask(world, n, seed)
    tick(0.05)
    answers, codes = facts.enumerate_prompts(lm, world, questions)
    tick(0.2)
    items = pd.concat([facts.asked_table(questions), facts.exact_columns(answers, codes, questions, samples)], axis=1)
    draws = facts.sampled_columns(lm, world, questions, list(items["main"]), samples, seed, part(tick, 1, 4))
    items = pd.concat([items, draws], axis=1)
    tick(0.48)
    items["knowable"] = items["kind"].map({"fact": 1.0, "stranger": 0.0})
    items["unheard"] = items["kind"].map({"fact": 1.0, "stranger_heldout": 0.0})
    answer_sets = facts.judge_answers(world, answers, codes, questions)
    tables = {"exposure": facts.exposure_table(items, answer_sets), "bound": facts.bound_table(items, answer_sets)}
    tables |= _certainty(items) | {"entropy": _entropies(items)}
    tables["confidence_targets"] = target_curves(
        items["p_truth"], items["hall"], items["confidence"], items["right"], units=items["person"]
    )
    tick(0.5)
    probe_facts: dict[str, Any] = {}
    fit = facts.direction(lm, items, shuffles, seed, part(tick, 2, 4))
    if fit is not None:
        tables["known_direction"], items["direction"] = fit[0].table(), fit[1]
        probe_facts = {"direction_layer": fit[0].middle, "direction_p": fit[0].p_value(), "shuffles": shuffles}
    result = snowballs.snowballs(lm, world, n, seed, part(tick, 3, 4))
    if result is not None:
        items, tables["snowball"] = (pd.concat([items, result[0]], ignore_index=True), _steps(result[1], longest=True))
    rates = singletons(world.exposure)
    bounds = tables["bound"].to_dict("records")
    numbers = [Given(f"bound{BOUNDS[row['kind']]}", row["bound"], n=row["n"]) for row in bounds]
    numbers.append(Given("singleton_rate", rates.rate, n=rates.documents))
    numbers.append(Given("singleton_share", rates.share, n=rates.facts))
    return Evidence(items, tables, numbers, facts=probe_facts)


def _text(
    lm: "LM",
    questions: "Sequence[MultipleChoice]",
    preamble: str,
    form: Form,
    drawing: "FreeAnswers | None",
    shuffles: int,
    seed: int,
    tick: Tick,
) -> Evidence:
    """Run the experiment on questions from a file; without a drawing of free answers on their choices alone."""
    from probe.hallucination import files as texts
    from probe.hallucination import knowing as snowballs

    facts: dict[str, Any] = {"questions": len(questions), "preamble": bool(preamble)}
    prompts = texts.prompts_of(lm, questions, preamble, form)
    scored = texts.scored_choices(lm, questions, prompts, tick if drawing is None else part(tick, 0, 4))
    choices = texts.choice_items(questions, prompts, scored)
    if drawing is None:
        return Evidence(choices, _choice_tables(choices, choices.head(0)) | {"choices": scored}, facts=facts)
    free = texts.free_items(lm, questions, prompts, drawing, seed, part(tick, 1, 4))
    (choices, free), layers, p_ik_facts = texts.p_ik(lm, [choices, free], shuffles, seed, part(tick, 2, 4))
    snowball_items, steps = snowballs.divergence(lm, prompts, seed, part(tick, 3, 4))
    snowball_items["row"] = [question.row for question in questions[: len(snowball_items)]]
    items = pd.concat([choices, free, snowball_items], ignore_index=True)
    tables = _choice_tables(choices, free) | {"choices": scored, "snowball": _steps(steps, longest=False)}
    if len(layers):
        tables["knows_before_answering"] = layers
    return Evidence(items, tables, facts=facts | p_ik_facts)


def _choice_tables(choices: pd.DataFrame, free: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of a file's questions: confidence, headline shares, and scores under confidence targets."""
    right = choices["right"]
    targets = target_curves(right, 1 - right, choices["confidence"], right)
    return _certainty(choices) | {"shares": _shares(choices, free), "confidence_targets": targets}


def _read(preamble: str | Path | None) -> str:
    from probe.hallucination.files import PREAMBLES

    if preamble is None:
        return ""
    if str(preamble) in PREAMBLES:
        return PREAMBLES[str(preamble)]
    try:
        return read_file(Path(preamble).expanduser()).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The preamble `{preamble}` cannot be read ({short(error)}): give a text file, or {' or '.join(PREAMBLES)}."
        ) from None


def _certainty(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the reliability diagram and the risk-coverage curve of the most probable answers."""
    bins = reliability(items["confidence"], items["right"])
    ends = zip(bins["low"], bins["high"], strict=True)
    inside = (items[(items["confidence"] >= low) & ((items["confidence"] < high) | (high == 1))] for low, high in ends)
    shares = [interval_of(part, "right", SHARE) for part in inside]
    bins = bins.assign(ci_low=[s.low for s in shares], ci_high=[s.high for s in shares])
    units = items.get(PERSON)
    return {"reliability": bins, "risk_coverage": risk_table(items["confidence"], 1 - items["right"], units=units)}


def _calibration_errors(items: pd.DataFrame) -> tuple[stats.Interval, stats.Interval]:
    """Return the calibration error of a model, and its expected value under perfect calibration."""
    rows = items[["confidence", "right"]].dropna().astype(float)
    return calibration_error(rows["confidence"], rows["right"]), chance_error(rows["confidence"])


def _entropies(items: pd.DataFrame) -> pd.DataFrame:
    """Return semantic entropy by kind of question: exact, from samples, and its expectation over samples."""
    sources = {"exact": "", "samples": "_sampled", "expected of samples": "_expected"}
    rows = []
    for kind in dict.fromkeys(items["kind"]):
        part_of = items[items["kind"] == kind]
        for source, ending in sources.items():
            mean = interval_of(part_of, f"semantic_entropy{ending}")
            rows.append({"kind": kind, "source": source, **mean.row(len(part_of))})
    return pd.DataFrame(rows)


def _steps(snowball: "Snowball", longest: bool) -> pd.DataFrame:
    """Return the snowball by step, without steps that no prompt has.

    The columns are quantity, step, token, value, ci_low, ci_high and n.

    Args:
        snowball: both branches of each prompt.
        longest: keep only the prompts with the longest continuation, whose steps correspond to each other, and name the
            token.
    """
    from probe.hallucination import knowing as snowballs

    tokens: dict[int, str] = {}
    if longest:
        lengths = np.array([len(clean) for clean in snowball.clean])
        snowball = snowballs.some(snowball, np.flatnonzero(lengths == lengths.max()))
        later = zip(*(clean[at + 1 :] for clean, at in zip(snowball.clean, snowball.at, strict=True)), strict=False)
        tokens = {step: words[0] if len(set(words)) == 1 else "n" for step, words in enumerate(later, start=1)}
    table = snowball.summary().rename(columns={"low": "ci_low", "high": "ci_high"})
    table.insert(2, "token", table["step"].map(tokens))
    return table[table["n"] > 0].reset_index(drop=True)


def _shares(choices: pd.DataFrame, free: pd.DataFrame) -> pd.DataFrame:
    """Return the headline shares of a file's questions: metric, value, ci_low, ci_high, n."""
    rows = []
    for metric in ("mc0", "mc1", "mc1_norm", "match_true", "match_wrong", "match_abstain"):
        values = _known(metric, choices, free)
        if len(values):
            rows.append({"metric": metric, **stats.wilson(int(values.sum()), len(values)).row(len(values))})
    for metric in ("mc2", "agreement", "p_true"):
        values = _known(metric, choices, free)
        if len(values):
            rows.append({"metric": metric, **stats.bootstrap_mean(values, bounds=stats.SHARE).row(len(values))})
    return pd.DataFrame(rows)


def _known(metric: str, *tables: pd.DataFrame) -> "pd.Series[float]":
    """Return the known values of a metric from the table that contains it."""
    return next((table[metric].dropna() for table in tables if metric in table), pd.Series(dtype=float))
