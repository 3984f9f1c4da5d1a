"""Audit runner: every part on both models, KL over a corpus, and internal differences.

Answers and results are cached like those of the experiments, so that an interrupted audit continues where it stopped.
The tables of two models and the finished audit are cached too, under hashes of everything that the numbers depend on;
a finished audit is read from the cache.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe import stats
from probe.audit.change import BLOCKS, COLUMNS, CORPUS, FILE, HOME, TESTS, Audit, audit_files, read_table, stored_audits
from probe.audit.config import DEFAULTS, AuditSettings
from probe.audit.plan import MEASURES, Part, Respondents, ask_in, form_effects, plan_parts, usual_times
from probe.audit.seen import Past, past_of, without_seen
from probe.audit.swaps import DRAWS, swap_models
from probe.audit.verdict import DIFFERENCES, INNER, INNER_ENDS, add_verdicts, cannot_show
from probe.compare.behaviour import claim_pairs
from probe.compare.corpus_shift import compare_corpus, shared_texts
from probe.compare.side_by_side import require_writers
from probe.compare.weights import weight_change
from probe.errors import DiskError, ProbeError
from probe.experiments.metrics import differences, pair_items, paired, summarise
from probe.experiments.registry import find_experiment
from probe.experiments.result import RESULT_FILE
from probe.experiments.run import call, identity, labels, method_of
from probe.experiments.store import find_stored, obtain, place
from probe.hallucination.knowing import last_residuals
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.runs.directories import may_make
from probe.runs.schema import dumps
from probe.runs.storage import disk, write_atomic
from probe.terms import Term, smallest_effect, term
from probe.ticks import Tick, between, ignore
from probe.untrusted import read_file, read_json, sendable

TEXTS = 12
"""Number of texts of each kind."""
BATCH = 8
"""Number of prompts whose residuals are read in one batch."""
KINDS = {"kind": str, **dict.fromkeys(CORPUS[:2], int), **dict.fromkeys(CORPUS[2:], float)}
WEIGHTS = {"block": int, **dict.fromkeys(BLOCKS[1:3], float)}
RESIDUALS = {"block": int, **dict.fromkeys(BLOCKS[3:], float)}
"""Columns and types of the tables of two models: by kind of text, weights by block, residuals by block."""
PARTS = HOME / "parts"
"""Folder of the tables computed from two models, which every audit has."""
MEASURING = 1
"""Version of the measurements; increase it when equal models would give other numbers."""


def few(settings: AuditSettings) -> int:
    """Return the number of texts of each kind that both models read."""
    return min(TEXTS, settings.n or TEXTS)


def audit_models(
    base: LM,
    aligned: LM,
    settings: AuditSettings = DEFAULTS,
    *,
    again: bool = False,
    tick: Tick = ignore,
    at: Callable[[str], None] = lambda what: None,
) -> Audit:
    """Measure what changed from one model to another; stored measurements are reused.

    Args:
        base: model to compare against.
        aligned: the other model.
        settings: parts and questions of the audit, and the smallest change that counts.
        again: measure again even if results are stored.
        tick: function called with the share of the work done.
        at: function called with a description of the current work.

    Raises:
        ConfigError: the models do not belong to one world, or no part has a given name.
        DataError: a model has a scalar output.
        DiskError: a result cannot be stored.
    """
    require_writers(base, aligned)
    found = None if again else stored_audit(base, aligned, settings)
    if found is not None:
        return found
    seed, parts = settings.seed, plan_parts(base, aligned, settings.only, settings.n)
    past = past_of(base, aligned, parts)
    models, names = _models(base, aligned), labels([base, aligned])
    asks = ask_in(base, aligned, settings.form)
    base, aligned = asks[:2]
    if asks.in_other is not None:
        names = [*names, f"{names[0]} in {'the form of ' + names[1] if asks.in_own else 'its own form'}"]
    start, done, usual = time.perf_counter(), 0.0, usual_times(base)
    whole = len(names) * sum(part.seconds for part in parts) + usual.corpus + usual.inside
    tables, counts, notes = [], np.zeros(DRAWS, dtype=np.int64), list(past.notes)
    for part in parts:
        items = []
        for lm, name in zip(asks.models, names, strict=True):
            at(f"{part.name}, {name}")
            share = between(tick, done / whole, (done + part.seconds) / whole)
            options = {"seed": seed, "tick": share, "both_forms": False, **part.arguments}
            try:
                items.append(obtain(find_experiment(part.experiment), lm, again=again, **options).items)
            except DiskError:  # what is left out would be left out of the stored audit, too
                raise
            except ProbeError as error:
                notes.append(f"{part.name} is left out for {name}: {error}")
            done += part.seconds
        if len(items) == len(names):
            table, by_swap = compare_part(part, items[0], items[1], seed)
            table, said = without_seen(part, past, items[0], items[1], table, seed)
            notes += [said] if said else []
            if asks.in_other is not None:
                by_name = {metric.name: metric for metric in part.metrics()}
                pair = [part.derive(each) for each in (items[0], items[2])]
                own, other = pair if asks.in_own else pair[::-1]
                table = table.assign(**form_effects([by_name[name] for name in table["metric"]], own, other, seed))
            tables.append(table)
            counts = counts + by_swap
    at("KL over a corpus")
    read = (done + usual.corpus) / whole
    corpus = _corpus(base, aligned, settings, again, between(tick, done / whole, read), notes)
    at("where inside")
    blocks = _blocks(base, aligned, settings, again, between(tick, read, 1.0), notes)
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*COLUMNS, *TESTS])
    low, high = np.quantile(counts, stats.TAILS, method="closest_observation")
    return Audit(
        rows=add_verdicts(rows, settings.smallest_effect, settings.margin),
        corpus=corpus,
        blocks=blocks,
        notes=tuple(notes),
        meta={
            "models": models,
            "sets": sorted({part.questions for part in parts}),
            "n": settings.n,
            "only": list(settings.only),
            "seed": seed,
            "smallest_effect": float(settings.smallest_effect),
            "margin": float(settings.margin),
            "form": settings.form if asks.in_other is not None else "same",
            "by_chance": {"expected": float(counts.mean()), "low": int(low), "high": int(high)},
            "seconds": round(time.perf_counter() - start, 1),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "key": _key(asks, parts, past, settings),
        },
    )


def stored_audit(
    base: LM, aligned: LM, settings: AuditSettings = DEFAULTS, folders: Sequence[Path] = ()
) -> Audit | None:
    """Load the newest finished audit of two models, if stored and readable; no model is run.

    Args:
        base: model to compare against.
        aligned: the other model.
        settings: see `audit_models`; with other `smallest` or `margin` than when it was stored, the verdicts are formed
            anew.
        folders: further folders to search.

    Raises:
        ConfigError: see `audit_models`.
    """
    parts = plan_parts(base, aligned, settings.only, settings.n)
    past = past_of(base, aligned, parts)
    key = _key(ask_in(base, aligned, settings.form), parts, past, settings)
    files = [*(folder / FILE for folder in folders), *audit_files()]
    known = stored_audits([file for file in files if _mentions(file, key)])
    found = next((audit for audit in known.values() if audit.meta["key"] == key), None)
    if found is None:
        return None
    asked = {
        "models": _models(base, aligned),
        "only": list(settings.only),
        "n": settings.n,
    }  # runs may have been renamed since
    notes = tuple(dict.fromkeys((*found.notes, *past.notes)))
    return replace(found, notes=notes, meta={**found.meta, **asked}).count_from(
        settings.smallest_effect, settings.margin
    )


def _models(base: LM, aligned: LM) -> list[dict[str, Any]]:
    """Describe the two models of an audit: label, reference, fingerprint and method."""
    return [
        {"label": name, "ref": lm.ref, "fingerprint": lm.fingerprint, "method": method_of(lm)}
        for lm, name in zip((base, aligned), labels([base, aligned]), strict=True)
    ]


def _key(asks: Respondents, parts: Sequence[Part], past: Past, settings: AuditSettings) -> str:
    """Return the key of an audit: a hash of everything that its numbers depend on.

    An audit without questions seen in training keeps the key that it had before such questions were searched for.
    """
    keys = []
    for part in parts:
        for lm in asks.models:
            try:
                keys.append(call(find_experiment(part.experiment), lm, seed=settings.seed, **part.arguments).key)
            except ProbeError as error:  # the part is left out
                keys.append(str(error))
    inner = _facts(asks.base, asks.aligned, settings).values()
    return key_of(["swaps", [part.name for part in parts], keys, few(settings), *inner, *past.facts(parts)])


def _facts(base: LM, aligned: LM, settings: AuditSettings) -> dict[str, Any]:
    """Return the facts that the two-model tables depend on, by table name."""
    both = [base, aligned]
    questions: dict[str, Any] = {}
    for name, ask in (("corpus", partial(shared_texts, base, aligned)), ("residuals", partial(claim_pairs, base))):
        try:
            questions[name] = ask(few(settings), settings.seed)
        except ProbeError as error:  # it will be left out
            questions[name] = str(error)
    return {"weights": both} | {name: [both, settings.seed, texts] for name, texts in questions.items()}


class Remainder(NamedTuple):
    """Work that an audit has left."""

    seconds: float
    """Estimated seconds."""
    parts: tuple[str, ...]
    """Missing measurements, in words."""


def work_left(
    base: LM,
    aligned: LM,
    settings: AuditSettings = DEFAULTS,
    pace: Callable[[LM], float] = seconds_a_token,
) -> Remainder:
    """Return the work that an audit has left: the parts that are not stored, with times scaled by the models' speed.

    Args:
        base: model to compare against.
        aligned: the other model.
        settings: see `audit_models`.
        pace: function that times a model briefly and returns its seconds per token.

    Raises:
        ConfigError: see `audit_models`.
    """
    parts, usual = plan_parts(base, aligned, settings.only, settings.n), usual_times(base)
    asks = ask_in(base, aligned, settings.form)
    base, aligned = asks[:2]
    stored = {name for name, facts in _facts(base, aligned, settings).items() if kept_file(name, facts).is_file()}
    shared = {} if "corpus" in stored else {"KL over a corpus": usual.corpus}
    shared |= {} if {"weights", "residuals"} <= stored else {"where inside": usual.inside}
    total, missing = 0.0, []
    for lm, name in zip(asks.models, labels(asks.models), strict=True):
        new = 0.0 if lm is asks.in_other else sum(shared.values()) / 2
        for part in parts:
            request = call(find_experiment(part.experiment), lm, seed=settings.seed, **part.arguments)
            if not (place(request) / RESULT_FILE).is_file():
                new += part.seconds
                missing.append(f"{part.name} of {name}")
        total += new * pace(lm) / usual.token
    return Remainder(total, (*missing, *shared))


def base_room(base: LM, aligned: LM, settings: AuditSettings = DEFAULTS) -> pd.DataFrame:
    """Return the value of the base in each metric before an audit, as far as stored results contain it.

    Args:
        base: model to compare against.
        aligned: the other model.
        settings: see `audit_models`.

    Returns:
        metric, title, unit, measure, n, base (NaN if unknown), cannot_show.

    Raises:
        ConfigError: see `audit_models`.
    """
    rows, asked = [], ask_in(base, aligned, settings.form).base
    for part in plan_parts(base, aligned, settings.only, settings.n):
        request = call(find_experiment(part.experiment), asked, seed=settings.seed, **part.arguments)
        stored = find_stored(request)
        items = None if stored is None else part.derive(stored.items)
        for metric in part.metrics():
            selected = None if items is None or not metric.applies(items) else metric.select(items)
            known = selected is not None and len(selected) > 0
            columns = {} if selected is None else {name: selected[name].to_numpy() for name in metric.columns}
            about = _term(part, metric.name)
            row = {
                "metric": metric.name,
                "title": about.title,
                "unit": about.unit,
                "measure": metric.name in MEASURES,
                "n": len(selected) if selected is not None and known else int(part.options["n"]),
                "base": metric.value(columns) if known else float("nan"),
                "smallest": smallest_effect(about.unit, (), settings.smallest_effect),
                "difference": 0.0,
            }
            rows.append({**row, "cannot_show": cannot_show(row) if known else ""})
    return pd.DataFrame(rows)


def compare_part(
    part: Part, base: pd.DataFrame, aligned: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Compare the metrics of a part between base and aligned model, with paired differences.

    Args:
        part: part that the items belong to.
        base: items of the base.
        aligned: items of the aligned model.
        seed: seed of the bootstrap and the swaps.

    Returns:
        The table with the columns `COLUMNS` and `TESTS` of `probe.audit.change`, and the number of its rows that each
        swap of the two models would call different (`probe.audit.swaps`).
    """
    before, after = part.derive(base), part.derive(aligned)
    metrics = part.metrics()
    table = differences(
        metrics, summarise(metrics, after, (), seed), summarise(metrics, before, (), seed), after, before, seed
    )
    by_name = {metric.name: metric for metric in metrics}
    of_row = [by_name[name] for name in table["metric"]]
    measure = [name in MEASURES for name in table["metric"]]
    own, others = pair_items(after, before)
    swapped = swap_models(of_row, measure, own, others, seed)
    inner = [paired(metric, own, others, seed, INNER) for metric in of_row]
    about = [_term(part, name) for name in table["metric"]]
    words = {field: [getattr(each, field) for each in about] for field in ("title", "unit", "better")}
    sides = {"base": "baseline", "base_low": "baseline_low", "base_high": "baseline_high"}
    sides |= {"aligned": "value", "aligned_low": "ci_low", "aligned_high": "ci_high"}
    columns = {
        "metric": table["metric"],
        "part": part.name,
        "questions": part.questions,
        "measure": measure,
        **words,
        **{name: table[column] for name, column in sides.items()},
        **{name: table[name] for name in DIFFERENCES},
        "n": swapped.n,
        **{name: [getattr(each, end) for each in inner] for name, end in zip(INNER_ENDS, ("low", "high"), strict=True)},
        "p": swapped.p,
        "p_corrected": swapped.p_corrected,
        "critical": swapped.critical,
        "same_as": swapped.same_as,
    }
    found = pd.DataFrame(columns)[[*COLUMNS, *TESTS]]
    if part.chance and "mc1_chance" in before:
        values = {name: guess(before) for name, guess in part.chance.items()}
        found = found.assign(chance=[values.get(name, float("nan")) for name in found["metric"]])
    return found, swapped.counts


