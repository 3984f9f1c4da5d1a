"""Running an audit: every part on both models, KL over a corpus, and where inside the models differ.

Answers and results are kept as those of the experiments are, so that an audit that broke off goes on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from probe import stats
from probe.audit.change import COLUMNS, Audit, add_tests, check_smallest
from probe.audit.plan import MEASURES, Part, plan_parts, usual_times
from probe.compare.behaviour import claim_pairs
from probe.compare.corpus_shift import compare_corpus, shared_texts
from probe.compare.side_by_side import require_writers
from probe.compare.weights import weight_change
from probe.errors import ProbeError
from probe.experiments.cost import seconds_a_token
from probe.experiments.metrics import differences, summarise
from probe.experiments.registry import find_experiment
from probe.experiments.result import RESULT_FILE
from probe.experiments.run import call, labels, method_of
from probe.experiments.store import obtain, place
from probe.hallucination.knowing import last_residuals
from probe.model.lm import LM
from probe.terms import SMALLEST, Term, term
from probe.ticks import Tick, between, ignore

TEXTS = 12
"""Of each kind."""
BATCH = 8
"""Prompts whose residuals are read together."""


def audit_models(
    base: LM,
    aligned: LM,
    *,
    only: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    smallest: float = SMALLEST,
    tick: Tick = ignore,
    at: Callable[[str], None] = lambda what: None,
) -> Audit:
    """Measure what changed from one model to another.

    Args:
        base: the model compared against.
        aligned: the other one.
        only: names of parts (`plan_parts`); all by default.
        n: questions of each set, at most.
        seed: of everything random.
        smallest: the smallest change of a rate that counts, see `probe.terms.smallest_effect`.
        tick: called with the share that is done.
        at: called with what is worked on.

    Raises:
        ConfigError: the models do not belong to one world, there is no such part, or `smallest` is none.
        DataError: a model reads one number.
    """
    check_smallest(smallest)
    require_writers(base, aligned)
    parts = plan_parts(base, aligned, only, n)
    names = tuple(labels([base, aligned]))
    start, done, usual = time.perf_counter(), 0.0, usual_times(base)
    whole = 2 * sum(part.seconds for part in parts) + usual.corpus + usual.inside
    tables, notes = [], list[str]()
    for part in parts:
        items = []
        for lm, name in zip((base, aligned), names, strict=True):
            at(f"{part.name}, {name}")
            share = between(tick, done / whole, (done + part.seconds) / whole)
            asked = {"seed": seed, "tick": share, "both_forms": False, **part.arguments}
            try:
                items.append(obtain(find_experiment(part.experiment), lm, **asked).items)
            except ProbeError as error:
                notes.append(f"{part.name} is left out for {name}: {error}")
            done += part.seconds
        if len(items) == 2:
            tables.append(compare_items(part, items[0], items[1], seed))
    at("KL over a corpus")
    read = (done + usual.corpus) / whole
    corpus = _corpus(base, aligned, n, seed, between(tick, done / whole, read), notes)
    at("where inside")
    blocks = _blocks(base, aligned, n, seed, between(tick, read, 1.0), notes)
    models = [
        {"label": name, "ref": lm.ref, "fingerprint": lm.fingerprint, "method": method_of(lm)}
        for lm, name in zip((base, aligned), names, strict=True)
    ]
    facts = {"models": [model["fingerprint"] for model in models], "only": sorted(only), "n": n, "seed": seed}
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    return Audit(
        rows=add_tests(rows, smallest),
        corpus=corpus,
        blocks=blocks,
        notes=tuple(notes),
        meta={
            "models": models,
            "sets": sorted({part.questions for part in parts}),
            "n": n,
            "only": list(only),
            "seed": seed,
            "smallest_effect": float(smallest),
            "seconds": round(time.perf_counter() - start, 1),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "key": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12],
        },
    )


def audit_seconds(
    base: LM,
    aligned: LM,
    *,
    only: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    pace: Callable[[LM], float] = seconds_a_token,
) -> float:
    """Seconds that an audit will take, about: that of its parts which are not stored, by how fast each model reads.

    Args:
        base: the model compared against.
        aligned: the other one.
        only: see `audit_models`.
        n: the same.
        seed: the same.
        pace: gives the seconds a token of a model, which is timed for a moment.

    Raises:
        ConfigError: see `audit_models`.
    """
    total, parts, usual = 0.0, plan_parts(base, aligned, only, n), usual_times(base)
    for lm in (base, aligned):
        new = (usual.corpus + usual.inside) / 2
        for part in parts:
            request = call(find_experiment(part.experiment), lm, seed=seed, **part.arguments)
            new += 0.0 if (place(request) / RESULT_FILE).is_file() else part.seconds
        total += new * pace(lm) / usual.token
    return total


def compare_items(part: Part, base: pd.DataFrame, aligned: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The metrics of a part before and after, with the paired difference; columns of `probe.audit.change.COLUMNS`.

    Args:
        part: whose items they are.
        base: items of the base.
        aligned: items of the aligned model.
        seed: of the bootstrap.
    """
    before, after = part.derive(base), part.derive(aligned)
    metrics = part.metrics()
    table = differences(
        metrics, summarise(metrics, after, (), seed), summarise(metrics, before, (), seed), after, before, seed
    )
    about = [_term(part, name) for name in table["metric"]]
    words = {field: [getattr(each, field) for each in about] for field in ("title", "unit", "better")}
    sides = {"base": "baseline", "base_low": "baseline_low", "base_high": "baseline_high"}
    sides |= {"aligned": "value", "aligned_low": "ci_low", "aligned_high": "ci_high"}
    return pd.DataFrame(
        {
            "metric": table["metric"],
            "part": part.name,
            "questions": part.questions,
            "measure": [name in MEASURES for name in table["metric"]],
            **words,
            **{name: table[column] for name, column in sides.items()},
            **{name: table[name] for name in ("difference", "difference_low", "difference_high", "n")},
        }
    )[list(COLUMNS)]


