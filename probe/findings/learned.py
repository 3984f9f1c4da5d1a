"""Claims about what models learn and know: induction, invention, retrieval, reasoning, forgetting."""

import pandas as pd

from probe import stats
from probe.experiments.metrics import paired
from probe.experiments.result import MODEL
from probe.findings.bench import BASE, Bench
from probe.findings.claim import Claim, Measured
from probe.plotting.intervals import percent, written
from probe.stats import Interval

SPOKEN = {"plain": "with plain training", "replay": "with replay", "ewc": "with EWC"}
"""How ways of learning in phases are said."""
SAMPLES = 8
"""Tries that pass@k is held against."""


def induction(bench: Bench) -> Measured:
    """How far the increments of the induction score and of the fall of the in-context loss go together."""
    found = bench.result("in_context", "icl")
    effect = Interval(*(found.value("phase_correlation", column) for column in ("value", "ci_low", "ci_high")))
    heads, loss = (
        Interval(*(found.value(metric, column) for column in ("value", "ci_low", "ci_high")))
        for metric in ("phase_induction_step", "phase_loss_step")
    )
    said = (
        f"In icl the induction score rises most steeply at step {heads.shown(0)} "
        f"and the loss in context falls most steeply at step {loss.shown(0)}; their "
        f"increments correlate at {written(*effect)}."
    )
    together = heads.low <= loss.high and loss.low <= heads.high
    return Measured(effect, int(found.value("phase_correlation", "n")), bool(effect.low > 0 and together), said)


def exposure(bench: Bench) -> Measured:
    """How much more often the base hallucinates about facts read 1 to 5 times than about those read often."""
    found = bench.result("hallucination", BASE)
    rare, known = (found.items.loc[found.items["kind"] == kind, "hall"] for kind in ("rare", "fact"))
    effect = _unpaired(rare, known)
    table = found.tables["exposure"]
    above = table["error"] >= table["bound"]
    near = table.sort_values("bound").iloc[-1]
    seldom, often = (percent(*stats.bootstrap_mean(values, bounds=stats.SHARE)) for values in (rare, known))
    said = (
        f"base hallucinates about {seldom} of facts read 1 to 5 times and {often} of those read 64 times or more; its "
        f"error is above the bound in {int(above.sum())} of {len(table)} groups (nearest where "
        f"the bound is {near['bound']:.2f}: error {near['error']:.2f})."
    )
    return Measured(effect, len(rare) + len(known), bool(effect.low > 0 and above.all()), said)


def retrieval(bench: Bench) -> Measured:
    """How much invention about people of whom the corpus says nothing a search of documents takes away.

    It is measured on the base, which invents; what it does to a model that abstains is said beside it.
    """
    found, honest = (bench.result("retrieval", name) for name in (BASE, "rlvr"))
    effect = _interval(found.summary, "invention_cut_stranger")
    invented = [percent(*_interval(found.summary, f"invention_{way}_stranger")) for way in ("none", "retrieved")]
    wrong = [percent(*_interval(honest.summary, f"hall_{way}_stranger")) for way in ("without", "retrieved")]
    said = (
        f"base invents in {invented[0]} of answers about strangers without a passage and in {invented[1]} with the "
        f"passages that a search finds. Not so rlvr, which abstains without one: its hallucinations go from {wrong[0]} "
        f"to {wrong[1]}, for where the search misses it answers all the same."
    )
    return Measured(effect, int(found.value("invention_cut_stranger", "n")), bool(effect.low > 0), said)


def reasoning(bench: Bench) -> Measured:
    """How much more RLVR adds to pass@1 than to pass@k, on the same sums."""
    found = bench.result("chain_of_thought", "rlvr", BASE)
    first, many = "pass@1", f"pass@{SAMPLES}"
    known = found.items[found.items[first].notna()]
    ours, theirs = paired(known[known[MODEL] == "rlvr"], known[known[MODEL] == BASE])
    gains = {name: (ours[name] - theirs[name]).to_numpy(dtype=float) for name in (first, many)}
    effect = stats.paired_difference(gains[first], gains[many])
    told = {name: stats.bootstrap_mean(values) for name, values in gains.items()}
    said = (
        f"RLVR lifts pass@1 on sums by {written(*told[first])} and {many} by {written(*told[many])}; base reaches "
        f"{theirs[many].mean():.2f} with {SAMPLES} tries."
    )
    return Measured(effect, len(ours), bool(effect.low > 0 and told[first].low > 0), said)


def forgetting(bench: Bench) -> Measured:
    """How much of what plain training on later phases forgets replay keeps."""
    found = bench.result("continual", BASE)
    effect = _interval(found.summary, "forgetting_saved_by_replay")
    told = {name: _interval(found.summary, f"forgetting_{name}") for name in ("plain", "replay", "ewc")}
    shares = [f"{percent(*told[name])} {words}" for name, words in SPOKEN.items()]
    said = f"Of what it learned in earlier phases base forgets {', '.join(shares)}."
    holds = effect.low > 0 and told["plain"].low > 0
    return Measured(effect, int(found.value("forgetting_saved_by_replay", "n")), bool(holds), said)


def _interval(summary: pd.DataFrame, metric: str) -> Interval:
    row = summary[summary["metric"] == metric].iloc[0]
    return Interval(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]))


def _unpaired(first: pd.Series, second: pd.Series) -> Interval:
    """Difference of two mean shares over different items, by the bootstrap of each."""
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = first.to_numpy(dtype=float), second.to_numpy(dtype=float)
    drawn = [x[rng.integers(0, len(x), (2000, len(x)))].mean(axis=1) for x in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    found = Interval(float(a.mean() - b.mean()), float(low), float(high))
    return stats.unvaried(found, min(len(a), len(b)), stats.GAIN)


LEARNED = (
    Claim(
        "induction",
        "Induction heads form when the loss in context drops.",
        "Olsson et al. 2022, arXiv 2209.11895",
        "correlation over training of the rise of the induction score and the fall of the loss in context",
        ("icl",),
        "in_context",
        induction,
    ),
    Claim(
        "exposure",
        "Models invent what they seldom read, at a rate that classification errors bound from below.",
        "Kalai et al. 2025, arXiv 2509.04664",
        "share of hallucinated answers, facts read 1 to 5 times minus facts read often",
        (BASE,),
        "hallucination",
        exposure,
    ),
    Claim(
        "retrieval",
        "Retrieved passages cut invention.",
        "Shuster et al. 2021, arXiv 2104.07567",
        "share of invented answers about strangers, without passages minus with those retrieved",
        (BASE, "rlvr"),
        "retrieval",
        retrieval,
    ),
    Claim(
        "reasoning",
        "Reinforcement learning from verifiable rewards lifts pass@1 more than pass@k.",
        "Yue et al. 2025, arXiv 2504.13837",
        f"gain in pass@1 minus gain in pass@{SAMPLES}, RLVR against base",
        ("rlvr", BASE),
        "chain_of_thought",
        reasoning,
    ),
    Claim(
        "forgetting",
        "Learning new facts makes a model forget old ones, and replay saves most of them.",
        "Rolnick et al. 2018, arXiv 1811.11682",
        "accuracy lost on earlier phases, plain training minus training with replay",
        (BASE,),
        "continual",
        forgetting,
    ),
)
