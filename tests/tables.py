"""Write the tables of metrics in docs/ from `probe/terms.tsv`: `python -m tests.tables` (`make tree`).

The score of the diagnosis stands between `<!-- score -->` and `<!-- end -->`, a family of the scorecard between
`<!-- scorecard: FAMILY -->` and `<!-- end -->`, the orders of its methods on the bases and on SmolLM2 between
`<!-- carried -->` and `<!-- end -->`. A table of metrics stands between
`<!-- metrics: PLACE -->` and `<!-- end -->`; PLACE is a word of the first column of that file.
"""

import re
from pathlib import Path

from probe.diagnosis.score import score, shipped_trials
from probe.scorecard.card import read_card, told
from probe.scorecard.carried_order import carried_order, orders
from probe.scorecard.catalogue_of_methods import families
from probe.scorecard.plan_of_card import read_real_plan
from probe.scorecard.stored_rows import SMOLLM2, shipped_rows
from probe.terms import VOCABULARY, TermRow, table
from tests.places import ROOT

PLACE = re.compile(r"(<!-- metrics: (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
SCORE = re.compile(r"(<!-- score -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
CARD = re.compile(r"(<!-- scorecard: (\w+) -->\n\n).*?(<!-- end -->)", re.DOTALL)
CARRIED = re.compile(r"(<!-- carried -->\n\n).*?(<!-- end -->)", re.DOTALL)
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
HEAD = "| name | unit | better | what it is |\n|---|---|---|---|\n"


def written(document: str) -> str:
    """A document with its tables as they should be."""
    document = SCORE.sub(lambda match: f"{match[1]}{score_table()}{match[2]}", document)
    document = CARD.sub(lambda match: f"{match[1]}{card_table(match[2])}\n\n{match[3]}", document)
    document = CARRIED.sub(lambda match: f"{match[1]}{carried_table()}\n\n{match[2]}", document)
    return PLACE.sub(lambda match: f"{match[1]}{markdown(match[2])}{match[3]}", document)


def score_table() -> str:
    """The score of the diagnosis as a table."""
    lines = ["| fault | runs | named | worst | anything | alarm | soon | delay | obvious rule |", "|---|" + "--:|" * 8]
    for row in score(shipped_trials()).to_dict("records"):
        delay = "" if row["delay"] != row["delay"] or row["delay"] is None else f"{100 * row['delay']:.0f} %"
        counts = [str(row[name]) for name in ("runs", "named", "first", "found", "alarms", "soon")]
        lines.append(f"| {' | '.join([row['title'], *counts, delay, str(row['rules'])])} |")
    return "\n".join(lines)


def card_table(family: str) -> str:
    """The stored rows of a family of the scorecard as a table: a row for each method, a column for each truth."""
    record, table = families()[family], read_card().only(family).table()
    heads = [f"{each.name} ({each.score})" for each in record.truths]
    lines = [f"| method | {' | '.join(heads)} | seconds |", "|---|" + "--:|" * (len(heads) + 1)]
    for name, own in table.groupby("method", sort=False):
        cells = own.set_index("truth")
        values = [told(cells.loc[each.name]) if each.name in cells.index else "" for each in record.truths]
        title = f"{own['title'].iloc[0]} (baseline)" if name == record.baseline else own["title"].iloc[0]
        lines.append(f"| {title} | {' | '.join(values)} | {own['seconds'].mean():.1f} |")
    return "\n".join(lines)


def carried_table() -> str:
    """The orders of methods on the bases and on SmolLM2 as a table: a row for each truth."""
    rows = orders(carried_order(read_card(), read_card(shipped_rows(SMOLLM2), read_real_plan())))
    lines = [f"| {' | '.join(rows.columns)} |", "|---|---|---|---|" + "--:|" * (len(rows.columns) - 4)]
    for row in rows.assign(tau=[f"{each:.2f}".replace("-", "\u2212") for each in rows["tau"]]).to_numpy():
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def places(document: str) -> list[str]:
    """The words of the tables that a document has."""
    return [match[2] for match in PLACE.finditer(document)]


def markdown(place: str) -> str:
    """The metrics of a place as a table, and what may stand in braces."""
    rows = [row for row in table() if place in row.where]
    texts = (f"{row.name} {row.term.title} {row.term.definition}" for row in rows)
    words = dict.fromkeys(word for text in texts for word in re.findall(r"\{(\w+)\}", text) if word in VOCABULARY)
    notes = [f"`{{{word}}}`: {_values(word)}." for word in words]
    return f"\n{HEAD}{''.join(map(_line, rows))}" + "".join(f"\n{note}\n" for note in notes)


def _line(row: TermRow) -> str:
    about = row.term
    source = f" ({about.source})" if about.source else ""
    definition = f"**{_escape(about.title)}**: {_escape(about.definition)}{_escape(source)}"
    return f"| `{row.name}` | {_escape(about.unit)} | {about.better} | {definition} |\n"


def _values(word: str) -> str:
    values = VOCABULARY[word].items()
    return "; ".join(f"`{value}` {_escape(words.lstrip(',; '))}" if value else "nothing" for value, words in values)


def _escape(text: str) -> str:
    return re.sub(r"([*|\[\]])", r"\\\1", text)


def main() -> None:
    """Write all of them."""
    for path in DOCUMENTS:
        write(path)


def write(path: Path) -> None:
    """Write the tables of one document."""
    path.write_text(written(path.read_text()))


if __name__ == "__main__":
    main()
