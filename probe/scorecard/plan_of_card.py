"""Plan of the card: methods, truths, scores, numbers of texts and thresholds, in one file that is written before a run.

A row keeps the hash of its family's part of the plan, so that rows of another plan are not taken for those of this one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from probe.plugins import BUILT_IN
from probe.scorecard.catalogue_of_methods import families, methods
from probe.untrusted import parse_toml, read_file

FILE = Path(__file__).with_name("plan.toml")
REAL = "real"
"""Name of the part for a model without a world."""


@dataclass(frozen=True)
class Plan:
    """Contents of the plan's file."""

    version: int
    """Version of the card."""
    seeds: tuple[int, ...]
    """Seeds of the bases, or of the draws of texts for a model without a world."""
    level: float
    """Coverage of the intervals over seeds."""
    margin: float
    """Smallest difference of scores that counts."""
    parts: Mapping[str, Mapping[str, Any]]
    """Part of each family by name: `n`, `baseline`, `methods`, and `truths` with their scores."""
    text: str = ""
    """Text of the file."""

    def hash(self, family: str) -> str:
        """Return eight hexadecimal digits that are equal for equal parts and versions; methods do not count."""
        part = {key: value for key, value in self.parts.get(family, {}).items() if key != "methods"}
        return hashlib.sha256(json.dumps([self.version, part], sort_keys=True).encode()).hexdigest()[:8]

    def asks(self, family: str, truth: str) -> bool:
        """Return whether a truth is asked."""
        return truth in self.parts.get(family, {}).get("truths", ())

    def texts(self, family: str) -> int:
        """Return the number of texts of a family's problems."""
        return int(self.parts.get(family, {}).get("n") or families()[family].n)


@cache
def read_plan() -> Plan:
    """Read the plan that comes with Probe."""
    text = read_file(FILE).decode()
    content = parse_toml(text)
    parts = {name: part for name, part in content.items() if isinstance(part, dict) and name != REAL}
    return Plan(content["version"], tuple(content["seeds"]), content["level"], content["margin"], parts, text)


@cache
def read_real_plan() -> Plan:
    """Read the plan for a model without a world: draws of texts instead of bases, and the truths that exist then."""
    plan, own = read_plan(), parse_toml(read_plan().text)[REAL]
    parts = {name: part for name, part in own.items() if isinstance(part, dict)}
    return replace(plan, seeds=tuple(own["draws"]), parts=parts)


def coded() -> dict[str, dict[str, Any]]:
    """Return the parts of the plan as the code has them, without the methods of plugins."""
    own = [each for each in methods() if each.origin == BUILT_IN]
    return {
        name: {
            "n": family.n,
            "baseline": family.baseline,
            "methods": sorted(each.name for each in own if each.family == name),
            "truths": {each.name: each.score for each in family.truths},
        }
        for name, family in families().items()
    }


def departures(plan: Plan) -> list[str]:
    """Return a sentence for each family in which the code does not do what the plan says."""
    said = []
    code = coded()
    for name in dict.fromkeys([*plan.parts, *code]):
        planned = dict(plan.parts.get(name, {}))
        planned["methods"] = sorted(planned.get("methods", []))
        odd = [key for key in ("n", "baseline", "methods", "truths") if planned.get(key) != code.get(name, {}).get(key)]
        if odd:
            said.append(f"The plan and the code differ for the family `{name}` in {', '.join(odd)}.")
    return said
