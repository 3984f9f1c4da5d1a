"""Items and tables of a file of classified texts: few-shot prompts and function vectors."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe import stats
from probe.errors import DataError, ModelError
from probe.in_context.few_shot import LabelledText
from probe.in_context.text_vectors import TextVectorSizes, function_vectors_text
from probe.in_context.world import average_by, label_items, label_table
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.model.lm import LM

TEXTS = 40
"""Maximum number of texts for function vectors."""
SHOTS = 8
"""Maximum number of examples in the prompts from which function vectors are read."""


def vector_parts(
    lm: "LM", examples: Sequence[LabelledText], n: int, shots: int, template: str, seed: int, tick: Tick
) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame], dict[str, Any]]:
    """Return items, tables and facts of the function vectors, if possible.

    Args:
        lm: the model.
        examples: labelled texts of the file.
        n: maximum number of queries.
        shots: maximum number of examples in the prompts that the vectors are read from.
        template: format of an example; prompts are plain ones.
        seed: random seed of all choices.
        tick: progress.
    """
    if not has_heads(lm) or shots < 1:
        return [], {}, {}
    sizes = TextVectorSizes(n=min(n, TEXTS), shots=min(SHOTS, shots))
    try:
        vectors = function_vectors_text(lm, examples, sizes, template, seed, tick)
    except DataError as error:  # there are too few texts, or there is no room for an example
        return [], {}, {"no_function_vector": str(error)}
    names = [f"vector-{number}" for number in vectors.items["question"]]
    items = vectors.items.assign(item=names, kind="vector").drop(columns="question")
    return [items], {"text_vectors": vectors.blocks}, {"function_vector_shots": vectors.shots}


def has_heads(lm: "LM") -> bool:
    """Return whether attention can be read: recurrent models have none, some architectures cannot be hooked."""
    try:
        return "blocks.0.attn.hook_pattern" in lm.bridge.hook_dict
    except ModelError:
        return False


def shot_parts(curve: pd.DataFrame, labels: pd.DataFrame) -> tuple[list[pd.DataFrame], dict[str, pd.DataFrame]]:
    """Return items and tables of few-shot prompts, from the results of `few_shot_curve`."""
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
