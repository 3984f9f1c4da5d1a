"""Lens, parts and KL at every captured step of a run, without a model.

Axes are those of a capture (docs/runs.md): P prompts, D blocks, H heads, T tokens, k favourites, A answers, n neurons.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.errors import DataError
from probe.runs.captured import token_names
from probe.world.vocabulary import ABSTENTION

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
"""Name of each measure to its name on an axis."""


def answer_names(run: "Run", answers: Sequence[str]) -> list[str]:
    """Name the answers of a captured prompt; a first word comes with the answer that it stands for.

    Args:
        run: run that captured them; in a world's run the first word of "i do not know" is an answer.
        answers: answers of a prompt (`ProbePrompt.answers`).
    """
    first, _, rest = ABSTENTION.partition(" ")
    return [f"{first} ({rest})" if run.world and each.strip() == first else each.strip() for each in answers]


def over_training(run: "Run", prompt: int = 0, position: int | None = None) -> pd.DataFrame:
    """Return the measures by layer over the steps of a run, from its captures and without the model.

    Only captured values are known. Captures of older versions of Probe hold only the entropy of the output, and ranks
    among the five most probable tokens: an answer below them has the rank NaN.

    Args:
        run: a run with captures.
        prompt: number of the captured prompt.
        position: token of the prompt after which the measures are read; default: the last.

    Returns:
        Tidy rows: step, layer (0 the embedding, D the output), position, measure, answer (empty for measures without
        one), value.

    Raises:
        DataError: the run has no captures, no such prompt, or the prompt no such position.
    """
    captures, record = _prompt(run, prompt)
    t = record.length - 1 if position is None else position
    if not 0 <= t < record.length:
        raise DataError(
            f"Position {t} was requested in a prompt of {record.length} tokens: give 0 to {record.length - 1}."
        )
    frames = [
        _measure_prompt(step, captures.load(step), prompt, t, record.answers, record.answer_ids)
        for step in captures.steps
    ]
    return pd.concat(frames, ignore_index=True)


def attribution_over_training(run: "Run", prompt: int = 0) -> pd.DataFrame:
    """Return the contribution of every part to logit(first answer) - logit(second answer), at every captured step.

    This is direct attribution after the prompt's last token (`probe.logits.attribution`); a single answer is taken
    alone.

    Args:
        run: a run with captures.
        prompt: number of the captured prompt.

    Returns:
        Tidy rows: step, layer, part (`H0`, `H1`, ..., `MLP`; `rest` with the layer -1: embedding, positions and
        biases), value in nats. The rows of a step sum to the difference of the logits.

    Raises:
        DataError: the run has no captures, no such prompt, no attribution in its captures, or the prompt no answers.
    """
    captures, _ = _prompt(run, prompt, answers=True)
    frames = []
    for step, tensors in _having(captures, "attribution"):
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
    """Return the tokens that every head and MLP promoted and suppressed at every captured step.

    They are read after the prompt's last token.

    Args:
        run: a run with captures.
        prompt: number of the captured prompt.

    Returns:
        Tidy rows: step, layer, part (`H0`, ..., `MLP`), kind (promoted or suppressed), rank (0 is the strongest),
        token.

    Raises:
        DataError: the run has no captures, no such prompt, or no promoted tokens in its captures.
    """
    captures, _ = _prompt(run, prompt)
    frames = []
    for step, tensors in _having(captures, "promoted_ids"):
        ids = tensors["promoted_ids"][prompt]
        layer, column, sign, rank = (axis.ravel() for axis in np.indices(ids.shape))
        parts = np.array([*(f"H{head}" for head in range(ids.shape[1] - 1)), "MLP"], dtype=object)
        kinds = np.array(["promoted", "suppressed"], dtype=object)
        row = {"step": step, "layer": layer, "part": parts[column], "kind": kinds[sign], "rank": rank}
        frames.append(pd.DataFrame(row | {"token": token_names(run, ids)}))
    if not frames:
        raise DataError(
            f"The captures of `{run.name}` hold no promoted tokens, since they are older than this version of Probe or "
            "the parts of the model do not sum to its logits: train again, or try `promoted_tokens` on its checkpoints."
        )
    return pd.concat(frames, ignore_index=True)


def neurons_over_training(run: "Run", prompt: int = 0) -> pd.DataFrame:
    """Return the strongest neurons' contributions to logit(first answer) - logit(second answer), by captured step.

    This is direct attribution after the prompt's last token, as in `Attribution.neuron_table`. Each step has the n
    strongest neurons of every block at that step; other neurons contributed less, by an unknown amount.

    Args:
        run: a run with captures.
        prompt: number of the captured prompt.

    Returns:
        Tidy rows: step, layer, rank (0 is the largest absolute value), neuron, value in nats.

    Raises:
        DataError: the run has no captures, no such prompt, no neurons in its captures, or the prompt no answers.
    """
    captures, _ = _prompt(run, prompt, answers=True)
    frames = []
    for step, tensors in _having(captures, "neuron_ids"):
        ids = tensors["neuron_ids"][prompt]
        layer, rank = (axis.ravel() for axis in np.indices(ids.shape))
        row = {"step": step, "layer": layer, "rank": rank, "neuron": ids.ravel().astype(int)}
        frames.append(pd.DataFrame(row | {"value": tensors["neuron_attribution"][prompt].astype(np.float64).ravel()}))
    if not frames:
        raise DataError(
            f"The captures of `{run.name}` hold no neurons, since they are older than this version of Probe or the"
            " model's MLPs are not W_out times their neurons: train again, or look at whole MLPs."
        )
    return pd.concat(frames, ignore_index=True)


def kl_over_training(run: "Run", prompt: int = 0) -> pd.DataFrame:
    """Return KL(pi || pi_ref) of the model from its reference after every token of a prompt, at every captured step.

    Args:
        run: a run with captures.
        prompt: number of the captured prompt.

    Returns:
        Tidy rows: step, position, token (the one that was read), kl in nats.

    Raises:
        DataError: the run has no captures, no such prompt, or no KL in its captures.
    """
    captures, record = _prompt(run, prompt)
    frames = []
    for step, tensors in _having(captures, "reference_kl"):
        row = {"step": step, "position": range(record.length), "token": record.tokens}
        frames.append(pd.DataFrame(row | {"kl": tensors["reference_kl"][prompt, : record.length].astype(np.float64)}))
    if not frames:
        raise DataError(
            f"The captures of `{run.name}` hold no KL to a reference, since it has none or they are older than this "
            "version of Probe: train by a method with a reference, or give `probe.watch` a ReferenceKL."
        )
    return pd.concat(frames, ignore_index=True)


def _having(captures: "Captures", name: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the captured steps that hold a tensor, and all tensors of each."""
    for step in captures.steps:
        tensors = captures.load(step)
        if name in tensors:
            yield step, tensors


