"""Findings: published claims, whether each holds on the present runs and on its null, and the page behind it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard import access
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.tabs import open_tab
from dashboard.jobs import find_live, launch
from dashboard.markdown import escape_markdown, finding, guard, note, prose
from dashboard.state import SharedChoices, current, look_link
from probe.findings.bench import BASE, Bench
from probe.findings.claim import Claim, Finding, table
from probe.findings.claims import CLAIMS, lacks
from probe.findings.learned import LEARNED
from probe.findings.ledger import read_record
from probe.findings.rewarded import REWARDED
from probe.findings.verdicts import read_plan
from probe.plotting.intervals import effects

ICONS = {
    "holds": ":material/check_circle: holds here",
    "fails": ":material/cancel: fails here",
    "undecided": ":material/help: undecided",
    "not measured": ":material/pending: not measured",
}
# Names of the claims in each tab.
GROUPS = {
    "Knowledge and learning": {claim.name for claim in LEARNED},
    "Feedback and rewards": {claim.name for claim in REWARDED},
}
JOB = "Measure the published claims"
"""Title of the job that measures claims."""
MOST = 20
"""Largest number of trainings of a claim that are described in words."""
CODE = """from probe.findings.bench import Bench
from probe.findings.claim import table
from probe.findings.claims import findings

table(list(findings(Bench({root!r}))))"""
DEFINITION = """
Each claim is somebody's published sentence, measured by one number. The plan says beyond what threshold it must lie, on
which side, and what would refute the sentence. A claim **holds** if the whole 95 % interval lies beyond the threshold,
after Holm's correction over all claims, and its **null**, where there is nothing to find, does not hold as well; it
**fails** if the interval lies on the other side; else it is **undecided**. The interval is over the held-out
trainings, where there are two or more of them: seed 0, on which recipes were chosen, is reported apart. Where there is
one training alone the interval is over answers, and nothing is known of other trainings.
"""


def root_of(shared: SharedChoices) -> Path | None:
    """Return the first folder of runs that has a base model; None if no folder has one."""
    return next((root for root in shared.store.roots if (root / BASE).is_dir()), None)


def offer(root: Path, missing: Sequence[Claim]) -> None:
    """Offer a button that measures all claims not yet recorded, or everything again, as a job."""
    if find_live(JOB) is not None:
        note("The claims are being measured as a job, above: leaving this page does not stop it.")
        return
    title = f"Measure {len(missing)} claims" if missing else "Measure again"
    icon = ":material/play_arrow:" if missing else ":material/refresh:"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        kind: Any = "primary" if missing else "secondary"
        click = st.button(title, icon=icon, key="findings-run", type=kind, **access.button())
        note("A few minutes in total, less if results of experiments are stored. It runs as a job.")
    if click:
        with guard():
            names = [claim.name for claim in missing] or ["--again"]
            launch(["findings", *names, "--runs", str(root)], JOB, {"page": "findings"})
            st.rerun()


def sentence(results: Sequence[Finding]) -> str:
    """State how many claims hold, fail, are undecided, and were not measured."""
    counts = Counter(each.verdict for each in results)
    hold, fail, open_ = (counts[word] for word in ("holds", "fails", "undecided"))
    measured_ = sum(counts.values())
    missing = len(CLAIMS) - measured_
    rest = f"; {missing} {'was' if missing == 1 else 'were'} not measured" if missing else ""
    return f"Of {measured_} published claims {hold} hold on these runs, {fail} fail and {open_} are undecided{rest}."


def row(claim: Claim, result: Finding | None, absent: Sequence[str]) -> None:
    """Draw one claim: sentence, verdict, number, and a link to its page."""
    verdict = result.verdict if result else "not measured"
    with st.container(border=True):
        left, right = st.columns([5, 2], gap="medium")
        with left:
            st.markdown(f"**{prose(claim.sentence)}**")
            if result:
                say_of_trainings(result)
            elif absent:
                st.markdown(escape_markdown(f"There is no run {' and '.join(absent)} in this folder."))
            elif claim.controls:
                st.markdown(prose(claim.remedy))
            if result and result.trainings:
                note(result.against_null)
            note(f"{claim.source}. Measured by: {claim.effect}. Refuted if {claim.terms.refuted_by}.")
        with right:
            st.markdown(ICONS[verdict])
            if result and result.first is not None:
                st.markdown(f"**{escape_markdown(result.mean_number)}**")
                note(f"Must lie {result.threshold}. {result.why}".strip())
                note(result.over_trainings)
                note(f"Seed {result.first.seed}: {result.number}, n = {result.first.n:,}.")
            if not absent:
                chosen = {}
                if claim.runs:
                    chosen = {"base": BASE if BASE in claim.runs else claim.runs[0], "aligned": claim.runs[0]}
                title = f"Open {claim.page.replace('_', ' ')}"
                look_link(claim.page, title, ":material/arrow_forward:", **chosen)


def say_of_trainings(result: Finding) -> None:
    """Describe the numbers of the first training in words, and those of the others after a click."""
    if len(result.trainings) < 2 or result.first is None:
        st.markdown(prose(result.said))
        return
    st.markdown(prose(f"Seed {result.first.seed}: {result.said}"))
    others = [*result.trainings.values()][1:MOST]
    with st.expander(f"{len(others)} other training{'s' * (len(others) > 1)}"):
        for each in others:
            st.markdown(prose(f"Seed {each.seed}: {each.said}"))


def rows(claims: Sequence[Claim], findings: Mapping[str, Finding], absent: Mapping[str, Sequence[str]]) -> None:
    """Draw claims below each other."""
    for claim in claims:
        row(claim, findings.get(claim.name), absent[claim.name])


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    root = root_of(choices)
    answer = st.container()
    if root is None:
        with answer:
            finding("There is no run called base in the run directories, so no claim can be measured.")
        note("Claims are measured on runs with the names of the sample runs: `probe samples` makes them.")
        return
    bench = Bench(root)
    findings = read_record(bench, CLAIMS)
    absent = {claim.name: bench.missing(claim.runs) for claim in CLAIMS}
    missing = [claim for claim in CLAIMS if not absent[claim.name] and lacks(bench, claim, findings.get(claim.name))]
    results = [findings[claim.name] for claim in CLAIMS if claim.name in findings]
    with answer:
        if results:
            finding(sentence(results))
        else:
            finding("No claim has been measured on these runs yet.")
    offer(root, missing)
    if results:
        sentences, values = [each.sentence for each in results], [each.interval for each in results]
        verdicts, units = [each.verdict for each in results], [each.unit for each in results]
        seeds = [[each.value for each in result.trainings.values()] for result in results]
        thresholds = [read_plan().claims[each.name].threshold for each in results]
        chart = effects(sentences, values, verdicts, units, seeds, thresholds)
        figure(chart, table(results), "findings", title="Published claims", source={"runs": root.name})
    parts: dict[str, Callable[[], None]] = {}
    for title, names in GROUPS.items():
        claims = [claim for claim in CLAIMS if claim.name in names]
        if claims:
            parts[title] = partial(rows, claims, findings, absent)
    open_tab("claims", parts)
    details([], DEFINITION, CODE.format(root=str(root)), {"findings": table(results)} if results else None)


page()