def _term(part: Part, name: str) -> Term:
    """Return the term that describes a metric: the audit's own, or the experiment's."""
    own = term(name, "audit")
    return own if own.definition else term(name.partition(".")[2], part.experiment)


def _corpus(base: LM, aligned: LM, settings: AuditSettings, again: bool, tick: Tick, notes: list[str]) -> pd.DataFrame:
    """Measure KL per token by kind of text, and over all texts (kind `all`).

    Columns: kind, texts, tokens, kl, kl_low, kl_high, kl_reverse.
    """

    def measure() -> pd.DataFrame:
        texts = shared_texts(base, aligned, few(settings), settings.seed)
        shift = compare_corpus(base, aligned, texts, answers=False, seed=settings.seed, tick=tick)
        whole = {"kind": "all", "texts": len(shift.texts), "tokens": int(shift.kinds["tokens"].sum())}
        whole |= shift.kl.row(name="kl") | {"kl_reverse": shift.kl_reverse.value}
        return pd.concat([pd.DataFrame([whole]), shift.kinds], ignore_index=True)

    try:
        table = keep_table("corpus", _facts(base, aligned, settings)["corpus"], KINDS, measure, again)
    except DiskError:
        raise
    except ProbeError as error:
        notes.append(f"KL over a corpus is left out: {error}")
        return pd.DataFrame(columns=list(KINDS))
    tick(1.0)
    return table


