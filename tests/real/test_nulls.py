"""Copies of SmolLM2 that differ in nothing that counts, in parts of an audit."""

from dataclasses import replace

import pandas as pd
import torch

from probe import LM
from probe.audit.inspection import compare_part
from probe.audit.plan import ON_SETS, Part
from probe.audit.verdict import CHANGED, EQUIVALENT, add_verdicts
from probe.experiments import find_experiment
from probe.experiments.run import perform
from tests.audit.test_nulls import cast
from tests.real.conftest import CHECKPOINT

N = 40
PARTS = [replace(part, options={**part.options, "n": N}) for part in ON_SETS if part.name in ("hallucination", "sums")]


def ask(lm: LM, part: Part) -> pd.DataFrame:
    return perform(find_experiment(part.experiment), lm, both_forms=False, seed=0, **part.arguments).items


def test_a_copy_of_the_real_model_is_not_changed(lm: LM) -> None:
    """In bfloat16, of 40 questions; how many shares are equivalent depends on how many answers the copy turns around.

    Noise, and models of our own: tests/audit/test_nulls.py.
    """
    copy, generator = LM.load(CHECKPOINT), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in copy.model.parameters():
            weights.copy_(cast(weights, generator))
    rows = pd.concat(
        [add_verdicts(compare_part(part, ask(lm, part), ask(copy, part))[0]) for part in PARTS],
        ignore_index=True,
    ).set_index("metric")
    assert rows["difference"].abs().max() > 0
    assert (rows["verdict"] != CHANGED).all()
    assert rows.loc["hallucination.mc2", "verdict"] == EQUIVALENT
