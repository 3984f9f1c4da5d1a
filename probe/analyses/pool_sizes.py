"""One curve from models that were trained on pools of different sizes: does in-context learning generalise with the
pool?

Raventos et al. (2023, 2306.15063) train one model for each number of tasks: with few it answers like the Bayes
predictor over its pool, with many like the one over all tasks, also on tasks that it has never seen. A model has one
pool, so the curve takes several runs (docs/experiments.md has the commands), each with a world of its own.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from probe.errors import DataError

if TYPE_CHECKING:
    from probe.experiments.result import Result


def pool_curve(results: "Sequence[Result]") -> pd.DataFrame:
    """The tables `pool` of several results of the experiment `in_context` as one, by size of the pool.

    Args:
        results: of models whose worlds have functions with one modulus.

    Returns:
        One row a model, kind and predictor: model, pool_size, modulus, tasks, kind (function: of the pool;
        function_new), predictor (pool or all), value (KL(Bayes || model), nats), ci_low, ci_high, n; smaller pools
        first.

    Raises:
        DataError: a result has no functions, or the moduli differ.
    """
    for result in results:
        if "pool" not in result.tables:
            raise DataError(
                f"The result of {', '.join(result.models)} has no functions: train on a world with"
                " --world.mixture.function above 0 and run in_context on that."
            )
    if not results:
        raise DataError("No result was given, so there is no curve: give those of models with different pools.")
    table = pd.concat([result.tables["pool"] for result in results], ignore_index=True)
    if table["modulus"].nunique() > 1:
        moduli = ", ".join(str(p) for p in sorted(table["modulus"].unique()))
        raise DataError(f"The functions have the moduli {moduli}: give models whose worlds differ in the pool alone.")
    return table.sort_values(["pool_size", "kind", "predictor"], kind="stable", ignore_index=True)
