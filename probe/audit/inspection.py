"""Running an audit: every part on both models, KL over a corpus, and where inside the models differ.

Answers and results are kept as those of the experiments are, so that an audit that broke off goes on where it stopped;
so are the tables of two models and the finished audit (`probe.audit.kept`), which is read where it is there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe import stats
from probe.audit.change import BLOCKS, COLUMNS, CORPUS, Audit, add_tests, check_smallest
from probe.audit.kept import find_audit, keep_table, kept_file, key_of
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
KINDS = {"kind": str, **dict.fromkeys(CORPUS[:2], int), **dict.fromkeys(CORPUS[2:], float)}
WEIGHTS = {"block": int, **dict.fromkeys(BLOCKS[1:3], float)}
RESIDUALS = {"block": int, **dict.fromkeys(BLOCKS[3:], float)}
"""Columns of the tables of two models."""


def audit_models(
    base: LM,
    aligned: LM,
    *,
    only: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    smallest: float = SMALLEST,
    again: bool = False,
    tick: Tick = ignore,
    at: Callable[[str], None] = lambda what: None,
) -> Audit:
    """Measure what changed from one model to another; what is stored is not measured again.

    Args:
        base: the model compared against.
        aligned: the other one.
        only: names of parts (`plan_parts`); all by default.
        n: questions of each set, at most.
        seed: of everything random.
        smallest: the smallest change of a rate that counts, see `probe.terms.smallest_effect`.
        again: measure it even so.
        tick: called with the share that is done.
        at: called with what is worked on.

    Raises:
        ConfigError: the models do not belong to one world, there is no such part, or `smallest` is none.
        DataError: a model reads one number.
    """
    check_smallest(smallest)
    require_writers(base, aligned)
    found = None if again else stored_audit(base, aligned, only=only, n=n, seed=seed, smallest=smallest)
    if found is not None:
        return found
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
                items.append(obtain(find_experiment(part.experiment), lm, again=again, **asked).items)
            except ProbeError as error:
                notes.append(f"{part.name} is left out for {name}: {error}")
            done += part.seconds
        if len(items) == 2:
            tables.append(compare_items(part, items[0], items[1], seed))
    at("KL over a corpus")
    read = (done + usual.corpus) / whole
    corpus = _corpus(base, aligned, n, seed, again, between(tick, done / whole, read), notes)
    at("where inside")
    blocks = _blocks(base, aligned, n, seed, again, between(tick, read, 1.0), notes)
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    return Audit(
        rows=add_tests(rows, smallest),
        corpus=corpus,
        blocks=blocks,
        notes=tuple(notes),
        meta={
            "models": _models(base, aligned),
            "sets": sorted({part.questions for part in parts}),
            "n": n,
            "only": list(only),
            "seed": seed,
            "smallest_effect": float(smallest),
            "seconds": round(time.perf_counter() - start, 1),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "key": _key(base, aligned, parts, n, seed),
        },
    )


def stored_audit(
    base: LM,
    aligned: LM,
    *,
    only: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    smallest: float = SMALLEST,
    folders: Sequence[Path] = (),
) -> Audit | None:
    """The finished audit of two models, if it is stored; no model is run.

    Args:
        base: the model compared against.
        aligned: the other one.
        only: see `audit_models`.
        n: the same.
        seed: the same.
        smallest: the same; with another one than when it was stored, what changed is counted anew.
        folders: further ones that it may lie in.

    Raises:
        ConfigError: see `audit_models`.
    """
    found = find_audit(_key(base, aligned, plan_parts(base, aligned, only, n), n, seed), folders)
    if found is None:
        return None
    asked = {"models": _models(base, aligned), "only": list(only), "n": n}  # runs may have another name by now
    return replace(found, meta={**found.meta, **asked}).count_from(smallest)


def _models(base: LM, aligned: LM) -> list[dict[str, Any]]:
    """What an audit says of its two models."""
    return [
        {"label": name, "ref": lm.ref, "fingerprint": lm.fingerprint, "method": method_of(lm)}
        for lm, name in zip((base, aligned), labels([base, aligned]), strict=True)
    ]


def _key(base: LM, aligned: LM, parts: Sequence[Part], n: int | None, seed: int) -> str:
    """By which an audit is known: what all of its numbers depend on."""
    keys = []
    for part in parts:
        for lm in (base, aligned):
            try:
                keys.append(call(find_experiment(part.experiment), lm, seed=seed, **part.arguments).key)
            except ProbeError as error:  # the part is left out
                keys.append(str(error))
    return key_of([[part.name for part in parts], keys, _few(n), *_facts(base, aligned, n, seed).values()])


def _few(n: int | None) -> int:
    """Texts of each kind that both models read."""
    return min(TEXTS, n or TEXTS)


def _facts(base: LM, aligned: LM, n: int | None, seed: int) -> dict[str, Any]:
    """What the tables of two models depend on, by their names."""
    both = [base, aligned]
    questions: dict[str, Any] = {}
    for name, ask in (("corpus", partial(shared_texts, base, aligned)), ("residuals", partial(claim_pairs, base))):
        try:
            questions[name] = ask(_few(n), seed)
        except ProbeError as error:  # it will be left out
            questions[name] = str(error)
    return {"weights": both} | {name: [both, seed, texts] for name, texts in questions.items()}


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
    there = {name for name, facts in _facts(base, aligned, n, seed).items() if kept_file(name, facts).is_file()}
    both = (0 if "corpus" in there else usual.corpus) + (0 if {"weights", "residuals"} <= there else usual.inside)
    for lm in (base, aligned):
        new = both / 2
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


def _corpus(base: LM, aligned: LM, n: int | None, seed: int, again: bool, tick: Tick, notes: list[str]) -> pd.DataFrame:
    """KL a token by kind of text, and over all (kind `all`): kind, texts, tokens, kl, kl_low, kl_high, kl_reverse."""

    def measure() -> pd.DataFrame:
        shift = compare_corpus(base, aligned, shared_texts(base, aligned, _few(n), seed), seed=seed, tick=tick)
        whole = {"kind": "all", "texts": len(shift.texts), "tokens": int(shift.kinds["tokens"].sum())}
        whole |= shift.kl.row(name="kl") | {"kl_reverse": shift.kl_reverse.value}
        return pd.concat([pd.DataFrame([whole]), shift.kinds], ignore_index=True)

    try:
        table = keep_table("corpus", _facts(base, aligned, n, seed)["corpus"], KINDS, measure, again)
    except ProbeError as error:
        notes.append(f"KL over a corpus is left out: {error}")
        return pd.DataFrame(columns=list(KINDS))
    tick(1.0)
    return table


def _blocks(base: LM, aligned: LM, n: int | None, seed: int, again: bool, tick: Tick, notes: list[str]) -> pd.DataFrame:
    """One row a block: relative change of its weights, and of the residual stream behind it where an answer begins.

    Columns: block, weights (norm of the change over that of the base), weights_share (of the whole squared change),
    residual (mean over prompts of the norm of the change over that of the base), residual_low, residual_high.
    """
    facts, table = _facts(base, aligned, n, seed), pd.DataFrame(columns=list(BLOCKS))

    def weights() -> pd.DataFrame:
        change = weight_change(base, aligned, between(tick, 0.0, 0.7)).blocks.dropna(subset="block")
        columns = {
            "block": change["block"].astype(int),
            "weights": change["relative"],
            "weights_share": change["share"],
        }
        return pd.DataFrame(columns)

    def residuals() -> pd.DataFrame:
        prompts = [pair.prompt for pair in claim_pairs(base, _few(n), seed)]
        own, other = (last_residuals(lm, prompts, between(tick, 0.7, 1.0), BATCH) for lm in (base, aligned))
        relative = np.linalg.norm(other - own, axis=2) / np.linalg.norm(own, axis=2)
        means = stats.bootstrap_means(list(relative.T), seed=seed)[1:]
        return pd.DataFrame([{"block": block} | mean.row(name="residual") for block, mean in enumerate(means)])

    try:
        table = keep_table("weights", facts["weights"], WEIGHTS, weights, again)
        inner = keep_table("residuals", facts["residuals"], RESIDUALS, residuals, again)
        table = table.merge(inner, on="block", how="outer")
    except ProbeError as error:
        notes.append(f"Where inside is left out: {error}")
    tick(1.0)
    return table.reindex(columns=list(BLOCKS)).astype({"block": int})
