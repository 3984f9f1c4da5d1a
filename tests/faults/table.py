"""Table of faults: what each came to, for each subject."""

from tests.faults.harm import Tally


def table(results: dict[str, dict[str, Tally]]) -> str:
    """Return a table in Markdown: of how many moments everything was as without the fault in the end."""
    kinds = list(dict.fromkeys(kind for tallies in results.values() for kind in tallies))
    lines = [["fault", *results], ["---"] * (len(results) + 1)]
    for kind in kinds:
        lines.append([kind, *(_cell(tallies.get(kind)) for tallies in results.values())])
    totals = [sum(tallies.values(), start=Tally()) for tallies in results.values()]
    lines.append(["all", *map(_cell, totals)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(tally: Tally | None) -> str:
    if tally is None:
        return ""
    ended = {"killed": tally.killed, "sentence": tally.sentences, "no effect": tally.unaffected}
    how = ", ".join(f"{count} {name}" for name, count in ended.items() if count)
    return f"{tally.same} of {tally.moments} ({how})"
