"""What a file of classified texts shows, as items and tables: few-shot prompts, and the vector of the examples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe import stats
from probe.errors import DataError, ModelError
from probe.in_context.few_shot import Example
from probe.in_context.text_vectors import TextVectorSizes, function_vectors_text
from probe.in_context.world import average_by, label_items, label_table
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.model.lm import LM

TEXTS = 40
"""Texts for function vectors, at most."""
SHOTS = 8
"""Examples at most in the prompts that they come from."""


def vector_parts(
    lm: "LM", examples: Sequence[Example], n: int, shots: int, template: str, seed: int, tick: Tick
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], dict[str, Any]]:
    """Items, tables and facts of the function vectors where they can be had.

    Args:
        lm: the model.
        examples: of the file.
        n: queries at most.
        shots: examples at most in the prompts that they come from.
        template: how an example is written; prompts are plain ones.
        seed: of all choices.
        tick: progress.
    """
    if not has_heads(lm) or shots < 1:
        return [], {}, {}
    sizes = TextVectorSizes(n=min(n, TEXTS), shots=min(SHOTS, shots))
    try:
        vectors = function_vectors_text(lm, examples, sizes, template, seed, tick)
    except DataError as error:  # too few texts, or no room for an example
        return [], {}, {"no_function_vector": str(error)}
    names = [f"vector-{number}" for number in vectors.items["question"]]
    items = vectors.items.assign(item=names, kind="vector").drop(columns="question")
    return [items], {"text_vectors": vectors.blocks}, {"function_vector_shots": vectors.shots}


def has_heads(lm: "LM") -> bool:
    """Whether attention can be looked at: recurrent models have none, some architectures cannot be hooked."""
    try:
        return "blocks.0.attn.hook_pattern" in lm.bridge.hook_dict
    except ModelError:
        return False


def shot_parts(curve: pd.DataFrame, labels: pd.DataFrame) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame]]:
    """Items and tables of few-shot prompts, from what `few_shot_curve` gives."""
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
