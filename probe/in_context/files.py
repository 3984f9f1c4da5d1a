"""Items and tables of a file of classified texts: few-shot prompts and function vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe import stats
from probe.dialogues import Form
from probe.errors import DataError, ModelError
from probe.in_context.few_shot import Example, few_shot_curve
from probe.in_context.text_vectors import function_vectors_text
from probe.in_context.world import average_by, label_items, label_table
from probe.ticks import Tick, part

if TYPE_CHECKING:
    from probe.model.lm import LM

TEXTS = 40
"""Maximum number of texts for function vectors."""
SHOTS = 8
"""Maximum number of examples in the prompts from which function vectors are read."""


def file_parts(
    lm: "LM",
    examples: Sequence[Example],
    n: int,
    shots: tuple[int, ...],
    template: str,
    form: Form,
    seed: int,
    tick: Tick,
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], dict[str, Any]]:
    """Return items, tables and facts: accuracy by number of shots, label ablations, function vectors if possible.

    Args:
        lm: the model.
        examples: labelled texts of the file.
        n: maximum number of queries.
        shots: numbers of examples.
        template: format of an example.
        form: form of few-shot prompts; the vectors are read from plain ones.
        seed: random seed of all choices.
        tick: progress.
    """
    curve, labels = few_shot_curve(lm, examples, n, shots, template, seed, form, part(tick, 0, 2))
    items, tables = _few_shot(curve, labels)
    facts: dict[str, Any] = {}
    if has_heads(lm) and max(shots) > 0:
        try:
            most = min(SHOTS, max(shots))
            vectors = function_vectors_text(
                lm, examples, min(n, TEXTS), shots=most, template=template, seed=seed, tick=part(tick, 1, 2)
            )
        except DataError as error:  # there are too few texts, or there is no room for an example
            facts["no_function_vector"] = str(error)
        else:
            names = [f"vector-{number}" for number in vectors.items["question"]]
            items.append(vectors.items.assign(item=names, kind="vector").drop(columns="question"))
            tables["text_vectors"], facts["function_vector_shots"] = vectors.blocks, vectors.shots
    return items, tables, facts


def shot_parts(
    lm: "LM",
    examples: Sequence[Example],
    n: int,
    shots: tuple[int, ...],
    template: str,
    form: Form,
    seed: int,
    tick: Tick,
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return items and tables of the accuracy by number of shots only; see `file_parts`."""
    items, tables = _few_shot(*few_shot_curve(lm, examples, n, shots, template, seed, form, tick))
    return pd.concat(items, ignore_index=True), tables


def has_heads(lm: "LM") -> bool:
    """Return whether attention can be read: recurrent models have none, some architectures cannot be hooked."""
    try:
        return "blocks.0.attn.hook_pattern" in lm.bridge.hook_dict
    except ModelError:
        return False


def _few_shot(curve: pd.DataFrame, labels: pd.DataFrame) -> tuple[list[pd.DataFrame], dict[str, Any]]:
    """Return items and tables of few-shot prompts."""
    names = [f"few_shot-{number}-{k}" for number, k in zip(curve["question"], curve["examples"], strict=True)]
    curve = curve.assign(item=names, kind="few_shot")
    curve["most_right"] = curve["right"].where(curve["examples"] == curve["examples"].max())
    table = average_by(curve, ["examples"], "right").rename(columns={"value": "accuracy"})
    for at, (_, rows) in enumerate(curve.groupby("examples")):
        interval = stats.wilson(int(rows["right"].sum()), len(rows))
        table.loc[at, ["ci_low", "ci_high"]] = interval.low, interval.high
    losses = average_by(curve, ["examples"], "loss")
    table = table.assign(loss=losses["value"], loss_low=losses["ci_low"], loss_high=losses["ci_high"])
    table["chance"] = 1 / curve["expected"].nunique()
    items, tables = [curve.drop(columns="question")], {"few_shot": table}
    if len(labels):
        items.append(label_items(labels))
        tables["labels"] = label_table(labels)
    return items, tables
