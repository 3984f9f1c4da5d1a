"""Claims on knowledge and learning: induction, hallucination by exposure, retrieval, forgetting, and reasoning."""

from collections.abc import Sequence
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from probe import stats
from probe.errors import RunError
from probe.experiments.metrics import PERSON, interval_of
from probe.experiments.units import with_people
from probe.findings.bench import BASE, COMMAND, Bench
from probe.findings.claim import Claim, Measurement, Null
from probe.findings.reach import LARGEST, RUNS, reasoning, reasoning_null
from probe.findings.verdicts import Terms, Z, read_plan
from probe.numbers import format_interval, in_unit, percent
from probe.stats import Interval
from probe.terms import DIFFERENCE

if TYPE_CHECKING:
    from probe.experiments.result import Result
    from probe.runs.reader import Run

SPOKEN = {"plain": "with plain training", "replay": "with replay", "ewc": "with EWC"}
"""Words for the strategies of continual learning."""
SHUFFLES = 40
"""Number of random repetitions of a null, for each training."""


def terms(name: str) -> Terms:
    """Return the plan's terms for a claim."""
    return read_plan().claims[name]


def curves(result: "Result") -> tuple[pd.Series, pd.Series]:
    """Return induction score and in-context loss by captured step, from a stored result of a model of Markov chains.

    The head is the one that scores highest on the fresh chains of the experiment, its curve is that on the captured
    prompts. Early steps, in which the model still learns the token frequencies, are left out, as in the experiment.
    """
    heads = result.tables["heads"]
    heads = heads[heads["texts"] == "markov"]
    name = str(heads["name"].iloc[int(heads["scaled"].astype(float).to_numpy().argmax())])
    every = result.tables["heads_over_training"]
    induction = every[(every["kind"] == "markov") & (every["name"] == name)].set_index("step")["scaled"]
    series = result.tables["over_training"]
    series = series[(series["kind"] == "markov") & (series["series"] == "in_context_score")]
    loss: pd.Series = series.set_index("step")["value"]
    from probe.in_context.induction import WINDOW

    fair = loss.iloc[-(int(result.value("phase_correlation", "n")) + WINDOW) :].astype(float)
    return induction.astype(float).reindex(fair.index), fair


def together(heads: pd.Series, loss: pd.Series) -> Interval:
    """Correlate the increments of two curves over the steps that both have, with Fisher's interval."""
    from probe.in_context.induction import phase_change

    steps = heads.index.intersection(loss.index)
    found = phase_change(steps.to_numpy(), heads[steps].to_numpy(), loss[steps].to_numpy())
    return Interval(found.correlation, found.low, found.high)


def pairings(benches: Sequence[Bench]) -> NDArray[np.float64]:
    """Return [k k] correlations of the heads of training i and the loss of training j."""
    of = [curves(bench.result("in_context", "icl")) for bench in benches]
    return np.array([[together(heads, loss).value for _, loss in of] for heads, _ in of])


def as_well(matrix: NDArray[np.float64]) -> tuple[int, int]:
    """Count the wrong pairings of heads and losses that correlate as well as the right one, and all wrong ones.

    Args:
        matrix: [k k] correlation of the heads of training i with the loss of training j; all k! - 1 wrong pairings are
            counted.
    """
    k = len(matrix)
    sums = np.array([matrix[np.arange(k), list(order)].sum() for order in permutations(range(k))])
    return int((sums[1:] >= sums[0] - 1e-12).sum()), len(sums) - 1


MOST = 8
"""Largest number of trainings for which all pairings are enumerated: 40,320 of them."""


def induction(bench: Bench) -> Measurement:
    """Correlate the increments of the induction score with those of the fall of the in-context loss."""
    result = bench.result("in_context", "icl")
    effect = together(*curves(result))
    heads, loss = (result.value(f"phase_{each}_step", "value") for each in ("induction", "loss"))
    sentence = (
        f"In {bench.run('icl').name} the induction score rises most steeply at step {heads:.0f} and the loss in context"
        f" falls most steeply at step {loss:.0f}; their increments correlate at {format_interval(*effect)} where the"
        " head is chosen on other chains."
    )
    return Measurement(effect, int(result.value("phase_correlation", "n")), sentence)


def induction_test(benches: Sequence[Bench]) -> float:
    """Return the two-sided p of the permutation test over trainings; with k of them it is at least 2 / k!."""
    found, wrong = as_well(pairings(benches[:MOST]))
    return min(1.0, 2 * (found + 1) / (wrong + 1))


