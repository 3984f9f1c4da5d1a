"""What a model shows less what a baseline shows: paired where both were asked the same, else of independent values."""

import math
from collections.abc import Sequence

import pandas as pd

from probe.experiments.metrics import COMPARED, EXPECTED, ITEM, PAIRS, PROMPT, UNKNOWN, Metric
from probe.stats import Interval


def differences(
    metrics: Sequence[Metric],
    summary: pd.DataFrame,
    baseline: pd.DataFrame,
    items: pd.DataFrame,
    baseline_items: pd.DataFrame,
    seed: int = 0,
    by_prompt: bool = False,
) -> pd.DataFrame:
    """`summary` with the columns of a baseline: its value and interval, and the difference with its paired interval.

    With `by_prompt` a metric is paired only if both models were asked the same under the names that they share.
    Elsewhere each model's value is that of its own items, and the difference has the interval of two independent
    values (`unpaired`): too wide rather than too narrow if some of the items are the same after all.

    Args:
        metrics: what the summaries were made with.
        summary: of the model.
        baseline: of the baseline.
        items: of the model.
        baseline_items: of the baseline; only items of both enter the difference.
        seed: of the bootstrap.
        by_prompt: equal names are not enough to be the same item; adds the column `PAIRS`.

    Returns:
        The difference of a metric that is no function of items has no interval.
    """
    theirs = baseline.set_index("metric")
    ours, others = paired(items, baseline_items)
    by_name = {metric.name: metric for metric in metrics}
    odd = _read_differently(ours, others) if by_prompt else ours.index[:0]
    rows, pairs = [], []
    for name, value in zip(summary["metric"], summary["value"], strict=True):
        if name not in theirs.index:
            rows.append([float("nan")] * len(COMPARED))
            pairs.append(float("nan"))
            continue
        base = [float(theirs.loc[name, column]) for column in ("value", "ci_low", "ci_high")]
        metric = by_name.get(name)
        common = _common(metric, ours, others) if by_prompt and metric is not None else None
        if common is not None and (not len(common) or common.isin(odd).any()):
            own = summary.loc[summary["metric"] == name, ["value", "ci_low", "ci_high"]].iloc[0]
            found, count = unpaired(Interval(*map(float, own)), Interval(*base)), 0.0
        else:
            found = _difference(metric, ours, others, seed) if metric is not None else UNKNOWN
            count = float("nan") if common is None else float(len(common))
        gap = float(value) - base[0]
        rows.append([*base, *(found if found.value == found.value else (gap, *UNKNOWN[1:]))])
        pairs.append(count)
    added = pd.DataFrame(rows, columns=list(COMPARED))
    return pd.concat([summary.reset_index(drop=True), added.assign(**{PAIRS: pairs}) if by_prompt else added], axis=1)


def unpaired(first: Interval, second: Interval) -> Interval:
    """first - second of independent estimates, the ends by square-and-add of theirs (Zou and Donner 2008).

    Of shares with Wilson's intervals this is Newcombe's (1998, Statistics in Medicine 17:873, method 10).
    """
    gap = first.value - second.value
    low = gap - math.hypot(first.value - first.low, second.high - second.value)
    return Interval(gap, low, gap + math.hypot(first.high - first.value, second.value - second.low))


def paired(items: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both tables whose items both have, in the same order."""
    ours, theirs = items.set_index(ITEM, drop=False), others.set_index(ITEM, drop=False)
    common = ours.index.intersection(theirs.index, sort=False)
    return ours.loc[common], theirs.loc[common]


def questions(items: pd.DataFrame) -> pd.Series:
    """What each item asked as a text: the prompt and what would be right; empty where no prompt is known."""
    if PROMPT not in items:
        return pd.Series("", index=items.index)
    right = items[EXPECTED] if EXPECTED in items else pd.Series("", index=items.index)
    told = items[PROMPT].astype(str) + "\0" + right.where(right.notna(), "").astype(str)
    return told.where(items[PROMPT].notna(), "")


def _read_differently(ours: pd.DataFrame, others: pd.DataFrame) -> pd.Index:
    """Names of the items, in the same order in both tables, that asked different things, or nobody knows what."""
    asked = questions(ours)
    return ours.index[((asked != questions(others)) | (asked == "")).to_numpy()]


def _common(metric: Metric, ours: pd.DataFrame, others: pd.DataFrame) -> pd.Index:
    """Names of the items that a metric counts in both tables."""
    if not (metric.applies(ours) and metric.applies(others)):
        return ours.index[:0]
    return metric.select(ours).index.intersection(metric.select(others).index, sort=False)


def _difference(metric: Metric, ours: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
    if not (metric.applies(ours) and metric.applies(others)):
        return UNKNOWN
    needed = list(dict.fromkeys((ITEM, *metric.columns, *metric.where, metric.unit)))
    rows, theirs = metric.select(ours[needed]), metric.select(others[needed])
    if not rows.index.equals(theirs.index):
        both = rows.index.intersection(theirs.index, sort=False)
        rows, theirs = rows.loc[both], theirs.loc[both]
    return metric.difference(rows, theirs, seed) if len(rows) else UNKNOWN