def _blocks(base: LM, aligned: LM, settings: AuditSettings, again: bool, tick: Tick, notes: list[str]) -> pd.DataFrame:
    """Return one row per block: relative change of its weights, and of the residual stream after it.

    Columns: block, weights (norm of the change over that of the base), weights_share (of the whole squared change),
    residual (norm of the change over that of the base where an answer starts, mean over prompts), residual_low,
    residual_high.
    """
    facts, table = _facts(base, aligned, settings), pd.DataFrame(columns=list(BLOCKS))

    def weights() -> pd.DataFrame:
        change = weight_change(base, aligned, between(tick, 0.0, 0.7)).blocks.dropna(subset="block")
        columns = {
            "block": change["block"].astype(int),
            "weights": change["relative"],
            "weights_share": change["share"],
        }
        return pd.DataFrame(columns)

    def residuals() -> pd.DataFrame:
        prompts = [pair.prompt for pair in claim_pairs(base, few(settings), settings.seed)]
        own, other = (last_residuals(lm, prompts, between(tick, 0.7, 1.0), BATCH) for lm in (base, aligned))
        relative = np.linalg.norm(other - own, axis=2) / np.linalg.norm(own, axis=2)
        means = stats.bootstrap_means(
            list(relative.T), seed=settings.seed, bounds=[stats.NOT_NEGATIVE] * relative.shape[1]
        )[1:]
        return pd.DataFrame([{"block": block} | mean.row(name="residual") for block, mean in enumerate(means)])

    try:
        table = keep_table("weights", facts["weights"], WEIGHTS, weights, again)
        inner = keep_table("residuals", facts["residuals"], RESIDUALS, residuals, again)
        table = table.merge(inner, on="block", how="outer")
    except DiskError:
        raise
    except ProbeError as error:
        notes.append(f"Where inside is left out: {error}")
    tick(1.0)
    return table.reindex(columns=list(BLOCKS)).astype({"block": int})


