"""All claims, measured one after the other: `probe findings` and the page print what this gives."""

import difflib
from collections.abc import Iterator, Sequence

from probe.errors import ConfigError, ProbeError
from probe.findings.bench import Bench
from probe.findings.claim import Claim, Finding
from probe.findings.learned import LEARNED
from probe.findings.rewarded import REWARDED

ORDER = (
    "sycophancy",
    "reward_agreement",
    "overoptimisation",
    "induction",
    "exposure",
    "guessing",
    "retrieval",
    "reasoning",
    "forgetting",
    "optimum",
)
CLAIMS: tuple[Claim, ...] = tuple(sorted([*REWARDED, *LEARNED], key=lambda claim: ORDER.index(claim.name)))
"""In the order in which they are shown."""


def chosen(names: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these names; all without any.

    Raises:
        ConfigError: there is no such claim; near names are listed.
    """
    known = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}."
            raise ConfigError(f"There is no claim `{name}`: {hint}")
    return tuple(known[name] for name in names) or CLAIMS


def findings(bench: Bench, claims: Sequence[Claim] = CLAIMS) -> Iterator[Finding]:
    """Measure claims, one after the other; what cannot be measured comes with the reason."""
    for claim in claims:
        yield finding(bench, claim)


def finding(bench: Bench, claim: Claim) -> Finding:
    """Measure one claim."""
    absent = bench.missing(claim.runs)
    if absent:
        lacks = " and ".join(f"`{name}`" for name in absent)
        return Finding.of(claim, f"There is no run {lacks} here: name the folder of the sample runs.")
    try:
        return Finding.of(claim, claim.measure(bench))
    except ProbeError as error:
        return Finding.of(claim, str(error))
