"""Audit: the effect of alignment on behaviour, next tokens and weights of the chosen models; and all stored audits."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import models
from dashboard.components.details import details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.components.tabs import open_tab
from dashboard.data import Stamp, stamp
from dashboard.jobs import find_live, offer
from dashboard.markdown import finding, note, sentence_place
from dashboard.sides import ask_for_model
from dashboard.state import ALIGNED, BASE, SharedChoices, current, keep
from probe.audit.change import Audit, audit_files, read_audit
from probe.audit.config import AuditSettings
from probe.audit.figures import audit_html, count_tests, difference_points, difference_table, inside
from probe.errors import DataError, ProbeError
from probe.logs.paired_logs import LOGS
from probe.numbers import duration
from probe.options import describe
from probe.texts import visible

if TYPE_CHECKING:
    from probe.model.lm import LM

CHOSEN = "audit"
"""Key of the chosen audit."""
THESE = "of the two models above"
CODE = """import probe

base, aligned = probe.LM.load({0!r}), probe.LM.load({1!r})
found = probe.audit.audit_models(base, aligned)
found.sentence, found.rows, found.corpus, found.blocks
found.save()                            # audit.json and audit.html"""
CODE_OF_LOGS = """from pathlib import Path

from probe.logs import compare_logs, read_log

found = compare_logs(read_log(Path("BASE")), read_log(Path("ALIGNED"))).audit  # the two files
found.sentence, found.rows
found.save()                            # audit.json and audit.html"""
DEFINITION = """
A difference is paired item by item. It is **changed** where its whole 95 % interval lies beyond the smallest effect
that counts (one percentage point of a rate, 0.04 nats of log-odds, 0.01 nats a token, 1 % of any other value, or
`--smallest-effect`) and it is significant after correction: the models are swapped within questions at
random, and the largest difference of a family of measures is compared (max-T). It is **equivalent** where its 90 %
interval lies within the margin (five percentage points, or `--margin`), else **undecided**. **Finds** is the smallest
difference that this number of pairs detects with 80 % power; **cannot show** names the direction in which the base is
too close to its bound. Two models without a world are asked the question sets that
come with Probe, two models of one world its own questions. The change of a block's weights is the norm of the
difference over the norm of the base's weights; that of the residual stream is the same ratio after the block, at the
token before an answer begins, mean over prompts in which the user guesses wrongly.
"""


def stored() -> dict[str, tuple[Path, Audit]]:
    """Load the audits in the working directory and in run directories, newest first, by folder name."""
    audits = {}
    for file in audit_files():
        found = _read(str(file), stamp(file))
        if found is not None:
            audits[file.parent.name] = file.parent, found
    return dict(sorted(audits.items(), key=lambda pair: str(pair[1][1].meta.get("created")), reverse=True))


@st.cache_data(show_spinner=False, max_entries=64)
def _read(file: str, version: Stamp) -> Audit | None:
    try:
        return read_audit(Path(file))
    except DataError:  # an unreadable one does not hide others
        return None


def title_of_job(shared: SharedChoices) -> str:
    """Return the title of the job that audits the two chosen models."""
    base, aligned = shared.names()
    return f"Audit {aligned} against {base}"


def offer_audit(shared: SharedChoices, refs: tuple[str, str], again: bool) -> None:
    """Offer to audit the two chosen models as a job and, if they have not been audited, say what it costs."""
    title = title_of_job(shared)
    label = "Audit again"
    if not again and find_live(title) is None:
        try:
            seconds = cost(refs)
        except ProbeError as error:  # two models that do not belong together
            note(str(error))
            return
        if seconds is None:
            return
        label = f"{title} (about {duration(seconds)})"
    link = {"page": "audit", BASE: str(shared.base), ALIGNED: str(shared.aligned)}
    more, fields = ["--again"] * again, describe(AuditSettings)
    offer("audit", title, refs, fields, link, more=more, label=label, icon="fact_check", again=again)


def cost(refs: tuple[str, str]) -> float | None:
    """Estimate the seconds of an audit with default options; None while a model waits for consent."""
    base, aligned = (models.load(ref) for ref in refs)
    if base is None or aligned is None:
        return None
    from probe.audit.inspection import work_left

    return work_left(base, aligned, pace=pace).seconds


