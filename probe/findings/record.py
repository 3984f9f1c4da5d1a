"""Findings as a file beside the runs that they were measured on, so that they are there at once; measured anew on
demand, and of themselves when one of the runs is another one than then. Those of the sample runs that come with Probe
are found there, and new ones go to `results` of the working directory.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from probe.errors import RunError
from probe.experiments.store import WORK
from probe.findings.bench import Bench
from probe.findings.claim import Claim, Finding
from probe.runs.roots import is_shipped
from probe.runs.schema import dumps
from probe.runs.storage import disk, write_atomic
from probe.untrusted import parse_json, readable

FILE = "findings.json"
FORMAT = 1
TYPES: dict[str, Any] = {
    **dict.fromkeys(("name", "sentence", "source", "effect", "page", "said"), str),
    **dict.fromkeys(("value", "ci_low", "ci_high"), int | float | None),
    "n": int,
    "holds": bool | None,
}
"""What an entry holds; one that does not is measured anew."""


def key(bench: Bench, claim: Claim) -> str:
    """What a finding depends on: the claim's version, and when and how its runs were made.

    Raises:
        RunError: a run is missing.
    """
    runs = [bench.run(name) for name in claim.runs]
    made = [[run.name, run.created, run.steps, run.config, [c.step for c in run.checkpoints()]] for run in runs]
    told = json.dumps([FORMAT, claim.name, claim.version, made], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def folder(bench: Bench) -> Path | None:
    """The folder that holds the runs: the one that was named, or that of the first run of the claims that is there."""
    if bench.root is not None:
        return bench.root
    try:
        return Path(os.path.abspath(bench.run("base").path)).parent
    except RunError:
        return None


def files(bench: Bench) -> list[Path]:
    """The files that findings may stand in; new ones go to the first. None where there are no runs."""
    place = folder(bench)
    if place is None:
        return []
    theirs = not is_shipped(place) and os.access(place, os.W_OK)
    return [place / FILE] if theirs else [WORK / FILE, place / FILE]


def recorded(bench: Bench, claims: Sequence[Claim]) -> dict[str, Finding]:
    """Findings by claim that are on record for the runs as they are now."""
    found = {}
    for known in map(_read, reversed(files(bench))):
        for claim in claims:
            entry = known.get(claim.name)
            try:
                if not isinstance(entry, dict) or entry.get("key") != key(bench, claim):
                    continue
            except RunError:  # a run is missing or broken
                continue
            if not all(isinstance(entry.get(name), kind) and _bounded(entry.get(name)) for name, kind in TYPES.items()):
                continue
            values = {each.name: entry[each.name] for each in fields(Finding) if each.name in entry}
            shared = asdict(Finding.of(claim, "")) | values
            found[claim.name] = Finding(**{**shared, "runs": claim.runs, "choices": dict(claim.choices)})
    return found


def record(bench: Bench, claims: Sequence[Claim], found: Sequence[Finding]) -> Path | None:
    """Put findings on record; None where the folder may not be written to.

    Raises:
        RunError: the disk refuses.
    """
    file = next(iter(files(bench)), None)
    if file is None or not os.access(next(place for place in file.absolute().parents if place.exists()), os.W_OK):
        return None
    entries = _read(file)
    for claim, finding in zip(claims, found, strict=True):
        if finding.holds is not None:
            told = {name: value for name, value in asdict(finding).items() if name not in ("choices", "runs")}
            entries[claim.name] = {"key": key(bench, claim), **told}
    with disk(file):
        write_atomic(file, (dumps({"format": FORMAT, "findings": entries}, indent=2) + "\n").encode())
    return file


def _bounded(value: Any) -> bool:
    return not isinstance(value, int | float) or abs(value) < 2**63


def _read(file: Path) -> dict[str, Any]:
    """Entries by claim; none where the file is missing, damaged or of another format."""
    try:
        known = readable(parse_json(file.read_bytes()))
    except (OSError, ValueError):
        return {}
    fits = isinstance(known, dict) and known.get("format") == FORMAT and isinstance(known.get("findings"), dict)
    return known["findings"] if fits else {}
