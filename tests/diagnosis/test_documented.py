"""The document lists every fault as it is declared."""

from probe.diagnosis import faults
from probe.diagnosis.fault_record import Fault
from tests.places import ROOT

ROWS = (ROOT / "docs" / "diagnosis.md").read_text().splitlines()


def row(fault: Fault) -> str:
    """A fault as a row of the table."""
    needs = "; ".join(f"`{need}`".replace(" or ", "` or `").replace("`a second ", "a second `") for need in fault.needs)
    cells = (f"**{fault.title}**", f"`{fault.name}`", fault.about, ", ".join(fault.methods) or "all", needs)
    return f"| {' | '.join(cells)} |"


def test_the_document_has_a_row_for_each_fault():
    rows = [row(each) for each in faults().values()]
    assert [line for line in ROWS if line.startswith("| **")] == rows
