"""ACC, BWT, FWT and forgetting as means over items, so that models and strategies can be compared item by item."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from probe.analyses.phase_plan import Measured

Array = NDArray[np.float64]
OLD = "old"


def contributions(scores: Sequence[Array], old: Array | None = None) -> list[dict[str, Float[Array, " N"]]]:
    """What each item adds to ACC, BWT, FWT and forgetting: the mean over the items asked is the measure itself.

    The row at which a task was best is taken from the means, so that forgetting is a mean too. Tasks of unequal sizes
    are weighed, so that each counts alike. Where a measure does not ask a task, its items have none.

    Args:
        scores: of the tasks of the phases, [rows, items] each (`probe.analyses.continual`).
        old: the same of what the base knew; its columns are `old_accuracy` and `old_forgetting`.
    """
    T = len(scores)
    sizes = [task.shape[1] for task in scores]

    def weight(j: int, among: range) -> float:
        return sum(sizes[i] for i in among) / (len(among) * sizes[j])

    found = []
    for j, task in enumerate(scores):
        columns = {"ACC": weight(j, range(T)) * task[-1]}
        if j < T - 1:
            best = int(task[:-1].mean(1).argmax())
            columns["BWT"] = weight(j, range(T - 1)) * (task[-1] - task[j + 1])
            columns["forgetting"] = weight(j, range(T - 1)) * (task[best] - task[-1])
        if j > 0:
            columns["FWT"] = weight(j, range(1, T)) * (task[j] - task[0])
        found.append(columns)
    if old is not None:
        best = int(old[:-1].mean(1).argmax())
        found.append({"old_accuracy": old[-1], "old_forgetting": old[best] - old[-1]})
    return found


def items_of(measured: Measured) -> pd.DataFrame:
    """One row an item and strategy: `after_0`, ..., what it adds to each measure, and what its strategy saved of it.

    `answer` is the likeliest one after all phases and `answer_probability` what that model gave to it.
    `forgetting_saved` and `old_forgetting_saved` are the item's forgetting under plain training less that under its own
    strategy, if plain training is among them.
    """
    rows: list[dict[str, Any]] = []
    known = measured.tasks[-1] == OLD
    for strategy, scores in measured.scores.items():
        added = contributions(scores[:-1], scores[-1]) if known else contributions(scores)
        for j, (name, task, columns) in enumerate(zip(measured.tasks, scores, added, strict=True)):
            nothing = [("", float("nan"))] * task.shape[1]
            answers = measured.answers[strategy][j] if strategy in measured.answers else nothing
            for i, ((prompt, expected), (answer, likely)) in enumerate(zip(measured.texts[j], answers, strict=True)):
                row: dict[str, Any] = {
                    "item": f"{strategy}-{name}-{i}",
                    "kind": name,
                    "strategy": strategy,
                    "prompt": prompt,
                }
                row |= {"answer": answer, "expected": expected, "answer_probability": likely}
                row |= {f"after_{phase}": float(value) for phase, value in enumerate(task[:, i])}
                rows.append(row | {column: float(values[i]) for column, values in columns.items()})
    items = pd.DataFrame(rows)
    plain = items[items["strategy"] == "plain"]
    for strategy in set(measured.scores) - {"plain"} if len(plain) else ():
        here = items["strategy"] == strategy
        for column in {"forgetting", "old_forgetting"} & set(items):
            items.loc[here, f"{column}_saved"] = plain[column].to_numpy() - items.loc[here, column].to_numpy()
    return items
