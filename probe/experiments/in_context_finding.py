"""The sentence that the experiment `in_context` finds."""

import pandas as pd

from probe import stats
from probe.analyses.pool_sizes import in_words, joined_curve, leanings
from probe.experiments.result import MODEL, Result
from probe.plots.intervals import percent


def say(result: Result) -> str:
    """What the examples do to each model: in maps or few-shot prompts, else in chains, else in repeats.

    Of models with pools of different sizes, which Bayes predictor each is nearer to.
    """
    parts, pools = [], joined_curve(result)
    if pools is not None:
        parts.append(in_words(pools, leanings(result.items, pools)))
    for label in result.models:
        if pools is not None and label in set(pools[MODEL]):
            continue
        items = result.items[result.items[MODEL] == label]
        parts.append(_few_shot(label, items) or _pairs(label, items) or _chains(label, items) or _repeats(label, items))
    return "; ".join(parts) + "."


def _mean(items: pd.DataFrame, column: str) -> stats.Interval | None:
    values = items[column].dropna() if column in items else ()
    bounds = stats.SHARE if "accuracy" in column else None
    return stats.bootstrap_mean(values, bounds=bounds) if len(values) > 1 else None


def _pairs(label: str, items: pd.DataFrame) -> str:
    for kind, words in (("map", "the label of a map"), ("function", "the value of a function of its pool")):
        found, best = _mean(items, f"{kind}_accuracy"), _mean(items, f"{kind}_accuracy_bayes")
        if found is None or best is None:
            continue
        k = int(items.loc[items["kind"] == kind, "examples"].max())
        said = f"after {k} examples {label} gives {words} with probability {percent(*found)}"
        said += f" (Bayes {100 * best.value:.0f} %"
        counting = _mean(items, f"{kind}_accuracy_counting")
        said += f", counting labels {100 * counting.value:.0f} %)" if counting is not None else ")"
        random = _random_labels(items)
        said += f", with random labels {random}" if random else ""
        return said
    return ""


def _random_labels(items: pd.DataFrame) -> str:
    right = items.loc[items["labels"] == "random", "right"] if "labels" in items else pd.Series(dtype=float)
    return percent(*stats.wilson(int(right.sum()), len(right))) if len(right) else ""


def _chains(label: str, items: pd.DataFrame) -> str:
    found, counting = _mean(items, "chain_kl_bayes"), _mean(items, "counting")
    if found is None or counting is None:
        return ""
    return (
        f"{label} predicts Markov chains {found.shown(3, 'nats')} from Bayes' rule,"
        f" where counting states would be {counting.value:.3f} away"
    )


def _few_shot(label: str, items: pd.DataFrame) -> str:
    rows = items[items["kind"] == "few_shot"]
    if not len(rows):
        return ""
    most = int(rows["examples"].max())
    told = []
    for k in sorted({0, most}):
        right = rows[rows["examples"] == k]["right"]
        told.append(f"{percent(*stats.wilson(int(right.sum()), len(right)))} with {k} examples")
    random = _random_labels(items)
    told += [f"{random} if their labels are random"] if random else []
    said = f"{label} classifies {', '.join(told)}"
    if "vector_gain" in items and items["vector_gain"].notna().any():
        own, shuffled = (items[column].mean() for column in ("vector_gain", "vector_gain_shuffled"))
        said += f"; the vector of the examples adds {own:.2f} to the true label's probability without any"
        said += f", that of permuted labels {shuffled:.2f}"
    return said


def _repeats(label: str, items: pd.DataFrame) -> str:
    found = _mean(items, "olsson_repeat")
    if found is None:
        return f"{label} was asked nothing that its context could teach"
    gain = stats.Interval(-found.value, -found.high, -found.low).shown(2, "nats")
    return f"{label} loses {gain} less on random tokens that are written again"