def _prompt(run: "Run", prompt: int, answers: bool = False) -> tuple["Captures", "ProbePrompt"]:
    """Return the captures of a run and one of its prompts; with `answers` the prompt must have answers."""
    captures = run.captures()
    prompts = captures.prompts
    if not len(captures) or not prompts:
        raise DataError(f"The run `{run.name}` has no captures: train with --capture-every, or choose another run.")
    if not 0 <= prompt < len(prompts):
        raise DataError(
            f"Prompt {prompt} of `{run.name}` does not exist: it captured {len(prompts)} prompts, numbered from 0."
        )
    if answers and not prompts[prompt].answers:
        raise DataError(
            f"Prompt {prompt} of `{run.name}` has no answers, so no logit was split into parts: choose another one."
        )
    return captures, prompts[prompt]


def _measure_prompt(
    step: int, tensors: dict[str, np.ndarray], prompt: int, t: int, answers: Sequence[str], ids: Sequence[int]
) -> pd.DataFrame:
    """Return the measures of one prompt at one step."""
    top = tensors["lens_top_logprobs"][prompt, :, t].astype(np.float64)
    logprobs = tensors["lens_answer_logprobs"][prompt, :, t].astype(np.float64)
    last = len(top) - 1
    series: list[tuple[str, str, Sequence[float] | np.ndarray]] = []
    if top.shape[1] > 1:  # the output's values were captured with more precision
        margin = tensors["lens_margin"][prompt, :last, t] if "lens_margin" in tensors else top[:last, 0] - top[:last, 1]
        series.append(("margin", "", [*margin, tensors["margin"][prompt, t]]))
    series.append(("residual_norm", "", tensors["residual_norm"][prompt, :, t]))
    for index, (answer, token) in enumerate(zip(answers, ids, strict=False)):
        series.append(("logprob", answer, logprobs[:, index]))
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
    """Return the rank [D+1] of a token among the k most probable ones [D+1 k] of each row; NaN if not among them."""
    here = favourites == token
    return np.where(here.any(axis=-1), here.argmax(axis=-1), np.nan)
