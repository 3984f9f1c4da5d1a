"""Findings as a file beside the runs that they were measured on, so that they are there at once; measured anew on
demand, and of themselves when one of the runs is another one than then.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from probe.errors import RunError
from probe.findings.bench import Bench
from probe.findings.claim import Claim, Finding
from probe.runs.schema import dumps
from probe.runs.storage import disk, write_atomic

FILE = "findings.json"
FORMAT = 1


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


def recorded(bench: Bench, claims: Sequence[Claim]) -> dict[str, Finding]:
    """Findings by claim that are on record for the runs as they are now."""
    place = folder(bench)
    known = _read(place / FILE) if place is not None else {}
    found = {}
    for claim in claims:
        entry = known.get(claim.name)
        try:
            if not isinstance(entry, dict) or entry.get("key") != key(bench, claim):
                continue
        except RunError:  # a run is missing or broken
            continue
        values = {each.name: entry[each.name] for each in fields(Finding) if each.name in entry}
        shared = Finding.of(claim, "")
        found[claim.name] = Finding(**{**asdict(shared), **values, "runs": claim.runs, "choices": dict(claim.choices)})
    return found


def record(bench: Bench, claims: Sequence[Claim], found: Sequence[Finding]) -> Path | None:
    """Put findings on record beside the runs; None where the folder may not be written to.

    Raises:
        RunError: the disk refuses.
    """
    place = folder(bench)
    if place is None or not os.access(place, os.W_OK):
        return None
    entries = _read(place / FILE)
    for claim, finding in zip(claims, found, strict=True):
        if finding.holds is not None:
            told = {name: value for name, value in asdict(finding).items() if name not in ("choices", "runs")}
            entries[claim.name] = {"key": key(bench, claim), **told}
    with disk(place / FILE):
        write_atomic(place / FILE, (dumps({"format": FORMAT, "findings": entries}, indent=2) + "\n").encode())
    return place / FILE


def _read(file: Path) -> dict[str, Any]:
    """Entries by claim; none where the file is missing, damaged or of another format."""
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    fits = isinstance(known, dict) and known.get("format") == FORMAT and isinstance(known.get("findings"), dict)
    return known["findings"] if fits else {}