def _term(part: Part, name: str) -> Term:
    """A metric in words: the audit's own, or the experiment's."""
    own = term(name, "audit")
    return own if own.definition else term(name.partition(".")[2], part.experiment)


def _corpus(base: LM, aligned: LM, n: int | None, seed: int, tick: Tick, notes: list[str]) -> pd.DataFrame:
    """KL a token by kind of text, and over all (kind `all`): kind, texts, tokens, kl, kl_low, kl_high, kl_reverse."""

    few = min(TEXTS, n or TEXTS)
    try:
        shift = compare_corpus(base, aligned, shared_texts(base, aligned, few, seed), seed=seed, tick=tick)
    except ProbeError as error:
        notes.append(f"KL over a corpus is left out: {error}")
        return pd.DataFrame(columns=["kind", "texts", "tokens", "kl", "kl_low", "kl_high", "kl_reverse"])
    whole = {"kind": "all", "texts": len(shift.texts), "tokens": int(shift.kinds["tokens"].sum())}
    whole |= shift.kl.row(name="kl") | {"kl_reverse": shift.kl_reverse.value}
    return pd.concat([pd.DataFrame([whole]), shift.kinds], ignore_index=True)


def _blocks(base: LM, aligned: LM, n: int | None, seed: int, tick: Tick, notes: list[str]) -> pd.DataFrame:
    """One row a block: relative change of its weights, and of the residual stream behind it where an answer begins.

    Columns: block, weights (norm of the change over that of the base), weights_share (of the whole squared change),
    residual (mean over prompts of the norm of the change over that of the base), residual_low, residual_high.
    """
    columns = ["block", "weights", "weights_share", "residual", "residual_low", "residual_high"]
    table = pd.DataFrame(columns=columns)
    try:
        change = weight_change(base, aligned, between(tick, 0.0, 0.7)).blocks.dropna(subset="block")
        table = pd.DataFrame(
            {"block": change["block"].astype(int), "weights": change["relative"], "weights_share": change["share"]}
        )
        prompts = [pair.prompt for pair in claim_pairs(base, min(TEXTS, n or TEXTS), seed)]
        own, other = (last_residuals(lm, prompts, between(tick, 0.7, 1.0), BATCH) for lm in (base, aligned))
        relative = np.linalg.norm(other - own, axis=2) / np.linalg.norm(own, axis=2)
        means = stats.bootstrap_means(list(relative.T), seed=seed)[1:]
        frame = pd.DataFrame([{"block": block} | mean.row(name="residual") for block, mean in enumerate(means)])
        table = table.merge(frame, on="block", how="outer")
    except ProbeError as error:
        notes.append(f"Where inside is left out: {error}")
    tick(1.0)
    return table.reindex(columns=columns)