def key_of(facts: Any) -> str:
    """Return a key computed from these facts; models among them count by their fingerprints."""
    text = json.dumps([MEASURING, identity(facts)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _mentions(file: Path, key: str) -> bool:
    """Return whether a key stands anywhere in a file: only such a file is worth the time to read an audit."""
    try:
        return key.encode() in read_file(file)
    except OSError:
        return False


def kept_file(name: str, facts: Any) -> Path:
    """Return the file in which a table is stored."""
    return PARTS / f"{name}-{key_of(facts)}.json"


def read_kept(file: Path, columns: Mapping[str, type]) -> pd.DataFrame | None:
    """Read a stored table; None if it is missing or damaged.

    Args:
        file: file of the table.
        columns: types of the columns: `str`, `float` or `int`.
    """
    try:
        if not file.is_file():
            return None
        records = sendable(read_json(file))
        table = read_table(records, {name: str if kind is str else float for name, kind in columns.items()})
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    whole = [name for name, kind in columns.items() if kind is int]
    fits = (table[whole].abs() < 2**53).all().all()
    return table.astype(dict.fromkeys(whole, int)) if fits else None


def keep_table(
    name: str, facts: Any, columns: Mapping[str, type], measure: Callable[[], pd.DataFrame], again: bool = False
) -> pd.DataFrame:
    """Read a stored table of two models, or measure it and store it if the folder is writable.

    Args:
        name: name of the table.
        facts: everything that the table depends on.
        columns: see `read_kept`.
        measure: function that computes the table.
        again: measure it even if it is stored.
    """
    file = kept_file(name, facts)
    kept = None if again else read_kept(file, columns)
    if kept is not None:
        return kept
    table = measure()[list(columns)]
    if may_make(file):
        with disk(file):
            write_atomic(file, (dumps(table.to_dict("records")) + "\n").encode())
    return table
