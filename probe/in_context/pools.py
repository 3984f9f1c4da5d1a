"""Does in-context learning generalise with the task pool? One curve over models trained on pools of different sizes.

Raventos et al. (2023, 2306.15063) train one model for each number of tasks: with few tasks it answers like the Bayes
predictor over its pool, with many like the one over all tasks, even on tasks that it has never seen. A model has one
pool, so the curve takes several runs (docs/in_context.md has the commands), each with its own world. The experiment
`in_context` draws the curve of a result that holds these runs (`joined_curve`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from probe import stats
from probe.errors import DataError

if TYPE_CHECKING:
    from probe.experiments.result import Result


def pool_curve(results: "Sequence[Result]") -> pd.DataFrame:
    """Join the tables `pool` of several results of the experiment `in_context`, ordered by pool size.

    Args:
        results: results of models whose worlds have functions with one modulus.

    Returns:
        One row per model, kind and predictor: model, pool_size, modulus, tasks, kind (function: in the pool;
        function_new: outside it), predictor (pool or all), value (KL(Bayes || model), nats), ci_low, ci_high, n;
        smaller pools first.

    Raises:
        DataError: a result has no functions, or the moduli differ.
    """
    for result in results:
        if "pool" not in result.tables:
            raise DataError(
                f"The result of {', '.join(result.models)} has no functions: train a model on a world with"
                " --world.mixture.function above 0 and run in_context on it."
            )
    if not results:
        raise DataError("No result was given, so there is no curve: give those of models with different pools.")
    table = pd.concat([result.tables["pool"] for result in results], ignore_index=True)
    if table["modulus"].nunique() > 1:
        moduli = ", ".join(str(p) for p in sorted(table["modulus"].unique()))
        raise DataError(f"The functions have the moduli {moduli}: give models whose worlds differ only in the pool.")
    return table.sort_values(["pool_size", "kind", "predictor"], kind="stable", ignore_index=True)


def joined_curve(result: "Result") -> pd.DataFrame | None:
    """Return the curve over pool sizes of a result's models with one modulus and one document length.

    Args:
        result: result of the experiment `in_context`, with any number of models.

    Returns:
        The table of `pool_curve`, or None if there are fewer than two pool sizes. If several moduli or lengths have a
        curve, the one with the most pool sizes.
    """
    if "pool" not in result.tables:
        return None
    table = result.tables["pool"]
    functions = result.items[result.items["kind"] == "function"]
    most = table["model"].map(functions.groupby("model")["examples"].max())
    curves = [rows for _, rows in table.groupby([table["modulus"], most])]
    curve = max(curves, key=lambda rows: rows["pool_size"].nunique())
    if curve["pool_size"].nunique() < 2:
        return None
    return curve.sort_values(["pool_size", "kind", "predictor"], kind="stable", ignore_index=True)


def leanings(items: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """Measure how much closer each model of a curve is to Bayes over its pool than to Bayes over all tasks.

    Both distances concern the same answers, so their difference is taken document by document.

    Args:
        items: items of a result: model, kind, sequence (the document), kl_pool, kl_all.
        curve: result of `joined_curve`.

    Returns:
        One row per model and kind: model, pool_size, kind, value (KL(all || model) - KL(pool || model) in nats, mean
        over documents of the mean over numbers of examples: above 0 is closer to the pool), ci_low, ci_high (bootstrap
        over documents), n.
    """
    rows = []
    for (size, model, kind), _ in curve.groupby(["pool_size", "model", "kind"]):
        group = items[(items["model"] == model) & (items["kind"] == kind)]
        gaps = (group["kl_all"] - group["kl_pool"]).groupby(group["sequence"]).mean()
        rows.append({"model": model, "pool_size": size, "kind": kind, **stats.bootstrap_mean(gaps).row(len(gaps))})
    return pd.DataFrame(rows)


def in_words(curve: pd.DataFrame, found: pd.DataFrame) -> str:
    """Describe which Bayes predictor each model of a curve is closer to, and how far the models are from generalising.

    Args:
        curve: result of `joined_curve`.
        found: its `leanings`; if an interval includes 0, the model is closer to neither.
    """
    tasks, parts = int(curve["tasks"].iloc[0]), []
    for kind, words in (("function", "functions of the pool"), ("function_new", "other functions")):
        rows = found[found["kind"] == kind]
        sides = {
            "nearer to Bayes over the pool": rows[rows["ci_low"] > 0],
            f"nearer to Bayes over all {tasks}": rows[rows["ci_high"] < 0],
            "nearer to neither": rows[~((rows["ci_low"] > 0) | (rows["ci_high"] < 0))],
        }
        clauses = [f"with {_list_models(side)} are {what}{_by(side)}" for what, side in sides.items() if len(side)]
        parts += [f"on {words} models {', '.join(clauses)}"] if clauses else []
    far = curve[(curve["kind"] == "function_new") & (curve["predictor"] == "all")]
    if len(far):
        ends = [f"{_number(row)} with {row['pool_size']}" for _, row in far.iloc[[0, -1]].iterrows()]
        parts.append(f"on these, KL to Bayes over all goes from {ends[0]} to {ends[1]}")
    return "; ".join(parts)


def _list_models(rows: pd.DataFrame) -> str:
    names = [str(size) for size in dict.fromkeys(rows["pool_size"])]
    return f"a pool of {names[0]}" if len(names) == 1 else f"pools of {', '.join(names[:-1])} and {names[-1]}"


def _by(rows: pd.DataFrame) -> str:
    """Return the absolute differences of the smallest and the largest pool; empty if all intervals include 0."""
    if not ((rows["ci_low"] > 0) | (rows["ci_high"] < 0)).any():
        return ""
    ends = rows.iloc[[0, -1] if len(rows) > 1 else [0]]
    opposite = ends.assign(value=-ends["value"], ci_low=-ends["ci_high"], ci_high=-ends["ci_low"])
    gaps = ends if (ends["ci_low"] > 0).all() else opposite
    return f" (by {' to '.join(_number(row) for _, row in gaps.iterrows())})"


def _number(row: pd.Series) -> str:
    return stats.Interval(row["value"], row["ci_low"], row["ci_high"]).format(2, "nats")
