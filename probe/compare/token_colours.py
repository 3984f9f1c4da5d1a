"""Hallucination probe of a model as the colour of tokens: fitted once, found by its name among the analyses."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from probe.analyses.catalogue import find_analysis
from probe.analyses.stored_results import find_result, obtain_result
from probe.errors import ProbeError
from probe.model.in_memory import keep, kept
from probe.model.lm import LM
from probe.plotting.chips import Chip
from probe.ticks import Tick, ignore

PROBE = "token_truth"
"""Name of the analysis that fits the probe, with its default inputs."""

OF_PROBE = (
    "Colour: probability that the token is wrong, by the writer's hallucination probe. Hover for probabilities; a click"
    " chooses the token below."
)
FULL = 0.75
"""Strength of a full colour."""
SCALE = [
    Chip(text=f"{share} %", tip=f"probability {share} %", strength=FULL * share / 100) for share in (0, 25, 50, 75, 100)
]
"""Legend of the probe's colours."""


class TokenScorer(Protocol):
    """Result of that analysis."""

    def score_tokens(self, lm: LM, ids: Sequence[int]) -> np.ndarray:
        """Return the probability at each token of a text that it is wrong; NaN where it states nothing."""

    def caption(self) -> str:
        """State the error on held-out answers."""


def obtain_scorer(lm: LM, tick: Tick = ignore) -> TokenScorer | str:
    """Return the probe of a model: stored, in memory, or fitted now; the reason if none can be fitted."""

    def fit() -> Any:
        try:
            return obtain_result(find_analysis(PROBE), {}, lm, tick=tick)[0]
        except ProbeError as error:
            return str(error)

    found: TokenScorer | str = keep(lm, PROBE, fit)
    return found


def scorer_seconds(lm: LM) -> float:
    """Estimate the seconds that `obtain_scorer` takes; 0 if the probe is stored or in memory."""
    record = find_analysis(PROBE)
    if kept(lm, PROBE) is not None or find_result(record, {}, lm) is not None:
        return 0.0
    return record.cost(lm) or 0.0


def captions(scorers: Sequence[TokenScorer | str], names: Sequence[str]) -> str:
    """State the error of each model's probe, or why a model has none."""
    told = [
        f"No probe colours the text of {name}: {each}" if isinstance(each, str) else f"{name}: {each.caption()}."
        for name, each in zip(names, scorers, strict=True)
    ]
    return " ".join([*told, "Tokens that state nothing have no colour."])
