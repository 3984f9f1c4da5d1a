"""Proxy, true and implicit rewards before and after alignment: two models' samples on the same prompts (METRICS).

Both models answer every prompt n times, with the same random numbers. Each sample gets

    proxy       the optimised reward: a reward model, or any reward of texts
    gold        the world's verifier (+1 true, 0 abstains, -1 otherwise), and its verdict in words
    implicit    beta log pi_aligned/pi_base of the sample, nats (E13); its mean over the aligned model's samples is
                beta KL(aligned || base), over the base model's - beta KL(base || aligned)

The samples of a model do not depend on the other one: `draw` them once and compare them with several models
(`compare_samples`). `summary` compares two models: samples of one prompt are correlated, so intervals resample prompts,
or the people in them (a cluster bootstrap of paired means). Captures over training
(`probe.recording.reward_shift.RewardShift`) have the same columns (`captured_samples`), and are available by token,
sample and step (`shift_tokens`, `shift_samples`, `shift_curve`). For captures no model is loaded; only the tokenizer
file of a checkpoint is read, to name tokens.

Axes: P prompts, n samples of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe import stats
from probe.errors import ConfigError, DataError, RunError
from probe.runs.captured import texts, token_names
from probe.stats import SHARE, bootstrap_means, difference_bounds
from probe.ticks import Tick, ignore, part
from probe.world.language import subject_of

if TYPE_CHECKING:
    from probe.model.generation import Generation
    from probe.model.lm import LM
    from probe.model.rewards import RewardModel
    from probe.rewards.answers import AnswerLogprobs, Reward
    from probe.runs.reader import Run
    from probe.runs.schema import ProbePrompt
    from probe.world import World

PARTS = {"proxy": "shift_proxy", "gold": "shift_gold"}
SUMS = {"logratio": "shift_logratio", "kl": "shift_kl", "implicit": "shift_implicit"}
CAPTURED_MEASURES = ("proxy", "gold", "kl", "logratio", "implicit")


def shift_steps(run: "Run") -> list[int]:
    """Return the captured steps that hold a reward shift."""
    captures = run.captures()
    return [step for step in captures.steps if "shift_ids" in captures.load(step)]


def shift_tokens(run: "Run", steps: Sequence[int] | None = None) -> pd.DataFrame:
    """Return one row per sampled token.

    Args:
        run: run with a reward shift in its captures.
        steps: steps of the captures; default: all.

    Returns:
        step, prompt (its number), kind, sample, position (in the completion), id, token; logratio (log pi/pi_ref of the
        token), kl (KL(pi || pi_ref) of the distribution that it was drawn from), implicit (beta logratio), in nats; if
        the proxy reads tokens: proxy (its value at the token) and proxy_gain (the increase over the previous value, the
        reward of this token; at the first token, over the value at the end of the prompt).

    Raises:
        RunError: the captures hold no reward shift.
    """
    tables = []
    for step, tensors, prompts in _read_captures(run, steps):
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
    """Return one row per sampled completion.

    Args:
        run: run with a reward shift in its captures.
        steps: steps of the captures; default: all.

    Returns:
        step, prompt (its number), kind, sample, completion (text, its end token shown), length; logratio, kl and
        implicit, in nats and summed over the tokens (kl estimates KL(pi || pi_ref) of whole completions, with less
        noise than logratio, whose mean is the same); proxy and gold, NaN if a reward does not apply.

    Raises:
        RunError: the captures hold no reward shift.
    """
    tables = []
    for step, tensors, prompts in _read_captures(run, steps):
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
    """Return the measures over training: one row for each step and measure, and each value of `by`.

    Args:
        run: run with a reward shift in its captures.
        by: further columns of `shift_samples` to group by, such as `kind` or `prompt`.

    Returns:
        step, the columns of `by`, measure (proxy, gold, kl, logratio, implicit), value (the mean over the samples to
        which it applies), ci_low, ci_high (95 %, bootstrap over samples), n. The samples of a prompt are correlated, so
        the interval holds for these prompts and not for others.

    Raises:
        RunError: the captures hold no reward shift.
    """
    samples = shift_samples(run)
    rows = []
    for key, group in samples.groupby(["step", *by], sort=True):
        for measure in CAPTURED_MEASURES:
            values = group[measure].dropna().to_numpy()
            if len(values):
                interval = stats.bootstrap_mean(values).row(len(values))
                rows.append(dict(zip(["step", *by], key, strict=True)) | {"measure": measure} | interval)
    return pd.DataFrame(rows)


def _read_captures(
    run: "Run", steps: Sequence[int] | None
) -> Iterator[tuple[int, dict[str, np.ndarray], "list[ProbePrompt]"]]:
    """Yield step, tensors and prompts of each capture that holds a reward shift."""
    captures = run.captures()
    count = 0
    for step in captures.steps if steps is None else steps:
        tensors = captures.load(step)
        if "shift_ids" in tensors:
            count += 1
            yield step, tensors, captures.prompts
    if not count:
        raise RunError(
            f"No capture of `{run.path}` holds a reward shift: train with --capture-every above 0 by a method that has"
            " a reference, or give `probe.watch` a RewardShift."
        )


def _keys(step: int, row: np.ndarray, prompts: "Sequence[ProbePrompt]") -> dict[str, object]:
    return {"step": step, "prompt": row, "kind": [prompts[i].kind for i in row]}


SIDES = ("base", "aligned")
MEASURES = ("proxy", "gold", "implicit", "length")
VERDICTS = ("true", "abstain", "deferred", "wrong", "malformed")
AGAIN = 1_000_003
TOGETHER = 2**24
"""Maximum number of logits of one step, samples times vocabulary, in memory at once."""


@dataclass(frozen=True)
class Drawing:
    """Settings of sampling a model's answers, and the world that verifies them."""

    world: "World | None" = None
    """World whose verifier gives the true reward."""
    n: int = 16
    """Number of samples per prompt and model."""
    max_new_tokens: int = 16
    """Maximum number of tokens of a sample."""
    temperature: float = 1.0
    """Temperature of sampling; log-probabilities are always those at 1."""
    seed: int = 0
    """Random seed of the samples."""


