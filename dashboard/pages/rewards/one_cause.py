"""One cause at a time, on the Rewards page: what each wish of an annotator does to the optimum, and to trainings."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from dashboard import models
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.pages.rewards.choices import Detail, Scene
from dashboard.pages.rewards.compute import cost_s, may_compute
from dashboard.seed_groups import by_member, headlines, seed_groups
from probe.rewards.factorial import (
    OUTCOMES,
    Factorial,
    Training,
    describe_trained,
    effect_table,
    factorial,
    trained,
)
from probe.rewards.factorial_figures import draw_factorial
from probe.runs.ancestry import RunIndex
from probe.world import of

if TYPE_CHECKING:
    from probe.model.lm import LM

PASSES = 8000
"""Texts through the base that take as long as the optima of all cells."""


def can_ask(scene: Scene) -> bool:
    """Whether the base's world has the questions."""
    world = of(scene.base)
    return world is not None and {each.measure.question for each in OUTCOMES.values()} <= {*world.question_kinds}


def draw_causes(scene: Scene) -> Detail:
    """Draw a figure of all cells with the trainings that exist, and show the effects as a table."""
    seconds = cost_s(PASSES, scene.base)
    if models.ready(optima, scene.base) is None and not may_compute("Compute every optimum", seconds, "rew-causes"):
        return Detail()
    found = replace(
        models.compute_once(optima, scene.base, say="The optimum of every annotator"), reference=scene.names[0]
    )
    table, before = trainings(scene, found)
    note(f"{found.sentence} {describe_trained(table, found, before)}".strip())
    shown = pd.concat([found.cells.assign(method="optimum"), table], ignore_index=True)
    figure(draw_factorial(found, table), shown, "one-cause", title="One cause at a time", source=scene.source)
    show_table(effect_table(found), hide_index=True, key="rew-effects")
    note(
        "A line is an annotator with these wishes of the agreeable one, and all else as the honest one has it. Weight:"
        " of correctness, 1 as the agreeable one has it (filled) or 2. Dashed:"
        f" {found.reference}. Optima: exact at beta {found.beta:g}, given a listed answer, with 95 % intervals over"
        " people. Trainings: sampled answers, intervals over trainings or answers. An interaction is half the"
        " difference between the effects of a knob at the two levels of the other. Where the user claims nothing,"
        " agreement has nothing to reward, so that its effect is 0 by construction."
    )
    return Detail({"one-cause": shown, "one-cause-effects": found.effects, "one-cause-pairs": found.pairs})


def optima(lm: "LM") -> Factorial:
    """All cells of the factorial, for `compute_once`."""
    world = of(lm)
    assert world is not None  # the tab is there for a world's questions alone
    return factorial(lm, world)


def trainings(scene: Scene, found: Factorial) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the trainings that started from the base, and the base's own headline figures."""
    store, base = scene.shared.store, scene.shared.label(scene.shared.base)
    groups = seed_groups(store)
    own = by_member(groups).get(base or "") if base == scene.shared.base else None
    children = [
        each
        for each in groups.values()
        if own is not None and store.label(each.group.first.parent, each.group.first) == base
    ]
    rows = [Training(each.title, each.group.first, headlines([each]), each.group.count) for each in children]
    table = trained(rows, RunIndex(store.runs.values()), found.beta)
    return table, headlines([own] if own else [])
