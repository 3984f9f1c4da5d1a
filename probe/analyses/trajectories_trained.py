"""How sure a model was, and of what, while it was trained: the lens by layer at every captured step, without the model.

Axes: the tensors of a capture (docs/runs.md): P prompts, D blocks, T tokens, k favourites, A answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.errors import DataError

if TYPE_CHECKING:
    from probe.runs.reader import Run

MEASURES = {
    "logprob": "log-probability (nats)",
    "rank": "rank, 0 = likeliest",
    "margin": "margin of the favourite (nats)",
    "residual_norm": "norm of the residual stream",
    "entropy": "entropy of the output (nats)",
}
"""What is measured, and how an axis calls it."""


def over_training(run: "Run", prompt: int = 0, position: int | None = None) -> pd.DataFrame:
    """The same measures over the steps of a run, from its captures and without the model.

    Only what was captured is known: entropy of the output alone, and ranks among the captured favourites; an answer
    behind them has the rank NaN.

    Args:
        run: a run with captures.
        prompt: which of the captured prompts.
        position: after which of its tokens; default the last.

    Returns:
        Tidy: step, layer (0 the embedding, D the output), position, measure, answer (empty where it concerns none),
        value.

    Raises:
        DataError: the run has no captures, no such prompt, or the prompt no such position.
    """
    captures = run.captures()
    prompts = captures.prompts
    if not len(captures) or not prompts:
        raise DataError(f"The run `{run.name}` has no captures: train with --capture-every, or choose another run.")
    if not 0 <= prompt < len(prompts):
        raise DataError(f"Prompt {prompt} of `{run.name}` was asked for: it captured {len(prompts)}, from 0.")
    asked = prompts[prompt]
    t = asked.length - 1 if position is None else position
    if not 0 <= t < asked.length:
        raise DataError(
            f"Position {t} was asked for in a prompt of {asked.length} tokens: give 0 to {asked.length - 1}."
        )
    frames = [
        _captured(step, captures.load(step), prompt, t, asked.answers, asked.answer_ids) for step in captures.steps
    ]
    return pd.concat(frames, ignore_index=True)


def _captured(
    step: int, tensors: dict[str, np.ndarray], prompt: int, t: int, answers: Sequence[str], ids: Sequence[int]
) -> pd.DataFrame:
    """The measures of one prompt at one step."""
    top = tensors["lens_top_logprobs"][prompt, :, t].astype(np.float64)
    top_ids = tensors["lens_top_ids"][prompt, :, t]
    chosen = tensors["lens_answer_logprobs"][prompt, :, t].astype(np.float64)
    rows: list[tuple[int, int, int, str, str, float]] = []
    for layer in range(len(top)):
        where = (step, layer, t)
        if top.shape[1] > 1:
            rows.append((*where, "margin", "", float(top[layer, 0] - top[layer, 1])))
        rows.append((*where, "residual_norm", "", float(tensors["residual_norm"][prompt, layer, t])))
        for index, (answer, token) in enumerate(zip(answers, ids, strict=False)):
            rows.append((*where, "logprob", answer, float(chosen[layer, index])))
            place = np.flatnonzero(top_ids[layer] == token)
            rows.append((*where, "rank", answer, float(place[0]) if len(place) else float("nan")))
    rows.append((step, len(top) - 1, t, "entropy", "", float(tensors["entropy"][prompt, t])))
    return pd.DataFrame(rows, columns=["step", "layer", "position", "measure", "answer", "value"])