def induction_null(benches: Sequence[Bench]) -> Null:
    """Count how often heads paired with losses of other trainings correlate as well as the right pairs."""
    if len(benches) < 2:
        return Null(said="one training alone cannot be paired wrongly")
    of = [curves(bench.result("in_context", "icl")) for bench in benches[:MOST]]
    pairs = [together(a, b) for i, (a, _) in enumerate(of) for j, (_, b) in enumerate(of) if i != j]
    above = sum(terms("induction").beyond(each) for each in pairs)
    said = (
        f"heads of {len(of)} trainings with the losses of others, counted where they go together as well as their own;"
        f" the interval of a single wrong pair lies above 0 in {above} of {len(pairs)}"
    )
    return Null(*as_well(pairings(benches[:MOST])), said)


def rank_correlation(first: ArrayLike, second: ArrayLike, units: float) -> Interval:
    """Return Spearman's correlation with the interval of Bonett and Wright (2000) for the number of independent units.

    Args:
        first: [N] first variable.
        second: [N] second variable.
        units: number of independent units, at most N.
    """
    a, b = (pd.Series(np.asarray(each)).rank().to_numpy() for each in (first, second))
    if not (np.ptp(a) and np.ptp(b)) or units <= 3:
        return Interval(float("nan"), float("nan"), float("nan"))
    r = float(np.corrcoef(a, b)[0, 1])
    half = Z * np.sqrt((1 + r * r / 2) / (units - 3))
    z = np.arctanh(np.clip(r, -0.9999, 0.9999))
    return Interval(r, float(np.tanh(z - half)), float(np.tanh(z + half)))


def facts(bench: Bench) -> pd.DataFrame:
    """Return one row per fact that the corpus states: person, kind, exposure, and its hallucination rate (exact)."""
    items = bench.result("hallucination", BASE).items
    items = items[items["kind"].isin(("fact", "rare"))]
    columns = {"kind": "first", "exposure": "first", "hall": "mean"}
    return items.groupby(["person", "relation"], as_index=False).agg(columns)


def exposure(bench: Bench) -> Measurement:
    """Correlate hallucination with the number of times that a fact was read."""
    found = facts(bench)
    effect = rank_correlation(found["exposure"], found["hall"], found["person"].nunique())
    rare, often = found[found["kind"] == "rare"], found[found["kind"] == "fact"]
    rates = [percent(*interval_of(part, "hall", stats.SHARE)) for part in (rare, often)]
    within = rank_correlation(rare["exposure"], rare["hall"], rare["person"].nunique())
    sentence = (
        f"Exposure and hallucination correlate at {format_interval(*effect)} over {len(found)} facts:"
        f" {rates[0]} of answers on facts read 1 to 5 times, {rates[1]} on those read 64 times or more. Among the"
        f" rarely read ones alone the correlation is {format_interval(*within)}."
    )
    return Measurement(effect, len(found), sentence)


def exposure_null(benches: Sequence[Bench]) -> Null:
    """Correlate the same hallucinations with shuffled exposure counts."""
    rng, found = np.random.default_rng(0), []
    for bench in benches:
        table = facts(bench)
        people, counts = table["person"].nunique(), table["exposure"].to_numpy()
        found += [rank_correlation(rng.permutation(counts), table["hall"], people) for _ in range(SHUFFLES)]
    return Null.of(terms("exposure"), found, "shuffled exposure counts")


def passages(bench: Bench, name: str, context: str) -> tuple[Interval, Interval, Interval]:
    """Return hallucination rates on unseen entities without and with a passage, and the reduction (exact)."""
    items = bench.result("retrieval", name).items
    strangers = with_people(items[items["kind"] == "stranger"])
    halls = strangers.pivot_table(index="question", columns="context", values="hall")[["none", context]].dropna()
    people = strangers.groupby("question")[PERSON].first() if PERSON in strangers else pd.Series(dtype=object)
    rows = halls.assign(cut=halls["none"] - halls[context], **{PERSON: people.reindex(halls.index)})
    before, after = (interval_of(rows, side, stats.SHARE) for side in ("none", context))
    return before, after, interval_of(rows, "cut", stats.GAIN)


GUESSING, ABSTAINING = (BASE, "dpo-agreeable"), ("rlvr",)
"""Models that answer questions about unseen entities, and one that abstains."""


def retrieval(bench: Bench, names: Sequence[str]) -> Measurement:
    """Measure how much retrieved passages reduce hallucination in these models: the smallest reduction."""
    found = {name: passages(bench, name, "retrieved") for name in names}
    parts = [f"{percent(*before)} to {percent(*after)} in {name}" for name, (before, after, _) in found.items()]
    other = [f"{percent(*passages(bench, name, 'unrelated')[1])} in {name}" for name in names]
    sentence = (
        f"Hallucination on unseen entities goes from {' and '.join(parts)} with the passages that a search finds"
        f" (exact; a lucky value counts as true); with a passage about somebody else it is {' and '.join(other)}."
    )
    least = min((cut for _, _, cut in found.values()), key=lambda each: each.value)
    n = int(bench.result("retrieval", names[0]).value("invention_cut_stranger", "n"))
    return Measurement(least, n, sentence)


