"""The results that come with the sample runs say what their items say: a metric that changes its meaning is seen."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe import Result
from probe.experiments.metrics import summarise
from probe.experiments.registry import find_experiment
from tests.places import SAMPLES

FILES = [file for file in sorted(SAMPLES.glob("*/results/*-*/result.json")) if file.parents[2].name[-6:-1] != "-seed"]
SLIM = sorted(SAMPLES.glob("*-seed1/results/*-*/result.json"))
"""Of one of the seeds that are shipped without weights, whose items have six digits."""


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES + SLIM, ids=lambda file: f"{file.parents[2].name}-{file.parent.name}")
def test_a_summary_is_that_of_its_items(file: Path) -> None:
    """Values and ends of intervals to 1e-6 (slim: 1e-4): the same resamples, and processors round differently.

    Rows that an experiment measures beside its items (phases of the training of `icl`) stand in the tables.
    """
    result = Result.load(file.parent)
    stored = result.summary.set_index("metric")
    found = summarise(find_experiment(result.name).metrics, result.items, seed=result.meta["seed"]).set_index("metric")
    assert len(found)
    assert set(found.index) <= set(stored.index)
    stored = stored.loc[found.index]
    assert found["n"].tolist() == stored["n"].tolist()
    near = 1e-4 if file in SLIM else 1e-6
    for column in ("value", "ci_low", "ci_high"):
        np.testing.assert_allclose(found[column], stored[column].astype(float), rtol=0, atol=near, err_msg=column)
    for name, table in counted(result).items():
        expected = result.tables[name][list(table.columns)]
        for column in table.select_dtypes("number"):
            np.testing.assert_allclose(table[column], expected[column], rtol=0, atol=near, err_msg=f"{name} {column}")


def counted(result: Result) -> dict[str, pd.DataFrame]:
    """The tables that the experiment counts from the items, people and all."""
    count = find_experiment(result.name).count
    return count(result.items) if count is not None else {}


def test_every_experiment_has_one() -> None:
    names = {json.loads(file.read_text())["name"] for file in FILES}
    assert names >= {"chain_of_thought", "continual", "hallucination", "in_context", "retrieval", "sycophancy"}
