"""Form in which the prompts of a data file were sent, and the effect of the form alone.

With a chat template, each question has two forms: as a user's message in the template, and plain. The form can matter
as much as the model. So an experiment over a file that takes a `form` asks some of its questions again in the other
form: the table `forms` has every metric in both forms, on the same rows of the file, and the difference with its paired
interval.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from probe.errors import ProbeError
from probe.experiments.metrics import ITEM, differences, summarise
from probe.model.dialogues import Form, uses_chat
from probe.numbers import in_unit
from probe.terms import DIFFERENCE, RATES, Term
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.experiments.definition import Experiment
    from probe.experiments.metrics import Metric
    from probe.experiments.result import Evidence, Result
    from probe.model.lm import LM

QUESTIONS = 40
"""Largest number of questions that are asked again."""
FORMS = "forms"
"""Table of the forms: metric, value, ci_low, ci_high, n of the form that was sent; `other` with its interval, the
difference.
"""
NOT_ASKED = "left out: it was not asked; measure again to ask it"
"""Note on the other form, recorded if it was not measured."""
NAMED = 2
"""Largest number of metrics that the sentence names, those that the form changes first."""
SIDES = {
    "value": "baseline",
    "ci_low": "baseline_low",
    "ci_high": "baseline_high",
    "other": "value",
    "other_low": "ci_low",
    "other_high": "ci_high",
    "difference": "difference",
    "difference_low": "difference_low",
    "difference_high": "difference_high",
}
"""Columns of the table, and those of a comparison whose baseline is the form that was sent."""


def compare_forms(
    experiment: "Experiment",
    lm: "LM",
    arguments: Mapping[str, Any],
    sent: "Evidence",
    ask: Callable[[Mapping[str, Any], Tick], "Evidence"],
    tick: Tick,
    metrics_of: "Callable[[Experiment, pd.DataFrame], tuple[Metric, ...]]",
    n: int,
) -> "Evidence":
    """Return the evidence with the fact `form`, and with the table `forms` if the model has two forms.

    Args:
        experiment: experiment whose function takes a `form` (`probe.model.dialogues.Form`); the evidence of any other
            is unchanged.
        lm: the model.
        arguments: arguments of the function.
        sent: evidence in the form that was sent.
        ask: function that returns the evidence for other arguments.
        tick: function called with the share of the repeated questions that is done.
        metrics_of: function that returns the metrics of an experiment for a table of items.
        n: number of questions asked again: `count_again`, or none.
    """
    if arguments.get("form") not in get_args(Form) or arguments.get("data") is None:
        return sent
    form = "chat" if uses_chat(lm, arguments["form"]) else "plain"
    facts = {**sent.facts, "form": form}
    if not n:
        spared = {"other_form": NOT_ASKED} if count_again(lm, arguments) else {}
        return replace(sent, facts=facts | spared)
    other = "plain" if form == "chat" else "chat"
    few = {"form": other, "n": n}
    try:
        again = ask({**arguments, **experiment.light, **few}, tick)
    except ProbeError as error:  # such as a text that no longer fits the context
        return replace(sent, facts={**facts, "other_form": f"left out: {error}"})
    mine, others = _by_row(sent.items), _by_row(again.items)
    shared = set(mine[ITEM]) & set(others[ITEM])
    mine, others = mine[mine[ITEM].isin(shared)], others[others[ITEM].isin(shared)]
    if not shared:
        return replace(sent, facts=facts)
    seed = int(arguments.get("seed") or 0)
    metrics = metrics_of(experiment, pd.concat([mine, others]))
    before, after = (summarise(metrics, items, (), seed) for items in (mine, others))
    table = differences(metrics, after, before, others, mine, seed)
    table = table[table["baseline"].notna() & table["value"].notna()]
    named = {name: table[column] for name, column in SIDES.items()}
    forms = pd.DataFrame({"metric": table["metric"], **named, "n": table["n"]})
    return replace(sent, facts={**facts, "other_form": other}, tables={**sent.tables, FORMS: forms})


def count_again(lm: "LM", arguments: Mapping[str, Any]) -> int:
    """Return the number of questions asked again in the other form; 0 if model or experiment has only one form."""
    both = arguments.get("form") in get_args(Form) and lm.tokenizer.chat_template is not None
    n = arguments.get("n")
    return min(n, QUESTIONS) if both and arguments.get("data") is not None and isinstance(n, int) else 0


def _by_row(items: pd.DataFrame) -> pd.DataFrame:
    """Return the items that belong to a row of the file, named after the row.

    The name does not depend on the number of rows.
    """
    if "row" not in items:
        return items.iloc[:0].assign(**{ITEM: ""})
    items = items[items["row"].notna()]
    names = items["row"].astype(str)
    names = names + " " + items["kind"].astype(str) if "kind" in items else names
    return items.assign(**{ITEM: names + " " + names.groupby(names).cumcount().astype(str)})


def form_notes(result: "Result", experiment: "Experiment | None") -> list[str]:
    """Return a sentence for each model: the form that was sent, and the effect of the other form."""
    notes = []
    table = result.tables.get(FORMS, pd.DataFrame())
    for model in result.meta.get("models", ()):
        facts = model.get("facts") or {}
        if "form" not in facts:
            continue
        note, other = f"{model['label']} was asked in the {facts['form']} form", str(facts.get("other_form", ""))
        rows = table[table["model"] == model["label"]] if len(table) else table
        if other.startswith("left out"):
            note += f"; the other form is {other}"
        elif len(rows):
            different = rows[rows["value"] != rows["other"]]
            leading = (different if len(different) else rows).head(NAMED)
            changes = [_change(row, experiment) for row in leading.to_dict("records")]
            note += f". In the {other} form, asked of {int(rows['n'].max())} items: {'; '.join(changes)}"
        notes.append(f"{note.removesuffix('.')}.")
    return notes


def _change(row: Mapping[Any, Any], experiment: "Experiment | None") -> str:
    term = experiment.term(row["metric"]) if experiment else Term(row["metric"])
    value, other = (in_unit(term.unit, row[name], float("nan"), float("nan")) for name in ("value", "other"))
    unit = DIFFERENCE if term.unit in RATES else term.unit
    gap = in_unit(unit, row["difference"], row["difference_low"], row["difference_high"], sign=True)
    return f"{term.title} {other} instead of {value} ({gap})"