@dataclass(frozen=True)
class ModelSamples:
    """Samples of one model, with all values that depend on no other model."""

    prompts: tuple[str, ...]
    """Texts of the P prompts."""
    n: int
    """Number of samples per prompt."""
    parts: tuple[range, ...]
    """Numbers of the prompts that were sampled together."""
    drawn: "tuple[Generation, ...]"
    """Samples of each part."""
    logprobs: np.ndarray
    """[P n] log-probability of each whole sample under the model that wrote it, at temperature 1, nats."""
    gold: np.ndarray | None
    """[P n] verifier's score, NaN if it does not apply; None without a world."""
    verdicts: tuple[str, ...]
    """Verdicts of the P n samples in words; empty without a world."""

    @property
    def completions(self) -> list[str]:
        """Texts of the P n samples."""
        return [text for generation in self.drawn for text in generation.text]

    @property
    def texts(self) -> list[str]:
        """Prompt of each sample."""
        return [text for text in self.prompts for _ in range(self.n)]


def samples(
    base: "LM",
    aligned: "LM",
    prompts: Sequence[str],
    proxy: "RewardModel | Reward | None" = None,
    drawing: Drawing = Drawing(),
    beta: float = 1.0,
    kinds: Sequence[str] = (),
    tick: Tick = ignore,
) -> pd.DataFrame:
    """Draw and judge the answers of both models.

    Args:
        base: the reference.
        aligned: the other model; its tokenizer must be the same.
        prompts: P texts.
        proxy: a reward model, or a function of (prompts, completions).
        drawing: how they are drawn and verified.
        beta: factor of the implicit reward.
        kinds: [P] kind of each prompt, for the table.
        tick: progress, see `probe.ticks`.

    Returns:
        One row per sample: model (base or aligned), prompt (its number), kind, text, sample, completion, length
        (tokens, end token included), finished, logp_base, logp_aligned, logratio (nats, of the whole sample), implicit,
        and if requested, proxy, gold (NaN if they do not apply) and verdict.

    Raises:
        DataError: the tokenizers differ, or there is no prompt.
        ConfigError: a number is out of range.
    """
    from probe.logits.lens import require_same_tokens

    require_same_tokens(base, aligned)
    if not prompts or (kinds and len(kinds) != len(prompts)):
        raise DataError(
            f"{len(prompts)} prompts and {len(kinds)} kinds were given: give at least one prompt, and one kind for"
            " each."
        )
    if drawing.n < 1 or not beta >= 0:
        raise ConfigError(f"n is {drawing.n} and beta is {beta}; expected 1 or more samples and a beta of 0 or more.")
    before, after = (draw(lm, prompts, drawing, part(tick, at, 2)) for at, lm in enumerate((base, aligned)))
    rewards = None if proxy is None else (proxy_rewards(before, proxy), proxy_rewards(after, proxy))
    return compare_samples(base, aligned, before, after, rewards, beta, kinds)


