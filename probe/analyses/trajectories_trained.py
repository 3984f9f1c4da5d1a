"""How sure a model was, and of what, while it was trained: the lens by layer at every captured step, without the model.

Axes: the tensors of a capture (docs/runs.md): P prompts, D blocks, H heads, T tokens, k favourites, A answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.captured import token_names
from probe.errors import DataError

if TYPE_CHECKING:
    from probe.runs.captures import Captures
    from probe.runs.reader import Run
    from probe.runs.schema import ProbePrompt

MEASURES = {
    "logprob": "log-probability (nats)",
    "rank": "rank, 0 = likeliest",
    "margin": "margin of the favourite (nats)",
    "residual_norm": "norm of the residual stream",
    "entropy": "entropy (nats)",
}
"""What is measured, and how an axis calls it."""


def over_training(run: "Run", prompt: int = 0, position: int | None = None) -> pd.DataFrame:
    """The same measures over the steps of a run, from its captures and without the model.

    Only what was captured is known. Captures of older versions of Probe hold the entropy of the output alone, and ranks
    among five favourites: an answer behind them has the rank NaN.

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
    captures, asked = _prompt(run, prompt)
    t = asked.length - 1 if position is None else position
    if not 0 <= t < asked.length:
        raise DataError(
            f"Position {t} was asked for in a prompt of {asked.length} tokens: give 0 to {asked.length - 1}."
        )
    frames = [
        _captured(step, captures.load(step), prompt, t, asked.answers, asked.answer_ids) for step in captures.steps
    ]
    return pd.concat(frames, ignore_index=True)


def attribution_over_training(run: "Run", prompt: int = 0) -> pd.DataFrame:
    """What every part added to logit(first answer) - logit(second answer), at every captured step.

    Direct attribution after the prompt's last token (`probe.analyses.attribution`); one answer is taken alone.

    Args:
        run: a run with captures.
        prompt: which of the captured prompts.

    Returns:
        Tidy: step, layer, part (`H0`, `H1`, ..., `MLP`; `rest` with the layer -1: embedding, positions and biases),
        value in nats. The rows of a step sum to the difference of the logits.

    Raises:
        DataError: the run has no captures, no such prompt, no attribution in its captures, or the prompt no answers.
    """
    captures, asked = _prompt(run, prompt)
    if not asked.answers:
        raise DataError(
            f"Prompt {prompt} of `{run.name}` has no answers, so no logit was split into parts: choose another one."
        )
    frames = []
    for step in captures.steps:
        tensors = captures.load(step)
        if "attribution" not in tensors:
            continue
        parts = tensors["attribution"][prompt].astype(np.float64)
        layer, column = (axis.ravel() for axis in np.indices(parts.shape))
        names = np.array([*(f"H{head}" for head in range(parts.shape[1] - 1)), "MLP", "rest"], dtype=object)
        frames.append(
            pd.DataFrame(
                {
                    "step": step,
                    "layer": [*layer, -1],
                    "part": names[[*column, -1]],
                    "value": [*parts.ravel(), float(tensors["attribution_total"][prompt, 0])],
                }
            )
        )
    if not frames:
        raise DataError(
            f"The captures of `{run.name}` hold no attribution, since they are older than this version of Probe or the "
            "parts of the model do not sum to its logits: train again, or try `attribute` on its checkpoints."
        )
    return pd.concat(frames, ignore_index=True)


def promoted_over_training(run: "Run", prompt: int = 0) -> pd.DataFrame:
    """The tokens that every head and MLP promoted and suppressed after the prompt's last token, at every captured step.

    Args:
        run: a run with captures.
        prompt: which of the captured prompts.

    Returns:
        Tidy: step, layer, part (`H0`, ..., `MLP`), kind (promoted or suppressed), rank (0 is the strongest), token.

    Raises:
        DataError: the run has no captures, no such prompt, or no promoted tokens in its captures.
    """
    captures, _ = _prompt(run, prompt)
    frames = []
    for step in captures.steps:
        tensors = captures.load(step)
        if "promoted_ids" not in tensors:
            continue
        ids = tensors["promoted_ids"][prompt]
        layer, column, sign, rank = (axis.ravel() for axis in np.indices(ids.shape))
        parts = np.array([*(f"H{head}" for head in range(ids.shape[1] - 1)), "MLP"], dtype=object)
        kinds = np.array(["promoted", "suppressed"], dtype=object)
        row = {"step": step, "layer": layer, "part": parts[column], "kind": kinds[sign], "rank": rank}
        frames.append(pd.DataFrame(row | {"token": token_names(run, ids)}))
    if not frames:
        raise DataError(
            f"The captures of `{run.name}` hold no promoted tokens, since they are older than this version of Probe or "
            "the parts of the model do not sum to its logits: train again, or try `promoted` on its checkpoints."
        )
    return pd.concat(frames, ignore_index=True)


def _prompt(run: "Run", prompt: int) -> tuple["Captures", "ProbePrompt"]:
    """The captures of a run, and the prompt that is asked for."""
    captures = run.captures()
    prompts = captures.prompts
    if not len(captures) or not prompts:
        raise DataError(f"The run `{run.name}` has no captures: train with --capture-every, or choose another run.")
    if not 0 <= prompt < len(prompts):
        raise DataError(f"Prompt {prompt} of `{run.name}` was asked for: it captured {len(prompts)}, from 0.")
    return captures, prompts[prompt]


def _captured(
    step: int, tensors: dict[str, np.ndarray], prompt: int, t: int, answers: Sequence[str], ids: Sequence[int]
) -> pd.DataFrame:
    """The measures of one prompt at one step."""
    top = tensors["lens_top_logprobs"][prompt, :, t].astype(np.float64)
    chosen = tensors["lens_answer_logprobs"][prompt, :, t].astype(np.float64)
    last = len(top) - 1
    series: list[tuple[str, str, Sequence[float] | np.ndarray]] = []
    if top.shape[1] > 1:  # the output's own are captured more precisely
        margin = tensors["lens_margin"][prompt, :last, t] if "lens_margin" in tensors else top[:last, 0] - top[:last, 1]
        series.append(("margin", "", [*margin, tensors["margin"][prompt, t]]))
    series.append(("residual_norm", "", tensors["residual_norm"][prompt, :, t]))
    for index, (answer, token) in enumerate(zip(answers, ids, strict=False)):
        series.append(("logprob", answer, chosen[:, index]))
        if "lens_answer_ranks" in tensors:
            series.append(("rank", answer, tensors["lens_answer_ranks"][prompt, :, t, index]))
        else:
            series.append(("rank", answer, _places(tensors["lens_top_ids"][prompt, :, t], token)))
    inner = tensors["lens_entropy"][prompt, :last, t] if "lens_entropy" in tensors else ()
    series.append(("entropy", "", [*inner, tensors["entropy"][prompt, t]]))
    rows = [
        (step, last + 1 - len(values) + row, t, measure, answer, float(value))
        for measure, answer, values in series
        for row, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["step", "layer", "position", "measure", "answer", "value"])


def _places(favourites: np.ndarray, token: int) -> np.ndarray:
    """[D+1] the place of a token among the favourites [D+1 k] of each row; NaN where it is not among them."""
    here = favourites == token
    return np.where(here.any(axis=-1), here.argmax(axis=-1), np.nan)
