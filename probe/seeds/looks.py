"""Colours and dashes of runs, the same in every figure: seeds of one training share a colour."""

from collections.abc import Mapping, Sequence

from probe.plotting.curves import DASHES, Style, styles
from probe.plotting.theme import method_colour
from probe.runs.reader import Run
from probe.seeds.grouping import Group


def style_runs(runs: Mapping[str, Run], found: Sequence[Group]) -> dict[str, Style]:
    """Return the colour and dash of every run by name.

    Args:
        runs: runs by name.
        found: the same runs, grouped by recipe.
    """
    labels = {str(run.path): label for label, run in runs.items()}
    members = {labels[str(each.first.path)]: [labels[str(run.path)] for run in each.runs] for each in found}
    look = styles({label: runs[label].method for label in members})
    for first, others in members.items():
        start = DASHES.index(look[first].dash)
        for index, label in enumerate(others[1:], start=1):
            look[label] = Style(look[first].colour, DASHES[(start + index) % len(DASHES)])
    copies = {label: Style(method_colour(run.method)) for label, run in runs.items() if label not in look}
    return look | copies
