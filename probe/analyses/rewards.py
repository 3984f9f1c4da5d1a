"""The reward shift that a run captured, as tidy tables: token by token, sample by sample, and step by step.

What `probe.recording.shift.RewardShift` measured at every capture. Works without torch and without the model; only the
tokenizer file of a checkpoint is read to name tokens.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe import stats
from probe.captured import texts, token_names
from probe.errors import RunError

if TYPE_CHECKING:
    from probe.runs.reader import Run
    from probe.runs.schema import ProbePrompt

PARTS = {"proxy": "shift_proxy", "gold": "shift_gold"}
SUMS = {"logratio": "shift_logratio", "kl": "shift_kl", "implicit": "shift_implicit"}
MEASURES = ("proxy", "gold", "kl", "logratio", "implicit")


def shift_steps(run: "Run") -> list[int]:
    """The captured steps that hold a reward shift."""
    captures = run.captures()
    return [step for step in captures.steps if "shift_ids" in captures.load(step)]


def shift_tokens(run: "Run", steps: Sequence[int] | None = None) -> pd.DataFrame:
    """One row a sampled token.

    Args:
        run: a run with a reward shift in its captures.
        steps: which captures; default: all.

    Returns:
        step, prompt (its number), kind, sample, position (in the completion), id, token; logratio (log pi/pi_ref of the
        token), kl (KL(pi || pi_ref) of the distribution that it was drawn from), implicit (beta logratio), in nats;
        where the proxy reads tokens: proxy (its value at the token) and proxy_gain (the increment over the value
        before, the reward of this token; at the first token over the value where the prompt ends).

    Raises:
        RunError: there is none.
    """
    tables = []
    for step, tensors, prompts in _captured(run, steps):
        ids = tensors["shift_ids"]
        row, sample, position = np.nonzero(ids >= 0)
        at = row, sample, position
        data = _keys(step, row, prompts) | {"sample": sample, "position": position, "id": ids[at]}
        data["token"] = token_names(run, ids[at])
        data |= {name: tensors[tensor][at].astype(float) for name, tensor in SUMS.items()}
        if "shift_proxy_tokens" in tensors:
            values = tensors["shift_proxy_tokens"].astype(float)
            start = np.broadcast_to(tensors["shift_proxy_start"].astype(float)[:, None, None], (*ids.shape[:2], 1))
            data |= {"proxy": values[at], "proxy_gain": np.diff(values, axis=2, prepend=start)[at]}
        tables.append(pd.DataFrame(data))
    return pd.concat(tables, ignore_index=True)


def shift_samples(run: "Run", steps: Sequence[int] | None = None) -> pd.DataFrame:
    """One row a sampled completion.

    Args:
        run: a run with a reward shift in its captures.
        steps: which captures; default: all.

    Returns:
        step, prompt (its number), kind, sample, completion (text, its end token shown), length; logratio, kl and
        implicit, in nats and summed over the tokens (kl estimates KL(pi || pi_ref) of whole completions, with less
        noise than logratio, whose mean is the same); proxy and gold, NaN where a reward does not apply.

    Raises:
        RunError: there is none.
    """
    tables = []
    for step, tensors, prompts in _captured(run, steps):
        ids = tensors["shift_ids"]
        row, sample = (axis.ravel() for axis in np.indices(ids.shape[:2]))
        flat = [completion[completion >= 0] for completion in ids.reshape(-1, ids.shape[2])]
        data = _keys(step, row, prompts) | {"sample": sample}
        data["completion"] = texts(run, flat)
        data["length"] = [len(completion) for completion in flat]
        data |= {name: tensors[tensor].astype(float).sum(axis=2).ravel() for name, tensor in SUMS.items()}
        for name, tensor in PARTS.items():
            data[name] = tensors[tensor].astype(float).ravel() if tensor in tensors else np.nan
        tables.append(pd.DataFrame(data))
    return pd.concat(tables, ignore_index=True)


def shift_curve(run: "Run", by: Sequence[str] = ()) -> pd.DataFrame:
    """How the measures moved: one row for each step and measure, and each value of `by`.

    Args:
        run: a run with a reward shift in its captures.
        by: further columns of `shift_samples` to keep apart, such as `kind` or `prompt`.

    Returns:
        step, the columns of `by`, measure (proxy, gold, kl, logratio, implicit), value (the mean over the samples to
        which it applies), ci_low, ci_high (95 %, bootstrap over samples), n. The samples of a prompt resemble each
        other, so the interval speaks of these prompts and not of others.

    Raises:
        RunError: there is none.
    """
    samples = shift_samples(run)
    rows = []
    for key, group in samples.groupby(["step", *by], sort=True):
        for measure in MEASURES:
            values = group[measure].dropna().to_numpy()
            if len(values):
                mean = stats.bootstrap_mean(values)
                interval = {"value": mean.value, "ci_low": mean.low, "ci_high": mean.high, "n": len(values)}
                rows.append(dict(zip(["step", *by], key, strict=True)) | {"measure": measure} | interval)
    return pd.DataFrame(rows)


def _captured(
    run: "Run", steps: Sequence[int] | None
) -> Iterator[tuple[int, dict[str, np.ndarray], "list[ProbePrompt]"]]:
    """Step, tensors and prompts of each capture that holds a reward shift."""
    captures = run.captures()
    found = 0
    for step in captures.steps if steps is None else steps:
        tensors = captures.load(step)
        if "shift_ids" in tensors:
            found += 1
            yield step, tensors, captures.prompts
    if not found:
        raise RunError(
            f"No capture of `{run.path}` holds a reward shift: train with --capture-every above 0 by a method that has"
            " a reference, or give `probe.watch` a RewardShift."
        )


def _keys(step: int, row: np.ndarray, prompts: "Sequence[ProbePrompt]") -> dict[str, object]:
    return {"step": step, "prompt": row, "kind": [prompts[i].kind for i in row]}