def plan(base: str, aligned: str) -> None:
    """Describe the power of an audit with this number of questions."""
    lms = [models.load(ref) for ref in (base, aligned)]
    if lms[0] is None or lms[1] is None:
        return
    from probe.audit.plan import find_words, plan_parts

    try:
        note(find_words(plan_parts(lms[0], lms[1])))
    except ProbeError:  # two models that do not belong together: the offer says so
        return


def pace(lm: "LM") -> float:
    """Return a model's seconds per token, which are measured once."""
    from probe.model.pace import seconds_a_token

    return models.compute_once(seconds_a_token, lm, say="Timing the models")


def of_pair(known: Mapping[str, tuple[Path, Audit]], refs: tuple[str, str]) -> str | None:
    """Return the name of the newest audit of two models, found by their fingerprints.

    The result is None if there is none, or while a model waits for consent.
    """
    facts = [models.model_facts(ref) for ref in refs]
    if facts[0] is None or facts[1] is None:
        return None
    pair = [fact.fingerprint for fact in facts if fact]
    matches = (name for name, (_, audit) in known.items() if [m["fingerprint"] for m in audit.meta["models"]] == pair)
    return next(matches, None)


def show(audit: Audit, answer: Any) -> None:
    """Show the sentence, the figures, the table and the files of an audit."""
    with answer:
        finding(audit.sentence)
    source = {"audit": audit.meta["key"], "models": audit.meta["models"], "questions": audit.meta.get("sets")}
    table = difference_table(audit)

    def changes() -> None:
        title = "Differences of rates with 95 % intervals: measures of the audit, then the clearest further changes"
        figure(difference_points(audit), audit.rows, "audit-differences", title=title, source=source)

    def places() -> None:
        title = "How much next tokens, weights and residual stream changed"
        figure(inside(audit), audit.blocks, "audit-inside", title=title, source=source)

    def numbers() -> None:
        show_table(table, hide_index=True)

    where = {"Where": places} if len(audit.corpus) else {}
    open_tab("audit~tab", {"What changed": changes, **where, "All measures": numbers})
    for text in filter(None, (audit.asked_in, *audit.notes)):
        note(text)
    created = str(audit.meta.get("created", "")).replace("T", " ").removesuffix("+00:00")
    note(f"{count_tests(audit)} Audited {created} UTC in {duration(float(audit.meta['seconds']))}.")
    references = [str(model.get("ref") or model["label"]) for model in audit.meta["models"]]
    code = CODE_OF_LOGS if (audit.rows["part"] == LOGS).any() else CODE.format(*references)
    files = {"audit.json": lambda: audit.to_json().encode(), "audit.html": lambda: audit_html(audit).encode()}
    details((), DEFINITION, code, {"audit": audit.rows, "corpus": audit.corpus}, files)


def page() -> None:
    """Draw the page from top to bottom."""
    shared, answer = current(), sentence_place()
    known = stored()
    base, aligned = shared.reference(shared.base), shared.reference(shared.aligned)
    name = THESE
    if known:
        choices = [THESE, *known]
        name = st.selectbox(
            "Audit shown", choices, key=keep(CHOSEN, choices, THESE), bind="query-params", format_func=visible
        )
    if name != THESE:
        show(known[name][1], answer)
        return
    if not base or not aligned:
        ask_for_model(answer, f"Choose {'a base' if not base else 'an aligned'} model above to audit what changed.")
        return
    match = of_pair(known, (base, aligned))
    if match is not None:
        show(known[match][1], answer)
        offer_audit(shared, (base, aligned), again=True)
        return
    first, second = shared.names()
    busy = find_live(title_of_job(shared)) is not None
    with answer:
        finding(f"{second} is being audited against {first}." if busy else "These two models have not been audited.")
    st.markdown(
        "An audit asks both models the same questions and says what changed, what is equivalent and what is undecided:"
        " sycophancy, hallucination, calibration, chain of thought, and two controls, each with a paired interval; then"
        " KL of their next tokens, and the blocks whose weights and residual stream changed. It needs no file."
    )
    plan(base, aligned)
    offer_audit(shared, (base, aligned), again=False)


page()
