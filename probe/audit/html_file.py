"""HTML file of an audit, which needs no network."""

from probe.audit.change import Audit, points
from probe.audit.figures import difference_points, difference_table, inside
from probe.numbers import in_unit
from probe.questions.sets import SETS
from probe.report.document import HtmlReport, today


def audit_html(audit: Audit) -> str:
    """Return the HTML file: sentence, differences, next tokens and blocks, the whole table, and provenance."""
    base, aligned = audit.names
    page = HtmlReport(f"Audit: {aligned} against {base}", {"created_by": "probe audit", "date": today(), **audit.meta})
    page.say(audit.sentence)
    for note in filter(None, (audit.asked_in, *audit.notes)):
        page.say(note, "note")
    page.section("What changed", page=False)
    if len(audit.rows):
        page.figure(difference_points(audit), "Differences with 95 % intervals: measures of the audit, then others")
    page.say(count_tests(audit))
    page.section("Where")
    page.figure(inside(audit), "KL by kind of text, and the change block by block")
    table = audit.corpus.to_dict("records")
    page.table(
        ["texts", "KL, nats a token", "reverse KL", "texts", "tokens"],
        [
            [
                row["kind"],
                in_unit("nats", row["kl"], row["kl_low"], row["kl_high"]),
                f"{row['kl_reverse']:.3g}",
                int(row["texts"]),
                int(row["tokens"]),
            ]
            for row in table
        ],
    )
    page.section("All measures")
    whole = difference_table(audit)
    page.table(list(whole.columns), whole.to_numpy().tolist())
    page.section("Questions and models")
    page.table(
        ["questions", "source", "version", "licence"],
        [[name, SETS[name].source, SETS[name].version, SETS[name].licence] for name in _sets(audit)],
    )
    page.table(
        ["model", "reference", "fingerprint"],
        [[str(model.get(key, "")) for key in ("label", "ref", "fingerprint")] for model in audit.meta["models"]],
    )
    return page.html()


def count_tests(audit: Audit) -> str:
    """Explain the verdicts of an audit in words, with their counts."""
    chance = f" By chance alone {audit.by_chance} of them would be called different." if audit.by_chance else ""
    return (
        f"{len(audit.tested)} differences are tested. Changed: the whole 95 % interval lies beyond the smallest effect"
        f" that counts ({audit.limit} of a rate), and the difference stands after correction for its family."
        f" Equivalent: the 90 % interval lies within the margin ({points(audit.margin)}). Undecided: neither; “finds”"
        f" is the smallest difference that this number of pairs detects with 80 % power.{chance}"
    )


def _sets(audit: Audit) -> list[str]:
    return [name for name in audit.rows["questions"].unique() if name in SETS]