def draw(
    lm: "LM",
    prompts: Sequence[str],
    drawing: Drawing = Drawing(),
    tick: Tick = ignore,
    known: "AnswerLogprobs | None" = None,
) -> ModelSamples:
    """Draw samples of one model for each prompt, with the verifier's score and verdict.

    Args:
        lm: the model.
        prompts: P texts.
        drawing: how they are drawn and verified.
        tick: see `probe.ticks`.
        known: log-probabilities of some completions (`AnswerSet.logprobs_by_text`), which are not computed again.
    """
    from probe.rewards.evaluation import gold_verdicts

    n, size = drawing.n, max(1, TOGETHER // (drawing.n * len(lm.tokenizer)))
    parts = [range(start, min(start + size, len(prompts))) for start in range(0, len(prompts), size)]
    # a prompt that occurs again gets other samples, however the prompts are cut into parts
    seeds = [drawing.seed + AGAIN * list(prompts[:i]).count(text) for i, text in enumerate(prompts)]
    generations, sums = [], []
    for numbers in parts:
        generations.append(
            lm.generate(
                [prompts[i] for i in numbers],
                n=n,
                max_new_tokens=drawing.max_new_tokens,
                temperature=drawing.temperature,
                seed=[seeds[i] for i in numbers],
            )
        )
        sums.append(_sums(lm, generations[-1], known or {}))
        tick(len(generations) / len(parts))
    logprobs = np.concatenate(sums).reshape(len(prompts), n)
    draws = ModelSamples(tuple(prompts), n, tuple(parts), tuple(generations), logprobs, None, ())
    if drawing.world is None:
        return draws
    scores, verdicts = zip(*gold_verdicts(drawing.world, draws.texts, draws.completions), strict=True)
    return replace(draws, gold=_numbers(scores).reshape(len(prompts), n), verdicts=verdicts)


def proxy_rewards(draws: ModelSamples, proxy: "RewardModel | Reward") -> np.ndarray:
    """Return the rewards [P n] of the samples of one model, NaN if they do not apply (None)."""
    arguments = draws.texts, draws.completions
    values = proxy.score(*arguments).tolist() if hasattr(proxy, "score") else proxy(*arguments)
    return _numbers(values).reshape(len(draws.prompts), draws.n)


def compare_samples(
    base: "LM",
    aligned: "LM",
    before: ModelSamples,
    after: ModelSamples,
    rewards: tuple[np.ndarray, np.ndarray] | None = None,
    beta: float = 1.0,
    kinds: Sequence[str] = (),
    known: "tuple[AnswerLogprobs, AnswerLogprobs] | None" = None,
) -> pd.DataFrame:
    """Build the table of `samples` from the draws of both models; each scores the samples of the other.

    Args:
        base: the reference.
        aligned: the other model.
        before: samples of the reference.
        after: samples of the other model, as many on the same prompts.
        rewards: results of `proxy_rewards` for both models.
        beta: factor of the implicit reward.
        kinds: [P] kind of each prompt.
        known: log-probabilities of some completions under the reference and the other model, which are not computed
            again.

    Raises:
        DataError: the two have different prompts or numbers of samples.
    """
    if before.prompts != after.prompts or before.n != after.n:
        raise DataError(
            f"{len(before.prompts)} prompts with {before.n} samples and {len(after.prompts)} with {after.n} cannot"
            " be compared: draw from both models with the same prompts and n."
        )
    tables = []
    of_base, of_aligned = known or ({}, {})
    readers = (aligned, of_aligned), (base, of_base)
    for at, (side, draws, (other, its)) in enumerate(zip(SIDES, (before, after), readers, strict=True)):
        other_sums = np.concatenate([_sums(other, generation, its) for generation in draws.drawn])
        sums = [draws.logprobs.ravel(), other_sums][:: 1 if side == "base" else -1]
        ids = [ids for generation in draws.drawn for ids in generation.ids]
        data: dict[str, Any] = {
            "model": side,
            "prompt": np.repeat(np.arange(len(draws.prompts)), draws.n),
            "kind": [kinds[p] if kinds else "" for p in range(len(draws.prompts)) for _ in range(draws.n)],
            "text": draws.texts,
            "sample": list(range(draws.n)) * len(draws.prompts),
            "completion": draws.completions,
            "length": [len(each) for each in ids],
            "finished": [bool(value) for generation in draws.drawn for value in generation.finished.tolist()],
            "logp_base": sums[0],
            "logp_aligned": sums[1],
            "logratio": sums[1] - sums[0],
            "implicit": beta * (sums[1] - sums[0]),
        }
        if rewards is not None:
            data["proxy"] = rewards[at].ravel()
        if draws.gold is not None:
            data |= {"gold": draws.gold.ravel(), "verdict": draws.verdicts}
        tables.append(pd.DataFrame(data))
    return pd.concat(tables, ignore_index=True)


def _sums(lm: "LM", generation: "Generation", logprobs: "AnswerLogprobs") -> np.ndarray:
    """Return the log-probabilities [N] of whole samples under a model, nats."""
    import torch

    heads = [tuple(ids) for ids in generation.prompt_ids]
    keys = [(heads[at // generation.n], tuple(ids)) for at, ids in enumerate(generation.ids)]
    groups: dict[tuple[int, ...], list[list[int]]] = {}
    for prompt, ids in dict.fromkeys(keys):  # a repeated sample is scored once
        if (prompt, ids) not in logprobs:
            groups.setdefault(prompt, []).append(list(ids))
    sums_by_sample = dict(logprobs)
    if groups:
        with torch.no_grad():
            sums = lm.logprobs([list(prompt) for prompt in groups], list(groups.values())).values.double().sum(1)
        pairs = [(prompt, tuple(ids)) for prompt, group in groups.items() for ids in group]
        sums_by_sample.update(zip(pairs, sums.tolist(), strict=True))
    return np.array([sums_by_sample[each] for each in keys])


def captured_samples(run: "Run", steps: tuple[int, int] | None = None) -> pd.DataFrame:
    """Return the samples that a run captured before and after, with the known columns of `samples`.

    Args:
        run: run with a reward shift in its captures.
        steps: step of base and step of aligned; default: the first and the last.

    Returns:
        model, prompt, kind, sample, completion, length, logratio (to the run's reference), implicit (with the run's
        beta), proxy, gold, kl, and step.

    Raises:
        RunError: the captures hold no reward shift.
        DataError: only one capture holds one, or a given step does not.
    """
    available = shift_steps(run)
    first, last = steps or ((available[0], available[-1]) if available else (0, 0))
    if available and (first == last or first not in available or last not in available):
        raise DataError(f"Steps {first} and {last} were requested: give two different ones of {available}.")
    parts = [shift_samples(run, [step]).assign(model=side) for side, step in zip(SIDES, (first, last), strict=True)]
    return pd.concat(parts, ignore_index=True)


def summary(table: pd.DataFrame, measures: Sequence[str] | None = None, by: str | None = None) -> pd.DataFrame:
    """Compare both models by measure.

    Args:
        table: result of `samples` or `captured_samples`.
        measures: columns; default: the existing ones of proxy, gold, implicit and length, then the share of each
            verdict that occurs (`verdict: true`, ...).
        by: column to group by, such as `kind`.

    Returns:
        One row per measure (and value of `by`): measure, base, base_low, base_high, aligned, ..., difference, ..., win
        (share of pairs of samples of one prompt in which the aligned model's is higher, a tie counting half), win_low,
        win_high, prompts, samples. Means are over prompts of the mean over their samples; 95 % intervals by bootstrap
        over prompts, or over the people in them, paired for the difference. Prompts to which a reward does
        not apply are left out.

    Raises:
        DataError: a measure is missing, or there are samples of only one model.
    """
    if set(table["model"]) != set(SIDES):
        raise DataError("A comparison needs samples of both models: give the table of `samples` or `captured_samples`.")
    data = table
    if "verdict" in table:
        shares = {f"verdict: {kind}": (table["verdict"] == kind).astype(float) for kind in VERDICTS}
        data = table.assign(**{name: values for name, values in shares.items() if values.any()})
    names = [name for name in map(str, data) if name in MEASURES or name.startswith("verdict: ")]
    columns = list(measures) if measures is not None else sorted(names, key=_order)
    missing = [name for name in columns if name not in data]
    if missing:
        raise DataError(f"The samples have no measure {missing[0]!r}: ask for some of {', '.join(map(str, names))}.")
    rows: list[dict[str, Any]] = []
    for value, group in data.groupby(by, sort=False) if by else [(None, data)]:
        for name in columns:
            row = _compare_measure(group, name)
            if row is not None:
                rows.append({**({} if by is None else {by: value}), "measure": name, **row})
    return pd.DataFrame(rows)


def _compare_measure(table: pd.DataFrame, name: str) -> dict[str, float] | None:
    """Return one row of the summary; None if the measure applies to no prompt of both models."""
    values = table[name].to_numpy(dtype=float)
    groups: dict[Any, Any] = dict(table.groupby(["prompt", "model"], sort=True).indices)
    pairs, people = [], []
    for prompt in sorted(set(table["prompt"])):
        sides = [values[groups.get((prompt, side), np.empty(0, dtype=int))] for side in SIDES]
        base, aligned = (side[~np.isnan(side)] for side in sides)
        if len(base) and len(aligned):
            pairs.append((base, aligned))
            people.append(subject_of(prompt) or prompt)
    if not pairs:
        return None
    before, after = (np.array([side.mean() for side in sides]) for sides in zip(*pairs, strict=True))
    wins = [_win(aligned, base) for base, aligned in pairs]
    quantities = {"base": before, "aligned": after, "difference": after - before, "win": wins}
    bounds = SHARE if name.startswith("verdict: ") else (-1.0, 1.0) if name == "gold" else None
    limits = [bounds, bounds, difference_bounds(bounds), SHARE]
    row: dict[str, float] = {}
    intervals = bootstrap_means(list(quantities.values()), bounds=limits, units=people)
    for key, interval in zip(quantities, intervals, strict=True):
        row |= interval.row(name=key)
    return row | {"prompts": len(pairs), "samples": sum(len(base) + len(aligned) for base, aligned in pairs)}


def _win(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the share of pairs in which the aligned model's value is higher, counting ties half."""
    gap = ours[:, None] - theirs[None, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def _order(name: object) -> tuple[int, int]:
    text = str(name)
    return (0, MEASURES.index(text)) if text in MEASURES else (1, VERDICTS.index(text.removeprefix("verdict: ")))


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=float)