def retrieval_null(benches: Sequence[Bench], claim: str, names: Sequence[str]) -> Null:
    """Measure passages about another person, and passages without the answer, in the same models."""
    found = [passages(b, name, each)[2] for b in benches for name in names for each in ("unrelated", "distractor")]
    return Null.of(terms(claim), found, "passages about somebody else and passages without the answer")


def forgetting(bench: Bench) -> Measurement:
    """Measure how much of the forgetting under plain training on later phases replay prevents."""
    result = bench.result("continual", BASE)
    effect = _interval(result.summary, "forgetting_saved_by_replay")
    shares = [f"{percent(*_interval(result.summary, f'forgetting_{name}'))} {words}" for name, words in SPOKEN.items()]
    sentence = f"Of what it learned in earlier phases {bench.run(BASE).name} forgets {', '.join(shares)}."
    return Measurement(effect, int(result.value("forgetting_saved_by_replay", "n")), sentence)


def forgetting_null(benches: Sequence[Bench]) -> Null:
    """Measure replay of shuffled answers, trained from one base with as many seeds as there are control runs."""
    names = ("continual-plain", "continual-shuffled")
    own = benches[0].control_seeds(names) if benches else []
    if not own:
        return Null(said=f"no runs {' and '.join(f'`{name}`' for name in names)}; `{COMMAND}` makes them")
    effects = []
    for bench in own:
        plain, shuffled = (_headline(bench.control(name), "forgetting") for name in names)
        half = float(np.hypot(plain.high - plain.low, shuffled.high - shuffled.low)) / 2
        gap = plain.value - shuffled.value
        effects.append(Interval(gap, gap - half, gap + half))
    values = ", ".join(in_unit(DIFFERENCE, each.value, None, None, sign=True) for each in effects)
    return Null.of(terms("forgetting"), effects, f"replay of documents whose answers are shuffled saves {values}")


def _headline(run: "Run", metric: str) -> Interval:
    """Return a headline figure of a run, with its interval.

    Raises:
        RunError: the run has no figure with this name.
    """
    rows = run.headline[run.headline["metric"] == metric]
    if not len(rows):
        raise RunError(f"`{run.name}` has no metric `{metric}`: it was not trained in phases.")
    row = rows.iloc[0]
    return Interval(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]))


def _interval(summary: pd.DataFrame, metric: str) -> Interval:
    row = summary[summary["metric"] == metric].iloc[0]
    return Interval(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]))


LEARNED = (
    Claim(
        "induction",
        "Induction heads form when the loss in context drops.",
        "Olsson et al. 2022, arXiv 2209.11895",
        "correlation over training of the rise of the induction score and the fall of the loss in context",
        ("icl",),
        "in_context",
        induction,
        induction_null,
        test=induction_test,
        unit="correlation",
        version=2,
    ),
    Claim(
        "exposure",
        "Models hallucinate on facts that they rarely read.",
        "Kalai et al. 2025, arXiv 2509.04664",
        "rank correlation of hallucination (exact) and exposure over facts",
        (BASE,),
        "hallucination",
        exposure,
        exposure_null,
        unit="correlation",
        version=2,
    ),
    Claim(
        "retrieval",
        "Retrieved passages reduce hallucination in models that guess.",
        "Shuster et al. 2021, arXiv 2104.07567",
        "unseen entities: hallucination that retrieval prevents (exact), the smaller cut of two models",
        GUESSING,
        "retrieval",
        partial(retrieval, names=GUESSING),
        partial(retrieval_null, claim="retrieval", names=GUESSING),
        unit="difference",
        version=2,
    ),
    Claim(
        "retrieval_abstaining",
        "Retrieved passages reduce hallucination in models that abstain.",
        "Shuster et al. 2021, arXiv 2104.07567",
        "unseen entities: hallucination that retrieval prevents (exact)",
        ABSTAINING,
        "retrieval",
        partial(retrieval, names=ABSTAINING),
        partial(retrieval_null, claim="retrieval_abstaining", names=ABSTAINING),
        unit="difference",
    ),
    Claim(
        "reasoning",
        "Reinforcement learning from verifiable rewards raises pass@1, and at large k its base solves more.",
        "Yue et al. 2025, arXiv 2504.13837",
        f"sums with written steps: gain in pass@1, or loss in pass@{LARGEST}, RLVR against its base, the smaller one",
        (),
        "chain_of_thought",
        reasoning,
        reasoning_null,
        controls=RUNS,
        unit="difference",
        version=2,
    ),
    Claim(
        "forgetting",
        "Learning new facts makes a model forget old ones, and replay saves most of them.",
        "Rolnick et al. 2018, arXiv 1811.11682",
        "accuracy lost on earlier phases, plain training minus training with replay",
        (BASE,),
        "continual",
        forgetting,
        forgetting_null,
        unit="difference",
    ),
)
"""Claims on knowledge and learning."""
