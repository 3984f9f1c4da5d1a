"""Features of a model against the variables of its world: best-match F1, beside a random autoencoder.

Variables are read at the last token of 600 questions about known people and 300 about unseen ones: whether the person
is unseen, which relation is asked for, and which value is the answer. The random autoencoder has as many directions,
drawn at random, with the threshold that makes as many of them active. A constant feature is active everywhere.

    python -m benchmarks feature_variables      # fits features of the sample base after block 1, and scores them
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

import probe.world
from benchmarks.harness import Row
from probe import LM
from probe.features.autoencoder import Autoencoder
from probe.features.fitted_features import fit_features
from probe.features.variables import last_activations, match_variables, world_variables

BLOCK = 1


def scores(lms: Sequence[LM], model: Autoencoder, block: int) -> pd.DataFrame:
    """Return one row per variable: its group, and F1 of the best fitted feature, of a random one, of a constant one."""
    world = probe.world.of(lms[0])
    assert world is not None
    prompts, variables = world_variables(world)
    own = last_activations(lms, model, prompts, block)
    random = Autoencoder.random(*model.shape, seed=1).requires_grad_(False)
    random.b_dec.copy_(model.b_dec)
    other = last_activations(lms, random, prompts, block)
    fitted = match_variables(own > 0, variables)
    drawn = match_variables(other > np.quantile(other, 1 - (own > 0).mean()), variables)
    table = fitted[["variable", "f1", "constant"]].assign(random=drawn["f1"])
    return table.assign(group=table["variable"].str.partition(":")[0])


def run() -> tuple[list[Row], list[str]]:
    """Fit and score; nothing is timed, so the table is a note."""
    lm = LM.load("sample_runs/base")
    found = fit_features([lm], BLOCK)
    table = scores([lm], found.features.model, BLOCK)
    means = table.groupby("group")[["f1", "random", "constant"]].mean().round(2)
    return [], [found.sentence(), means.to_string(), table.round(2).to_string(index=False)]
