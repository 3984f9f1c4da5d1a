"""Record of findings, stored next to the runs: each training of a claim with the facts it depends on, and its null.

A finding is measured again on demand, and automatically when one of its runs or its part of the plan has changed.
Findings of Probe's sample runs are read from there, and new ones are written to `results` in the working directory.
Records of older versions are not read, since the same names stood for other numbers.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from probe.errors import RunError
from probe.findings.bench import BASE, Bench
from probe.findings.claim import Claim, Finding, Null, Replication, judge
from probe.findings.verdicts import read_plan
from probe.runs.directories import WORK, is_shipped
from probe.runs.schema import dumps
from probe.runs.storage import disk, write_atomic
from probe.untrusted import read_json, readable

FILE = "findings.json"
FORMAT = 2
NUMBER = int | float
TRAINING: dict[str, Any] = {
    **dict.fromkeys(("value", "ci_low", "ci_high"), NUMBER | None),
    "seed": int,
    "n": int,
    "said": str,
}
NULL: dict[str, Any] = {"holds": int, "repetitions": int, "said": str}
LARGEST = 64
"""Largest number of trainings of a claim that are read."""


def key(bench: Bench, claim: Claim) -> str:
    """Hash everything that a training's finding depends on: the claim, its terms, and when and how its runs were made.

    Control runs are not part of the hash, since they do not come with Probe: results measured on them stay valid
    without them.

    Raises:
        RunError: a run is missing.
    """
    runs = [bench.run(name) for name in claim.runs]
    run_facts = [[run.name, run.created, run.steps, run.config] for run in runs]
    text = json.dumps([FORMAT, claim.name, claim.version, claim.terms.hash, run_facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder(bench: Bench) -> Path | None:
    """Return the folder of the runs: the given one, or that of the base; None without a base."""
    if bench.root is not None:
        return bench.root
    try:
        return Path(os.path.abspath(bench.run(BASE).path)).parent
    except RunError:
        return None


def files(bench: Bench) -> list[Path]:
    """Return the files that can store findings (none without runs); new ones go to the first."""
    place = folder(bench)
    if place is None:
        return []
    writable = not is_shipped(place) and os.access(place, os.W_OK)
    return [place / FILE] if writable else [WORK / FILE, place / FILE]


def read_record(bench: Bench, claims: Sequence[Claim]) -> dict[str, Finding]:
    """Read the recorded findings of the current runs, by claim and with their verdicts."""
    stored = [_read(file) for file in files(bench)]
    found = ((claim.name, on_record(bench, claim, stored)) for claim in claims)
    return judge({name: each for name, each in found if each is not None})


def on_record(bench: Bench, claim: Claim, stored: Sequence[Mapping[str, Any]] | None = None) -> Finding | None:
    """Return the recorded finding of a claim; None if there is none or its runs have changed since.

    Args:
        bench: bench of the named runs.
        claim: claim to look up.
        stored: entries of the files, if they were read already.
    """
    stored = [_read(file) for file in files(bench)] if stored is None else stored
    try:
        expected = {"": key(bench, claim)}
        if not claim.controls:
            expected |= {other.origin: key(other, claim) for other in bench.further(claim.runs)}
    except RunError:  # a run is missing or broken
        return None
    for entry in (entries.get(claim.name) for entries in stored):
        if isinstance(entry, dict) and entry.get("key") == expected[""] and (found := _finding(claim, entry, expected)):
            return found
    return None


def _finding(claim: Claim, entry: Mapping[str, Any], expected: Mapping[str, str]) -> Finding | None:
    """Convert an entry to a finding; None if it is damaged or the runs of a training have changed since."""
    trainings, null = entry.get("trainings"), entry.get("null")
    p, plan = entry.get("p"), entry.get("plan")
    if not (isinstance(trainings, dict) and len(trainings) <= LARGEST and isinstance(plan, str)):
        return None
    if not (isinstance(null, dict) and _fits(null, NULL)):
        return None
    if not isinstance(p, NUMBER | None) or (p is not None and not 0 <= p <= 1):
        return None
    kept = {}
    for origin, each in trainings.items():
        current = claim.controls or (isinstance(each, dict) and each.get("key") == expected.get(origin))
        if current and _fits(each, TRAINING):
            kept[origin] = Replication(**{name: _number(each[name]) for name in TRAINING})
    if not kept or len(kept) < len(trainings):  # p is over all trainings
        return None
    found = {"trainings": kept, "null": Null(**{name: null[name] for name in NULL}), "plan": plan}
    return Finding.of(claim, next(iter(kept.values())).said, p=_number(p), **found)


def _number(value: Any) -> Any:
    return math.nan if value is None else value


def _fits(each: Any, types: Mapping[str, Any]) -> bool:
    return isinstance(each, dict) and all(
        name in each and isinstance(each[name], kind) and _is_bounded(each[name]) for name, kind in types.items()
    )


def record(bench: Bench, claims: Sequence[Claim], found: Sequence[Finding]) -> Path | None:
    """Record findings; return None if the folder is not writable.

    Raises:
        RunError: the record cannot be written.
    """
    file = next(iter(files(bench)), None)
    if file is None or not os.access(next(place for place in file.absolute().parents if place.exists()), os.W_OK):
        return None
    entries = _read(file)
    for claim, finding in zip(claims, found, strict=True):
        if not finding.trainings:
            continue
        keys = {} if claim.controls else {each.origin: key(each, claim) for each in bench.further(claim.runs)}
        keys[""] = key(bench, claim)
        trainings = {at: {"key": keys.get(at, ""), **asdict(each)} for at, each in finding.trainings.items()}
        null = {each.name: getattr(finding.null, each.name) for each in fields(Null)}
        entry = {"key": keys[""], "plan": finding.plan, "p": finding.p, "null": null, "trainings": trainings}
        entries[claim.name] = entry
    with disk(file):
        write_atomic(
            file, (dumps({"format": FORMAT, "plan": read_plan().hash, "findings": entries}, indent=2) + "\n").encode()
        )
    return file


def _is_bounded(value: Any) -> bool:
    return not isinstance(value, NUMBER) or abs(value) < 2**63


def _read(file: Path) -> dict[str, Any]:
    """Read the entries by claim; none if the file is missing, damaged or of another format."""
    try:
        content = readable(read_json(file))
    except (OSError, ValueError):
        return {}
    fits = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("findings"), dict)
    return content["findings"] if fits else {}
