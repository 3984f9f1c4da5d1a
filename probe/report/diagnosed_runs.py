"""Diagnoses of runs as one HTML file: sentences, curves with the step at which a fault began, remedies."""

from collections.abc import Sequence

from probe.diagnosis.diagnosed import Diagnosis
from probe.report.document import HtmlReport, today


def write_diagnoses(found: Sequence[Diagnosis]) -> str:
    """Return the text of an HTML file with a section for each diagnosis."""
    names = ", ".join(one.name for one in found)
    document = HtmlReport(f"Diagnosis of {names}", {"runs": names, "date": today()})
    if len(found) > 1:
        document.section("Runs", page=False)
        document.answers([(one.name, one.sentence().removeprefix(f"{one.name}: ")) for one in found])
    for index, one in enumerate(found):
        document.section(one.name, page=index > 0 or len(found) > 1)
        document.say(f"Method {one.reading.method}, {one.reading.last_step:,} steps.")
        if len(found) == 1 or not one.findings:
            document.say(one.sentence())
        figures = one.figures()
        for each in one.findings:
            document.heading(f"{each.fault.title}, from step {each.sign.step:,}")
            document.say(each.sign.sentence)
            document.say(f"What to try: {each.fault.remedy}")
            if each.fault.name in figures:
                document.figure(figures[each.fault.name], f"{one.name}: {each.fault.title}")
        if one.clear:
            document.heading("Looked for and not found")
            document.table(("fault", "what is looked for"), [(each.title, each.about) for each in one.clear])
        if one.unseen:
            document.heading("Could not be seen")
            document.table(("fault", "what the run lacks"), [(each.fault.title, each.text) for each in one.unseen])
    return document.html()
