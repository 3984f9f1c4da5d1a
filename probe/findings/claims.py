"""Registry of all claims by name, and their tests on every training and on the null.

`probe findings` and the page print what `findings` gives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from probe.errors import ConfigError, ProbeError, suggest
from probe.findings.bench import BASE, Bench
from probe.findings.claim import Claim, Finding, Null, Replication, judge, p_value
from probe.findings.learned import LEARNED
from probe.findings.ledger import on_record, read_record
from probe.findings.rewarded import REWARDED
from probe.findings.verdicts import read_plan
from probe.ticks import ignore, part

CLAIMS: tuple[Claim, ...] = tuple(
    sorted((*REWARDED, *LEARNED), key=lambda claim: list(read_plan().claims).index(claim.name))
)
"""Claims by name, in the order of the plan."""


def choose_claims(names: Sequence[str]) -> tuple[Claim, ...]:
    """Return the claims of these names, or all claims if no name is given.

    Raises:
        ConfigError: no claim has this name; similar names are listed.
    """
    by_name = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in by_name:
            hint = suggest(name, by_name, f"there are {', '.join(by_name)}.")
            raise ConfigError(f"There is no claim `{name}`: {hint}")
    return tuple(by_name[name] for name in names) or CLAIMS


def lacks(bench: Bench, claim: Claim, found: Finding | None) -> bool:
    """Return whether a claim is still to be measured on the named runs, or on a further seed that has weights."""
    if claim.controls:
        return any(found is None or each.origin not in found.trainings for each in claim.benches(bench))
    return found is None or any(
        each.origin not in found.trainings and all(each.run(name).checkpoints() for name in claim.runs)
        for each in claim.benches(bench)
    )


def findings(bench: Bench, claims: Sequence[Claim] = CLAIMS) -> Iterator[Finding]:
    """Test claims, and judge them together with the recorded findings of the others; see `finding`."""
    known = read_record(bench, CLAIMS) | {claim.name: finding(bench, claim) for claim in claims}
    judged = judge(known)
    yield from (judged[claim.name] for claim in claims)


def finding(bench: Bench, claim: Claim) -> Finding:
    """Test one claim on all trainings and on its null; `judge` gives its verdict among the others.

    Results that cannot be measured, since weights or control runs are missing, are taken from the record.
    """
    absent = bench.missing(claim.runs)
    if absent:
        lacking = " and ".join(f"`{name}`" for name in absent)
        return Finding.of(claim, f"There is no run {lacking} here: name the folder of the sample runs.")
    known = on_record(bench, claim)
    kept = dict(known.trainings) if known else {}
    whole, benches = bench.tick or ignore, claim.benches(bench)
    trainings, reasons = {}, []
    for index, each in enumerate(benches):
        each.tick = part(whole, index, len(benches) + 1)
        try:
            found = claim.measure(each)
        except ProbeError as error:
            reasons.append(str(error))
            if each.origin in kept:
                trainings[each.origin] = kept[each.origin]
            continue
        trainings[each.origin] = Replication(
            each.seed(next(iter(claim.runs), BASE)), *found.effect, found.n, found.said
        )
    bench.tick = whole
    if claim.controls and not benches:
        reasons.append(claim.remedy)
        trainings = kept
    if not trainings:
        return Finding.of(claim, reasons[0])
    able = [each for each in benches if each.origin in trainings]
    try:
        null = claim.null(able)
    except ProbeError as error:
        null = Null(said=str(error))
    if known and known.null.repetitions > null.repetitions:
        null = known.null
    result = Finding.of(
        claim, next(iter(trainings.values())).said, trainings=trainings, null=null, plan=read_plan().hash
    )
    deciding = {id(each) for each in result.deciding}
    chosen = [each for each in able if id(trainings[each.origin]) in deciding]
    if not chosen and known:
        return replace(result, p=known.p)
    return replace(result, p=p_value(claim, result, chosen))
